"""`resolution export`: history as files for analysts."""

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
    to: Annotated[Path, typer.Option(help="A directory of the export's own; it is created.")],
    format_: Annotated[_Format, typer.Option("--format")] = _Format.PARQUET,
    after: Annotated[int, typer.Option(min=0, help="Into a new directory: only events after this position.")] = 0,
) -> None:
    """Write the public events and a summary of each order as files; again, only what is new since.

    One folder for each event, with a folder for each date (UTC) in it: docs/analytics.md has queries. Confidential
    fields are left out. An export that was stopped goes on where it was. Of several databases each has a folder of its
    own, shard=NUMBER.
    """
    with installation(Settings.from_environment(), kafka=False) as settings:
        for one in up_to_date(settings):
            folder = one.shard.folder(to)
            with OrderStore(one.database, one.master_keys) as store, _progress() as bar:
                task = bar.add_task("exporting")
                done = write(store, folder, format_, after, partial(_tell, bar, task))
            say(
                f"{done.events:,} events added, {done.orders:,} orders' summaries renewed in {folder}. "
                f"Position: {done.position:,}."
            )


def _tell(bar: Progress, task: TaskID, done: int, of: int) -> None:
    bar.update(task, completed=done, total=of)


def _progress() -> Progress:
    return Progress(console=Terminal(stderr=True), disable=not sys.stderr.isatty(), transient=True)
