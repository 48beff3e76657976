"""How far a command has come that goes through the events: a bar on a terminal, JSON lines for programs."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


@contextmanager
def events_progress(as_json: bool, what: str = "events") -> Iterator[Callable[[int, int], None]]:
    """Yields what is to be told how many events, or what else is counted, are done, and of how many."""
    if as_json:
        yield lambda done, of: print(json.dumps({what: done, "of": of}), flush=True)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)
