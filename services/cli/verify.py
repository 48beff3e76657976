"""`resolution verify`: checks that what is stored and published follows from the commands."""

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
from .differences import print_differences
from .terminal import Terminal, say


def verify(
    from_commands: Annotated[
        bool,
        typer.Option(
            "--from-commands",
            help="Judge the whole commands topic again in memory, without the event store, and compare the topics.",
        ),
    ] = False,
    resume: Annotated[
        Path | None,
        typer.Option(help="A file that stores how far this verification came. The next one continues from there."),
    ] = None,
    checkpoints: CheckpointsFile = None,
    public_keys: PublicKeys = None,
    shard: ShardNumber = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print machine-readable JSON on stdout.")] = False,
) -> None:
    """Check that what is stored and published follows from the commands. Check read models and deadlines, too.

    Writes only its own result, for Prometheus. The service may run meanwhile. Exit code 1 if anything differs.
    """
    if checkpoints is not None:
        if from_commands or resume is not None:
            raise typer.BadParameter("--checkpoints reads the event store only; leave out the other options")
        verify_against(checkpoints, public_keys or (), shard, as_json)
    if from_commands and resume is not None:
        raise typer.BadParameter("--from-commands always starts with the first command; leave out --resume")
    with installation(Settings.from_environment()) as settings, _progress() as progress:
        shards = up_to_date(settings)
        differences: Differences
        if from_commands:
            judged_again = _from_commands(shards, progress)
            differences, sentences = judged_again, _describe_from_commands(judged_again)
        else:
            findings = _history(shards, resume, progress)
            differences, sentences = findings, _describe(findings)
        for one_shard in shards:
            with connect(one_shard.database) as connection:
                record_verification(connection, "commands" if from_commands else "history", differences.different)
    if as_json:
        say(json.dumps(differences.as_dict()))
    else:
        say(*sentences)
        print_differences(differences, "Nothing differs.")
    raise typer.Exit(1 if differences.different else 0)


def _history(shards: Sequence[Settings], resume: Path | None, progress: Callable[[str, int, int], None]) -> Findings:
    findings, several = Findings(), len(shards) > 1
    for shard in shards:
        file = resume and resume.with_name(resume.name + shard.shard.suffix)
        progress_of_shard = partial(_add_shard, progress, f" of {shard.shard}" if several else "")
        of_shard = verify_history(shard, clock_of(shard), file, progress_of_shard)
        of_shard.in_shard(shard.shard)
        findings.add(of_shard.as_dict())
    verify_splits(shards, findings)
    return findings


def _add_shard(progress: Callable[[str, int, int], None], shard: str, what: str, done: int, total: int) -> None:
    progress(what + shard, done, total)


def _from_commands(shards: Sequence[Settings], progress: Callable[[str, int, int], None]) -> FromCommands:
    parked: set[tuple[int, int]] = set()
    for shard in shards:
        with connect(shard.database) as connection:
            parked.update(connection.execute("SELECT partition, record_offset FROM parked_commands").fetchall())
            if commands_bases(connection):
                raise HistoryExpired(
                    "Kafka has lost the first commands (the topics were renewed), so history cannot be judged again "
                    "from its beginning. Use `resolution verify` without --from-commands."
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


def _describe_from_commands(findings: FromCommands) -> list[str]:
    sentences = [
        f"{findings.commands:,} commands judged again: {findings.events:,} events, {findings.outcomes:,} outcomes and "
        f"{findings.dead_letters:,} dead letters on Kafka compared byte for byte."
    ]
    if findings.parked or findings.unpublished:
        sentences.append(_not_compared(findings.parked, findings.unpublished))
    return [*sentences, *_outgrown(findings.outgrown)]


def _describe(findings: Findings) -> list[str]:
    sentences = [
        f"{findings.outcomes:,} commands judged again: their {findings.events:,} events and all outcomes, in the store "
        "and on Kafka, compared byte for byte.",
        f"{findings.read_models:,} rows of read models and {findings.snapshots:,} snapshots of orders compared with a "
        f"replay, and the deadlines of {findings.deadlines:,} open disputes with the timer's.",
    ]
    if findings.parked or findings.unpublished:
        sentences.append(_not_compared(findings.parked, findings.unpublished))
    if findings.expired:
        sentences.append(
            f"The commands of {findings.expired:,} outcomes have expired. Of these, only the events were checked: they "
            "follow from each other."
        )
    if findings.retired:
        sentences.append(
            f"The outcomes of {findings.retired:,} events were retired. Only the events were checked: they follow from "
            "each other."
        )
    return [*sentences, *_outgrown(findings.outgrown)]


def _not_compared(parked: int, unpublished: int) -> str:
    return f"Parked commands, not judged: {parked:,}. Outcomes that are not published yet: {unpublished:,}."


def _outgrown(count: int) -> list[str]:
    if not count:
        return []
    return [f"Not judged again: {count:,} dead letters that were discarded or that an earlier version could not read."]


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    console = Terminal(stderr=True)
    with Progress(*columns, console=console, disable=not sys.stderr.isatty(), transient=True) as bar:
        task = bar.add_task("measuring")
        yield lambda what, done, of: bar.update(task, description=what, completed=done, total=of)
