"""Stored events of every released version replay for ever: the files in `stored/` are never written again.

A new version of a stored event comes with a file of its own and an upcaster; a change that fails here would make
histories unreadable that are in somebody's database. The keys that versions 2 and 3 were sealed with lie beside them;
one of each is erased. Version 3 has orders with terms of their own.
"""

import json
from dataclasses import replace
from datetime import timedelta
from itertools import groupby
from pathlib import Path

import pytest
from eventsourcing.persistence import StoredEvent
from msgspec import to_builtins

from projections import READ_MODELS
from services.eventstore.event_codec import Sealing, decode_event, is_stored_as
from services.orders import Order
from services.orders.events import EVENTS, DisputeOpened, Event, OrderRegistered
from services.orders.evolve import evolve_all
from services.orders.public_events import event_envelope, public_data
from services.orders.state import CLOSED, Settled
from services.orders.texts import ERASED, WITH_TEXTS, texts
from services.sealing.master_keys import MasterKeys
from services.sealing.order_keys import OrderKeys
from services.sealing.seal import NONCE_BYTES, split
from tests.support.in_memory import StoredInMemory

CORPUS = sorted((Path(__file__).parent / "stored").glob("v*.jsonl"))
assert [file.stem for file in CORPUS] == ["v1", "v2", "v3"], "part of the corpus is gone"

HELP_PAGE = {
    "response_hours": 48,
    "very_late_after_hours": 24,
    "longest_extension_days": 60,
    "largest_refund_percent": 60,
    "name": None,
}
"""Of orders that were registered without terms. These numbers may never change: no stored event has them."""


def stored(file: Path) -> list[StoredEvent]:
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    return [StoredEvent(**row | {"state": row["state"].encode()}) for row in rows]


def keys(file: Path) -> OrderKeys:
    beside = file.parent / "keys" / file.name
    rows = [json.loads(line) for line in beside.read_text().splitlines()] if beside.exists() else []
    return OrderKeys({(row["order_id"], row["number"]): row["key"] and bytes.fromhex(row["key"]) for row in rows})


def decoded(file: Path) -> list[Event]:
    of_orders = keys(file)
    return [decode_event(event, of_orders) for event in stored(file)]


def histories(file: Path) -> dict[str, list[Event]]:
    groups = groupby(decoded(file), key=lambda event: event.originator_id)
    return {order_id: list(history) for order_id, history in groups}


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.stem)
def test_every_event_of_a_released_version_can_be_read_and_published(file: Path):
    names = {type(event).__name__ for event in decoded(file)}
    assert names == set(EVENTS) - {"OrderTextsErased"} if file.stem == "v1" else set(EVENTS), (
        "the corpus has every event"
    )
    for event in decoded(file):
        assert event_envelope(event)["sequence"] == event.originator_version


def test_version_2_says_what_version_1_said_but_for_what_was_erased():
    first, second = (histories(CORPUS[0].with_stem(version)) for version in ("v1", "v2"))
    erased = keys(CORPUS[0].with_stem("v2")).erased
    assert erased
    for order_id, history in first.items():
        for before, now in zip(history, second[order_id], strict=False):
            assert texts(now).keys() <= texts(before).keys()
            if order_id in erased:
                assert set(texts(now).values()) <= {ERASED}
            else:
                assert now == before


@pytest.mark.parametrize("file", CORPUS, ids=lambda file: file.stem)
def test_histories_of_a_released_version_replay_to_the_same_orders(file: Path):
    for order_id, history in histories(file).items():
        order = evolve_all(Order(id=order_id), history)
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


def test_D20_an_order_of_an_earlier_version_has_the_help_pages_terms():
    for file in CORPUS[:2]:
        for order_id, history in histories(file).items():
            assert to_builtins(evolve_all(Order(id=order_id), history).terms) == HELP_PAGE
            assert "terms" not in event_envelope(history[0])["data"]


def test_D20_an_order_with_terms_of_its_own_is_stored_as_version_2_of_its_registration():
    own = 0
    for event, read in zip(stored(CORPUS[2]), decoded(CORPUS[2]), strict=True):
        if isinstance(read, OrderRegistered):
            told = json.loads(event.state).get("terms")
            assert to_builtins(evolve_all(Order(id=read.originator_id), [read]).terms) == (told or HELP_PAGE)
            assert public_data(read).get("terms") == told
            assert event.topic == ("OrderRegistered" if told is None else "OrderRegistered.v2")
            own += told is not None
    assert own > 1


def test_D20_what_was_stored_under_an_orders_own_terms_was_reckoned_from_them():
    for history in histories(CORPUS[2]).values():
        terms = evolve_all(Order(id=history[0].originator_id), history).terms
        for event in history:
            if isinstance(event, DisputeOpened):
                assert event.respond_by - event.timestamp == timedelta(hours=terms.response_hours)


def test_D20_a_registration_under_another_topic_is_not_what_is_stored():
    for event, read in zip(stored(CORPUS[2]), decoded(CORPUS[2]), strict=True):
        if isinstance(read, OrderRegistered):
            other = {"OrderRegistered": "OrderRegistered.v2", "OrderRegistered.v2": "OrderRegistered"}[event.topic]
            assert is_stored_as(event, read, keys(CORPUS[2]))
            assert not is_stored_as(replace(event, topic=other), read, keys(CORPUS[2]))


@pytest.mark.parametrize("file", CORPUS[1:], ids=lambda file: file.stem)
def test_the_current_version_is_stored_as_the_newer_files_say(file: Path):
    of_orders, anew = keys(file), StoredInMemory()
    for event in stored(file):
        read = decode_event(event, of_orders)
        assert is_stored_as(event, read, of_orders)
        anew.append([read])
        again = anew.events[str(event.originator_id)][-1]
        assert (again.topic, split(again.state)[0]) == (event.topic, split(event.state)[0])


def test_a_stored_event_that_was_changed_is_not_what_is_stored_of_it():
    newest = CORPUS[-1]
    of_orders = keys(newest)
    sealed = [event for event in stored(newest) if b"sealed" in event.state]
    for event in sealed:
        read = decode_event(event, of_orders)
        assert type(read) in WITH_TEXTS
        for changed in (
            event.state.replace(b'"sequence":', b'"sequence": '),
            event.state[:-20] + bytes([event.state[-20] ^ 1]) + event.state[-19:],
            split(event.state)[0],
        ):
            readable = event.originator_id not in of_orders.erased
            if readable or changed[:40] != event.state[:40]:
                assert not is_stored_as(replace(event, state=changed), read, of_orders)


def test_each_text_is_sealed_with_a_nonce_of_its_own():
    event = next(event for event in decoded(CORPUS[-1]) if texts(event))
    sealing = Sealing({}, MasterKeys())
    sealed = [split(sealing.stored(event).state)[1] for _ in range(1000)]
    contents = [one.content for one in sealed if one is not None]
    assert len({content[:NONCE_BYTES] for content in contents}) == 1000
