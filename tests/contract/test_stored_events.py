"""Stored events of every released version replay for ever: the files in `stored/` are never written again.

A new version of a stored event comes with a file of its own and an upcaster; a change that fails here would make
histories unreadable that are in somebody's database.
"""

import json
from itertools import groupby
from pathlib import Path

import pytest
from eventsourcing.persistence import JSONTranscoder, StoredEvent

from projections import READ_MODELS
from services.orders import Order
from services.orders.events import EVENTS, Event
from services.orders.public import event_envelope
from services.orders.state import CLOSED, Settled
from services.store.mapper import OrderMapper, decode_event

CORPUS = sorted((Path(__file__).parent / "stored").glob("v*.jsonl"))
assert CORPUS, "the corpus is gone"


def stored(file: Path) -> list[StoredEvent]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [StoredEvent(**row | {"state": row["state"].encode()}) for row in rows]


def histories(file: Path) -> dict[str, list[Event]]:
    groups = groupby(stored(file), key=lambda event: event.originator_id)
    return {str(order_id): [decode_event(event) for event in group] for order_id, group in groups}


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.stem)
def test_every_event_of_a_released_version_can_be_read_and_published(file: Path):
    events = [decode_event(event) for event in stored(file)]
    assert {type(event).__name__ for event in events} == set(EVENTS), "the corpus has every event"
    for event in events:
        assert event_envelope(event)["sequence"] == event.originator_version


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.stem)
def test_histories_of_a_released_version_replay_to_the_same_orders(file: Path):
    for order_id, history in histories(file).items():
        order = Order.project(None, history)
        assert order is not None
        assert order.id == order_id
        assert order.version == len(history)
        assert order.status in CLOSED
        assert order.open_dispute is None
        assert all(isinstance(settled, Settled) for settled in order.settled.values())
        assert order.last_event_at == history[-1].timestamp


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.stem)
def test_read_models_are_built_from_histories_of_a_released_version(file: Path):
    every = [event for history in histories(file).values() for event in history]
    for model in READ_MODELS.values():
        documents, _ = model().fold(every)
        assert documents.keys() == histories(file).keys()


def test_the_current_version_is_stored_as_the_newest_file_says():
    newest = CORPUS[-1]
    mapper = OrderMapper(JSONTranscoder())
    for event in stored(newest):
        assert mapper.to_stored_event(mapper.to_domain_event(event)) == event
