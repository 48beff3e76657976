"""Apache Kafka's jars: resolved once from Maven Central by jgo, kept in a folder that all data folders share."""

import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jgo
import platformdirs
from fasteners import InterProcessLock
from rich.console import Console  # noqa: TID251  # it prints names of files
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from .errors import ServerError

VERSION = "4.4.0"
_KAFKA = f"org.apache.kafka:kafka_2.13:{VERSION}"
_LOGGING = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5"  # of the log4j that Kafka brings; it has no log otherwise


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """For jgo, which fails where two processes fetch the same file. Raises OSError."""
    folder = _cache()
    folder.mkdir(parents=True, exist_ok=True)
    with InterProcessLock(folder / "jgo.lock"):
        yield


def fetch(say: Callable[[str], None]) -> list[Path]:
    """The jars of the class path; downloads them the first time, with progress. Raises ServerError."""
    folder = _cache() / f"kafka-{VERSION}"
    if not folder.exists():
        try:
            with one_at_a_time():
                if not folder.exists():
                    _download(folder, say)
        except OSError as error:  # requests' errors are OSErrors too
            raise ServerError(
                f"Apache Kafka {VERSION} cannot be had in {folder.parent}: {error}. It needs Maven Central once, "
                "and a cache folder to write to (RESOLUTION_CACHE_DIR); or set RESOLUTION_KAFKA_SERVERS to a cluster."
            ) from error
    return sorted(folder.glob("*.jar"))


def _cache() -> Path:
    given = os.environ.get("RESOLUTION_CACHE_DIR")
    return Path(given) if given else platformdirs.user_cache_path("resolution-center")


def _download(folder: Path, say: Callable[[str], None]) -> None:
    """Into a folder beside, which takes its name when it is whole."""
    say(f"Fetching Apache Kafka {VERSION}, once")
    new = Path(tempfile.mkdtemp(prefix="kafka-", dir=folder.parent))
    try:
        try:
            # One after the other: together, log4j's own dependency management would choose Kafka's client.
            artifacts = [*jgo.resolve(_KAFKA), jgo.resolve(_LOGGING)[0]]
        except (RuntimeError, ValueError) as error:
            raise OSError(str(error)) from error
        _copy(artifacts, new)
        new.rename(folder)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _copy(artifacts: list[Any], folder: Path) -> None:
    console = Console(stderr=True)
    columns = (TextColumn("Apache Kafka"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.description}"))
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("", total=len(artifacts))
        for number, artifact in enumerate(artifacts, 1):
            progress.update(task, description=artifact.artifactId)
            source = Path(artifact.resolve())
            shutil.copyfile(source, folder / source.name)
            progress.advance(task)
            if not console.is_terminal and number % 15 == 0:
                print(f"  {number} of {len(artifacts)} jars", file=sys.stderr)
