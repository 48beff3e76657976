"""FastStream's part: its broker connects to the cluster, and its subscription joins a consumer group and leaves it.

No other module knows FastStream. The subscription has no handler, which is how FastStream lets its user read by hand:
a role polls the subscription's consumer in a loop of its own.
"""

from aiokafka import AIOKafkaConsumer, ConsumerRebalanceListener
from faststream import AckPolicy
from faststream.kafka import KafkaBroker
from faststream.security import BaseSecurity, SASLPlaintext, SASLScram256, SASLScram512

from services.shards.arithmetic import Shard

from .assignment import assignor, group_of
from .cluster import METADATA_MAX_AGE_MS, Cluster
from .security import KafkaSecurity

_MOST_BYTES = 4 * 1024 * 1024
_SASL = {"SCRAM-SHA-512": SASLScram512, "SCRAM-SHA-256": SASLScram256, "PLAIN": SASLPlaintext}


class Subscription:
    """Membership in a consumer group that reads one topic, while this is open.

    `listener` is told which partitions of `shard` are assigned. `gather_ms` is how long the broker may wait for more
    records before it answers; 0 takes what is there at once.
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
            auto_offset_reset="none",  # it never goes anywhere else by itself
            isolation_level="read_committed",
            session_timeout_ms=6_000,
            heartbeat_interval_ms=1_000,
            max_partition_fetch_bytes=_MOST_BYTES,
            fetch_min_bytes=_MOST_BYTES if gather_ms else 1,
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
        """The client, which is there when the listener is called first."""
        consumer = self._subscriber.consumer
        assert consumer is not None
        return consumer


def broker_of(cluster: Cluster) -> KafkaBroker:
    """For consumers only. FastStream takes TLS and credentials in a form of its own. Raises SettingsError."""
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
