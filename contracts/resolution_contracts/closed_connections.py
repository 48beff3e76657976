"""Makes aiokafka's clients connect again when uvloop has closed a connection.

If the broker resets a connection, uvloop closes it at once, and aiokafka learns of it a moment later. A request in
between raises RuntimeError, which aiokafka does not expect: the task that made the request ends for good.
So a consumer could stay in its group, and read nothing any more. asyncio's own event loop does not raise.
"""

from collections.abc import Callable
from typing import Any

from aiokafka.conn import AIOKafkaConnection, CloseReason
from aiokafka.errors import KafkaConnectionError

_send: Callable[..., Any] = AIOKafkaConnection.send


def notice_closed_connections() -> None:
    """Patches aiokafka's connections, for all clients of this process."""
    AIOKafkaConnection.send = _send_if_open  # type: ignore[method-assign]


def _send_if_open(connection: AIOKafkaConnection, request: Any, expect_response: bool = True) -> Any:
    """Raises KafkaConnectionError, as aiokafka does for a connection of which it knows that it is lost."""
    if connection._writer is not None and connection._writer.is_closing():
        connection.close(CloseReason.CONNECTION_BROKEN)
        raise KafkaConnectionError(f"the connection to {connection.host}:{connection.port} was closed")
    return _send(connection, request, expect_response)
