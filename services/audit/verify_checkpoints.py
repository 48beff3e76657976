"""Compares the event store with a file of checkpoints. Needs the database, the file and the public keys, but no Kafka.

Follows the file line by line. Several processes compare runs of checkpoints with the rows. If a hash does not fit, the
rows are read again to find out which of them differ.
"""

import multiprocessing
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import BrokenExecutor, Future, ProcessPoolExecutor
from contextlib import ExitStack
from heapq import merge
from pathlib import Path
from typing import Any

import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.eventstore.checkpoint_chain import Checkpoint, Hashes, notification_id, salt_hash
from services.eventstore.checkpoint_notes import CheckpointNotes, checkpoint_notes
from services.eventstore.database import CopiedRow, connect
from services.eventstore.read_events import copy_events, newest_event
from services.failures import Failure
from services.shards.identity import shard_identity

from .checkpoint_file import Chain
from .listing import ranges
from .tampering import Mismatch, Tampering, explain
from .worker_processes import ignoring_ctrl_c

_RUN_EVENTS = 50_000
_RUN_CHECKPOINTS = 1_000
_MOST_EXPLAINED = 100
"""The most checkpoints whose lost and strange events are kept in memory."""


class CannotVerify(Failure):
    """The file or the database cannot be used for a verification. The text says why."""


def verify_checkpoints(
    shards: Sequence[str],
    number: int,
    file: Path,
    keys: Sequence[Ed25519PublicKey],
    processes: int,
    progress: Callable[[int, int], None],
) -> Tampering:
    """Compares a shard's events with its checkpoints. Calls `progress(done, total)`, which counts events.

    `shards`: the URLs of all databases. `number`: the index of the shard whose checkpoints the file has. `keys`: the
    public keys that are trusted from the beginning. Raises CannotVerify and psycopg.Error.
    """
    found = Tampering()
    notes, newest = _measure(shards[number], found)
    sources = _Sources(shards, number)
    chain = Chain(keys, found, sources.last_split)
    mismatches: list[Mismatch] = []
    try:
        with file.open("rb") as lines:
            signed = _of_this_database(chain.follow(lines), notes, found)
            for run, results in _compared(sources, notes, _runs(signed, sources), processes):
                mismatches += results
                for other in mismatches[max(_MOST_EXPLAINED, len(mismatches) - len(results)) :]:
                    other.lost, other.strange = {}, []
                found.checkpoints += len(run)
                found.events += run[-1].last + 1 - run[0].first
                progress(found.events, newest)
    except BrokenExecutor:
        raise CannotVerify("A process of the verification was killed. Start it again.") from None
    except OSError as error:
        raise CannotVerify(f"{file} cannot be read: {error.strerror}.") from None
    for difference in explain(mismatches):
        found.differs(difference)
    _look_at_the_end(chain, notes, newest, found)
    return found


def _measure(url: str, found: Tampering) -> tuple[CheckpointNotes | None, int]:
    with connect(url, autocommit=True) as connection:
        try:
            notes, newest = checkpoint_notes(connection), newest_event(connection)
            outside = connection.execute(
                "SELECT notification_id FROM order_events WHERE notification_id < 1 ORDER BY 1 LIMIT 1000"
            ).fetchall()
        except psycopg.errors.UndefinedTable as error:
            raise CannotVerify(
                f"This is not the service's database ({error}). Check RESOLUTION_DATABASE_URL."
            ) from None
    if outside:
        found.differs(
            f"inserted, since events are numbered from 1: {ranges('event', [number for (number,) in outside])}"
        )
    if notes is None:
        found.differs("the database has lost the salt of the checkpoints: its events cannot be compared")
    return notes, newest


def _of_this_database(
    checkpoints: Iterable[Checkpoint], notes: CheckpointNotes | None, found: Tampering
) -> Iterator[Checkpoint]:
    """Yields the checkpoints whose hashes can be computed with the database's salt."""
    others = 0
    for checkpoint in checkpoints:
        if notes is not None and checkpoint.salt == salt_hash(notes.salt):
            yield checkpoint
        elif notes is not None:
            others += 1
    if others:
        found.differs(
            f"{others:,} checkpoints were made with another salt than the database has: the database is another one, "
            "or its salt was changed"
        )


class _Sources:
    """Finds the databases that have an event. Events from before a split are spread over several databases."""

    def __init__(self, shards: Sequence[str], number: int) -> None:
        self._shards, self._number = shards, number
        with connect(shards[number], autocommit=True) as connection:
            self._splits = shard_identity(connection).splits

    @property
    def last_split(self) -> int:
        """The last event before the latest split, or 0 without a split."""
        return self._splits[-1].event_id if self._splits else 0

    def of(self, event_id: int) -> list[str]:
        """Returns the URLs of the databases that may have this event."""
        for split in self._splits:
            if event_id <= split.event_id:
                return list(self._shards[self._number % split.count :: split.count])
        return [self._shards[self._number]]


def _runs(checkpoints: Iterable[Checkpoint], sources: _Sources) -> Iterator[list[Checkpoint]]:
    """Yields runs of consecutive checkpoints whose events are in the same databases."""
    run: list[Checkpoint] = []
    for checkpoint in checkpoints:
        if run and (
            len(run) >= _RUN_CHECKPOINTS
            or checkpoint.last - run[0].first >= _RUN_EVENTS
            or checkpoint.first != run[-1].last + 1
            or sources.of(checkpoint.last) != sources.of(run[0].last)
        ):
            yield run
            run = []
        run.append(checkpoint)
    if run:
        yield run


def _compared(
    sources: _Sources, notes: CheckpointNotes | None, runs: Iterator[list[Checkpoint]], processes: int
) -> Iterator[tuple[list[Checkpoint], list[Mismatch]]]:
    """Yields each run with its mismatches, in their order. Compares a few runs at a time."""
    if notes is None:
        deque(runs, maxlen=0)  # still follows the file to its end
        return
    waiting: deque[tuple[list[Checkpoint], Future[list[Mismatch]]]] = deque()
    with ExitStack() as stack:
        first = next(runs, None)
        if first is None:
            return
        yield first, compare(sources.of(first[0].last), notes.salt, first)
        pool: ProcessPoolExecutor | None = None
        for run in runs:
            if pool is None:  # a short file needs no processes
                context = multiprocessing.get_context("spawn")
                pool = stack.enter_context(ProcessPoolExecutor(processes, context))
            with ignoring_ctrl_c():  # the pool starts processes when it needs them
                waiting.append((run, pool.submit(compare, sources.of(run[0].last), notes.salt, run)))
            if len(waiting) > 2 * processes:
                done, results = waiting.popleft()
                yield done, results.result()
        for done, results in waiting:
            yield done, results.result()


def compare(urls: Sequence[str], salt: bytes, run: Sequence[Checkpoint]) -> list[Mismatch]:
    """Returns the checkpoints of a run that do not fit the events in these databases. Raises psycopg.Error."""
    hashes = Hashes(salt)
    with ExitStack() as stack:
        connections = [stack.enter_context(connect(url, autocommit=True)) for url in urls]
        rows = _Rows(_in_order(connections, run[0].first, run[-1].last))
        wrong = [checkpoint for checkpoint in run if hashes.of_rows(rows.up_to(checkpoint.last)) != checkpoint.events]
        return [_mismatch(connections, hashes, checkpoint) for checkpoint in wrong]


def _in_order(connections: Sequence[psycopg.Connection[Any]], first: int, last: int) -> Iterator[CopiedRow]:
    rows = [copy_events(connection, first, last) for connection in connections]
    return rows[0] if len(rows) == 1 else merge(*rows, key=notification_id)


class _Rows:
    """Hands out rows, sorted by event number, up to one number after another."""

    def __init__(self, rows: Iterator[CopiedRow]) -> None:
        self._rows = rows
        self._next = next(rows, None)

    def up_to(self, last: int) -> Iterator[CopiedRow]:
        """Yields the next rows up to this event number."""
        while self._next is not None and notification_id(self._next) <= last:
            yield self._next
            self._next = next(self._rows, None)


def _mismatch(connections: Sequence[psycopg.Connection[Any]], hashes: Hashes, checkpoint: Checkpoint) -> Mismatch:
    lost, strange = checkpoint.tag_of_each(), []
    has_tags = bool(lost)
    for row in _in_order(connections, checkpoint.first, checkpoint.last):
        number, tag = notification_id(row), hashes.tag(row)
        if lost.get(number) == tag:
            del lost[number]
        else:
            strange.append((number, tag))
    return Mismatch(checkpoint.number, checkpoint.first, checkpoint.last, lost, strange if has_tags else [])


def _look_at_the_end(chain: Chain, notes: CheckpointNotes | None, newest: int, found: Tampering) -> None:
    if chain.last is None:
        found.differs("the file has no checkpoint that can be trusted: nothing is proven")
    else:
        found.last_checkpoint, found.last_event, found.last_at = chain.last.number, chain.last.last, chain.last.at
    if notes is not None and notes.published > found.last_checkpoint:
        missing = ranges("checkpoint", range(found.last_checkpoint + 1, notes.published + 1))
        found.differs(f"{missing} missing at the end: the database says that {notes.published} were published")
    found.uncovered = max(0, newest - chain.covered)
