"""Master keys: they wrap the orders' keys and lie outside the database, so that a copy of it alone gives no texts."""

import hashlib
import os
import re
from collections.abc import Iterable, Sequence
from typing import Any

import psycopg
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg.rows import tuple_row

_BYTES = 32
_NONCE = 12
_is_key = re.compile(f"[0-9A-Fa-f]{{{2 * _BYTES}}}").fullmatch
NO_MASTER = ""
"""In the place of an id: the order's key lies as it is."""


class MasterKeyError(Exception):
    """A master key that is none, or that is missing: a sentence that says what to do."""


class MasterKeys:
    """The newest one first: it wraps, all unwrap. With none, orders' keys lie in the database as they are."""

    def __init__(self, keys: Iterable[bytes] = ()) -> None:
        self._keys = {_id(key): key for key in keys}

    @classmethod
    def parse(cls, text: str) -> "MasterKeys":
        """From lines of 64 hexadecimal digits. Raises MasterKeyError."""
        lines = text.split()
        if not lines or not all(map(_is_key, lines)):
            raise MasterKeyError("a master key is 64 hexadecimal digits, for instance from `openssl rand -hex 32`")
        return cls(map(bytes.fromhex, lines))

    @property
    def newest(self) -> str:
        """The id of the one that wraps."""
        return next(iter(self._keys), NO_MASTER)

    def wrap(self, order_id: str, number: int, key: bytes) -> bytes:
        """An order's key for the database, wrapped by the newest one."""
        if self.newest == NO_MASTER:
            return key
        nonce = os.urandom(_NONCE)
        return nonce + AESGCM(self._keys[self.newest]).encrypt(nonce, key, _about(order_id, number))

    def unwrap(self, order_id: str, number: int, master: str, wrapped: bytes) -> bytes:
        """Raises MasterKeyError where the master key is not among these, or the database was tampered with."""
        if master == NO_MASTER:
            return wrapped
        if master not in self._keys:
            raise _missing([master])
        try:
            return AESGCM(self._keys[master]).decrypt(wrapped[:_NONCE], wrapped[_NONCE:], _about(order_id, number))
        except InvalidTag:
            raise MasterKeyError(f"key {number} of order {order_id} was changed by somebody; restore it") from None

    def check(self, connection: psycopg.Connection[Any]) -> None:
        """Raises MasterKeyError where the database has keys that these do not unwrap, and psycopg.Error."""
        with connection.cursor(row_factory=tuple_row) as cursor:
            used = {master for (master,) in cursor.execute("SELECT master FROM master_keys")}
        if missing := sorted(used - self._keys.keys() - {NO_MASTER}):
            raise _missing(missing)

    def register(self, connection: psycopg.Connection[Any]) -> None:
        """Notes that the newest one wraps keys from now on. Raises as `check` does."""
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
