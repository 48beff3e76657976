"""`resolution split`: from one database to several."""

from typing import Annotated

import typer

from services.runtime.installation import installation
from services.settings import Settings
from services.shards.split import split as split_databases

from .terminal import say


def split(
    only_check: Annotated[
        bool, typer.Option("--check", help="Only say whether it can be done; write nothing.")
    ] = False,
) -> None:
    """Make the databases that RESOLUTION_DATABASE_URL names the shards of what is in one now, or in fewer.

    Before that, stop all roles and copy the database: docs/scaling.md has the steps. Stopped, it goes on when it is run
    again.
    """
    with installation(Settings.from_environment()) as settings:
        split_databases(settings, say, only_check=only_check)
