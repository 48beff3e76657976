"""Shows the progress of a command: a bar on a terminal, JSON lines for programs."""

import json
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from .terminal import Terminal, say


@contextmanager
def events_progress(
    as_json: bool, what: str = "events", *, hidden: bool = False
) -> Iterator[Callable[[int, int], None]]:
    """Yields a function that shows progress. Call it with the number that is done and the total.

    `what` says what is counted. `hidden` shows nothing to people.
    """
    if as_json:
        yield lambda done, of: say(json.dumps({what: done, "of": of}))
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    hidden = hidden or not sys.stderr.isatty()
    # Leave stdout alone, because it may be redirected to a file: Rich would print it above the bar, on stderr.
    with Progress(*columns, console=Terminal(stderr=True), disable=hidden, redirect_stdout=False) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, of: bar.update(task, completed=done, total=of)
