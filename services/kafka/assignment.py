"""Shares out the partitions of one shard among the members of its consumer group."""

import logging
from collections.abc import Mapping

from aiokafka.cluster import ClusterMetadata
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.assignors.roundrobin import RoundRobinPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from services.shards.arithmetic import Shard

from .topics import other_count

log = logging.getLogger(__name__)


def assignor(shard: Shard) -> type[AbstractPartitionAssignor]:
    """Returns an assignor that shares out the shard's partitions round robin.

    Kafka refuses members of one group whose assignors have different names. The name contains the number of shards, so
    processes that are set to different numbers never share a group.
    """

    class OfShard(RoundRobinPartitionAssignor):
        name = "roundrobin" if shard.alone else f"roundrobin-{shard.number}-of-{shard.count}"

        @classmethod
        def assign(
            cls, cluster: ClusterMetadata, members: Mapping[str, ConsumerProtocolMemberMetadata]
        ) -> dict[str, ConsumerProtocolMemberAssignment]:
            return super().assign(_ShardMetadata(cluster, shard), members)  # type: ignore[arg-type]

    return OfShard


def group_of(name: str, shard: Shard) -> str:
    """Returns the name of the shard's consumer group. Each shard has its own group."""
    return name if shard.alone else f"{name}.{shard.number}-of-{shard.count}"


class _ShardMetadata:
    """Cluster metadata that shows only the partitions of one shard."""

    def __init__(self, cluster: ClusterMetadata, shard: Shard) -> None:
        self._cluster = cluster
        self._shard = shard

    def partitions_for_topic(self, topic: str) -> set[int] | None:
        partitions = self._cluster.partitions_for_topic(topic)
        if partitions is None:
            return None
        if (known := self._shard.total) is not None and len(partitions) > known:
            log.error("added partitions are not read: %s", other_count({topic: len(partitions)}, known))
        return {number for number in partitions if self._shard.has(number)}
