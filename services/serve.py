"""`resolution serve`: runs roles until it is told to stop."""

import asyncio
import json
import signal
from collections.abc import Sequence

from .settings import Settings
from .supervisor import Supervisor


async def serve(settings: Settings, roles: Sequence[str]) -> None:
    """Starts the roles, prints `ready {json}` once all work, and keeps them running until SIGTERM or SIGINT."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    supervisor = Supervisor(settings)
    supervisor.start(*roles)
    stopped = asyncio.create_task(stop.wait())
    ready = asyncio.create_task(supervisor.ready())
    try:
        await asyncio.wait([stopped, ready], return_when=asyncio.FIRST_COMPLETED)
        if ready.done():
            where = {"kafka": settings.kafka, "database": settings.database} | supervisor.said
            print("ready " + json.dumps(where), flush=True)
        await stopped
    finally:
        ready.cancel()
        await supervisor.stop()
