"""`resolution split`: makes several databases out of one."""

from typing import Annotated

import typer

from services.runtime.installation import installation
from services.settings import Settings
from services.shards.split import split as split_databases

from .terminal import say


def split(
    only_check: Annotated[
        bool, typer.Option("--check", help="Only check whether the split is possible. Write nothing.")
    ] = False,
) -> None:
    """Split one database, or several, into all the databases that RESOLUTION_DATABASE_URL names.

    Before that, stop all roles and copy the database: docs/scaling.md has the steps. If a split was stopped, run it
    again to continue it.
    """
    with installation(Settings.from_environment()) as settings:
        split_databases(settings, say, only_check=only_check)
