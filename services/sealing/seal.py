"""Seals the texts of an event with the order's key: AES-256-GCM, bound to this event.

The topic of an event that can have texts ends in `.v2`. Its state is the JSON of the event with its texts erased, with
one more member at the end: `sealed` has the number of the key and the sealed texts.
"""

import os
from base64 import b64decode, b64encode
from binascii import Error as Base64Error
from collections.abc import Mapping

import msgspec
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.orders.events import Event
from services.orders.texts import without

KEY_BYTES = 32
NONCE_BYTES = 12
VERSION_2 = ".v2"
_DRAW = 1024
_MEMBER = b',"sealed":"'

encode_event = msgspec.json.Encoder().encode


class Broken(Exception):
    """The sealed texts were changed, or belong to another event."""


class RandomBytes:
    """Random bytes of the system, read for many events at once. Not thread-safe.

    Each read releases the interpreter's lock, and then waits for the thread that judges the next commands.
    """

    def __init__(self) -> None:
        self._drawn = b""

    def take(self, count: int) -> bytes:
        """Returns bytes that no earlier call returned."""
        if len(self._drawn) < count:
            self._drawn = os.urandom(_DRAW)
        taken, self._drawn = self._drawn[:count], self._drawn[count:]
        return taken


def seal(event: Event, texts: Mapping[str, str], number: int, key: bytes, nonce: bytes) -> bytes:
    """Returns the state to store for an event with these texts. `nonce`: `NONCE_BYTES` bytes, unique to the event."""
    content = nonce + AESGCM(key).encrypt(nonce, encode_event(texts), _about(event))
    head = encode_event(without(event, texts))
    return b'%b%b%d:%b"}' % (head[:-1], _MEMBER, number, b64encode(content))


class Sealed(msgspec.Struct, gc=False):
    """The sealed texts of a stored event."""

    key_number: int
    content: bytes


def split(state: bytes) -> tuple[bytes, Sealed | None]:
    """Returns the JSON of the event with erased texts, and its sealed texts, or None if it has none. Raises Broken.

    No text before the member can look like it, because JSON puts a backslash before a quote in a text.
    """
    head, member, sealed = state.rpartition(_MEMBER)
    if not member:
        return state, None
    try:
        number, content = sealed.removesuffix(b'"}').split(b":")
        return head + b"}", Sealed(int(number), b64decode(content, validate=True))
    except (ValueError, Base64Error):
        raise Broken("what is sealed is not as this version seals it") from None


def unseal(bare: Event, content: bytes, key: bytes) -> bytes:
    """Returns the texts as a JSON object, by field name. Raises Broken."""
    try:
        return AESGCM(key).decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], _about(bare))
    except (InvalidTag, ValueError):
        raise Broken("what is sealed was changed by somebody, or is another event's") from None


def _about(event: Event) -> bytes:
    return f"{event.originator_id}:{event.originator_version}:{type(event).__name__}".encode()
