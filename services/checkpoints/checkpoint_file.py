"""A file with the same checkpoints as the topic, one per line, for auditors who have no access to Kafka."""

import fcntl
import os
from pathlib import Path
from typing import BinaryIO

from services.eventstore.checkpoint_chain import NO_PREVIOUS, NoCheckpoint, line_hash, parse

_TAIL_BYTES = 1024 * 1024
"""More bytes than the longest line has."""


class CheckpointFileError(Exception):
    """The chain cannot be continued in this file. The text says why, and what to do."""


class LinesMissing(Exception):
    """The file lacks checkpoints before the one to add."""


class CheckpointFile:
    """The file. If two processes append the same checkpoint at once, the file gets it once."""

    def __init__(self, file: Path) -> None:
        self._file = file

    def append(self, line: bytes) -> None:
        """Adds a checkpoint unless the file has it. Removes a last line that a crash has cut off.

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
        """Returns the number of the last checkpoint and the `previous` of the next one."""
        size = stream.seek(0, os.SEEK_END)
        start = stream.seek(max(0, size - _TAIL_BYTES))
        end = stream.read()
        complete = end[: end.rfind(b"\n") + 1]
        if len(complete) < len(end):
            stream.truncate(start + len(complete))
        if not complete:
            return 0, NO_PREVIOUS
        line = complete[:-1].rpartition(b"\n")[2]
        try:
            return parse(line).number, line_hash(line)
        except NoCheckpoint as error:
            raise CheckpointFileError(
                f"{self._file} does not end with a checkpoint ({error}). Name another RESOLUTION_CHECKPOINT_FILE."
            ) from None
