"""A request and its 48 hours: who answers, until when, and what follows (R1-R3, D2-D4, D7, D8, D17, D18)."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from msgspec import structs
from resolution_contracts import OfferPartialRefund

from services.orders import policy
from services.orders.events import OrderCanceled
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
    partial_refund_granted,
    received,
    rejected,
    then,
    when,
    withdrawn,
)
from tests.rules.logs import names, page_of, service_after
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
    MS,
    NOTE,
    ORDER,
    ROLES,
    SECOND,
    STRANGER,
    VERY_LATE,
    T,
    accept,
    as_record,
    cancel,
    canceled_elsewhere,
    cancellation,
    command_id,
    completed,
    decline,
    delivered,
    expire,
    extension,
    in_envelope,
    opened,
    order_update,
    other,
    refund_offer,
    refunded,
    registered,
    registered_awaiting,
    revised,
    started,
    usd,
    withdraw,
)

ASKED_FOR = {
    "order_update": {"message": MESSAGE},
    "cancellation": {"comment": COMMENT, "reason": None},
    "delivery_extension": {"days": 5, "note": NOTE},
    "partial_refund": {"amount": {"amount": 60_00, "currency": "USD"}, "explanation": EXPLANATION},
}
every_request = pytest.mark.parametrize(
    "request_",
    [
        pytest.param(opened(order_update()), id="update"),
        pytest.param(opened(cancellation()), id="the client's cancellation"),
        pytest.param(opened(cancellation("conduct"), by=FREELANCER), id="the freelancer's cancellation"),
        pytest.param(opened(extension()), id="extension"),
        pytest.param(refund_offer(), id="refund"),
    ],
)


def kind_of(request):
    return "partial_refund" if isinstance(request, OfferPartialRefund) else request.request.kind


def consequence(request, grounds="agreement"):
    """What was asked for."""
    match kind_of(request):
        case "cancellation":
            return [order_canceled(grounds=grounds, by=ROLES[request.actor])]
        case "delivery_extension":
            return [delivery_date_extended(5, DUE + 5 * DAYS)]
        case "partial_refund":
            return [partial_refund_granted(60_00)]
    return []


# --- R1: 48 hours to accept or decline ---


@every_request
def test_R1_a_request_goes_to_the_other_party_who_has_48_hours(request_):
    given(registered())
    when(request_)
    asked = ASKED_FOR[kind_of(request_)]
    if request_.actor == FREELANCER and kind_of(request_) == "cancellation":
        asked = asked | {"reason": "conduct"}
    then(dispute_opened(kind_of(request_), by=ROLES[request_.actor], respond_by=T + 48 * HOURS, **asked))


@every_request
def test_R1_the_other_party_accepts_and_what_was_asked_for_happens(request_):
    given(registered(), request_)
    answerer = other(request_.actor)
    when(accept(by=answerer), at=T + HOURS)
    then(accepted(kind_of(request_), by=ROLES[answerer]), *consequence(request_))


@every_request
def test_R1_the_other_party_declines_and_nothing_follows(request_):
    given(registered(), request_)
    answerer = other(request_.actor)
    when(decline(by=answerer, message="No."), at=T + HOURS)
    then(declined(kind_of(request_), by=ROLES[answerer], message="No."))


# --- R2: withdrawn until it is answered ---


@every_request
def test_R2_the_requester_withdraws_until_it_is_answered(request_):
    given(registered(), request_)
    when(withdraw(by=request_.actor), at=T + 48 * HOURS - MS)
    then(withdrawn(kind_of(request_), by=ROLES[request_.actor]))


@pytest.mark.parametrize(("answer", "settled_as"), [(accept, "accepted"), (decline, "declined")])
def test_R2_not_after_an_answer(answer, settled_as):
    given(registered(), opened(order_update()), answer())
    when(withdraw())
    then(rejected("dispute_settled", settled_as=settled_as))


def test_R2_not_twice():
    given(registered(), opened(cancellation()), withdraw())
    when(withdraw())
    then(rejected("dispute_settled", settled_as="withdrawn"))


@pytest.mark.parametrize("answer", [accept, decline])
def test_R2_what_was_withdrawn_cannot_be_answered(answer):
    given(registered(), opened(cancellation()), withdraw())
    when(answer())
    then(rejected("dispute_settled", settled_as="withdrawn"))


# --- R3, D2: at 48 hours sharp the system accepts it ---


@every_request
def test_R3_unanswered_for_48_hours_the_system_accepts_it(request_):
    given(registered(), request_)
    when(expire(), at=T + 48 * HOURS)
    then(auto_accepted(kind_of(request_)), *consequence(request_, grounds="auto_accepted"))


def test_R3_once_settled_it_stays_settled():
    given(registered(), opened(extension()), at(T + 48 * HOURS, expire()))
    for answer in (accept(by=CLIENT), decline(by=CLIENT), withdraw(by=FREELANCER)):
        when(answer)
        then(rejected("dispute_settled", settled_as="auto_accepted"))


@pytest.mark.parametrize("before", [MS, timedelta(microseconds=1)])
def test_D2_accepting_just_before_48_hours_is_in_time(before):
    given(registered(), opened(cancellation()))
    when(accept(), at=T + 48 * HOURS - before)
    then(accepted(), order_canceled(grounds="agreement"))


@pytest.mark.parametrize("before", [MS, timedelta(microseconds=1)])
def test_D2_declining_just_before_48_hours_is_in_time(before):
    given(registered(), opened(cancellation()))
    when(decline(), at=T + 48 * HOURS - before)
    then(declined())


@pytest.mark.parametrize("answer", [accept, decline, withdraw])
@pytest.mark.parametrize("late", [0 * MS, timedelta(microseconds=1), MS])
def test_D2_at_48_hours_sharp_every_answer_is_too_late(answer, late):
    given(registered(), opened(cancellation()))
    when(answer(), at=T + 48 * HOURS + late)
    then(
        auto_accepted(at=T + 48 * HOURS),
        order_canceled(grounds="auto_accepted"),
        rejected("dispute_settled", settled_as="auto_accepted"),
    )


def test_D2_declining_at_48_hours_sharp_is_too_late():
    given(registered(), opened(cancellation()))
    when(decline(), at=T + 48 * HOURS)
    then(
        auto_accepted(at=T + 48 * HOURS),
        order_canceled(grounds="auto_accepted"),
        rejected("dispute_settled", settled_as="auto_accepted"),
    )


# --- D3: the order judges the deadline itself ---

ANY_COMMAND = [
    pytest.param(registered(), [nothing()], id="registered again"),
    pytest.param(registered(price=usd(1)), [rejected("order_exists")], id="registered with other facts"),
    pytest.param(started(), [rejected("invalid_transition")], id="requirements"),
    pytest.param(revised(), [rejected("invalid_transition")], id="revision"),
    pytest.param(refunded(), [rejected("refund_unknown")], id="refund processed"),
    pytest.param(opened(cancellation(), by=STRANGER), [rejected("not_a_party")], id="a stranger's request"),
    pytest.param(opened(extension(), by=CLIENT), [rejected("not_allowed")], id="the wrong party's request"),
    pytest.param(accept(by=STRANGER), [rejected("not_a_party")], id="a stranger's answer"),
    pytest.param(accept(by=FREELANCER), [rejected("not_allowed")], id="the requester's answer"),
    pytest.param(decline("unknown", by=CLIENT), [rejected("dispute_unknown")], id="an unknown dispute"),
    pytest.param(withdraw(by=FREELANCER), [rejected("dispute_settled", settled_as="auto_accepted")], id="withdrawal"),
    pytest.param(cancel(by=FREELANCER), [rejected("not_allowed")], id="a cancel that is not allowed"),
    pytest.param(expire(), [nothing()], id="timer"),
    pytest.param(expire("unknown"), [rejected("dispute_unknown")], id="timer, unknown dispute"),
    pytest.param(
        received("Accept", actor=CLIENT),
        [rejected("invalid", errors=[{"path": "dispute_id", "reason": "is missing: add it"}])],
        id="invalid data",
    ),
]


@pytest.mark.parametrize("late", [0 * MS, MS, 30 * DAYS])
@pytest.mark.parametrize(("command", "outcome"), ANY_COMMAND)
def test_D3_any_command_at_or_after_the_deadline_finds_it_auto_accepted(command, outcome, late):
    given(registered(), opened(extension()))
    when(command, at=T + 48 * HOURS + late)
    then(auto_accepted("delivery_extension"), delivery_date_extended(5, DUE + 5 * DAYS), *outcome)


def test_D3_then_the_command_is_judged_at_its_own_time():
    given(registered(), opened(extension()))
    when(opened(order_update()), at=T + 50 * HOURS)
    then(
        auto_accepted("delivery_extension", at=T + 48 * HOURS),
        delivery_date_extended(5, DUE + 5 * DAYS),
        dispute_opened("order_update", "client", SECOND, respond_by=T + 98 * HOURS, at=T + 50 * HOURS, message=MESSAGE),
    )


@pytest.mark.parametrize("fact", [delivered, completed, canceled_elsewhere])
def test_D3_no_fact_closes_a_cancellation_that_ran_out(fact):
    given(registered(), opened(cancellation()))
    when(fact(), at=T + 48 * HOURS)
    then(auto_accepted(), order_canceled(grounds="auto_accepted"), rejected("order_closed"))


def test_D3_the_timer_speaks_too_early():
    given(registered(), opened(cancellation()))
    when(expire(), at=T + 48 * HOURS - MS)
    then(rejected("not_due"))


@every_request
def test_D3_the_timer_has_nothing_to_say_about_what_was_settled_otherwise(request_):
    given(registered(), request_, decline(by=other(request_.actor)))
    when(expire(), at=T + 48 * HOURS)
    then(nothing())


def test_D3_the_timer_speaks_twice():
    given(registered(), opened(extension()), at(T + 48 * HOURS, expire()))
    when(expire())
    then(nothing())


def test_D3_the_timer_asks_about_an_order_nobody_registered():
    given()
    when(expire())
    then(rejected("order_unknown"))


# --- D4: what counts is when the broker took it ---


def test_D4_an_in_time_decline_processed_a_day_late_still_declines():
    """One backlog, read in one go: orders that are days ahead do not make this one's decline late."""
    backlog = [
        as_record(in_envelope(registered(), command_id(90))),
        as_record(in_envelope(opened(cancellation()), FIRST)),
        as_record(in_envelope(registered(), command_id(91), "order-2"), at=T + 100 * DAYS, partition=1),
        as_record(in_envelope(decline(), command_id(92)), at=T + 48 * HOURS - MS),
    ]
    mine = [event for event in service_after(backlog).events if event.originator_id == ORDER]
    assert names(mine) == ["OrderRegistered", "DisputeOpened", "Declined"]


# --- D7: nobody acts for the other ---


@every_request
@pytest.mark.parametrize("answer", [accept, decline])
def test_D7_the_requester_does_not_answer(request_, answer):
    given(registered(), request_)
    when(answer(by=request_.actor))
    then(rejected("not_allowed"))


@every_request
def test_D7_the_other_party_does_not_withdraw(request_):
    given(registered(), request_)
    when(withdraw(by=other(request_.actor)))
    then(rejected("not_allowed"))


@every_request
@pytest.mark.parametrize("answer", [accept, decline, withdraw])
def test_D7_a_stranger_does_nothing(request_, answer):
    given(registered(), request_)
    when(answer(by=STRANGER))
    then(rejected("not_a_party"))


def test_D7_the_message_says_what_to_do_instead():
    given(registered(), opened(cancellation()))
    when(accept(by=CLIENT))
    then(rejected("not_allowed"))
    assert "withdraw it instead" in current().message
    when(withdraw(by=FREELANCER))
    then(rejected("not_allowed"))
    assert "decline it instead" in current().message


# --- D8: an order update ---


def test_D8_the_acceptance_of_an_update_is_the_update_and_nothing_follows():
    given(registered(), opened(order_update()))
    when(accept(message="Half of it is done."))
    then(accepted("order_update", message="Half of it is done."))


def test_D8_an_update_may_be_accepted_without_a_word():
    given(registered(), opened(order_update()))
    when(accept())
    then(accepted("order_update", message=None))


def test_D8_the_auto_acceptance_of_an_update_says_that_no_answer_came():
    given(registered(), opened(order_update()))
    when(expire(), at=T + 48 * HOURS)
    then(auto_accepted("order_update"))


# --- D17: who did what is never blurred ---


@every_request
def test_D17_auto_accepted_is_not_accepted(request_):
    given(registered(), request_, at(T + 48 * HOURS, expire()))
    names = {type(event).__name__ for event in current().history}
    assert "AutoAccepted" in names
    assert "Accepted" not in names
    [dispute] = page_of(current().history, CLIENT, T + 48 * HOURS)["disputes"]
    assert (dispute["settled_as"], dispute["message"]) == ("auto_accepted", None)


CANCELED = {
    "agreement": [registered(), opened(cancellation()), accept()],
    "auto_accepted": [registered(), opened(cancellation()), at(T + 48 * HOURS, expire())],
    "awaiting_requirements": [registered_awaiting(), cancel()],
    "very_late": [registered(), at(VERY_LATE, cancel())],
    "external": [registered(), canceled_elsewhere()],
}


@pytest.mark.parametrize("grounds", CANCELED)
def test_D17_a_cancellation_by_right_is_not_a_mutual_one(grounds):
    given(*CANCELED[grounds])
    canceled = current().history[-1]
    assert isinstance(canceled, OrderCanceled)
    assert canceled.grounds == grounds
    assert page_of(current().history, CLIENT, VERY_LATE)["canceled"]["grounds"] == grounds


# --- D18: 48 elapsed hours, fixed when it opens ---

BERLIN, NEW_YORK = ZoneInfo("Europe/Berlin"), ZoneInfo("America/New_York")


@pytest.mark.parametrize(
    ("asked_at", "respond_by"),
    [
        pytest.param(datetime(2026, 3, 28, 12, tzinfo=BERLIN), "2026-03-30T11:00:00.000000Z", id="clocks go forward"),
        pytest.param(datetime(2026, 10, 31, 12, tzinfo=NEW_YORK), "2026-11-02T16:00:00.000000Z", id="clocks go back"),
        pytest.param(datetime(2028, 2, 27, 12, tzinfo=UTC), "2028-02-29T12:00:00.000000Z", id="leap day"),
        pytest.param(datetime(2026, 12, 30, 23, 59, 59, 999000, UTC), "2027-01-01T23:59:59.999000Z", id="new year"),
    ],
)
def test_D18_the_window_is_48_elapsed_hours_whatever_the_calendar_does(asked_at, respond_by):
    deadline = datetime.fromisoformat(respond_by)
    given(registered())
    when(opened(order_update()), at=asked_at.astimezone(UTC))
    then(dispute_opened("order_update", "client", respond_by=deadline, message=MESSAGE))
    when(decline(), at=deadline - MS)
    then(declined("order_update"))


def change_the_help_page(monkeypatch, **terms):
    monkeypatch.setattr(policy, "HELP_PAGE", structs.replace(policy.HELP_PAGE, **terms))


def test_D18_a_later_change_of_policy_moves_no_open_deadline(monkeypatch):
    given(registered(), opened(cancellation()))
    change_the_help_page(monkeypatch, response_hours=24)
    when(decline(), at=T + 48 * HOURS - MS)
    then(declined())


def test_D18_a_longer_window_moves_no_open_deadline_either(monkeypatch):
    given(registered(), opened(cancellation()))
    change_the_help_page(monkeypatch, response_hours=96)
    when(expire(), at=T + 48 * HOURS)
    then(auto_accepted(), order_canceled(grounds="auto_accepted"))


@pytest.mark.parametrize("hours", [1, 47, 96])
def test_D18_D20_an_order_with_terms_of_its_own_keeps_them_whatever_the_policy_becomes(monkeypatch, hours):
    given(registered(terms={"response_hours": 72}), opened(cancellation()))
    change_the_help_page(monkeypatch, response_hours=hours)
    when(decline(), at=T + 72 * HOURS - MS)
    then(declined())
    when(opened(cancellation()), at=T + 72 * HOURS)
    then(dispute_opened("cancellation", "client", SECOND, respond_by=T + 144 * HOURS, comment=COMMENT, reason=None))


def test_D18_views_give_the_deadline_the_servers_time_and_the_seconds_left():
    given(registered(), opened(cancellation()))
    page = page_of(current().history, FREELANCER, T + 47 * HOURS)
    assert page["now"] == "2026-03-04T08:00:00.000000Z"
    assert page["open_dispute"]["respond_by"] == "2026-03-04T09:00:00.000000Z"
    assert page["open_dispute"]["seconds_left"] == 3600
