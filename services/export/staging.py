"""Makes new files of a directory appear together for its readers, once all of them are written.

Until then they are in a separate folder, under names that end with `.new`. Names that begin with a dot would not be
enough, because DuckDB's patterns find such files, too.
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
    """Files that will be moved into a directory. They outlive the process that writes them.

    `position` is the position that the export continues after, 0 for a new directory.
    """

    def __init__(self, directory: Path, position: int = 0) -> None:
        self._directory = directory
        self._folder = directory / f"{_FOLDER}{position:012}"

    def path(self, name: str) -> Path:
        """Returns the present path of the file with this name. A name may have folders."""
        return self._folder / f"{name}{_NEW}"

    @contextmanager
    def file(self, name: str) -> Iterator[Path]:
        """Yields the path of a file to write. It replaces an existing file only if the block does not raise."""
        half = self._folder / f"{name}.half"
        half.parent.mkdir(parents=True, exist_ok=True)
        yield half
        half.replace(self.path(name))

    def replace(self, name: str, content: bytes) -> None:
        """Stages a file with this content. Replaces a staged file of the same name."""
        with self.file(name) as file:
            file.write_bytes(content)

    def names(self, pattern: str) -> Iterator[str]:
        """Yields the names, without folders, of the staged files that match."""
        return (file.name.removesuffix(_NEW) for file in self._folder.rglob(f"{pattern}{_NEW}"))

    def files(self, pattern: str) -> dict[str, Path]:
        """Returns the path of each file whose name matches: the staged file, or else the directory's."""
        present = {str(file.relative_to(self._directory)): file for file in self._directory.glob(pattern)}
        staged = (file.relative_to(self._folder) for file in self._folder.glob(f"{pattern}{_NEW}"))
        return present | {str(name).removesuffix(_NEW): self._folder / name for name in staged}

    def publish(self, last: str) -> None:
        """Moves all files into the directory. Moves the file named `last` at the end."""
        (self._folder / _COMPLETE).touch()
        _finish(self._folder, self._directory, last)

    def discard(self) -> None:
        """Deletes the staged files."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def discard_others(self) -> None:
        """Deletes the staged files of exports from other positions."""
        for folder in self._directory.glob(f"{_FOLDER}*"):
            if folder != self._folder:
                shutil.rmtree(folder)


def finish_killed(directory: Path, position: Callable[[], int | None], last: str) -> None:
    """Finishes an export that was killed while its files were moved into the directory.

    `position()` returns the position up to which the directory is complete, or None.
    """
    for folder in directory.glob(f"{_FOLDER}*"):
        if (folder / _COMPLETE).exists() and position() in (None, int(folder.name.removeprefix(_FOLDER))):
            _finish(folder, directory, last)


def is_of_staging(entry: Path) -> bool:
    """Whether an entry of a directory is a folder of staged files."""
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
    """Yields whether this process alone is in such a block for the directory. A killed process does not count."""
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
