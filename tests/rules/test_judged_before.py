"""What verification takes for an outcome of an earlier version, and what it does not overlook."""

import json

import pytest

from services.audit.earlier_rules import code_of, judged_before, same_but_for_sentences, spelled_twice
from services.judging.decode import decode
from services.orders import Order
from services.orders.decide import decide
from tests.support.controls import (
    FIRST,
    FREELANCER,
    HOURS,
    ORDER,
    T,
    accept,
    as_record,
    cancellation,
    command_id,
    in_envelope,
    opened,
    registered,
    untyped,
)
from tests.support.decisions import carry_out


def message(**data):
    return json.dumps({"id": "o:1", "time": "now", "data": {"command_id": "1", **data}}, separators=(",", ":")).encode()


INVALID = message(code="invalid", message="Correct it.", details={"errors": [{"path": "", "reason": "is missing"}]})
OPEN = message(code="dispute_open", message="Wait.", details={"dispute_id": "d"})


@pytest.mark.parametrize(
    ("found", "same"),
    [
        (INVALID.replace(b"Correct it.", b"Mend it.").replace(b"is missing", b"Field required"), True),
        (INVALID.replace(b"now", b"then"), False),
        (INVALID + b" ", False),
        (INVALID.replace(b"invalid", b"order_unknown"), False),
        (message(events=[]), False),
        (b"garbage", False),
        (b'{"code":"invalid"}', False),
        (None, False),
    ],
)
def test_only_the_sentences_of_a_rejection_may_differ(found, same):
    assert same_but_for_sentences(INVALID, found) is same
    assert same_but_for_sentences(INVALID, INVALID)


def test_details_that_are_no_sentences_may_not():
    assert same_but_for_sentences(OPEN, OPEN.replace(b"Wait.", b"Do wait."))
    assert not same_but_for_sentences(OPEN, OPEN.replace(b'"d"', b'"e"'))
    assert not same_but_for_sentences(message(events=[]), message(events=[1]))


def test_the_code_is_found():
    assert (code_of(INVALID), code_of(OPEN), code_of(message(events=[]))) == ("invalid", "dispute_open", "")


@pytest.mark.parametrize(
    ("code", "twice", "before"),
    [
        ("", False, False),
        ("order_closed", False, False),
        ("invalid", False, True),
        ("dispute_unknown", False, True),
        ("", True, True),
    ],
)
def test_a_good_command_was_judged_before_if_its_outcome_says_so(code, twice, before):
    assert judged_before(decode(as_record(in_envelope(accept())), T, None), code, twice) is before


@pytest.mark.parametrize(("code", "before"), [("invalid", False), ("", True), ("order_closed", True)])
def test_and_a_bad_one(code, before):
    assert judged_before(decode(as_record(untyped("Accept", {})), T, None), code, False) is before


@pytest.mark.parametrize("longest", [None, 1, 45, 59, 61, 90, 365])
@pytest.mark.parametrize("days", [1, 45, 46, 60, 61, 90, 91, 365, 366])
@pytest.mark.parametrize("later", [0, 48])
def test_D20_days_are_judged_the_same_if_they_look_as_if_an_earlier_version_had_judged_them(longest, days, later):
    """Today's `invalid` under an order's own terms looks like an earlier version's, so verification may try its rules."""
    facts = {} if longest is None else {"terms": {"longest_extension_days": longest}}
    order, now = Order(id=ORDER), T + later * HOURS
    carry_out(order, registered(**facts), command_id(1), T)
    carry_out(order, opened(cancellation()), command_id(2), T)
    record = as_record(untyped("OpenDispute", {"actor": FREELANCER, "request": extension_of(days)}), now)
    command = decode(record, now, None)
    today = decide(order, command.command, FIRST, now)
    code = today.rejection.code
    assert (code == "invalid") == (days > (longest or 60))
    if judged_before(command, code, False):
        before = decode(record, now, None, as_before=True)
        again = decide(order, before.command, FIRST, now, ids_as_written=True)
        assert (again.rejection.code, again.events) == (code, today.events)


def extension_of(days):
    return {"kind": "delivery_extension", "days": days, "note": "n"}


def test_ids_that_differ_in_letter_case_only():
    assert spelled_twice([("o", "A"), ("o", "a"), ("o", "b"), ("p", "A"), ("p", "A")]) == {("o", "a")}
