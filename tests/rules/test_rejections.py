"""Every code of the contract's table, and which one comes first where several fit."""

import pytest
from resolution_contracts import Code, EraseOrderTexts

from tests.rules.given_when_then import at, current, given, received, rejected, then, when
from tests.rules.logs import Service, outcome_of
from tests.support.controls import (
    CLIENT,
    FIRST,
    FREELANCER,
    HOURS,
    STRANGER,
    VERY_LATE,
    T,
    accept,
    as_record,
    cancel,
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
    refund_offer,
    refunded,
    registered,
    registered_awaiting,
    revised,
    started,
    usd,
    withdraw,
)

OPEN = [registered(), opened(cancellation())]
CLOSED = [registered(), completed()]
GRANTED = [registered(), refund_offer(), accept(by=CLIENT)]
LIMIT = {"amount": 60_00, "currency": "USD"}
POSSIBLE_FROM = "2026-03-13T09:00:00.000000Z"
MISSING = [{"path": "dispute_id", "reason": "is missing: add it"}]

EVERY_CODE = [
    ([], delivered(), rejected("order_unknown")),
    ([registered()], registered(price=usd(1)), rejected("order_exists")),
    (CLOSED, opened(cancellation()), rejected("order_closed")),
    ([registered()], revised(), rejected("invalid_transition")),
    ([registered()], opened(cancellation(), by=STRANGER), rejected("not_a_party")),
    ([registered()], refund_offer(by=CLIENT), rejected("not_allowed")),
    (OPEN, accept(by=CLIENT), rejected("not_allowed")),
    (OPEN, withdraw(by=FREELANCER), rejected("not_allowed")),
    ([registered(), delivered()], opened(extension()), rejected("not_allowed")),
    (OPEN, opened(order_update()), rejected("dispute_open", dispute_id=FIRST, kind="cancellation")),
    (OPEN, decline("never opened"), rejected("dispute_unknown")),
    ([*OPEN, decline()], accept(), rejected("dispute_settled", settled_as="declined")),
    ([*OPEN, withdraw()], accept(), rejected("dispute_settled", settled_as="withdrawn")),
    ([*OPEN, accept()], accept(), rejected("dispute_settled", settled_as="accepted")),
    ([*OPEN, completed()], accept(), rejected("dispute_settled", settled_as="closed")),
    ([*OPEN, at(T + 48 * HOURS, expire())], accept(), rejected("dispute_settled", settled_as="auto_accepted")),
    (OPEN, expire(), rejected("not_due")),
    ([registered()], cancel(), rejected("approval_needed", possible_from=POSSIBLE_FROM)),
    ([registered(), delivered()], cancel(), rejected("approval_needed", possible_from=None)),
    ([registered()], refund_offer(60_01), rejected("refund_over_limit", limit=LIMIT)),
    (GRANTED, refund_offer(1), rejected("refund_already_granted")),
    ([registered()], refunded("never granted"), rejected("refund_unknown")),
    ([registered()], refund_offer(1, currency="EUR"), rejected("currency_mismatch")),
    ([registered()], received("Accept", actor=CLIENT), rejected("invalid", errors=MISSING)),
]


@pytest.mark.parametrize(("history", "command", "rejection"), EVERY_CODE)
def test_contract_every_code(history, command, rejection):
    given(*history)
    when(command)
    then(rejection)


@pytest.mark.parametrize(("history", "command", "rejection"), EVERY_CODE)
def test_contract_the_message_is_a_sentence_for_a_person(history, command, rejection):
    given(*history)
    when(command)
    then(rejection)
    message = current().message
    assert message[0].isupper()
    assert message[-1] == "."
    assert not any(code in message for code in Code if "_" in code), "a code is no sentence"
    assert "None" not in message


def test_contract_no_code_is_missing_here():
    told = {rejection[0] for _, _, rejection in EVERY_CODE}
    assert told | {Code.COMMAND_ID_REUSED} == set(Code)  # which the order never sees: test_repeats.py


def test_contract_a_rejection_on_the_wire():
    service = Service()
    service.send(registered(), command_id(99))
    judged = service.judge([as_record(in_envelope(refund_offer(60_01)))])
    outcome = outcome_of(judged.outcomes[0])
    assert outcome.pop("message").endswith(".")
    assert outcome == {
        "command_id": FIRST,
        "command": "OfferPartialRefund",
        "code": "refund_over_limit",
        "details": {"limit": LIMIT},
    }


# --- first the schema, then the order, then the actor, then the dispute named, then the rules ---

NO_ACTOR = [{"path": "actor", "reason": "should not be empty"}]
NO_REASON = rejected("invalid", errors=[{"path": "request.reason", "reason": "is required of the freelancer"}])
NO_DATE = "is required: none was registered with the order"

SCHEMA_FIRST = {
    "before an unknown order": (
        [],
        received("Withdraw", actor="", dispute_id="x"),
        rejected("invalid", errors=NO_ACTOR),
    ),
    "before a closed order": (
        CLOSED,
        received("Withdraw", actor="", dispute_id="x"),
        rejected("invalid", errors=NO_ACTOR),
    ),
    "the reason's list, too": (CLOSED, opened(cancellation(), by=FREELANCER), NO_REASON),
    "before an open dispute": (OPEN, opened(cancellation(), by=FREELANCER), NO_REASON),
    "a date that is missing": (
        [registered_awaiting()],
        started(None),
        rejected("invalid", errors=[{"path": "expected_delivery_at", "reason": NO_DATE}]),
    ),
}
ORDER_SECOND = {
    "unknown, before a stranger": ([], opened(cancellation(), by=STRANGER), rejected("order_unknown")),
    "unknown, before a reason's list": ([], opened(cancellation(), by=FREELANCER), rejected("order_unknown")),
    "unknown, before a dispute": ([], accept(), rejected("order_unknown")),
    "unknown, before a declined dispute": ([], decline(), rejected("order_unknown")),
    "unknown, before a withdrawn dispute": ([], withdraw(), rejected("order_unknown")),
    "unknown, before an erasure": ([], EraseOrderTexts(), rejected("order_unknown")),
    "unknown, before a refund": ([], refunded(), rejected("order_unknown")),
    "unknown, before an offer": ([], refund_offer(), rejected("order_unknown")),
    "unknown, before a right": ([], cancel(), rejected("order_unknown")),
    "unknown, before a deadline": ([], expire(), rejected("order_unknown")),
    "closed, before a stranger": (CLOSED, opened(cancellation(), by=STRANGER), rejected("order_closed")),
    "closed, before a stranger's offer": (CLOSED, refund_offer(by=STRANGER), rejected("order_closed")),
    "closed, before a stranger's cancel": (CLOSED, cancel(by=STRANGER), rejected("order_closed")),
    "closed, before the wrong role": (CLOSED, cancel(by=FREELANCER), rejected("order_closed")),
    "closed, before the wrong role's offer": (CLOSED, refund_offer(by=CLIENT), rejected("order_closed")),
    "closed, before a granted refund": ([*GRANTED, completed()], refund_offer(), rejected("order_closed")),
    "closed, before a transition": (CLOSED, revised(), rejected("order_closed")),
    "closed, and yet other facts": (CLOSED, registered(price=usd(1)), rejected("order_exists")),
}
ACTOR_THIRD = {
    "a stranger, before a dispute": (OPEN, accept("never opened", by=STRANGER), rejected("not_a_party")),
    "a stranger, before a settled dispute": ([*OPEN, decline()], accept(by=STRANGER), rejected("not_a_party")),
    "a stranger, before the state": (
        [registered(), delivered()],
        opened(extension(), by=STRANGER),
        rejected("not_a_party"),
    ),
    "a stranger, before an open dispute": (OPEN, opened(order_update(), by=STRANGER), rejected("not_a_party")),
    "a stranger, before the currency": (
        [registered()],
        refund_offer(currency="EUR", by=STRANGER),
        rejected("not_a_party"),
    ),
    "a stranger, before the approval": ([registered()], cancel(by=STRANGER), rejected("not_a_party")),
    "the wrong role, before a settled dispute": ([*OPEN, decline()], accept(by=CLIENT), rejected("not_allowed")),
    "the wrong role, before an open dispute": (OPEN, opened(order_update(), by=FREELANCER), rejected("not_allowed")),
    "the wrong role, before the limit": ([registered()], refund_offer(99_99, by=CLIENT), rejected("not_allowed")),
    "the wrong role, before a granted refund": (GRANTED, refund_offer(by=CLIENT), rejected("not_allowed")),
    "the wrong role, before the approval": ([registered()], cancel(by=FREELANCER), rejected("not_allowed")),
}
DISPUTE_FOURTH = {
    "settled, on a closed order": (
        [*OPEN, decline(), completed()],
        accept(),
        rejected("dispute_settled", settled_as="declined"),
    ),
    "unknown, on a closed order": (CLOSED, accept(), rejected("dispute_unknown")),
    "settled, on a closed order, a stranger": ([*OPEN, completed()], accept(by=STRANGER), rejected("not_a_party")),
    "settled, while another is open": (
        [*OPEN, decline(), opened(order_update())],
        accept(),
        rejected("dispute_settled", settled_as="declined"),
    ),
}
RULES_LAST = {
    "the state, before an open dispute": (
        [registered(), opened(cancellation()), delivered()],
        opened(extension()),
        rejected("not_allowed"),
    ),
    "an open dispute, before a granted refund": (
        [*GRANTED, opened(order_update())],
        refund_offer(),
        rejected("dispute_open", dispute_id="00000000-0000-0000-0000-000000000002", kind="order_update"),
    ),
    "an open dispute, before the currency": (
        OPEN,
        refund_offer(currency="EUR"),
        rejected("dispute_open", dispute_id=FIRST, kind="cancellation"),
    ),
    "a granted refund, before the currency": (
        GRANTED,
        refund_offer(currency="EUR"),
        rejected("refund_already_granted"),
    ),
    "the currency, before the limit": (
        [registered()],
        refund_offer(99_99, currency="EUR"),
        rejected("currency_mismatch"),
    ),
}
PRECEDENCE = SCHEMA_FIRST | ORDER_SECOND | ACTOR_THIRD | DISPUTE_FOURTH | RULES_LAST


@pytest.mark.parametrize(("history", "command", "rejection"), PRECEDENCE.values(), ids=list(PRECEDENCE))
def test_contract_which_code_comes_first(history, command, rejection):
    given(*history)
    when(command)
    then(rejection)


def test_contract_a_right_that_exists_is_no_help_to_a_stranger_on_a_very_late_order():
    given(registered())
    when(cancel(by=STRANGER), at=VERY_LATE)
    then(rejected("not_a_party"))
