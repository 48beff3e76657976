"""A checkpoint: what it says, how it is signed, and what it follows. No Kafka, no SQL, no files."""

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

NOTHING_BEFORE = "0" * 64
"""What the first checkpoint names as the one before it."""

Hex = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]

_TAG_BYTES = 4
_NUMBER_BYTES = 4 + 8
"""The length and the value of a row's last column, notification_id."""
_encode = msgspec.json.Encoder().encode


class Statement(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is signed: its JSON, without spaces, the fields in this order. Hashes and keys are hexadecimal."""

    format: Literal["resolution.checkpoint.v1"] = "resolution.checkpoint.v1"
    number: int
    previous: Hex
    """SHA-256 of the line of the checkpoint before."""
    first: int
    """The number of the first event that this checkpoint covers."""
    last: int
    """The number of the last one, or `first` - 1 if it covers none."""
    salt: Hex
    """SHA-256 of the salt."""
    events: Hex
    """SHA-256 of the salt and each event's row, in their order, as `read_events.copy_events` streams them."""
    tags: str
    """For each event the first four bytes of SHA-256 of the salt and its row without the number, in Base64. They prove
    nothing. They show which event differs if `events` does."""
    at: str
    """Real time."""
    key: str
    """The id of the key that signs."""
    next_key: Hex | None = None
    """The public key that may sign the checkpoints that follow, if there is to be another."""


class Checkpoint(Statement, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A statement and its Ed25519 signature."""

    signature: str

    def signed_by(self, key: Ed25519PublicKey) -> bool:
        """Whether the signature is that of this key over the rest of the checkpoint."""
        values = structs.asdict(self)
        signature = values.pop("signature")
        try:
            key.verify(bytes.fromhex(signature), _encode(Statement(**values)))
        except (InvalidSignature, ValueError):
            return False
        return True

    def tag_of_each(self) -> dict[int, bytes]:
        """By notification id; empty where the tags are not as many as the events."""
        try:
            tags = base64.b64decode(self.tags, validate=True)
        except binascii.Error:
            return {}
        if len(tags) != _TAG_BYTES * (self.last + 1 - self.first):
            return {}
        return {
            number: tags[at : at + _TAG_BYTES]
            for number, at in zip(range(self.first, self.last + 1), range(0, len(tags), _TAG_BYTES), strict=True)
        }


class NoCheckpoint(ValueError):
    """Bytes that are not a checkpoint, or not in the one form that it is written in."""


class StoreHasGap(Exception):
    """An event is missing in the store that no checkpoint covers yet."""


class Hashes:
    """Of some events: what a checkpoint says about them."""

    def __init__(self, salt: bytes) -> None:
        self._salted = hashlib.sha256(salt)

    def of_all(self, rows: Iterable[CopiedRow], first: int) -> tuple[str, str, int]:
        """The `events` and `tags` of a checkpoint, and the last event's id.

        Raises StoreHasGap where the ids do not follow one another from `first`.
        """
        everything, tags, expected = self._salted.copy(), bytearray(), first
        for row in rows:
            if (found := notification_id(row)) != expected:
                raise StoreHasGap(
                    f"Event {expected} is missing in the store; {found} is the next one. Somebody has deleted it: "
                    "nothing is signed until it is there again."
                )
            everything.update(row)
            tags += self.tag(row)
            expected += 1
        return everything.hexdigest(), base64.b64encode(tags).decode(), expected - 1

    def of_rows(self, rows: Iterable[CopiedRow]) -> str:
        """The `events` of a checkpoint, whatever their ids."""
        everything = self._salted.copy()
        for row in rows:
            everything.update(row)
        return everything.hexdigest()

    def tag(self, row: CopiedRow) -> bytes:
        """The bytes that tell an event's row from others, whatever its event number is."""
        own = self._salted.copy()
        own.update(row[:-_NUMBER_BYTES])
        return own.digest()[:_TAG_BYTES]


class Signer:
    """Writes checkpoints of one database. `announced`: the key to sign with next, if that is known.

    `first`: the first event that the database has to have: of those before a split others have some.
    """

    def __init__(self, key: Ed25519PrivateKey, announced: Ed25519PublicKey | None, salt: bytes, first: int = 1) -> None:
        self._key = key
        self._first = first
        self._salt_hash = salt_hash(salt)
        self.hashes = Hashes(salt)
        self.key_id = key_id(key.public_key())
        self.public_key = key.public_key().public_bytes_raw().hex()
        self.announced = None if announced is None else announced.public_bytes_raw().hex()

    def covered(self, last: Checkpoint | None) -> int:
        """The event up to which the checkpoints go, or that the first one comes behind."""
        return self._first - 1 if last is None else last.last

    def sign(self, before: Checkpoint | None, rows: Iterable[CopiedRow], at: datetime) -> Checkpoint:
        """The checkpoint of these events, which follow those of the one before. Raises StoreHasGap."""
        first = self.covered(before) + 1
        events, tags, last = self.hashes.of_all(rows, first)
        statement = Statement(
            number=1 if before is None else before.number + 1,
            previous=NOTHING_BEFORE if before is None else line_hash(line(before)),
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
    """A checkpoint as it goes on Kafka and, with a newline behind it, into files."""
    return _encode(checkpoint)


def line_hash(line: bytes) -> str:
    """What the next checkpoint names as `previous`."""
    return hashlib.sha256(line).hexdigest()


def parse(line: bytes) -> Checkpoint:
    """Raises NoCheckpoint also for JSON that `line` would write otherwise: there is one form only."""
    try:
        checkpoint = msgspec.json.decode(line, type=Checkpoint)
    except msgspec.MsgspecError as error:
        raise NoCheckpoint(str(error)) from None
    if _encode(checkpoint) != line:
        raise NoCheckpoint("not in the form that checkpoints are written in")
    return checkpoint


def salt_hash(salt: bytes) -> str:
    """SHA-256 of a salt, in hexadecimal digits."""
    return hashlib.sha256(salt).hexdigest()


def key_id(key: Ed25519PublicKey) -> str:
    """The first 16 hexadecimal digits of SHA-256 of the public key's 32 bytes."""
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:16]
