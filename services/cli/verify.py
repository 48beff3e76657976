"""`resolution verify`: whether what is stored and published follows from the commands."""

import asyncio
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from services.audit.findings import Differences, Findings
from services.audit.verify import verify_history
from services.audit.verify_split import verify_splits
from services.audit.verify_topics import Findings as FromCommands
from services.audit.verify_topics import HistoryExpired, verify_from_commands
from services.eventstore.database import connect
from services.eventstore.installation_state import record_verification
from services.eventstore.positions import commands_bases
from services.kafka.topics import Topics
from services.runtime.installation import clock_of, installation, up_to_date
from services.settings import Settings

from .checkpoints import CheckpointsFile, PublicKeys, ShardNumber, verify_against
from .differences import tell_differences
from .terminal import Terminal, say


def verify(
    from_commands: Annotated[
        bool,
        typer.Option("--from-commands", help="Use nothing that is stored: judge the whole commands topic into memory."),
    ] = False,
    resume: Annotated[
        Path | None, typer.Option(help="A file that keeps how far this came; named again, history goes on from there.")
    ] = None,
    checkpoints: CheckpointsFile = None,
    public_keys: PublicKeys = None,
    shard: ShardNumber = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print machine-readable JSON on stdout.")] = False,
) -> None:
    """Check that all that is stored and published follows from the commands, and read models and deadlines from that.

    Writes nothing but its own result, for Prometheus; the service may run meanwhile. Exit code 1 if anything differs.
    """
    if checkpoints is not None:
        if from_commands or resume is not None:
            raise typer.BadParameter("--checkpoints looks at the event store only; leave the other options")
        verify_against(checkpoints, public_keys or (), shard, as_json)
    if from_commands and resume is not None:
        raise typer.BadParameter("--from-commands begins with the first command each time; leave --resume")
    with installation(Settings.from_environment()) as settings, _progress() as progress:
        shards = up_to_date(settings)
        found: Differences
        if from_commands:
            judged_again = _from_commands(shards, progress)
            found, told = judged_again, _tell_from_commands(judged_again)
        else:
            findings = _history(shards, resume, progress)
            found, told = findings, _tell(findings)
        for one in shards:
            with connect(one.database) as connection:
                record_verification(connection, "commands" if from_commands else "history", found.different)
    if as_json:
        say(json.dumps(found.as_dict()))
    else:
        say(*told)
        tell_differences(found, "Nothing differs.")
    raise typer.Exit(1 if found.different else 0)


def _history(shards: Sequence[Settings], resume: Path | None, progress: Callable[[str, int, int], None]) -> Findings:
    findings, several = Findings(), len(shards) > 1
    for one in shards:
        file = resume and resume.with_name(resume.name + one.shard.suffix)
        told = partial(_tell_progress, progress, f" of {one.shard}" if several else "")
        found = verify_history(one, clock_of(one), file, told)
        found.in_shard(one.shard)
        findings.add(found.as_dict())
    verify_splits(shards, findings)
    return findings


def _tell_progress(progress: Callable[[str, int, int], None], of: str, what: str, done: int, total: int) -> None:
    progress(what + of, done, total)


def _from_commands(shards: Sequence[Settings], progress: Callable[[str, int, int], None]) -> FromCommands:
    parked: set[tuple[int, int]] = set()
    for one in shards:
        with connect(one.database) as connection:
            parked.update(connection.execute("SELECT partition, record_offset FROM parked_commands").fetchall())
            if commands_bases(connection):
                raise HistoryExpired(
                    "Kafka has lost the first commands (the topics were renewed), so history cannot be judged again "
                    "from its beginning. `resolution verify` compares what is stored."
                )
    settings = shards[0]
    return asyncio.run(
        verify_from_commands(
            settings.cluster,
            Topics(settings.topic_prefix, settings.shard),
            clock_of(settings).of_record,
            parked,
            lambda done, of: progress("commands", done, of),
        )
    )


def _tell_from_commands(findings: FromCommands) -> list[str]:
    told = [
        f"{findings.commands:,} commands judged again: {findings.events:,} events, {findings.outcomes:,} outcomes and "
        f"{findings.dead_letters:,} dead letters on Kafka compared byte for byte."
    ]
    if findings.parked or findings.unpublished:
        told.append(
            f"Not judged, since they are parked: {findings.parked:,}. Not published yet: {findings.unpublished:,}."
        )
    return [*told, *_outgrown(findings.outgrown)]


def _tell(findings: Findings) -> list[str]:
    told = [
        f"{findings.outcomes:,} commands judged again: their {findings.events:,} events and all outcomes, in the store "
        "and on Kafka, compared byte for byte.",
        f"{findings.read_models:,} rows of read models and {findings.snapshots:,} snapshots of orders compared with a "
        f"replay, and the deadlines of {findings.deadlines:,} open disputes with the timer's.",
    ]
    if findings.parked or findings.unpublished:
        told.append(
            f"Not judged, since they are parked: {findings.parked:,}. Not published yet: {findings.unpublished:,}."
        )
    if findings.expired:
        told.append(f"Of {findings.expired:,} outcomes the commands have expired: their events follow one another.")
    if findings.retired:
        told.append(f"Of {findings.retired:,} events the outcomes were retired: they follow one another.")
    return [*told, *_outgrown(findings.outgrown)]


def _outgrown(count: int) -> list[str]:
    if not count:
        return []
    return [f"Left as they are: {count:,} dead letters that were discarded or that an earlier version could not read."]


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    console = Terminal(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("measuring")
        yield lambda what, done, of: bar.update(task, description=what, completed=done, total=of)
