"""UUIDs are the same in capital letters: command ids, disputes and refunds. What is published is what was stored first."""

import json

import pytest

from services.judging.judge import judge, read
from services.orders import Order
from tests.rules.logs import CLOCK, Service, names, outcome_of
from tests.support.controls import (
    CLIENT,
    FREELANCER,
    HOURS,
    ORDER,
    T,
    accept,
    as_record,
    cancellation,
    decline,
    expire,
    in_envelope,
    opened,
    order_update,
    refund_offer,
    refunded,
    registered,
    withdraw,
)

SMALL = "abcdefab-cdef-abcd-efab-cdefabcdefab"
CAPITAL = SMALL.upper()
MIXED = "ABCDEFAB-cdef-abcd-efab-cdefabcdefab"
OTHERS = [f"00000000-0000-0000-0000-00000000000{n}" for n in range(10)]


def after(*commands):
    service = Service()
    service.send(registered(), OTHERS[9])
    for command, id_ in commands:
        assert "code" not in service.send(command, id_)[1]
    return service


@pytest.mark.parametrize(("first", "again"), [(SMALL, CAPITAL), (CAPITAL, SMALL), (CAPITAL, MIXED), (MIXED, CAPITAL)])
def test_a_command_id_is_the_same_in_capital_letters(first, again):
    service = after((opened(cancellation()), first))
    judged = service.judge([as_record(in_envelope(opened(cancellation()), again))])
    [row] = judged.outcomes
    assert (judged.events, row.kind, row.command_id) == ([], "repeated", again)
    message = json.loads(row.message)
    assert (message["id"], message["causationid"]) == (f"{ORDER}:{first}", first)
    assert (message["data"]["command_id"], message["data"]["duplicate"]) == (first, True)
    assert service.send(withdraw(first), again)[1]["code"] == "command_id_reused"


def test_also_in_one_batch():
    service = after()
    batch = [as_record(in_envelope(opened(cancellation()), id_)) for id_ in (CAPITAL, SMALL, MIXED)]
    assert [row.kind for row in service.judge(batch).outcomes] == ["accepted", "repeated", "repeated"]


@pytest.mark.parametrize(("stored", "named"), [(SMALL, CAPITAL), (CAPITAL, SMALL), (MIXED, CAPITAL)])
def test_a_dispute_and_a_refund_may_be_named_in_capital_letters(stored, named):
    service = after((opened(cancellation()), stored))
    assert service.send(expire(named), OTHERS[0])[1]["code"] == "not_due"
    assert service.send(withdraw(named, by=FREELANCER), OTHERS[1])[1]["code"] == "not_allowed"
    assert service.send(decline(named), OTHERS[2])[0] == ["Declined"]
    assert service.events[-1].dispute_id == stored
    assert service.send(accept(named), OTHERS[3])[1]["code"] == "dispute_settled"
    service = after((refund_offer(), stored))
    assert service.send(accept(named, by=CLIENT), OTHERS[0])[0] == ["Accepted", "PartialRefundGranted"]
    assert service.send(refunded(named), OTHERS[1])[0] == ["RefundProcessed"]
    assert service.events[-1].refund_id == stored


def test_data_that_names_a_dispute_in_capital_letters_is_the_same_data():
    service = after((opened(order_update()), SMALL), (accept(SMALL, message=f'"dispute_id":"{SMALL}"'), OTHERS[0]))
    again = service.send(accept(CAPITAL, message=f'"dispute_id":"{SMALL}"'), OTHERS[0])[1]
    assert again["duplicate"] is True
    other_text = service.send(accept(CAPITAL, message=f'"dispute_id":"{CAPITAL}"'), OTHERS[0])[1]
    assert other_text["code"] == "command_id_reused"


def earlier(*commands):
    """What an earlier version made of them, one after the other, and the order it left."""
    records = [as_record(in_envelope(command, id_), at=T) for command, id_ in commands]
    orders = {ORDER: Order(id=ORDER)}
    judged = judge(read(records, CLOCK.of_record, None, as_before=True), orders, [], set())
    assert not judged.parked
    return judged, orders[ORDER]


def test_earlier_versions_compared_as_written():
    judged, _ = earlier(
        (registered(), OTHERS[0]),
        (opened(cancellation()), SMALL),
        (withdraw(CAPITAL), OTHERS[1]),
        (withdraw(SMALL), OTHERS[2]),
        (opened(cancellation()), CAPITAL),
    )
    assert [outcome_of(row).get("code") for row in judged.outcomes] == [None, None, "dispute_unknown", None, None]
    assert names(judged.events) == ["OrderRegistered", "DisputeOpened", "Withdrawn", "DisputeOpened"]


def test_what_an_earlier_version_took_twice_goes_on_with_each_of_the_two():
    judged, order = earlier(
        (registered(), OTHERS[0]),
        (opened(cancellation()), SMALL),
        (withdraw(SMALL), OTHERS[1]),
        (opened(cancellation()), CAPITAL),
        (accept(CAPITAL, by=CLIENT), OTHERS[2]),
    )
    again = [as_record(in_envelope(opened(cancellation()), id_)) for id_ in (CAPITAL, SMALL, MIXED)]
    named = [
        as_record(in_envelope(command, id_))
        for command, id_ in ((decline(CAPITAL), OTHERS[3]), (decline(SMALL), OTHERS[4]))
    ]
    # It remembers the digest of data as written, too.
    repeated = as_record(in_envelope(accept(CAPITAL, by=CLIENT), OTHERS[2]))
    readings = read(again + named + [repeated], CLOCK.of_record, None)
    rows = judge(readings, {ORDER: order}, [judged.first_uses], set()).outcomes
    assert [row.kind for row in rows] == ["repeated"] * 3 + ["accepted", "rejected", "repeated"]
    assert [json.loads(row.message)["causationid"] for row in rows[:2]] == [CAPITAL, SMALL]
    assert outcome_of(rows[4])["details"] == {"settled_as": "withdrawn"}


def test_a_deadline_is_found_by_whatever_names_the_dispute():
    service = after((opened(cancellation()), CAPITAL))
    names_, outcome = service.send(expire(SMALL), OTHERS[0], at=T + 48 * HOURS)
    assert (names_, outcome.get("code")) == (["AutoAccepted", "OrderCanceled"], None)
