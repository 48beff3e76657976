"""Parses instants in arguments."""

from datetime import UTC, datetime

import typer


def instant(text: str) -> datetime:
    """Parses an instant in ISO 8601. A date means its first moment. An instant without an offset is in UTC.

    Raises typer.BadParameter.
    """
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is not an instant; write it like 2026-01-31T12:00:00Z") from None
    return parsed.replace(tzinfo=UTC) if parsed.tzinfo is None else parsed.astimezone(UTC)
