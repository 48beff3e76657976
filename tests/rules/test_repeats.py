"""Command ids and business time (D1, D19)."""

import json
from datetime import UTC, datetime

import pytest

from tests.rules.given_when_then import (
    accepted,
    at,
    delivery_date_extended,
    dispute_closed,
    dispute_opened,
    given,
    order_delivered,
    rejected,
    then,
    when,
)
from tests.rules.logs import Service, log, names, outcome_of, service_after
from tests.support.controls import (
    CLIENT,
    FIRST,
    FREELANCER,
    HOURS,
    ORDER,
    SECOND,
    THIRD,
    T,
    accept,
    as_record,
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
    raw_record,
    refund_offer,
    registered,
    untyped,
)

REGISTERED = log((T, command_id(99), registered()))


def after(*commands):
    """A service that knows the example order, and what else was done to it."""
    return service_after([*REGISTERED, *log(*commands)])


# --- D1: business time ---


def test_D1_no_order_goes_back_in_time():
    given(registered(), at(T + 5 * HOURS, opened(order_update())))
    when(delivered(), at=T + HOURS)
    then(dispute_closed("order_delivered", "order_update", at=T + 5 * HOURS), order_delivered())


def test_D1_a_deadline_counts_from_the_monotonic_time_too():
    given(registered(), at(T + 5 * HOURS, delivered()))
    when(opened(cancellation()), at=T)
    then(
        dispute_opened(
            "cancellation",
            "client",
            respond_by=T + 53 * HOURS,
            at=T + 5 * HOURS,
            comment=cancellation().comment,
            reason=None,
        )
    )


def test_D1_a_rejected_command_leaves_no_trace_in_the_order():
    given(registered(), opened(extension()))
    when(opened(order_update()), at=T + 47 * HOURS)
    then(rejected("dispute_open", dispute_id=FIRST, kind="delivery_extension"))
    when(accept(by=CLIENT), at=T + HOURS)
    then(accepted("delivery_extension", "client", at=T + HOURS), delivery_date_extended(5, T + 15 * 24 * HOURS))


def test_D1_nor_does_one_accepted_without_an_event():
    given(registered(), opened(extension()), decline(by=CLIENT))
    service = after((T + 9 * HOURS, command_id(50), registered()))
    service.send(delivered(), command_id(51), at=T + HOURS)
    assert service.events[-1].timestamp == T + HOURS


def test_D1_an_auto_acceptance_counts_as_of_its_deadline():
    service = after((T, FIRST, opened(extension())), (T + 90 * HOURS, SECOND, expire()))
    service.send(delivered(), command_id(50), at=T + HOURS)
    assert service.events[-1].timestamp == T + 48 * HOURS


def test_D1_each_order_has_its_own_time():
    service = after()
    service.send(registered(), command_id(50), at=T + 100 * HOURS, order_id="order-2")
    service.send(delivered(), command_id(51), at=T + HOURS)
    assert service.events[-1].timestamp == T + HOURS


def test_D1_it_is_the_brokers_time_and_never_the_senders():
    envelope = in_envelope(delivered(), command_id(50)).model_copy(update={"time": datetime(2030, 1, 1, tzinfo=UTC)})
    service = after()
    judged = service.judge([as_record(envelope, at=T + HOURS)])
    assert judged.events[0].timestamp == T + HOURS
    assert json.loads(judged.outcomes[0].message)["time"] == "2026-03-02T10:00:00.000000Z"


@pytest.mark.parametrize(("command", "code"), [(delivered(), "accepted"), (decline(), "dispute_settled")])
def test_D1_an_outcome_has_the_monotonic_time_too(command, code):
    service = after((T, FIRST, opened(cancellation())), (T + 5 * HOURS, SECOND, decline()))
    judged = service.judge([as_record(in_envelope(command, command_id(50)), at=T + HOURS)])
    outcome = json.loads(judged.outcomes[0].message)
    assert outcome["data"].get("code", "accepted") == code
    assert outcome["time"] == "2026-03-02T14:00:00.000000Z"


# --- D19: the same command again ---


def test_D19_the_same_command_again_changes_nothing_and_gets_the_first_outcome():
    service = after()
    events, first = service.send(refund_offer(), FIRST)
    assert events == ["DisputeOpened"]
    assert first == {
        "command_id": FIRST,
        "command": "OfferPartialRefund",
        "events": [{"type": "resolution.event.DisputeOpened.v1", "sequence": 2}],
    }
    assert service.send(refund_offer(), FIRST, at=T + 9 * HOURS) == ([], first | {"duplicate": True})
    assert service.send(refund_offer(), FIRST, at=T + 99 * HOURS) == ([], first | {"duplicate": True})


def test_D19_it_also_gets_the_first_outcomes_time():
    service = after((T, FIRST, refund_offer()))
    judged = service.judge([as_record(in_envelope(refund_offer(), FIRST), at=T + 9 * HOURS)])
    assert json.loads(judged.outcomes[0].message)["time"] == "2026-03-02T09:00:00.000000Z"


def test_D19_a_rejection_is_remembered_too():
    service = after((T, FIRST, opened(cancellation())))
    _, first = service.send(opened(order_update()), SECOND)
    assert first["code"] == "dispute_open"
    service.send(decline(), THIRD)
    assert service.send(opened(order_update()), SECOND) == ([], first | {"duplicate": True})


def test_D19_so_is_an_order_that_was_unknown():
    service = Service()
    _, first = service.send(delivered(), FIRST)
    assert first["code"] == "order_unknown"
    service.send(registered(), SECOND)
    assert service.send(delivered(), FIRST) == ([], first | {"duplicate": True})


def test_D19_the_senders_time_and_name_make_no_difference():
    service = after((T, FIRST, refund_offer()))
    again = in_envelope(refund_offer(), FIRST, source="/another").model_copy(update={"time": T + HOURS})
    [outcome] = service.judge([as_record(again)]).outcomes
    assert outcome_of(outcome)["duplicate"] is True


def test_D19_nor_does_how_the_json_is_written():
    service = after((T, FIRST, refund_offer()))
    envelope = json.loads(in_envelope(refund_offer(), FIRST).to_json())
    envelope["data"] = dict(reversed(envelope["data"].items()))
    rewritten = json.dumps(dict(reversed(envelope.items())), indent=3).replace("Sorry", "\\u0053orry")
    [outcome] = service.judge([raw_record(ORDER.encode(), rewritten.encode())]).outcomes
    assert outcome_of(outcome)["duplicate"] is True


REUSES = [
    pytest.param(in_envelope(refund_offer(59_99), FIRST), id="another amount"),
    pytest.param(in_envelope(refund_offer(reason="other"), FIRST), id="another reason"),
    pytest.param(in_envelope(refund_offer(by=CLIENT), FIRST), id="another actor"),
    pytest.param(in_envelope(delivered(), FIRST), id="another command"),
    pytest.param(
        untyped("RecordDelivery", refund_offer().model_dump(mode="json")), id="another command, the same data"
    ),
    pytest.param(untyped("OfferPartialRefund", {}), id="invalid data"),
    pytest.param(
        untyped("OfferPartialRefund", refund_offer().model_dump(mode="json") | {"surplus": None}), id="a field more"
    ),
]


@pytest.mark.parametrize("reuse", REUSES)
def test_D19_the_same_id_with_other_data_is_rejected(reuse):
    service = after((T, FIRST, refund_offer()))
    judged = service.judge([as_record(reuse, at=T + 99 * HOURS)])
    outcome = outcome_of(judged.outcomes[0])
    message = outcome.pop("message")
    assert outcome == {
        "command_id": FIRST,
        "command": reuse.name,
        "code": "command_id_reused",
        "details": {},
    }
    assert "new id" in message
    assert judged.events == [], "a repeated command id comes before everything, a due auto-acceptance too"


def test_D19_the_first_use_stays_the_one_that_counts():
    service = after((T, FIRST, refund_offer()))
    _, reused = service.send(refund_offer(1), FIRST)
    _, again = service.send(refund_offer(), FIRST)
    _, reused_again = service.send(refund_offer(1), FIRST)
    assert (reused["code"], again["duplicate"], reused_again["code"]) == (
        "command_id_reused",
        True,
        "command_id_reused",
    )
    assert "duplicate" not in reused_again


def test_D19_also_if_the_first_use_was_invalid():
    service = after()
    invalid = as_record(untyped("OfferPartialRefund", {}))
    [first] = service.judge([invalid]).outcomes
    assert outcome_of(first)["code"] == "invalid"
    assert service.send(refund_offer(), FIRST)[1]["code"] == "command_id_reused"
    [again] = service.judge([invalid]).outcomes
    assert outcome_of(again) == outcome_of(first) | {"duplicate": True}


def test_D19_another_order_has_ids_of_its_own():
    service = after((T, FIRST, opened(cancellation())))
    events, outcome = service.send(registered(), FIRST, order_id="order-2")
    assert (events, "duplicate" in outcome) == (["OrderRegistered"], False)


def test_D19_the_repeat_may_be_in_the_same_batch():
    offers = log((T, FIRST, refund_offer()), (T, FIRST, refund_offer()), (T, FIRST, refund_offer(1)))
    judged = after().judge(offers)
    assert names(judged.events) == ["DisputeOpened"]
    assert [row.kind for row in judged.outcomes] == ["accepted", "repeated", "reused"]


def test_D19_a_dispute_does_not_open_twice_though_its_first_one_ended():
    service = after((T, FIRST, refund_offer()), (T, SECOND, decline(by=CLIENT)), (T, THIRD, completed()))
    assert service.send(refund_offer(), FIRST)[0] == []
    assert names(service.events) == ["OrderRegistered", "DisputeOpened", "Declined", "OrderCompleted"]


def test_D19_the_freelancer_repeats_and_the_other_party_is_not_touched():
    service = after((T, FIRST, opened(extension())), (T, SECOND, accept(by=CLIENT)))
    events, outcome = service.send(accept(by=FREELANCER), SECOND)
    assert (events, outcome["code"]) == ([], "command_id_reused")
