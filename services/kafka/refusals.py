"""Remembers why brokers refused connections: aiokafka's clients only say that they found no broker.

What is remembered here will not mend itself: somebody has to change credentials, certificates or settings.
"""

from collections.abc import Callable
from ssl import SSLCertVerificationError
from typing import Any

from aiokafka.conn import AIOKafkaConnection
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

_Address = tuple[str, int]
_reasons: dict[_Address, str] = {}
_connect: Callable[..., Any] = AIOKafkaConnection.connect


def remember_refusals() -> None:
    """Changes aiokafka's connections, for all clients of this process."""
    global _connect
    _connect = AIOKafkaConnection.connect
    AIOKafkaConnection.connect = _connect_and_remember  # type: ignore[method-assign]


def refusal_of_broker(error: Exception) -> str | None:
    """A sentence on why no broker takes a connection, if that will not change until somebody changes something."""
    if not isinstance(error, KafkaConnectionError) or not _reasons:
        return None
    return (
        f"Kafka refuses the connection: {next(iter(_reasons.values()))}. Waiting does not help: correct "
        "RESOLUTION_KAFKA_SERVERS and what RESOLUTION_KAFKA_* says of TLS and SASL, or the brokers."
    )


async def _connect_and_remember(connection: AIOKafkaConnection) -> Any:
    address = connection.host, connection.port
    try:
        streams = await _connect(connection)
    except (SaslAuthenticationFailed, UnsupportedSaslMechanismError, IllegalSaslStateError) as error:
        _reasons[address] = str(error).partition(": ")[2].removesuffix(".")
        raise
    except SSLCertVerificationError as error:
        _reasons[address] = f"certificate verify failed: {error.verify_message}"
        raise
    _reasons.pop(address, None)
    return streams
