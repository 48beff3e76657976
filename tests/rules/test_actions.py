"""The order page offers each party what the judge would accept, and nothing else (R12, D3, D9, D16, D18)."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from resolution_contracts import RefundReason, RegisterOrder, Role

from projections.order_page import NotAParty
from services.orders import Order, Rejected
from services.orders.decide import auto_acceptance
from services.orders.evolve import evolve_all
from tests.rules.logs import page_after, page_of
from tests.support.controls import (
    CLIENT,
    DAYS,
    DUE,
    FIRST,
    FREELANCER,
    HOURS,
    MS,
    ORDER,
    STRANGER,
    THIRD,
    VERY_LATE,
    T,
    accept,
    cancel,
    canceled_elsewhere,
    cancellation,
    command_id,
    completed,
    decline,
    delivered,
    expire,
    extension,
    opened,
    order_update,
    other,
    refund_offer,
    registered,
    registered_awaiting,
    revised,
    started,
    usd,
    withdraw,
)
from tests.support.decisions import carry_out

USERS = {Role.CLIENT: CLIENT, Role.FREELANCER: FREELANCER}
LONGEST = "x" * 2500


class Story:
    """An order on which anything was tried. What was rejected left no trace."""

    def __init__(self, facts: RegisterOrder) -> None:
        self.events = []
        self.now = T
        self.tried = -1  # so that the first command after the registration has the id FIRST
        self.attempt(facts, self.now)

    def order(self) -> Order:
        return evolve_all(Order(id=ORDER), self.events)

    def attempt(self, command, at: datetime) -> Rejected | None:
        """Tries a command for good."""
        self.now, self.tried = at, self.tried + 1
        decision = carry_out(self.order(), command, command_id(self.tried), at)
        self.events += decision.events
        return decision.rejection

    def would(self, command, at: datetime) -> Rejected | None:
        """What the judge would say."""
        return carry_out(self.order(), command, command_id(9999), at).rejection

    def actions(self, role: Role, at: datetime) -> dict[tuple[str, str | None], dict]:
        """What the order page offers a party, by command and kind."""
        offered = page_of(self.events, USERS[role], at)["available_actions"][role]
        return {(action["command"], action["kind"]): action for action in offered}

    @property
    def dispute(self):
        """The dispute opened last: its id, and who opened it."""
        for event in reversed(self.events):
            if type(event).__name__ == "DisputeOpened":
                return event.dispute_id, USERS[event.opened_by]
        return "never opened", CLIENT


# --- any state that an order can be in, at any moment ---

STEPS = {
    "update": lambda story: opened(order_update()),
    "client cancels": lambda story: opened(cancellation()),
    "freelancer cancels": lambda story: opened(cancellation("conduct"), by=FREELANCER),
    "a day more": lambda story: opened(extension(1)),
    "60 days more": lambda story: opened(extension(60)),
    "refund": lambda story: refund_offer(1),
    "accepted": lambda story: accept(story.dispute[0], by=other(story.dispute[1])),
    "declined": lambda story: decline(story.dispute[0], by=other(story.dispute[1])),
    "withdrawn": lambda story: withdraw(story.dispute[0], by=story.dispute[1]),
    "started": lambda story: started(),
    "delivered": lambda story: delivered(),
    "revised": lambda story: revised(),
    "timer": lambda story: expire(story.dispute[0]),
}
ENDS = {
    "completed": lambda story: completed(),
    "canceled elsewhere": lambda story: canceled_elsewhere(),
    "canceled by right": lambda story: cancel(),
}
FACTS = st.sampled_from(
    [
        registered(),
        registered(price=usd(1)),
        registered(price=usd(2)),
        registered(price=usd(3333)),
        registered_awaiting(),
        registered_awaiting(expected_delivery_at=DUE),
        registered(terms={"response_hours": 1, "very_late_after_hours": 0, "longest_extension_days": 45}),
        registered(terms={"response_hours": 720, "very_late_after_hours": 72, "largest_refund_percent": 100}),
        registered(terms={"longest_extension_days": 0, "largest_refund_percent": 0}),
        registered(terms={"longest_extension_days": 365, "largest_refund_percent": 99}, price=usd(1)),
    ]
)
WAITS = st.sampled_from(
    [
        0 * MS,
        0 * MS,
        HOURS - MS,
        HOURS,
        23 * HOURS,
        47 * HOURS,
        48 * HOURS - MS,
        48 * HOURS,
        9 * DAYS,
        11 * DAYS - MS,
        30 * DAYS,
    ]
)
PLAYS = st.lists(st.tuples(st.sampled_from(list(STEPS)), WAITS), max_size=10)
ENDINGS = st.sampled_from([None] * 9 + list(ENDS))


@st.composite
def moments(draw: st.DrawFn) -> tuple[Story, datetime]:
    """A story, and a moment to look at its page: often one at which something changes."""
    story = Story(draw(FACTS))
    for step, wait in draw(PLAYS):
        story.attempt(STEPS[step](story), story.now + wait)
    if end := draw(ENDINGS):
        story.attempt(ENDS[end](story), story.now)
    return story, draw(st.sampled_from(turning_points(story)) | WAITS.map(lambda wait: story.now + wait))


def turning_points(story: Story) -> list[datetime]:
    order, sharp = story.order(), [story.now]
    if order.open_dispute:
        sharp.append(order.open_dispute.respond_by)
    if order.expected_delivery_at:
        sharp.append(order.expected_delivery_at + timedelta(hours=order.terms.very_late_after_hours))
    around = [moment + shift for moment in sharp for shift in (-MS, 0 * MS, MS)]
    return [moment for moment in around if moment >= story.now]


# --- what each action takes ---


def examples(story: Story, role: Role, command: str, kind: str | None, needs: dict) -> list:
    """Commands within the limits that the action states; the usual ones where it states none."""
    user = USERS[role]
    match command, kind:
        case "OpenDispute", "order_update":
            return [opened(order_update(text), by=user) for text in ("x", LONGEST)]
        case "OpenDispute", "cancellation":
            reasons = needs.get("reasons", ["other"]) + ([None] if role is Role.CLIENT else [])
            return [opened(cancellation(reason, text), by=user) for reason in reasons for text in ("x", LONGEST)]
        case "OpenDispute", "delivery_extension":
            days = needs.get("days", {"min": 1, "max": 60})
            return [opened(extension(number), by=user) for number in (days["min"], days["max"])]
        case "OfferPartialRefund", _:
            most = needs.get("largest_refund", {"amount": 1, "currency": "USD"})
            return [
                refund_offer(amount, by=user, currency=most["currency"], reason=reason, explanation=LONGEST)
                for amount in {1, most["amount"]}
                for reason in needs.get("reasons", list(RefundReason))
            ]
        case "CancelOrder", _:
            return [cancel(by=user, comment=text) for text in ("x", LONGEST)]
    dispute = needs.get("dispute_id", story.dispute[0])
    answers: dict[str, list] = {
        "Accept": [accept(dispute, by=user), accept(dispute, by=user, message=LONGEST)],
        "Decline": [decline(dispute, by=user), decline(dispute, by=user, message=LONGEST)],
        "Withdraw": [withdraw(dispute, by=user)],
    }
    return answers[command]


EVERYTHING = [
    ("OpenDispute", "order_update"),
    ("OpenDispute", "cancellation"),
    ("OpenDispute", "delivery_extension"),
    ("OfferPartialRefund", "partial_refund"),
    ("Accept", None),
    ("Decline", None),
    ("Withdraw", None),
    ("CancelOrder", None),
]
ANSWERS = ("Accept", "Decline", "Withdraw")


NO_ROOM = "The price leaves no room for a refund."
NEVER = (
    NO_ROOM,
    "This order's terms allow no partial refund.",
    "This order's terms allow no delivery extension.",
)
"""True whatever else stands in the way, so that the judge may name something else."""


@given(moments())
def test_R12_what_the_page_offers_is_accepted_and_what_it_does_not_is_rejected(moment):
    story, now = moment
    for role in Role:
        offered = story.actions(role, now)
        answers = {command: action for (command, _), action in offered.items() if command in ANSWERS}
        for command, kind in EVERYTHING:
            action = answers.get(command) if command in ANSWERS else offered.pop((command, kind), None)
            check(story, now, role, command, kind, action)
        assert {command for command, _ in offered} <= set(ANSWERS), "an action that is not one"


def check(story, now, role, command, kind, action):
    for example in examples(story, role, command, kind, (action or {}).get("needs", {})):
        rejected = story.would(example, now)
        if action is None:
            assert rejected is not None, f"not offered, but accepted: {example}"
        elif action["available"]:
            assert rejected is None, f"offered, but {rejected!r}: {example}"
            assert (action["why_not"], action["possible_from"]) == (None, None)
        else:
            assert rejected is not None, f"unavailable, but accepted: {example}"
            told = (rejected.message, rejected.details.get("possible_from"))
            assert action["why_not"] in NEVER or (action["why_not"], action["possible_from"]) == told


@given(moments())
def test_D9_the_largest_refund_on_the_page_is_exact(moment):
    story, now = moment
    action = story.actions(Role.FREELANCER, now).get(("OfferPartialRefund", "partial_refund"))
    if action is None or not action["available"]:
        return
    most = action["needs"]["largest_refund"]["amount"]
    assert story.would(refund_offer(most), now) is None
    too_much = story.would(refund_offer(most + 1), now)
    assert too_much.code == "refund_over_limit"
    assert too_much.details == {"limit": action["needs"]["largest_refund"]}


@given(moments())
def test_D5_possible_from_is_the_first_moment_at_which_the_client_may_cancel(moment):
    story, now = moment
    action = story.actions(Role.CLIENT, now).get(("CancelOrder", None))
    if action is None or action["available"]:
        return
    if action["possible_from"] is None:
        assert story.would(cancel(), now + 1000 * DAYS).code in ("approval_needed", "order_closed")
        return
    possible_from = datetime.fromisoformat(action["possible_from"])
    dispute = story.order().open_dispute
    if dispute is not None and now < dispute.respond_by <= possible_from:
        return  # if it is auto-accepted by then, that changes the date, or cancels the order
    assert possible_from > now
    assert story.would(cancel(), possible_from - MS).code == "approval_needed"
    assert story.would(cancel(), possible_from) is None
    assert story.actions(Role.CLIENT, possible_from)["CancelOrder", None]["available"]


@given(moments())
def test_D3_the_page_shows_what_is_due_as_if_its_event_were_stored(moment):
    story, now = moment
    before = {role: page_of(story.events, USERS[role], now) for role in Role}
    stored = story.events + auto_acceptance(story.order(), now)
    assert before == {role: page_of(stored, USERS[role], now) for role in Role}


# --- as a reader would check it ---


def offered(events, user, now=T):
    """(command, kind): whether it is available."""
    [actions] = page_of(events, user, now)["available_actions"].values()
    return {(action["command"], action["kind"]): action["available"] for action in actions}


def after(*commands):
    story = Story(commands[0])
    for command in commands[1:]:
        assert story.attempt(command, T) is None
    return story.events


def test_R12_each_party_is_offered_its_own_options():
    events = after(registered())
    assert offered(events, CLIENT) == {
        ("OpenDispute", "order_update"): True,
        ("OpenDispute", "cancellation"): True,
        ("CancelOrder", None): False,
    }
    assert offered(events, FREELANCER) == {
        ("OpenDispute", "delivery_extension"): True,
        ("OfferPartialRefund", "partial_refund"): True,
        ("OpenDispute", "cancellation"): True,
    }


def test_R12_while_a_dispute_is_open_one_answers_and_the_other_withdraws():
    events = after(registered(), opened(extension()))
    assert offered(events, CLIENT) == {
        ("Accept", "delivery_extension"): True,
        ("Decline", "delivery_extension"): True,
        ("OpenDispute", "order_update"): False,
        ("OpenDispute", "cancellation"): False,
        ("CancelOrder", None): False,
    }
    assert offered(events, FREELANCER) == {
        ("Withdraw", "delivery_extension"): True,
        ("OpenDispute", "delivery_extension"): False,
        ("OfferPartialRefund", "partial_refund"): False,
        ("OpenDispute", "cancellation"): False,
    }


def test_R12_both_parties_see_the_disputes_on_the_order_page():
    events = after(registered(), refund_offer(), decline(by=CLIENT, message="No."), opened(extension()))
    client, freelancer = (page_of(events, user, T) for user in (CLIENT, FREELANCER))
    for page in (client, freelancer):
        assert [dispute["dispute_id"] for dispute in page["disputes"]] == [FIRST, THIRD]
        assert [dispute["settled_as"] for dispute in page["disputes"]] == ["declined", None]
        assert page["open_dispute"]["dispute_id"] == THIRD
    del freelancer["disputes"][0]["refund_reason"]  # which is the author's alone (D16)
    assert client["disputes"] == freelancer["disputes"]


def test_R12_nobody_else_is_told():
    """No event is addressed to customer support, and a stranger sees no page."""
    events = after(registered(), opened(cancellation()), decline(), opened(cancellation()), accept(THIRD))
    assert {type(event).__name__ for event in events} == {
        "OrderRegistered",
        "DisputeOpened",
        "Declined",
        "Accepted",
        "OrderCanceled",
    }
    with pytest.raises(NotAParty):
        page_of(events, STRANGER, T)


def test_R12_an_operator_sees_the_actions_of_both():
    assert set(page_of(after(registered()), None, T)["available_actions"]) == {"client", "freelancer"}


def test_D3_the_page_changes_at_the_deadline_before_the_timer_speaks():
    events = after(registered(), opened(extension(60)))
    just_before, sharp = T + 48 * HOURS - MS, T + 48 * HOURS
    assert offered(events, CLIENT, just_before)["Accept", "delivery_extension"]
    assert offered(events, CLIENT, sharp) == {
        ("OpenDispute", "order_update"): True,
        ("OpenDispute", "cancellation"): True,
        ("CancelOrder", None): False,
    }
    page = page_of(events, CLIENT, sharp)
    assert page["open_dispute"] is None
    assert page["expected_delivery_at"] == "2026-05-11T09:00:00.000000Z"
    [dispute] = page["disputes"]
    assert (dispute["settled_as"], dispute["settled_at"]) == ("auto_accepted", "2026-03-04T09:00:00.000000Z")


def test_D3_a_cancellation_that_ran_out_closes_the_page_at_once():
    events = after(registered(), opened(cancellation()))
    page = page_of(events, FREELANCER, T + 48 * HOURS)
    assert (page["status"], page["available_actions"]) == ("canceled", {"freelancer": []})
    assert page["canceled"]["grounds"] == "auto_accepted"
    assert page["canceled"]["at"] == "2026-03-04T09:00:00.000000Z"


def test_D3_a_refund_that_ran_out_is_granted_at_once():
    events = after(registered(), refund_offer(60_00))
    page = page_of(events, CLIENT, T + 48 * HOURS)
    assert page["refund"] == {
        "refund_id": FIRST,
        "amount": {"amount": 60_00, "currency": "USD"},
        "state": "processing",
    }
    assert offered(events, FREELANCER, T + 48 * HOURS)["OfferPartialRefund", "partial_refund"] is False


def test_D3_looking_changes_nothing_that_is_kept():
    events = after(registered(), opened(cancellation()))
    page_of(events, CLIENT, T + 48 * HOURS)
    assert page_of(events, CLIENT, T + HOURS)["status"] == "in progress"
    assert page_after(events).order.version == 2


def test_D5_the_page_says_from_when_the_client_may_cancel():
    story = Story(registered())
    waiting = story.actions(Role.CLIENT, VERY_LATE - MS)["CancelOrder", None]
    assert (waiting["available"], waiting["possible_from"]) == (False, "2026-03-13T09:00:00.000000Z")
    assert story.actions(Role.CLIENT, VERY_LATE)["CancelOrder", None]["available"]


def test_D5_and_says_nothing_where_time_alone_will_not_change_it():
    story = Story(registered())
    story.attempt(delivered(), T)
    action = story.actions(Role.CLIENT, VERY_LATE)["CancelOrder", None]
    assert (action["available"], action["possible_from"]) == (False, None)


def test_D6_an_open_dispute_does_not_hide_the_right_to_cancel():
    story = Story(registered())
    story.attempt(opened(extension(60)), VERY_LATE - HOURS)
    actions = story.actions(Role.CLIENT, VERY_LATE)
    assert actions["CancelOrder", None]["available"]
    assert not actions["OpenDispute", "cancellation"]["available"]


def test_D6_the_page_tells_each_party_how_to_end_the_dispute():
    story = Story(registered())
    story.attempt(opened(extension()), T)
    assert "decline it" in story.actions(Role.CLIENT, T)["OpenDispute", "cancellation"]["why_not"]
    assert "withdraw it" in story.actions(Role.FREELANCER, T)["OpenDispute", "cancellation"]["why_not"]


@pytest.mark.parametrize(("price", "room"), [(1, False), (2, True)])
def test_D9_a_price_of_1_has_no_room_for_an_offer(price, room):
    action = Story(registered(price=usd(price))).actions(Role.FREELANCER, T)["OfferPartialRefund", "partial_refund"]
    assert (action["available"], action["why_not"]) == (room, None if room else NO_ROOM)


@pytest.mark.parametrize(
    ("state", "kinds"),
    [
        ([registered()], {"order_update", "cancellation"}),
        ([registered(), delivered()], {"cancellation"}),
        ([registered_awaiting()], {"cancellation"}),
        ([registered(), delivered(), revised()], {"order_update", "cancellation"}),
    ],
)
def test_D12_D13_what_the_client_may_request_in_which_state(state, kinds):
    able = offered(after(*state), CLIENT)
    assert {kind for (command, kind), available in able.items() if available and command == "OpenDispute"} == kinds


def test_D14_the_page_shows_the_date_that_an_extension_starts_from():
    story = Story(registered())
    needs = story.actions(Role.FREELANCER, DUE + 9 * DAYS)["OpenDispute", "delivery_extension"]["needs"]
    assert needs["expected_delivery_at"] == "2026-03-12T09:00:00.000000Z"
    assert needs["days"] == {"min": 1, "max": 60}


def test_D18_an_answer_states_its_dispute_and_its_deadline():
    story = Story(registered())
    story.attempt(opened(cancellation()), T)
    for command in ("Accept", "Decline"):
        needs = story.actions(Role.FREELANCER, T)[command, "cancellation"]["needs"]
        assert (needs["dispute_id"], needs["respond_by"]) == (FIRST, "2026-03-04T09:00:00.000000Z")
