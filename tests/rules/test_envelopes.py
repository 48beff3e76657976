"""Which records are commands, what comes out on the wire, and when two commands are the same."""

import json
from typing import Any

import pytest

from services.judging.decode import Unreadable
from services.orders.public_events import event_envelope
from tests.rules.beside_oracle import decoded
from tests.rules.logs import Service, outcome_of
from tests.support.controls import FIRST, MS, ORDER, T, as_record, delivered, in_envelope, raw_record, registered

DELIVERY = in_envelope(delivered()).to_json()
MEMBERS = json.loads(DELIVERY)


def is_dead(value: bytes | None, key: bytes | None = ORDER.encode()) -> bool:
    try:
        decoded(raw_record(key, value))
    except Unreadable:
        return True
    return False


def delivery(**changes: Any) -> bytes:
    return json.dumps(MEMBERS | changes).encode()


# --- on the wire ---


def test_contract_an_event_and_its_outcome_in_full():
    judged = Service().judge([as_record(in_envelope(registered()), T + MS)])
    [event] = judged.events
    assert event_envelope(event) == {
        "specversion": "1.0",
        "id": f"{ORDER}:1",
        "type": "resolution.event.OrderRegistered.v1",
        "source": "/resolution-center",
        "subject": ORDER,
        "time": "2026-03-02T09:00:00.001000Z",
        "sequence": 1,
        "causationid": FIRST,
        "data": {
            "client_id": "client-1",
            "freelancer_id": "freelancer-1",
            "price": {"amount": 100_00, "currency": "USD"},
            "expected_delivery_at": "2026-03-12T09:00:00.000000Z",
            "awaiting_requirements": False,
        },
    }
    assert json.loads(judged.outcomes[0].message or b"") == {
        "specversion": "1.0",
        "id": f"{ORDER}:{FIRST}",
        "type": "resolution.outcome.CommandAccepted.v1",
        "source": "/resolution-center",
        "subject": ORDER,
        "time": "2026-03-02T09:00:00.001000Z",
        "causationid": FIRST,
        "data": {
            "command_id": FIRST,
            "command": "RegisterOrder",
            "events": [{"type": "resolution.event.OrderRegistered.v1", "sequence": 1}],
        },
    }


def test_contract_a_rejection_in_full():
    [row] = Service().judge([as_record(in_envelope(delivered()), T)]).outcomes
    outcome = json.loads(row.message or b"")
    assert outcome["data"].pop("message")
    assert outcome == {
        "specversion": "1.0",
        "id": f"{ORDER}:{FIRST}",
        "type": "resolution.outcome.CommandRejected.v1",
        "source": "/resolution-center",
        "subject": ORDER,
        "time": "2026-03-02T09:00:00.000000Z",
        "causationid": FIRST,
        "data": {"command_id": FIRST, "command": "RecordDelivery", "code": "order_unknown", "details": {}},
    }


# --- what is no command ---


@pytest.mark.parametrize(
    "change",
    [
        {"specversion": "1.1"},
        {"specversion": 1.0},
        {"specversion": None},
        {"id": None},
        {"id": ""},
        {"id": 7},
        {"id": "00000000000000000000000000000001"},
        {"id": "{00000000-0000-0000-0000-000000000001}"},
        {"id": "00000000-0000-0000-0000-00000000000g"},
        {"id": "00000000-0000-0000-0000-000000000001\n"},
        {"type": None},
        {"type": ["resolution.command.RecordDelivery.v1"]},
        {"type": "resolution.command.RecordDelivery.v2"},
        {"type": "resolution.command.recorddelivery.v1"},
        {"type": "resolution.command.Nothing.v1"},
        {"type": "resolution.event.OrderDelivered.v1"},
        {"source": None},
        {"source": ""},
        {"source": 1},
        {"subject": None},
        {"subject": "o2"},
        {"subject": [ORDER]},
    ],
)
def test_a_changed_attribute_makes_it_dead_and_so_does_a_missing_one(change):
    [attribute] = change
    assert not is_dead(delivery())
    assert is_dead(delivery(**change))
    assert is_dead(json.dumps({name: value for name, value in MEMBERS.items() if name != attribute}).encode())


@pytest.mark.parametrize("order", ["", "a b", "a/b", "é", "o1\n", "x" * 65])
def test_a_subject_that_is_no_order_id_makes_it_dead(order):
    assert is_dead(delivery(subject=order), order.encode())


@pytest.mark.parametrize("order", ["x" * 64, "A-Z_a.z-0", ".", "-"])
def test_order_ids(order):
    assert not is_dead(delivery(subject=order), order.encode())


@pytest.mark.parametrize("key", [None, b"", b"order-2", b"Order-1", b"order-1 ", b"\xff"])
def test_a_key_unlike_the_subject_makes_it_dead(key):
    assert is_dead(DELIVERY, key)


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"\xff",
        b"[" * 200_000,
        b"\xef\xbb\xbf" + DELIVERY,
        DELIVERY.decode().encode("utf-16"),
        DELIVERY + b"x",
        DELIVERY.replace(b"{}", b"NaN"),
        DELIVERY.replace(b"{}", b"-Infinity"),
        delivery(source="a\tb").replace(b"\\t", b"\t"),
    ],
)
def test_what_is_no_json_object_is_dead(value):
    assert is_dead(value)


def test_the_size_of_a_record():
    assert not is_dead(DELIVERY.ljust(262_144))
    assert is_dead(DELIVERY.ljust(262_145))


def test_unknown_attributes_and_repeated_keys_are_no_reason():
    assert not is_dead(delivery(time="nonsense", sequence=[{}], datacontenttype="text/plain"))
    assert not is_dead(DELIVERY.replace(b'"subject"', b'"subject":"order-2","subject"'))


# --- when two commands are the same (D19) ---


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', True),
        ('{"a": 1}', '{"a": 1.0}', True),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": 0}', '{"a": false}', False),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', False),
        ('{"a": [1]}', '{"a": [1, 1]}', False),
        ('{"a": [1]}', '{"a": [true]}', False),
        ('{"a": null}', "{}", False),
        ('{"a": {}}', '{"a": []}', False),
        ('{"a": "x"}', '{"a": " x"}', False),
        ('{"a": "\\u0078"}', '{"a": "x"}', True),
        ('{"a": ' + "9" * 5000 + "}", '{"a": ' + "9" * 5000 + "}", True),
        ('{"a": ' + "9" * 5000 + "}", '{"a": ' + "9" * 4999 + "8}", False),
    ],
)
def test_D19_what_is_the_same_data(one, other, same):
    service = Service()
    records = [raw_record(ORDER.encode(), DELIVERY.replace(b"{}", data.encode())) for data in (one, other)]
    first, again = (outcome_of(row) for row in service.judge(records).outcomes)
    assert first["code"] == "invalid"
    assert (again["code"], again.get("duplicate", False)) == ("invalid" if same else "command_id_reused", same)


def test_D19_absent_data_is_an_empty_object():
    service = Service()
    service.judge([as_record(in_envelope(registered(), "00000000-0000-0000-0000-000000000009"))])
    absent = json.dumps({name: value for name, value in MEMBERS.items() if name != "data"}).encode()
    rows = service.judge([raw_record(ORDER.encode(), value) for value in (absent, DELIVERY)]).outcomes
    assert [row.kind for row in rows] == ["accepted", "repeated"]
