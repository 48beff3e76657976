"""The result of a verification."""

from dataclasses import asdict, dataclass, field
from typing import Any

from services.shards.arithmetic import Shard

_MAX_DIFFERENCES = 10_000


@dataclass(kw_only=True)
class Differences:
    """What differs. No sentence has a value of an event, which may be confidential (D16)."""

    different: int = 0
    """How many differences there are."""
    differences: list[str] = field(default_factory=list)
    """The first 10,000 of them, each as a sentence."""

    def differs(self, what: str) -> None:
        """Counts a difference, and keeps its description if there is room for it."""
        self.different += 1
        if len(self.differences) < _MAX_DIFFERENCES:
            self.differences.append(what)

    def note(self, other: "Differences") -> None:
        """Adds another result's differences."""
        self.different += other.different
        self.differences += other.differences[: _MAX_DIFFERENCES - len(self.differences)]

    def in_shard(self, shard: Shard) -> None:
        """Puts the shard's name before each sentence, if there are several shards."""
        if not shard.alone:
            self.differences = [f"{shard}: {difference}" for difference in self.differences]

    def as_dict(self) -> dict[str, Any]:
        """Returns all fields by name, for JSON."""
        return asdict(self)


@dataclass(kw_only=True)
class Findings(Differences):
    """How much was compared, and what differs."""

    outcomes: int = 0
    """How many outcomes were compared."""
    events: int = 0
    """How many events were compared."""
    dead_letters: int = 0
    """How many dead letters were compared."""
    parked: int = 0
    """How many commands are parked, so that they have no outcome yet."""
    unpublished: int = 0
    """How many outcomes the relay has not published yet."""
    expired: int = 0
    """Outcomes whose commands have left the topic, or repeat retired ones: only their events' numbers were checked."""
    retired: int = 0
    """How many events have a retired outcome, so that they were followed without it."""
    outgrown: int = 0
    """How many dead letters an earlier version could not read, and this version can."""
    deadlines: int = 0
    """How many of the timer's deadlines were compared."""
    read_models: int = 0
    """How many read models were compared."""
    snapshots: int = 0
    """How many snapshots were compared."""

    def add(self, other: dict[str, Any]) -> None:
        """Adds another result, as `as_dict` returned it."""
        for name, value in other.items():
            if name == "differences":
                self.differences += value[: _MAX_DIFFERENCES - len(self.differences)]
            else:
                setattr(self, name, getattr(self, name) + value)
