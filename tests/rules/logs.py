"""The commands topic without a broker: records in, what the service makes of them out."""

import json
from collections.abc import Collection, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from itertools import islice
from typing import Any

import msgspec
from resolution_contracts import Command

from projections.order_page import Page, show, view
from services.clock import Clock
from services.judging.decode import Received
from services.judging.first_uses import FirstUses
from services.judging.judge import Judged, judge, read
from services.judging.order_cache import OrderCache
from services.judging.outcomes import JudgedOutcome
from services.judging.record import Record
from services.orders import Order
from services.orders.events import Event
from services.orders.evolve import evolve, evolve_all
from services.orders.public_events import event_envelope
from services.orders.texts import without_texts
from tests.rules.beside_oracle import assert_same, read_by_oracle
from tests.rules.oracle import Oracle
from tests.support.controls import ORDER, T, as_record, in_envelope
from tests.support.in_memory import StoredInMemory

Json = dict[str, Any]
CLOCK = Clock(origin=datetime(2026, 1, 1, tzinfo=UTC))


class Service:
    """The commands role, with lists for the database: loads what its cache does not hold, judges, and stores.

    The oracle reads every record beside it, and must say the same; not where the same log is read again, and held
    against the first reading. `snapshot_after`: how many events behind its snapshot a loaded order gets the next one;
    without, there are none.
    """

    def __init__(
        self, cached_orders: int = 20_000, snapshot_after: int | None = None, beside_oracle: bool = True
    ) -> None:
        self.stored = StoredInMemory()
        self.events: list[Event] = []
        self.outcomes: list[JudgedOutcome] = []
        self.oracle = Oracle()
        self._beside_oracle = beside_oracle
        self._first_uses: FirstUses = {}
        self._cache = OrderCache(cached_orders)
        self._snapshot_after = snapshot_after

    def judge(self, records: Sequence[Record]) -> Judged:
        """One batch."""
        readings = read(records, CLOCK.of_record, None)
        commands = [reading for _, reading in readings if isinstance(reading, Received)]
        orders, missing = self._cache.take(command.order_id for command in commands)
        orders |= {order_id: self.load(order_id) for order_id in missing}
        judged = judge(readings, orders, (self._first_uses,), set())
        assert not judged.parked
        if self._beside_oracle:
            times = [CLOCK.of_record(record.timestamp) for record in records]
            assert_same(judged, [read_by_oracle(self.oracle, *one) for one in zip(records, times, strict=True)])
        self._cache.put(orders)
        self._store(judged)
        return judged

    def send(
        self, command: Command, command_id: str, at: datetime = T, order_id: str = ORDER
    ) -> tuple[list[str], Json]:
        """One command: the names of its events, and the data of its outcome."""
        judged = self.judge([as_record(in_envelope(command, command_id, order_id), at)])
        return names(judged.events), outcome_of(judged.outcomes[0])

    def load(self, order_id: str) -> Order:
        replayed = evolve_all(Order(id=order_id), self.stored.history(order_id))
        if self._snapshot_after is None:
            return replayed
        loaded = self.stored.load(order_id, self._snapshot_after)
        assert loaded == replayed
        return loaded

    def _store(self, judged: Judged) -> None:
        self.stored.append(judged.events)
        self.events += judged.events
        self.outcomes += judged.outcomes
        self._first_uses |= judged.first_uses


def service_after(
    records: Iterable[Record],
    batch: int = 1000,
    cached_orders: int = 20_000,
    snapshot_after: int | None = None,
    beside_oracle: bool = True,
) -> Service:
    """A new process that reads a whole log, in batches of this size, and remembers this many orders."""
    service, rest = Service(cached_orders, snapshot_after, beside_oracle), iter(records)
    while piece := list(islice(rest, batch)):
        service.judge(piece)
    return service


def judged_every_way(records: Sequence[Record]) -> Service:
    """Reads a log at once and piece by piece, with orders kept and loaded anew: it must all come to the same."""
    first = service_after(records)
    for batch, cached_orders, snapshot_after in ((1, 20_000, None), (1, 0, 0), (2, 1, 1), (3, 0, 3)):
        assert published(
            service_after(records, batch, cached_orders, snapshot_after, beside_oracle=False)
        ) == published(first)
    return first


def published(service: Service) -> tuple[list[bytes], list[bytes]]:
    """Every event as stored and as published, and every outcome, byte for byte, in order."""
    events = [msgspec.json.encode((event, event_envelope(event))) for event in service.events]
    return events, [msgspec.json.encode(outcome) for outcome in service.outcomes]


def log(*commands: tuple[datetime, str, Command]) -> list[Record]:
    """A topic: each command with the time at which the broker took it, and its id."""
    return [
        as_record(in_envelope(command, command_id), time, offset)
        for offset, (time, command_id, command) in enumerate(commands)
    ]


def names(events: Iterable[Event]) -> list[str]:
    return [type(event).__name__ for event in events]


def outcome_of(row: JudgedOutcome) -> Json:
    """The `data` of an outcome's message."""
    return dict(json.loads(row.message or b"")["data"])


def codes(outcomes: Collection[JudgedOutcome]) -> Iterator[str]:
    """The code of each rejection, and "accepted" for each acceptance."""
    return (outcome_of(row).get("code", "accepted") for row in outcomes)


def page_after(events: Iterable[Event]) -> Page:
    """The read model's document, as it is kept."""
    page: Page | None = None
    for event in events:
        page = page or Page(Order(id=event.originator_id))
        evolve(page.order, event)
        show(page, event)
    assert page is not None, "an order that nobody registered has no page"
    return msgspec.json.decode(msgspec.json.encode(page), type=Page)


def page_of(events: Iterable[Event], viewer: str | None, now: datetime) -> Json:
    """The order page as `viewer` sees it."""
    history = list(events)
    return view(page_after(map(without_texts, history)), history, viewer, now)
