"""`resolution dead`: shows and handles dead letters, the records that aren't commands."""

import asyncio
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any

import psycopg
import typer
from eventsourcing.persistence import PersistenceError

from services.commands.dead_letters import retry as send_again
from services.commands.skip_records import NotSkipped, find_damage
from services.commands.skip_records import skip as skip_damage
from services.eventstore.application import OrderStore
from services.eventstore.database import connect
from services.eventstore.dead_letters import dead_letters, handle_dead_letter
from services.eventstore.positions import commands_bases
from services.judging.dead_letters import SOURCE_TIMESTAMP, DeadLetter
from services.kafka.topics import Topics, count_partitions
from services.runtime.installation import installation, up_to_date
from services.settings import Settings
from services.shards.arithmetic import Shard

from .options import AsJson
from .reasons import require_reason
from .terminal import facts, say, short, table, write

app = typer.Typer(help="Dead letters: records of the commands topic that are not commands.", no_args_is_help=True)
Places = Annotated[list[str] | None, typer.Argument(help="PARTITION/OFFSET, as `list` shows it.", metavar="PLACE...")]
Key = Annotated[str | None, typer.Option(help="Only dead letters with this key, which is the order's id.")]
Error = Annotated[str | None, typer.Option(help="Only dead letters whose reason contains this text.")]
_PLACE = re.compile(r"(\d{1,9})/(\d{1,18})")


@app.command("list")
def list_(
    key: Key = None,
    error: Error = None,
    every: Annotated[bool, typer.Option("--all", help="Also those that were retried or discarded.")] = False,
    as_json: AsJson = False,
) -> None:
    """List the dead letters that nobody has handled yet, oldest first."""
    with _letters(kafka=False) as (_, store):
        letters = [_describe(letter) for letter in store.find(key=key, error=error, handled=every)]
    if as_json:
        for letter in letters:
            say(json.dumps(letter))
    elif not letters:
        say("There is no such dead letter." if key or error or every else "There is no unhandled dead letter.")
    else:
        _table(letters, handled=every)


@app.command()
def show(
    place: Annotated[str, typer.Argument(help="PARTITION/OFFSET.")],
    raw: Annotated[bool, typer.Option("--raw", help="Only the value, byte for byte.")] = False,
    as_json: AsJson = False,
) -> None:
    """Show one dead letter with its headers and its value. The value may contain confidential text."""
    if raw and sys.stdout.isatty():
        raise typer.BadParameter("--raw is not for a terminal, which would obey what a sender wrote: add > FILE")
    partition_and_offset = _place(place)
    with _letters(kafka=False) as (_, store):
        [letter] = _at(store, [partition_and_offset])
    if raw:
        write(letter.value or b"")
        return
    headers = {name: value and value.decode(errors="backslashreplace") for name, value in letter.headers}
    value = None if letter.value is None else letter.value.decode(errors="backslashreplace")
    description = _describe(letter)
    if as_json:
        say(json.dumps(description | {"headers": headers, "value": value}))
    else:
        if not letter.how:
            description["handled"] = "no"
        facts([*description.items(), *((f"header {name}", text) for name, text in headers.items()), ("value", value)])


@app.command()
def retry(
    places: Places = None,
    key: Key = None,
    error: Error = None,
    keep_time: Annotated[
        bool,
        typer.Option("--keep-time", help="Judge them by the time at which they first came, not by the present time."),
    ] = False,
) -> None:
    """Publish dead letters to the commands topic again, unchanged: those that you name, or all that match.

    Use this after an update that reads what an earlier version could not read. A dead letter that was handled already
    is published again only if you name it.
    """
    wanted = _wanted(places, key, error)
    with _letters() as (settings, store):
        letters, topics = _chosen(store, wanted, key, error), Topics(settings.topic_prefix, settings.shard)
        asyncio.run(send_again(settings.cluster, topics, letters, keep_time, partial(store.handle, how="retried")))
    say(f"{len(letters):,} published again.")


@app.command()
def discard(
    reason: Annotated[str, typer.Option(help="Why. Stored with the dead letters.", callback=require_reason)],
    places: Places = None,
    key: Key = None,
    error: Error = None,
) -> None:
    """Mark dead letters as done with: those that you name, or all that match. They stay on their topic."""
    wanted = _wanted(places, key, error)
    with _letters(kafka=False) as (_, store):
        letters = _chosen(store, wanted, key, error)
        for letter in letters:
            store.handle(letter, how="discarded", why=reason)
    say(f"{len(letters):,} discarded.")


@app.command()
def skip(
    place: Annotated[str, typer.Argument(help="PARTITION/OFFSET at which the commands role stopped, as its log says.")],
    reason: Annotated[str, typer.Option(help="Why. Published with the dead letters.", callback=require_reason)],
) -> None:
    """Skip records that are damaged on the broker's disk, so that the commands role continues with their partition.

    The records from PLACE up to the next readable one become dead letters without a value. Readable records are not
    skipped.
    """
    partition, offset = _place(place)
    with installation(Settings.from_environment()) as settings:
        shards = up_to_date(settings)
        shard = shards[Shard.of(partition, len(shards)).number]
        topics = Topics(shard.topic_prefix, shard.shard)
        if partition >= (count := asyncio.run(count_partitions(shard.cluster, topics))):
            raise NotSkipped(f"There is no partition {partition}: {topics.commands} has {count}, counted from 0.")
        with connect(shard.database) as connection:
            base = commands_bases(connection).get(partition, 0)
        if offset < base:
            raise NotSkipped(
                f"{place} was in an earlier topic. {topics.commands} was renewed, and its partition {partition} begins "
                f"at {partition}/{base}. Nothing was skipped."
            )
        damage = asyncio.run(find_damage(shard.cluster, topics.commands, partition, offset - base, base))
        with OrderStore(shard.database, shard.master_keys) as store:
            try:
                skip_damage(store, topics.commands, damage, base, reason)
            except PersistenceError:
                raise NotSkipped(
                    f"The commands role did not stop at {place}. Its log says where it stopped. Nothing was skipped."
                ) from None
    say(f"{damage.end - damage.first:,} skipped.")


class _Letters:
    """The dead letters of all shards. `connections` are in the order of the shards."""

    def __init__(self, connections: Sequence[psycopg.Connection]) -> None:
        self._connections = connections

    def find(self, places: Sequence[tuple[int, int]] | None = None, **which: Any) -> list[DeadLetter]:
        """Finds dead letters in all shards, oldest first. See `dead_letters`."""
        letters = [letter for connection in self._connections for letter in dead_letters(connection, places, **which)]
        return sorted(letters, key=_recorded) if len(self._connections) > 1 else letters

    def handle(self, letter: DeadLetter, *, how: str, why: str = "") -> None:
        """Stores in its shard that a dead letter was handled. See `handle_dead_letter`."""
        shard = Shard.of(letter.partition, len(self._connections))
        handle_dead_letter(self._connections[shard.number], letter, how, why)


def _recorded(letter: DeadLetter) -> int:
    return int(dict(letter.headers).get(SOURCE_TIMESTAMP) or 0)


def _place(text: str) -> tuple[int, int]:
    if (match := _PLACE.fullmatch(text)) is None:
        raise typer.BadParameter(f"{text} is not PARTITION/OFFSET, such as 3/17")
    return int(match[1]), int(match[2])


def _wanted(places: list[str] | None, key: str | None, error: str | None) -> list[tuple[int, int]]:
    """Returns the named places, or an empty list if dead letters are chosen by key or reason."""
    by_text = key is not None or bool(error)
    if bool(places) is by_text:
        raise typer.BadParameter("name places such as 3/17, or say --key or --error; not both")
    return [_place(place) for place in places or ()]


def _chosen(store: _Letters, wanted: list[tuple[int, int]], key: str | None, error: str | None) -> list[DeadLetter]:
    return _at(store, wanted) if wanted else store.find(key=key, error=error, handled=False)


def _at(store: _Letters, wanted: list[tuple[int, int]]) -> list[DeadLetter]:
    letters = store.find(wanted)
    for partition, offset in wanted:
        if not any((letter.partition, letter.record_offset) == (partition, offset) for letter in letters):
            raise typer.BadParameter(f"there is no dead letter {partition}/{offset}; see `resolution dead list --all`")
    return letters


def _table(letters: Sequence[dict[str, Any]], *, handled: bool) -> None:
    """Prints a table. `handled` adds a column that says how each dead letter was handled."""
    names = ["place", "recorded", "bytes", "key", "error", *(["handled"] if handled else [])]
    rows = (letter | {"recorded": short(letter["recorded"] or "")} for letter in letters)
    headings = ["why" if name == "error" else name for name in names]
    table(headings, ([row[name] for name in names] for row in rows), fold=headings[3:])


def _describe(letter: DeadLetter) -> dict[str, Any]:
    """Describes a dead letter without its value, which may be confidential (D16)."""
    recorded = dict(letter.headers).get(SOURCE_TIMESTAMP)
    instant = recorded and datetime.fromtimestamp(int(recorded) / 1000, UTC).isoformat(timespec="milliseconds")
    return {
        "place": f"{letter.partition}/{letter.record_offset}",
        "recorded": instant or None,
        "key": None if letter.key is None else letter.key.decode(errors="backslashreplace"),
        "bytes": len(letter.value or b""),
        "error": letter.error,
        "handled": letter.how and f"{letter.how}: {letter.why}".removesuffix(": "),
    }


@contextmanager
def _letters(kafka: bool = True) -> Iterator[tuple[Settings, _Letters]]:
    with installation(Settings.from_environment(), kafka=kafka) as settings, ExitStack() as stack:
        shards = up_to_date(settings)
        connections = [connect(shard.database, autocommit=True) for shard in shards]
        for connection in connections:
            stack.enter_context(connection)
        yield replace(settings, shard=shards[0].shard), _Letters(connections)
