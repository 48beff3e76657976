"""A stored event, whoever has it: the library's `StoredEvent`, or the row that is made where there are many."""

from typing import Any, Protocol

import msgspec


class Stored(Protocol):
    """Order, number, type, content."""

    @property
    def originator_id(self) -> Any: ...
    @property
    def originator_version(self) -> int: ...
    @property
    def topic(self) -> str: ...
    @property
    def state(self) -> bytes: ...


class StoredRow(msgspec.Struct, gc=False):
    """Of `order_events`. Made in a fraction of the time that the library's frozen dataclass takes."""

    originator_id: str
    originator_version: int
    topic: str
    state: bytes
