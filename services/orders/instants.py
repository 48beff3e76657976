"""Formats instants as the contract prescribes, faster than `resolution_contracts.values.format_instant`."""

from datetime import datetime

import msgspec

_encode = msgspec.json.Encoder().encode
_FULL = len("2026-01-31T12:00:00.000000Z")


def format_instant(instant: datetime) -> str:
    """Returns an aware UTC instant as RFC 3339 text, always with six decimals and `Z`."""
    text = _encode(instant).decode()[1:-1]
    return text if len(text) == _FULL else text[:19] + ".000000Z"
