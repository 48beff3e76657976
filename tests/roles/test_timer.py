"""A dispute that nobody answers is auto-accepted when its 48 hours are over, whatever was down."""

import asyncio
import json
import os
import signal
from contextlib import AsyncExitStack
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import NAMESPACE_OID, uuid4, uuid5

import psycopg
from resolution_contracts import Decline, ExpireDispute, Withdraw

from services.timer.deadlines import Deadline, Deadlines
from tests.support.commands import CLIENT, ask_cancellation, ask_update, offer_refund, register
from tests.support.installation import Installation, Json, until
from tests.support.judgement_day import assert_as_the_oracle_says

_IN_5_SECONDS = 34_560
"""The scale at which 48 hours pass in 5 s."""

_WAITING = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"

ORDER, DISPUTE = "order-1", str(uuid4())


async def auto_accepted(installation: Installation, order_id: str) -> Json | None:
    events = await installation.events(order_id)
    return next((event for event in events if "AutoAccepted" in event["type"]), None)


async def test_R3_auto_accepted_within_a_second_of_the_deadline(installation: Installation):
    await installation.run(scale=_IN_5_SECONDS)
    await installation.send("order-1", register())
    await installation.send("order-1", ask_cancellation())
    [_, opened] = await installation.events("order-1")
    deadline = installation.clock.real(datetime.fromisoformat(opened["data"]["respond_by"]))
    event = await until(lambda: auto_accepted(installation, "order-1"))
    records = [r for r in await installation.read(installation.topics.events) if b"AutoAccepted" in (r.value or b"")]
    published = datetime.fromtimestamp(records[0].timestamp / 1000, UTC)
    assert timedelta(0) <= published - deadline < timedelta(seconds=1)
    assert event["time"] == event["data"]["deadline"] == opened["data"]["respond_by"]
    assert [e["type"].split(".")[2] for e in await installation.events("order-1")][2:] == [
        "AutoAccepted", "OrderCanceled",
    ]  # fmt: skip
    await assert_as_the_oracle_says(installation)


async def test_a_restarted_timer_has_lost_no_deadline(installation: Installation):
    await installation.run("commands", "relay", "timer", scale=_IN_5_SECONDS)
    for number in range(20):
        await installation.publish(f"order-{number}", register())
        await installation.publish(f"order-{number}", ask_update())
    await until(lambda: installation.query("SELECT count(*) FROM deadlines") == [(20,)])
    await installation.stop("timer")
    await installation.run("timer")
    for number in range(20):
        await until(lambda number=number: auto_accepted(installation, f"order-{number}"))
    await installation.until_quiet()
    await assert_as_the_oracle_says(installation)


async def test_it_reads_all_events_that_are_there_before_it_asks(installation: Installation):
    """Events that were published again: old disputes, whose settlements are further on than one batch reaches."""
    events, long_ago = installation.topics.events, datetime.now(UTC) - timedelta(days=3)
    opened = event("DisputeOpened", 1, kind="order_update", opened_by="client", message="?", respond_by=long_ago)
    await installation.publish_raw(ORDER.encode(), opened, events)
    filler = event("OrderDelivered", 2)
    for _ in range(30):
        await asyncio.gather(*(installation.publish_raw(ORDER.encode(), filler, events) for _ in range(200)))
    settled = event("Declined", 3, kind="order_update", by="freelancer", message=None)
    last = await installation.publish_raw(ORDER.encode(), settled, events)
    await installation.run("timer")
    await until(
        lambda: installation.query(
            "SELECT true FROM positions WHERE consumer = 'timer' AND next_offset > %s", (last.offset,)
        )
    )
    assert installation.query("SELECT count(*) FROM deadlines") == [(0,)]
    assert await installation.read(installation.topics.commands) == []


def event(name: str, sequence: int, **data: Any) -> bytes:
    envelope = {
        "specversion": "1.0",
        "id": f"{ORDER}:{sequence}",
        "type": f"resolution.event.{name}.v1",
        "source": "/resolution-center",
        "subject": ORDER,
        "time": "2026-01-01T00:00:00.000000Z",
        "sequence": sequence,
        "causationid": DISPUTE,
        "data": {"dispute_id": DISPUTE} | data if data else {},
    }
    return json.dumps(envelope, default=lambda instant: instant.isoformat().replace("+00:00", "Z")).encode()


async def test_case_02_the_timer_is_down_past_the_deadline_and_a_late_decline_finds_it_auto_accepted(
    installation: Installation,
):
    await installation.run("commands", "relay", scale=_IN_5_SECONDS)
    await installation.send("order-1", register())
    dispute_id = str(uuid4())
    await installation.send("order-1", offer_refund(), id=dispute_id)
    [_, opened] = await installation.events("order-1")
    await until(lambda: installation.clock.now() > datetime.fromisoformat(opened["data"]["respond_by"]))
    late = await installation.send("order-1", Decline(actor=CLIENT, dispute_id=dispute_id))
    assert late["data"]["code"] == "dispute_settled"
    assert late["data"]["details"] == {"settled_as": "auto_accepted"}
    await installation.run("timer")
    await until(lambda: installation.query("SELECT sum(next_offset) > 3 FROM positions WHERE consumer = 'timer'")[0][0])
    names = [event["type"].split(".")[2] for event in await installation.events("order-1")]
    assert names == ["OrderRegistered", "DisputeOpened", "AutoAccepted", "PartialRefundGranted"]
    assert installation.query("SELECT count(*) FROM deadlines") == [(0,)]
    await assert_as_the_oracle_says(installation)


async def test_D4_a_decline_in_time_that_waits_in_the_backlog_still_declines(installation: Installation):
    await installation.run("commands", "relay", scale=_IN_5_SECONDS)
    await installation.send("order-1", register())
    dispute_id = str(uuid4())
    await installation.send("order-1", ask_cancellation(), id=dispute_id)
    [_, opened] = await installation.events("order-1")
    await installation.stop("commands")
    await installation.publish("order-1", Decline(actor="freelancer-1", dispute_id=dispute_id))
    await until(lambda: installation.clock.now() > datetime.fromisoformat(opened["data"]["respond_by"]))
    await installation.publish("order-1", ExpireDispute(dispute_id=dispute_id))
    await installation.run("commands")
    await installation.until_published()
    names = [event["type"].split(".")[2] for event in await installation.events("order-1")]
    assert names == ["OrderRegistered", "DisputeOpened", "Declined"]
    await assert_as_the_oracle_says(installation)


async def test_the_timer_asks_again_under_a_new_id_while_the_dispute_is_open(installation: Installation):
    """Its clock may be ahead of the broker's: here a deadline it believes is due meets `not_due`, until it is due."""
    await installation.run("commands", "relay", "timer", scale=_IN_5_SECONDS)
    await installation.send("order-1", register())
    await installation.send("order-1", ask_update())
    await until(lambda: installation.query("SELECT count(*) FROM deadlines") == [(1,)])
    await installation.stop("timer")
    installation.query("UPDATE deadlines SET ask_at = now()")
    await installation.run("timer")
    await until(lambda: auto_accepted(installation, "order-1"))
    asked = [o for o in await installation.outcomes() if o["data"]["command"] == "ExpireDispute"]
    assert len({outcome["data"]["command_id"] for outcome in asked}) == len(asked) >= 2
    assert asked[0]["data"]["code"] == "not_due"
    assert asked[-1]["data"]["events"]
    await assert_as_the_oracle_says(installation)


async def test_the_timer_does_not_ask_again_while_what_it_asked_may_still_wait(installation: Installation):
    """Of many deadlines at once, it would ask about most a second time before they are judged."""
    began = datetime.now(UTC)
    installation.query(
        "INSERT INTO deadlines (order_id, dispute_id, due_at, ask_at) "
        "SELECT 'order-' || n, 'dispute', %s, %s FROM generate_series(1, 3000) AS n",
        (began, began),
    )
    await installation.run("timer")
    await until(lambda: installation.query("SELECT min(attempts) FROM deadlines") == [(1,)])
    [(again,)] = installation.query("SELECT min(ask_at) FROM deadlines")
    assert again >= began + timedelta(seconds=3)  # 3,000 commands wait, and a slow role judges 1,000 in a second
    asked = [json.loads(record.value or b"") for record in await installation.read(installation.topics.commands)]
    assert {command["type"] for command in asked} == {ExpireDispute.type()}


async def test_nobody_uses_the_timers_command_ids_before_it(installation: Installation):
    """They came of order, dispute and attempt once: `not_due` was then the answer to the timer's own command too."""
    await installation.run(scale=_IN_5_SECONDS)
    await installation.send(ORDER, register())
    opened = await installation.send(ORDER, ask_update())
    dispute = opened["causationid"]
    for attempt in range(20):
        foreseen = str(uuid5(NAMESPACE_OID, f"{ORDER}:{dispute}:{attempt}"))
        await installation.publish(ORDER, ExpireDispute(dispute_id=dispute), id=foreseen)
    await until(lambda: auto_accepted(installation, ORDER))


async def test_case_12_withdrawn_and_opened_again_has_a_fresh_deadline(installation: Installation):
    await installation.run("commands", "relay", "timer", scale=_IN_5_SECONDS)
    await installation.send("order-1", register())
    first, second = str(uuid4()), str(uuid4())
    await installation.send("order-1", ask_update(), id=first)
    await asyncio.sleep(2)  # two of the five seconds: the second deadline lies well behind the first
    await installation.send("order-1", Withdraw(actor=CLIENT, dispute_id=first))
    await installation.send("order-1", ask_update(), id=second)
    event = await until(lambda: auto_accepted(installation, "order-1"))
    assert event["data"]["dispute_id"] == second
    await assert_as_the_oracle_says(installation)


async def test_noting_what_was_asked_and_what_is_settled_wait_for_each_other(installation: Installation):
    """Each writes many rows, in an order of its own: PostgreSQL ends one of two that wait for each other's rows."""
    now, url = datetime.now(UTC), installation.settings.database
    a, b, c, d = (Deadline(f"order-{name}", DISPUTE, now, now) for name in "abcd")
    async with AsyncExitStack() as stack:
        asker, keeper, other = [
            await stack.enter_async_context(await psycopg.AsyncConnection.connect(url, autocommit=True))
            for _ in range(3)
        ]
        await other.execute("INSERT INTO positions (consumer, partition, next_offset) VALUES ('timer', 0, 0)")
        await Deadlines(keeper).record([a, b, c, d], [], {0: (0, 1)})
        async with other.transaction():
            # Held up halfway, the one has written `a` and the other `b`, which each wants of the other next.
            await other.execute("SELECT FROM deadlines WHERE order_id IN ('order-c', 'order-d') FOR UPDATE")
            asked = asyncio.create_task(Deadlines(asker).asked([a, c, b], [now] * 3))
            settled = [(deadline.order_id, DISPUTE) for deadline in (b, d, a)]
            kept = asyncio.create_task(Deadlines(keeper).record([], settled, {0: (1, 2)}))
            await until(lambda: len(installation.query(_WAITING)) == 2)
        await asyncio.gather(asked, kept)
    assert installation.query("SELECT order_id, attempts FROM deadlines") == [("order-c", 1)]


async def test_a_timer_that_hangs_while_it_notes_what_it_asked_holds_up_no_other(installation: Installation):
    await installation.run("commands", "relay", "timer", scale=_IN_5_SECONDS)
    await installation.send("order-1", register())
    await installation.send("order-1", ask_update())
    await until(lambda: installation.query("SELECT count(*) FROM deadlines") == [(1,)])
    sleeper, second = installation.supervisor.pid("timer"), Installation(installation.settings)
    assert sleeper is not None
    with psycopg.connect(installation.settings.database) as other:
        other.execute("SELECT FROM deadlines FOR UPDATE")
        await until(lambda: installation.query(_WAITING))
        os.kill(sleeper, signal.SIGSTOP)
    try:
        await second.run("timer")
        await until(lambda: installation.query("SELECT count(*) FROM deadlines") == [(0,)])
    finally:
        os.kill(sleeper, signal.SIGCONT)
        await second.stop()
