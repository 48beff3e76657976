"""`resolution export`: writes history as files for analysts."""

import sys
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, TaskID

from services.eventstore.application import OrderStore
from services.export import export as write
from services.runtime.installation import installation, up_to_date
from services.settings import Settings

from .terminal import Terminal, say


class _Format(StrEnum):
    PARQUET = "parquet"
    JSONL = "jsonl"


def export(
    to: Annotated[Path, typer.Option(help="A directory only for the export. It is created.")],
    format_: Annotated[_Format, typer.Option("--format")] = _Format.PARQUET,
    after: Annotated[int, typer.Option(min=0, help="For a new directory: only events after this position.")] = 0,
) -> None:
    """Write the public events and a summary of each order as files. Run again, it adds what is new.

    There is a folder for each event, with a folder for each date (UTC) in it: docs/analytics.md has queries.
    Confidential fields are left out. If an export was stopped, the next one continues it. If there are several
    databases, each has its own folder, shard=NUMBER.
    """
    with installation(Settings.from_environment(), kafka=False) as settings:
        for shard in up_to_date(settings):
            folder = shard.shard.folder(to)
            with OrderStore(shard.database, shard.master_keys) as store, _progress() as bar:
                task = bar.add_task("exporting")
                exported = write(store, folder, format_, after, partial(_update, bar, task))
            say(
                f"{exported.events:,} events added, {exported.orders:,} orders' summaries renewed in {folder}. "
                f"Position: {exported.position:,}."
            )


def _update(bar: Progress, task: TaskID, done: int, total: int) -> None:
    bar.update(task, completed=done, total=total)


def _progress() -> Progress:
    return Progress(console=Terminal(stderr=True), disable=not sys.stderr.isatty(), transient=True)
