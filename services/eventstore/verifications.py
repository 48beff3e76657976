"""What `resolution verify` found, kept so that whoever watches over the installation sees it."""

from typing import Any

import psycopg


def record_verification(connection: psycopg.Connection[Any], checked: str, differences: int) -> None:
    """`checked` names what was verified (`history`, `commands`). Raises psycopg.Error."""
    connection.execute("INSERT INTO verifications (checked, differences) VALUES (%s, %s)", (checked, differences))
