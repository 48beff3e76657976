"""The Kafka cluster: where it is, and what every client of ours is made with.

Producers, consumers and admin clients take their address, timeouts, TLS and credentials from here alone.
faststream_adapter.py hands them to FastStream.
"""

from dataclasses import dataclass
from typing import Any

from .hung_brokers import give_up_on_hung_brokers
from .record_batches import read_whatever_senders_write
from .security import PLAINTEXT, KafkaSecurity
from .stop_consumer import stop_without_cancelling

give_up_on_hung_brokers()
read_whatever_senders_write()
stop_without_cancelling()

REQUEST_TIMEOUT_MS = 10_000
"""A fetch waits half a second at most, and an append until all copies in sync have it: 9 s where one of them hangs."""

SHORTEST_REQUEST_TIMEOUT_MS = 7_000
"""Whoever joins a consumer group is answered when all its members have joined, or after their session's 6 s."""

METADATA_MAX_AGE_MS = 10_000
"""How long a client goes on with what it knows of partitions and their leaders, when no request has failed."""


@dataclass(frozen=True)
class Cluster:
    """`servers`: bootstrap servers, separated by commas."""

    servers: str
    security: KafkaSecurity = PLAINTEXT
    request_timeout_ms: int = REQUEST_TIMEOUT_MS

    @property
    def options(self) -> dict[str, Any]:
        """What each of aiokafka's clients is given, and that of resolution_contracts. Raises SettingsError."""
        security = self.security
        options: dict[str, Any] = {
            "bootstrap_servers": self.servers,
            "request_timeout_ms": self.request_timeout_ms,
            "metadata_max_age_ms": METADATA_MAX_AGE_MS,
        }
        if security.protocol != "PLAINTEXT":
            options |= {"security_protocol": security.protocol, "ssl_context": security.ssl_context()}
        if security.uses_sasl:
            options |= {
                "sasl_mechanism": security.mechanism,
                "sasl_plain_username": security.username,
                "sasl_plain_password": security.secret(),
            }
        return options
