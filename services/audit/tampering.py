"""What a verification of checkpoints has to say: what was edited, deleted, inserted, or put in another order."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import msgspec

from .sentences import ranges

_MOST = 10_000


@dataclass
class Tampering:
    """How much was compared, and each difference in a sentence; without values, which may be confidential (D16).

    `uncovered`: events after those of the last checkpoint. `last_at`: when that was written, in real time.
    """

    checkpoints: int = 0
    events: int = 0
    uncovered: int = 0
    last_checkpoint: int = 0
    last_event: int = 0
    last_at: str | None = None
    different: int = 0
    differences: list[str] = field(default_factory=list)

    def differs(self, what: str) -> None:
        """The first 10,000 are kept."""
        self.different += 1
        if len(self.differences) < _MOST:
            self.differences.append(what)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


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
