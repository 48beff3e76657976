"""Verifies a file of checkpoints: each must be signed by a trusted key, and must follow the one before it."""

from collections.abc import Iterable, Iterator

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from services.eventstore.checkpoint_chain import NO_PREVIOUS, Checkpoint, NoCheckpoint, key_id, line_hash, parse

from .listing import ranges
from .tampering import Tampering


class Chain:
    """Follows a file from its first line. `covered` is the last event that the checkpoints so far cover."""

    def __init__(self, trusted: Iterable[Ed25519PublicKey], found: Tampering, split: int = 0) -> None:
        """`found` gets what is wrong. `split`: the last event before a split: a chain may begin with the next one."""
        self._keys = {key_id(key): key for key in trusted}
        self._replaced: dict[str, int] = {}
        self._found = found
        self._last: Checkpoint | None = None
        self._last_hash = NO_PREVIOUS
        self._split = split
        self.covered = 0

    def follow(self, lines: Iterable[bytes]) -> Iterator[Checkpoint]:
        """Yields the checkpoints that can be compared with the events. Adds what is wrong with others to `found`."""
        for line_number, line in enumerate(lines, 1):
            checkpoint = self._signed(line_number, line.removesuffix(b"\n"))
            if checkpoint is not None and self._follows(checkpoint):
                self._change_keys(checkpoint)
                self._last, self._last_hash = checkpoint, line_hash(line.removesuffix(b"\n"))
                self.covered = checkpoint.last
                yield checkpoint

    @property
    def last(self) -> Checkpoint | None:
        """The last checkpoint of the file, or None if it has none."""
        return self._last

    def _signed(self, line_number: int, line: bytes) -> Checkpoint | None:
        try:
            checkpoint = parse(line)
        except NoCheckpoint:
            self._found.differs(f"line {line_number} is not a checkpoint: it was edited or cut off")
            return None
        who = f"checkpoint {checkpoint.number} in line {line_number}"
        if checkpoint.key in self._replaced:
            at = self._replaced[checkpoint.key]
            self._found.differs(f"{who} is signed by key {checkpoint.key}, which another replaced in checkpoint {at}")
        elif checkpoint.key not in self._keys:
            self._found.differs(
                f"{who} is signed by key {checkpoint.key}, which is not yours and which no checkpoint before announces"
            )
        elif not checkpoint.signed_by(self._keys[checkpoint.key]):
            self._found.differs(f"{who} was not signed by key {checkpoint.key}: it is forged, or was edited")
        else:
            return checkpoint
        return None

    def _follows(self, checkpoint: Checkpoint) -> bool:
        number, expected = checkpoint.number, 1 if self._last is None else self._last.number + 1
        if number == 1 == expected and checkpoint.first == self._split + 1:
            self.covered = self._split
        if number < expected:
            self._found.differs(f"checkpoint {number} comes again, or too late: {expected} is due")
            return False
        if number > expected:
            events = ranges("event", range(self.covered + 1, checkpoint.first))
            missing = ranges("checkpoint", range(expected, number))
            self._found.differs(f"{missing} missing: nothing here proves {events}")
        elif checkpoint.previous != self._last_hash or checkpoint.first != self.covered + 1:
            self._found.differs(
                f"checkpoint {number} does not follow from the one before it: one of them was exchanged"
            )
        return True

    def _change_keys(self, checkpoint: Checkpoint) -> None:
        if self._last is not None and self._last.key != checkpoint.key:
            self._replaced[self._last.key] = checkpoint.number
        if checkpoint.next_key is not None:
            key = Ed25519PublicKey.from_public_bytes(bytes.fromhex(checkpoint.next_key))
            self._keys[key_id(key)] = key
            self._replaced.pop(key_id(key), None)
