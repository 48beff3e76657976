"""What was one database once, and is several now: together they have each number that was given before, once."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from services.eventstore.database import connect, fetch_value
from services.retention.months import read_retired
from services.settings import Settings
from services.shards.identity import Split, shard_identity

from .findings import Differences


@dataclass
class _Region:
    """Numbers that one database gave before a split, and where their rows are now; up to outcome `retired` some are
    gone."""

    events: range
    outcomes: range
    urls: list[str] = field(default_factory=list)
    retired: int = 0


def verify_splits(shards: Sequence[Settings], findings: Differences) -> None:
    """Counts the rows of before each split, in all shards that came from it. Raises psycopg.Error."""
    for region in _regions(shards).values():
        region.outcomes = range(max(region.outcomes.start, region.retired + 1), region.outcomes.stop)
        counts = [_count(url, region) for url in region.urls]
        for what, numbers, found in zip(
            ("events", "outcomes"), (region.events, region.outcomes), map(sum, zip(*counts, strict=True)), strict=True
        ):
            if found != len(numbers):
                findings.differs(
                    f"{what} {numbers.start} to {numbers.stop - 1} were stored before the database was split; of these "
                    f"{len(numbers):,} its shards have {found:,}"
                )


def _regions(shards: Sequence[Settings]) -> dict[tuple[int, int], _Region]:
    """By the number of databases that there were, and which of them it was."""
    found: dict[tuple[int, int], _Region] = {}
    for one in shards:
        with connect(one.database) as connection:
            splits, retired = shard_identity(connection).splits, read_retired(connection).outcome_id
        before = Split()
        for split in splits:
            events = range(before.event_id + 1, split.event_id + 1)
            outcomes = range(before.outcome_id + 1, split.outcome_id + 1)
            region = found.setdefault((split.count, one.shard.number % split.count), _Region(events, outcomes))
            region.urls.append(one.database)
            region.retired = max(region.retired, retired)
            before = split
    return found


def _count(url: str, region: _Region) -> tuple[int, int]:
    with connect(url) as connection:
        return (
            _one(connection, "order_events", "notification_id", region.events),
            _one(connection, "outcomes", "outcome_id", region.outcomes),
        )


def _one(connection: psycopg.Connection[Any], table: str, column: str, numbers: range) -> int:
    query = f"SELECT count(*) FROM {table} WHERE {column} BETWEEN %s AND %s"  # noqa: S608 (names are ours)
    return int(fetch_value(connection, query.encode(), (numbers.start, numbers.stop - 1)))
