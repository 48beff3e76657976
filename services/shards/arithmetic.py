"""Computes which of several databases has which orders.

The shard of an order is its partition mod the number of databases. All that is stored about an order is in its shard,
so that no transaction spans two databases. Each shard is complete: it has its own event store, outcomes, positions,
read models and relay.
"""

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Shard:
    """A database: the one with index `number`, from 0, of the `count` databases in RESOLUTION_DATABASE_URL."""

    number: int = 0
    count: int = 1
    total: int | None = field(default=None, compare=False)
    """How many partitions each topic has according to the database; None if nobody has asked it yet.

    Partitions that are added later belong to no shard, because orders would move to them.
    """

    @classmethod
    def of(cls, partition: int, count: int) -> "Shard":
        """Returns the shard of a partition."""
        return cls(partition % count, count)

    def has(self, partition: int) -> bool:
        """Whether a partition belongs to this shard."""
        return partition % self.count == self.number and (self.total is None or partition < self.total)

    def partitions(self, total: int) -> list[int]:
        """Returns the shard's partitions, of `total`, in ascending order."""
        return list(range(self.number, total, self.count))

    @property
    def suffix(self) -> str:
        """What the names of the shard's own topics end with. Empty for the first shard, as with one database."""
        return f".{self.number}" if self.number else ""

    def folder(self, of_all: Path) -> Path:
        """Returns the folder for the shard's files in the folder `of_all` shards."""
        return of_all if self.alone else of_all / f"shard={self.number}"

    @property
    def prefix(self) -> str:
        """What sentences about the shard begin with. Empty if there is only one."""
        return "" if self.alone else f"{self}: "

    @property
    def alone(self) -> bool:
        """Whether there is only one database."""
        return self.count == 1

    @property
    def label(self) -> dict[str, int]:
        """The field that names the shard in JSON output. Empty if there is only one."""
        return {} if self.alone else {"shard": self.number}

    def __str__(self) -> str:
        return f"shard {self.number} of {self.count}"


ALONE = Shard()
"""The only database there is."""
