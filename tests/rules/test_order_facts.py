"""What the order service reports, and what an order's state allows (R4, R11, D11-D13)."""

import pytest

from tests.rules.given_when_then import (
    at,
    auto_accepted,
    current,
    declined,
    delivery_date_extended,
    dispute_closed,
    dispute_opened,
    given,
    nothing,
    order_canceled,
    order_completed,
    order_delivered,
    order_registered,
    received,
    rejected,
    requirements_submitted,
    revision_requested,
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
    MS,
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
    other,
    refund_offer,
    registered,
    registered_awaiting,
    revised,
    started,
    usd,
    withdraw,
)

UPDATE, EXTENSION, REFUND = opened(order_update()), opened(extension()), refund_offer()
CLIENTS_CANCELLATION = opened(cancellation())
FREELANCERS_CANCELLATION = opened(cancellation("conduct"), by=FREELANCER)
REQUESTS = {
    "update": (UPDATE, "order_update"),
    "the client's cancellation": (CLIENTS_CANCELLATION, "cancellation"),
    "the freelancer's cancellation": (FREELANCERS_CANCELLATION, "cancellation"),
    "extension": (EXTENSION, "delivery_extension"),
    "refund": (REFUND, "partial_refund"),
}
every_request = pytest.mark.parametrize(("request_", "kind"), REQUESTS.values(), ids=list(REQUESTS))


def canceled_from_outside():
    return order_canceled(
        "external", "order_service", dispute=None, affects_metrics=False, refund_due=None, comment=None
    )


# --- registering ---


def test_contract_an_order_is_registered():
    given()
    when(registered())
    then(order_registered())


def test_contract_an_order_that_awaits_requirements_may_have_no_date():
    given()
    when(registered_awaiting())
    then(order_registered(awaiting_requirements=True, expected_delivery_at=None))


def test_contract_or_have_one():
    given()
    when(registered_awaiting(expected_delivery_at=DUE))
    then(order_registered(awaiting_requirements=True))


def test_contract_another_order_has_a_date():
    facts = {"client_id": CLIENT, "freelancer_id": FREELANCER, "price": {"amount": 1, "currency": "USD"}}
    given()
    when(received("RegisterOrder", **facts))
    why = "needs expected_delivery_at, unless the order awaits requirements"
    then(rejected("invalid", errors=[{"path": "", "reason": why}]))


@pytest.mark.parametrize("state", [[], [delivered()], [completed()], [canceled_elsewhere()]])
def test_contract_the_same_facts_again_are_accepted_without_an_event(state):
    given(registered(), *state)
    when(registered())
    then(nothing())


@pytest.mark.parametrize(
    "facts",
    [
        {"client_id": "client-2"},
        {"freelancer_id": "freelancer-2"},
        {"price": usd(100_01)},
        {"price": usd(100_00).model_copy(update={"currency": "EUR"})},
        {"expected_delivery_at": DUE + MS},
        {"awaiting_requirements": True},
        {"awaiting_requirements": True, "expected_delivery_at": None},
    ],
)
def test_contract_other_facts_are_not(facts):
    given(registered())
    when(registered(**facts))
    then(rejected("order_exists"))


def test_contract_what_happened_since_does_not_make_them_other_facts():
    given(registered(), opened(extension()), accept(by=CLIENT), delivered())
    when(registered())
    then(nothing())
    when(registered(expected_delivery_at=DUE + 5 * DAYS))
    then(rejected("order_exists"))


# --- which fact fits which state ---

STATES = {
    "awaiting requirements": [registered_awaiting()],
    "in progress": [registered()],
    "delivered": [registered(), delivered()],
    "completed": [registered(), completed()],
    "canceled": [registered(), canceled_elsewhere()],
}
FACTS = {
    "requirements": (started(), requirements_submitted, ["awaiting requirements"]),
    "delivery": (delivered(), order_delivered, ["in progress"]),
    "revision": (revised(), revision_requested, ["delivered"]),
    "completion": (completed(), order_completed, ["in progress", "delivered"]),
    "cancellation": (
        canceled_elsewhere(),
        canceled_from_outside,
        ["awaiting requirements", "in progress", "delivered"],
    ),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("fact", FACTS)
def test_contract_which_fact_fits_which_state(fact, state):
    command, event, fits = FACTS[fact]
    given(*STATES[state])
    when(command)
    if state in fits:
        then(event())
    else:
        then(rejected("order_closed" if state in ("completed", "canceled") else "invalid_transition"))


@pytest.mark.parametrize("state", STATES)
def test_contract_the_state_is_the_one_on_the_page(state):
    given(*STATES[state])
    assert page_of(current().history, CLIENT, T)["status"] == state


@pytest.mark.parametrize("fact", FACTS)
def test_contract_no_fact_fits_an_order_nobody_registered(fact):
    given()
    when(FACTS[fact][0])
    then(rejected("order_unknown"))


# --- R4: closed means closed ---


@pytest.mark.parametrize("end", [[completed()], [canceled_elsewhere()], [delivered(), completed()]])
@every_request
def test_R4_no_requests_on_an_order_that_is_over(request_, kind, end):
    given(registered(), *end)
    when(request_)
    then(rejected("order_closed"))


@pytest.mark.parametrize("end", [completed(), canceled_elsewhere()])
def test_R4_nor_a_cancellation_by_right(end):
    given(registered(), end)
    when(cancel(), at=VERY_LATE)
    then(rejected("order_closed"))


@pytest.mark.parametrize("end", [completed(), canceled_elsewhere()])
def test_R4_nor_any_action_on_its_page(end):
    given(registered(), opened(cancellation()), end)
    for user, role in ((CLIENT, "client"), (FREELANCER, "freelancer")):
        assert page_of(current().history, user, T)["available_actions"] == {role: []}


def test_R4_after_a_cancellation_by_agreement_too():
    given(registered(), opened(cancellation()), accept())
    when(opened(cancellation()))
    then(rejected("order_closed"))


# --- R11: one open dispute ---


@pytest.mark.parametrize("second", REQUESTS)
@pytest.mark.parametrize("first", REQUESTS)
def test_R11_one_open_dispute_whatever_it_is_about(first, second):
    (request, kind), (another, _) = REQUESTS[first], REQUESTS[second]
    given(registered(), request)
    when(another)
    then(rejected("dispute_open", dispute_id=FIRST, kind=kind))


ENDS = {
    "accepted": lambda request: accept(by=other(request.actor)),
    "declined": lambda request: decline(by=other(request.actor)),
    "withdrawn": lambda request: withdraw(by=request.actor),
    "auto-accepted": lambda request: at(T + 48 * HOURS, expire()),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("first", [UPDATE, EXTENSION, REFUND], ids=["update", "extension", "refund"])
def test_R11_it_must_end_before_another(first, end):
    given(registered(), first, ENDS[end](first))
    now = current().now
    when(opened(order_update()))
    then(dispute_opened("order_update", "client", SECOND, respond_by=now + 48 * HOURS, message=MESSAGE))


def test_R11_one_closed_by_a_delivery_has_ended():
    given(registered(), opened(extension()), delivered())
    when(opened(cancellation()))
    then(dispute_opened("cancellation", "client", SECOND, comment=COMMENT, reason=None))


# --- D11: closed by what happens to the order ---


@every_request
def test_D11_a_completion_closes_an_open_dispute_without_an_acceptance(request_, kind):
    given(registered(), request_)
    when(completed(), at=T + 48 * HOURS - MS)
    then(dispute_closed("order_completed", kind), order_completed())


@every_request
def test_D11_a_cancellation_from_elsewhere_too(request_, kind):
    given(registered(), request_)
    when(canceled_elsewhere(), at=T + 48 * HOURS - MS)
    then(dispute_closed("order_canceled", kind), canceled_from_outside())


@pytest.mark.parametrize("request_", [UPDATE, EXTENSION])
def test_D11_a_delivery_closes_an_open_extension_or_update(request_):
    given(registered(), request_)
    when(delivered(), at=T + 48 * HOURS - MS)
    then(dispute_closed("order_delivered", request_.request.kind), order_delivered())


@pytest.mark.parametrize("request_", [CLIENTS_CANCELLATION, FREELANCERS_CANCELLATION, REFUND])
def test_D11_a_delivery_leaves_a_cancellation_and_a_refund_open(request_):
    given(registered(), request_)
    when(delivered())
    then(order_delivered())
    when(decline(by=other(request_.actor)))
    kind = "partial_refund" if request_ is REFUND else "cancellation"
    then(declined(kind, by="freelancer" if request_.actor == CLIENT else "client"))


@pytest.mark.parametrize("answer", [accept, decline, withdraw])
@pytest.mark.parametrize(("fact", "because"), [(completed(), "order_completed"), (delivered(), "order_delivered")])
def test_D11_what_was_closed_is_settled(answer, fact, because):
    given(registered(), opened(order_update()), fact)
    when(answer())
    then(rejected("dispute_settled", settled_as="closed"))
    [dispute] = page_of(current().history, CLIENT, T)["disputes"]
    assert (dispute["settled_as"], dispute["closed_because"]) == ("closed", because)


def test_D11_a_cancellation_that_ran_out_wins_over_the_completion():
    given(registered(), opened(cancellation()))
    when(completed(), at=T + 48 * HOURS)
    then(auto_accepted(), order_canceled("auto_accepted"), rejected("order_closed"))


def test_D11_an_extension_that_ran_out_was_accepted_first():
    given(registered(), opened(extension()))
    when(delivered(), at=T + 49 * HOURS)
    then(
        auto_accepted("delivery_extension"),
        delivery_date_extended(5, DUE + 5 * DAYS),
        order_delivered(at=T + 49 * HOURS),
    )


def test_D11_so_was_an_update():
    given(registered(), opened(order_update()))
    when(completed(), at=T + 49 * HOURS)
    then(auto_accepted("order_update"), order_completed(at=T + 49 * HOURS))


# --- D12: a delivered order ---


def test_D12_takes_a_clients_cancellation():
    given(registered(), delivered())
    when(CLIENTS_CANCELLATION)
    then(dispute_opened("cancellation", "client", comment=COMMENT, reason=None))


def test_D12_takes_a_freelancers_cancellation():
    given(registered(), delivered())
    when(FREELANCERS_CANCELLATION)
    then(dispute_opened("cancellation", "freelancer", comment=COMMENT, reason="conduct"))


def test_D12_takes_a_refund():
    given(registered(), delivered())
    when(REFUND)
    amount = {"amount": 60_00, "currency": "USD"}
    then(dispute_opened("partial_refund", "freelancer", amount=amount, explanation=EXPLANATION))


@pytest.mark.parametrize("request_", [UPDATE, EXTENSION])
def test_D12_takes_no_extension_and_no_update(request_):
    given(registered(), delivered())
    when(request_)
    then(rejected("not_allowed"))
    assert "delivered" in current().message


def test_D12_a_revision_puts_it_in_progress_again():
    given(registered(), delivered())
    when(revised())
    then(revision_requested())
    when(UPDATE)
    then(dispute_opened("order_update", "client", message=MESSAGE))


def test_D12_a_revised_order_takes_an_extension():
    given(registered(), delivered(), revised())
    when(EXTENSION)
    then(dispute_opened("delivery_extension", "freelancer", days=5, note=NOTE))


def test_D12_a_cancellation_stays_open_through_a_delivery_and_a_revision():
    given(registered(), CLIENTS_CANCELLATION, delivered(), revised())
    when(expire(), at=T + 48 * HOURS)
    then(auto_accepted(), order_canceled("auto_accepted"))


# --- D13: while the order waits for requirements ---


@pytest.mark.parametrize("request_", [UPDATE, EXTENSION])
@pytest.mark.parametrize("date", [None, DUE])
def test_D13_no_extension_and_no_update_with_or_without_a_date(request_, date):
    given(registered_awaiting(expected_delivery_at=date))
    when(request_)
    then(rejected("not_allowed"))
    assert "awaiting requirements" in current().message


@pytest.mark.parametrize("request_", [UPDATE, EXTENSION])
def test_D13_once_work_has_started_there_are(request_):
    given(registered_awaiting(), started())
    when(request_)
    asked = {"message": MESSAGE} if request_ is UPDATE else {"days": 5, "note": NOTE}
    by = "client" if request_ is UPDATE else "freelancer"
    then(dispute_opened(request_.request.kind, by, **asked))


def test_D13_the_requirements_bring_the_date():
    given(registered_awaiting())
    when(started(DUE + DAYS))
    then(requirements_submitted(DUE + DAYS))


def test_D13_a_date_registered_before_serves():
    given(registered_awaiting(expected_delivery_at=DUE))
    when(started(None))
    then(requirements_submitted(DUE))


def test_D13_a_newer_one_replaces_it():
    given(registered_awaiting(expected_delivery_at=DUE))
    when(started(DUE - DAYS))
    then(requirements_submitted(DUE - DAYS))


def test_D13_without_any_date_they_are_invalid():
    given(registered_awaiting())
    when(started(None))
    why = "is required: none was registered with the order"
    then(rejected("invalid", errors=[{"path": "expected_delivery_at", "reason": why}]))


def test_D13_a_dispute_opened_before_stays_open():
    given(registered_awaiting(), CLIENTS_CANCELLATION, started())
    when(decline())
    then(declined())
