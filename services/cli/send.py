"""`resolution send`: commands from JSON lines, outcomes as JSON lines."""

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import uuid4

from resolution_contracts import COMMANDS
from resolution_contracts.client import Client
from resolution_contracts.topics import command_type

from services.settings import Settings

log = logging.getLogger(__name__)


class CommandsFileError(Exception):
    """A line that cannot be published: a sentence that names it."""


def read_commands(lines: Iterable[str]) -> list[dict[str, Any]]:
    """The envelopes, completed. Nothing is judged here but what it takes to publish. Raises CommandsFileError."""
    return [_complete(line, number) for number, line in enumerate(lines, 1) if line.strip()]


def _complete(line: str, number: int) -> dict[str, Any]:
    try:
        command = json.loads(line)
    except ValueError as error:
        raise CommandsFileError(f"Line {number} is not JSON ({error}); nothing was sent.") from None
    if not isinstance(command, dict) or not isinstance(command.get("subject"), str):
        raise CommandsFileError(f"Line {number} names no order; add subject, the order id. Nothing was sent.")
    name = command.get("type")
    if not isinstance(name, str):
        raise CommandsFileError(f"Line {number} names no command; add type, such as Accept. Nothing was sent.")
    defaults = {"specversion": "1.0", "id": str(uuid4()), "source": "/resolution-cli"}
    return defaults | command | {"type": command_type(name) if name in COMMANDS else name}


async def send_all(
    settings: Settings, commands: Sequence[dict[str, Any]], timeout: float, tell: Callable[[str], None]
) -> Sequence[dict[str, Any]]:
    """Publishes the commands and tells their outcomes in the order sent; returns those without one after `timeout`."""
    told = 0
    async with Client(**settings.cluster.options, prefix=settings.topic_prefix) as client:
        try:
            async with asyncio.timeout(timeout):
                outcomes = [
                    await client.publish(command["subject"], json.dumps(command).encode()) for command in commands
                ]
                for outcome in outcomes:
                    tell(json.dumps(await outcome))
                    told += 1
        except TimeoutError:
            log.debug("%d outcomes did not come within %s s", len(commands) - told, timeout)
    return commands[told:]
