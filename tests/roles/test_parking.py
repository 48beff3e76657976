"""A bug of ours parks the order it hits, and nothing else; a retry gives what would have come out without it."""

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

import pytest
from typer.testing import CliRunner

from services import cli
from services.eventstore.parking import parked_orders
from services.judging import judge as judging
from services.judging.decode import decode
from services.orders import Order
from services.orders.events import DisputeOpened, Event
from services.orders.evolve import evolve
from tests.support.commands import CLIENT, ask_update, offer_refund, register
from tests.support.installation import Installation, until
from tests.support.judgement_day import assert_as_the_oracle_says

HIT, OTHER = "order-1", "order-2"


@asynccontextmanager
async def judging_here(installation: Installation) -> AsyncIterator[None]:
    """The commands role in this process, where a test can plant a bug; the other roles in processes of their own."""
    await installation.run("relay", "timer", "projections")
    async with installation.here("commands"):
        yield


@pytest.fixture
def bug(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Judging a refund on one order fails, after its state has changed."""

    def wrong(order: Order, events: list[Event]) -> None:
        for event in events:
            evolve(order, event)
            if order.id == HIT and isinstance(event, DisputeOpened) and event.kind == "partial_refund":
                raise ZeroDivisionError(f"the reason is {event.refund_reason}")

    monkeypatch.setattr(judging, "evolve_all", wrong)
    return monkeypatch


async def publish_a_few(installation: Installation) -> str:
    """Both orders get the same commands; the second one of each is where the bug is. Returns the offer's id."""
    ids = {order_id: str(uuid4()) for order_id in (HIT, OTHER)}
    for order_id in (HIT, OTHER):
        await installation.publish(order_id, register())
        await installation.publish(order_id, offer_refund(100), id=ids[order_id])
        await installation.publish(order_id, offer_refund(100), id=ids[order_id])  # a repeat
        await installation.publish(order_id, ask_update())
    return ids[HIT]


def parked(installation: Installation) -> list[tuple[Any, ...]]:
    return installation.query("SELECT order_id, command_id, why FROM parked_commands ORDER BY partition, record_offset")


def resolution(installation: Installation, *arguments: str) -> str:
    result = CliRunner().invoke(cli.app, ["parked", *arguments], env=installation.settings.as_environment())
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


async def test_a_bug_parks_one_order_and_a_retry_gives_what_would_have_come_out(
    installation: Installation, bug: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    async with judging_here(installation):
        offer = await publish_a_few(installation)
        await until(lambda: len(parked(installation)) == 3)
        await until(lambda: installation.query("SELECT count(*) FROM outcomes") == [(5,)])
        after = await installation.send(OTHER, ask_update())  # the partition goes on
        assert after["data"]["code"] == "dispute_open"
        [first, second, third] = parked(installation)
        assert first[:2] == second[:2] == (HIT, offer)
        assert first[2].startswith("ZeroDivisionError in wrong, test_parking.py:")
        assert (second[2], third[2]) == ("", "")
        assert "delay_compensation" not in caplog.text + first[2]

        still = CliRunner().invoke(cli.app, ["parked", "retry", HIT], env=installation.settings.as_environment())
        assert still.exit_code == 1
        assert "stays parked: ZeroDivisionError" in still.output
        assert len(parked(installation)) == 3

        bug.undo()
        assert f"{HIT}: is free again" in resolution(installation, "retry", "--all")
        assert parked(installation) == []
        assert (await installation.send(HIT, ask_update()))["data"]["code"] == "dispute_open"  # and it is judged again
    await installation.run("commands")
    await installation.until_published()
    await assert_as_the_oracle_says(installation)


async def test_what_is_discarded_becomes_a_dead_letter_and_the_rest_is_judged(
    installation: Installation, bug: pytest.MonkeyPatch
):
    async with judging_here(installation):
        offer = await publish_a_few(installation)
        await until(lambda: len(parked(installation)) == 3)
        bug.undo()
        assert f"{HIT}: is free again" in resolution(installation, "discard", HIT, "--reason", "sent by mistake")
        await installation.until_published()
    [letter] = await installation.read(installation.topics.dead_letters)
    assert json.loads(letter.value or b"")["id"] == offer
    assert dict(letter.headers)["error"] == b"discarded by an operator: sent by mistake"
    codes = [o["data"].get("code") for o in await installation.outcomes() if o["subject"] == HIT]
    assert codes == [None, None, "dispute_open"]  # registered; the repeat, now the first; the update in its way


async def test_commands_that_come_in_while_an_order_is_set_free_keep_their_order(
    installation: Installation, bug: pytest.MonkeyPatch
):
    async with judging_here(installation):
        await publish_a_few(installation)
        await until(lambda: len(parked(installation)) == 3)
        bug.undo()

        async def more() -> None:
            for _ in range(100):
                await installation.publish(HIT, ask_update())

        publishing = asyncio.create_task(more())
        while not publishing.done() or parked(installation):
            if parked(installation):
                await asyncio.to_thread(resolution, installation, "retry", "--all")
            await asyncio.sleep(0.01)
        await publishing
        await installation.until_published()
    await assert_as_the_oracle_says(installation)


async def test_a_history_that_cannot_be_read_parks_its_order_until_it_can(installation: Installation):
    await installation.run()
    await installation.send(HIT, register())
    await installation.stop("commands")  # so that it has to load the order
    installation.query("UPDATE order_events SET topic = 'FromALaterVersion' WHERE originator_id = %s", (HIT,))
    await installation.run("commands")
    await installation.publish(HIT, ask_update())
    await installation.send(OTHER, register())
    await until(lambda: len(parked(installation)) == 1)
    assert "MapperDeserialisationError" in parked(installation)[0][2]
    installation.query("UPDATE order_events SET topic = 'OrderRegistered' WHERE originator_id = %s", (HIT,))
    resolution(installation, "retry", HIT)
    await installation.until_published()
    await assert_as_the_oracle_says(installation)


async def test_a_record_that_our_own_code_fails_to_read_parks_the_order_of_its_key(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
):
    def wrong(record: Any, time: Any, partitions: Any, **how: Any) -> Any:
        if record.key == HIT.encode():
            raise KeyError(record.value)
        return decode(record, time, partitions, **how)

    monkeypatch.setattr(judging, "decode", wrong)
    async with judging_here(installation):
        await publish_a_few(installation)
        await until(lambda: len(parked(installation)) == 4)
        assert [row[:2] for row in parked(installation)] == [(HIT, "")] * 4
        assert json.loads(resolution(installation, "list", "--json"))["commands"] == 4
        shown = [json.loads(line) for line in resolution(installation, "show", HIT, "--json").splitlines()]
        assert [line["type"].split(".")[2] for line in shown][:2] == ["RegisterOrder", "OfferPartialRefund"]
        assert CLIENT not in json.dumps(shown)
        monkeypatch.undo()
        resolution(installation, "retry", HIT)
        await installation.until_published()
    await assert_as_the_oracle_says(installation)


async def test_nothing_is_parked(installation: Installation):
    assert resolution(installation, "list") == "No order is parked.\n"
    with installation.store() as store, store._recorder.datastore.get_connection() as connection:
        assert parked_orders(connection) == []
