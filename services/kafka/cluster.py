"""The Kafka cluster's address, timeouts, TLS and credentials.

Every producer, consumer and admin client takes its options from here. `faststream_adapter.py` passes them to
FastStream.
"""

from dataclasses import dataclass
from typing import Any

from resolution_contracts.closed_connections import notice_closed_connections

from .hung_brokers import give_up_on_hung_brokers
from .record_batches import read_whatever_senders_write
from .security import PLAINTEXT, KafkaSecurity
from .stop_consumer import stop_without_cancelling

give_up_on_hung_brokers()
notice_closed_connections()
read_whatever_senders_write()
stop_without_cancelling()

REQUEST_TIMEOUT_MS = 10_000
"""Must exceed the slowest answer of a working broker. A produce request waits for all in-sync replicas, which takes
up to 9 s while one of them hangs; a fetch waits at most 0.5 s."""

SHORTEST_REQUEST_TIMEOUT_MS = 7_000
"""Must exceed the session timeout of 6 s: a join request is answered when all members have joined or timed out."""

METADATA_MAX_AGE_MS = 10_000
"""How long a client trusts its metadata about partitions and leaders while no request fails."""


@dataclass(frozen=True)
class Cluster:
    """Where the Kafka cluster is and how clients connect to it."""

    servers: str
    """Bootstrap servers, separated by commas."""
    security: KafkaSecurity = PLAINTEXT
    request_timeout_ms: int = REQUEST_TIMEOUT_MS

    @property
    def options(self) -> dict[str, Any]:
        """Returns the keyword arguments for aiokafka's clients and for the client of `resolution_contracts`.

        Raises SettingsError.
        """
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
