"""The fourteen cases of rules.md that went wrong elsewhere.

Those about processes and restarts are read every way here: at once and piece by piece, with orders kept in memory and
loaded anew after every command.
"""

from itertools import permutations

import pytest

from tests.rules.given_when_then import (
    accepted,
    at,
    auto_accepted,
    delivery_date_extended,
    dispute_closed,
    dispute_opened,
    given,
    nothing,
    order_canceled,
    order_completed,
    rejected,
    then,
    when,
)
from tests.rules.logs import codes, judged_every_way, log, names, outcome_of, page_after, page_of, published
from tests.support.controls import (
    CLIENT,
    COMMENT,
    DAYS,
    FIRST,
    FREELANCER,
    HOURS,
    MESSAGE,
    MS,
    ORDER,
    SECOND,
    THIRD,
    VERY_LATE,
    T,
    accept,
    cancel,
    cancellation,
    command_id,
    completed,
    decline,
    expire,
    extension,
    opened,
    order_update,
    refund_offer,
    refunded,
    registered,
    registered_awaiting,
    started,
    usd,
    withdraw,
)

DEADLINE = T + 48 * HOURS
REGISTERED = (T, command_id(99), registered())


# --- 1: 48 hours sharp ---


def test_case_01_accepted_at_48_hours_less_a_millisecond():
    given(registered(), opened(cancellation()))
    when(accept(), at=DEADLINE - MS)
    then(accepted(), order_canceled("agreement"))


def test_case_01_declined_at_exactly_48_hours():
    given(registered(), opened(cancellation()))
    when(decline(), at=DEADLINE)
    then(
        auto_accepted(at=DEADLINE),
        order_canceled("auto_accepted"),
        rejected("dispute_settled", settled_as="auto_accepted"),
    )


# --- 2: the timer is down for 6 hours ---


def test_case_02_the_timer_is_down_and_each_consequence_appears_once():
    service = judged_every_way(
        log(
            REGISTERED,
            (T, FIRST, refund_offer()),
            (T + 49 * HOURS, command_id(50), decline(by=CLIENT)),
            (T + 54 * HOURS, command_id(51), expire()),
            (T + 54 * HOURS, command_id(52), expire()),
        )
    )
    assert names(service.events) == ["OrderRegistered", "DisputeOpened", "AutoAccepted", "PartialRefundGranted"]
    assert list(codes(service.outcomes)) == ["accepted", "accepted", "dispute_settled", "accepted", "accepted"]


# --- 3: two timers, an accept and a withdrawal at the same moment ---

AT_ONCE = [expire(), expire(), accept(by=CLIENT), withdraw(by=FREELANCER)]


@pytest.mark.parametrize("moment", [DEADLINE - MS, DEADLINE, DEADLINE + MS])
@pytest.mark.parametrize("order", list(permutations(range(4))))
def test_case_03_one_settlement_and_one_consequence_in_whatever_order_they_come(order, moment):
    commands = [(moment, command_id(50 + n), AT_ONCE[n]) for n in order]
    service = judged_every_way(log(REGISTERED, (T, FIRST, opened(extension())), *commands))
    settled = {
        ("OrderRegistered", "DisputeOpened", "Accepted", "DeliveryDateExtended"): moment < DEADLINE,
        ("OrderRegistered", "DisputeOpened", "Withdrawn"): moment < DEADLINE,
        ("OrderRegistered", "DisputeOpened", "AutoAccepted", "DeliveryDateExtended"): moment >= DEADLINE,
    }
    assert settled[tuple(names(service.events))]


# --- 4: both parties open a dispute at once ---


def test_case_04_one_opens_and_the_other_is_told_which():
    given(registered())
    when(opened(cancellation()))
    then(dispute_opened("cancellation", "client", comment=COMMENT, reason=None))
    when(opened(extension()))
    then(rejected("dispute_open", dispute_id=FIRST, kind="cancellation"))


# --- 5: the same command twice ---


def test_case_05_one_event_and_the_same_outcome_twice():
    service = judged_every_way(log(REGISTERED, (T, FIRST, refund_offer()), (T + DAYS, FIRST, refund_offer())))
    assert names(service.events) == ["OrderRegistered", "DisputeOpened"]
    first, again = (outcome_of(row) for row in service.outcomes[1:])
    assert again == first | {"duplicate": True}


def test_case_05_the_same_id_with_another_amount():
    service = judged_every_way(log(REGISTERED, (T, FIRST, refund_offer()), (T, FIRST, refund_offer(59_99))))
    assert list(codes(service.outcomes)) == ["accepted", "accepted", "command_id_reused"]


# --- 6: a pending extension, and the order turns very late ---


def test_case_06_the_client_cancels_and_the_extension_is_never_auto_accepted():
    given(registered(), at(VERY_LATE - HOURS, opened(extension(60))))
    when(cancel(), at=VERY_LATE)
    then(dispute_closed("order_canceled", "delivery_extension"), order_canceled("very_late", dispute=None))
    when(expire(), at=VERY_LATE + 47 * HOURS)
    then(nothing())


def test_case_06_its_48_hours_ran_out_unnoticed_and_the_cancel_is_refused():
    given(registered(), at(VERY_LATE - 48 * HOURS, opened(extension(60))))
    when(cancel(), at=VERY_LATE)
    then(
        auto_accepted("delivery_extension", at=VERY_LATE),
        delivery_date_extended(60, VERY_LATE + 59 * DAYS),
        rejected("approval_needed", possible_from="2026-05-12T09:00:00.000000Z"),
    )


# --- 7: five days late, and a day more ---


def test_case_07_five_days_late_and_a_1_day_extension_accepted():
    given(registered(), at(VERY_LATE + 4 * DAYS, opened(extension(1))), accept(by=CLIENT))
    when(cancel())
    then(order_canceled("very_late", dispute=None))


# --- 8: 60 percent ---


@pytest.mark.parametrize(
    ("price", "currency", "passes", "too_much"), [(3333, "USD", 1999, 2000), (999, "JPY", 599, 600)]
)
def test_case_08_to_the_minor_unit(price, currency, passes, too_much):
    given(registered(price=usd(price).model_copy(update={"currency": currency})))
    when(refund_offer(too_much, currency=currency))
    then(rejected("refund_over_limit", limit={"amount": passes, "currency": currency}))
    when(refund_offer(passes, currency=currency))
    amount = {"amount": passes, "currency": currency}
    explanation = refund_offer().explanation
    then(dispute_opened("partial_refund", "freelancer", SECOND, amount=amount, explanation=explanation))


# --- 9: none ever again ---


@pytest.mark.parametrize(
    ("time", "end", "further"),
    [
        (T, decline(by=CLIENT), "accepted"),
        (T, accept(by=CLIENT), "refund_already_granted"),
        (DEADLINE, expire(), "refund_already_granted"),
    ],
)
def test_case_09_a_further_refund_also_after_a_restart(time, end, further):
    service = judged_every_way(
        log(
            REGISTERED,
            (T, FIRST, refund_offer()),
            (time, command_id(50), end),
            (time + 300 * DAYS, SECOND, refund_offer(1)),
        )
    )
    assert list(codes(service.outcomes))[-1] == further


# --- 10: 60 percent refunded, then canceled ---


def test_case_10_40_percent_are_due():
    given(registered(), refund_offer(60_00), accept(by=CLIENT), opened(cancellation()))
    when(accept(SECOND))
    then(accepted(dispute=SECOND), order_canceled(dispute=SECOND, refund_due=40_00))


# --- 11: a cancellation open, the order completes at 47 hours ---


def test_case_11_closed_and_nothing_happens_at_48_hours():
    given(registered(), opened(cancellation()))
    when(completed(), at=T + 47 * HOURS)
    then(dispute_closed("order_completed"), order_completed())
    when(expire(), at=DEADLINE)
    then(nothing())


# --- 12: withdrawn and opened again ---


def test_case_12_a_fresh_48_hours_and_the_old_deadline_never_fires():
    given(registered(), opened(cancellation()), at(T + 47 * HOURS, withdraw()), opened(cancellation()))
    when(expire(FIRST), at=DEADLINE)
    then(nothing())
    when(expire(SECOND), at=T + 95 * HOURS - MS)
    then(rejected("not_due"))
    when(expire(SECOND), at=T + 95 * HOURS)
    then(auto_accepted(dispute=SECOND, at=T + 95 * HOURS), order_canceled("auto_accepted", dispute=SECOND))


# --- 13: the broker's clock jumps back an hour ---


def test_case_13_no_deadline_moves():
    given(registered(), opened(cancellation()))
    when(opened(order_update()), at=T + 47 * HOURS)
    then(rejected("dispute_open", dispute_id=FIRST, kind="cancellation"))
    when(expire(), at=T + 46 * HOURS)
    then(rejected("not_due"))
    when(decline(), at=DEADLINE)
    then(auto_accepted(), order_canceled("auto_accepted"), rejected("dispute_settled", settled_as="auto_accepted"))


def test_case_13_nothing_reopens_and_no_order_goes_back_in_time():
    given(registered(), opened(extension(1)))
    when(expire(), at=DEADLINE)
    then(auto_accepted("delivery_extension"), delivery_date_extended(1, T + 11 * DAYS))
    when(decline(by=CLIENT), at=DEADLINE - HOURS)
    then(rejected("dispute_settled", settled_as="auto_accepted"))
    when(opened(order_update()), at=DEADLINE - HOURS)
    then(
        dispute_opened("order_update", "client", SECOND, respond_by=DEADLINE + 48 * HOURS, at=DEADLINE, message=MESSAGE)
    )


def test_case_13_however_the_log_is_read():
    service = judged_every_way(
        log(
            REGISTERED,
            (T, FIRST, opened(cancellation())),
            (T + 47 * HOURS, SECOND, opened(order_update())),
            (T + 46 * HOURS, THIRD, decline()),
            (T + 45 * HOURS, command_id(50), opened(extension())),
        )
    )
    assert [event.timestamp for event in service.events[2:]] == [T + 46 * HOURS, T + 46 * HOURS]


# --- 14: history replayed into new read models ---

A_LONG_STORY = log(
    (T, command_id(99), registered_awaiting()),
    (T, FIRST, opened(cancellation())),
    (T + HOURS, command_id(50), decline(message="Let us talk.")),
    (T + HOURS, command_id(51), started()),
    (T + 2 * HOURS, SECOND, opened(extension(5))),
    (T + 60 * HOURS, THIRD, refund_offer(60_00)),
    (T + 61 * HOURS, command_id(52), accept(THIRD, by=CLIENT)),
    (T + 61 * HOURS, command_id(53), refund_offer(1)),
    (T + 62 * HOURS, command_id(54), refunded(THIRD)),
    (T + 60 * HOURS, command_id(55), opened(order_update())),
    (T + 63 * HOURS, command_id(55), opened(order_update())),
    (VERY_LATE + 5 * DAYS, command_id(56), cancel()),
)


def test_case_14_the_same_history_from_the_same_log():
    service = judged_every_way(A_LONG_STORY)
    assert names(service.events) == [
        "OrderRegistered",
        "DisputeOpened",
        "Declined",
        "RequirementsSubmitted",
        "DisputeOpened",
        "AutoAccepted",
        "DeliveryDateExtended",
        "DisputeOpened",
        "Accepted",
        "PartialRefundGranted",
        "RefundProcessed",
        "DisputeOpened",
        "AutoAccepted",
        "OrderCanceled",
    ]


def test_case_14_the_same_log_again_adds_no_event():
    service = judged_every_way(A_LONG_STORY)
    first_time = list(service.events)
    judged = service.judge(A_LONG_STORY)
    assert judged.events == []
    assert service.events == first_time
    assert all(outcome_of(row)["duplicate"] for row in judged.outcomes)


def test_case_14_the_same_read_models_and_nothing_is_published_again():
    service = judged_every_way(A_LONG_STORY)
    before = published(service)
    assert page_after(service.events) == page_after(service.events)
    for viewer in (CLIENT, FREELANCER, None):
        now = service.events[-1].timestamp
        assert page_of(service.events, viewer, now) == page_of(service.events, viewer, now)
    assert page_after(service.events).order == service.load(ORDER)
    assert published(service) == before
