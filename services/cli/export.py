"""`resolution export`: history as files for analysts."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import Progress

from services.export import export as write
from services.installation import installation
from services.settings import Settings
from services.store import OrderStore, migrate


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
    fields are left out. An export that was stopped goes on where it was.
    """
    with installation(Settings.from_environment(), kafka=False) as settings:
        migrate(settings.database)
        with OrderStore(settings.database, settings.master_keys) as store, _progress() as bar:
            task = bar.add_task("exporting")
            done = write(store, to, format_, after, lambda done, of: bar.update(task, completed=done, total=of))
    print(
        f"{done.events:,} events added, {done.orders:,} orders' summaries renewed in {to}. Position: {done.position:,}."
    )


def _progress() -> Progress:
    return Progress(console=Console(stderr=True), disable=not sys.stderr.isatty(), transient=True)
