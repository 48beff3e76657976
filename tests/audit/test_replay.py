"""`resolution replay`: an order's history with causes and changes, and the read models as they stood at an instant."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psycopg
import pytest
from psycopg.rows import dict_row
from resolution_contracts import Command, Decline, Withdraw
from resolution_contracts.values import format_instant
from typer.testing import CliRunner

from projections import READ_MODELS
from projections.framework.as_of import AsOfError, ReadModelsAsOf, Replayed
from projections.framework.projector import Projector
from projections.send_reminders import send_due
from services import cli
from services.audit.replay import NoHistory
from services.audit.replay_files import write_files
from services.embedded import Servers
from services.eventstore.parking import change_parking
from services.judging.outcomes import ParkedCommand
from services.orders import Order
from services.orders.events import Event
from tests.support.commands import ask_cancellation, ask_extension, ask_update, offer_refund, register
from tests.support.controls import (
    CLIENT,
    DAYS,
    FREELANCER,
    HOURS,
    MS,
    THIRD,
    T,
    accept,
    cancel,
    cancellation,
    command_id,
    completed,
    decline,
    delivered,
    expire,
    extension,
    milliseconds,
    opened,
    order_update,
    refund_offer,
    refunded,
    registered,
    registered_awaiting,
    started,
    withdraw,
)
from tests.support.decisions import carry_out
from tests.support.installation import Installation, until

FAST = 34_560
AUDITORS = Path(__file__).parents[2] / "docs" / "auditors.md"
Json = dict[str, Any]


def resolution(installation: Installation, *arguments: str, code: int = 0, columns: int = 100) -> str:
    """What `resolution` prints."""
    environment = installation.settings.as_environment() | {"COLUMNS": str(columns), "NO_COLOR": "1"}
    result = CliRunner().invoke(cli.app, list(arguments), env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def steps(installation: Installation, *arguments: str) -> list[Json]:
    return [json.loads(line) for line in resolution(installation, "replay", *arguments, "--json").splitlines()]


# --- one order ---


async def test_each_event_has_its_cause_and_what_it_changed(installation: Installation):
    await installation.run("commands", "relay")
    await installation.send("order-1", register())
    dispute_id = (await installation.send("order-1", offer_refund(2_500)))["data"]["command_id"]
    await installation.send("order-1", Decline(actor=CLIENT, dispute_id=dispute_id))
    [registration, offer, refusal] = steps(installation, "order-1")
    assert set(offer) == {"sequence", "event", "time", "command_id", "data", "state", "cause", "changed"}
    cause = offer["cause"]
    where = "SELECT partition, record_offset FROM outcomes WHERE command_id = %s"
    assert installation.query(where, (dispute_id,)) == [(cause["partition"], cause["offset"])]
    assert (cause["command"], cause["source"], cause["outcome"]) == ("OfferPartialRefund", "/tests", "accepted")
    assert (cause["command_id"], cause["decided_by"], cause["time"]) == (dispute_id, "command", offer["time"])
    assert offer["data"]["refund_reason"] == "minor_dissatisfaction"  # D16: auditors see it
    assert registration["changed"]["status"] == {"before": "unknown", "after": "in progress"}
    assert list(offer["changed"]) == ["open_dispute"]
    assert offer["changed"]["open_dispute"] == {"before": None, "after": offer["state"]["open_dispute"]}
    assert refusal["changed"] == {
        "open_dispute": {"before": offer["state"]["open_dispute"], "after": None},
        f"settled_disputes.{dispute_id}": {"before": None, "after": "declined"},
    }


@pytest.mark.parametrize("columns", [80, 120])
async def test_a_block_for_each_event_is_readable_without_colours(installation: Installation, columns: int):
    await installation.run("commands", "relay")
    await installation.send("order-1", register())
    dispute_id = (await installation.send("order-1", offer_refund(2_500)))["data"]["command_id"]
    out = resolution(installation, "replay", "order-1", columns=columns)
    assert all(len(line) <= columns for line in out.splitlines())
    words = " ".join(out.split())
    assert "#2 DisputeOpened" in words
    assert "cause OfferPartialRefund from /tests command " + dispute_id in words
    assert "amount: 25.00 USD" in words
    assert "refund_reason: minor_dissatisfaction" in words
    assert "changed open_dispute: none -> partial_refund of the freelancer, to be answered before" in words
    assert "status: unknown -> in progress" in words
    assert "no dispute open" in words
    assert "partial_refund of the freelancer open" in words


async def test_D3_the_deadline_decided_and_not_the_command_that_came_too_late(installation: Installation):
    await installation.run("commands", "relay", scale=FAST)
    await installation.send("order-1", register())
    dispute_id = (await installation.send("order-1", ask_cancellation()))["data"]["command_id"]
    opened_at = steps(installation, "order-1")[-1]["time"]
    deadline = datetime.fromisoformat(opened_at) + 48 * HOURS
    await until(lambda: installation.clock.now() > deadline)
    assert "has passed" in resolution(installation, "replay", "order-1")
    late = Decline(actor=FREELANCER, dispute_id=dispute_id)
    assert (await installation.send("order-1", late))["data"]["code"] == "dispute_settled"
    *_, auto_accepted, canceled = steps(installation, "order-1")
    for step in (auto_accepted, canceled):
        assert step["cause"]["decided_by"] == "deadline"
        assert (step["cause"]["command"], step["cause"]["outcome"]) == ("Decline", "rejected")
        assert datetime.fromisoformat(step["time"]) == deadline < datetime.fromisoformat(step["cause"]["time"])
    out = " ".join(resolution(installation, "replay", "order-1").split())
    assert "the deadline, not a command: nobody had answered by then noticed when this came: Decline" in out
    assert "rejected: dispute_settled" in out
    assert "has passed" not in out


async def test_commands_that_changed_nothing_stand_where_they_were_judged(installation: Installation):
    await installation.run("commands", "relay")
    await installation.send("order-1", register(), id=command_id(1))
    await installation.send("order-1", offer_refund(9_999), id=command_id(2))
    await installation.send("order-1", ask_update(), id=command_id(3))
    await installation.send("order-1", ask_update(), id=command_id(3))
    await installation.send("order-1", offer_refund(), id=command_id(3))
    await installation.send("order-1", Withdraw(actor=CLIENT, dispute_id=command_id(3)), id=command_id(4))
    await installation.until_published()

    def told(*options: str) -> list[str]:
        return [step.get("event") or step["outcome"] for step in steps(installation, "order-1", *options)]

    found = ["OrderRegistered", "rejected", "DisputeOpened", "repeated", "reused", "Withdrawn"]
    assert told() == ["OrderRegistered", "DisputeOpened", "Withdrawn"]
    assert told("--commands") == found
    assert told("--commands", "--at", "2") == found[:3]
    assert told("--commands", "--as-of", steps(installation, "order-1")[0]["time"])[0] == "OrderRegistered"
    refused = steps(installation, "order-1", "--commands")[1]
    assert (refused["command"], refused["code"]) == ("OfferPartialRefund", "refund_over_limit")
    assert refused["details"] == {"limit": {"amount": 6_000, "currency": "USD"}}
    out = " ".join(resolution(installation, "replay", "order-1", "--commands").split())
    assert "OfferPartialRefund, rejected: refund_over_limit" in out
    assert "A partial refund is at most 60% of the original price" in out
    assert "sent again: it got its first outcome again" in out
    assert "rejected: command_id_reused" in out
    [unknown] = [await installation.send("order-2", ask_update(), id=command_id(5))]
    assert unknown["data"]["code"] == "order_unknown"
    assert [step["code"] for step in steps(installation, "order-2", "--commands")] == ["order_unknown"]
    with pytest.raises(NoHistory, match="order-2"):
        resolution(installation, "replay", "order-2")


async def test_an_event_without_its_outcome_is_shown_all_the_same(installation: Installation):
    """Outcomes may be kept for a shorter time than events."""
    remember(installation, {"order-1": [(0 * HOURS, registered())]})
    [step] = steps(installation, "order-1")
    assert step["cause"]["command_id"] == step["command_id"] == command_id(0)
    assert step["cause"]["command"] is None
    assert "whose outcome is not stored" in resolution(installation, "replay", "order-1")


async def test_parked_commands_are_told(installation: Installation):
    remember(installation, {"order-1": [(0 * HOURS, registered())]})
    park(installation, "order-1", T + HOURS)
    out = resolution(installation, "replay", "order-1")
    assert "1 commands of this order are parked, not judged yet: see `resolution parked show order-1" in out
    out = resolution(installation, "replay", "--all", "--as-of", "2026-03-03", "--into", "later")
    assert "1 commands that came by then are parked" in out
    assert "parked" not in resolution(installation, "replay", "--all", "--as-of", "2026-03-02T09:00Z", "--into", "then")


async def test_an_auditor_who_may_only_read_sees_an_order(installation: Installation):
    remember(installation, {"order-1": [(0 * HOURS, registered()), (HOURS, opened(cancellation()))]})
    assert installation.clock  # the first start noted it
    url = urlsplit(installation.settings.database)
    query = f"{url.query}&options=-c%20default_transaction_read_only%3Don".lstrip("&")
    installation.settings = replace(installation.settings, database_url=url._replace(query=query).geturl())
    assert "has passed" in resolution(installation, "replay", "order-1", "--commands")
    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        resolution(installation, "replay", "--all", "--as-of", "2026-03-02")


@pytest.mark.parametrize(
    ("instant", "events"),
    [
        ("2026-03-02T09:00:00.000000Z", 1),
        ("2026-03-02T08:59:59.999999Z", 0),
        ("2026-03-02T10:00:00+01:00", 1),
        ("2026-03-02 10:00", 2),
        ("2026-03-03", 2),
    ],
)
async def test_an_instant_is_utc_unless_it_says_otherwise(installation: Installation, instant: str, events: int):
    remember(installation, {"order-1": [(0 * HOURS, registered()), (HOURS, delivered())]})
    if events:
        assert len(steps(installation, "order-1", "--as-of", instant)) == events
    else:
        with pytest.raises(NoHistory):
            steps(installation, "order-1", "--as-of", instant)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["order-1", "--as-of", "2026-03-02", "--at", "1"], "exclude each other"),
        (["order-1", "--as-of", "yesterday"], "2026-01-31T12:00:00Z"),
        (["order-1", "--at", "0"], "--at"),
        ([], "name one order"),
        (["order-1", "--all", "--as-of", "2026-03-02"], "name one order"),
        (["--all"], "--as-of INSTANT"),
        (["--all", "--as-of", "2026-03-02", "--commands"], "--at and --commands"),
        (["--all", "--as-of", "2026-03-02", "--into", "a", "--to", "b"], "exclude each other"),
        (["--all", "--as-of", "2999-03-02"], "in the future"),
        (["--all", "--as-of", "2026-03-02", "--into", "Pg; DROP"], "prefix"),
        (["order-1", "--into", "x"], "go with --all"),
        (["--drop", "pg_catalog"], "prefix"),
        (["--drop", "then", "--as-of", "2026-03-02"], "leave --as-of out"),
    ],
)
async def test_what_does_not_go_together_is_bad_usage(installation: Installation, arguments: list[str], said: str):
    out = re.sub(r"[\s│]+", " ", resolution(installation, "replay", *arguments, code=2))
    assert said in out


# --- all read models ---

Stories = dict[str, list[tuple[timedelta, Command]]]

STORIES: Stories = {
    "agreed": [(0 * HOURS, registered()), (HOURS, opened(cancellation())), (3 * HOURS, accept())],
    "noticed-late": [(0 * HOURS, registered()), (HOURS, opened(cancellation())), (60 * HOURS, decline())],
    "noticed-by-the-timer": [(HOURS, registered()), (2 * HOURS, opened(extension())), (51 * HOURS, expire())],
    "refunded": [
        (0 * HOURS, registered()),
        (HOURS, refund_offer(25_00)),
        (5 * HOURS, accept(by=CLIENT)),
        (60 * HOURS, refunded()),
    ],
    "refunded-by-the-deadline": [(0 * HOURS, registered()), (2 * HOURS, refund_offer(10)), (99 * HOURS, delivered())],
    "declined": [(0 * HOURS, registered()), (HOURS, opened(extension())), (2 * HOURS, decline(by=CLIENT))],
    "canceled": [(0 * HOURS, registered_awaiting()), (HOURS, cancel())],
    "started": [(0 * HOURS, registered_awaiting()), (30 * HOURS, started())],
    "open": [(30 * HOURS, registered()), (49 * HOURS, opened(order_update()))],
    "twice": [
        (0 * HOURS, registered()),
        (HOURS, opened(order_update())),
        (2 * HOURS, withdraw()),
        (40 * HOURS, opened(order_update())),
        (41 * HOURS, accept(THIRD, message="Here it is.")),
    ],
    "closed": [(0 * HOURS, registered()), (40 * HOURS, opened(cancellation())), (50 * HOURS, completed())],
}
INSTANTS = [
    T - MS, T, T + HOURS, T + 3 * HOURS - MS, T + 3 * HOURS, T + 26 * HOURS, T + 40 * HOURS, T + 49 * HOURS - MS,
    T + 49 * HOURS, T + 50 * HOURS, T + 60 * HOURS, T + 70 * HOURS, T + 30 * DAYS,
]  # fmt: skip
NOTICED = STORIES | {"open": [*STORIES["open"], (29 * DAYS, expire())]}
"""Every deadline of these was noticed in the end."""


def remember(installation: Installation, stories: Stories, up_to: datetime | None = None) -> None:
    """Stores what follows from these commands, order by order: not in the order of their times.

    `up_to`: only from the commands that had come by then, and from what the timer had to say by then.
    """
    with installation.store() as store:
        for order_id, commands in stories.items():
            order, events = store.order(order_id), list[Event]()
            for number, (after, command) in enumerate(commands):
                if up_to is None or T + after <= up_to:
                    events += judge(order, command, command_id(number), T + after)
            if up_to is not None and order.open_dispute and order.open_dispute.respond_by <= up_to:
                events += judge(order, expire(order.open_dispute.dispute_id), command_id(99), up_to)
            store.append(events)


def judge(order: Order, command: Command, id_: str, now: datetime) -> list[Event]:
    decision = carry_out(order, command, id_, now)
    # A decline comes too late, and brings out what was due.
    assert decision.rejection is None or isinstance(command, Decline)
    return decision.events


def park(installation: Installation, order_id: str, at: datetime) -> None:
    command = ParkedCommand(0, 7, order_id, command_id(7), milliseconds(at), None, None, b"[]", "ValueError in judge")
    with psycopg.connect(installation.settings.database) as connection:
        change_parking(connection.cursor(), [command], [])


def build(installation: Installation, as_of: datetime, prefix: str) -> Replayed:
    with ReadModelsAsOf.hold(installation.settings.database, prefix) as read_models:
        replayed = read_models.fill(as_of, lambda done, of: None)
        read_models.keep()
        return replayed


def project(installation: Installation) -> None:
    """The live read models, from what is stored so far."""
    with installation.store() as store:
        for model in READ_MODELS.values():
            projector = Projector(store, model())
            projector.prepare()
            while projector.catch_up():
                pass


def tables(installation: Installation, prefix: str = "") -> dict[str, list[Json]]:
    """All rows of all read models; of the live ones without a prefix. Documents without the ids of commands."""
    found = {}
    with psycopg.connect(installation.settings.database, row_factory=dict_row) as connection:
        for name in READ_MODELS:
            query = "SELECT tablename FROM pg_tables WHERE schemaname = %s"
            for row in connection.execute(query, (prefix + name,)).fetchall():
                rows = connection.execute(f"SELECT * FROM {prefix}{name}.{row['tablename']} AS t ORDER BY t")
                found[f"{name}.{row['tablename']}"] = [plain(row) for row in rows]
    return found


def plain(row: Json) -> Json:
    return {name: uncaused(json.loads(v)) if isinstance(v, bytes) else v for name, v in row.items()}


def uncaused(value: Any) -> Any:
    """Which command brought out an auto-acceptance is all that may differ."""
    if isinstance(value, dict):
        return {name: uncaused(inner) for name, inner in value.items() if name != "command_id"}
    return [uncaused(inner) for inner in value] if isinstance(value, list) else value


async def test_the_read_models_are_those_of_an_installation_that_got_only_the_commands_up_to_the_instant(
    installation: Installation, servers: Servers
):
    remember(installation, NOTICED)
    project(installation)
    live = tables(installation)
    for number, as_of in enumerate(INSTANTS):
        replayed = build(installation, as_of, f"then{number}")
        async with Installation.fresh(servers) as fresh:
            remember(fresh, STORIES, up_to=as_of)
            project(fresh)
            send_due(fresh.settings.database, as_of)
            expected = tables(fresh)
            assert tables(installation, f"then{number}_") == expected, as_of
            assert {name: len(rows) for name, rows in expected.items()} == replayed.rows
            assert fresh.query("SELECT count(*), count(DISTINCT originator_id) FROM order_events") == [
                (replayed.events, replayed.orders)
            ]
            assert replayed.overdue == 0
    assert tables(installation) == live
    assert len(live["order_page.orders"]) == len(STORIES)


async def test_as_of_now_they_are_the_live_ones(installation: Installation):
    await installation.run(scale=FAST)
    for number in range(30):
        await installation.publish(f"order-{number}", register())
        request = (ask_update, ask_extension, ask_cancellation, offer_refund)[number % 4]
        dispute_id = await installation.publish(f"order-{number}", request())
        if number % 3 == 0:
            by = FREELANCER if number % 4 in (0, 2) else CLIENT
            await installation.publish(f"order-{number}", Decline(actor=by, dispute_id=dispute_id))
    await installation.until_quiet()
    last = installation.query("SELECT max(notification_id) FROM order_events")
    await installation.until_projected()
    replayed = build(installation, installation.clock.now(), "now")
    assert (replayed.events, replayed.position, replayed.orders) == (last[0][0], last[0][0], 30)
    assert tables(installation, "now_") == tables(installation)


async def test_a_deadline_that_nobody_noticed_yet_is_told(installation: Installation):
    remember(installation, STORIES)
    out = resolution(installation, "replay", "--all", "--as-of", "2026-04-01T09:00:00Z")
    assert "1 disputes are open in them although their deadlines had passed" in out
    assert "the schemas asof_20260401_090000_…" in out
    assert installation.query("SELECT count(*) FROM asof_20260401_090000_order_page.orders") == [(len(STORIES),)]


async def test_the_query_of_the_documentation_answers_as_written(installation: Installation):
    remember(installation, {"hers": [(-60 * DAYS, registered(client_id="ann"))], "other": [(0 * HOURS, registered())]})
    resolution(installation, "replay", "--all", "--as-of", "2026-01-31T12:00:00")
    section = AUDITORS.read_text().partition("## Replaying history\n")[2].partition("\n## ")[0]
    [query] = re.findall(r"```sql\n(.*?)```", section, re.DOTALL)
    assert installation.query(query) == [("hers", "in progress")]
    assert installation.query("SELECT obj_description('asof_20260131_120000_inbox'::regnamespace, 'pg_namespace')") == [
        ("resolution replay: inbox as of 2026-01-31T12:00:00.000000Z, from the events up to 2",)
    ]


async def test_schemas_of_others_stay_and_so_does_an_earlier_replay(installation: Installation):
    remember(installation, STORIES)
    installation.query("CREATE SCHEMA mine_inbox")
    with pytest.raises(AsOfError, match="mine_inbox was not made by a replay"):
        build(installation, T, "mine")
    with pytest.raises(AsOfError, match="mine_inbox was not made by a replay"):
        resolution(installation, "replay", "--drop", "mine")
    assert installation.query("SELECT nspname FROM pg_namespace WHERE nspname ~ '^mine'") == [("mine_inbox",)]
    build(installation, T, "then")
    with pytest.raises(AsOfError, match=r"as of 2026-03-02T09:00:00.000000Z.*--drop then"):
        build(installation, T + HOURS, "then")
    assert "then_order_page" in resolution(installation, "replay", "--drop", "then")
    assert resolution(installation, "replay", "--drop", "then", "--json") == '{"dropped": []}\n'
    assert "no schemas" in resolution(installation, "replay", "--drop", "then")
    build(installation, T + HOURS, "then")


async def test_a_replay_that_was_stopped_leaves_nothing_to_read_and_the_next_one_begins_anew(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("services.eventstore.read_events._ORDERS_AT_ONCE", 3)
    remember(installation, NOTICED)
    project(installation)
    live = tables(installation)

    def stop(done: int, of: int) -> None:
        assert 0 < done < of
        raise KeyboardInterrupt

    with (
        ReadModelsAsOf.hold(installation.settings.database, "then") as read_models,
        pytest.raises(KeyboardInterrupt),
    ):
        read_models.fill(T + 30 * DAYS, stop)
    assert tables(installation, "then_") == {}
    seen: list[tuple[int, int]] = []
    with ReadModelsAsOf.hold(installation.settings.database, "then") as read_models:
        with (
            pytest.raises(AsOfError, match="is running"),
            ReadModelsAsOf.hold(installation.settings.database, "then"),
        ):
            pass
        read_models.fill(T + 30 * DAYS, lambda done, of: seen.append((done, of)))
        read_models.keep()
    assert len(seen) == -(-len(STORIES) // 3)
    assert seen[-1][0] == seen[-1][1] == installation.query("SELECT max(notification_id) FROM order_events")[0][0]
    assert tables(installation, "then_") | {"reminders.due": []} == live | {"reminders.due": []}
    assert tables(installation) == live


async def test_a_history_with_a_gap_is_told(installation: Installation):
    remember(installation, STORIES)
    installation.query("DELETE FROM order_events WHERE originator_id = 'agreed' AND originator_version = 2")
    with pytest.raises(NoHistory, match="order agreed is at 1, event 3 is not the next"):
        resolution(installation, "replay", "agreed")
    with pytest.raises(AsOfError, match="order agreed is at 1, event 3 is not the next"):
        build(installation, T + 30 * DAYS, "then")
    assert tables(installation, "then_") == {}


async def test_events_that_come_meanwhile_do_not_count(installation: Installation):
    remember(installation, {"a": [(0 * HOURS, registered())], "c": [(0 * HOURS, registered())]})

    def more(done: int, of: int) -> None:
        if not more_came:
            more_came.append(True)
            remember(installation, {"b": [(0 * HOURS, registered())], "d": [(0 * HOURS, registered())]})

    more_came: list[bool] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("services.eventstore.read_events._ORDERS_AT_ONCE", 1)
        with ReadModelsAsOf.hold(installation.settings.database, "then") as read_models:
            replayed = read_models.fill(T, more)
            read_models.keep()
    assert (replayed.events, replayed.orders, replayed.position) == (2, 2, 2)
    assert installation.query("SELECT order_id FROM then_inbox.orders ORDER BY 1") == [("a",), ("c",)]


async def test_D16_files_have_every_row_and_nothing_confidential(installation: Installation, tmp_path: Path):
    remember(installation, STORIES)
    as_of = T + 26 * HOURS  # a refund offer is open then, and another one was accepted
    build(installation, as_of, "then")
    to = tmp_path / "then"
    out = resolution(installation, "replay", "--all", "--as-of", "2026-03-03T11:00:00Z", "--to", str(to), "--json")
    told = json.loads(out.splitlines()[-1])["replayed"]
    assert told["rows"]["order_page.orders"] == 10
    expected = tables(installation, "then_")
    for table, rows in expected.items():
        name, _, rest = table.partition(".")
        lines = [json.loads(line) for line in (to / name / f"{rest}.jsonl").read_text().splitlines()]
        assert uncaused(lines) == json.loads(json.dumps(without_reason(rows), default=as_text)), table
    assert {str(file.relative_to(to)) for file in to.rglob("*.*")} == {
        *(f"{table.replace('.', '/')}.jsonl" for table in expected), "replay.json",
    }  # fmt: skip
    for (document,) in installation.query("SELECT document FROM then_order_page.orders"):
        assert b"minor_dissatisfaction" not in document
    for file in to.rglob("*.*"):
        assert not re.search(rb"refund_reason|minor_dissatisfaction", file.read_bytes()), file
    assert installation.query("SELECT nspname FROM pg_namespace WHERE nspname ~ 'files'") == []
    with pytest.raises(AsOfError, match="new or empty"):
        write_files(installation.settings.database, to, as_of, lambda done, of: None)


def without_reason(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_reason(inner) for name, inner in value.items() if name != "refund_reason"}
    return [without_reason(inner) for inner in value] if isinstance(value, list) else value


def as_text(value: Any) -> str:
    return format_instant(value.astimezone(UTC)) if isinstance(value, datetime) else value.isoformat()
