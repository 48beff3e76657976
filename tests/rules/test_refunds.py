"""Partial refunds: how much, how often, and what they leave alone (R8, R9, D9, D10, D15)."""

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
    nothing,
    order_canceled,
    order_completed,
    partial_refund_granted,
    received,
    refund_processed,
    rejected,
    then,
    when,
)
from tests.rules.logs import page_of
from tests.support.controls import (
    CLIENT,
    COMMENT,
    DAYS,
    DUE,
    EXPLANATION,
    FIRST,
    FREELANCER,
    HOURS,
    MESSAGE,
    NOTE,
    SECOND,
    VERY_LATE,
    T,
    accept,
    cancel,
    canceled_elsewhere,
    cancellation,
    completed,
    decline,
    delivered,
    expire,
    extension,
    opened,
    order_update,
    refund_offer,
    refunded,
    registered,
    registered_awaiting,
    usd,
    withdraw,
)

GRANTED = [registered(), refund_offer(60_00), accept(by=CLIENT)]


def offered(dispute=FIRST, amount=60_00, currency="USD", **times):
    money = {"amount": amount, "currency": currency}
    return dispute_opened("partial_refund", "freelancer", dispute, amount=money, explanation=EXPLANATION, **times)


def usd_on_the_wire(amount):
    return {"amount": amount, "currency": "USD"}


# --- R8, D9: up to 60% of the original price, with an explanation and a reason ---


@pytest.mark.parametrize(
    ("price", "most"),
    [
        (2, 1),
        (3, 1),
        (4, 2),
        (5, 3),
        (999, 599),
        (1000, 600),
        (3333, 1999),
        (100_00, 60_00),
        (10**18 + 1, 6 * 10**17),
        (2**63 - 1, 5_534_023_222_112_865_484),
    ],
)
def test_D9_60_percent_is_inclusive_and_exact(price, most):
    given(registered(price=usd(price)))
    when(refund_offer(most + 1))
    then(rejected("refund_over_limit", limit=usd_on_the_wire(most)))
    when(refund_offer(most))
    then(offered(SECOND, most))


def test_D9_a_price_of_1_has_no_room_for_an_offer():
    given(registered(price=usd(1)))
    when(refund_offer(1))
    then(rejected("refund_over_limit", limit=usd_on_the_wire(0)))


@pytest.mark.parametrize(
    ("amount", "reason"),
    [
        (0, "should be at least 1"),
        (-1, "should be at least 1"),
        (1.5, "should be a whole number"),
        ("1", "should be a whole number"),
        (True, "should be a whole number"),
    ],
)
def test_D9_at_least_one_minor_unit_and_whole_ones_only(amount, reason):
    given(registered())
    when(
        received(
            "OfferPartialRefund",
            actor=FREELANCER,
            amount=usd_on_the_wire(amount),
            explanation=EXPLANATION,
            reason="other",
        )
    )
    then(rejected("invalid", errors=[{"path": "amount.amount", "reason": reason}]))


def test_R8_up_to_60_percent_of_the_original_price():
    given(registered())
    when(refund_offer(60_01))
    then(rejected("refund_over_limit", limit=usd_on_the_wire(60_00)))
    assert "6000 USD" in current().message
    when(refund_offer(60_00))
    then(offered(SECOND))


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([registered()], id="in progress"),
        pytest.param([registered(), delivered()], id="delivered"),
        pytest.param([registered_awaiting()], id="awaiting requirements"),
    ],
)
def test_R8_while_the_order_is_not_over(history):
    given(*history)
    when(refund_offer())
    then(offered())


def test_R8_the_client_does_not_offer_it():
    given(registered())
    when(refund_offer(by=CLIENT))
    then(rejected("not_allowed"))
    assert "freelancer" in current().message


@pytest.mark.parametrize("reason", ["scope_reduced", "delay_compensation", "minor_dissatisfaction", "other"])
def test_R8_the_reason_is_from_a_list_and_not_in_the_event(reason):
    given(registered())
    when(refund_offer(reason=reason))
    then(offered())


ON_THE_LIST = "should be 'scope_reduced', 'delay_compensation', 'minor_dissatisfaction' or 'other'"


@pytest.mark.parametrize("reason", ["", "late_delivery", "Other", None, 1])
def test_R8_not_another_reason(reason):
    given(registered())
    offer = {"actor": FREELANCER, "amount": usd_on_the_wire(1), "explanation": EXPLANATION, "reason": reason}
    when(received("OfferPartialRefund", **offer))
    then(rejected("invalid", errors=[{"path": "reason", "reason": ON_THE_LIST}]))


@pytest.mark.parametrize("missing", ["amount", "explanation", "reason"])
def test_R8_an_offer_has_an_amount_an_explanation_and_a_reason(missing):
    given(registered())
    offer = {"actor": FREELANCER, "amount": usd_on_the_wire(1), "explanation": EXPLANATION, "reason": "other"}
    when(received("OfferPartialRefund", **{name: value for name, value in offer.items() if name != missing}))
    then(rejected("invalid", errors=[{"path": missing, "reason": "is missing: add it"}]))


def offer_v2(**amount):
    offer = {"actor": FREELANCER, "explanation": EXPLANATION, "reason": "other"} | amount
    return received("OfferPartialRefund", version=2, **offer)


@pytest.mark.parametrize(
    ("price", "percent", "amount"),
    [(100_00, 60, 60_00), (33_33, 60, 19_99), (33_33, 1, 33), (999, 60, 599), (10**18 + 1, 60, 6 * 10**17)],
)
def test_R8_D9_the_second_version_offers_a_share_of_the_price(price, percent, amount):
    given(registered(price=usd(price)))
    when(offer_v2(percent=percent))
    then(offered(FIRST, amount))


def test_R8_D9_the_second_version_takes_an_amount_too_and_both_versions_are_accepted():
    given(registered())
    when(offer_v2(amount=usd_on_the_wire(60_01)))
    then(rejected("refund_over_limit", limit=usd_on_the_wire(60_00)))
    when(offer_v2(amount=usd_on_the_wire(60_00)))
    then(offered(SECOND))


def test_D9_a_share_below_one_minor_unit_is_no_offer():
    given(registered(price=usd(99)))
    when(offer_v2(percent=1))
    then(rejected("not_allowed"))


@pytest.mark.parametrize(("price", "limit"), [(100_00, 60_00), (3, 1), (1, 0)])
def test_R8_a_larger_share_than_60_percent_is_over_the_limit_also_if_rounding_would_hide_it(price, limit):
    given(registered(price=usd(price)))
    when(offer_v2(percent=61))
    then(rejected("refund_over_limit", limit=usd_on_the_wire(limit)))


@pytest.mark.parametrize(
    "amount",
    [
        {},
        {"percent": None, "amount": None},
        {"percent": 5, "amount": usd_on_the_wire(5)},
        {"percent": 101},
        {"percent": 0},
        {"percent": 5.5},
    ],
)
def test_R8_the_second_version_takes_one_of_the_two(amount):
    given(registered())
    when(offer_v2(**amount))
    assert current().outcome[0] == "invalid"
    current().checked = True


@pytest.mark.parametrize("amount", [1, 60_00, 99_999_00])
def test_R8_in_the_currency_of_the_order(amount):
    given(registered())
    when(refund_offer(amount, currency="EUR"))
    then(rejected("currency_mismatch"))
    assert "USD" in current().message


def test_R8_a_declined_one_may_be_as_large_as_the_first():
    given(registered(), refund_offer(60_00), decline(by=CLIENT))
    when(refund_offer(60_00))
    then(offered(SECOND))


# --- R9: one at most ---


def test_R9_an_accepted_refund_is_the_payment_services_cue():
    given(registered(), refund_offer(12_34))
    when(accept(by=CLIENT, message="Thanks."))
    then(accepted("partial_refund", by="client", message="Thanks."), partial_refund_granted(12_34))


def test_R9_an_auto_accepted_one_too():
    given(registered(), refund_offer(12_34))
    when(expire(), at=T + 48 * HOURS)
    then(auto_accepted("partial_refund"), partial_refund_granted(12_34))


@pytest.mark.parametrize("how", [accept(by=CLIENT), at(T + 48 * HOURS, expire())])
@pytest.mark.parametrize("amount", [1, 60_00, 60_01])
def test_R9_it_rules_out_any_further_one(how, amount):
    given(registered(), refund_offer(1), how)
    when(refund_offer(amount), at=T + 300 * DAYS)
    then(rejected("refund_already_granted"))


def test_R9_also_once_it_was_paid():
    given(*GRANTED, refunded())
    when(refund_offer(1))
    then(rejected("refund_already_granted"))


@pytest.mark.parametrize("end", [decline(by=CLIENT), withdraw(by=FREELANCER)])
def test_R9_one_that_is_not_accepted_does_not(end):
    given(registered(), refund_offer(), end)
    when(refund_offer(50_00))
    then(offered(SECOND, 50_00))


def test_R9_a_declined_offer_ends_without_a_consequence():
    given(registered(), refund_offer())
    when(decline(by=CLIENT, message="Not enough."))
    then(declined("partial_refund", by="client", message="Not enough."))


def test_R9_it_leaves_the_performance_metrics_alone():
    given(*GRANTED)
    assert [event for event in current().history if getattr(event, "affects_metrics", False)] == []


# --- D10: processing until it is recorded, which changes nothing else ---


def test_D10_it_is_processing_until_the_payment_service_records_it():
    given(*GRANTED)
    refund = {"refund_id": FIRST, "amount": usd_on_the_wire(60_00)}
    assert page_of(current().history, CLIENT, T)["refund"] == {**refund, "state": "processing"}
    when(refunded())
    then(refund_processed())
    assert page_of(current().history, CLIENT, T)["refund"] == {**refund, "state": "processed"}


def test_D10_before_it_was_granted_there_is_none():
    given(registered(), refund_offer())
    assert page_of(current().history, CLIENT, T)["refund"] is None
    when(refunded())
    then(rejected("refund_unknown"))


def test_D10_recorded_twice():
    given(*GRANTED, refunded())
    when(refunded())
    then(nothing())


def test_D10_recorded_under_another_id():
    given(registered(), refund_offer(), decline(by=CLIENT), refund_offer(), accept(SECOND, by=CLIENT))
    when(refunded(FIRST))
    then(rejected("refund_unknown"))
    when(refunded(SECOND))
    then(refund_processed(SECOND))


@pytest.mark.parametrize(
    "end",
    [
        pytest.param([completed()], id="completed"),
        pytest.param([canceled_elsewhere()], id="canceled elsewhere"),
        pytest.param([opened(cancellation()), accept(SECOND)], id="canceled by agreement"),
        pytest.param([delivered()], id="delivered"),
    ],
)
def test_D10_it_may_be_recorded_in_every_state_and_changes_nothing_else(end):
    given(*GRANTED, *end)
    status = current().order.status
    when(refunded())
    then(refund_processed())
    assert current().order.status == status
    when(refunded())
    then(nothing())


@pytest.mark.parametrize("recorded", [[], [refunded()]])
def test_D10_updates_go_on(recorded):
    given(*GRANTED, *recorded)
    when(opened(order_update()))
    then(dispute_opened("order_update", "client", SECOND, message=MESSAGE))


def test_D10_extensions_go_on():
    given(*GRANTED)
    when(opened(extension()))
    then(dispute_opened("delivery_extension", "freelancer", SECOND, days=5, note=NOTE))
    when(accept(SECOND, by=CLIENT))
    then(accepted("delivery_extension", "client", SECOND), delivery_date_extended(5, DUE + 5 * DAYS, dispute=SECOND))


def test_D10_cancellations_go_on_and_refund_the_price_less_what_was_granted():
    given(*GRANTED)
    when(opened(cancellation()))
    then(dispute_opened("cancellation", "client", SECOND, comment=COMMENT, reason=None))
    when(accept(SECOND))
    then(accepted(dispute=SECOND), order_canceled(dispute=SECOND, refund_due=40_00))


def test_D10_so_does_a_cancellation_by_right():
    given(registered(), refund_offer(1), accept(by=CLIENT))
    when(cancel(), at=VERY_LATE)
    then(order_canceled(grounds="very_late", dispute=None, refund_due=99_99))


def test_D10_one_canceled_while_awaiting_requirements_too():
    given(registered_awaiting(), refund_offer(60_00), accept(by=CLIENT))
    when(cancel())
    then(order_canceled("awaiting_requirements", dispute=None, affects_metrics=False, refund_due=40_00))


def test_D10_what_was_only_offered_is_not_subtracted():
    given(registered(), refund_offer(60_00), decline(by=CLIENT), opened(cancellation()))
    when(accept(SECOND))
    then(accepted(dispute=SECOND), order_canceled(dispute=SECOND, refund_due=100_00))


def test_D10_a_cancellation_from_elsewhere_says_nothing_of_what_is_due():
    given(*GRANTED)
    when(canceled_elsewhere())
    then(
        order_canceled("external", "order_service", dispute=None, affects_metrics=False, refund_due=None, comment=None)
    )


def test_D10_the_order_completes_as_ever():
    given(*GRANTED)
    when(completed())
    then(order_completed())


# --- D15: partial refunds never count ---


def test_D15_the_cancellation_counts_and_the_refund_before_it_does_not():
    given(*GRANTED, opened(cancellation("unable_to_complete"), by=FREELANCER), accept(SECOND, by=CLIENT))
    counting = [type(event).__name__ for event in current().history if getattr(event, "affects_metrics", False)]
    assert counting == ["OrderCanceled"]
