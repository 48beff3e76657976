"""The result of a verification of checkpoints: which events were edited, deleted, inserted or reordered."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from .findings import Differences
from .listing import ranges


@dataclass(kw_only=True)
class Tampering(Differences):
    """How much was compared, and what differs."""

    checkpoints: int = 0
    """How many checkpoints were compared."""
    events: int = 0
    """How many events were compared."""
    uncovered: int = 0
    """How many events are newer than the last checkpoint."""
    last_checkpoint: int = 0
    """The number of the last checkpoint."""
    last_event: int = 0
    """The last event that it covers."""
    last_at: str | None = None
    """When it was signed, in real time."""


class Mismatch(msgspec.Struct):
    """A checkpoint that does not fit its events."""

    number: int
    """The checkpoint's number."""
    first: int
    """Its first event."""
    last: int
    """Its last event."""
    lost: dict[int, bytes]
    """The tags of signed events that the store does not have, by event number. Empty if they were not compared."""
    strange: list[tuple[int, bytes]]
    """Number and tag of events that the store has, but that were not signed. Empty if they were not compared."""


def explain(mismatches: Sequence[Mismatch]) -> Iterable[str]:
    """Yields a sentence for each mismatch. An event that is lost at one number and strange at another was reordered."""
    lost = {tag for mismatch in mismatches for tag in mismatch.lost.values()}
    strange = {tag for mismatch in mismatches for _, tag in mismatch.strange}
    for mismatch in mismatches:
        gone = {number for number, tag in mismatch.lost.items() if tag not in strange}
        new = {number for number, tag in mismatch.strange if tag not in lost}
        moved = {number for number, tag in mismatch.strange if tag in lost}
        changes = [
            f"{ranges('event', sorted(numbers))} {what}"
            for numbers, what in (
                (gone & new, "edited"),
                (gone - new, "deleted"),
                (new - gone, "inserted"),
                (moved, "put in another order"),
            )
            if numbers
        ]
        where = ranges("event", range(mismatch.first, mismatch.last + 1))
        yield f"checkpoint {mismatch.number} does not fit {where}" + (f": {'; '.join(changes)}" if changes else "")
