"""Checks the option `--reason`, for the commands that store why an operator did something."""

import typer


def require_reason(reason: str) -> str:
    """Returns the reason. Raises BadParameter if it is empty."""
    if not reason.strip():
        raise typer.BadParameter("is empty; say why, because it is stored")
    return reason
