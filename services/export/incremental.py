"""Writes the public events after the last export's position, and renews the summaries of their orders.

A directory is complete up to the position in its `state.json`. An export's files appear together, once all of them are
written (`services/export/staging.py`). If an export is killed, the next one continues it: an export notes each range of
positions before it writes the range, so that the same files are written again under the same names.

Earlier versions wrote no terms of orders. The first export of this version to their directory adds the terms.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import TypeVar, cast

import msgspec
from eventsourcing.postgres import PostgresFactory

from services.eventstore.application import OrderStore
from services.eventstore.event_codec import decode_event
from services.eventstore.read_events import digest_of_last_events, histories_of
from services.failures import Failure
from services.orders.events import Event, OrderRegistered, OrderTextsErased
from services.sealing.order_keys import WITHOUT_TEXTS

from .formats import FORMATS, Format, Parquet
from .staging import Staging, alone, finish_killed, is_of_staging
from .summary import Summary, summarize

_AT_ONCE = 50_000
"""Events in one range of positions."""
_ORDERS_AT_ONCE = 2_000
_STATE = "state.json"
_HISTORY = "history.json"


class ExportError(Failure):
    """A directory cannot be exported to. The message says why and what to do."""


class _State(msgspec.Struct, forbid_unknown_fields=True):
    """The progress of a directory, or of an export that has not ended."""

    format: str
    """The files' format."""
    first: int
    """The first export began after this position."""
    position: int
    """The files are complete up to this position."""
    writing: int
    """Files were begun up to this position. It is above `position` if an export was killed."""
    summarized: int
    """The summaries are complete up to this position."""


class _History(msgspec.Struct):
    """Identifies the store's history by a digest of its last events up to a position.

    It has its own file, because earlier versions refuse a state with another field.
    """

    position: int
    digest: str


class Exported(msgspec.Struct):
    """What an export added."""

    position: int
    """The position that the next export continues after."""
    events: int
    orders: int
    """The number of orders whose summaries were renewed."""


def export(
    store: OrderStore, directory: Path, format_: str, after: int, progress: Callable[[int, int], None]
) -> Exported:
    """Exports the events since the last export to this directory, or the events after a position to a new directory.

    `progress(done, total)` counts event numbers. Raises ExportError, OSError, psycopg.Error and the library's
    PersistenceError. After an error, another call continues where this one stopped.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with alone(directory) as is_alone:
        if not is_alone:
            raise ExportError(f"Another export writes to {directory}. Wait until it has ended.")
        finish_killed(directory, lambda: _position(directory), last=_STATE)
        state = _begin(directory, format_, after)
        last = store.recorder.max_notification_id() or 0
        if last < state.position:
            raise ExportError(
                f"{directory} has events up to {state.position}, but the store ends at {last}: it was exported from "
                "another database. Export to another directory."
            )
        if not _has_history(store, directory / _HISTORY):
            raise ExportError(
                f"{directory} has events up to {state.position} that differ from the store's. The database was "
                "restored since, or is another one. Export to another directory."
            )
        return _Export(store, directory, state).run(last, progress)


def _position(directory: Path) -> int | None:
    """Returns the directory's position, or None if no export to it has ended."""
    file = directory / _STATE
    return _read(file, _State).position if file.exists() else None


def _begin(directory: Path, format_: str, after: int) -> _State:
    file = directory / _STATE
    if not file.exists():
        if not all(map(is_of_staging, directory.iterdir())):
            raise ExportError(f"{directory} has files that are not an export's. Export to an empty directory.")
        return _State(format_, first=after, position=after, writing=after, summarized=after)
    state = _read(file, _State)
    if state.format != format_:
        raise ExportError(f"{directory} has {state.format} files. Say --format {state.format}, or export elsewhere.")
    if after not in (0, state.first):
        raise ExportError(f"{directory} has the events after {state.first} already. For others, export elsewhere.")
    return state


_Kind = TypeVar("_Kind", _State, _History)


def _read(file: Path, kind: type[_Kind]) -> _Kind:
    try:
        return msgspec.json.decode(file.read_bytes(), type=kind)
    except msgspec.MsgspecError:
        raise ExportError(f"{file} is not an export's. Export to another directory.") from None


def _has_history(store: OrderStore, file: Path) -> bool:
    """Whether the store still has the events of the file's digest. False if the database was restored since."""
    if not file.exists():
        return True
    history = _read(file, _History)
    return history.digest == _digest(store, history.position)


def _digest(store: OrderStore, position: int) -> str:
    with cast("PostgresFactory", store.factory).datastore.get_connection() as connection:
        return digest_of_last_events(connection, position)


class _Export:
    """One export, which continues from a directory's state."""

    def __init__(self, store: OrderStore, directory: Path, began: _State) -> None:
        self._store = store
        self._directory = directory
        self._began = began
        self._files: Format = FORMATS[began.format]()
        self._staging = Staging(directory, began.position)
        self._summaries = f"orders.{self._files.suffix}"
        summaries = directory / self._summaries
        self._has_terms = summaries.exists() and self._files.has_terms(summaries)

    def run(self, last: int, progress: Callable[[int, int], None]) -> Exported:
        began = self._began
        self._staging.discard_others()
        if began.position == began.summarized == last and self._has_terms:
            return Exported(last, 0, 0)
        state = self._so_far()
        if not self._has_terms:
            self._add_terms()
        while state.position < last:
            if state.writing == state.position:
                state.writing = min(state.position + _AT_ONCE, last)
                self._note(state)
            erased = self._write_events(range(state.position + 1, state.writing + 1))
            self._write_erased_again(erased)
            history = _History(state.writing, _digest(self._store, state.writing))
            self._staging.replace(_HISTORY, msgspec.json.encode(history))
            state.position = state.writing
            self._note(state)
            progress(state.position - began.position, last - began.position)
        renewed = self._write_summaries(state.position)
        state.summarized = state.position
        self._note(state)
        self._staging.publish(last=_STATE)
        return Exported(state.position, state.position - began.position, renewed)

    def _so_far(self) -> _State:
        """Returns the state of an export that was killed, or that of the directory if the store's events differ."""
        killed = self._staging.path(_STATE)
        if killed.exists() and _has_history(self._store, self._staging.path(_HISTORY)):
            return _read(killed, _State)
        self._staging.discard()
        if self._began.writing > self._began.position or self._began.summarized < self._began.position:
            _delete_leftovers(self._directory)
        return msgspec.structs.replace(self._began)

    def _note(self, state: _State) -> None:
        self._staging.replace(_STATE, msgspec.json.encode(state))

    def _write_events(self, positions: range) -> dict[str, int]:
        """Writes the events at these positions, in one file for each event name and business date (UTC).

        Returns the orders whose texts were erased in this range, with the position of each erasure.
        """
        parts: defaultdict[tuple[str, str], list[tuple[int, Event]]] = defaultdict(list)
        erased: dict[str, int] = {}
        stored = self._store.recorder.select_notifications(positions.start, len(positions), stop=positions.stop - 1)
        for notification, event in zip(stored, self._store.read(stored), strict=True):
            parts[type(event).__name__, event.timestamp.date().isoformat()].append((notification.id, event))
            if isinstance(event, OrderTextsErased):
                erased[event.originator_id] = notification.id
        for (name, date), events in parts.items():
            part = f"part-{positions.start:012}-{positions.stop - 1:012}.{self._files.suffix}"
            with self._staging.file(f"{name}/date={date}/{part}") as file:
                self._files.write_events(file, events)
        return erased

    def _write_erased_again(self, erased: Mapping[str, int]) -> None:
        """Rewrites the files that have events of these orders from before their erasures."""
        if not erased:
            return
        with cast("PostgresFactory", self._store.factory).datastore.get_connection() as connection:
            rows = connection.execute(
                "SELECT notification_id FROM order_events JOIN unnest(%s::text[], %s::bigint[]) AS e (order_id, up_to) "
                "ON originator_id = e.order_id AND notification_id < e.up_to",
                (list(erased), list(erased.values())),
            )
            positions = {row["notification_id"] for row in rows}
        parts = f"part-*.{self._files.suffix}"
        files = chain((file.name for file in self._directory.rglob(parts)), self._staging.names(parts))
        names = (file.partition(".")[0].split("-") for file in files)
        for first, last in sorted({(int(first), int(last)) for _, first, last in names}):
            if not positions.isdisjoint(range(first, last + 1)):
                self._write_events(range(first, last + 1))

    def _add_terms(self) -> None:
        """Writes the files of registrations again that have no terms. JSON lines are as on Kafka in any version."""
        if not isinstance(self._files, Parquet):
            return
        for name, file in self._staging.files(f"{OrderRegistered.__name__}/**/part-*.{self._files.suffix}").items():
            if not self._files.has_terms(file):
                with self._staging.file(name) as new:
                    self._files.add_terms(file, new)

    def _write_summaries(self, position: int) -> int:
        """Rewrites the file of summaries. Returns how many orders got a new summary: those with new events, or all."""
        known = self._began.summarized if self._has_terms else self._began.first
        changed = _changed(self._store, range(known + 1, position + 1))
        kept = self._files.read_summaries(self._directory / self._summaries) if self._has_terms else iter(())
        ids = sorted(changed)
        new = (
            row
            for start in range(0, len(ids), _ORDERS_AT_ONCE)
            for row in _summaries(self._store, ids[start : start + _ORDERS_AT_ONCE], position)
        )
        with self._staging.file(self._summaries) as file:
            self._files.write_summaries(file, chain((row for row in kept if row.order_id not in changed), new))
        return len(changed)


def _changed(store: OrderStore, positions: range) -> set[str]:
    with cast("PostgresFactory", store.factory).datastore.get_connection() as connection:
        rows = connection.execute(
            "SELECT DISTINCT originator_id FROM order_events WHERE notification_id BETWEEN %s AND %s",
            (positions.start, positions.stop - 1),
        )
        return {row["originator_id"] for row in rows}


def _summaries(store: OrderStore, order_ids: list[str], position: int) -> Iterator[Summary]:
    with cast("PostgresFactory", store.factory).datastore.get_connection() as connection:
        histories = histories_of(connection, order_ids, position)
    for order_id, history in histories.items():
        yield summarize(order_id, (decode_event(stored, WITHOUT_TEXTS) for stored in history))


def _delete_leftovers(directory: Path) -> None:
    """Deletes half-written files that a killed export of an earlier version left, because readers' patterns match."""
    for pattern in (".part-*", ".orders.*"):
        for file in directory.rglob(pattern):
            file.unlink()
