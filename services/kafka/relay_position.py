"""The relay's position: how far it has published. The relay writes it to its own topic, in its transactions."""

import msgspec

from .cluster import Cluster
from .read_topics import last_value
from .topics import Topics


class Position(msgspec.Struct, frozen=True):
    """The numbers of what the relay published last. All numbers are the store's."""

    outcome_id: int = 0
    """The last published outcome."""
    event_id: int = 0
    """The last published event."""
    notification_id: int = 0
    """The last published notification."""
    timeline: str = ""
    """The history of the store that the numbers belong to. A restored database gives the same numbers again."""
    shards: int = 1
    """How many databases the installation had then."""


async def published(cluster: Cluster, topics: Topics) -> Position:
    """Returns the position of the relay's last committed transaction. Raises KafkaError."""
    value = await last_value(cluster, topics.relay)
    return Position(shards=topics.shard.count) if value is None else msgspec.json.decode(value, type=Position)
