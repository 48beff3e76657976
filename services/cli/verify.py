"""`resolution verify`: whether what was published follows from the commands."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import Annotated

import psycopg
import typer
from rich.console import Console
from rich.progress import Progress

from services.audit.from_commands import Findings, verify_from_commands
from services.installation import installation
from services.kafka.topics import Topics
from services.settings import Settings
from services.store import migrate
from services.store.origin import clock_of

_MOST_SHOWN = 100


def verify(
    from_commands: Annotated[
        bool, typer.Option("--from-commands", help="Judge the whole commands topic again and compare byte for byte.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print machine-readable JSON lines on stdout.")] = False,
) -> None:
    """Check that what was published follows from the commands. Reads only; the service may run meanwhile."""
    if not from_commands:
        raise typer.BadParameter("say --from-commands; there is no other way of verifying yet")
    with installation(Settings.from_environment()) as settings, _progress() as progress:
        migrate(settings.database)
        topics = Topics(settings.topic_prefix)
        clock = clock_of(settings)
        findings = asyncio.run(
            verify_from_commands(settings.kafka, topics, clock.of_record, _parked(settings), progress)
        )
    print(json.dumps(asdict(findings))) if as_json else _show(findings)
    raise typer.Exit(1 if findings.differences else 0)


def _parked(settings: Settings) -> set[tuple[int, int]]:
    with psycopg.connect(settings.database) as connection:
        return set(connection.execute("SELECT partition, record_offset FROM parked_commands").fetchall())


def _show(findings: Findings) -> None:
    print(
        f"{findings.commands:,} commands judged again: {findings.events:,} events, {findings.outcomes:,} outcomes and "
        f"{findings.dead_letters:,} dead letters on Kafka compared byte for byte."
    )
    if findings.parked or findings.unpublished:
        print(f"Not judged, since they are parked: {findings.parked:,}. Not published yet: {findings.unpublished:,}.")
    if findings.outgrown:
        print(f"Left as they are: {findings.outgrown:,} dead letters that only an earlier version could not read.")
    for difference in findings.differences[:_MOST_SHOWN]:
        print(f"  {difference}")
    more = len(findings.differences) - _MOST_SHOWN
    if more > 0:
        print(f"  and {more:,} more (--json has all)")
    print(f"{len(findings.differences):,} differences." if findings.differences else "Nothing differs.")


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("judging the commands again")
        yield lambda done, total: bar.update(task, completed=done, total=total)
