"""Asks the brokers which producers have a transaction open in a partition.

Brokers answer this since Kafka 2.8. aiokafka does not ask it, so this module defines the request.
"""

import logging
from collections import defaultdict
from collections.abc import Collection
from typing import Any

from aiokafka import TopicPartition
from aiokafka.client import AIOKafkaClient
from aiokafka.errors import LeaderNotAvailableError, NoError, TopicAuthorizationFailedError, for_code
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import CompactArray, CompactString, Int16, Int32, Int64, Schema, TaggedFields

log = logging.getLogger(__name__)

_TEXT, _TAGS = CompactString("utf-8"), ("tags", TaggedFields)
_NONE_OPEN = -1


class _Response(Response):
    API_KEY = 61
    API_VERSION = 0
    SCHEMA = Schema(
        ("throttle_time_ms", Int32),
        (
            "topics",
            CompactArray(
                ("name", _TEXT),
                (
                    "partitions",
                    CompactArray(
                        ("partition", Int32),
                        ("error_code", Int16),
                        ("error_message", _TEXT),
                        (
                            "producers",
                            CompactArray(
                                ("producer_id", Int64),
                                ("producer_epoch", Int32),
                                ("last_sequence", Int32),
                                ("last_timestamp", Int64),
                                ("coordinator_epoch", Int32),
                                ("transaction_start", Int64),
                                _TAGS,
                            ),
                        ),
                        _TAGS,
                    ),
                ),
                _TAGS,
            ),
        ),
        _TAGS,
    )


class _RequestStruct(RequestStruct):
    FLEXIBLE_VERSION = True
    API_KEY = 61
    API_VERSION = 0
    RESPONSE_TYPE = _Response
    SCHEMA = Schema(("topics", CompactArray(("name", _TEXT), ("partitions", CompactArray(Int32)), _TAGS)), _TAGS)


class _Request(Request[_RequestStruct]):
    API_KEY = 61

    def __init__(self, partitions: Collection[TopicPartition]) -> None:
        self._topics: defaultdict[str, list[int]] = defaultdict(list)
        for where in partitions:
            self._topics[where.topic].append(where.partition)

    def build(self, request_struct_class: type[_RequestStruct]) -> _RequestStruct:
        return request_struct_class([(topic, numbers, {}) for topic, numbers in self._topics.items()], {})


async def open_transactions(
    client: AIOKafkaClient, partitions: Collection[TopicPartition]
) -> dict[TopicPartition, dict[int, int]]:
    """Returns, by partition, the ids of producers with an open transaction and its first offset. Raises KafkaError.

    Leaves out partitions of topics that this client may not read, and logs their names.
    """
    for topic in {where.topic for where in partitions}:
        client.add_topic(topic)
    await client.force_metadata_update()
    by_leader: defaultdict[int, list[TopicPartition]] = defaultdict(list)
    for where in partitions:
        leader = client.cluster.leader_for_partition(where)
        if leader is None or leader < 0:
            raise LeaderNotAvailableError(f"{where.topic}/{where.partition} has no leader")
        by_leader[leader].append(where)
    open_in: dict[TopicPartition, dict[int, int]] = {}
    unreadable: set[str] = set()
    for leader, led in by_leader.items():
        response = (await client.send(leader, _Request(led))).to_object()
        for topic in response["topics"]:
            for partition in topic["partitions"]:
                where = TopicPartition(topic["name"], partition["partition"])
                error = for_code(partition["error_code"])
                if error is TopicAuthorizationFailedError:  # ACLs of an earlier release did not allow it
                    unreadable.add(where.topic)
                elif error is not NoError:
                    raise error(f"{where.topic}/{where.partition}")
                else:
                    open_in[where] = _in_transactions(partition["producers"])
    if unreadable:
        log.warning(
            "whether Kafka ended a transaction in part cannot be seen on %s: allow this client to read there",
            ", ".join(sorted(unreadable)),
        )
    return open_in


def _in_transactions(producers: list[dict[str, Any]]) -> dict[int, int]:
    starts = {producer["producer_id"]: producer["transaction_start"] for producer in producers}
    return {producer: start for producer, start in starts.items() if start != _NONE_OPEN}
