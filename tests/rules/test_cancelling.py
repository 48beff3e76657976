"""Cancellations: by right and by agreement, and which of them count (R5, R6, R10, D5, D6, D15)."""

import pytest

from tests.rules.given_when_then import (
    accepted,
    at,
    auto_accepted,
    current,
    dispute_closed,
    dispute_opened,
    given,
    nothing,
    order_canceled,
    received,
    rejected,
    then,
    when,
)
from tests.support.controls import (
    CLIENT,
    COMMENT,
    DAYS,
    DUE,
    FIRST,
    FREELANCER,
    HOURS,
    MESSAGE,
    MS,
    NOTE,
    SECOND,
    STRANGER,
    THIRD,
    VERY_LATE,
    T,
    accept,
    cancel,
    canceled_elsewhere,
    cancellation,
    decline,
    delivered,
    expire,
    extension,
    opened,
    order_update,
    refund_offer,
    registered,
    registered_awaiting,
    revised,
    started,
    withdraw,
)

CLIENT_REASONS = [
    "ordered_by_mistake",
    "requirements_changed",
    "not_as_expected",
    "freelancer_unresponsive",
    "late_delivery",
]
FREELANCER_REASONS = [
    "scope_changed",
    "unable_to_complete",
    "missing_information",
    "client_unresponsive",
    "client_asked",
    "conduct",
]
VERY_LATE_TEXT = "2026-03-13T09:00:00.000000Z"


def canceled_by_right(grounds):
    return order_canceled(grounds, dispute=None, affects_metrics=grounds == "very_late")


# --- R5: without the freelancer's approval ---


def test_R5_while_the_order_waits_for_requirements():
    given(registered_awaiting())
    when(cancel())
    then(canceled_by_right("awaiting_requirements"))


def test_R5_also_when_its_delivery_date_is_known_and_long_past():
    given(registered_awaiting(expected_delivery_at=DUE))
    when(cancel(), at=DUE + 100 * DAYS)
    then(canceled_by_right("awaiting_requirements"))


def test_R5_not_once_work_has_started():
    given(registered_awaiting(), started())
    when(cancel())
    then(rejected("approval_needed", possible_from=VERY_LATE_TEXT))
    assert "send a cancellation request" in current().message


def test_R5_when_the_order_is_very_late():
    given(registered())
    when(cancel(), at=VERY_LATE)
    then(canceled_by_right("very_late"))


@pytest.mark.parametrize("when_it_is", [T, DUE, DUE + HOURS, VERY_LATE - MS])
def test_R5_not_before(when_it_is):
    given(registered())
    when(cancel(), at=when_it_is)
    then(rejected("approval_needed", possible_from=VERY_LATE_TEXT))
    assert VERY_LATE_TEXT in current().message


def test_R5_not_if_an_extension_was_agreed():
    given(registered(), opened(extension(1)), accept(by=CLIENT))
    when(cancel(), at=VERY_LATE)
    then(rejected("approval_needed", possible_from="2026-03-14T09:00:00.000000Z"))


def test_R5_the_freelancer_has_no_such_right():
    given(registered())
    when(cancel(by=FREELANCER), at=VERY_LATE)
    then(rejected("not_allowed"))
    assert "send a cancellation request instead" in current().message


def test_R5_nor_has_a_stranger():
    given(registered())
    when(cancel(by=STRANGER), at=VERY_LATE)
    then(rejected("not_a_party"))


@pytest.mark.parametrize(
    ("comment", "reason"),
    [
        (None, "should be a text"),
        ("  ", "should not be empty"),
        ("x" * 2501, "should have at most 2500 characters"),
    ],
)
def test_R5_with_a_comment(comment, reason):
    given(registered())
    when(received("CancelOrder", actor=CLIENT, comment=comment), at=VERY_LATE)
    then(rejected("invalid", errors=[{"path": "comment", "reason": reason}]))


def test_R5_the_comment_is_required():
    given(registered())
    when(received("CancelOrder", actor=CLIENT), at=VERY_LATE)
    then(rejected("invalid", errors=[{"path": "comment", "reason": "is missing: add it"}]))


# --- D5: very late ---


def test_D5_24_hours_past_the_expected_delivery_sharp():
    given(registered())
    when(cancel(), at=DUE + 24 * HOURS - MS)
    then(rejected("approval_needed", possible_from=VERY_LATE_TEXT))
    when(cancel(), at=DUE + 24 * HOURS)
    then(canceled_by_right("very_late"))


@pytest.mark.parametrize("when_it_is", [T, VERY_LATE, VERY_LATE + 100 * DAYS])
def test_D5_a_delivered_order_is_never_very_late(when_it_is):
    given(registered(), delivered())
    when(cancel(), at=when_it_is)
    then(rejected("approval_needed", possible_from=None))
    assert "send a cancellation request" in current().message


def test_D5_it_is_again_when_a_revision_was_requested():
    given(registered(), delivered(), revised())
    when(cancel(), at=VERY_LATE)
    then(canceled_by_right("very_late"))


# --- D6: a right, not a request ---

OPEN = [
    pytest.param(opened(order_update()), "order_update", id="update"),
    pytest.param(opened(cancellation()), "cancellation", id="the client's own cancellation"),
    pytest.param(opened(cancellation("conduct"), by=FREELANCER), "cancellation", id="the freelancer's cancellation"),
    pytest.param(opened(extension(60)), "delivery_extension", id="extension"),
    pytest.param(refund_offer(), "partial_refund", id="refund"),
]


@pytest.mark.parametrize(("request_", "kind"), OPEN)
def test_D6_an_open_dispute_does_not_stand_in_the_way_and_closes_in_the_same_append(request_, kind):
    given(registered(), at(VERY_LATE - HOURS, request_))
    when(cancel(), at=VERY_LATE)
    then(dispute_closed("order_canceled", kind), canceled_by_right("very_late"))
    when(expire(), at=VERY_LATE + 47 * HOURS)
    then(nothing())


@pytest.mark.parametrize(("request_", "kind"), [OPEN[1], OPEN[2], OPEN[4]])
def test_D6_nor_while_the_order_waits_for_requirements(request_, kind):
    given(registered_awaiting(), request_)
    when(cancel(), at=T + 48 * HOURS - MS)
    then(dispute_closed("order_canceled", kind), canceled_by_right("awaiting_requirements"))


def test_D6_one_extension_request_after_another_does_not_hold_a_very_late_order():
    given(
        registered(),
        at(VERY_LATE - 3 * HOURS, opened(extension(60))),
        decline(by=CLIENT),
        at(VERY_LATE - 2 * HOURS, opened(extension(60))),
    )
    when(cancel(), at=VERY_LATE)
    then(dispute_closed("order_canceled", "delivery_extension", SECOND), canceled_by_right("very_late"))


@pytest.mark.parametrize("request_", [opened(order_update()), opened(cancellation())])
def test_D6_an_agreed_cancellation_waits_and_its_own_requester_is_told_to_withdraw(request_):
    given(registered(), request_)
    when(opened(cancellation()))
    then(rejected("dispute_open", dispute_id=FIRST, kind=request_.request.kind))
    assert "withdraw it" in current().message
    assert "decline" not in current().message


@pytest.mark.parametrize("request_", [opened(extension()), opened(cancellation("conduct"), by=FREELANCER)])
def test_D6_the_other_party_is_told_to_answer(request_):
    given(registered(), request_)
    when(opened(cancellation()))
    then(rejected("dispute_open", dispute_id=FIRST, kind=request_.request.kind))
    assert "decline it" in current().message
    assert "withdraw" not in current().message


# --- R6, R10: by agreement ---


def test_R6_the_client_asks_for_an_order_update():
    given(registered())
    when(opened(order_update()))
    then(dispute_opened("order_update", "client", message=MESSAGE))


def test_R6_the_freelancer_does_not():
    given(registered())
    when(opened(order_update(), by=FREELANCER))
    then(rejected("not_allowed"))


@pytest.mark.parametrize("reason", [None, *CLIENT_REASONS, "other"])
def test_R6_the_client_asks_to_cancel_with_a_comment_and_may_give_a_reason(reason):
    given(registered())
    when(opened(cancellation(reason)))
    then(dispute_opened("cancellation", "client", comment=COMMENT, reason=reason))


def test_R6_leaving_the_reason_out_is_the_same():
    given(registered())
    when(received("OpenDispute", actor=CLIENT, request={"kind": "cancellation", "comment": COMMENT}))
    then(dispute_opened("cancellation", "client", comment=COMMENT, reason=None))


@pytest.mark.parametrize("reason", FREELANCER_REASONS)
def test_R6_not_a_reason_from_the_freelancers_list(reason):
    given(registered())
    when(opened(cancellation(reason)))
    errors = [{"path": "request.reason", "reason": "is not on the client's list of reasons"}]
    then(rejected("invalid", errors=errors))


def test_R6_a_cancellation_needs_a_comment():
    given(registered())
    when(received("OpenDispute", actor=CLIENT, request={"kind": "cancellation"}))
    then(rejected("invalid", errors=[{"path": "request.comment", "reason": "is missing: add it"}]))


def test_R6_when_the_freelancer_agrees_the_order_is_canceled():
    given(registered(), opened(cancellation(comment="I changed my mind.")))
    when(accept(message="Fine."))
    then(accepted(message="Fine."), order_canceled("agreement", by="client", comment="I changed my mind."))


@pytest.mark.parametrize("reason", [*FREELANCER_REASONS, "other"])
def test_R10_the_freelancer_asks_to_cancel_with_a_reason_and_an_explanation(reason):
    given(registered())
    when(opened(cancellation(reason), by=FREELANCER))
    then(dispute_opened("cancellation", "freelancer", comment=COMMENT, reason=reason))


def test_R10_a_freelancers_request_without_a_reason_is_invalid():
    given(registered())
    when(opened(cancellation(), by=FREELANCER))
    then(rejected("invalid", errors=[{"path": "request.reason", "reason": "is required of the freelancer"}]))


@pytest.mark.parametrize("reason", CLIENT_REASONS)
def test_R10_so_is_one_with_a_reason_from_the_clients_list(reason):
    given(registered())
    when(opened(cancellation(reason), by=FREELANCER))
    errors = [{"path": "request.reason", "reason": "is not on the freelancer's list of reasons"}]
    then(rejected("invalid", errors=errors))


def test_R10_when_the_client_agrees_the_order_is_canceled():
    given(registered(), opened(cancellation("client_asked"), by=FREELANCER))
    when(accept(by=CLIENT))
    then(accepted(by="client"), order_canceled("agreement", by="freelancer"))


@pytest.mark.parametrize("end", [decline(by=CLIENT), withdraw(by=FREELANCER)])
def test_R10_when_it_comes_to_nothing_the_order_goes_on(end):
    given(registered(), opened(cancellation("client_asked"), by=FREELANCER), end)
    when(opened(extension()))
    then(dispute_opened("delivery_extension", "freelancer", SECOND, days=5, note=NOTE))


@pytest.mark.parametrize("state", [[registered()], [registered(), delivered()], [registered_awaiting()]])
@pytest.mark.parametrize(("by", "reason"), [(CLIENT, None), (FREELANCER, "conduct")])
def test_R10_either_party_may_ask_while_the_order_is_not_over(state, by, reason):
    given(*state)
    when(opened(cancellation(reason), by=by))
    who = "client" if by == CLIENT else "freelancer"
    then(dispute_opened("cancellation", who, comment=COMMENT, reason=reason))


# --- D15: which cancellations count ---


def test_D15_an_agreed_one_counts():
    given(registered(), opened(cancellation()))
    when(accept())
    then(accepted(), order_canceled("agreement", affects_metrics=True))


def test_D15_an_auto_accepted_one_counts():
    given(registered(), opened(cancellation()))
    when(expire(), at=T + 48 * HOURS)
    then(auto_accepted(), order_canceled("auto_accepted", affects_metrics=True))


def test_D15_a_very_late_one_counts():
    given(registered())
    when(cancel(), at=VERY_LATE)
    then(order_canceled("very_late", dispute=None, affects_metrics=True))


def test_D15_one_that_waited_for_requirements_does_not():
    given(registered_awaiting())
    when(cancel())
    then(order_canceled("awaiting_requirements", dispute=None, affects_metrics=False))


def test_D15_one_agreed_on_while_it_waited_for_requirements_counts():
    """Its ground is the agreement."""
    given(registered_awaiting(), opened(cancellation()))
    when(accept())
    then(accepted(), order_canceled("agreement", affects_metrics=True))


@pytest.mark.parametrize("comment", [None, "Fraud."])
def test_D15_one_from_the_order_service_does_not(comment):
    given(registered())
    when(canceled_elsewhere(comment))
    then(
        order_canceled(
            "external", "order_service", dispute=None, affects_metrics=False, refund_due=None, comment=comment
        )
    )


def test_D15_a_response_is_told_from_a_deadline_that_ran_out():
    """What a response rate is made of: who a dispute was sent to, and who settled it."""
    given(
        registered(),
        opened(order_update()),
        accept(),
        opened(order_update()),
        decline(SECOND),
        refund_offer(1),
        at(T + 48 * HOURS, expire(THIRD)),
    )
    settled = [
        (type(event).__name__, getattr(event, "by", None))
        for event in current().history
        if type(event).__name__ in ("Accepted", "Declined", "AutoAccepted")
    ]
    assert settled == [("Accepted", "freelancer"), ("Declined", "freelancer"), ("AutoAccepted", None)]
