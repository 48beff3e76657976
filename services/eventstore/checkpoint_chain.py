"""Checkpoints: their content, their signatures, and how each names the one before. No Kafka, no SQL and no files."""

import base64
import binascii
import hashlib
from collections.abc import Iterable
from datetime import datetime
from typing import Annotated, Literal

import msgspec
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from msgspec import structs
from resolution_contracts.values import format_instant

from .database import CopiedRow

NO_PREVIOUS = "0" * 64
"""The `previous` of the first checkpoint."""

Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]

_TAG_BYTES = 4
_NUMBER_BYTES = 4 + 8
"""The length and the value of a row's last column, notification_id."""
_encode = msgspec.json.Encoder().encode


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is signed: the JSON of these fields, in this order, without spaces. Hashes and keys are hexadecimal."""

    format: Literal["resolution.checkpoint.v1"] = "resolution.checkpoint.v1"
    """The version of the format."""
    number: int
    """The checkpoint's number, from 1."""
    previous: Hex
    """SHA-256 of the previous checkpoint's line."""
    first: int
    """The number of the first event that this checkpoint covers."""
    last: int
    """The number of the last event that this checkpoint covers, or `first` - 1 if it covers none."""
    salt: Hex
    """SHA-256 of the salt."""
    events: Hex
    """SHA-256 of the salt and the events' rows, as `read_events.copy_events` streams them."""
    tags: str
    """For each event, the first four bytes of SHA-256 of the salt and the row without its event number. All in Base64.
    Tags prove nothing: they show which event differs if `events` does."""
    at: str
    """When the checkpoint was signed, in real time."""
    key: str
    """The id of the key that signs."""
    next_key: Hex | None = None
    """The public key that may sign the next checkpoints, if the installation has announced a new key."""


class Checkpoint(Statement, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A statement and its Ed25519 signature."""

    signature: str

    def signed_by(self, key: Ed25519PublicKey) -> bool:
        """Whether this key signed the checkpoint."""
        values = structs.asdict(self)
        signature = values.pop("signature")
        try:
            key.verify(bytes.fromhex(signature), _encode(Statement(**values)))
        except (InvalidSignature, ValueError):
            return False
        return True

    def tag_of_each(self) -> dict[int, bytes]:
        """Returns the tags by event number, or nothing if there are more or fewer tags than events."""
        try:
            tags = base64.b64decode(self.tags, validate=True)
        except binascii.Error:
            return {}
        if len(tags) != _TAG_BYTES * (self.last + 1 - self.first):
            return {}
        return {
            number: tags[start : start + _TAG_BYTES]
            for number, start in zip(range(self.first, self.last + 1), range(0, len(tags), _TAG_BYTES), strict=True)
        }


class NoCheckpoint(ValueError):
    """The bytes are not a checkpoint, or not in the form in which checkpoints are written."""


class StoreHasGap(Exception):
    """The store has lost an event that no checkpoint covers yet."""


class Hashes:
    """Computes what a checkpoint says about events."""

    def __init__(self, salt: bytes) -> None:
        self._salted = hashlib.sha256(salt)

    def of_all(self, rows: Iterable[CopiedRow], first: int) -> tuple[str, str, int]:
        """Returns the `events` and `tags` of a checkpoint, and the last event's number.

        Raises StoreHasGap if the numbers do not run from `first` without a gap.
        """
        total, tags, expected = self._salted.copy(), bytearray(), first
        for row in rows:
            if (number := notification_id(row)) != expected:
                raise StoreHasGap(
                    f"Event {expected} is missing in the store; {number} is the next one. Somebody has deleted it: "
                    "nothing is signed until it is there again."
                )
            total.update(row)
            tags += self.tag(row)
            expected += 1
        return total.hexdigest(), base64.b64encode(tags).decode(), expected - 1

    def of_rows(self, rows: Iterable[CopiedRow]) -> str:
        """Returns the `events` of a checkpoint. Does not check the event numbers."""
        total = self._salted.copy()
        for row in rows:
            total.update(row)
        return total.hexdigest()

    def tag(self, row: CopiedRow) -> bytes:
        """Returns an event's tag, which does not depend on its event number."""
        row_hash = self._salted.copy()
        row_hash.update(row[:-_NUMBER_BYTES])
        return row_hash.digest()[:_TAG_BYTES]


class Signer:
    """Signs the checkpoints of one database."""

    def __init__(self, key: Ed25519PrivateKey, announced: Ed25519PublicKey | None, salt: bytes, first: int = 1) -> None:
        """`announced`: the public key that will sign later checkpoints, if known.

        `first`: the number of the first event that only this database has. After a split, earlier events may be in
        other databases.
        """
        self._key = key
        self._first = first
        self._salt_hash = salt_hash(salt)
        self.hashes = Hashes(salt)
        self.key_id = key_id(key.public_key())
        self.public_key = key.public_key().public_bytes_raw().hex()
        self.announced = None if announced is None else announced.public_bytes_raw().hex()

    def covered(self, last: Checkpoint | None) -> int:
        """Returns the number of the last event that is covered. Without a checkpoint: of the event before the first."""
        return self._first - 1 if last is None else last.last

    def sign(self, before: Checkpoint | None, rows: Iterable[CopiedRow], at: datetime) -> Checkpoint:
        """Returns the signed checkpoint of the events that follow those of checkpoint `before`. Raises StoreHasGap."""
        first = self.covered(before) + 1
        events, tags, last = self.hashes.of_all(rows, first)
        statement = Statement(
            number=1 if before is None else before.number + 1,
            previous=NO_PREVIOUS if before is None else line_hash(line(before)),
            first=first,
            last=last,
            salt=self._salt_hash,
            events=events,
            tags=tags,
            at=format_instant(at),
            key=self.key_id,
            next_key=self.announced,
        )
        signature = self._key.sign(_encode(statement)).hex()
        return Checkpoint(**structs.asdict(statement), signature=signature)


def notification_id(row: CopiedRow) -> int:
    """Returns the number of an event that `copy_events` streamed."""
    return int.from_bytes(row[-8:], "big", signed=True)


def line(checkpoint: Checkpoint) -> bytes:
    """Returns a checkpoint as the role publishes it. Files have it with a newline at the end."""
    return _encode(checkpoint)


def line_hash(line: bytes) -> str:
    """Returns the `previous` of the next checkpoint."""
    return hashlib.sha256(line).hexdigest()


def parse(line: bytes) -> Checkpoint:
    """Decodes a checkpoint's line. Raises NoCheckpoint, even for valid JSON that differs from what `line` writes."""
    try:
        checkpoint = msgspec.json.decode(line, type=Checkpoint)
    except msgspec.MsgspecError as error:
        raise NoCheckpoint(str(error)) from None
    if _encode(checkpoint) != line:
        raise NoCheckpoint("not in the form that checkpoints are written in")
    return checkpoint


def salt_hash(salt: bytes) -> str:
    """Returns the SHA-256 of a salt, in hexadecimal digits."""
    return hashlib.sha256(salt).hexdigest()


def key_id(key: Ed25519PublicKey) -> str:
    """Returns the id of a key: the first 16 hexadecimal digits of SHA-256 of the public key's 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]
