"""Downloads Apache Kafka's jars once from Maven Central, with jgo, to a folder that all data folders share."""

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
_LOGGING = "org.apache.logging.log4j:log4j-slf4j-impl:2.25.5"  # without it Kafka has no log; the version is Kafka's


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Lets one process at a time use jgo, which fails if two processes fetch the same file. Raises OSError."""
    folder = _cache()
    folder.mkdir(parents=True, exist_ok=True)
    with InterProcessLock(folder / "jgo.lock"):
        yield


def fetch(say: Callable[[str], None]) -> list[Path]:
    """Returns the jars of the class path. Downloads them the first time, and shows progress. Raises ServerError."""
    folder = _cache() / f"kafka-{VERSION}"
    if not folder.exists():
        try:
            with one_at_a_time():
                if not folder.exists():
                    _download(folder, say)
        except OSError as error:  # requests' errors are OSErrors too
            raise ServerError(
                f"Apache Kafka {VERSION} cannot be downloaded to {folder.parent}: {error}. The download needs Maven "
                "Central and a cache folder to write to (RESOLUTION_CACHE_DIR). Or set RESOLUTION_KAFKA_SERVERS to a "
                "cluster."
            ) from error
    return sorted(folder.glob("*.jar"))


def _cache() -> Path:
    folder = os.environ.get("RESOLUTION_CACHE_DIR")
    return Path(folder) if folder else platformdirs.user_cache_path("resolution-center")


def _download(folder: Path, say: Callable[[str], None]) -> None:
    """Downloads to a temporary folder, and renames it to `folder` when it is complete."""
    say(f"Fetching Apache Kafka {VERSION}, once")
    new = Path(tempfile.mkdtemp(prefix="kafka-", dir=folder.parent))
    try:
        try:
            # Resolve one after the other. Together, log4j's dependency management would choose the Kafka client.
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
