"""The programs in `examples/`, run as they are."""

import asyncio
import json
import os
import runpy
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from resolution_contracts import Accept

from tests.support.commands import CLIENT, offer_refund, register
from tests.support.installation import Installation, until

EXAMPLES = Path(__file__).parents[2] / "examples"


async def refund(installation: Installation, order_id: str) -> None:
    await installation.send(order_id, register())
    await installation.send(order_id, offer_refund())
    opened = (await installation.events(order_id))[-1]
    await installation.send(order_id, Accept(actor=CLIENT, dispute_id=opened["data"]["dispute_id"]))


async def processed(installation: Installation, order_id: str) -> bool:
    return [e["type"].split(".")[2] for e in await installation.events(order_id)][-1] == "RefundProcessed"


async def test_the_payment_service_pays_each_refund_once_whatever_it_remembers(
    installation: Installation, tmp_path: Path
):
    await installation.run("commands", "relay")
    await refund(installation, "order-1")
    async with example(installation, "payment_service.py", MEMORY=tmp_path / "m.json"):
        await until(lambda: processed(installation, "order-1"))
    await refund(installation, "order-2")
    async with example(installation, "payment_service.py", MEMORY=tmp_path / "m.json"):
        await until(lambda: processed(installation, "order-2"))
    (tmp_path / "m.json").unlink()
    count = len(await installation.outcomes())
    async with example(installation, "payment_service.py", MEMORY=tmp_path / "m.json"):
        await until(lambda: outcomes_since(installation, count + 1))
    names = [e["type"].split(".")[2] for e in await installation.events()]
    assert names.count("RefundProcessed") == 2


def test_a_payment_service_killed_while_it_writes_keeps_its_last_position(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    memory, remember = tmp_path / "m.json", runpy.run_path(str(EXAMPLES / "payment_service.py"))["remember"]
    remember(memory, {0: 1})

    def killed(file: Path, text: str) -> int:
        file.write_bytes(text.encode()[:3])
        raise SystemExit

    monkeypatch.setattr(Path, "write_text", killed)
    with pytest.raises(SystemExit):
        remember(memory, {0: 2})
    assert json.loads(memory.read_bytes()) == {"0": 1}


async def outcomes_since(installation: Installation, count: int) -> bool:
    return len(await installation.outcomes()) > count


async def test_forty_lines_count_how_disputes_end(installation: Installation):
    await installation.run("commands", "relay")
    await refund(installation, "order-1")
    async with example(installation, "follow_events.py", TOPIC=installation.topics.events) as process:
        assert process.stdout is not None
        line = await asyncio.wait_for(process.stdout.readline(), 30)
    assert json.loads(line) == {"partial_refund Accepted": 1}
    assert len((EXAMPLES / "follow_events.py").read_text().splitlines()) <= 45


@asynccontextmanager
async def example(installation: Installation, name: str, **more: object) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        EXAMPLES / name,
        env=os.environ
        | {"KAFKA": installation.settings.kafka, "PREFIX": installation.topics.prefix}
        | {key: str(value) for key, value in more.items()},
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        yield process
    finally:
        assert process.returncode is None, "the example ended by itself"
        process.kill()
        await process.wait()
