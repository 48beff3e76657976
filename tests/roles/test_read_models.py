"""Inbox, metrics, overview and reminders, and the rebuild of each beside the live one."""

import asyncio
import json
from datetime import datetime, timedelta
from typing import Any

import psycopg
import pytest
from resolution_contracts import Accept, CancelOrder, Decline, Withdraw

from projections import READ_MODELS, inbox, metrics, overview
from projections.framework.projector import Projector
from projections.framework.rebuild import Rebuild, RebuildError
from projections.send_reminders import send_due
from tests.support.commands import (
    CLIENT,
    FREELANCER,
    ask_cancellation,
    ask_extension,
    ask_update,
    offer_refund,
    register,
)
from tests.support.installation import Installation, until

FAST = 34_560
_IN_20_SECONDS = 8_640  # the last reminder is due 0.8 s before the deadline
HOUR_MS = 1000 * 3600 / FAST


def _look(installation: Installation, look: Any, *arguments: Any) -> Any:
    with psycopg.connect(installation.settings.database) as connection:
        return look(connection, *arguments)


def _inbox(installation: Installation, user: str) -> dict[str, Any]:
    now = installation.clock.now()
    return inbox.merged([_look(installation, inbox.look, user, now)], user, now).as_json()


async def test_the_inbox_shows_each_party_what_waits_for_whom(installation: Installation):
    await installation.run()
    for order in ("order-1", "order-2", "order-3"):
        await installation.publish(order, register())
    first = await installation.publish("order-1", ask_update())
    second = await installation.publish("order-2", offer_refund())
    third = await installation.publish("order-3", ask_update())
    await installation.send("order-3", Withdraw(actor=CLIENT, dispute_id=third))
    await installation.until_projected()
    of_client = _inbox(installation, CLIENT)
    of_freelancer = _inbox(installation, FREELANCER)
    assert [line["dispute_id"] for line in of_client["to_answer"]] == [second]
    assert [line["dispute_id"] for line in of_client["awaiting_answer"]] == [first]
    assert [line["dispute_id"] for line in of_freelancer["to_answer"]] == [first]
    assert 47 * 3600 < of_freelancer["to_answer"][0]["seconds_left"] <= 48 * 3600
    assert _inbox(installation, "somebody")["to_answer"] == []


async def test_D15_metrics_count_what_counts(installation: Installation):
    await installation.run(scale=FAST)
    for number in range(4):
        await installation.publish(f"order-{number}", register())
    await installation.publish("waiting", register(awaiting_requirements=True, expected_delivery_at=None))
    agreed = await installation.publish("order-0", ask_cancellation())
    await installation.publish("order-0", Accept(actor=FREELANCER, dispute_id=agreed))
    await installation.publish("waiting", CancelOrder(actor=CLIENT, comment="Not needed."))
    refund = await installation.publish("order-1", offer_refund(2_000))
    await installation.publish("order-1", Accept(actor=CLIENT, dispute_id=refund))
    declined = await installation.publish("order-2", offer_refund())
    await installation.publish("order-2", Decline(actor=CLIENT, dispute_id=declined))
    await installation.publish("order-3", ask_extension())
    await installation.until_quiet()
    await installation.until_projected()
    found = _look(installation, metrics.look, CLIENT)
    assert found["freelancer"] is None
    client = found["client"]
    assert (client["disputes_received"], client["answered_in_time"], client["ran_out"]) == (3, 2, 1)
    assert client["response_rate"] == pytest.approx(2 / 3)
    freelancer = _look(installation, metrics.look, FREELANCER)["freelancer"]
    assert freelancer["orders"] == 5
    assert freelancer["cancellations"] == {"count": 1, "by_grounds": {"agreement": 1}}
    assert freelancer["cancellations_not_counted"]["by_grounds"] == {"awaiting_requirements": 1}
    assert freelancer["refunds_granted"] == [{"currency": "USD", "count": 1, "amount": 2_000}]
    assert freelancer["response_rate"] == 1
    days = _look(installation, overview.look, installation.clock.now())["days"]
    assert sum(sum(day["settled"].values()) for day in days) == 4
    assert sum(day["settled"].get("auto_accepted", 0) for day in days) == 1


async def test_reminders_go_out_once_each_and_none_for_a_settled_dispute(installation: Installation):
    await installation.run(scale=_IN_20_SECONDS)
    await installation.publish("order-1", register())
    await installation.publish("order-2", register())
    reminded = await installation.publish("order-1", ask_update())
    settled = await installation.publish("order-2", ask_update())
    await installation.publish("order-2", Decline(actor=FREELANCER, dispute_id=settled))
    await installation.until_quiet()
    sent = [json.loads(record.value or b"") for record in await installation.read(installation.topics.notifications)]
    assert [(m["data"]["dispute_id"], m["data"]["hours_before"]) for m in sent] == [(reminded, 24), (reminded, 2)]
    assert all(m["time"] < m["data"]["respond_by"] and m["data"]["recipient"] == FREELANCER for m in sent)


async def test_D20_reminders_are_due_at_parts_of_the_orders_own_time_to_answer(installation: Installation):
    await installation.run("commands", "relay", "projections")
    await installation.send("order-1", register(terms={"response_hours": 72}))
    await installation.send("order-2", register(terms={"name": "as-ever"}))
    for order in ("order-1", "order-2"):
        await installation.send(order, ask_update())
    await installation.until_projected()
    [asked_at] = [event["time"] for event in await installation.events("order-1") if "respond_by" in event["data"]]
    due = dict(installation.query("SELECT hours, at FROM reminders.due WHERE order_id = 'order-1'"))
    opened_at = datetime.fromisoformat(asked_at)
    assert due == {24: opened_at + timedelta(hours=36), 2: opened_at + timedelta(hours=69)}
    for (at,) in installation.query("SELECT at FROM reminders.due ORDER BY at"):
        assert await asyncio.to_thread(send_due, installation.settings.database, at) == 1
    sent = [json.loads(bytes(row)) for (row,) in installation.query("SELECT message FROM notifications")]
    assert sorted((m["subject"], m["type"].rpartition(".")[2], m["id"].rpartition(":")[2]) for m in sent) == [
        ("order-1", "v2", "first"), ("order-1", "v2", "last"), ("order-2", "v1", "24h"), ("order-2", "v1", "2h")
    ]  # fmt: skip
    seconds = {m["data"]["reminder"]: m["data"]["seconds_before"] for m in sent if "reminder" in m["data"]}
    assert seconds == {"first": 36 * 3600, "last": 3 * 3600}


async def test_a_reminder_waits_until_the_read_model_knows_all_that_happened_to_its_order(installation: Installation):
    await installation.run("commands", "relay", "projections")
    asked = {}
    for order in ("order-1", "order-2"):
        await installation.publish(order, register())
        asked[order] = await installation.publish(order, ask_update())
    await until(lambda: installation.query("SELECT count(*) FROM reminders.due") == [(4,)])
    await installation.stop("projections")
    await installation.send("order-1", Decline(actor=FREELANCER, dispute_id=asked["order-1"]))
    later = installation.query("SELECT max(at) FROM reminders.due")[0][0]
    assert await asyncio.to_thread(send_due, installation.settings.database, later) == 2
    assert installation.query("SELECT order_id, hours FROM notifications") == [("order-2", 2)]  # not both at once
    await installation.run("projections")
    await until(lambda: installation.query("SELECT count(*) FROM reminders.due") == [(0,)])
    assert await asyncio.to_thread(send_due, installation.settings.database, later) == 0
    assert installation.query("SELECT count(*) FROM notifications") == [(1,)]


async def test_a_rebuild_under_load_gives_the_same_rows_and_sends_nothing_again(installation: Installation):
    await installation.run(scale=FAST)
    for number in range(40):
        await installation.publish(f"order-{number}", register())
        await installation.publish(f"order-{number}", ask_update())
    await installation.until_quiet()
    sent = len(await installation.read(installation.topics.notifications))

    async def load() -> None:
        for number in range(1000):
            await installation.publish(f"late-{number}", register())

    loading = asyncio.create_task(load())
    with installation.store() as store:
        for name in READ_MODELS:
            done = await asyncio.to_thread(Rebuild(store, name).run, lambda done, of: None)
            assert done.same_version
            assert done.differences == []
    await loading
    await installation.until_quiet()
    await installation.until_projected()
    assert installation.query("SELECT count(*) FROM order_page.orders") == [(1040,)]
    assert len(await installation.read(installation.topics.notifications)) == sent
    assert installation.query("SELECT count(*) FROM order_page_old.orders")[0][0] >= 40


async def test_a_rebuild_finds_a_row_that_was_edited_and_repairs_it(installation: Installation):
    await installation.run("commands", "relay", "projections")
    for number in range(3):
        await installation.send(f"order-{number}", register())
    await installation.until_projected()
    installation.query("UPDATE order_page.orders SET version = 7 WHERE order_id = 'order-1'")
    with installation.store() as store:
        done = Rebuild(store, "order_page").run(lambda done, of: None)
        [difference] = done.differences
        assert (difference.table, difference.only_in_old, difference.only_in_new) == ("orders", 1, 1)
        assert difference.keys == ["order-1"]
        assert installation.query("SELECT max(version) FROM order_page.orders") == [(1,)]
        with pytest.raises(RebuildError, match="--drop-old"):
            Rebuild(store, "order_page").run(lambda done, of: None)
        assert Rebuild(store, "order_page").drop_old()
        assert not Rebuild(store, "order_page").drop_old()


async def test_a_rebuild_that_was_stopped_goes_on_where_it_was(installation: Installation):
    await installation.run("commands", "relay")
    for number in range(20):
        await installation.send(f"order-{number}", register())
    with installation.store() as store:
        begun = Projector(store, READ_MODELS["inbox"](), schema="inbox_new")
        begun.prepare()
        begun.catch_up(15)
        seen: list[int] = []
        done = Rebuild(store, "inbox").run(lambda done, of: seen.append(done))
    assert seen[0] == 15
    assert done.events == 20
    assert installation.query("SELECT count(*) FROM inbox.orders") == [(20,)]


async def test_two_rebuilds_of_one_read_model_do_not_get_in_each_others_way(installation: Installation):
    await installation.run("commands", "relay")
    await installation.send("order-1", register())
    refused: list[str] = []
    with installation.store() as one, installation.store() as two:

        def meanwhile(done: int, of: int) -> None:
            with pytest.raises(RebuildError) as error:
                Rebuild(two, "inbox").run(lambda done, of: None)
            refused.append(str(error.value))

        assert Rebuild(one, "inbox").run(meanwhile).differences == []
        assert Rebuild(two, "inbox").drop_old()
        assert Rebuild(two, "inbox").run(lambda done, of: None).differences == []
    assert set(refused) == {"Another rebuild of inbox is running; wait until it has ended."}


async def test_there_is_no_such_read_model(installation: Installation):
    with installation.store() as store, pytest.raises(RebuildError, match="there are order_page, inbox"):
        Rebuild(store, "orders")
