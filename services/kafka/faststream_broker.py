"""FastStream's broker for a cluster. It takes TLS and credentials in a form of its own."""

from faststream.kafka import KafkaBroker
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from .cluster import METADATA_MAX_AGE_MS, Cluster
from .security import KafkaSecurity

_SASL = {"SCRAM-SHA-512": SASLScram512, "SCRAM-SHA-256": SASLScram256, "PLAIN": SASLPlaintext}


def broker_of(cluster: Cluster) -> KafkaBroker:
    """For consumers only. Raises SettingsError."""
    return KafkaBroker(
        cluster.servers.split(","),
        security=_security(cluster.security),
        client_id="resolution",
        consumer_only=True,
        request_timeout_ms=cluster.request_timeout_ms,
        metadata_max_age_ms=METADATA_MAX_AGE_MS,
        apply_types=False,
        logger=None,
    )


def _security(security: KafkaSecurity) -> BaseSecurity | None:
    context, tls = security.ssl_context(), security.uses_tls
    if security.uses_sasl:
        return _SASL[security.mechanism](security.username, security.secret(), ssl_context=context, use_ssl=tls)
    return BaseSecurity(ssl_context=context, use_ssl=True) if tls else None
