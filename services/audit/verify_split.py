"""Verifies a split: the new databases together must have each event and outcome of the old one exactly once."""

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
    """The numbers that one database gave before a split, and the databases that have their rows now."""

    events: range
    """The numbers of the events."""
    outcomes: range
    """The numbers of the outcomes."""
    urls: list[str] = field(default_factory=list)
    """The URLs of the databases."""
    retired: int = 0
    """The last outcome that any of these databases has retired."""


def verify_splits(shards: Sequence[Settings], findings: Differences) -> None:
    """Counts the rows from before each split, in all shards that came from it. Raises psycopg.Error."""
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
    """Returns the regions by the number of databases that there were, and the index of the one that was split."""
    regions: dict[tuple[int, int], _Region] = {}
    for settings in shards:
        with connect(settings.database) as connection:
            splits, retired = shard_identity(connection).splits, read_retired(connection).outcome_id
        before = Split()
        for split in splits:
            events = range(before.event_id + 1, split.event_id + 1)
            outcomes = range(before.outcome_id + 1, split.outcome_id + 1)
            parent = (split.count, settings.shard.number % split.count)
            region = regions.setdefault(parent, _Region(events, outcomes))
            region.urls.append(settings.database)
            region.retired = max(region.retired, retired)
            before = split
    return regions


def _count(url: str, region: _Region) -> tuple[int, int]:
    with connect(url) as connection:
        return (
            _count_numbers(connection, "order_events", "notification_id", region.events),
            _count_numbers(connection, "outcomes", "outcome_id", region.outcomes),
        )


def _count_numbers(connection: psycopg.Connection[Any], table: str, column: str, numbers: range) -> int:
    query = f"SELECT count(*) FROM {table} WHERE {column} BETWEEN %s AND %s"  # noqa: S608 (names are ours)
    return int(fetch_value(connection, query.encode(), (numbers.start, numbers.stop - 1)))
