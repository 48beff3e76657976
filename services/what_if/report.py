"""The result of a what-if: what came out, what would have, and what nobody can know."""

from collections import Counter
from datetime import date
from typing import Any

import msgspec
from resolution_contracts.values import format_instant

from .change import Change
from .comparison import Comparison, Difference
from .history import NotJudged
from .tally import Tally

_EXAMPLES = 5
LIMITS = (
    "People would have acted differently under other terms. This judges only what they sent.",
    "Somebody whose command was refused may have given up. What they would have sent next, nobody knows.",
    "A command that names a dispute or a refund which would not have come about is refused.",
)
"""What a what-if cannot know."""


class Report(msgspec.Struct):
    """What came out, and what would have under other terms, in all shards."""

    change: Change
    orders: int = 0
    """How many orders would have had the other terms."""
    only_other_times: int = 0
    """How many of them would have had the same events at other times."""
    differences: list[Difference] = []
    """Where each order parts that would have come out differently."""
    before: Tally = msgspec.field(default_factory=Tally)
    after: Tally = msgspec.field(default_factory=Tally)
    commands: Counter[tuple[str, str, str]] = msgspec.field(default_factory=Counter)
    """How many commands would have become something else, by name, code before, and code after. No code: accepted."""
    unknown: int = 0
    """How many refused commands were not judged again, because their content has expired."""
    parked: int = 0
    """How many commands are parked, and not judged at all."""
    waiting: int = 0
    """How many commands are not judged yet."""
    retired: int = 0
    """How many events have a retired outcome, so that what was refused beside them is unknown."""

    def add(self, comparison: Comparison, not_judged: NotJudged) -> None:
        """Adds a shard's comparison, which has ended."""
        self.orders += comparison.orders
        self.only_other_times += comparison.only_other_times
        self.differences += comparison.differences
        self.before.add_all(comparison.before)
        self.after.add_all(comparison.after)
        self.commands += comparison.commands
        self.unknown += comparison.unknown
        self.parked += not_judged.parked
        self.waiting += not_judged.waiting
        self.retired += not_judged.retired

    @property
    def days(self) -> list[tuple[date, int, int]]:
        """Disputes accepted automatically by UTC day, before and after. Days without any are left out."""
        before, after = self.before.auto_accepted_by_day, self.after.auto_accepted_by_day
        return [(day, before[day], after[day]) for day in sorted(before.keys() | after.keys())]

    @property
    def examples(self) -> list[Difference]:
        """Some orders that would have come out differently: one for each kind of difference first."""
        kinds: dict[tuple[str, str], Difference] = {}
        for difference in self.differences:
            kinds.setdefault((difference.before, difference.after), difference)
        others = [difference for difference in self.differences if difference not in kinds.values()]
        return [*kinds.values(), *others][:_EXAMPLES]

    def as_dict(self) -> dict[str, Any]:
        """Returns the report for JSON."""
        change = self.change
        return {
            "terms": change.terms,
            "only_orders": {
                "terms_name": change.terms_name,
                "since": change.since and format_instant(change.since),
                "until": change.until and format_instant(change.until),
            },
            "orders": {
                "covered": self.orders,
                "different": len(self.differences),
                "only_other_times": self.only_other_times,
            },
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
            "commands": [
                {"command": name, "before": before or "accepted", "after": after or "accepted", "commands": count}
                for (name, before, after), count in self.commands.most_common()
            ],
            "auto_accepted_by_day": [
                {"day": day.isoformat(), "before": before, "after": after} for day, before, after in self.days
            ],
            "examples": [described(difference) for difference in self.examples],
            "not_judged": {"expired": self.unknown, "parked": self.parked, "waiting": self.waiting},
            "events_with_retired_outcomes": self.retired,
            "cannot_know": LIMITS,
        }


def described(difference: Difference) -> dict[str, str]:
    """Returns a difference for JSON."""
    return msgspec.structs.asdict(difference) | {"at": format_instant(difference.at)}
