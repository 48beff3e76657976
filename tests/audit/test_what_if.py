"""`resolution what-if` judges history again under other terms, beside the running service (D20)."""

import asyncio
import json
import random
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

import pytest
from aiokafka import AIOKafkaProducer, TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from resolution_contracts import Accept, Command, CommandEnvelope, Decline, Withdraw
from typer.testing import CliRunner, Result

from services import cli
from services.audit.replay import NoHistory
from services.embedded import Servers
from services.failures import Misuse
from services.judging.record import Record
from services.kafka import read_topics
from services.orders.texts import published_without_texts
from tests.audit.test_replay import park
from tests.faults.load import FAST, some_day, under_load
from tests.support.commands import (
    CLIENT,
    FREELANCER,
    ask_cancellation,
    ask_extension,
    offer_refund,
    offer_share,
    register,
)
from tests.support.controls import milliseconds
from tests.support.installation import PARTITIONS, Installation
from tests.support.judgement_day import assert_own_terms_make_no_difference

Json = dict[str, Any]
HOURS_72 = ("--response-hours", "72")


async def ran(installation: Installation, *arguments: str) -> Result:
    environment = installation.settings.as_environment()
    result = await asyncio.to_thread(CliRunner().invoke, cli.app, list(arguments), env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


async def what_if(installation: Installation, *options: str) -> Json:
    result = await ran(installation, "what-if", "--json", *options)
    assert result.exit_code == 0, result.output
    return dict(json.loads(result.stdout.splitlines()[-1]))


class Diary:
    """Commands with the times at which they came, some weeks ago: no deadline is ahead."""

    def __init__(self) -> None:
        self.records: list[tuple[bytes, bytes, datetime]] = []
        self.now = datetime.now(UTC) - timedelta(days=40)

    async def publish(self, order_id: str, command: Command, *, id: str | None = None) -> str:
        envelope = CommandEnvelope.of(order_id, command, source="/tests", id=id)
        self.records.append((envelope.key, envelope.to_json(), self.now))
        return envelope.id

    async def publish_raw(self, key: bytes, value: bytes) -> None:
        self.records.append((key, value, self.now))

    def under_72_hours(self) -> "Diary":
        """The same commands, but all orders have 72 hours."""
        other = Diary()
        other.records = [(key, under_72_hours(value), time) for key, value, time in self.records]
        return other

    async def happen(self, installation: Installation) -> None:
        """Writes them on the topic as of then, and lets the roles judge them all."""
        await set_timestamps(installation, "CreateTime")
        async with AIOKafkaProducer(**installation.settings.cluster.options, enable_idempotence=True) as producer:
            for key, value, time in self.records:
                await producer.send(installation.topics.commands, key=key, value=value, timestamp_ms=milliseconds(time))
            await producer.flush()
        await set_timestamps(installation, "LogAppendTime")
        await installation.run()
        await installation.until_quiet()


async def busy_weeks(seed: int, commands: int = 400) -> Diary:
    diary, dice = Diary(), random.Random(seed)
    async for _ in some_day(cast("Installation", diary), dice):
        diary.now += timedelta(hours=dice.choice([0, 0, 1, 3]))
        if len(diary.records) > commands:
            return diary
    raise AssertionError("a day has no end")


async def test_D20_own_terms_make_no_difference_beside_a_live_service(installation: Installation):
    await installation.run(scale=FAST)
    async with under_load(installation, random.Random(3), per_second=100):
        await asyncio.sleep(4)
        live = await what_if(installation)
        assert live["orders"]["different"] == live["orders"]["only_other_times"] == 0
        assert live["commands"] == live["examples"] == []
        assert live["before"] == live["after"]
        assert sum(live["before"]["disputes"].values()) > 0
    await installation.until_quiet()
    await assert_own_terms_make_no_difference(installation)


async def test_D20_what_72_hours_would_have_made_is_what_they_make(
    servers: Servers, installation: Installation, tmp_path: Path
):
    """A fresh installation gets the same commands at the same times, and its orders have 72 hours."""
    diary = await busy_weeks(7)
    await diary.happen(installation)
    report = await what_if(installation, *HOURS_72, "--to", str(tmp_path / "72"))
    assert report["not_judged"] == {"expired": 0, "parked": 0, "waiting": 0}
    assert report["orders"]["different"] > 0
    assert report["before"] != report["after"]
    would_have = by_order([json.loads(line) for line in (tmp_path / "72" / "events.jsonl").read_text().splitlines()])

    async with Installation.fresh(servers) as fresh:
        await diary.under_72_hours().happen(fresh)
        happened = by_order(await fresh.events())
        assert would_have == happened
        there = await what_if(fresh)
    assert report["after"] == there["before"]
    lines = [json.loads(line) for line in (tmp_path / "72" / "orders.jsonl").read_text().splitlines()]
    was = by_order(await installation.events())
    by_answers_alone = {line["order_id"] for line in lines if "rejected" in line["before"] + line["after"]}
    others = {line["order_id"] for line in lines} - by_answers_alone
    assert (
        others
        <= {order for order in was if essence(was[order]) != essence(happened[order])}
        <= others | by_answers_alone
    )


async def set_timestamps(installation: Installation, kind: str) -> None:
    admin = AIOKafkaAdminClient(bootstrap_servers=installation.settings.kafka)
    await admin.start()
    try:
        settings = {"message.timestamp.type": kind, "retention.ms": "-1"}  # these replace all settings of the topic
        await admin.alter_configs([ConfigResource(ConfigResourceType.TOPIC, installation.topics.commands, settings)])
    finally:
        await admin.close()


def under_72_hours(value: bytes) -> bytes:
    if not value.startswith(b"{"):
        return value
    envelope = json.loads(value)
    if ".RegisterOrder." in envelope["type"]:
        envelope["type"] = "resolution.command.RegisterOrder.v2"
        envelope["data"]["terms"] = (envelope["data"].get("terms") or {}) | {"response_hours": 72}
    return json.dumps(envelope).encode()


def by_order(events: Sequence[Json]) -> dict[str, list[Json]]:
    """Without texts, and without the command that noticed a deadline: it may be another one."""
    orders: defaultdict[str, list[Json]] = defaultdict(list)
    for event in events:
        plain = json.loads(published_without_texts(json.dumps(event).encode()))
        with_the_last = [plain, *orders[event["subject"]][-1:]]
        if any(".AutoAccepted." in one["type"] for one in with_the_last):
            plain["causationid"] = None
        orders[event["subject"]].append(plain)
    return dict(orders)


def essence(events: Sequence[Json]) -> list[Any]:
    of_terms = ("respond_by", "deadline", "terms")
    return [(e["type"], {n: v for n, v in e["data"].items() if n not in of_terms}) for e in events]


async def test_D20_where_the_commands_have_expired_their_events_tell_them(installation: Installation):
    await (await busy_weeks(8)).happen(installation)
    await installation.stop()
    whole = await what_if(installation, *HOURS_72)
    await expire_half(installation)
    own = await what_if(installation)
    assert own["orders"]["different"] == 0
    assert own["not_judged"]["expired"] > 0
    rest = await what_if(installation, *HOURS_72)
    assert rest["before"] == whole["before"]
    assert 0 < rest["orders"]["different"] <= whole["orders"]["different"]


async def expire_half(installation: Installation) -> None:
    """Deletes the first half of the commands of each partition."""
    ends: defaultdict[int, list[int]] = defaultdict(list)
    for record in await installation.read(installation.topics.commands):
        ends[record.partition].append(record.offset)
    admin = AIOKafkaAdminClient(bootstrap_servers=installation.settings.kafka)
    await admin.start()
    try:
        topic = installation.topics.commands
        halves = {TopicPartition(topic, n): RecordsToDelete(of[len(of) // 2]) for n, of in ends.items()}
        await admin.delete_records(halves)
    finally:
        await admin.close()


ORDER, OTHER, EARLY = "order-1", "order-2", "order-3"


async def three_stories(installation: Installation) -> None:
    """An extension that nobody answers in time, a refund that is over the limit, and a request that is accepted."""
    diary = Diary()
    for order_id in (ORDER, OTHER, EARLY):
        await diary.publish(order_id, register())
        diary.now += timedelta(hours=1)
    late = await diary.publish(ORDER, ask_extension(10))
    await diary.publish(OTHER, offer_refund(7_000))
    early = await diary.publish(EARLY, ask_cancellation())
    await diary.publish(EARLY, Accept(actor=FREELANCER, dispute_id=early))
    diary.now += timedelta(hours=60)
    await diary.publish(ORDER, Decline(actor=CLIENT, dispute_id=late))
    await diary.happen(installation)


async def test_the_report_says_what_would_have_come_out_differently(installation: Installation):
    await three_stories(installation)
    result = await ran(installation, "what-if", *HOURS_72, "--largest-refund-percent", "70")
    assert result.exit_code == 0
    lines = [" ".join(line.split()) for line in result.output.splitlines()]
    for line in (
        "3 orders, with response hours 72, largest refund percent 70: 2 would have come out differently, "
        "0 more the same at other times.",
        "settled: auto accepted 1 1",
        "refunds in USD 0 1 +1",
        "refunded 0.00 USD 70.00 USD +70.00 USD",
        "disputes, partial refund 0 1 +1",
        "settled: declined 0 1 +1",
        "answers that came too late 1 0 -1",
        "days of extensions 10 0 -10",
        "Decline dispute_settled accepted 1",
        "OfferPartialRefund refund_over_limit accepted 1",
        "What this cannot know:",
    ):
        assert line in lines, result.output
    assert any(line.startswith("To see one: resolution replay --what-if --response-hours 72") for line in lines)
    report = await what_if(installation, "--response-hours", "1")
    assert report["orders"] == {"covered": 3, "different": 0, "only_other_times": 1}


async def test_an_order_is_shown_side_by_side(installation: Installation):
    await three_stories(installation)
    result = await ran(installation, "replay", ORDER, "--what-if", *HOURS_72, "--json")
    steps = [json.loads(line) for line in result.stdout.splitlines()]
    names = [step["command"] for step in steps]
    assert names == ["RegisterOrder", "OpenDispute", "Decline"]
    declined = steps[-1]
    assert [e["event"] for e in declined["before"]["events"]] == ["AutoAccepted", "DeliveryDateExtended"]
    assert (declined["before"]["outcome"], declined["after"]["outcome"]) == ("dispute_settled", "accepted")
    assert [e["event"] for e in declined["after"]["events"]] == ["Declined"]
    told = await ran(installation, "replay", ORDER, "--what-if", *HOURS_72)
    assert "#3 Declined" in told.output
    assert "#3 AutoAccepted" in told.output
    late = await ran(installation, "replay", OTHER, "--what-if", "--largest-refund-percent", "70", "--json")
    refused, due = [json.loads(line) for line in late.stdout.splitlines()][1:]
    assert (refused["before"]["outcome"], refused["after"]["outcome"]) == ("refund_over_limit", "accepted")
    assert (due["command"], due["before"]["events"]) == (None, [])
    assert [e["event"] for e in due["after"]["events"]] == ["AutoAccepted", "PartialRefundGranted"]
    for wrong in (
        ("replay", ORDER, *HOURS_72),
        ("replay", "--what-if", *HOURS_72),
        ("replay", ORDER, "--what-if", "--at", "1"),
        ("what-if", "--response-hours", "721"),
        ("what-if", "--since", "yesterday"),
    ):
        assert (await ran(installation, *wrong)).exit_code == 2
    with pytest.raises(NoHistory):
        await ran(installation, "replay", "order-9", "--what-if")


async def test_only_some_orders_have_other_terms(installation: Installation, tmp_path: Path):
    await three_stories(installation)
    middle = sorted(event["time"] for event in await installation.events() if ".OrderRegistered." in event["type"])[1]
    assert (await what_if(installation, *HOURS_72, "--since", middle))["orders"]["covered"] == 2
    assert (await what_if(installation, *HOURS_72, "--until", middle))["orders"]["covered"] == 1
    assert (await what_if(installation, *HOURS_72, "--terms-name", "gold"))["orders"]["covered"] == 0
    (tmp_path / "there").mkdir()
    with pytest.raises(Misuse, match=r"there exists. Name a new directory."):
        await ran(installation, "what-if", "--to", str(tmp_path / "there"))


async def side_by_side(installation: Installation, order_id: str, *options: str) -> list[Json]:
    result = await ran(installation, "replay", order_id, "--what-if", "--json", *options)
    return [json.loads(line) for line in result.stdout.splitlines()]


async def test_D4_a_command_that_nobody_has_judged_yet_may_be_an_answer_in_time(installation: Installation):
    """Neither an order whose command waits is accepted automatically, nor one that is parked."""
    await installation.run(scale=FAST)
    for order_id in (ORDER, OTHER, EARLY):
        await installation.send(order_id, register())
    disputes = [(await installation.send(order_id, ask_extension(10)))["causationid"] for order_id in (ORDER, EARLY)]
    await installation.stop()
    await installation.publish(ORDER, Decline(actor=CLIENT, dispute_id=disputes[0]))
    park(installation, EARLY, datetime.now(UTC))
    await asyncio.sleep(50 * 3600 / FAST)
    report = await what_if(installation)
    assert report["before"] == report["after"]
    assert report["before"]["settled"] == {}
    assert report["not_judged"] == {"expired": 0, "parked": 1, "waiting": 1}
    assert (await side_by_side(installation, ORDER))[-1]["command"] == "OpenDispute"
    assert (await side_by_side(installation, EARLY))[-1]["command"] == "OpenDispute"
    told = await ran(installation, "replay", EARLY, "--what-if")
    assert "1 commands of this order are parked" in told.output


async def test_an_order_whose_commands_came_in_several_partitions(installation: Installation):
    """Earlier versions took commands from any partition."""
    other = (installation.topics.partition_of(ORDER.encode()) + 1) % PARTITIONS
    async with installation.earlier_here("commands"), installation.here("relay"):
        await installation.publish(ORDER, register())
        dispute = await installation.publish(ORDER, ask_extension(10))
        await installation.until_published()
        for _ in range(5):
            decline = CommandEnvelope.of(ORDER, Decline(actor=CLIENT, dispute_id=dispute), source="/tests")
            await installation.publish_raw(decline.key, decline.to_json(), partition=other)
        await installation.until_published()
    assert (await what_if(installation))["orders"]["different"] == 0
    steps = await side_by_side(installation, ORDER)
    assert [step["command"] for step in steps] == ["RegisterOrder", "OpenDispute", *["Decline"] * 5]
    assert all(step["before"] == step["after"] for step in steps)


async def test_retired_outcomes_leave_events_that_tell_the_commands(installation: Installation):
    diary = Diary()
    await diary.publish(ORDER, register())
    dispute = await diary.publish(ORDER, ask_extension(10))
    diary.now += timedelta(hours=30)
    await diary.publish(ORDER, Accept(actor=CLIENT, dispute_id=dispute))
    await diary.happen(installation)
    kept = await what_if(installation, "--response-hours", "24")
    await installation.stop()
    retire_everything(installation)
    gone = await what_if(installation, "--response-hours", "24")
    assert gone["events_with_retired_outcomes"] == 4
    for name in ("before", "after", "commands", "orders"):
        assert gone[name] == kept[name]
    steps = await side_by_side(installation, ORDER)
    assert [step["command"] for step in steps] == ["RegisterOrder", "OpenDispute", "Accept"]
    assert all(step["before"] == step["after"] for step in steps)


def retire_everything(installation: Installation) -> None:
    """As if the month of all outcomes so far were over, and its outcomes retired."""
    [(outcome, event)] = installation.query("SELECT max(outcome_id), max(last_event_id) FROM outcomes")
    installation.query("DELETE FROM outcomes")
    installation.query("UPDATE outcome_months SET last_outcome_id = %s, last_event_id = %s", (outcome, event))


async def test_what_earlier_versions_refused_by_the_schema_is_judged_by_the_terms(installation: Installation):
    async with installation.earlier_here("commands"), installation.here("relay"):
        for order_id, command in ((ORDER, ask_extension(70)), (OTHER, offer_share(70))):
            await installation.publish(order_id, register())
            await installation.publish(order_id, command)
        await installation.until_published()
    assert [o["data"].get("code") for o in await installation.outcomes()].count("invalid") == 2
    await assert_own_terms_make_no_difference(installation)
    report = await what_if(installation, "--largest-refund-percent", "80", "--longest-extension-days", "80")
    assert {(c["command"], c["before"], c["after"]) for c in report["commands"]} == {
        ("OpenDispute", "invalid", "accepted"),
        ("OfferPartialRefund", "invalid", "accepted"),
    }
    told = await ran(installation, "replay", ORDER, "--what-if", "--largest-refund-percent", "0")
    assert "largest_refund_percent 0" in told.output


async def test_a_long_order_is_read_in_few_fetches(installation: Installation, monkeypatch: pytest.MonkeyPatch):
    diary = Diary()
    await diary.publish(ORDER, register())
    for _ in range(300):
        await diary.publish(ORDER, Withdraw(actor=CLIENT, dispute_id="none"))
        await diary.publish(OTHER, register())
    await diary.happen(installation)
    fetches = 0
    fetch = read_topics.read_some

    async def counted(*arguments: Any, **options: Any) -> list[Record]:
        nonlocal fetches
        records = await fetch(*arguments, **options)
        fetches += bool(records)  # a slow broker may have none yet
        return records

    monkeypatch.setattr(read_topics, "read_some", counted)
    assert len(await side_by_side(installation, ORDER)) == 301
    assert fetches < 20
