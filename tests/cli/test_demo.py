"""`resolution demo` plays its story, and its checks notice differences."""

import asyncio
import io
import json
import os
import re
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from resolution_contracts import COMMAND_TYPES, EVENTS, Code
from resolution_contracts.topics import event_type
from resolution_contracts.values import format_instant
from rich.console import Console

from services import demo
from services.demo.checks import _deadlines, verify
from services.demo.evidence import Evidence, gather
from services.demo.script import Expected, Happens, Tale
from services.demo.stage import DemoError, Stage, TooSlow, _kept
from services.embedded import Servers
from services.settings import Settings
from tests.support.controls import HOURS, T

ROOT = Path(__file__).parents[2]
pytestmark = pytest.mark.timeout(400)  # a slow machine plays the story twice


async def test_the_demo_comes_out_as_told_line_by_line_in_json_and_leaves_nothing_behind(servers: Servers):
    databases = _databases(servers)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services", "demo", "--json", cwd=ROOT, env=_environment(servers),
        stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    output, _ = await process.communicate()
    lines = [json.loads(line) for line in output.splitlines()]
    assert process.returncode == 0, lines[-3:]
    steps = [line for line in lines if line["kind"] in ("step", "auto_accepted")]
    assert [line for line in steps if not line["as_told"]] == []
    assert {line["type"] for line in steps if line.get("type")} == set(COMMAND_TYPES)
    assert {e["type"].split(".")[2] for line in steps for e in line["events"]} == set(EVENTS)
    assert {line["code"] for line in steps if line.get("code")} == {str(code) for code in Code}
    assert all(line["passed"] for line in lines if line["kind"] == "check")
    assert lines[-1]["kind"] == "result"
    assert lines[-1]["passed"]
    assert _databases(servers) == databases


async def test_a_kept_demo_serves_its_pages_until_it_is_interrupted(servers: Servers):
    databases = _databases(servers)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services", "demo", "--json", "--keep", cwd=ROOT, env=_environment(servers),
        stdout=asyncio.subprocess.PIPE, preexec_fn=_interruptible,
    )  # fmt: skip
    assert process.stdout is not None
    url = None
    while url is None:
        line = (await process.stdout.readline()).decode()
        assert line, "the demo ended"
        url = re.search(r"http://127\.0\.0\.1:\d+", line)
    async with httpx.AsyncClient(base_url=url[0]) as client:
        await client.post("/login", data={"user": "mia"})
        assert "All orders" in (await client.get("/")).text
    process.send_signal(signal.SIGINT)
    await process.communicate()
    assert process.returncode == 0
    [kept] = set(_databases(servers)) - set(databases)
    assert servers.database is not None
    with psycopg.connect(servers.database, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {kept} WITH (FORCE)".encode())


async def test_the_demos_verification_notices_a_changed_event_and_a_story_that_went_differently(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # where the log of a demo that failed stays
    seen: dict[str, Any] = {}

    async def gather_then_tamper(stage: Stage, told: list[Any]) -> Evidence:
        seen["evidence"] = await gather(stage, told)
        with psycopg.connect(stage.settings.database) as connection:
            _pay_back_more(connection)
        return await gather(stage, told)

    def verify_both(evidence: Evidence, tales: Sequence[Tale]) -> Any:
        seen["untouched"] = verify(seen["evidence"], tales)
        seen["other story"] = verify(seen["evidence"], [_with_another_end(tale) for tale in tales])
        seen["tampered"] = verify(evidence, tales)
        return seen["tampered"]

    monkeypatch.setattr(demo, "gather", gather_then_tamper)
    monkeypatch.setattr(demo, "verify", verify_both)
    settings = Settings(database_url=servers.database, kafka_servers=servers.kafka)
    told = io.StringIO()
    assert not await demo.run(settings, Console(file=told, width=80), as_json=False)
    assert "untouched" in seen, told.getvalue()[-1000:]
    assert _failed(seen["untouched"]) == []
    assert _failed(seen["other story"]) == ["Events on Kafka are the story's"]
    assert _failed(seen["tampered"]) == ["Store, topics and pages agree"]
    assert re.search(r"order logo: event \d+ is not what follows", " ".join(told.getvalue().split()))
    assert max(len(line) for line in told.getvalue().splitlines()) <= 80


@pytest.mark.parametrize(("plays", "passed"), [(1, True), (3, True), (4, False)])
async def test_a_machine_that_is_too_slow_plays_the_story_again_with_a_slower_clock(
    monkeypatch: pytest.MonkeyPatch, plays: int, passed: bool
):
    speeds: list[int] = []

    @asynccontextmanager
    async def open_stage(*_: Any, seconds_for_two_days: int, keep: bool) -> AsyncIterator[None]:
        speeds.append(seconds_for_two_days)
        yield

    async def play(*_: Any) -> None:
        if len(speeds) < plays:
            raise TooSlow("Too slow.")

    monkeypatch.setattr(demo, "open_stage", open_stage)
    monkeypatch.setattr(demo, "_play", play)
    told = io.StringIO()
    assert await demo.run(Settings(), Console(file=told, width=200), as_json=True) is passed
    assert tuple(speeds) == demo.SECONDS_FOR_TWO_DAYS[:plays]
    assert told.getvalue().count("Once more, more slowly.") == len(speeds) - 1


@pytest.mark.parametrize(
    ("terms", "hours", "passed"),
    [(None, 48, True), (None, 24, False), ({"response_hours": 24}, 24, True), ({"response_hours": 24}, 48, False)],
)
def test_the_check_of_deadlines_goes_by_each_orders_own_time_to_answer(
    terms: dict[str, int] | None, hours: int, passed: bool
):
    facts = {"client_id": "c", "freelancer_id": "f", "price": {"amount": 1, "currency": "USD"}}
    facts |= {"expected_delivery_at": None, "awaiting_requirements": True} | ({"terms": terms} if terms else {})
    deadline = format_instant(T + hours * HOURS)
    events = [
        _event("OrderRegistered", "a", T, **facts),
        _event("DisputeOpened", "b", T, dispute_id="b", respond_by=deadline),
        _event("AutoAccepted", "c", T + hours * HOURS, dispute_id="b", deadline=deadline),
    ]
    check = _deadlines(events)
    assert check.passed is passed
    assert check.detail == f"1 times, {24 if terms else 48} h after the opening"


async def test_what_a_machine_that_is_too_slow_has_begun_is_removed_and_what_failed_is_kept_if_asked_for():
    for error, removed in ((TooSlow("Too slow."), True), (DemoError("A check failed."), False), (None, False)):
        done: list[str] = []
        with suppress(DemoError):
            async with AsyncExitStack() as removal:
                removal.callback(done.append, "removed")
                with _kept(removal, keep=True):
                    if error is not None:
                        raise error
        assert bool(done) is removed


def _event(name: str, command: str, at: datetime, **data: Any) -> dict[str, Any]:
    facts = {"type": event_type(name), "subject": "order-1", "causationid": command}
    return facts | {"time": format_instant(at), "data": data}


def _pay_back_more(connection: psycopg.Connection[Any]) -> None:
    cursor = connection.execute(
        "UPDATE order_events SET state = convert_to(replace(convert_from(state, 'UTF8'), ':8000,', ':9000,'), "
        "'UTF8') WHERE originator_id = 'logo' AND topic = 'OrderCanceled.v2'"
    )
    assert cursor.rowcount == 1


def _with_another_end(tale: Tale) -> Tale:
    """The podcast's client would have canceled by agreement, not by right."""
    if tale.order != "podcast":
        return tale
    *steps, last = tale.steps
    closed, canceled = last.expected.events
    agreed = Happens(canceled.name, {**canceled.data, "grounds": "agreement"})
    return Tale(tale.order, tale.title, tale.purpose, [*steps, replace(last, expected=Expected((closed, agreed)))])


def _failed(checks: Sequence[Any]) -> list[str]:
    return [check.name for check in checks if not check.passed]


def _environment(servers: Servers) -> dict[str, str]:
    assert servers.database is not None
    assert servers.kafka is not None
    return os.environ | {"RESOLUTION_DATABASE_URL": servers.database, "RESOLUTION_KAFKA_SERVERS": servers.kafka}


def _interruptible() -> None:
    """A test run in the background of a shell ignores SIGINT, and its children would too."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def _databases(servers: Servers) -> set[str]:
    assert servers.database is not None
    with psycopg.connect(servers.database) as connection:
        rows = connection.execute("SELECT datname FROM pg_database WHERE datname LIKE 'demo%'")
        return {name for (name,) in rows}
