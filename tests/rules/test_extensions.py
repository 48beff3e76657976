"""More time for the freelancer (R7), and what it does to the client's right to cancel (D5, D14)."""

import pytest

from tests.rules.given_when_then import (
    accepted,
    at,
    auto_accepted,
    current,
    declined,
    delivery_date_extended,
    dispute_opened,
    given,
    order_canceled,
    received,
    rejected,
    then,
    when,
    withdrawn,
)
from tests.rules.logs import page_of
from tests.support.controls import (
    CLIENT,
    DAYS,
    DUE,
    FIRST,
    FREELANCER,
    HOURS,
    MS,
    NOTE,
    SECOND,
    VERY_LATE,
    T,
    accept,
    cancel,
    decline,
    expire,
    extension,
    opened,
    registered,
    registered_awaiting,
    started,
    withdraw,
)


def asked_for(days, note=NOTE):
    return {"actor": FREELANCER, "request": {"kind": "delivery_extension", "days": days, "note": note}}


# --- R7: 1-60 days, a note, added to the delivery date ---


@pytest.mark.parametrize("days", [1, 2, 59, 60])
def test_R7_1_to_60_days_per_request(days):
    given(registered(), opened(extension(days)))
    when(accept(by=CLIENT))
    then(accepted("delivery_extension", by="client"), delivery_date_extended(days, DUE + days * DAYS))


def test_R7_days_are_whole_however_the_number_is_written():
    given(registered())
    when(received("OpenDispute", **asked_for(5.0)))
    then(dispute_opened("delivery_extension", "freelancer", days=5, note=NOTE))


@pytest.mark.parametrize(
    ("days", "reason"),
    [
        (0, "should be at least 1"),
        (-1, "should be at least 1"),
        (61, "should be at most 60"),
        (1.5, "should be a whole number"),
        ("5", "should be a whole number"),
        (True, "should be a whole number"),
        (None, "should be a whole number"),
    ],
)
def test_R7_not_0_not_61_and_whole_days_only(days, reason):
    given(registered())
    when(received("OpenDispute", **asked_for(days)))
    then(rejected("invalid", errors=[{"path": "request.days", "reason": reason}]))


@pytest.mark.parametrize(
    ("note", "reason"),
    [
        ("", "should not be empty"),
        (" \t\n\u3000", "should not be empty"),
        ("x" * 2501, "should have at most 2500 characters"),
        ("a\0b", "should not contain the NUL character"),
        (None, "should be a text"),
    ],
)
def test_R7_with_a_note(note, reason):
    given(registered())
    when(received("OpenDispute", **asked_for(5, note)))
    then(rejected("invalid", errors=[{"path": "request.note", "reason": reason}]))


def test_R7_without_a_note_or_days():
    given(registered())
    when(received("OpenDispute", actor=FREELANCER, request={"kind": "delivery_extension"}))
    missing = [{"path": f"request.{name}", "reason": "is missing: add it"} for name in ("days", "note")]
    then(rejected("invalid", errors=missing))


@pytest.mark.parametrize(
    ("note", "kept"), [("x" * 2500, "x" * 2500), ("  a  b \n", "a  b"), (" " + "é" * 2500 + " ", "é" * 2500)]
)
def test_R7_a_note_is_kept_trimmed(note, kept):
    given(registered())
    when(received("OpenDispute", **asked_for(5, note)))
    then(dispute_opened("delivery_extension", "freelancer", days=5, note=kept))


def test_R7_the_client_does_not_ask_for_it():
    given(registered())
    when(opened(extension(), by=CLIENT))
    then(rejected("not_allowed"))


def test_R7_the_days_are_added_to_the_delivery_date_and_not_to_today():
    given(registered(), at(DUE + 3 * DAYS, opened(extension(5))))
    when(accept(by=CLIENT), at=DUE + 4 * DAYS)
    then(accepted("delivery_extension", by="client"), delivery_date_extended(5, DUE + 5 * DAYS))


def test_R7_accepted_extensions_add_up():
    given(registered(), opened(extension(60)), accept(by=CLIENT), opened(extension(60)))
    when(accept(SECOND, by=CLIENT))
    then(
        accepted("delivery_extension", "client", SECOND),
        delivery_date_extended(60, DUE + 120 * DAYS, dispute=SECOND),
    )


def test_R7_it_adds_to_the_date_that_came_with_the_requirements():
    given(registered_awaiting(), started(DUE + 7 * DAYS), opened(extension(5)))
    when(accept(by=CLIENT))
    then(accepted("delivery_extension", "client"), delivery_date_extended(5, DUE + 12 * DAYS))


@pytest.mark.parametrize("end", [decline(by=CLIENT), withdraw(by=FREELANCER)])
def test_R7_one_that_is_not_accepted_adds_nothing(end):
    given(registered(), opened(extension(60)), end, opened(extension(1)))
    when(accept(SECOND, by=CLIENT))
    then(accepted("delivery_extension", "client", SECOND), delivery_date_extended(1, DUE + DAYS, dispute=SECOND))


def test_R7_an_auto_accepted_one_adds_its_days_too():
    given(registered(), opened(extension(60)))
    when(expire(), at=T + 48 * HOURS)
    then(auto_accepted("delivery_extension"), delivery_date_extended(60, DUE + 60 * DAYS))


# --- D5: the expected delivery includes accepted extensions ---


def test_D5_an_accepted_extension_moves_the_moment_of_very_late():
    given(registered(), opened(extension(2)), accept(by=CLIENT))
    when(cancel(), at=VERY_LATE + 2 * DAYS - MS)
    then(rejected("approval_needed", possible_from="2026-03-15T09:00:00.000000Z"))
    when(cancel(), at=VERY_LATE + 2 * DAYS)
    then(order_canceled(grounds="very_late", dispute=None))


def test_D5_an_auto_accepted_one_too():
    given(registered(), opened(extension(2)), at(T + 48 * HOURS, expire()))
    when(cancel(), at=VERY_LATE + 2 * DAYS - MS)
    then(rejected("approval_needed", possible_from="2026-03-15T09:00:00.000000Z"))
    when(cancel(), at=VERY_LATE + 2 * DAYS)
    then(order_canceled(grounds="very_late", dispute=None))


@pytest.mark.parametrize("end", [decline(by=CLIENT), withdraw(by=FREELANCER)])
def test_D5_one_that_is_not_accepted_moves_nothing(end):
    given(registered(), opened(extension(60)), end)
    when(cancel(), at=VERY_LATE)
    then(order_canceled(grounds="very_late", dispute=None))


# --- D14: an extension of an order that is very late already ---


def test_D14_the_right_to_cancel_ends_if_the_new_date_and_24_hours_lie_ahead():
    given(registered(), at(VERY_LATE, opened(extension(1))), accept(by=CLIENT))
    when(cancel(), at=VERY_LATE + HOURS)
    then(rejected("approval_needed", possible_from="2026-03-14T09:00:00.000000Z"))


def test_D14_it_does_not_end_if_they_lie_behind():
    given(registered(), at(VERY_LATE + DAYS, opened(extension(1))), accept(by=CLIENT))
    when(cancel())
    then(order_canceled(grounds="very_late", dispute=None))


def test_D14_a_millisecond_ahead_is_ahead():
    given(registered(), at(VERY_LATE + DAYS - MS, opened(extension(1))), accept(by=CLIENT))
    when(cancel())
    then(rejected("approval_needed", possible_from="2026-03-14T09:00:00.000000Z"))


def test_D14_a_new_date_already_past_is_allowed_and_the_order_page_shows_it():
    given(registered(), at(DUE + 9 * DAYS, opened(extension(1))))
    when(accept(by=CLIENT))
    then(accepted("delivery_extension", by="client"), delivery_date_extended(1, DUE + DAYS))
    page = page_of(current().history, CLIENT, DUE + 9 * DAYS)
    assert page["expected_delivery_at"] == "2026-03-13T09:00:00.000000Z"


def test_D14_declining_keeps_the_right():
    given(registered(), at(VERY_LATE, opened(extension(60))))
    when(decline(by=CLIENT))
    then(declined("delivery_extension", by="client"))
    when(cancel())
    then(order_canceled(grounds="very_late", dispute=None))


def test_D14_so_does_a_withdrawal():
    given(registered(), at(VERY_LATE, opened(extension(60))))
    when(withdraw(by=FREELANCER))
    then(withdrawn("delivery_extension", by="freelancer"))
    when(cancel())
    then(order_canceled(grounds="very_late", dispute=None))


def test_D14_until_it_is_accepted_the_date_stands():
    given(registered(), opened(extension(60)))
    page = page_of(current().history, FREELANCER, T + HOURS)
    assert page["open_dispute"]["dispute_id"] == FIRST
    assert page["expected_delivery_at"] == "2026-03-12T09:00:00.000000Z"
