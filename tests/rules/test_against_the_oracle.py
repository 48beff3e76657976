"""The service and the oracle read the same log and must say the same, record by record.

Hypothesis writes the log: any commands by anybody at any moment, preferably at those where a rule changes its mind, with
repeats, garbage, and a clock that jumps back. In the end the whole log is read again in other ways, from the start.
"""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule

from services.eventstore.event_codec import StoredRow, decode_event
from services.eventstore.snapshots import encode_state
from services.judging.record import Record
from services.orders import Order
from services.orders.evolve import evolve_all
from services.orders.public_events import event_envelope
from services.sealing.order_keys import WITHOUT_TEXTS
from tests.rules.logs import Service, published, service_after
from tests.rules.oracle import CLOSED, HELP_PAGE, Oracle, instant_text
from tests.rules.oracle import Judged as OracleJudged
from tests.rules.oracle import Record as OracleRecord
from tests.support.controls import CLIENT, FREELANCER, STRANGER, T, command_id, milliseconds, raw_record

Json = dict[str, Any]
MS = 1
HOUR, DAY = 3_600_000 * MS, 86_400_000 * MS
START = milliseconds(T)


def text_of(ms: int) -> str:
    return instant_text(ms * 1000)


# --- what may be sent ---

WORDS = st.sampled_from(["Hello."] * 9 + ["  trimmed\n", '\U0001f642 \u2028 \\ "'])
ACTORS = st.sampled_from(["may"] * 12 + ["may not"] * 2 + [STRANGER])
ORDERS = st.sampled_from(["newest"] * 6 + ["live"] * 6 + ["over"] * 2 + ["unknown"])
DISPUTES = st.sampled_from(["open"] * 3 + ["settled"] * 3 + ["unknown"])
SOON = [*["at once"] * 12, "a millisecond later", "an hour later", "a day later", "back an hour"]
SHARP = ["deadline", "deadline - 1 ms", "deadline - 1 ms", "deadline + 1 ms"]
VERY_LATE = ["very late", "very late", "very late - 1 ms", "very late + 1 ms"]
NOW = st.sampled_from([*SOON, *SOON, *SHARP, "10 days later", "back 3 days"])
IN_TIME_OR_NOT = st.sampled_from([*SOON[10:], *SOON[10:], *SHARP])
LATE_OR_NOT = st.sampled_from([*SOON[8:], *VERY_LATE, *SHARP])
REASONS = ["other", "other", "late_delivery", "conduct", None]
PRICES = st.sampled_from([1, 2, 3, 999, 3333, 10_000, 10_000, 2**63 - 1, 10**20 + 1])
DATES = st.sampled_from([2 * DAY, 10 * DAY, 10 * DAY, -DAY])
EDGES: dict[str, list[Any]] = {
    "response_hours": [1, 24, 48, 72, 720],
    "very_late_after_hours": [0, 1, 24, 720],
    "longest_extension_days": [0, 1, 45, 60, 90, 365],
    "largest_refund_percent": [0, 1, 60, 61, 99, 100],
    "name": [None, "gold", "x" * 64],
}
GENEROUS = {"response_hours": 72, "longest_extension_days": 90, "largest_refund_percent": 100, "name": "gold"}
STRICT = {"response_hours": 1, "very_late_after_hours": 0, "longest_extension_days": 1, "largest_refund_percent": 61}
TERMS = st.one_of(
    st.fixed_dictionaries({}, optional={name: st.sampled_from(edges) for name, edges in EDGES.items()}),
    st.sampled_from([GENEROUS, STRICT]),
    st.sampled_from(["version 1", "version 1", None, {}]),
)
"""The terms of a registration, of which any may be missing. "version 1" has none."""
DAYS = [1, 1, 2, 45, 60, 60, 61, 90, 0, 365, 366]
REQUESTS = st.one_of(
    st.builds(lambda text: {"kind": "order_update", "message": text}, WORDS),
    st.builds(
        lambda text, reason: {"kind": "cancellation", "comment": text, "reason": reason},
        WORDS,
        st.sampled_from(REASONS),
    ),
    st.builds(
        lambda days, text: {"kind": "delivery_extension", "days": days, "note": text},
        st.sampled_from(["most", "most", "one too many", *DAYS]),
        WORDS,
    ),
)
ODD_NUMBERS = [None, True, 0, -1, 1, 61, 100, 365, 720, 721, 5.0, 1.5, 10**30]
ODD_TEXTS = [
    "",
    " ",
    "\0",
    "x" * 2501,
    "x" * 201,
    "order_update",
    "partial_refund",
    "conduct",
    "usd",
    "EUR",
    CLIENT,
    "a b",
]
ODD_DATES = [
    "2026-02-30T00:00:00Z",
    "2026-03-30T00:00:00+05:00",
    "2026-03-30T00:00:00.1234567Z",
    "9999-01-01T00:00:00Z",
]
ODD = st.sampled_from([*ODD_NUMBERS, *ODD_TEXTS, *ODD_DATES, [], [1], {}, {"a": 1}, "left out"])
DRESSING = st.sampled_from(
    [{}] * 6 + [{"time": "2031-01-01T00:00:00Z"}, {"time": 7}, {"sequence": [1]}, {"source": "x"}]
)

GARBAGE = {
    "nothing": lambda value: None,
    "empty": lambda value: b"",
    "half": lambda value: value[: len(value) // 2],
    "text": lambda value: b"hello",
    "a list": lambda value: b"[" + value + b"]",
    "null": lambda value: b"null",
    "latin-1": lambda value: value.replace(b"/tests", b"/t\xe9sts"),
    "a byte order mark": lambda value: b"\xef\xbb\xbf" + value,
    "too deep": lambda value: b"[" * 100_000,
    "too large": lambda value: value.ljust(262_145),
    "just not too large": lambda value: value.ljust(262_144),
    "more after it": lambda value: value + b"{}",
    "NaN": lambda value: value.replace(b'"data": {', b'"data": {"x": NaN, '),
    "a huge number": lambda value: value.replace(b'"data": {', b'"data": {"x": ' + b"9" * 5000 + b", "),
    "a key twice": lambda value: value.replace(b'"data": {', b'"data": {"actor": "x", '),
    "no data": lambda value: value.replace(b'"data"', b'"dat"'),
    "no id": lambda value: value.replace(b'"id"', b'"ID"'),
    "an id that is none": lambda value: value.replace(b'"id": "0', b'"id": "x'),
    "another type": lambda value: value.replace(b".command.", b".event."),
    "another version": lambda value: value.replace(b".v1", b".v9"),
    "another specversion": lambda value: value.replace(b'"1.0"', b'"1.1"'),
    "no source": lambda value: value.replace(b'"/tests"', b'""'),
    "another subject": lambda value: value.replace(b'"subject": "order', b'"subject": "Order'),
    "a subject that is none": lambda value: value.replace(b'"subject": "order', b'"subject": "or der'),
}

KEYS = {
    "no key": None,
    "an empty key": b"",
    "another key": b"order-98",
    "a longer key": b"order-1 ",
    "no text": b"\xff",
}


def paths(data: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """Every place in a command's data, the whole included."""
    inner = data.items() if isinstance(data, dict) else ()
    return [path, *(found for name, value in inner for found in paths(value, (*path, name)))]


def with_value(data: Any, path: tuple[str, ...], value: Any) -> Any:
    return {**data, path[0]: with_value(data[path[0]], path[1:], value)} if path else value


# --- what must hold, whoever is right ---


CONSEQUENCES = {
    "cancellation": "OrderCanceled",
    "delivery_extension": "DeliveryDateExtended",
    "partial_refund": "PartialRefundGranted",
}
ACCEPTANCES = {"Accepted": "agreement", "AutoAccepted": "auto_accepted"}
ENDS = ("OrderCompleted", "OrderCanceled")


@dataclass
class History:
    """The events of one order, held against what can never happen."""

    events: list[Json] = field(default_factory=list)
    price: int = 0
    terms: Json = field(default_factory=dict)
    expected: str | None = None
    open: Json | None = None
    granted: Json | None = None
    processed: bool = False
    over: bool = False
    due: str | None = None
    """The event that has to come next: what was asked for, once it was accepted."""

    def add(self, event: Json) -> None:
        name, data = name_of(event), event["data"]
        before = self.events[-1] if self.events else None
        assert event["sequence"] == len(self.events) + 1, "a gap"
        assert event["id"] == f"{event['subject']}:{event['sequence']}"
        assert before is None or event["time"] >= before["time"], "back in time (D1)"
        assert (name == "OrderRegistered") == (before is None)
        assert not self.over or name in ("RefundProcessed", "OrderTextsErased"), f"{name} after the close (R4)"
        self._follows(name, event, before)
        if name == "OrderRegistered":
            self.price = data["price"]["amount"]
            self.terms = data.get("terms", HELP_PAGE)
            assert self.terms.keys() == HELP_PAGE.keys(), "terms in part (D20)"
            assert data.get("terms") != HELP_PAGE, "the help page's terms are not told (D20)"
        elif name == "DisputeOpened":
            self._opened(event)
        elif name in ("Accepted", "Declined", "Withdrawn", "AutoAccepted", "DisputeClosed"):
            self._settled(name, event)
        elif name == "PartialRefundGranted":
            assert self.granted is None, "two refunds (R9)"
            self.granted = data
        elif name == "RefundProcessed":
            assert self.granted is not None
            assert not self.processed
            self.processed = True
        elif name == "OrderCanceled":
            self._canceled(event, before)
        self.expected = data.get("expected_delivery_at", self.expected)
        self.over = self.over or name in ENDS
        assert not (self.over and self.open), "over, with an open dispute (D11)"
        self.events.append(event)

    def _follows(self, name: str, event: Json, before: Json | None) -> None:
        """A consequence follows its cause directly, and a cause has its consequence."""
        if self.due is not None:
            assert before is not None
            assert name == self.due
            assert (event["time"], event["causationid"]) == (before["time"], before["causationid"])
        else:
            assert name not in ("DeliveryDateExtended", "PartialRefundGranted"), "nobody accepted it"
        if before is not None and name_of(before) == "DisputeClosed":
            assert name in ("OrderDelivered", *ENDS)
        self.due = CONSEQUENCES.get(event["data"]["kind"]) if name in ACCEPTANCES else None

    def _opened(self, event: Json) -> None:
        assert self.open is None, "two open disputes (R11)"
        self.open = dispute = event["data"]
        window = hours_between(event["time"], dispute["respond_by"])
        assert window == self.terms["response_hours"], "another time to answer than the order's (D20)"
        if dispute["kind"] == "partial_refund":
            most = self.terms["largest_refund_percent"] * self.price
            assert 100 <= 100 * dispute["amount"]["amount"] <= most, "more than the order's percentage (R8, D9, D20)"
            assert self.granted is None, "another refund after a granted one (R9)"
        elif dispute["kind"] == "delivery_extension":
            assert 1 <= dispute["days"] <= self.terms["longest_extension_days"], "longer than the order's (R7, D20)"

    def _settled(self, name: str, event: Json) -> None:
        data, asked = event["data"], self.open
        assert asked is not None, "nothing to settle"
        assert (data["dispute_id"], data["kind"]) == (asked["dispute_id"], asked["kind"]), "not the open one"
        if name == "AutoAccepted":
            assert event["time"] == data["deadline"] == asked["respond_by"], "not as of the deadline (R3)"
        else:
            assert event["time"] < asked["respond_by"], f"{name} at or after the deadline (D2)"
        if name in ("Accepted", "Declined", "Withdrawn"):
            assert (data["by"] == asked["opened_by"]) == (name == "Withdrawn"), "for the other (D7)"
        self.open = None

    def _canceled(self, event: Json, before: Json | None) -> None:
        data = event["data"]
        assert before is not None
        if data["grounds"] == "very_late":
            assert self.expected is not None
            late = hours_between(self.expected, event["time"])
            assert late >= self.terms["very_late_after_hours"], "not very late under the order's terms (R5, D20)"
        agreed = ACCEPTANCES.get(name_of(before)) if before["data"].get("kind") == "cancellation" else None
        assert data["grounds"] == agreed if agreed else data["grounds"] not in ACCEPTANCES.values()
        left = self.price - (self.granted["amount"]["amount"] if self.granted else 0)
        assert (data["refund_due"] or {}).get("amount") == (None if data["grounds"] == "external" else left)


def hours_between(one: str, other: str) -> float:
    return (datetime.fromisoformat(other) - datetime.fromisoformat(one)) / timedelta(hours=1)


def name_of(event: Json) -> str:
    return str(event["type"].split(".")[2])


# --- the log, written and read ---


class SameLogSameStory(RuleBasedStateMachine):
    """Each rule sends one record, to both."""

    def __init__(self) -> None:
        super().__init__()
        self.log: list[Record] = []
        self.sent: list[Json] = []
        self.service = Service()
        self.oracle = self.service.oracle
        self.histories: dict[str, History] = {}
        self.clock = START

    # - what the steps refer to -

    def state(self, order: str) -> Json:
        """An order as the oracle knows it; with nothing in it, if nobody registered it."""
        nothing = {
            "open": None,
            "disputes": {},
            "expected": None,
            "state": "",
            "price": {"amount": 10},
            "terms": HELP_PAGE,
        }
        return self.oracle.orders.get(order) or nothing

    def order(self, which: str, disputed: bool | None = None) -> str:
        """An order like this, with or without an open dispute if that matters."""
        known = self.oracle.orders
        over = [order for order in known if known[order]["state"] in CLOSED]
        live = [order for order in known if order not in over]
        fit = [order for order in live if disputed in (None, known[order]["open"] is not None)]
        found = {"newest": fit[-1:], "live": fit[:1], "over": over[-1:], "unknown": ["order-99"]}[which]
        return (found or live or over or ["order-99"])[-1]

    def disputed(self) -> bool:
        return any(order["open"] for order in self.oracle.orders.values())

    def dispute(self, order: str, which: str) -> Json:
        disputes = self.state(order)["disputes"].values()
        fitting = [d for d in disputes if (d["settled_as"] is None) == (which == "open")]
        unknown = {"id": "unknown", "opened_by": "client"}
        return unknown if which == "unknown" else [unknown, *disputes, *fitting][-1]

    def at(self, order: str, moment: str) -> int:
        """A time in milliseconds. The clock goes on from there, or back to there."""
        state, name, shift = self.state(order), *MOMENT[moment]
        start = self.clock
        if name == "deadline" and state["open"]:
            start = max(start, state["open"]["respond_by"] // 1000)
        if name == "very late" and state["expected"]:
            start = max(start, state["expected"] // 1000 + state["terms"]["very_late_after_hours"] * HOUR)
        self.clock = start + shift
        return self.clock

    # - sending -

    def send(self, order: str, name: str, data: Any, moment: str, version: str = "v1", **dressing: Any) -> None:
        self.sent.append(envelope_of(order, name, data, len(self.log) + 1, version) | dressing)
        self.publish(order.encode(), json.dumps(self.sent[-1]).encode(), self.at(order, moment))

    def publish(self, key: bytes | None, value: bytes | None, time: int) -> None:
        record = replace(raw_record(key, value, offset=len(self.log)), timestamp=time)
        self.log.append(record)
        judged = self.service.judge([record])
        [row] = judged.outcomes
        events = [event_envelope(event) for event in judged.events]
        outcome = json.loads(row.message or b"") if row.kind != "dead" else {"data": {}}
        if row.kind == "dead":
            assert (row.key, row.message) == (key, value)
        elif row.kind == "accepted":
            assert outcome["data"]["events"] == [{"type": e["type"], "sequence": e["sequence"]} for e in events]
        elif row.kind == "rejected":
            assert not events or events[0]["type"] == AUTO_ACCEPTED, "only what was due (D3)"
        else:
            assert not events, "a repeat (D19)"
        for event in events:
            assert event["causationid"] == outcome["causationid"] == outcome["data"]["command_id"]
            self.histories.setdefault(event["subject"], History()).add(event)

    # - steps that lead somewhere -

    @initialize(price=PRICES, waiting=st.sampled_from([False] * 4 + [True]), terms=TERMS, others=TERMS)
    def begin(self, price: int, waiting: bool, terms: Json | str | None, others: Json | str | None) -> None:
        self.register(10_000, False, 10 * DAY, terms)
        self.register(price, waiting, 10 * DAY, others)

    @rule(price=PRICES, waiting=st.sampled_from([False] * 4 + [True]), due=DATES, terms=TERMS)
    def register(self, price: int, waiting: bool, due: int, terms: Json | str | None) -> None:
        """An order more, so that there is always one that is not over."""
        if len(self.oracle.orders) < 8:
            data = facts(price, waiting, text_of(self.clock + due))
            self.send_registration(f"order-{len(self.oracle.orders) + 1}", data, terms, "at once")

    def send_registration(self, order: str, data: Json, terms: Json | str | None, moment: str) -> None:
        if terms == "version 1":
            self.send(order, "RegisterOrder", data, moment)
        else:
            self.send(order, "RegisterOrder", data | {"terms": terms}, moment, "v2")

    @rule(which=ORDERS, request=REQUESTS, moment=NOW, dressing=DRESSING)
    def ask(self, which: str, request: Json, moment: str, dressing: Json) -> None:
        order = self.order(which, False)
        data = {"actor": asker(request), "request": self.with_days(order, request)}
        self.send(order, "OpenDispute", data, moment, **dressing)

    @rule(which=ORDERS, share=st.sampled_from(["least", "most", "most", "most", "too much", "all"]), moment=NOW)
    def offer(self, which: str, share: str, moment: str) -> None:
        order = self.order(which, False)
        self.send(order, "OfferPartialRefund", refund(FREELANCER, self.amount(order, share)), moment)

    @rule(
        which=ORDERS,
        share=st.sampled_from(["most", "most", "one too many", "amount", 1, 60, 61, 99, 100, 101, 0]),
        who=ACTORS,
        moment=NOW,
    )
    def offer_share(self, which: str, share: str | int, who: str, moment: str) -> None:
        """The second version's offer: of percent, or of an amount."""
        order = self.order(which, False)
        most = self.state(order)["terms"]["largest_refund_percent"]
        percent = {"most": most, "one too many": most + 1}.get(share, share)
        offer = refund(actor(who, FREELANCER), self.amount(order, "most"))
        if share != "amount":
            offer |= {"percent": percent, "amount": None}
        self.send(order, "OfferPartialRefund", offer, moment, "v2")

    @precondition(disputed)
    @rule(which=ORDERS, message=st.none() | WORDS, moment=IN_TIME_OR_NOT)
    def accept(self, which: str, message: str | None, moment: str) -> None:
        self.answer(self.order(which, True), "Accept", "open", "may", message, moment)

    @precondition(disputed)
    @rule(which=ORDERS, message=st.none() | WORDS, moment=IN_TIME_OR_NOT)
    def decline(self, which: str, message: str | None, moment: str) -> None:
        self.answer(self.order(which, True), "Decline", "open", "may", message, moment)

    @precondition(disputed)
    @rule(which=ORDERS, moment=IN_TIME_OR_NOT)
    def withdraw(self, which: str, moment: str) -> None:
        self.answer(self.order(which, True), "Withdraw", "open", "may", None, moment)

    @precondition(disputed)
    @rule(which=ORDERS, moment=IN_TIME_OR_NOT)
    def expire(self, which: str, moment: str) -> None:
        order = self.order(which, True)
        self.send(order, "ExpireDispute", {"dispute_id": self.dispute(order, "open")["id"]}, moment)

    @rule(which=ORDERS, name=st.sampled_from(["RecordDelivery", "RecordRevisionRequested"]), moment=NOW)
    def go_on(self, which: str, name: str, moment: str) -> None:
        self.send(self.order(which), name, {}, moment)

    @rule(
        which=ORDERS,
        name=st.sampled_from(["RecordCompletion", "RecordCancellation", "CancelOrder"]),
        moment=LATE_OR_NOT,
    )
    def end(self, which: str, name: str, moment: str) -> None:
        comment = {} if name == "RecordCompletion" else {"comment": "Enough."}
        user = {"actor": CLIENT} if name == "CancelOrder" else {}
        self.send(self.order(which), name, comment | user, moment)

    @rule(which=ORDERS, moment=NOW)
    def erase(self, which: str, moment: str) -> None:
        self.send(self.order(which), "EraseOrderTexts", {}, moment)

    # - steps that may lead nowhere -

    @rule(which=ORDERS, request=REQUESTS, who=ACTORS, moment=NOW)
    def ask_anyway(self, which: str, request: Json, who: str, moment: str) -> None:
        order = self.order(which)
        data = {"actor": actor(who, asker(request)), "request": self.with_days(order, request)}
        self.send(order, "OpenDispute", data, moment)

    @rule(which=ORDERS, who=ACTORS, currency=st.sampled_from(["USD", "EUR"]), moment=NOW)
    def offer_anyway(self, which: str, who: str, currency: str, moment: str) -> None:
        data = refund(actor(who, FREELANCER), 1, currency)
        self.send(self.order(which), "OfferPartialRefund", data, moment)

    @rule(
        which=ORDERS,
        answer=st.sampled_from(["Accept", "Decline", "Withdraw"]),
        dispute=DISPUTES,
        who=ACTORS,
        moment=NOW,
    )
    def answer_anyway(self, which: str, answer: str, dispute: str, who: str, moment: str) -> None:
        self.answer(self.order(which), answer, dispute, who, None, moment)

    @rule(which=ORDERS, dispute=DISPUTES, moment=NOW)
    def expire_anyway(self, which: str, dispute: str, moment: str) -> None:
        order = self.order(which)
        self.send(order, "ExpireDispute", {"dispute_id": self.dispute(order, dispute)["id"]}, moment)

    @rule(which=ORDERS, who=ACTORS, moment=LATE_OR_NOT)
    def cancel(self, which: str, who: str, moment: str) -> None:
        self.send(self.order(which), "CancelOrder", {"actor": actor(who, CLIENT), "comment": "Enough."}, moment)

    @rule(which=ORDERS, again=st.booleans(), waiting=st.booleans(), terms=TERMS | st.just("whole"), moment=NOW)
    def register_again(self, which: str, again: bool, waiting: bool, terms: Json | str | None, moment: str) -> None:
        """Under these terms, or with the order's own, all of them."""
        order = self.order(which)
        first = [e["data"] for e in self.sent if e["subject"] == order and e["type"] in REGISTER]
        data = first[0] if first and again and isinstance(first[0], dict) else facts(10_000, waiting, text_of(START))
        data = {name: value for name, value in data.items() if name != "terms"}
        self.send_registration(order, data, self.state(order)["terms"] if terms == "whole" else terms, moment)

    @rule(which=ORDERS, due=st.none() | DATES, moment=NOW)
    def requirements(self, which: str, due: int | None, moment: str) -> None:
        date = None if due is None else text_of(self.clock + due)
        self.send(self.order(which), "RecordRequirementsSubmitted", {"expected_delivery_at": date}, moment)

    @rule(which=ORDERS, granted=st.sampled_from([True, True, False]), moment=NOW)
    def payment(self, which: str, granted: bool, moment: str) -> None:
        with_refund = [order for order, state in self.oracle.orders.items() if state["refund"]]
        order = with_refund[-1] if granted and with_refund else self.order(which)
        known = self.state(order).get("refund") or self.dispute(order, "settled")
        self.send(order, "RecordRefundProcessed", {"refund_id": known["id"]}, moment)

    def answer(self, order: str, answer: str, which: str, who: str, message: str | None, moment: str) -> None:
        dispute = self.dispute(order, which)
        may = CLIENT if (dispute["opened_by"] == "client") == (answer == "Withdraw") else FREELANCER
        data = {"actor": actor(who, may), "dispute_id": dispute["id"]}
        self.send(order, answer, data if answer == "Withdraw" else data | {"message": message}, moment)

    def amount(self, order: str, share: str) -> int:
        price, terms = self.state(order)["price"]["amount"], self.state(order)["terms"]
        most = price * terms["largest_refund_percent"] // 100
        return {"least": 1, "most": most or 1, "too much": most + 1, "all": price}[share]

    def with_days(self, order: str, request: Json) -> Json:
        """Of an extension, as many days as the order's terms allow, or one too many, if that is wanted."""
        most = self.state(order)["terms"]["longest_extension_days"]
        days = {"most": most, "one too many": most + 1}
        return request | {"days": days.get(request["days"], request["days"])} if "days" in request else request

    # - mischief -

    @rule(
        back=st.integers(0, 30),
        change=st.sampled_from(["none"] * 4 + ["data", "more data", "name", "version", "order", "source"]),
        moment=NOW,
    )
    def repeat(self, back: int, change: str, moment: str) -> None:
        envelope = self.sent[-1 - back % len(self.sent)]
        data = envelope["data"] if isinstance(envelope["data"], dict) else {}
        changed = {
            "none": {},
            "data": {"data": {**data, "actor": FREELANCER if data.get("actor") == CLIENT else CLIENT}},
            "more data": {"data": {**data, "surplus": None}},
            "name": {"type": "resolution.command.RecordDelivery.v1"},
            "version": {"type": OTHER_VERSION.get(envelope["type"], envelope["type"])},
            "order": {"subject": "order-2"},
            "source": {"source": "/elsewhere", "time": "2031-01-01T00:00:00Z"},
        }[change]
        again = dict(reversed((envelope | changed).items()))
        order = again["subject"]
        self.publish(order.encode(), json.dumps(again, indent=1).encode(), self.at(order, moment))

    @rule(back=st.integers(0, 30), place=st.integers(0, 30), odd=ODD, moment=NOW)
    def odd_data(self, back: int, place: int, odd: Any, moment: str) -> None:
        """A command sent before, under a new id, with something odd in it, or something left out."""
        envelope = self.sent[-1 - back % len(self.sent)]
        places = paths(envelope["data"])
        path = places[place % len(places)]
        data = (
            without(envelope["data"], path) if odd == "left out" and path else with_value(envelope["data"], path, odd)
        )
        _, _, name, version = envelope["type"].split(".")
        self.send(envelope["subject"], name, data, moment, version)

    @rule(back=st.integers(0, 30), kind=st.sampled_from([*GARBAGE, *KEYS]), moment=NOW)
    def garbage(self, back: int, kind: str, moment: str) -> None:
        envelope = self.sent[-1 - back % len(self.sent)]
        value = json.dumps(envelope | {"id": command_id(len(self.log) + 1)}).encode()
        key = KEYS.get(kind, envelope["subject"].encode())
        self.publish(key, GARBAGE.get(kind, bytes)(value), self.at(envelope["subject"], moment))

    # - in the end -

    def teardown(self) -> None:
        """The same history from the same log, however it is read."""
        for history in self.histories.values():
            assert history.due is None, f"no {history.due} followed"
        for batch, cached_orders, snapshot_after in ((10_000, 20_000, None), (7, 0, 2), (3, 1, 0)):
            again = service_after(self.log, batch, cached_orders, snapshot_after, beside_oracle=False)
            assert published(again) == published(self.service)
            for order_id, (version, state) in again.stored.snapshots.items():
                assert state == state_without_texts(order_id, again.stored.events[order_id][:version])
                assert not any(text in state for text in TEXTS)
        self.read_by_oracle_again()

    def read_by_oracle_again(self) -> None:
        """What is sent twice changes nothing, what changed nothing can be left out, orders are judged apart, and a timer
        that is always in time changes no event (D1, D3, D19)."""
        records = [OracleRecord(record.key, record.value, record.timestamp * 1000) for record in self.log]
        oracle = Oracle()
        judged = [oracle.read(record) for record in records]
        for one, record in zip(judged, records, strict=True):
            again = oracle.read(record)
            assert (again.dead, again.events) == (one.dead, [])
            if one.outcome and one.outcome["data"].get("code") != "command_id_reused":
                first = one.outcome
                assert again.outcome == first | {"data": first["data"] | {"duplicate": True}}
        events = without_cause(judged)
        effective = [record for record, one in zip(records, judged, strict=True) if one.events]
        assert without_cause(map(Oracle().read, effective)) == events
        for key in {record.key for record in records}:
            mine = [record for record in records if record.key == key]
            theirs = [one for record, one in zip(records, judged, strict=True) if record.key == key]
            assert list(map(Oracle().read, mine)) == theirs
        assert without_cause(map(Oracle().read, with_timer(records, judged))) == events


def without_cause(judged: Iterable[OracleJudged]) -> list[Json]:
    return [{**event, "causationid": None} for one in judged for event in one.events]


def with_timer(records: list[OracleRecord], judged: list[OracleJudged]) -> Iterator[OracleRecord]:
    """Before each record that brought out an auto-acceptance, the timer's command at the deadline sharp."""
    for number, (record, one) in enumerate(zip(records, judged, strict=True)):
        if one.events and one.events[0]["type"] == "AutoAccepted":
            due = one.events[0]
            expire = envelope_of(
                due["subject"], "ExpireDispute", {"dispute_id": due["data"]["dispute_id"]}, 10_000 + number
            )
            deadline = (datetime.fromisoformat(due["time"]) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(
                microseconds=1
            )
            yield OracleRecord(record.key, json.dumps(expire).encode(), deadline)
        yield record


def envelope_of(order: str, name: str, data: Any, number: int, version: str = "v1") -> Json:
    return {
        "specversion": "1.0",
        "id": command_id(number),
        "type": f"resolution.command.{name}.{version}",
        "source": "/tests",
        "subject": order,
        "data": data,
    }


MOMENT = {
    "at once": ("now", 0),
    "a millisecond later": ("now", MS),
    "an hour later": ("now", HOUR),
    "a day later": ("now", DAY),
    "10 days later": ("now", 10 * DAY),
    "back an hour": ("now", -HOUR),
    "back 3 days": ("now", -3 * DAY),
    "deadline": ("deadline", 0),
    "deadline - 1 ms": ("deadline", -MS),
    "deadline + 1 ms": ("deadline", MS),
    "very late": ("very late", 0),
    "very late - 1 ms": ("very late", -MS),
    "very late + 1 ms": ("very late", MS),
}
REGISTER = ("resolution.command.RegisterOrder.v1", "resolution.command.RegisterOrder.v2")
OTHER_VERSION = {
    f"resolution.command.{name}.{one}": f"resolution.command.{name}.{other}"
    for name in ("RegisterOrder", "OfferPartialRefund")
    for one, other in (("v1", "v2"), ("v2", "v1"))
}
AUTO_ACCEPTED = "resolution.event.AutoAccepted.v1"


def facts(price: int, waiting: bool, expected_delivery_at: str) -> Json:
    return {
        "client_id": CLIENT,
        "freelancer_id": FREELANCER,
        "price": {"amount": price, "currency": "USD"},
        "expected_delivery_at": expected_delivery_at,
        "awaiting_requirements": waiting,
    }


def refund(user: str, amount: int, currency: str = "USD") -> Json:
    money = {"amount": amount, "currency": currency}
    return {"actor": user, "amount": money, "explanation": "Sorry.", "reason": "scope_reduced"}


def asker(request: Json) -> str:
    """Whoever may ask for this; of a cancellation, whoever may have this reason."""
    usual = {"order_update": CLIENT, "delivery_extension": FREELANCER}
    return usual.get(request["kind"], FREELANCER if request.get("reason") in ("conduct", "other") else CLIENT)


def actor(who: str, may: str) -> str:
    return {"may": may, "may not": CLIENT if may == FREELANCER else FREELANCER}.get(who, who)


def without(data: Any, path: tuple[str, ...]) -> Any:
    if len(path) == 1:
        return {name: value for name, value in data.items() if name != path[0]}
    return {**data, path[0]: without(data[path[0]], path[1:])}


# --- what is compared ---

TEXTS = (b"Hello.", b"trimmed", "\U0001f642".encode(), b"Sorry.", b"Enough.", b"scope_reduced", b"[erased]")
"""Those that are sent, and what stands for them."""


def state_without_texts(order_id: str, history: list[StoredRow]) -> bytes:
    """What a snapshot has to be, for somebody who cannot read texts."""
    events = (decode_event(event, WITHOUT_TEXTS) for event in history)
    return encode_state(evolve_all(Order(id=order_id), events))


TestSameLogSameStory = SameLogSameStory.TestCase
TestSameLogSameStory.settings = settings(max_examples=2 * settings().max_examples)
