"""How files of a directory appear for its readers: together, once all of them are written.

Until then they are in a folder of their own, under names that end with `.new`. A dot before a name would not be
enough: DuckDB's patterns find such files, too.
"""

import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_FOLDER = ".unfinished-"
_NEW = ".new"
_COMPLETE = "complete"


class Staging:
    """The files that are to go into a directory. They outlive the process that writes them.

    `position` is where an export to it goes on; 0 for others.
    """

    def __init__(self, directory: Path, position: int = 0) -> None:
        self._directory = directory
        self._folder = directory / f"{_FOLDER}{position:012}"

    def path(self, name: str) -> Path:
        """Where the file with this name is for now. A name may have folders before it."""
        return self._folder / f"{name}{_NEW}"

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """A file to write. One that was there is replaced when it is written, or not at all."""
        half = self._folder / f"{name}.half"
        half.parent.mkdir(parents=True, exist_ok=True)
        yield half
        half.replace(self.path(name))

    def replace(self, name: str, content: bytes) -> None:
        """Stages a file with this content, in place of one of the same name."""
        with self.file(name) as file:
            file.write_bytes(content)

    def names(self, pattern: str) -> Iterator[str]:
        """Of the files that match, without folders."""
        return (file.name.removesuffix(_NEW) for file in self._folder.rglob(f"{pattern}{_NEW}"))

    def publish(self, last: str) -> None:
        """Gives all files their places; the one named `last` comes last."""
        (self._folder / _COMPLETE).touch()
        _finish(self._folder, self._directory, last)

    def discard(self) -> None:
        """Deletes them."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def discard_others(self) -> None:
        """Deletes what exports from other positions have left."""
        for folder in self._directory.glob(f"{_FOLDER}*"):
            if folder != self._folder:
                shutil.rmtree(folder)


def finish_killed(directory: Path, position: Callable[[], int | None], last: str) -> None:
    """Ends an export that was killed while its files got their places.

    `position` gives the one up to which the directory is complete, or None.
    """
    for folder in directory.glob(f"{_FOLDER}*"):
        if (folder / _COMPLETE).exists() and position() in (None, int(folder.name.removeprefix(_FOLDER))):
            _finish(folder, directory, last)


def is_of_staging(entry: Path) -> bool:
    """Whether an entry of a directory is what a Staging has left there."""
    return entry.name.startswith(_FOLDER)


def _finish(folder: Path, directory: Path, last: str) -> None:
    targets = {file: directory / file.relative_to(folder).with_suffix("") for file in folder.rglob(f"*{_NEW}")}
    for target in targets.values():
        target.parent.mkdir(parents=True, exist_ok=True)
    for file in sorted(targets, key=lambda file: targets[file].name == last):
        file.replace(targets[file])
    shutil.rmtree(folder)


@contextmanager
def alone(directory: Path) -> Iterator[bool]:
    """Whether no other process is in such a block for this directory. One that was killed is not."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        is_alone = True
    except BlockingIOError:
        is_alone = False
    try:
        yield is_alone
    finally:
        os.close(descriptor)
