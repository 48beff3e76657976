"""`resolution serve`: runs roles until SIGTERM or SIGINT."""

import asyncio
import json
import signal
from collections.abc import Sequence
from contextlib import ExitStack

from services.http.listening import listen
from services.settings import Settings, SettingsError

from .supervisor import Supervisor, processes_of


async def serve(settings: Settings, roles: Sequence[str], all_roles: Sequence[str]) -> None:
    """Starts the roles, prints `ready {json}` once all work, and keeps them running until SIGTERM or SIGINT.

    The order of `all_roles` determines each role's port for metrics. Raises SettingsError if a role cannot start with
    these settings.
    """
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    supervisor = Supervisor(settings, metrics_ports(settings, roles, all_roles))
    supervisor.start(*roles)
    stopped = asyncio.create_task(stop.wait())
    refused = asyncio.create_task(supervisor.refused.wait())
    ready = asyncio.create_task(supervisor.ready())
    try:
        await asyncio.wait([stopped, refused, ready], return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            where = {"kafka": settings.kafka, "database": settings.database_url} | supervisor.said
            print("ready " + json.dumps(where), flush=True)
        await asyncio.wait([stopped, refused], return_when=asyncio.FIRST_COMPLETED)
        if refused.done():
            raise SettingsError(supervisor.refusal)
    finally:
        for task in (stopped, refused, ready):
            task.cancel()
        await supervisor.stop()


def require_free_ports(settings: Settings, roles: Sequence[str], all_roles: Sequence[str]) -> None:
    """Raises SettingsError if a port is in use, or if two of these processes would use the same port."""
    with ExitStack() as listeners:
        if "http" in roles and settings.http_port:
            listeners.enter_context(listen(settings.http_host, settings.http_port, "RESOLUTION_HTTP_PORT"))
        for port in metrics_ports(settings, roles, all_roles).values():
            listeners.enter_context(listen(settings.metrics_host, port, "RESOLUTION_METRICS_PORT"))


def metrics_ports(settings: Settings, roles: Sequence[str], all_roles: Sequence[str]) -> dict[str, int]:
    """Returns the port for metrics of each process, by the process's name.

    A single role has the port in the settings. Several roles have consecutive ports from there on, in the order of
    `all_roles`. The ports of each further shard follow those of the shard before.
    """
    if settings.metrics_port is None:
        return {}
    first, width = (all_roles.index(roles[0]), 1) if len(roles) == 1 else (0, len(all_roles))
    return {
        name: settings.metrics_port + all_roles.index(role) - first + width * number
        for role in roles
        for number, name in enumerate(processes_of(settings, role))
    }
