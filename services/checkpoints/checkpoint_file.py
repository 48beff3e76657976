"""A file with the same checkpoints as the topic, a line each: for auditors who have no Kafka."""

import fcntl
import os
from pathlib import Path
from typing import BinaryIO

from services.eventstore.checkpoint_chain import NO_PREVIOUS, NoCheckpoint, line_hash, parse

_REACH = 1024 * 1024
"""In bytes: more than the longest line has."""


class CheckpointFileError(Exception):
    """A file that this chain cannot be continued in: a sentence that says why, and what to do."""


class LinesMissing(Exception):
    """The file lacks checkpoints before the one to add."""


class CheckpointFile:
    """Appended to by whoever has published; two processes that do so at once add each checkpoint once."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def append(self, line: bytes) -> None:
        """Adds a checkpoint unless it is there; a line that was cut off by a crash gives way.

        Raises LinesMissing, CheckpointFileError and OSError.
        """
        checkpoint = parse(line)
        with self._file.open("ab+") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # until it is closed
            number, last_hash = self._end(stream)
            if checkpoint.number <= number:
                return
            if checkpoint.number > number + 1:
                raise LinesMissing(f"{self._file} ends with checkpoint {number}")
            if checkpoint.previous != last_hash:
                raise CheckpointFileError(f"{self._file} is of another chain. Name another RESOLUTION_CHECKPOINT_FILE.")
            stream.write(line + b"\n")
            stream.flush()
            os.fsync(stream.fileno())

    def _end(self, stream: BinaryIO) -> tuple[int, str]:
        """The number of the last checkpoint and what follows names as `previous`."""
        size = stream.seek(0, os.SEEK_END)
        start = stream.seek(max(0, size - _REACH))
        end = stream.read()
        whole = end[: end.rfind(b"\n") + 1]
        if len(whole) < len(end):
            stream.truncate(start + len(whole))
        if not whole:
            return 0, NO_PREVIOUS
        line = whole[:-1].rpartition(b"\n")[2]
        try:
            return parse(line).number, line_hash(line)
        except NoCheckpoint as error:
            raise CheckpointFileError(
                f"{self._file} does not end with a checkpoint ({error}). Name another RESOLUTION_CHECKPOINT_FILE."
            ) from None
