"""What a verification of checkpoints has to say: what was edited, deleted, inserted, or put in another order."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import msgspec

from .findings import Differences
from .listing import ranges


@dataclass(kw_only=True)
class Tampering(Differences):
    """How much was compared, and what differs.

    `uncovered`: events after those of the last checkpoint. `last_at`: when that was written, in real time.
    """

    checkpoints: int = 0
    events: int = 0
    uncovered: int = 0
    last_checkpoint: int = 0
    last_event: int = 0
    last_at: str | None = None


class Mismatch(msgspec.Struct):
    """A checkpoint that does not fit its events, `first` to `last`.

    `lost`: by the number of an event that is not there as it was, its tag. `strange`: number and tag of those that are
    there and were not. Both are empty where the single events were not told apart.
    """

    number: int
    first: int
    last: int
    lost: dict[int, bytes]
    strange: list[tuple[int, bytes]]


def explain(mismatches: Sequence[Mismatch]) -> Iterable[str]:
    """A sentence for each: an event that is lost in one place and strange in another has changed its place."""
    lost = {tag for mismatch in mismatches for tag in mismatch.lost.values()}
    strange = {tag for mismatch in mismatches for _, tag in mismatch.strange}
    for mismatch in mismatches:
        gone = {number for number, tag in mismatch.lost.items() if tag not in strange}
        new = {number for number, tag in mismatch.strange if tag not in lost}
        moved = {number for number, tag in mismatch.strange if tag in lost}
        told = [
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
        yield f"checkpoint {mismatch.number} does not fit {where}" + (f": {'; '.join(told)}" if told else "")
