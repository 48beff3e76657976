"""An installation with two databases looks like one with a single database to whoever asks it."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from resolution_contracts import Decline
from resolution_contracts.values import format_instant
from typer.testing import CliRunner

from services import cli
from services.embedded import Servers
from services.relay.renew_topics import NotRenewed
from services.runtime.supervisor import Supervisor
from tests.observability.prometheus import free_port
from tests.support.commands import CLIENT, FREELANCER, ask_cancellation, ask_update, offer_refund, register
from tests.support.installation import PARTITIONS, ROLES, Installation, until
from tests.support.judgement_day import assert_as_the_oracle_says

Json = dict[str, Any]
BOTH = ("order-1", "order-2")
"""One in each shard."""
ORDERS = "SELECT count(*) FROM order_page.orders"


@pytest.fixture
async def installation(servers: Servers) -> AsyncIterator[Installation]:
    async with Installation.fresh(servers, shards=2) as fresh:
        yield fresh


async def test_the_api_and_the_command_line_go_through_all_shards(installation: Installation, tmp_path: Path):
    ports = {"relay.1": free_port(), "http": free_port()}
    installation.supervisor = Supervisor(installation.settings, ports)
    await installation.run(*ROLES, "http")
    for order in BOTH:
        await installation.send(order, register())
        await installation.publish_raw(order.encode(), b"garbage")
    assert installation.query_all(ORDERS.replace("order_page.orders", "order_events")) == [(1,), (1,)]
    first = await installation.publish(BOTH[0], ask_update())
    second = await installation.publish(BOTH[1], offer_refund())
    await as_a_party(installation, first, second)
    await installation.send(BOTH[0], Decline(actor=FREELANCER, dispute_id=first))
    await as_an_operator(installation)
    await as_prometheus(ports)
    await installation.until_published()
    assert await assert_as_the_oracle_says(installation) == 8
    await until(lambda: installation.query_all("SELECT count(*) FROM deadlines") == [(0,), (0,)])
    await installation.stop()
    await on_the_command_line(installation, tmp_path)


async def test_texts_are_erased_and_keys_wrapped_anew_in_each_shard(installation: Installation):
    masters = ["11" * 32, "22" * 32]
    installation.settings = replace(installation.settings, master_key=masters[0])
    installation.supervisor = Supervisor(installation.settings)
    await installation.run()
    for order in BOTH:
        await installation.send(order, register())
        asked = await installation.send(order, ask_update())
        assert "going" in (await asyncio.to_thread(invoke, installation, "replay", order)).output
        assert (await told(installation, "erase", order))[-1]["erased"]
        assert "going" not in (await asyncio.to_thread(invoke, installation, "replay", order)).output
        await installation.send(order, Decline(actor=FREELANCER, dispute_id=asked["causationid"]))
        await installation.send(order, ask_cancellation())
    await installation.until_published()
    await installation.stop()
    installation.settings = replace(installation.settings, master_key="\n".join(reversed(masters)))
    assert "2 keys were wrapped again" in (await asyncio.to_thread(invoke, installation, "rewrap-keys")).output
    installation.settings = replace(installation.settings, master_key=masters[1])
    for order in BOTH:
        assert "Plans changed." in (await asyncio.to_thread(invoke, installation, "replay", order)).output
        [(wrapped,)] = installation.query(
            "SELECT count(*) FROM order_keys WHERE wrapped IS NOT NULL", shard=BOTH.index(order)
        )
        assert wrapped == 1


async def test_what_is_for_one_database_only_says_so_and_what_is_for_all_goes_through_all(installation: Installation):
    for shard in (0, 1):
        installation.query("SELECT add_month('2020-01-01')", shard=shard)
        installation.query(
            "INSERT INTO outcomes VALUES (1, 0, 0, 'rejected', 'o', 'c', '', '', 0, NULL, NULL, NULL, NULL, newest_month())",
            shard=shard,
        )
    retired = await told(installation, "retire-outcomes", "--older-than", "12")
    assert [(month["shard"], month["month"], month["stays"]) for month in retired] == [
        (0, "2020-01-01", ""),
        (1, "2020-01-01", ""),
    ]
    refused = await asyncio.to_thread(invoke, installation, "renew-topics")
    assert isinstance(refused.exception, NotRenewed)
    assert "docs/backup.md" in str(refused.exception)


async def as_a_party(installation: Installation, first: str, second: str) -> None:
    async with logged_in(installation, CLIENT) as api:
        await answer(api, "/api/inbox", lambda inbox: len(inbox["to_answer"]) + len(inbox["awaiting_answer"]) == 2)
        sent = await api.post(
            "/api/commands",
            json={"order_id": BOTH[1], "command": "Decline", "data": {"dispute_id": second}},
            headers={"Prefer": "wait=10"},
        )
        after = {"after": sent.json()["position"]}
        inbox = (await api.get("/api/inbox", params=after)).json()
        assert [line["dispute_id"] for line in inbox["awaiting_answer"]] == [first]
        assert inbox["to_answer"] == []
        orders = (await api.get("/api/orders", params=after)).json()["orders"]
        assert [order["order_id"] for order in orders] == [BOTH[1], BOTH[0]], "the latest first"
        assert {(await api.get(f"/api/orders/{order}")).status_code for order in BOTH} == {200}
        metrics = (await api.get("/api/metrics", params=after)).json()["client"]
        assert (metrics["orders"], metrics["answered_in_time"]) == (2, 1)
        assert (await api.get("/api/orders", params={"after": after["after"] + 1000})).status_code == 409


async def as_an_operator(installation: Installation) -> None:
    async with logged_in(installation, "", operator="yes") as api:
        overview = await answer(api, "/api/overview", lambda overview: sum(overview["open_by_kind"].values()) == 0)
        assert [day["settled"] for day in overview["days"]] == [{"declined": 2}]
        assert "Dead letters: 2" in (await api.get("/operator")).text


async def as_prometheus(ports: dict[str, int]) -> None:
    async with httpx.AsyncClient() as browser:

        async def shown() -> bool:
            return 'resolution_relay_lag_outcomes{shard="1"} 0.0' in (await browser.get(of("relay.1", "metrics"))).text

        async def ready() -> bool:
            return (await browser.get(of("http", "health/ready"))).status_code == 200

        def of(name: str, path: str) -> str:
            return f"http://127.0.0.1:{ports[name]}/{path}"

        await until(shown)
        await until(ready)
        assert "resolution_relay_lag_outcomes 0.0" not in (await browser.get(of("relay.1", "metrics"))).text


async def on_the_command_line(installation: Installation, folder: Path) -> None:
    assert (await told(installation, "verify", "--from-commands"))[-1]["differences"] == []
    ledger = (await told(installation, "ledger"))[-1]
    assert (ledger["differences"], len(ledger["partitions"])) == ([], PARTITIONS)
    rebuilt = [line["rebuilt"] for line in await told(installation, "rebuild", "metrics") if "rebuilt" in line]
    assert [(one["shard"], one["differences"]) for one in rebuilt] == [(0, []), (1, [])]
    assert {letter["key"] for letter in await told(installation, "dead", "list")} == set(BOTH)
    assert await told(installation, "parked", "list") == []
    for order in BOTH:
        assert (await told(installation, "replay", order))[0]["event"] == "OrderRegistered"
        assert (await told(installation, "order", order))[0]["order_id"] == order
    now = format_instant(installation.clock.now())
    await told(installation, "replay", "--all", "--as-of", now, "--to", str(folder / "then"))
    pages = sorted(folder.glob("then/*/order_page/orders.jsonl"))
    assert [len(file.read_text().splitlines()) for file in pages] == [1, 1]
    result = await asyncio.to_thread(invoke, installation, "export", "--to", str(folder / "files"))
    assert result.exit_code == 0, result.output
    assert len(list(folder.glob("files/*/OrderRegistered/**/*.parquet"))) == 2


async def told(installation: Installation, *arguments: str) -> list[Json]:
    """What a command of the command line prints with --json."""
    result = await asyncio.to_thread(invoke, installation, *arguments, "--json")
    assert result.exit_code == 0, (result.output, result.exception)
    return [json.loads(line) for line in result.stdout.splitlines()]


def invoke(installation: Installation, *arguments: str) -> Any:
    return CliRunner().invoke(cli.app, arguments, env=installation.settings.as_environment())


def logged_in(installation: Installation, user: str, **form: str) -> httpx.AsyncClient:
    said = httpx.post(f"{installation.url}/login", data={"user": user} | form, headers={"Origin": installation.url})
    cookie = said.headers["set-cookie"].partition(";")[0]
    return httpx.AsyncClient(base_url=installation.url, headers={"Cookie": cookie}, timeout=20)


async def answer(api: httpx.AsyncClient, path: str, holds: Callable[[Json], bool]) -> Any:
    """What the API says, once it holds."""

    async def ask() -> Json | None:
        found = await api.get(path)
        return found.json() if found.status_code == 200 and holds(found.json()) else None

    asked: Callable[[], Awaitable[Json | None]] = ask
    return await until(asked)
