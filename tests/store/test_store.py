"""What a transaction of the commands role does, and what it refuses."""

from collections.abc import Iterable
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from eventsourcing.persistence import IntegrityError, PersistenceError

from services.eventstore.append import Batch
from services.eventstore.application import OrderStore
from services.eventstore.migrate import migrate
from services.eventstore.positions import OtherTopic, StoredPositions
from services.judging.first_uses import FirstUse
from services.judging.outcomes import JudgedOutcome, OutcomeKind
from services.orders import Order
from services.orders.events import Event
from services.orders.evolve import evolve_all
from tests.support.commands import ask_update, register
from tests.support.decisions import carry_out
from tests.support.installation import Installation

NOW = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def store(installation: Installation):
    with installation.store() as store:
        yield store


def row(offset: int, command_id: str = "c", kind: OutcomeKind = OutcomeKind.ACCEPTED, events: int = 0) -> JudgedOutcome:
    return JudgedOutcome(
        kind, 0, offset, b"{}", "o", command_id, b"", "", key=None, headers=None, traceparent=None, events=events
    )


def two_events() -> list[Event]:
    order = Order(id="o")
    return [
        *carry_out(order, register(), "c1", NOW).events,
        *carry_out(order, ask_update(), "c2", NOW).events,
    ]


def project(order: Order | None, events: Iterable[Event]) -> Order:
    """A projector function for the library's repository."""
    return evolve_all(order or Order(id="o"), events)


async def test_the_librarys_own_readers_read_what_the_recorder_wrote(installation: Installation, store: OrderStore):
    events = two_events()
    order = project(None, events)
    store.append(events)
    assert list(store.events.get("o")) == events
    assert store.order("o") == order
    assert store.repository.get("o", projector_func=project) == order
    assert [n.id for n in store.notification_log.select(1, 10)] == [1, 2]
    assert store.recorder.max_notification_id() == 2
    assert store.orders(["o", "unknown"]) == {"o": order, "unknown": Order(id="unknown")}


async def test_a_process_that_lost_its_partition_writes_nothing(installation: Installation, store: OrderStore):
    positions, topic = StoredPositions(installation.settings.database, "commands"), uuid4()
    assert await positions.positions(topic, {0: 5, 1: 0}) == ({0: 5, 1: 0}, {0: 0, 1: 0})
    store.append([], Batch({0: (5, 7)}, [row(5), row(6, "d")]))
    with pytest.raises(PersistenceError, match="another process"):
        store.append(two_events(), Batch({0: (5, 8), 1: (0, 3)}, [row(7, "e", events=2)]))
    assert await positions.positions(topic, {0: 0, 1: 0}) == ({0: 7, 1: 0}, {0: 0, 1: 0})
    assert installation.query("SELECT count(*) FROM outcomes") == [(2,)]
    assert installation.query("SELECT count(*) FROM order_events") == [(0,)]


async def test_positions_are_those_of_one_topic(installation: Installation):
    """A topic that was created again under the same name has other records."""
    positions = StoredPositions(installation.settings.database, "commands")
    await positions.positions(uuid4(), {0: 0, 1: 0})
    with pytest.raises(OtherTopic, match="renew-topics"):
        await positions.positions(uuid4(), {1: 0})


async def test_two_writers_of_one_order_cannot_both_win(installation: Installation, store: OrderStore):
    store.append(two_events())
    with pytest.raises(IntegrityError):
        store.append(two_events(), Batch({}, [row(0, events=2)]))
    assert installation.query("SELECT count(*) FROM outcomes") == [(0,)]


async def test_a_command_id_is_used_first_once(installation: Installation, store: OrderStore):
    store.append([], Batch({}, [row(0)]))
    store.append([], Batch({}, [row(1, kind="repeated"), row(2, kind="reused"), row(3, kind="repeated")]))
    with pytest.raises(IntegrityError):
        store.append([], Batch({}, [row(4)]))
    assert store.first_uses({("o", "c"), ("o", "x"), ("p", "c")}) == {("o", "c"): FirstUse(b"", b"{}")}


async def test_ids_have_no_gap_after_a_transaction_that_failed(installation: Installation, store: OrderStore):
    store.append(two_events(), Batch({}, [row(0, "a", events=2)]))
    with pytest.raises(IntegrityError):
        store.append(two_events(), Batch({}, [row(1, "b", events=2)]))
    store.append([], Batch({}, [row(1, "b")]))
    assert installation.query("SELECT outcome_id, last_event_id FROM outcomes ORDER BY 1") == [(1, 2), (2, 2)]


async def test_migrations_run_once_also_twice(installation: Installation):
    assert migrate(installation.settings.database) == []


def test_orders_set_free_leave_a_version_that_no_other_history_comes_to(store: OrderStore, installation: Installation):
    """Else a role would not notice that a database has fallen back to before that, and other orders were parked."""
    versions = set()
    for _ in range(2):
        store.append([], Batch(freed=[(0, 1)]))
        versions.add(store.parking().version)
        installation.query("UPDATE parking SET version = 0")
    assert len(versions) == 2
