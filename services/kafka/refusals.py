"""Remembers why brokers refused connections, because aiokafka's clients only say that they found no broker.

Only reasons that waiting cannot cure are remembered: somebody has to change credentials, certificates or settings.
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
    """Remembers how an attempt to connect to a broker ended. `error` is None if the client connected."""
    if isinstance(error, SaslAuthenticationFailed | UnsupportedSaslMechanismError | IllegalSaslStateError):
        _reasons[address] = str(error).partition(": ")[2].removesuffix(".")
    elif isinstance(error, SSLCertVerificationError):
        _reasons[address] = f"certificate verify failed: {error.verify_message}"
    elif error is None:
        _reasons.pop(address, None)


def refusal_of_broker(error: Exception) -> str | None:
    """Returns a sentence that says why brokers refuse connections, or None if waiting may help."""
    if not isinstance(error, KafkaConnectionError) or not _reasons:
        return None
    return (
        f"Kafka refuses the connection: {next(iter(_reasons.values()))}. Waiting does not help: correct "
        "RESOLUTION_KAFKA_SERVERS and what RESOLUTION_KAFKA_* says of TLS and SASL, or the brokers."
    )
