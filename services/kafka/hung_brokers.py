"""Makes all clients of the process give up on a hung broker together.

The kernel of a hung broker still accepts connections and data, so aiokafka notices only when a request times out. It
notices on each connection separately: on a producer's connection to the partition leader, then on its connection to
the coordinator, then in the next client. New connections are made one at a time, and the first request on each times
out as well. That added up to several request timeouts.

This module changes two things. The first request that times out closes all connections to that broker. And connecting
has a shorter timeout of its own; after it, no client connects to that broker for a few seconds. Meanwhile the clients
ask another broker who leads the partitions now. A broker that was only slow is connected to again at once.
"""

import asyncio
from collections import defaultdict
from collections.abc import Callable
from time import monotonic
from typing import Any
from weakref import WeakSet

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

from .refusals import Address, note_refusal

_CONNECT_SECONDS = 3.0
"""Long enough for TLS and SASL, because a working broker answers each of their steps at once."""

_AVOID_SECONDS = 3.0

_connections: defaultdict[Address, "WeakSet[AIOKafkaConnection]"] = defaultdict(WeakSet)
_avoided_until: dict[Address, float] = {}
_connect: Callable[..., Any] = AIOKafkaConnection.connect
_close: Callable[..., Any] = AIOKafkaConnection.close


def give_up_on_hung_brokers() -> None:
    """Patches aiokafka's connections, for all clients of this process."""
    AIOKafkaConnection.connect = _connect_within_bound  # type: ignore[method-assign]
    AIOKafkaConnection.close = _close_with_others  # type: ignore[method-assign]


async def _connect_within_bound(connection: AIOKafkaConnection) -> Any:
    """Raises KafkaConnectionError, TimeoutError or OSError. After each of them aiokafka tries another broker."""
    address = _address(connection)
    if monotonic() < _avoided_until.get(address, 0.0):
        raise KafkaConnectionError(f"{connection.host}:{connection.port} did not answer a moment ago")
    try:
        async with asyncio.timeout(_CONNECT_SECONDS):
            streams = await _connect(connection)
    except TimeoutError:
        _avoided_until[address] = monotonic() + _AVOID_SECONDS
        raise
    except Exception as error:
        note_refusal(address, error)
        raise
    note_refusal(address, None)
    _connections[address].add(connection)
    return streams


def _close_with_others(
    connection: AIOKafkaConnection, reason: CloseReason | None = None, exc: BaseException | None = None
) -> Any:
    closed = _close(connection, reason, exc)
    if reason is CloseReason.CONNECTION_TIMEOUT:
        for other in list(_connections.pop(_address(connection), ())):
            if other._loop is connection._loop:
                # The connection's requests fail, and its client asks for the new leaders.
                _close(other, CloseReason.CONNECTION_BROKEN)
    return closed


def _address(connection: AIOKafkaConnection) -> Address:
    return connection.host, connection.port
