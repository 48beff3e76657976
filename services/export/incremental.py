"""Writes the public events behind the last export's position, and renews the summary of the orders they touch.

A directory is consistent at each position that its `state.json` names. What lies behind it was begun by an export that
died, and the next one writes the same files again, because the range was noted first.
"""

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import cast

import msgspec
from eventsourcing.postgres import PostgresFactory

from services.orders.events import Event, OrderTextsErased
from services.store import OrderStore
from services.store.last_events import digest_of_last_events
from services.store.mapper import decode_row
from services.store.order_keys import WITHOUT_TEXTS

from .formats import FORMATS, Format
from .summary import Summary, summarize

_AT_ONCE = 50_000
_ORDERS_AT_ONCE = 2_000
_STATE = "state.json"
_HISTORY = "history.json"


class ExportError(Exception):
    """A directory that cannot be exported to: a sentence that says why and what to do."""


class _State(msgspec.Struct, forbid_unknown_fields=True):
    """`position`: the notification id up to which files are complete. `writing`: up to where files were begun."""

    format: str
    first: int
    position: int
    writing: int
    summarized: int


class _History(msgspec.Struct):
    """What tells the store's history from another one: a digest of its last events up to a position.

    It has a file of its own, for earlier versions refuse a state with another field.
    """

    position: int
    digest: str


class Exported(msgspec.Struct):
    """What an export added. `position` is where the next one goes on; `orders`: whose summaries were renewed."""

    position: int
    events: int
    orders: int


def export(
    store: OrderStore, directory: Path, format_: str, after: int, progress: Callable[[int, int], None]
) -> Exported:
    """Exports what was appended since the last export to this directory, or after a position into a new one.

    `progress(done, of)` counts notification ids. Raises ExportError, OSError, psycopg.Error and the library's
    PersistenceError; another call goes on where this one stopped.
    """
    files = FORMATS[format_]()
    directory.mkdir(parents=True, exist_ok=True)
    state = _begin(directory, format_, after)
    began = state.position
    last = store.recorder.max_notification_id() or 0
    if last < state.position:
        raise ExportError(
            f"{directory} has events up to {state.position}, but the store ends at {last}: it was exported from "
            "another database. Export to another directory."
        )
    _require_same_history(store, directory)
    while state.position < last:
        if state.writing == state.position:
            state.writing = min(state.position + _AT_ONCE, last)
            _save(directory / _STATE, state)
        erased = _write_events(store, files, directory, range(state.position + 1, state.writing + 1))
        _write_erased_again(store, files, directory, erased)
        _save(directory / _HISTORY, _History(state.writing, _digest(store, state.writing)))
        state.position = state.writing
        _save(directory / _STATE, state)
        progress(state.position - began, last - began)
    orders = _renew_summaries(store, files, directory, state)
    return Exported(state.position, state.position - began, orders)


def _begin(directory: Path, format_: str, after: int) -> _State:
    file = directory / _STATE
    if not file.exists():
        if any(directory.iterdir()):
            raise ExportError(f"{directory} has files of others. Export to a directory of its own.")
        return _State(format_, first=after, position=after, writing=after, summarized=after)
    try:
        state = msgspec.json.decode(file.read_bytes(), type=_State)
    except msgspec.MsgspecError:
        raise ExportError(f"{file} is not an export's. Export to another directory.") from None
    if state.format != format_:
        raise ExportError(f"{directory} has {state.format} files. Say --format {state.format}, or export elsewhere.")
    if after not in (0, state.first):
        raise ExportError(f"{directory} has the events after {state.first} already. For others, export elsewhere.")
    return state


def _require_same_history(store: OrderStore, directory: Path) -> None:
    """A database that fell back may have grown past the position since: other events have those numbers now."""
    file = directory / _HISTORY
    if not file.exists():
        return
    try:
        history = msgspec.json.decode(file.read_bytes(), type=_History)
    except msgspec.MsgspecError:
        raise ExportError(f"{file} is not an export's. Export to another directory.") from None
    if history.digest != _digest(store, history.position):
        raise ExportError(
            f"{directory} has events up to {history.position} that are not those of the store: it was restored, or "
            "fell back, to an earlier state since, or is another database. Export to another directory."
        )


def _digest(store: OrderStore, position: int) -> str:
    with cast("PostgresFactory", store.factory).datastore.get_connection() as connection:
        return digest_of_last_events(connection, position)


def _save(file: Path, content: _State | _History) -> None:
    new = file.with_name(f".{file.name}")
    new.write_bytes(msgspec.json.encode(content))
    new.replace(file)


def _write_events(store: OrderStore, files: Format, directory: Path, positions: range) -> dict[str, int]:
    """One file for each event's name and business date (UTC) among these positions.

    Returns the orders whose texts were erased there, and the position of each erasure.
    """
    parts: defaultdict[tuple[str, str], list[tuple[int, Event]]] = defaultdict(list)
    erased: dict[str, int] = {}
    stored = store.recorder.select_notifications(positions.start, len(positions), stop=positions.stop - 1)
    for notification, event in zip(stored, store.read(stored), strict=True):
        parts[type(event).__name__, event.timestamp.date().isoformat()].append((notification.id, event))
        if isinstance(event, OrderTextsErased):
            erased[event.originator_id] = notification.id
    for (name, date), events in parts.items():
        folder = directory / name / f"date={date}"
        folder.mkdir(parents=True, exist_ok=True)
        file = folder / f"part-{positions.start:012}-{positions.stop - 1:012}.{files.suffix}"
        _replace(file, lambda new, events=events: files.write_events(new, events))  # type: ignore[misc]
    return erased


def _write_erased_again(store: OrderStore, files: Format, directory: Path, erased: Mapping[str, int]) -> None:
    """Writes the files again that have events of these orders from before their erasures."""
    if not erased:
        return
    with cast("PostgresFactory", store.factory).datastore.get_connection() as connection:
        rows = connection.execute(
            "SELECT notification_id FROM order_events JOIN unnest(%s::text[], %s::bigint[]) AS e (order_id, up_to) "
            "ON originator_id = e.order_id AND notification_id < e.up_to",
            (list(erased), list(erased.values())),
        )
        positions = {row["notification_id"] for row in rows}
    names = (file.stem.split("-") for file in directory.rglob(f"part-*.{files.suffix}"))
    for first, last in sorted({(int(first), int(last)) for _, first, last in names}):
        if not positions.isdisjoint(range(first, last + 1)):
            _write_events(store, files, directory, range(first, last + 1))


def _renew_summaries(store: OrderStore, files: Format, directory: Path, state: _State) -> int:
    """Rewrites the summaries, with those of the orders that have new events made anew."""
    file = directory / f"orders.{files.suffix}"
    if state.summarized == state.position and file.exists():
        return 0
    changed = _changed(store, range(state.summarized + 1, state.position + 1))
    kept = (row for row in files.read_summaries(file) if row.order_id not in changed) if file.exists() else iter(())

    def rows() -> Iterator[Summary]:
        yield from kept
        ids = sorted(changed)
        for start in range(0, len(ids), _ORDERS_AT_ONCE):
            yield from _summaries(store, ids[start : start + _ORDERS_AT_ONCE], state.position)

    _replace(file, lambda new: files.write_summaries(new, rows()))
    state.summarized = state.position
    _save(directory / _STATE, state)
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
        rows = connection.execute(
            "SELECT originator_id, originator_version, topic, state FROM order_events "
            "WHERE originator_id = ANY(%s) AND notification_id <= %s ORDER BY originator_id, originator_version",
            (order_ids, position),
        ).fetchall()
    for order_id, history in groupby(rows, key=lambda row: row["originator_id"]):
        events = (decode_row(row, WITHOUT_TEXTS) for row in history)
        yield summarize(order_id, events)


def _replace(file: Path, write: Callable[[Path], None]) -> None:
    """Readers see the old file or the new one, never half of it."""
    new = file.with_name(f".{file.name}")
    write(new)
    new.replace(file)
