"""Which of several databases has what. An order is in one partition of the topics, and so in one shard.

Shard = partition mod number of databases. All that is stored of an order lies in its shard, so that no transaction
spans two. Each shard is a whole by itself: its own event store, outcomes, positions, read models, relay.
"""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Shard:
    """A database by its place in RESOLUTION_DATABASE_URL: `number`, from 0, of `count`."""

    number: int = 0
    count: int = 1
    total: int | None = field(default=None, compare=False)
    """How many partitions each topic has, as the database knows it; None before it was asked.

    Partitions that are added later are nobody's: an order would change its partition with them.
    """

    @classmethod
    def of(cls, partition: int, count: int) -> "Shard":
        """The one that has a partition."""
        return cls(partition % count, count)

    def has(self, partition: int) -> bool:
        """Whether a partition is one of this shard."""
        return partition % self.count == self.number and (self.total is None or partition < self.total)

    def partitions(self, total: int) -> list[int]:
        """Its partitions, of `total`."""
        return list(range(self.number, total, self.count))

    @property
    def suffix(self) -> str:
        """Behind the names of topics of its own. The first shard's are those of an installation with one database."""
        return f".{self.number}" if self.number else ""

    def folder(self, of_all: Path) -> Path:
        """Where its files go, beside those of the others."""
        return of_all if self.alone else of_all / f"shard={self.number}"

    @property
    def prefix(self) -> str:
        """Before what is said of it, where there are several."""
        return "" if self.alone else f"{self}: "

    @property
    def alone(self) -> bool:
        """Whether it has everything."""
        return self.count == 1

    @property
    def label(self) -> dict[str, int]:
        """What machine-readable output says of which shard it is about; nothing where there is one."""
        return {} if self.alone else {"shard": self.number}

    def __str__(self) -> str:
        return f"shard {self.number} of {self.count}"


ALONE = Shard()
"""The only database there is."""
