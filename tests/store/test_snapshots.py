"""Snapshots of long orders in the real database: used, replaced, never believed blindly, never missed."""

import random
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
from resolution_contracts import (
    Accept,
    Command,
    Decline,
    EraseOrderTexts,
    RecordDelivery,
    RecordRevisionRequested,
    Withdraw,
)
from resolution_contracts.values import Role

from services.audit.findings import Findings
from services.audit.verify_snapshots import verify_snapshots
from services.eventstore import load_orders
from services.eventstore.application import OrderStore
from services.orders import Order
from services.orders.events import Event
from services.orders.guards import must_be_known
from tests.audit.test_verify import findings
from tests.roles.test_erasure import places
from tests.support.commands import (
    CLIENT,
    FREELANCER,
    ask_cancellation,
    ask_extension,
    ask_update,
    offer_refund,
    register,
)
from tests.support.decisions import carry_out
from tests.support.installation import Installation

NOW = datetime(2026, 1, 1, tzinfo=UTC)
AFTER = 6


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """For orders that are not so long."""
    monkeypatch.setattr(load_orders, "SNAPSHOT_AFTER", AFTER)


@pytest.fixture
def store(installation: Installation) -> Iterator[OrderStore]:
    with installation.store() as store:
        yield store


def go_on(order: Order, rounds: int) -> Iterator[Event]:
    """Asks for an update and gets it, again and again, then asks once more: two events each, and one."""
    now = order.last_event_at or NOW
    if order.registered is None:
        yield from carry_out(order, register(), "registered", now).events
    for number in range(rounds):
        asked = f"{order.id}-{order.version}-{number}"
        yield from carry_out(order, ask_update(), asked, now + timedelta(minutes=2 * number)).events
        answer = Accept(actor=FREELANCER, dispute_id=asked, message="Well.")
        yield from carry_out(order, answer, f"{asked}-answer", now + timedelta(minutes=2 * number + 1)).events
    last = f"{order.id}-{order.version}-last"
    yield from carry_out(order, ask_update(), last, now + timedelta(minutes=2 * rounds)).events


def stored(store: OrderStore, order_id: str = "o", rounds: int = 4) -> Order:
    order = Order(id=order_id)
    store.append(list(go_on(order, rounds)))
    return order


def snapshots(installation: Installation) -> dict[str, int]:
    return dict(installation.query("SELECT order_id, version FROM order_snapshots"))


def tampered_with(installation: Installation) -> None:
    """The snapshots say that somebody else is the client: whoever uses one is known by that."""
    installation.query(
        "UPDATE order_snapshots SET state = convert_to(replace(convert_from(state, 'UTF8'), 'client-1', 'client-9'), 'UTF8')"
    )


def client(order: Order | Exception) -> str:
    assert isinstance(order, Order)
    return must_be_known(order).client_id


async def test_an_order_is_loaded_from_its_snapshot_and_the_events_behind(
    installation: Installation, store: OrderStore
):
    orders = {"o": stored(store), "p": stored(store, "p", 2), "q": Order(id="q")}
    assert store.orders(["o", "p", "q"]) == orders
    assert snapshots(installation) == {"o": 9}, "of version 10 there is none, a dispute is open; p is short"
    assert store.orders(["q", "p", "o"]) == orders
    tampered_with(installation)
    assert [client(order) for order in store.orders(["o", "p"]).values()] == ["client-9", "client-1"]
    assert client(store.order("o")) == "client-1", "nobody but the commands role uses them"
    assert store.events.get("o"), "nor does the library"


async def test_loading_gives_what_all_events_give_at_each_version(installation: Installation, store: OrderStore):
    """Random histories of orders. Each command is appended, and the order loaded again."""
    chance, now, versions = random.Random(1), NOW, set()
    for number in range(4):
        order = Order(id=f"o-{number}")
        store.append(carry_out(order, register(), "registered", now).events)
        for step in range(40):
            now += timedelta(hours=chance.choice([0, 1, 30]))
            store.append(carry_out(order, chance.choice(possible(order)), f"c{step}", now).events)
            [loaded] = store.orders([order.id]).values()
            assert loaded == store.order(order.id) == order
            versions |= snapshots(installation).items()
    assert len(versions) >= 8, "and snapshots follow"
    assert verified(installation) == (4, [])


def possible(order: Order) -> list[Command]:
    """What may come, likely or not."""
    anybody: list[Command] = [
        offer_refund(),
        ask_update(),
        ask_extension(),
        RecordDelivery(),
        RecordRevisionRequested(),
    ]
    if order.open_dispute is None:
        return [*anybody * 3, ask_cancellation(), EraseOrderTexts()]
    dispute, asked = order.open_dispute.dispute_id, order.open_dispute.opened_by
    own, other = (CLIENT, FREELANCER) if asked is Role.CLIENT else (FREELANCER, CLIENT)
    declined, withdrawn = (
        Decline(actor=other, dispute_id=dispute, message="No."),
        Withdraw(actor=own, dispute_id=dispute),
    )
    accepted = Accept(actor=other, dispute_id=dispute) if order.open_dispute.kind != "cancellation" else declined
    return [*anybody, EraseOrderTexts(), accepted, declined, withdrawn, withdrawn]


async def test_the_next_snapshot_takes_the_place_of_the_last_one(installation: Installation, store: OrderStore):
    order = stored(store)
    store.orders(["o"])
    for rounds, version in ((0, 9), (1, 9), (0, 17)):
        assert order.open_dispute is not None
        answer = Accept(actor=FREELANCER, dispute_id=order.open_dispute.dispute_id)
        answered = carry_out(order, answer, f"c{version}-{rounds}", NOW).events
        store.append([*answered, *go_on(order, rounds)])
        assert store.orders(["o"]) == {"o": order}
        assert snapshots(installation) == {"o": version}


UNFIT = {
    "of another version of the state": "code = 'another'",
    "no state": "state = 'x'",
    "another order's": "state = convert_to(replace(convert_from(state, 'UTF8'), '\"o\"', '\"p\"'), 'UTF8')",
    "of another version": "version = 8",
    "of events that are not there": (
        "version = 90, state = convert_to(replace(convert_from(state, 'UTF8'), '\"version\":9', '\"version\":90'), 'UTF8')"
    ),
}


async def test_a_snapshot_that_does_not_fit_is_not_used_and_replaced(
    installation: Installation, store: OrderStore, subtests: pytest.Subtests, caplog: pytest.LogCaptureFixture
):
    order = stored(store)
    store.orders(["o"])
    for name, change in UNFIT.items():
        with subtests.test(name):
            caplog.clear()
            tampered_with(installation)
            installation.query(f"UPDATE order_snapshots SET {change}")
            assert store.orders(["o", "p"]) == {"o": order, "p": Order(id="p")}
            assert ("the snapshot of order o cannot be used" in caplog.text) == (
                name != "of another version of the state"
            )
            assert snapshots(installation) == {"o": 9}
            assert verified(installation) == (1, [])


async def test_a_snapshot_that_cannot_be_written_fails_nobody(
    installation: Installation, store: OrderStore, caplog: pytest.LogCaptureFixture
):
    order = stored(store)
    installation.query("ALTER TABLE order_snapshots ADD CONSTRAINT full_disk CHECK (version < 0)")
    assert store.orders(["o"]) == {"o": order}
    assert "no snapshots could be written of 1 long orders" in caplog.text
    assert snapshots(installation) == {}
    installation.query("ALTER TABLE order_snapshots DROP CONSTRAINT full_disk")
    assert store.orders(["o"]) == {"o": order}
    assert snapshots(installation) == {"o": 9}


async def test_many_are_verified_and_the_one_that_differs_is_named(installation: Installation, store: OrderStore):
    ids = [
        f"{name}-{number}" for number in range(60) for name in ("a", "B", "ä")
    ]  # sorted otherwise by every collation
    for order_id in ids:
        stored(store, order_id)
    store.orders(ids)
    assert verified(installation) == (180, [])
    installation.query("DELETE FROM order_snapshots WHERE order_id <> 'B-7'")
    tampered_with(installation)
    different = ["order B-7: its snapshot is not what its events give"]
    assert verified(installation) == (1, different)
    installation.query("UPDATE order_snapshots SET version = 4, state = '{}'")
    assert verified(installation) == (1, different)
    installation.query("DELETE FROM order_events WHERE originator_id = 'B-7'")
    assert verified(installation) == (1, different)
    installation.query("UPDATE order_snapshots SET code = 'another'")
    assert verified(installation) == (0, [])


def verified(installation: Installation) -> tuple[int, list[str]]:
    found, told = Findings(), []
    verify_snapshots(installation.settings.database, found, lambda done, of: told.append((done, of)))
    assert told[-1:] == ([(found.snapshots, found.snapshots)] if found.snapshots else [])
    return found.snapshots, found.differences


async def test_the_commands_role_judges_on_from_a_snapshot_and_verify_compares_it(installation: Installation):
    """With texts and a confidential reason on the order, none of which are in the snapshot."""
    async with installation.here("commands"):
        await installation.run("relay", "timer", "projections")
        await installation.send("order-1", register())
        for _ in range(2):
            offered = await installation.send("order-1", offer_refund())
            await installation.send("order-1", Decline(actor=CLIENT, dispute_id=offered["causationid"], message="No."))
            await round_of_texts(installation)
    assert snapshots(installation) == {}, "the order was at hand all the time"
    async with installation.here("commands"):
        await round_of_texts(installation)
        assert set(snapshots(installation)) == {"order-1"}
        await installation.until_published()
    assert places(installation, "minor_dissatisfaction", "One draft is late.", "How is it going?") == set()
    await installation.until_projected()
    assert verified(installation) == (1, [])
    tampered_with(installation)
    found = await findings(installation)
    assert found["differences"] == ["order order-1: its snapshot is not what its events give"]
    assert found["snapshots"] == 1


async def round_of_texts(installation: Installation) -> None:
    asked = await installation.send("order-1", ask_update())
    await installation.send("order-1", Accept(actor=FREELANCER, dispute_id=asked["causationid"], message="Well."))
