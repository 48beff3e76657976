"""Master keys wrap order keys. They are outside the database, so that nobody can read texts from a copy of it alone."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg.rows import tuple_row

from services.failures import Failure

_BYTES = 32
_NONCE = 12
_is_key = re.compile(f"[0-9A-Fa-f]{{{2 * _BYTES}}}").fullmatch
NO_MASTER = ""
"""The id that stands for no master key: the order key is stored unwrapped."""


class MasterKeyError(Failure):
    """A master key is malformed or missing. The text says what to do."""


class MasterKeys:
    """The master keys, newest first. The newest wraps, all unwrap. Without any, order keys are stored unwrapped."""

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        self._keys = {_id(key): key for key in keys}

    @classmethod
    def parse(cls, text: str) -> "MasterKeys":
        """Reads keys from lines of 64 hexadecimal digits. Raises MasterKeyError."""
        lines = text.split()
        if not lines or not all(map(_is_key, lines)):
            raise MasterKeyError("a master key is 64 hexadecimal digits, for instance from `openssl rand -hex 32`")
        return cls(map(bytes.fromhex, lines))

    @property
    def newest(self) -> str:
        """The id of the key that wraps, or `NO_MASTER`."""
        return next(iter(self._keys), NO_MASTER)

    def wrap(self, order_id: str, number: int, key: bytes) -> bytes:
        """Returns an order key as it is stored: wrapped with the newest master key."""
        if self.newest == NO_MASTER:
            return key
        nonce = os.urandom(_NONCE)
        return nonce + AESGCM(self._keys[self.newest]).encrypt(nonce, key, _about(order_id, number))

    def unwrap(self, order_id: str, number: int, master: str, wrapped: bytes) -> bytes:
        """Returns a stored order key. Raises MasterKeyError if its master key is missing, or the row was changed."""
        if master == NO_MASTER:
            return wrapped
        if master not in self._keys:
            raise _missing([master])
        try:
            return AESGCM(self._keys[master]).decrypt(wrapped[:_NONCE], wrapped[_NONCE:], _about(order_id, number))
        except InvalidTag:
            raise MasterKeyError(f"key {number} of order {order_id} was changed by somebody; restore it") from None

    def check(self, connection: psycopg.Connection[Any]) -> None:
        """Raises MasterKeyError if the database has order keys that these cannot unwrap, and psycopg.Error."""
        with connection.cursor(row_factory=tuple_row) as cursor:
            used = {master for (master,) in cursor.execute("SELECT master FROM master_keys")}
        if missing := sorted(used - self._keys.keys() - {NO_MASTER}):
            raise _missing(missing)

    def register(self, connection: psycopg.Connection[Any]) -> None:
        """Notes that the newest master key wraps order keys from now on. Raises as `check` does."""
        self.check(connection)
        connection.execute("INSERT INTO master_keys VALUES (%s) ON CONFLICT DO NOTHING", (self.newest,))


def _missing(masters: Sequence[str]) -> MasterKeyError:
    return MasterKeyError(
        f"this database has keys that the master key {', '.join(masters)} wraps. Name it as well, in "
        "RESOLUTION_MASTER_KEY or the file RESOLUTION_MASTER_KEY_FILE, a line each, the newest first"
    )


def _id(key: bytes) -> str:
    return hashlib.sha256(b"resolution master key " + key).hexdigest()[:8]


def _about(order_id: str, number: int) -> bytes:
    return f"{order_id}:{number}".encode()
