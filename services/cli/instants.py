"""Instants as arguments."""

from datetime import UTC, datetime

import typer


def instant(text: str) -> datetime:
    """An instant as the service writes it, or a part of one: a date is its first moment, without an offset it is UTC.

    Raises typer.BadParameter.
    """
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no instant; write it like 2026-01-31T12:00:00Z") from None
    return found.replace(tzinfo=UTC) if found.tzinfo is None else found.astimezone(UTC)
