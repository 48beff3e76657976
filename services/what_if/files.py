"""Writes a what-if as files: the report, the orders that differ, and all events under the other terms."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

import msgspec

from services.failures import Misuse
from services.orders.events import Event
from services.orders.public_events import event_message
from services.orders.texts import without_texts

from .report import Report, described


class Files:
    """The files of a what-if, in a new directory."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._events = (folder / "events.jsonl").open("xb")

    def write(self, event: Event) -> None:
        """Writes an event as it would have been published, without texts: an erasure may have removed them."""
        self._events.write(event_message(without_texts(event)) + b"\n")

    def finish(self, report: Report) -> None:
        """Writes the report, and the orders that differ."""
        (self._folder / "report.json").write_text(json.dumps(report.as_dict(), indent=1) + "\n")
        with (self._folder / "orders.jsonl").open("xb") as file:
            for difference in report.differences:
                file.write(msgspec.json.encode(described(difference)) + b"\n")

    def close(self) -> None:
        """Closes the file of events."""
        self._events.close()


@contextmanager
def new_files(folder: Path | None) -> Iterator[Files | None]:
    """Makes a directory for the files, or none if `folder` is None. Only a run that ends leaves one.

    Raises Misuse if it exists, and OSError.
    """
    if folder is None:
        yield None
        return
    if os.path.lexists(folder):
        raise Misuse(f"{folder} exists. Name a new directory.")
    folder.parent.mkdir(parents=True, exist_ok=True)
    unfinished = Path(mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    unfinished.chmod(0o755)
    files = Files(unfinished)
    try:
        yield files
        files.close()
        unfinished.rename(folder)
    finally:
        files.close()
        shutil.rmtree(unfinished, ignore_errors=True)
