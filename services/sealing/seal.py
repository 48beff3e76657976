"""Texts of events, sealed with their order's key: AES-256-GCM, bound to the event they belong to.

A sealed event is stored under its name with `.v2`: the JSON of the event as it reads without its texts, and behind
that one member more, `sealed`, with the number of the key and what it seals.
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
    """What is sealed is not what was sealed."""


class RandomBytes:
    """The system's, drawn for many events at a time: whoever draws gives up the interpreter's lock, and has to wait for
    it behind the thread that judges the next commands. Not for two threads at a time, which might get the same."""

    def __init__(self) -> None:
        self._drawn = b""

    def take(self, count: int) -> bytes:
        """Bytes that nobody had before."""
        if len(self._drawn) < count:
            self._drawn = os.urandom(_DRAW)
        taken, self._drawn = self._drawn[:count], self._drawn[count:]
        return taken


def seal(event: Event, texts: Mapping[str, str], number: int, key: bytes, nonce: bytes) -> bytes:
    """The state to store of an event that has these texts. `nonce`: `NONCE_BYTES` that no other event has."""
    content = nonce + AESGCM(key).encrypt(nonce, encode_event(texts), _about(event))
    head = encode_event(without(event, texts))
    return b'%b%b%d:%b"}' % (head[:-1], _MEMBER, number, b64encode(content))


class Sealed(msgspec.Struct, gc=False):
    """Texts that are sealed in a stored event."""

    key_number: int
    content: bytes


def split(state: bytes) -> tuple[bytes, Sealed | None]:
    """Returns the event without its texts, and these as they are sealed, or None if it has none. Raises Broken.

    Nothing before the member can look like it, since there a quote has a backslash before it.
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
    """The texts, as a JSON object by the fields' names. Raises Broken."""
    try:
        return AESGCM(key).decrypt(content[:NONCE_BYTES], content[NONCE_BYTES:], _about(bare))
    except (InvalidTag, ValueError):
        raise Broken("what is sealed was changed by somebody, or is another event's") from None


def _about(event: Event) -> bytes:
    return f"{event.originator_id}:{event.originator_version}:{type(event).__name__}".encode()
