"""A record of a Kafka topic, as this service reads it."""

from collections.abc import Sequence
from dataclasses import dataclass

LOG_APPEND_TIME = 1
"""The type of a timestamp that is the broker's; 0 is the sender's."""


@dataclass(slots=True)
class Record:
    """One record of one partition."""

    topic: str
    partition: int
    offset: int
    timestamp: int
    """Milliseconds since 1970."""
    key: bytes | None
    value: bytes | None
    """What the sender wrote; the raw bytes that were there, if the record cannot be decoded."""
    headers: Sequence[tuple[str, bytes | None]] = ()
    timestamp_type: int = LOG_APPEND_TIME
    undecodable: str = ""
    """Why Kafka's client could not decode the record; empty if it could."""
