"""How far the relay has published: its own topic, written in the transactions that publish."""

import msgspec

from .cluster import Cluster
from .read_topics import last_value
from .topics import Topics


class Position(msgspec.Struct, frozen=True):
    """The last outcome published, the last event before it, and the last notification, by the store's numbers.

    `timeline` names the history in which those numbers hold: a database that was restored numbers anew. `shards`: among
    how many databases the installation's orders were then.
    """

    outcome_id: int = 0
    event_id: int = 0
    notification_id: int = 0
    timeline: str = ""
    shards: int = 1


async def published(cluster: Cluster, topics: Topics) -> Position:
    """The position of the last committed transaction. Raises KafkaError."""
    value = await last_value(cluster, topics.relay)
    return Position(shards=topics.shard.count) if value is None else msgspec.json.decode(value, type=Position)
