"""Remembers why brokers refused connections: aiokafka's clients only say that they found no broker.

What is remembered here will not mend itself: somebody has to change credentials, certificates or settings.
"""

from ssl import SSLCertVerificationError

from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaConnectionError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)

Address = tuple[str, int]
"""A broker's host and port."""
_reasons: dict[Address, str] = {}


def note_refusal(address: Address, error: Exception | None) -> None:
    """Takes note of how an attempt to connect to a broker ended; `error` is None if it connected."""
    if isinstance(error, SaslAuthenticationFailed | UnsupportedSaslMechanismError | IllegalSaslStateError):
        _reasons[address] = str(error).partition(": ")[2].removesuffix(".")
    elif isinstance(error, SSLCertVerificationError):
        _reasons[address] = f"certificate verify failed: {error.verify_message}"
    elif error is None:
        _reasons.pop(address, None)


def refusal_of_broker(error: Exception) -> str | None:
    """A sentence on why no broker takes a connection, if that will not change until somebody changes something."""
    if not isinstance(error, KafkaConnectionError) or not _reasons:
        return None
    return (
        f"Kafka refuses the connection: {next(iter(_reasons.values()))}. Waiting does not help: correct "
        "RESOLUTION_KAFKA_SERVERS and what RESOLUTION_KAFKA_* says of TLS and SASL, or the brokers."
    )
