"""A store with events and checkpoints of these events, for tests."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from services import cli
from services.checkpoints.role import CheckpointsRole
from services.checkpoints.signing_keys import write_key_pair
from services.eventstore.checkpoint_chain import Checkpoint, parse
from tests.support.installation import Installation, until

EVERY = 5
"""Events in a checkpoint, if there are enough."""


def store_events(installation: Installation, count: int) -> None:
    """Appends events as the recorder does, ten to an order."""
    installation.query(
        "INSERT INTO order_events SELECT 'order-' || n / 10, n %% 10 + 1, 'OrderDelivered', "
        "convert_to('{\"n\": ' || n || '}', 'UTF8'), n "
        "FROM generate_series((SELECT coalesce(max(notification_id), 0) + 1 FROM order_events), "
        "(SELECT coalesce(max(notification_id), 0) FROM order_events) + %s) AS n",
        (count,),
    )


def with_key(installation: Installation, folder: Path, **settings: Any) -> Path:
    """Gives the installation a key of its own; returns the public one's file."""
    private, public = write_key_pair(folder)
    fast = {"checkpoint_key_file": private, "checkpoint_events": EVERY, "checkpoint_seconds": 0.1}
    installation.settings = replace(installation.settings, **(fast | settings))
    return public


@asynccontextmanager
async def writing(installation: Installation) -> AsyncIterator[None]:
    """The role, in this process."""
    ready = asyncio.Event()
    role = asyncio.create_task(CheckpointsRole(installation.settings, installation.topics).run(ready))
    started = asyncio.create_task(ready.wait())
    try:
        await asyncio.wait([role, started], timeout=30, return_when=asyncio.FIRST_COMPLETED)
        if role.done():
            role.result()
        yield
    finally:
        role.cancel()
        started.cancel()
        await asyncio.wait([role])


async def chain(installation: Installation) -> list[Checkpoint]:
    return [parse(record.value or b"") for record in await installation.read(installation.topics.checkpoints)]


async def until_covered(installation: Installation) -> list[Checkpoint]:
    """The chain, once it covers all that is stored and the database knows of it."""
    [(newest,)] = installation.query("SELECT max(notification_id) FROM order_events")

    async def covered() -> list[Checkpoint] | None:
        found = await chain(installation)
        [(noted,)] = installation.query("SELECT published FROM checkpoints")
        return found if found and found[-1].last == newest and noted == found[-1].number else None

    found: list[Checkpoint] = await until(covered)
    return found


async def cover(installation: Installation) -> list[Checkpoint]:
    async with writing(installation):
        return await until_covered(installation)


async def export(installation: Installation, file: Path) -> Path:
    result = await asyncio.to_thread(_invoke, installation, "checkpoints", "export", str(file))
    assert result.exit_code == 0, result.output
    return file


async def verify(installation: Installation, file: Path, *keys: Path) -> dict[str, Any]:
    arguments = [argument for key in keys for argument in ("--public-key", str(key))]
    result = await asyncio.to_thread(
        _invoke, installation, "verify", "--checkpoints", str(file), *arguments, "--json", kafka=False
    )
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    assert result.exit_code == bool(found["differences"])
    return found


async def assert_chain_holds(installation: Installation, public: Path) -> None:
    """It covers every event, each number comes once, and nothing differs."""
    numbers = [checkpoint.number for checkpoint in await until_covered(installation)]
    assert numbers == list(range(1, len(numbers) + 1))
    found = await verify(installation, await export(installation, public.with_name("chain.jsonl")), public)
    assert found["differences"] == []
    assert (found["checkpoints"], found["uncovered"]) == (len(numbers), 0)


def _invoke(installation: Installation, *arguments: str, kafka: bool = True) -> Any:
    environment: dict[str, str] = installation.settings.as_environment()
    if not kafka:
        environment["RESOLUTION_KAFKA_SERVERS"] = "127.0.0.1:1"  # nobody is there
        url = environment["RESOLUTION_DATABASE_URL"]
        reading = "options=-c%20default_transaction_read_only%3Don"
        environment["RESOLUTION_DATABASE_URL"] = f"{url}{'&' if '?' in url else '?'}{reading}"
    return CliRunner().invoke(cli.app, arguments, env=environment)
