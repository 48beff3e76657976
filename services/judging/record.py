"""A record of a Kafka topic, as this service reads it."""

from collections.abc import Sequence
from dataclasses import dataclass

LOG_APPEND_TIME = 1
"""The `timestamp_type` of a timestamp that the broker set. 0 means that the sender set it."""


@dataclass(slots=True)
class Record:
    """One record of one partition."""

    topic: str
    """The topic's name."""
    partition: int
    """The number of the partition."""
    offset: int
    """The offset in the partition, as the event store counts it: after `renew-topics` it is not Kafka's own."""
    timestamp: int
    """Milliseconds since 1970."""
    key: bytes | None
    """What the sender wrote; None if the record has no key."""
    value: bytes | None
    """What the sender wrote; the raw bytes, if the record cannot be decoded."""
    headers: Sequence[tuple[str, bytes | None]] = ()
    """Name and value of each header, in the sender's order."""
    timestamp_type: int = LOG_APPEND_TIME
    """Who set the timestamp: the broker or the sender."""
    undecodable: str = ""
    """Why Kafka's client could not decode the record; empty if it could."""
