"""A broker that hangs is given up on once, by all clients of the process.

Its kernel still takes connections and data, so that aiokafka finds out only when a request times out, on each
connection by itself: a producer to its partitions' leader, then to its coordinator, then the next client. New
connections are made one at a time, and the first request on each times out as well. Together that was several times the
request's timeout.

Here the first request that times out ends all connections to that broker. Connecting to one has a shorter bound of its
own, and where it runs out nobody tries again for a moment: whoever asks another broker learns meanwhile who leads the
partitions now. A broker that was only slow, or waited for a copy on one that hangs, is connected to again at once.
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
"""Enough for TLS and SASL: a broker that works answers each of their steps at once."""

_AVOID_SECONDS = 3.0

_connections: defaultdict[Address, "WeakSet[AIOKafkaConnection]"] = defaultdict(WeakSet)
_avoided_until: dict[Address, float] = {}
_connect: Callable[..., Any] = AIOKafkaConnection.connect
_close: Callable[..., Any] = AIOKafkaConnection.close


def give_up_on_hung_brokers() -> None:
    """Changes aiokafka's connections, for all clients of this process."""
    AIOKafkaConnection.connect = _connect_soon  # type: ignore[method-assign]
    AIOKafkaConnection.close = _close_with_others  # type: ignore[method-assign]


async def _connect_soon(connection: AIOKafkaConnection) -> Any:
    """Raises KafkaConnectionError, TimeoutError and OSError: aiokafka goes on with another broker after each."""
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
                _close(other, CloseReason.CONNECTION_BROKEN)  # its requests fail, and its client asks who leads now
    return closed


def _address(connection: AIOKafkaConnection) -> Address:
    return connection.host, connection.port
