"""Connects to the cluster and joins consumer groups through FastStream. No other module imports FastStream.

The subscription has no handler, so FastStream does not read by itself. A role polls the subscription's consumer in its
own loop.
"""

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from services.shards.arithmetic import Shard

from .assignment import assignor, group_of
from .cluster import METADATA_MAX_AGE_MS, Cluster
from .security import KafkaSecurity

_FETCH_BYTES = 4 * 1024 * 1024
_SASL = {"SCRAM-SHA-512": SASLScram512, "SCRAM-SHA-256": SASLScram256, "PLAIN": SASLPlaintext}


class Subscription:
    """Membership in a consumer group that reads one topic. Entering joins the group, leaving leaves it.

    `listener` is called with the partitions of `shard` that are assigned. `gather_ms` is how long the broker may wait
    for more records before it answers; with 0 it answers at once.
    """

    def __init__(
        self,
        cluster: Cluster,
        topic: str,
        *,
        group: str,
        shard: Shard,
        listener: ConsumerRebalanceListener,
        gather_ms: int,
    ) -> None:
        self._broker = broker_of(cluster)
        self._subscriber = self._broker.subscriber(
            topic,
            group_id=group_of(group, shard),
            partition_assignment_strategy=(assignor(shard),),
            listener=listener,
            ack_policy=AckPolicy.MANUAL,
            auto_offset_reset="none",  # the consumer alone decides where to read
            isolation_level="read_committed",
            session_timeout_ms=6_000,
            heartbeat_interval_ms=1_000,
            max_partition_fetch_bytes=_FETCH_BYTES,
            fetch_min_bytes=_FETCH_BYTES if gather_ms else 1,
            fetch_max_wait_ms=gather_ms or 500,
        )

    async def __aenter__(self) -> None:
        """Raises KafkaError."""
        try:
            await self._broker.start()
        except BaseException:
            await self._broker.stop()
            raise

    async def __aexit__(self, *_: object) -> None:
        await self._broker.stop()

    @property
    def consumer(self) -> AIOKafkaConsumer:
        """The client. It exists from the listener's first call on."""
        consumer = self._subscriber.consumer
        assert consumer is not None
        return consumer


def broker_of(cluster: Cluster) -> KafkaBroker:
    """Returns FastStream's broker object for the cluster, which serves consumers only. Raises SettingsError."""
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
