"""The Kafka cluster: where it is, and what every client of ours is made with.

Producers, consumers and admin clients take their address, TLS and credentials from here alone; FastStream's broker is
made in broker.py.
"""

from dataclasses import dataclass
from typing import Any

from . import record_batches as _record_batches  # noqa: F401  makes every consumer survive what senders write
from .security import PLAINTEXT, KafkaSecurity


@dataclass(frozen=True)
class Cluster:
    """`servers`: bootstrap servers, separated by commas."""

    servers: str
    security: KafkaSecurity = PLAINTEXT

    @property
    def options(self) -> dict[str, Any]:
        """What each of aiokafka's clients is given, and that of resolution_contracts. Raises SettingsError."""
        security = self.security
        options: dict[str, Any] = {"bootstrap_servers": self.servers}
        if security.protocol != "PLAINTEXT":
            options |= {"security_protocol": security.protocol, "ssl_context": security.ssl_context()}
        if security.uses_sasl:
            options |= {
                "sasl_mechanism": security.mechanism,
                "sasl_plain_username": security.username,
                "sasl_plain_password": security.secret(),
            }
        return options
