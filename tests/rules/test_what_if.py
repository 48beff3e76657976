"""Under other terms there comes out what would have, had the order been registered under them (D20)."""

from collections.abc import Sequence
from datetime import datetime, timedelta

import pytest
from hypothesis import given as given_any
from hypothesis import strategies as st
from resolution_contracts import Command, RegisterOrderV2, Terms

from services.orders import Order
from services.orders.decide import auto_acceptance, decide
from services.orders.events import Event
from services.orders.evolve import evolve_all
from services.what_if.change import Change
from services.what_if.comparison import Asked, Comparison, Difference, Step
from services.what_if.history import NotJudged
from services.what_if.report import Report
from tests.support.controls import (
    CLIENT,
    DAYS,
    DUE,
    FREELANCER,
    HOURS,
    MS,
    ORDER,
    PRICE,
    T,
    accept,
    cancel,
    cancellation,
    command_id,
    completed,
    decline,
    delivered,
    expire,
    extension,
    opened,
    order_update,
    refund_offer,
    refunded,
    share_offer,
    withdraw,
)

Sent = tuple[datetime, Command]


def registered_under(**terms: object) -> RegisterOrderV2:
    facts = {"client_id": CLIENT, "freelancer_id": FREELANCER, "price": PRICE, "expected_delivery_at": DUE}
    return RegisterOrderV2(**facts, terms=Terms(**terms))


def course(commands: Sequence[Sent], end: datetime) -> tuple[list[Step], list[Event]]:
    """What comes of the commands, one after the other, and all events in the end."""
    order, steps, events = Order(id=ORDER), [], []
    for number, (time, command) in enumerate(commands):
        now = order.business_time(time)
        decision = decide(order, command, command_id(number), now)
        evolve_all(order, decision.events)
        events += decision.events
        code, details = (
            ("", {}) if decision.rejection is None else (decision.rejection.code, decision.rejection.details)
        )
        name = type(command).__name__.removesuffix("V2")
        asked = Asked(command, command_id(number), time)
        steps.append(Step(ORDER, name, str(code), str(details.get("settled_as", "")), decision.events, asked))
    return steps, events + auto_acceptance(order, end)


def compared(commands: Sequence[Sent], end: datetime, **change: object) -> tuple[Comparison, list[Event]]:
    written: list[Event] = []
    comparison = Comparison(Change(**change), written.append)
    for step in course(commands, end)[0]:
        comparison.take(step)
    comparison.end(lambda _: end)
    return comparison, written


def without_causes(events: Sequence[Event]) -> list[object]:
    """Without the commands that noticed deadlines: the timer's do not count under other terms."""
    return [(type(e), {n: getattr(e, n) for n in e.__struct_fields__ if n != "command_id"}) for e in events]


ANY_TERMS = st.fixed_dictionaries(
    {},
    optional={
        "response_hours": st.sampled_from([1, 24, 47, 48, 49, 72, 720]),
        "very_late_after_hours": st.sampled_from([0, 1, 24, 25, 720]),
        "longest_extension_days": st.sampled_from([0, 1, 5, 60, 61, 365]),
        "largest_refund_percent": st.sampled_from([0, 1, 59, 60, 61, 100]),
    },
)
DISPUTES = st.integers(0, 12).map(command_id)
COMMANDS = st.one_of(
    st.sampled_from([delivered(), completed(), cancel(), opened(order_update()), opened(cancellation())]),
    st.sampled_from([1, 5, 60, 61, 365]).map(lambda days: opened(extension(days))),
    st.sampled_from([1, 60_00, 60_01, 100_00]).map(refund_offer),
    st.sampled_from([1, 60, 61, 100]).map(share_offer),
    st.builds(lambda answer, dispute, by: answer(dispute, by), st.sampled_from([accept, decline]), DISPUTES,
              st.sampled_from([CLIENT, FREELANCER])),
    st.builds(withdraw, DISPUTES, st.sampled_from([CLIENT, FREELANCER])),
    DISPUTES.map(expire),
    DISPUTES.map(refunded),
)  # fmt: skip
PAUSES = st.sampled_from([timedelta(0), MS, HOURS, 24 * HOURS, 48 * HOURS - MS, 48 * HOURS, 72 * HOURS, 10 * DAYS])


@given_any(ANY_TERMS, ANY_TERMS, st.lists(st.tuples(PAUSES, COMMANDS), max_size=12), PAUSES)
def test_D20_it_is_what_a_registration_under_these_terms_leads_to(own, other, sent, after):
    time, commands = T, []
    for pause, command in sent:
        time += pause
        commands.append((time, command))
    history = [(T, registered_under(**own)), *commands]
    comparison, would_have = compared(history, time + after, **other)
    _, happens = course([(T, registered_under(**own | other)), *commands], time + after)
    assert without_causes(would_have) == without_causes(happens)
    own_course, _ = compared(history, time + after)
    assert (own_course.differences, own_course.commands, own_course.only_other_times) == ([], {}, 0)
    assert own_course.before == own_course.after == comparison.before


LATE = 60 * HOURS
STORY = [(T, registered_under()), (T, opened(extension(5))), (T + LATE, decline(command_id(1), CLIENT))]


def test_an_answer_that_came_too_late_would_have_been_in_time():
    comparison, events = compared(STORY, T + 10 * DAYS, response_hours=72)
    assert comparison.commands == {("Decline", "dispute_settled", ""): 1}
    assert comparison.differences == [Difference(ORDER, T + 48 * HOURS, "AutoAccepted", "Declined")]
    assert (comparison.before.answers_too_late, comparison.after.answers_too_late) == (1, 0)
    assert (comparison.before.extension_days, comparison.after.extension_days) == (5, 0)
    assert comparison.before.auto_accepted_by_day == {(T + 48 * HOURS).date(): 1}
    assert [type(event).__name__ for event in events] == ["OrderRegistered", "DisputeOpened", "Declined"]


def test_the_same_at_another_time_is_no_difference_of_events():
    comparison, _ = compared(STORY, T + 10 * DAYS, response_hours=24)
    assert comparison.differences == []
    assert comparison.only_other_times == 1


@pytest.mark.parametrize(
    ("change", "covered"),
    [({}, 1), ({"terms_name": "gold"}, 0), ({"since": T}, 1), ({"since": T + MS}, 0), ({"until": T}, 0)],
)
def test_only_orders_of_the_change_are_judged_again(change, covered):
    comparison, _ = compared(STORY, T + 10 * DAYS, response_hours=72, **change)
    assert comparison.orders == covered
    assert len(comparison.differences) == covered


def test_reports_of_shards_add_up():
    report = Report(Change(response_hours=72))
    for _ in range(2):
        comparison, _ = compared(STORY, T + 10 * DAYS, response_hours=72)
        report.add(comparison, NotJudged(parked=1, waiting=2, retired=3))
    told = report.as_dict()
    assert told["orders"] == {"covered": 2, "different": 2, "only_other_times": 0}
    assert told["commands"] == [{"command": "Decline", "before": "dispute_settled", "after": "accepted", "commands": 2}]
    assert told["auto_accepted_by_day"] == [{"day": "2026-03-04", "before": 2, "after": 0}]
    assert told["not_judged"] == {"expired": 0, "parked": 2, "waiting": 4}
