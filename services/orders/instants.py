"""Instants as text: the contract's format, at the speed of the hot path."""

from datetime import datetime

import msgspec

_encode = msgspec.json.Encoder().encode
_FULL = len("2026-01-31T12:00:00.000000Z")


def format_instant(instant: datetime) -> str:
    """An aware UTC instant as contract.md writes it: RFC 3339, always six decimals, `Z`."""
    text = _encode(instant).decode()[1:-1]
    return text if len(text) == _FULL else text[:19] + ".000000Z"
