"""What a verification has to say."""

from dataclasses import asdict, dataclass, field
from typing import Any

from services.shards.arithmetic import Shard

_MOST = 10_000


@dataclass(kw_only=True)
class Differences:
    """`differences`: the first 10,000 of `different`, each in a sentence; without values, which may be confidential
    (D16)."""

    different: int = 0
    differences: list[str] = field(default_factory=list)

    def differs(self, what: str) -> None:
        """Counts a difference, and keeps its description if there is room for it."""
        self.different += 1
        if len(self.differences) < _MOST:
            self.differences.append(what)

    def note(self, other: "Differences") -> None:
        """Adds what differs there."""
        self.different += other.different
        self.differences += other.differences[: _MOST - len(self.differences)]

    def in_shard(self, shard: Shard) -> None:
        """Where there are several, says of what differs in which it is."""
        if not shard.alone:
            self.differences = [f"{shard}: {difference}" for difference in self.differences]

    def as_dict(self) -> dict[str, Any]:
        """All counts and differences by name, for JSON."""
        return asdict(self)


@dataclass(kw_only=True)
class Findings(Differences):
    """What was compared, and what differs.

    `unpublished`: outcomes that lie ahead of the relay. `expired`: those whose commands have left the topic, or repeat
    what was retired, so that only the numbers of their events were checked. `retired`: events whose outcomes were
    retired, so that they were followed without them. `outgrown`: dead letters that an earlier version could not read,
    and this one can.
    """

    outcomes: int = 0
    events: int = 0
    dead_letters: int = 0
    parked: int = 0
    unpublished: int = 0
    expired: int = 0
    retired: int = 0
    outgrown: int = 0
    deadlines: int = 0
    read_models: int = 0
    snapshots: int = 0

    def add(self, other: dict[str, Any]) -> None:
        """Adds another's, as `as_dict` gave them."""
        for name, value in other.items():
            if name == "differences":
                self.differences += value[: _MOST - len(self.differences)]
            else:
                setattr(self, name, getattr(self, name) + value)
