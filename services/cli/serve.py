"""`resolution serve`: runs roles."""

import asyncio
import os
from typing import Annotated

import typer

from services.runtime.installation import installation, prepare, require_known_topics
from services.runtime.role_names import ROLE_NAMES
from services.runtime.role_process import start_fork_server
from services.runtime.serve import require_free_ports
from services.runtime.serve import serve as serve_roles
from services.runtime.supervisor import known_roles
from services.settings import Settings
from services.telemetry import logs


def serve(
    roles: Annotated[list[str] | None, typer.Argument(help=f"Any of: {', '.join(ROLE_NAMES)}. All by default.")] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            envvar="RESOLUTION_SHARD",
            help="If there are several databases: work for this one only. Counted from 0.",
            metavar="N",
        ),
    ] = None,
) -> None:
    """Run roles until SIGTERM, each in its own process. Prints `ready {json}` once all work."""
    wanted = known_roles(roles or [], list(ROLE_NAMES))
    configured = Settings.from_environment(os.environ | ({"RESOLUTION_SHARD": shard} if shard else {}))
    logs.configure(configured.log_format, "serve")
    require_free_ports(configured, wanted, list(ROLE_NAMES))
    start_fork_server(wanted)
    with installation(configured) as settings:
        prepare(settings)
        require_known_topics(settings)
        asyncio.run(serve_roles(settings, wanted, list(ROLE_NAMES)))
