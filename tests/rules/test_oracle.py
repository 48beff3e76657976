"""The oracle against expectations worked out by hand, rule by rule, and what must hold for any commands."""

import json
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.rules.oracle import COMMAND_TYPES, DAY, HOUR, Judged, Oracle, Record, instant_text

T = 1_767_225_600_000_000  # 2026-01-01T00:00:00Z
MS = 1_000
DUE = 10 * DAY  # expected delivery, counted from T like every time in these tests
CLIENT, FREELANCER, STRANGER = "cleo", "fred", "someone"


def clock(time: int) -> str:
    return instant_text(T + time)


def usd(amount: int) -> dict[str, Any]:
    return {"amount": amount, "currency": "USD"}


def uuid(number: int) -> str:
    return str(UUID(int=number))


def record(name: str, data: Any = None, *, at: int = 0, id: str = uuid(1), order: str = "o1", **other: Any) -> Record:
    envelope = {
        "specversion": "1.0",
        "id": id,
        "type": f"resolution.command.{name}.v1",
        "source": "/tests",
        "subject": order,
        "data": data,
        **other,
    }
    if data is None:
        del envelope["data"]
    return Record(order.encode(), json.dumps(envelope).encode(), T + at)


FACTS = {
    "client_id": CLIENT,
    "freelancer_id": FREELANCER,
    "price": usd(10_000),
    "expected_delivery_at": clock(DUE),
}
AWAITING: dict[str, Any] = {"awaiting_requirements": True, "expected_delivery_at": None}


class Order:
    """An order in the hands of a test: commands in, what came of each out."""

    def __init__(self, state: str = "in progress", oracle: Oracle | None = None, **facts: Any) -> None:
        self.oracle = oracle or Oracle()
        self.count = 0
        self.last_id = ""
        if state == "awaiting":
            facts = {**AWAITING, **facts}
        self.does("RegisterOrder", {**FACTS, **facts})
        for command in {
            "delivered": ["RecordDelivery"],
            "completed": ["RecordCompletion"],
            "canceled": ["RecordCancellation"],
        }.get(state, []):
            assert code(self.does(command)) is None

    def does(self, name: str, data: Any = None, *, at: int = 0, id: str | None = None) -> Judged:
        self.count += 1
        self.last_id = id or uuid(self.count)
        return self.oracle.read(record(name, data, at=at, id=self.last_id))

    def asks(self, what: dict[str, Any], by: str, *, at: int = 0) -> Judged:
        if "amount" in what:
            return self.does("OfferPartialRefund", {"actor": by, **what}, at=at)
        return self.does("OpenDispute", {"actor": by, "request": what}, at=at)

    def opens(self, what: dict[str, Any], by: str, *, at: int = 0) -> str:
        judged = self.asks(what, by, at=at)
        assert happened(judged)[-1] == "DisputeOpened"
        return self.last_id

    def answers(self, name: str, by: str, dispute: str, *, at: int = 0, **data: Any) -> Judged:
        return self.does(name, {"actor": by, "dispute_id": dispute, **data}, at=at)

    def cancels(self, *, by: str = CLIENT, at: int = 0, **data: Any) -> Judged:
        return self.does("CancelOrder", {"actor": by, "comment": "Enough", **data}, at=at)


def happened(judged: Judged) -> list[str]:
    return [event["type"] for event in judged.events]


def code(judged: Judged) -> str | None:
    assert judged.outcome is not None
    rejected = judged.outcome["data"].get("code")
    assert judged.outcome["type"] == ("CommandRejected" if rejected else "CommandAccepted")
    return rejected


def details(judged: Judged) -> dict[str, Any]:
    assert judged.outcome is not None
    return judged.outcome["data"]["details"]


def update() -> dict[str, Any]:
    return {"kind": "order_update", "message": "How is it going?"}


def cancellation(reason: str | None = "other") -> dict[str, Any]:
    return {"kind": "cancellation", "comment": "It does not work out", "reason": reason}


def extension(days: int = 5) -> dict[str, Any]:
    return {"kind": "delivery_extension", "days": days, "note": "A little longer"}


def refund(amount: int = 6_000, currency: str = "USD") -> dict[str, Any]:
    money = {"amount": amount, "currency": currency}
    return {"amount": money, "explanation": "Sorry for the wait", "reason": "delay_compensation"}


ASKING = [
    pytest.param(update(), CLIENT, FREELANCER, id="update"),
    pytest.param(cancellation(), CLIENT, FREELANCER, id="client-cancellation"),
    pytest.param(cancellation(), FREELANCER, CLIENT, id="freelancer-cancellation"),
    pytest.param(extension(), FREELANCER, CLIENT, id="extension"),
    pytest.param(refund(), FREELANCER, CLIENT, id="refund"),
]
CONSEQUENCE = {
    "order_update": [],
    "cancellation": ["OrderCanceled"],
    "delivery_extension": ["DeliveryDateExtended"],
    "partial_refund": ["PartialRefundGranted"],
}


def kind_of(what: dict[str, Any]) -> str:
    return what.get("kind", "partial_refund")


# -- what comes out, in full ---------------------------------------------------------------------------------


def test_contract_a_registered_order_in_full():
    judged = Oracle().read(record("RegisterOrder", {**FACTS, "expected_delivery_at": "2026-01-11T02:00:00+02:00"}))
    assert judged == Judged(
        [
            {
                "type": "OrderRegistered",
                "id": "o1:1",
                "subject": "o1",
                "sequence": 1,
                "time": "2026-01-01T00:00:00.000000Z",
                "causationid": uuid(1),
                "data": {
                    "client_id": "cleo",
                    "freelancer_id": "fred",
                    "price": {"amount": 10_000, "currency": "USD"},
                    "expected_delivery_at": "2026-01-11T00:00:00.000000Z",
                    "awaiting_requirements": False,
                },
            }
        ],
        {
            "type": "CommandAccepted",
            "id": f"o1:{uuid(1)}",
            "subject": "o1",
            "time": "2026-01-01T00:00:00.000000Z",
            "causationid": uuid(1),
            "data": {
                "command_id": uuid(1),
                "command": "RegisterOrder",
                "events": [{"type": "resolution.event.OrderRegistered.v1", "sequence": 1}],
            },
        },
        False,
    )


def test_contract_a_rejection_in_full():
    judged = Oracle().read(record("RecordDelivery", at=1))
    assert judged == Judged(
        [],
        {
            "type": "CommandRejected",
            "id": f"o1:{uuid(1)}",
            "subject": "o1",
            "time": "2026-01-01T00:00:00.000001Z",
            "causationid": uuid(1),
            "data": {
                "command_id": uuid(1),
                "command": "RecordDelivery",
                "code": "order_unknown",
                "details": {},
            },
        },
        False,
    )


def test_contract_a_late_command_in_full_first_the_auto_acceptance_then_its_own_event():
    order = Order()
    dispute = order.opens(extension(5), FREELANCER)
    late = 48 * HOUR + 7
    judged = order.asks(update(), CLIENT, at=late)
    assert [(e["sequence"], e["type"], e["time"], e["causationid"], e["data"]) for e in judged.events] == [
        (
            3,
            "AutoAccepted",
            "2026-01-03T00:00:00.000000Z",
            order.last_id,
            {"dispute_id": dispute, "kind": "delivery_extension", "deadline": "2026-01-03T00:00:00.000000Z"},
        ),
        (
            4,
            "DeliveryDateExtended",
            "2026-01-03T00:00:00.000000Z",
            order.last_id,
            {"dispute_id": dispute, "days": 5, "expected_delivery_at": "2026-01-16T00:00:00.000000Z"},
        ),
        (
            5,
            "DisputeOpened",
            "2026-01-03T00:00:00.000007Z",
            order.last_id,
            {
                "dispute_id": order.last_id,
                "kind": "order_update",
                "opened_by": "client",
                "respond_by": "2026-01-05T00:00:00.000007Z",
                "message": "How is it going?",
            },
        ),
    ]
    assert judged.outcome["time"] == "2026-01-03T00:00:00.000007Z"
    assert judged.outcome["data"]["events"] == [
        {"type": "resolution.event.AutoAccepted.v1", "sequence": 3},
        {"type": "resolution.event.DeliveryDateExtended.v1", "sequence": 4},
        {"type": "resolution.event.DisputeOpened.v1", "sequence": 5},
    ]


@pytest.mark.parametrize(
    ("what", "by", "own"),
    [
        (update(), CLIENT, {"message": "How is it going?"}),
        (cancellation(None), CLIENT, {"comment": "It does not work out", "reason": None}),
        (cancellation("conduct"), FREELANCER, {"comment": "It does not work out", "reason": "conduct"}),
        (extension(60), FREELANCER, {"days": 60, "note": "A little longer"}),
        (refund(1), FREELANCER, {"amount": usd(1), "explanation": "Sorry for the wait"}),
    ],
)
def test_contract_a_dispute_opens_with_the_fields_of_its_kind(what, by, own):
    order = Order()
    [event] = order.asks(what, by).events
    assert event["data"] == {
        "dispute_id": order.last_id,
        "kind": kind_of(what),
        "opened_by": "client" if by == CLIENT else "freelancer",
        "respond_by": clock(48 * HOUR),
        **own,
    }


def test_contract_events_without_data():
    order = Order()
    for command in ("RecordDelivery", "RecordRevisionRequested", "RecordDelivery", "RecordCompletion"):
        [event] = order.does(command).events
        assert event["data"] == {}


# -- R: what the help page says ------------------------------------------------------------------------------


@pytest.mark.parametrize(("what", "by", "other"), ASKING)
def test_R1_the_other_party_accepts_within_48_hours_and_it_happens(what, by, other):
    order = Order()
    dispute = order.opens(what, by)
    judged = order.answers("Accept", other, dispute, at=48 * HOUR - MS, message=" fine ")
    assert happened(judged) == ["Accepted", *CONSEQUENCE[kind_of(what)]]
    role = "client" if other == CLIENT else "freelancer"
    told = {"dispute_id": dispute, "kind": kind_of(what), "by": role, "message": "fine"}
    assert judged.events[0]["data"] == told
    assert {event["causationid"] for event in judged.events} == {order.last_id}


@pytest.mark.parametrize(("what", "by", "other"), ASKING)
def test_R1_the_other_party_declines_within_48_hours_and_nothing_happens(what, by, other):
    order = Order()
    dispute = order.opens(what, by)
    [event] = order.answers("Decline", other, dispute, at=48 * HOUR - MS).events
    role = "client" if other == CLIENT else "freelancer"
    assert (event["type"], event["data"]) == (
        "Declined",
        {"dispute_id": dispute, "kind": kind_of(what), "by": role, "message": None},
    )


@pytest.mark.parametrize(("what", "by", "other"), ASKING)
def test_R2_the_requester_withdraws_it_until_it_is_answered(what, by, other):
    order = Order()
    dispute = order.opens(what, by)
    [event] = order.answers("Withdraw", by, dispute, at=48 * HOUR - MS).events
    role = "client" if by == CLIENT else "freelancer"
    assert (event["type"], event["data"]) == (
        "Withdrawn",
        {"dispute_id": dispute, "kind": kind_of(what), "by": role},
    )
    judged = order.answers("Accept", other, dispute, at=48 * HOUR - MS)
    assert (code(judged), details(judged)) == ("dispute_settled", {"settled_as": "withdrawn"})


@pytest.mark.parametrize("answer", ["Accept", "Decline"])
def test_R2_an_answered_dispute_is_not_withdrawn(answer):
    order = Order()
    dispute = order.opens(extension(), FREELANCER)
    order.answers(answer, CLIENT, dispute)
    judged = order.answers("Withdraw", FREELANCER, dispute)
    settled_as = {"Accept": "accepted", "Decline": "declined"}[answer]
    assert (code(judged), details(judged)) == ("dispute_settled", {"settled_as": settled_as})


@pytest.mark.parametrize(("what", "by", "other"), ASKING)
def test_R3_unanswered_for_48_hours_the_system_accepts_it(what, by, other):
    order = Order()
    dispute = order.opens(what, by)
    judged = order.does("ExpireDispute", {"dispute_id": dispute}, at=48 * HOUR)
    assert happened(judged) == ["AutoAccepted", *CONSEQUENCE[kind_of(what)]]
    assert [event["time"] for event in judged.events] == [clock(48 * HOUR)] * len(judged.events)
    assert code(judged) is None


@pytest.mark.parametrize("state", ["completed", "canceled"])
@pytest.mark.parametrize(("what", "by", "other"), ASKING)
def test_R4_a_closed_order_takes_no_requests(state, what, by, other):
    order = Order(state)
    assert code(order.asks(what, by)) == "order_closed"
    assert code(order.asks(what, STRANGER)) == "order_closed"
    assert code(order.cancels()) == "order_closed"


def test_R5_the_client_cancels_while_the_order_waits_for_requirements():
    order = Order("awaiting")
    [event] = order.cancels(comment="Changed my mind").events
    assert event["data"] == {
        "initiated_by": "client",
        "dispute_id": None,
        "grounds": "awaiting_requirements",
        "affects_metrics": False,
        "refund_due": usd(10_000),
        "comment": "Changed my mind",
    }


def test_R5_the_client_cancels_a_very_late_order():
    order = Order()
    judged = order.cancels(at=DUE + 24 * HOUR - MS)
    assert (code(judged), details(judged)) == ("approval_needed", {"possible_from": clock(DUE + 24 * HOUR)})
    [event] = order.cancels(at=DUE + 24 * HOUR).events
    assert event["data"] == {
        "initiated_by": "client",
        "dispute_id": None,
        "grounds": "very_late",
        "affects_metrics": True,
        "refund_due": usd(10_000),
        "comment": "Enough",
    }


def test_R5_not_the_freelancer():
    assert code(Order("awaiting").cancels(by=FREELANCER)) == "not_allowed"
    assert code(Order("awaiting").cancels(by=STRANGER)) == "not_a_party"


def test_R5_an_agreed_extension_ends_the_right():
    order = Order()
    order.answers("Accept", CLIENT, order.opens(extension(1), FREELANCER))
    judged = order.cancels(at=DUE + 2 * DAY - 1)
    assert (code(judged), details(judged)) == ("approval_needed", {"possible_from": clock(DUE + 2 * DAY)})
    assert happened(order.cancels(at=DUE + 2 * DAY)) == ["OrderCanceled"]


@pytest.mark.parametrize(
    ("what", "by"),
    [
        pytest.param(update(), FREELANCER, id="R6"),
        pytest.param(extension(), CLIENT, id="R7"),
        pytest.param(refund(), CLIENT, id="R8"),
    ],
)
def test_R6_R7_R8_what_only_one_of_the_parties_may_ask(what, by):
    order = Order()
    assert code(order.asks(what, by)) == "not_allowed"
    assert code(order.asks(what, STRANGER)) == "not_a_party"


def test_R7_days_are_added_to_the_delivery_date_and_add_up():
    order = Order()
    late = DUE + 30 * DAY
    first = order.answers("Accept", CLIENT, order.opens(extension(1), FREELANCER, at=late), at=late)
    assert first.events[1]["data"]["expected_delivery_at"] == clock(DUE + DAY)
    second = order.answers("Accept", CLIENT, order.opens(extension(60), FREELANCER, at=late), at=late)
    assert second.events[1]["data"]["expected_delivery_at"] == clock(DUE + 61 * DAY)


@pytest.mark.parametrize(("days", "expected"), [(0, "invalid"), (1, None), (60, None), (61, "invalid")])
def test_R7_1_to_60_days(days, expected):
    assert code(Order().asks(extension(days), FREELANCER)) == expected


@pytest.mark.parametrize("price", [2, 5, 999, 3_333, 10_000, 2**63 - 1])
def test_R8_up_to_60_percent_of_the_original_price(price):
    limit = price * 3 // 5
    assert code(Order(price=usd(price)).asks(refund(limit), FREELANCER)) is None
    judged = Order(price=usd(price)).asks(refund(limit + 1), FREELANCER)
    assert (code(judged), details(judged)) == ("refund_over_limit", {"limit": usd(limit)})


def test_R8_in_the_currency_of_the_order():
    assert code(Order().asks(refund(100_000, "EUR"), FREELANCER)) == "currency_mismatch"


def test_R9_a_granted_refund_rules_out_another_and_a_declined_one_does_not():
    order = Order()
    order.answers("Decline", CLIENT, order.opens(refund(), FREELANCER))
    order.answers("Withdraw", FREELANCER, order.opens(refund(), FREELANCER))
    dispute = order.opens(refund(5_000), FREELANCER)
    granted = order.answers("Accept", CLIENT, dispute)
    assert granted.events[1]["data"] == {"refund_id": dispute, "amount": usd(5_000)}
    assert code(order.asks(refund(1), FREELANCER)) == "refund_already_granted"
    assert code(order.asks(refund(10**9, "EUR"), FREELANCER)) == "refund_already_granted"


def test_R10_the_freelancer_gives_a_reason_from_the_list():
    assert code(Order().asks(cancellation("scope_changed"), FREELANCER)) is None
    assert code(Order().asks(cancellation(None), FREELANCER)) == "invalid"
    assert code(Order().asks(cancellation("late_delivery"), FREELANCER)) == "invalid"
    assert code(Order().asks({"kind": "cancellation", "comment": "-"}, FREELANCER)) == "invalid"


def test_R10_the_client_may_give_one_from_another_list():
    assert code(Order().asks(cancellation("late_delivery"), CLIENT)) is None
    assert code(Order().asks({"kind": "cancellation", "comment": "-"}, CLIENT)) is None
    assert code(Order().asks(cancellation("conduct"), CLIENT)) == "invalid"


@pytest.mark.parametrize("by", [CLIENT, FREELANCER])
def test_R10_the_lists_of_reasons(by):
    client = "ordered_by_mistake requirements_changed not_as_expected freelancer_unresponsive late_delivery other"
    freelancer = "scope_changed unable_to_complete missing_information client_unresponsive client_asked conduct other"
    mine = (client if by == CLIENT else freelancer).split()
    for reason in {*client.split(), *freelancer.split()}:
        assert code(Order().asks(cancellation(reason), by)) == (None if reason in mine else "invalid")


@pytest.mark.parametrize("reason", ["scope_reduced", "delay_compensation", "minor_dissatisfaction", "other"])
def test_R8_the_list_of_reasons(reason):
    assert code(Order().asks({**refund(), "reason": reason}, FREELANCER)) is None


def test_R10_whose_list_it_is_comes_before_the_order_being_closed_but_only_for_a_party():
    order = Order("completed")
    assert code(order.asks(cancellation(None), FREELANCER)) == "invalid"
    assert code(order.asks(cancellation("conduct"), CLIENT)) == "invalid"
    assert code(order.asks(cancellation(None), STRANGER)) == "order_closed"
    assert code(Order().asks(cancellation(None), STRANGER)) == "not_a_party"


def test_R10_an_agreed_cancellation():
    order = Order()
    dispute = order.opens(cancellation("client_asked"), FREELANCER)
    judged = order.answers("Accept", CLIENT, dispute)
    assert judged.events[1]["data"] == {
        "initiated_by": "freelancer",
        "dispute_id": dispute,
        "grounds": "agreement",
        "affects_metrics": True,
        "refund_due": usd(10_000),
        "comment": "It does not work out",
    }
    assert order.oracle.orders["o1"]["state"] == "canceled"


@pytest.mark.parametrize(("first", "by", "other"), ASKING)
@pytest.mark.parametrize(("second", "by2", "other2"), ASKING)
def test_R11_one_open_dispute_whatever_it_is_about(first, by, other, second, by2, other2):
    order = Order()
    dispute = order.opens(first, by)
    judged = order.asks(second, by2)
    assert (code(judged), details(judged)) == (
        "dispute_open",
        {"dispute_id": dispute, "kind": kind_of(first)},
    )
    order.answers("Decline", other, dispute)
    order.opens(second, by2)


def test_R11_comes_after_whether_it_may_be_asked_and_before_what_is_asked():
    order = Order("delivered")
    order.opens(cancellation(), CLIENT)
    assert code(order.asks(extension(), FREELANCER)) == "not_allowed"
    assert code(order.asks(refund(1), CLIENT)) == "not_allowed"
    assert code(order.asks(refund(9_999, "EUR"), FREELANCER)) == "dispute_open"


# -- D: what it leaves open ----------------------------------------------------------------------------------


def test_D1_no_order_goes_back_in_time():
    order = Order()
    order.opens(update(), CLIENT, at=5 * HOUR)
    judged = order.does("RecordDelivery", at=HOUR)
    assert [event["time"] for event in judged.events] == [clock(5 * HOUR)] * 2
    assert judged.outcome["time"] == clock(5 * HOUR)


def test_D1_a_rejected_command_leaves_no_trace():
    order = Order()
    dispute = order.opens(extension(), FREELANCER)
    assert code(order.asks(update(), CLIENT, at=47 * HOUR)) == "dispute_open"
    judged = order.answers("Accept", CLIENT, dispute, at=HOUR)
    assert judged.events[0]["time"] == clock(HOUR)


def test_D1_each_order_has_its_own_time():
    oracle = Oracle()
    oracle.read(record("RegisterOrder", FACTS, order="a", at=HOUR))
    assert oracle.read(record("RegisterOrder", FACTS, order="b")).outcome["time"] == clock(0)
    assert oracle.read(record("RecordDelivery", order="c", at=-HOUR)).outcome["time"] == clock(-HOUR)


@pytest.mark.parametrize(("answer", "by"), [("Accept", CLIENT), ("Decline", CLIENT), ("Withdraw", FREELANCER)])
def test_D2_at_48_hours_sharp_it_is_too_late(answer, by):
    order = Order()
    dispute = order.opens(extension(), FREELANCER, at=HOUR)
    judged = order.answers(answer, by, dispute, at=49 * HOUR)
    assert happened(judged) == ["AutoAccepted", "DeliveryDateExtended"]
    assert (code(judged), details(judged)) == ("dispute_settled", {"settled_as": "auto_accepted"})


@pytest.mark.parametrize(
    ("name", "data", "expected"),
    [
        ("RegisterOrder", FACTS, None),
        ("RegisterOrder", {**FACTS, "price": usd(1)}, "order_exists"),
        ("RecordRevisionRequested", None, "invalid_transition"),
        ("RecordRefundProcessed", {"refund_id": "none"}, "refund_unknown"),
        ("Withdraw", {"actor": STRANGER, "dispute_id": "none"}, "not_a_party"),
        ("ExpireDispute", {"dispute_id": "none"}, "dispute_unknown"),
        ("Accept", {"actor": CLIENT}, "invalid"),
        ("RecordDelivery", [], "invalid"),
    ],
)
def test_D3_any_command_at_the_deadline_finds_the_dispute_auto_accepted(name, data, expected):
    order = Order()
    order.opens(extension(), FREELANCER)
    judged = order.does(name, data, at=50 * HOUR)
    assert happened(judged) == ["AutoAccepted", "DeliveryDateExtended"]
    assert [event["time"] for event in judged.events] == [clock(48 * HOUR)] * 2
    assert (code(judged), judged.outcome["time"]) == (expected, clock(50 * HOUR))
    assert ("events" in judged.outcome["data"]) == (expected is None)


def test_D3_a_repeated_command_id_alone_does_not():
    order = Order()
    dispute = order.opens(extension(), FREELANCER, at=0)
    again = order.does("OpenDispute", {"actor": FREELANCER, "request": extension()}, at=90 * HOUR, id=dispute)
    assert (again.events, again.outcome["time"]) == ([], clock(0))
    reused = order.does("RecordDelivery", at=90 * HOUR, id=dispute)
    assert (reused.events, code(reused)) == ([], "command_id_reused")
    assert reused.outcome["time"] == clock(90 * HOUR)
    assert happened(order.does("ExpireDispute", {"dispute_id": dispute}, at=HOUR)) == []
    assert happened(order.does("ExpireDispute", {"dispute_id": dispute}, at=48 * HOUR)) == [
        "AutoAccepted",
        "DeliveryDateExtended",
    ]


def test_D4_what_counts_is_when_the_broker_took_it():
    oracle = Oracle()
    order = Order(oracle=oracle)
    dispute = order.opens(cancellation(), CLIENT)
    oracle.read(record("RegisterOrder", FACTS, order="another", at=400 * HOUR))
    assert happened(order.answers("Decline", FREELANCER, dispute, at=47 * HOUR)) == ["Declined"]


@pytest.mark.parametrize("how", ["agreed", "ran out"])
def test_D5_the_expected_delivery_includes_extensions(how):
    order = Order()
    dispute = order.opens(extension(2), FREELANCER)
    if how == "agreed":
        order.answers("Accept", CLIENT, dispute)
    judged = order.cancels(at=DUE + 24 * HOUR)
    assert (code(judged), details(judged)) == ("approval_needed", {"possible_from": clock(DUE + 3 * DAY)})


def test_D5_a_delivered_order_is_not_late():
    judged = Order("delivered").cancels(at=DUE + 100 * DAY)
    assert (code(judged), details(judged)) == ("approval_needed", {"possible_from": None})


def test_D6_an_open_dispute_does_not_stand_in_the_way_of_the_right_to_cancel():
    order = Order("awaiting")
    dispute = order.opens(refund(), FREELANCER)
    judged = order.cancels()
    assert happened(judged) == ["DisputeClosed", "OrderCanceled"]
    told = {"dispute_id": dispute, "kind": "partial_refund", "because": "order_canceled"}
    assert judged.events[0]["data"] == told
    assert judged.events[1]["data"]["refund_due"] == usd(10_000)
    judged = order.answers("Accept", CLIENT, dispute)
    assert (code(judged), details(judged)) == ("dispute_settled", {"settled_as": "closed"})


def test_D6_an_agreed_cancellation_waits_for_the_open_dispute():
    order = Order("awaiting")
    dispute = order.opens(refund(), FREELANCER)
    judged = order.asks(cancellation(), CLIENT)
    assert (code(judged), details(judged)) == (
        "dispute_open",
        {"dispute_id": dispute, "kind": "partial_refund"},
    )


@pytest.mark.parametrize(("what", "by", "other"), ASKING)
def test_D7_nobody_acts_for_the_other(what, by, other):
    order = Order()
    dispute = order.opens(what, by)
    wrong = [("Accept", by), ("Decline", by), ("Withdraw", other)]
    for name, actor in wrong:
        assert code(order.answers(name, actor, dispute)) == "not_allowed"
        assert code(order.answers(name, STRANGER, dispute)) == "not_a_party"
        assert code(order.answers(name, STRANGER, "none")) == "not_a_party"
        assert code(order.answers(name, actor, "none")) == "dispute_unknown"
    order.answers("Decline", other, dispute)
    assert [code(order.answers(name, actor, dispute)) for name, actor in wrong] == ["not_allowed"] * 3


def test_D8_an_accepted_update_carries_the_answer_and_changes_nothing():
    order = Order()
    dispute = order.opens(update(), CLIENT)
    [event] = order.answers("Accept", FREELANCER, dispute, message="Nearly there").events
    assert event["data"]["message"] == "Nearly there"


def test_D9_a_price_of_1_has_no_room():
    judged = Order(price=usd(1)).asks(refund(1), FREELANCER)
    assert (code(judged), details(judged)) == ("refund_over_limit", {"limit": usd(0)})


@pytest.mark.parametrize("closing", [None, "RecordDelivery", "RecordCompletion", "RecordCancellation"])
def test_D10_a_granted_refund_is_recorded_once_in_any_state(closing):
    order = Order()
    dispute = order.opens(refund(), FREELANCER)
    assert code(order.does("RecordRefundProcessed", {"refund_id": dispute})) == "refund_unknown"
    order.answers("Accept", CLIENT, dispute)
    if closing:
        order.does(closing)
    [event] = order.does("RecordRefundProcessed", {"refund_id": dispute}).events
    assert (event["type"], event["data"]) == ("RefundProcessed", {"refund_id": dispute})
    again = order.does("RecordRefundProcessed", {"refund_id": dispute})
    assert (again.events, code(again), again.outcome["data"]["events"]) == ([], None, [])
    assert code(order.does("RecordRefundProcessed", {"refund_id": "another"})) == "refund_unknown"


def test_D10_after_a_refund_everything_else_goes_on():
    order = Order()
    order.answers("Accept", CLIENT, order.opens(refund(), FREELANCER))
    for what, by, other in [
        (extension(), FREELANCER, CLIENT),
        (update(), CLIENT, FREELANCER),
        (cancellation(), CLIENT, FREELANCER),
    ]:
        order.answers("Accept", other, order.opens(what, by))
    assert order.oracle.orders["o1"]["state"] == "canceled"


@pytest.mark.parametrize(("what", "by", "other"), ASKING)
@pytest.mark.parametrize(
    ("name", "because", "fact"),
    [
        ("RecordDelivery", "order_delivered", "OrderDelivered"),
        ("RecordCompletion", "order_completed", "OrderCompleted"),
        ("RecordCancellation", "order_canceled", "OrderCanceled"),
    ],
)
def test_D11_what_happens_elsewhere_closes_an_open_dispute(name, because, fact, what, by, other):
    order = Order()
    dispute = order.opens(what, by)
    judged = order.does(name, at=HOUR)
    if name == "RecordDelivery" and kind_of(what) in ("cancellation", "partial_refund"):
        assert happened(judged) == [fact]
        assert happened(order.answers("Decline", other, dispute)) == ["Declined"]
    else:
        assert happened(judged) == ["DisputeClosed", fact]
        told = {"dispute_id": dispute, "kind": kind_of(what), "because": because}
        assert judged.events[0]["data"] == told
        judged = order.answers("Decline", other, dispute)
        assert (code(judged), details(judged)) == ("dispute_settled", {"settled_as": "closed"})


def test_D11_a_cancellation_that_ran_out_wins_over_the_completion():
    order = Order()
    order.opens(cancellation(), CLIENT)
    judged = order.does("RecordCompletion", at=48 * HOUR)
    assert (happened(judged), code(judged)) == (["AutoAccepted", "OrderCanceled"], "order_closed")


@pytest.mark.parametrize(
    ("state", "what", "by", "expected"),
    [
        ("delivered", update(), CLIENT, "not_allowed"),
        ("delivered", extension(), FREELANCER, "not_allowed"),
        ("delivered", cancellation(), CLIENT, None),
        ("delivered", cancellation(), FREELANCER, None),
        ("delivered", refund(), FREELANCER, None),
        ("awaiting", update(), CLIENT, "not_allowed"),
        ("awaiting", extension(), FREELANCER, "not_allowed"),
        ("awaiting", cancellation(), CLIENT, None),
        ("awaiting", cancellation(), FREELANCER, None),
        ("awaiting", refund(), FREELANCER, None),
    ],
)
def test_D12_D13_what_fits_which_state(state, what, by, expected):
    assert code(Order(state).asks(what, by)) == expected


def test_D12_a_revision_puts_it_in_progress_again():
    order = Order("delivered")
    assert happened(order.does("RecordRevisionRequested")) == ["RevisionRequested"]
    order.opens(extension(), FREELANCER)


def test_D13_requirements_bring_the_delivery_date():
    order = Order("awaiting")
    assert code(order.does("RecordRequirementsSubmitted")) == "invalid"
    [event] = order.does("RecordRequirementsSubmitted", {"expected_delivery_at": clock(DUE)}).events
    assert (event["type"], event["data"]) == ("RequirementsSubmitted", {"expected_delivery_at": clock(DUE)})
    assert code(order.does("RecordRequirementsSubmitted")) == "invalid_transition"
    order.does("RecordCancellation")
    assert code(order.does("RecordRequirementsSubmitted")) == "order_closed"


@pytest.mark.parametrize(("data", "expected"), [({}, DUE), ({"expected_delivery_at": clock(3 * DAY)}, 3 * DAY)])
def test_D13_a_registered_date_serves_unless_a_new_one_comes(data, expected):
    order = Order("awaiting", expected_delivery_at=clock(DUE))
    [event] = order.does("RecordRequirementsSubmitted", data).events
    assert event["data"] == {"expected_delivery_at": clock(expected)}
    assert details(order.cancels()) == {"possible_from": clock(expected + DAY)}


def test_D14_an_extension_to_a_date_already_past():
    order = Order()
    late = DUE + 20 * DAY
    order.answers("Accept", CLIENT, order.opens(extension(1), FREELANCER, at=late), at=late)
    assert happened(order.cancels(at=late)) == ["OrderCanceled"]


def test_D15_a_cancellation_from_elsewhere_counts_for_nothing():
    [event] = Order().does("RecordCancellation", {"comment": "Fraud"}).events
    assert event["data"] == {
        "initiated_by": "order_service",
        "dispute_id": None,
        "grounds": "external",
        "affects_metrics": False,
        "refund_due": None,
        "comment": "Fraud",
    }


def test_D15_an_auto_accepted_cancellation_counts():
    order = Order()
    dispute = order.opens(cancellation(), CLIENT)
    judged = order.does("ExpireDispute", {"dispute_id": dispute}, at=60 * HOUR)
    assert judged.events[1]["data"] == {
        "initiated_by": "client",
        "dispute_id": dispute,
        "grounds": "auto_accepted",
        "affects_metrics": True,
        "refund_due": usd(10_000),
        "comment": "It does not work out",
    }


def test_D16_the_confidential_reason_comes_out_nowhere():
    order = Order()
    opened = order.asks(refund(), FREELANCER)
    granted = order.answers("Accept", CLIENT, order.last_id)
    assert "delay_compensation" not in repr([opened, granted])


def test_D18_the_window_is_48_elapsed_hours_across_any_calendar():
    order = Order()
    leap_day = (2 * 365 + 57) * DAY  # 2028-02-27
    [event] = order.asks(update(), CLIENT, at=leap_day + 13).events
    assert event["time"] == "2028-02-27T00:00:00.000013Z"
    assert event["data"]["respond_by"] == "2028-02-29T00:00:00.000013Z"


def test_D19_a_command_id_used_again():
    order = Order()
    first = order.asks(refund(100), FREELANCER)
    used = order.last_id
    data = {"actor": FREELANCER, **refund(100)}
    for name, other in [
        ("OfferPartialRefund", {**data, "amount": usd(101)}),
        ("OfferPartialRefund", {**data, "amount": {"amount": True, "currency": "USD"}}),
        ("RecordDelivery", data),
        ("RecordDelivery", None),
    ]:
        judged = order.does(name, other, id=used)
        assert (judged.events, code(judged), details(judged)) == ([], "command_id_reused", {})
        assert judged.outcome["data"]["command"] == name
    again = order.does("OfferPartialRefund", data, id=used, at=7 * HOUR)
    assert again.outcome == {**first.outcome, "data": {**first.outcome["data"], "duplicate": True}}


def test_D19_the_memory_keeps_rejections_too_and_is_each_orders_own():
    oracle = Oracle()
    unknown = oracle.read(record("RecordDelivery", at=3))
    oracle.read(record("RegisterOrder", FACTS, id=uuid(2), at=4))
    again = oracle.read(record("RecordDelivery", {}, at=5))  # absent data is {}
    assert again.outcome == {**unknown.outcome, "data": {**unknown.outcome["data"], "duplicate": True}}
    assert code(oracle.read(record("RegisterOrder", FACTS, order="o2"))) is None
    oracle.read(record("ExpireDispute", {"dispute_id": 1}, id=uuid(3)))
    assert code(oracle.read(record("ExpireDispute", {"dispute_id": True}, id=uuid(3)))) == "command_id_reused"


# -- cases that went wrong elsewhere -------------------------------------------------------------------------


def test_case_1_a_millisecond_before_48_hours_and_48_hours_sharp():
    order = Order()
    dispute = order.opens(cancellation(), CLIENT)
    assert code(order.answers("Accept", FREELANCER, dispute, at=48 * HOUR - MS)) is None
    order = Order()
    dispute = order.opens(cancellation(), CLIENT)
    judged = order.answers("Decline", FREELANCER, dispute, at=48 * HOUR)
    assert (code(judged), details(judged)) == ("dispute_settled", {"settled_as": "auto_accepted"})
    assert [event["time"] for event in judged.events] == [clock(48 * HOUR)] * 2


def test_case_2_the_timer_is_down_and_each_consequence_appears_once():
    order = Order()
    dispute = order.opens(refund(), FREELANCER)
    late = order.answers("Decline", CLIENT, dispute, at=49 * HOUR)
    assert (happened(late), code(late)) == (["AutoAccepted", "PartialRefundGranted"], "dispute_settled")
    timer = order.does("ExpireDispute", {"dispute_id": dispute}, at=54 * HOUR)
    assert (timer.events, code(timer), timer.outcome["data"]["events"]) == ([], None, [])


def test_case_3_two_timers_an_accept_and_a_withdrawal_at_once():
    expire = ("ExpireDispute", None)
    acts = [expire, expire, ("Accept", CLIENT), ("Withdraw", FREELANCER)]
    for at in (48 * HOUR - 1, 48 * HOUR):
        for first in range(len(acts)):
            order = Order()
            dispute = order.opens(extension(), FREELANCER)
            all_happened = []
            for name, actor in acts[first:] + acts[:first]:
                data = {"dispute_id": dispute} if actor is None else {"dispute_id": dispute, "actor": actor}
                all_happened += happened(order.does(name, data, at=at))
            settled = [name for name in all_happened if name != "DeliveryDateExtended"]
            assert len(settled) == 1
            assert all_happened.count("DeliveryDateExtended") == (settled != ["Withdrawn"])


def test_case_4_both_parties_open_a_dispute_at_once():
    order = Order()
    dispute = order.opens(cancellation(), CLIENT)
    judged = order.asks(cancellation(), FREELANCER)
    assert (code(judged), details(judged)) == (
        "dispute_open",
        {"dispute_id": dispute, "kind": "cancellation"},
    )


def test_case_5_the_same_command_twice_and_the_same_id_with_another_amount():
    order = Order()
    data = {"actor": FREELANCER, **refund(100)}
    first = order.does("OfferPartialRefund", data, id=uuid(99))
    again = order.does("OfferPartialRefund", data, id=uuid(99))
    assert (len(first.events), again.events) == (1, [])
    assert again.outcome["data"] == {**first.outcome["data"], "duplicate": True}
    judged = order.does("OfferPartialRefund", {**data, "amount": usd(99)}, id=uuid(99))
    assert code(judged) == "command_id_reused"


def test_case_6_a_pending_extension_and_a_very_late_order():
    late = DUE + 24 * HOUR
    order = Order()
    dispute = order.opens(extension(60), FREELANCER, at=late - HOUR)
    assert happened(order.cancels(at=late)) == ["DisputeClosed", "OrderCanceled"]
    assert order.does("ExpireDispute", {"dispute_id": dispute}, at=late + 48 * HOUR).events == []

    order = Order()
    order.opens(extension(60), FREELANCER, at=late - 48 * HOUR)
    judged = order.cancels(at=late)
    assert happened(judged) == ["AutoAccepted", "DeliveryDateExtended"]
    assert (code(judged), details(judged)) == ("approval_needed", {"possible_from": clock(late + 60 * DAY)})


def test_case_7_five_days_late_and_a_day_more():
    order = Order()
    late = DUE + 5 * DAY
    order.answers("Accept", CLIENT, order.opens(extension(1), FREELANCER, at=late), at=late)
    [event] = order.cancels(at=late).events
    assert event["data"]["grounds"] == "very_late"


@pytest.mark.parametrize(
    ("price", "currency", "amount", "limit"),
    [
        (3_333, "USD", 1_999, None),
        (3_333, "USD", 2_000, 1_999),
        (999, "JPY", 599, None),
        (999, "JPY", 600, 599),
    ],
)
def test_case_8_sixty_percent_to_the_minor_unit(price, currency, amount, limit):
    judged = Order(price={"amount": price, "currency": currency}).asks(refund(amount, currency), FREELANCER)
    if limit is None:
        assert code(judged) is None
    else:
        assert details(judged) == {"limit": {"amount": limit, "currency": currency}}


@pytest.mark.parametrize("how", ["accepted", "auto-accepted"])
def test_case_9_none_ever_again(how):
    order = Order()
    order.answers("Decline", CLIENT, order.opens(refund(), FREELANCER))
    dispute = order.opens(refund(), FREELANCER)
    if how == "accepted":
        order.answers("Accept", CLIENT, dispute)
    order.does("RecordDelivery")
    order.does("RecordRefundProcessed", {"refund_id": dispute}, at=60 * HOUR)
    assert code(order.asks(refund(1), FREELANCER, at=10_000 * HOUR)) == "refund_already_granted"


def test_case_10_sixty_percent_refunded_then_canceled():
    order = Order()
    order.answers("Accept", CLIENT, order.opens(refund(6_000), FREELANCER))
    judged = order.answers("Accept", FREELANCER, order.opens(cancellation(), CLIENT))
    assert judged.events[1]["data"]["refund_due"] == usd(4_000)


def test_case_11_a_cancellation_open_and_the_order_completes():
    order = Order()
    dispute = order.opens(cancellation(), CLIENT)
    assert happened(order.does("RecordCompletion", at=47 * HOUR)) == ["DisputeClosed", "OrderCompleted"]
    judged = order.does("ExpireDispute", {"dispute_id": dispute}, at=48 * HOUR)
    assert (judged.events, code(judged)) == ([], None)


def test_case_12_withdrawn_and_opened_again():
    order = Order()
    old = order.opens(cancellation(), CLIENT)
    order.answers("Withdraw", CLIENT, old, at=47 * HOUR)
    new = order.opens(cancellation(), CLIENT, at=47 * HOUR)
    assert order.does("ExpireDispute", {"dispute_id": old}, at=48 * HOUR).events == []
    assert code(order.does("ExpireDispute", {"dispute_id": new}, at=95 * HOUR - 1)) == "not_due"
    assert happened(order.answers("Accept", FREELANCER, new, at=95 * HOUR - 1)) == [
        "Accepted",
        "OrderCanceled",
    ]


def test_case_13_the_brokers_clock_jumps_back_an_hour():
    order = Order()
    dispute = order.opens(extension(1), FREELANCER)
    assert code(order.answers("Decline", CLIENT, dispute, at=48 * HOUR)) == "dispute_settled"
    assert code(order.answers("Decline", CLIENT, dispute, at=47 * HOUR)) == "dispute_settled"
    [opened] = order.asks(update(), CLIENT, at=47 * HOUR).events
    assert opened["time"] == clock(48 * HOUR)
    assert opened["data"]["respond_by"] == clock(96 * HOUR)


# -- the contract: registering, reporting, order of errors ---------------------------------------------------


@pytest.mark.parametrize("state", ["in progress", "completed", "canceled"])
def test_contract_registering_again(state):
    order = Order(state)
    same_instant = {**FACTS, "expected_delivery_at": "2026-01-10T19:00:00.0-05:00"}
    for facts in (FACTS, same_instant, {**FACTS, "awaiting_requirements": False}):
        judged = order.does("RegisterOrder", facts)
        assert (judged.events, code(judged), judged.outcome["data"]["events"]) == ([], None, [])
    for change in (
        {"client_id": "other"},
        {"freelancer_id": "other"},
        {"price": usd(10_001)},
        {"price": {"amount": 10_000, "currency": "EUR"}},
        {"expected_delivery_at": clock(DUE + 1)},
        {"awaiting_requirements": True},
    ):
        assert code(order.does("RegisterOrder", {**FACTS, **change})) == "order_exists"


def test_contract_registering_again_compares_with_what_was_registered():
    order = Order("awaiting")
    order.does("RecordRequirementsSubmitted", {"expected_delivery_at": clock(DUE)})
    assert code(order.does("RegisterOrder", {**FACTS, **AWAITING})) is None
    assert code(order.does("RegisterOrder", FACTS)) == "order_exists"


FACTS_REPORTED = [
    "RecordRequirementsSubmitted",
    "RecordDelivery",
    "RecordRevisionRequested",
    "RecordCompletion",
    "RecordCancellation",
]


@pytest.mark.parametrize(
    ("state", "fits"),
    [
        ("awaiting", ["RecordRequirementsSubmitted", "RecordCancellation"]),
        ("in progress", ["RecordDelivery", "RecordCompletion", "RecordCancellation"]),
        ("delivered", ["RecordRevisionRequested", "RecordCompletion", "RecordCancellation"]),
        ("completed", []),
        ("canceled", []),
    ],
)
@pytest.mark.parametrize("name", FACTS_REPORTED)
def test_contract_which_fact_fits_which_state(name, state, fits):
    order = Order(state, **({"expected_delivery_at": clock(DUE)} if state == "awaiting" else {}))
    misfit = "order_closed" if state in ("completed", "canceled") else "invalid_transition"
    assert code(order.does(name)) == (None if name in fits else misfit)


@pytest.mark.parametrize("name", sorted(COMMAND_TYPES.values()))
def test_contract_a_schema_error_comes_first_then_the_unknown_order(name):
    data = {
        "RegisterOrder": FACTS,
        "RecordRefundProcessed": {"refund_id": "r"},
        "ExpireDispute": {"dispute_id": "d"},
        "OpenDispute": {"actor": STRANGER, "request": cancellation(None)},
        "OfferPartialRefund": {"actor": STRANGER, **refund()},
        "Accept": {"actor": STRANGER, "dispute_id": "d"},
        "Decline": {"actor": STRANGER, "dispute_id": "d"},
        "Withdraw": {"actor": STRANGER, "dispute_id": "d"},
        "CancelOrder": {"actor": STRANGER, "comment": "Enough"},
    }.get(name, {})
    judged = Oracle().read(record(name, {**data, "surplus": None}))
    assert (code(judged), details(judged)) == ("invalid", {"errors": None})
    expected = None if name == "RegisterOrder" else "order_unknown"
    assert code(Oracle().read(record(name, data))) == expected


def test_contract_an_invalid_registration_registers_nothing():
    order = Order(price=usd(0))
    assert code(order.does("RecordDelivery")) == "order_unknown"


def test_contract_a_dispute_is_settled_even_on_a_closed_order():
    order = Order()
    dispute = order.opens(refund(), FREELANCER)
    order.answers("Decline", CLIENT, dispute)
    order.does("RecordCompletion")
    judged = order.answers("Accept", CLIENT, dispute)
    assert (code(judged), details(judged)) == ("dispute_settled", {"settled_as": "declined"})
    assert code(order.answers("Accept", CLIENT, "none")) == "dispute_unknown"
    assert code(order.answers("Accept", STRANGER, dispute)) == "not_a_party"


def test_contract_expiring_too_early_or_nothing():
    order = Order()
    dispute = order.opens(extension(), FREELANCER)
    judged = order.does("ExpireDispute", {"dispute_id": dispute}, at=48 * HOUR - 1)
    assert (judged.events, code(judged), details(judged)) == ([], "not_due", {})
    assert code(order.does("ExpireDispute", {"dispute_id": "none"})) == "dispute_unknown"


# -- the schema ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text", ["", "  ", "\u3000\n", "x" * 2501, "a\0b", "\0", "\x1f", "\u200b \ufe0f", "\ud800", None, 5, ["x"]]
)
def test_schema_texts_that_are_not(text):
    assert code(Order().asks({"kind": "order_update", "message": text}, CLIENT)) == "invalid"


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("x", "x"),
        ("x" * 2500, "x" * 2500),
        (" \t\n\x85\xa0\u2003" + "é" * 2500 + "\u2029\u202f\u205f\u3000", "é" * 2500),
        ("a  b", "a  b"),
        ("\x1fa", "\x1fa"),
        ("\u200b\u0301", "\u200b\u0301"),
        ("\U0001f600" * 2500, "\U0001f600" * 2500),
    ],
)
def test_schema_texts_are_kept_trimmed(text, kept):
    [event] = Order().asks({"kind": "order_update", "message": text}, CLIENT).events
    assert event["data"]["message"] == kept


@pytest.mark.parametrize("actor", ["", "x" * 201, "a\0", "\udfff", None, 7, True, ["cleo"]])
def test_schema_ids_that_are_not(actor):
    assert code(Order().asks(update(), actor)) == "invalid"


def test_schema_ids_are_not_trimmed():
    order = Order(client_id=" cleo ")
    assert code(order.asks(update(), " cleo ")) is None
    assert code(order.asks(update(), "cleo")) == "not_a_party"
    assert code(order.asks(update(), "x" * 200)) == "not_a_party"


@pytest.mark.parametrize(
    "change",
    [
        {"freelancer_id": CLIENT},
        {"price": usd(0)},
        {"price": usd(-1)},
        {"price": usd(2**63)},
        {"price": {"amount": 5}},
        {"price": {"currency": "USD"}},
        {"price": {"amount": 5.5, "currency": "USD"}},
        {"price": {"amount": "5", "currency": "USD"}},
        {"price": {"amount": True, "currency": "USD"}},
        {"price": {"amount": 5, "currency": "usd"}},
        {"price": {"amount": 5, "currency": "US"}},
        {"price": {"amount": 5, "currency": "USD\n"}},
        {"price": {"amount": 5, "currency": "ÀÉÎ"}},
        {"price": {"amount": 5, "currency": "USD", "scale": 2}},
        {"price": None},
        {"price": 5},
        {"expected_delivery_at": None},
        {"awaiting_requirements": None},
        {"awaiting_requirements": 1},
        {"awaiting_requirements": "true"},
        {"surplus": 1},
    ],
)
def test_schema_registrations_that_are_not(change):
    assert code(Oracle().read(record("RegisterOrder", {**FACTS, **change}))) == "invalid"


@pytest.mark.parametrize("missing", ["client_id", "freelancer_id", "price", "expected_delivery_at"])
def test_schema_what_a_registration_needs(missing):
    data = {name: value for name, value in FACTS.items() if name != missing}
    assert code(Oracle().read(record("RegisterOrder", data))) == "invalid"
    if missing == "expected_delivery_at":
        assert code(Oracle().read(record("RegisterOrder", {**data, "awaiting_requirements": True}))) is None


def test_schema_prices_of_64_bits():
    price = 2**63 - 1
    judged = Order(price=usd(price)).asks(refund(price), FREELANCER)
    assert details(judged) == {"limit": usd(price * 3 // 5)}
    value = record("RegisterOrder", {**FACTS, "price": usd(7)}).value
    value = value.replace(b'"amount": 7,', b'"amount": ' + b"7" * 5000 + b",")
    assert code(Oracle().read(Record(b"o1", value, T))) == "invalid"


@pytest.mark.parametrize(
    ("instant", "kept"),
    [
        ("2026-02-28T23:59:59Z", "2026-02-28T23:59:59.000000Z"),
        ("2026-02-28t23:59:59.5z", "2026-02-28T23:59:59.500000Z"),
        ("2026-02-28T23:59:59.123456789Z", "2026-02-28T23:59:59.123456Z"),
        ("2026-03-01T00:00:00.000001+00:01", "2026-02-28T23:59:00.000001Z"),
        ("2026-02-28T23:59:59.123456-23:59", "2026-03-01T23:58:59.123456Z"),
        ("2026-02-28T23:59:59-00:00", "2026-02-28T23:59:59.000000Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000Z"),
        ("1969-12-31T23:00:00-01:00", "1970-01-01T00:00:00.000000Z"),
        ("8999-12-31T23:59:59.999999Z", "8999-12-31T23:59:59.999999Z"),
        ("9000-01-01T00:30:00+01:00", "8999-12-31T23:30:00.000000Z"),
    ],
)
def test_schema_instants(instant, kept):
    order = Order("awaiting")
    [event] = order.does("RecordRequirementsSubmitted", {"expected_delivery_at": instant}).events
    assert event["data"]["expected_delivery_at"] == kept


@pytest.mark.parametrize(
    "instant",
    [
        "2026-02-28",
        "2026-02-28T23:59:59",
        "2026-02-28 23:59:59Z",
        "2026-02-28T23:59Z",
        "2026-02-29T00:00:00Z",
        "2026-02-28T24:00:00Z",
        "2026-06-30T23:59:60Z",
        "2026-02-28T23:59:59.Z",
        "2026-02-28T23:59:59,5Z",
        "2026-02-28T23:59:59+24:00",
        "2026-02-28T23:59:59+00:60",
        "2026-02-28T23:59:59+0100",
        "2026-02-28T23:59:59+01",
        "2026-02-28T23:59:59Z\n",
        " 2026-02-28T23:59:59Z",
        "٢٠٢٦-02-28T23:59:59Z",
        "0000-01-01T00:00:00Z",
        "1969-12-31T23:59:59.999999Z",
        "1970-01-01T00:00:00+00:01",
        "9000-01-01T00:00:00Z",
        "8999-12-31T23:59:00-00:01",
        "10000-01-01T00:00:00Z",
        1767225600,
        True,
        {},
    ],
)
def test_schema_instants_that_are_not(instant):
    judged = Order("awaiting").does("RecordRequirementsSubmitted", {"expected_delivery_at": instant})
    assert code(judged) == "invalid"


@pytest.mark.parametrize(
    "request_",
    [
        None,
        "order_update",
        [],
        {},
        {"kind": "partial_refund", "amount": usd(1), "explanation": "-"},
        {"kind": ["order_update"], "message": "-"},
        {"kind": None, "message": "-"},
        {"kind": "order_update"},
        {"kind": "order_update", "message": "-", "note": "-"},
        {"kind": "cancellation", "reason": "other"},
        {"kind": "cancellation", "comment": None, "reason": "other"},
        {"kind": "cancellation", "comment": "-", "reason": "scope_reduced"},
        {"kind": "cancellation", "comment": "-", "reason": ["other"]},
        {"kind": "delivery_extension", "days": 1},
        {"kind": "delivery_extension", "note": "-"},
        {"kind": "delivery_extension", "days": "5", "note": "-"},
        {"kind": "delivery_extension", "days": 5.5, "note": "-"},
        {"kind": "delivery_extension", "days": True, "note": "-"},
        {"kind": "delivery_extension", "days": None, "note": "-"},
    ],
)
def test_schema_requests_that_are_not(request_):
    assert code(Order().does("OpenDispute", {"actor": CLIENT, "request": request_})) == "invalid"


@pytest.mark.parametrize("reason", [None, "late", "late_delivery", 1, ["other"]])
def test_schema_a_refund_needs_a_reason_from_its_list(reason):
    assert code(Order().asks({**refund(), "reason": reason}, FREELANCER)) == "invalid"


@pytest.mark.parametrize("data", [[], "", 0, False, 1.5])
def test_schema_data_that_is_no_object(data):
    assert code(Order().does("RecordDelivery", data)) == "invalid"


def test_schema_data_null_is_no_object_and_absent_data_is_an_empty_one():
    order = Order()
    value = record("RecordDelivery", {}, id=uuid(50)).value
    judged = order.oracle.read(Record(b"o1", value.replace(b'"data": {}', b'"data": null'), T))
    assert code(judged) == "invalid"
    assert code(order.does("RecordDelivery", {})) is None


@pytest.mark.parametrize("data", [{}, {"comment": None}, {"comment": " "}])
def test_schema_cancelling_needs_a_comment(data):
    assert code(Order("awaiting").does("CancelOrder", {"actor": CLIENT, **data})) == "invalid"


def test_schema_optional_fields_may_be_null():
    order = Order()
    dispute = order.opens(update(), CLIENT)
    assert code(order.answers("Decline", FREELANCER, dispute, message=None)) is None
    assert code(order.answers("Decline", FREELANCER, dispute, message=" ")) == "invalid"
    assert code(order.does("RecordCancellation", {"comment": None})) is None


# -- the envelope --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "change",
    [
        {"specversion": "1.1"},
        {"specversion": 1.0},
        {"specversion": None},
        {"id": None},
        {"id": ""},
        {"id": 7},
        {"id": "00000000000000000000000000000001"},
        {"id": "{00000000-0000-0000-0000-000000000001}"},
        {"id": "00000000-0000-0000-0000-00000000000g"},
        {"id": "00000000-0000-0000-0000-000000000001\n"},
        {"type": None},
        {"type": ["resolution.command.RecordDelivery.v1"]},
        {"type": "resolution.command.RecordDelivery.v2"},
        {"type": "resolution.command.recorddelivery.v1"},
        {"type": "resolution.command.Nothing.v1"},
        {"type": "resolution.event.OrderDelivered.v1"},
        {"source": None},
        {"source": ""},
        {"source": 1},
        {"subject": None},
        {"subject": "o2"},
        {"subject": ["o1"]},
    ],
)
def test_envelope_a_changed_attribute_makes_it_dead(change):
    [attribute] = change
    good = record("RecordDelivery")
    assert not Oracle().read(good).dead
    envelope = {**json.loads(good.value), **change}
    assert Oracle().read(Record(b"o1", json.dumps(envelope).encode(), T)) == Judged(dead=True)
    del envelope[attribute]
    assert Oracle().read(Record(b"o1", json.dumps(envelope).encode(), T)) == Judged(dead=True)


@pytest.mark.parametrize("order", ["", "a b", "a/b", "é", "o1\n", "x" * 65])
def test_envelope_a_subject_that_is_no_order_id_makes_it_dead(order):
    assert Oracle().read(record("RecordDelivery", order=order)).dead


@pytest.mark.parametrize("order", ["x" * 64, "A-Z_a.z-0", ".", "-"])
def test_envelope_order_ids(order):
    assert not Oracle().read(record("RecordDelivery", order=order)).dead


@pytest.mark.parametrize("key", [None, b"", b"o2", b"O1", b"o1 ", b"\xff"])
def test_envelope_a_key_unlike_the_subject_makes_it_dead(key):
    assert Oracle().read(Record(key, record("RecordDelivery").value, T)).dead


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"",
        b"{",
        b"[]",
        b'"text"',
        b"null",
        b"\xff",
        b"[" * 200_000,
        b"\xef\xbb\xbf" + record("RecordDelivery").value,
        record("RecordDelivery").value.decode().encode("utf-16"),
        record("RecordDelivery").value + b"x",
        record("RecordDelivery", {}).value.replace(b"{}", b"NaN"),
        record("RecordDelivery", {}).value.replace(b"{}", b"-Infinity"),
        record("RecordDelivery", source="a\tb").value.replace(b"\\t", b"\t"),
    ],
)
def test_envelope_what_is_no_json_object_is_dead(value):
    assert Oracle().read(Record(b"o1", value, T)).dead


def test_envelope_the_size_of_a_record():
    value = record("RecordDelivery").value
    assert not Oracle().read(Record(b"o1", value.ljust(262_144), T)).dead
    assert Oracle().read(Record(b"o1", value.ljust(262_145), T)).dead


def test_envelope_unknown_attributes_and_repeated_keys():
    value = record("RecordDelivery", time="nonsense", sequence=[{}], datacontenttype="text/plain").value
    assert code(Oracle().read(Record(b"o1", value, T))) == "order_unknown"
    value = record("RecordDelivery").value.replace(b'"subject"', b'"subject": "o2", "subject"')
    assert code(Oracle().read(Record(b"o1", value, T))) == "order_unknown"


def test_envelope_ids_are_the_same_in_capital_letters():
    order = Order()
    small = "abcdefab-cdef-abcd-efab-cdefabcdefab"
    first = order.does("RecordDelivery", id=small.upper()).outcome
    again = order.does("RecordDelivery", id=small).outcome
    assert again == first | {"data": first["data"] | {"duplicate": True}}
    assert order.does("RecordCompletion", id=small).outcome["data"]["code"] == "command_id_reused"


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ('{"a": 1, "b": 2}', '{"b": 2, "a": 1}', True),
        ('{"a": 1}', '{"a": 1.0}', True),
        ('{"a": 1}', '{"a": true}', False),
        ('{"a": 0}', '{"a": false}', False),
        ('{"a": [1, 2]}', '{"a": [2, 1]}', False),
        ('{"a": [1]}', '{"a": [1, 1]}', False),
        ('{"a": [1]}', '{"a": [true]}', False),
        ('{"a": null}', "{}", False),
        ('{"a": {}}', '{"a": []}', False),
        ('{"a": "x"}', '{"a": " x"}', False),
        ('{"a": "\\u0078"}', '{"a": "x"}', True),
        ('{"a": ' + "9" * 5000 + "}", '{"a": ' + "9" * 5000 + "}", True),
        ('{"a": ' + "9" * 5000 + "}", '{"a": ' + "9" * 4999 + "8}", False),
    ],
)
def test_envelope_what_is_the_same_data(one, other, same):
    def send(data: str) -> Judged:
        value = record("RecordDelivery", {}).value.replace(b'"data": {}', b'"data": ' + data.encode())
        return oracle.read(Record(b"o1", value, T))

    oracle = Oracle()
    assert code(send(one)) == "invalid"
    assert code(send(other)) == ("invalid" if same else "command_id_reused")


# -- what holds for any commands -----------------------------------------------------------------------------

ORDERS = ["o1", "o2"]
LATEST, WHOEVER_MAY, WHOEVER_MAY_NOT = "<dispute>", "<may>", "<may not>"  # known only when they are played
ASKERS = st.sampled_from([CLIENT] * 4 + [FREELANCER] * 4 + [STRANGER])
ANSWERERS = st.sampled_from([WHOEVER_MAY] * 6 + [WHOEVER_MAY_NOT, STRANGER])
DISPUTES = st.sampled_from([LATEST] * 10 + [uuid(7), "none"])
REQUESTS = st.one_of(
    st.just(update()),
    st.builds(cancellation, st.sampled_from([None, "other", "other", "conduct", "late_delivery"])),
    st.builds(extension, st.sampled_from([1, 2, 60, 60, 61])),
)
ANSWER = st.fixed_dictionaries({"actor": ANSWERERS, "dispute_id": DISPUTES})
DATA = {
    "RegisterOrder": st.sampled_from([FACTS, {**FACTS, **AWAITING}, {**FACTS, "price": usd(333)}]),
    "RecordRequirementsSubmitted": st.sampled_from([{}, {"expected_delivery_at": clock(DAY)}]),
    "RecordRefundProcessed": st.fixed_dictionaries({"refund_id": DISPUTES}),
    "OpenDispute": st.fixed_dictionaries({"actor": ASKERS, "request": REQUESTS}),
    "OfferPartialRefund": st.builds(
        lambda actor, amount: {"actor": actor, **refund(amount)},
        st.sampled_from([FREELANCER] * 5 + [CLIENT]),
        st.sampled_from([1, 199, 200, 6_000, 6_001]),
    ),
    "Accept": ANSWER,
    "Decline": ANSWER,
    "Withdraw": ANSWER,
    "CancelOrder": st.fixed_dictionaries({"actor": ASKERS, "comment": st.just("Enough")}),
    "ExpireDispute": st.fixed_dictionaries({"dispute_id": DISPUTES}),
    "RecordDelivery": st.none(),
    "RecordRevisionRequested": st.none(),
    "RecordCompletion": st.none(),
    "RecordCancellation": st.none(),
}
OFTEN = ["OpenDispute", "OpenDispute", "OfferPartialRefund", "Accept", "Decline", "Withdraw", "ExpireDispute"]
NAMES = st.sampled_from([*DATA, *OFTEN * 4])
WAITS = st.sampled_from([0] * 9 + [1] + [HOUR] * 5 + [23 * HOUR, 48 * HOUR - 1, 48 * HOUR, 5 * DAY])
ACTIONS = NAMES.flatmap(lambda name: st.tuples(st.just(name), DATA[name]))
STEPS = st.lists(st.tuples(ACTIONS, st.sampled_from(ORDERS), WAITS), min_size=10, max_size=45)


@st.composite
def topics(draw: st.DrawFn, *, monotonic: bool = False) -> list[Record]:
    """Commands for two orders, as a broker might hold them: ids used again, and clocks that jump back."""
    waits_back = st.just(0) if monotonic else st.sampled_from([0] * 9 + [HOUR, 49 * HOUR])
    repeats = st.sampled_from([0] * 15 + [1, 2])
    facts = st.sampled_from([FACTS, FACTS, {**FACTS, "price": usd(333)}, {**FACTS, **AWAITING}])
    oracle, time, latest = Oracle(), 0, dict.fromkeys(ORDERS, ("none", CLIENT))
    records = [record("RegisterOrder", draw(facts), id=uuid(1), order=order) for order in ORDERS]
    published(records, oracle)
    for number, ((name, data), order, wait) in enumerate(draw(STEPS), 2):
        time += wait
        dispute, opener = latest[order]
        other = CLIENT if opener == FREELANCER else FREELANCER
        may, may_not = (opener, other) if name == "Withdraw" else (other, opener)
        known = {LATEST: dispute, WHOEVER_MAY: may, WHOEVER_MAY_NOT: may_not}
        if data:
            data = {key: known.get(value, value) if isinstance(value, str) else value for key, value in data.items()}
        command_id = uuid(max(1, number - draw(repeats)))
        records.append(record(name, data, at=time - draw(waits_back), id=command_id, order=order))
        if "DisputeOpened" in happened(oracle.read(records[-1])):
            latest[order] = (command_id, data["actor"])
    return records


def published(records: list[Record], oracle: Oracle | None = None) -> list[Judged]:
    oracle = oracle or Oracle()
    return [oracle.read(record) for record in records]


def without_cause(judged: list[Judged]) -> list[dict[str, Any]]:
    return [{**event, "causationid": None} for one in judged for event in one.events]


CODES = {
    "order_unknown", "order_exists", "order_closed", "invalid_transition", "not_a_party", "not_allowed",
    "dispute_open", "dispute_unknown", "dispute_settled", "not_due", "approval_needed", "refund_over_limit",
    "refund_already_granted", "refund_unknown", "command_id_reused", "currency_mismatch", "invalid",
}  # fmt: skip
SETTLEMENTS = {"Accepted", "Declined", "Withdrawn", "AutoAccepted", "DisputeClosed"}
BY_A_PARTY = {"Accepted", "Declined", "Withdrawn"}


def check_history(events: list[dict[str, Any]]) -> None:  # noqa: C901 - one pass over the events
    """What must hold for the events of one order, whatever brought them out."""
    price, opened, granted, processed, closed, last = 0, None, None, False, False, ""
    before: dict[str, Any] = {"type": None, "data": {}}
    for number, event in enumerate(events, 1):
        what, data = event["type"], event["data"]
        assert event["sequence"] == number, "a gap"
        assert event["id"] == f"{event['subject']}:{number}"
        assert event["time"] >= last, "back in time (D1)"
        assert (what == "OrderRegistered") == (number == 1)
        assert not closed or what == "RefundProcessed", "after the close (R4)"
        if opened is not None and what not in ("AutoAccepted", "DeliveryDateExtended"):
            assert event["time"] < opened["respond_by"], "after the deadline (D3)"

        if what == "OrderRegistered":
            price = data["price"]["amount"]
        if what == "DisputeOpened":
            assert opened is None, "two open disputes (R11)"
            opened = data
            if data["kind"] == "partial_refund":
                assert granted is None, "a refund after a granted one (R9)"
                assert 100 * data["amount"]["amount"] <= 60 * price, "too large a refund (R8)"
        if what in SETTLEMENTS:
            assert opened is not None, "nothing to settle"
            assert (data["dispute_id"], data["kind"]) == (opened["dispute_id"], opened["kind"])
            if what in BY_A_PARTY:
                assert (data["by"] == opened["opened_by"]) == (what == "Withdrawn"), "for the other (D7)"
            if what == "AutoAccepted":
                assert event["time"] == data["deadline"] == opened["respond_by"], "not as of then (R3)"
            opened = None

        # A consequence follows its cause directly; a cause has its consequence.
        accepted = before["type"] in ("Accepted", "AutoAccepted")
        due = CONSEQUENCE[before["data"]["kind"]] if accepted else []
        if due:
            assert [what] == due
            assert (event["time"], event["causationid"]) == (before["time"], before["causationid"])
        if what in ("DeliveryDateExtended", "PartialRefundGranted"):
            assert due
        if what == "OrderCanceled":
            agreed = {"Accepted": "agreement", "AutoAccepted": "auto_accepted"}.get(before["type"])
            assert data["grounds"] == agreed if due else data["grounds"] not in ("agreement", "auto_accepted")
            left = price - (granted["amount"]["amount"] if granted else 0)
            assert data["refund_due"] == (None if data["grounds"] == "external" else usd(left))
        if before["type"] == "DisputeClosed":
            assert what in ("OrderDelivered", "OrderCompleted", "OrderCanceled")

        if what == "PartialRefundGranted":
            assert granted is None
            granted = data
        if what == "RefundProcessed":
            assert granted is not None
            assert not processed
            processed = True
        if what in ("OrderCompleted", "OrderCanceled"):
            assert opened is None, "closed with an open dispute (D11)"
            closed = True
        before, last = event, event["time"]
    if before["type"] in ("Accepted", "AutoAccepted"):
        assert not CONSEQUENCE[before["data"]["kind"]]


@settings(max_examples=100, deadline=None)
@given(topics())
def test_any_commands_leave_every_order_with_a_history_that_obeys_the_rules(records):
    judged = published(records)
    for order in ORDERS:
        check_history([event for one in judged for event in one.events if event["subject"] == order])


@settings(max_examples=25, deadline=None)
@given(topics())
def test_any_command_gets_one_outcome_that_lists_what_it_brought_out(records):
    for record, one in zip(records, published(records), strict=True):
        envelope = json.loads(record.value)
        outcome = one.outcome
        assert outcome["id"] == f"{envelope['subject']}:{envelope['id']}"
        assert outcome["causationid"] == outcome["data"]["command_id"] == envelope["id"]
        assert f"resolution.command.{outcome['data']['command']}.v1" == envelope["type"]
        assert all(event["causationid"] == envelope["id"] for event in one.events)
        assert "delay_compensation" not in repr(one), "D16"
        if "duplicate" in outcome["data"]:
            assert one.events == []
        elif code(one) is None:
            listed = [(event["type"], event["sequence"]) for event in outcome["data"]["events"]]
            assert listed == [(f"resolution.event.{e['type']}.v1", e["sequence"]) for e in one.events]
            assert all(event["time"] <= outcome["time"] for event in one.events)
        else:
            assert code(one) in CODES
            assert happened(one)[:1] in ([], ["AutoAccepted"]), "only what was due (D3)"


@settings(max_examples=25, deadline=None)
@given(topics())
def test_any_commands_judged_twice_come_out_the_same(records):
    assert published(records) == published(records)


@settings(max_examples=25, deadline=None)
@given(topics())
def test_any_commands_sent_twice_change_nothing(records):
    oracle = Oracle()
    first = published(records, oracle)
    for one, again in zip(first, published(records, oracle), strict=True):
        assert again.events == []
        if code(one) != "command_id_reused":
            assert again.outcome["data"] == {**one.outcome["data"], "duplicate": True}
            assert again.outcome["time"] == one.outcome["time"]


@settings(max_examples=25, deadline=None)
@given(topics())
def test_D1_any_commands_that_changed_nothing_can_be_left_out(records):
    judged = published(records)
    effective = [record for record, one in zip(records, judged, strict=True) if one.events]
    assert without_cause(published(effective)) == without_cause(judged)


@settings(max_examples=25, deadline=None)
@given(topics())
def test_any_orders_are_judged_apart(records):
    together = published(records)
    for order in ORDERS:
        mine = [record for record in records if record.key == order.encode()]
        assert published(mine) == [
            one for record, one in zip(records, together, strict=True) if record.key == order.encode()
        ]


@settings(max_examples=25, deadline=None)
@given(topics(monotonic=True))
def test_D3_a_timer_that_is_always_in_time_changes_no_event(records):
    without_timer = published(records)
    oracle, with_timer, timers = Oracle(), [], 0
    seen = set()
    for each in records:
        order = each.key.decode()
        state = oracle.orders.get(order)
        repeated = (order, json.loads(each.value)["id"]) in seen
        if state and state["open"] and each.time >= state["open"]["respond_by"] and not repeated:
            timers += 1
            due = state["open"]
            expire = record(
                "ExpireDispute",
                {"dispute_id": due["id"]},
                at=due["respond_by"] - T,
                id=uuid(10_000 + timers),
                order=order,
            )
            with_timer.append(oracle.read(expire))
        seen.add((order, json.loads(each.value)["id"]))
        with_timer.append(oracle.read(each))
    assert without_cause(with_timer) == without_cause(without_timer)
