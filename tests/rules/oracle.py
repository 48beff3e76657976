"""The rules once more, from rules.md and contract.md alone: given the commands topic, what must come out?

An order is one plain dict, a command one pass from top to bottom. No clock, no I/O, nothing shared with the
services: where the two differ, one of them has misread the rules. R and D numbers are those of rules.md.

    oracle = Oracle()
    for record in topic:
        judged = oracle.read(record)           # .events  .outcome  .dead

What comes out is to be read, not changed. Instants are microseconds since the epoch, and text on the way out.
"""

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, NoReturn

HOUR = 3_600_000_000
DAY = 24 * HOUR
HELP_PAGE: dict[str, Any] = {  # the terms of an order that is registered without any (D20)
    "response_hours": 48,  # R1, R3, D18
    "very_late_after_hours": 24,  # R5, D5
    "longest_extension_days": 60,  # R7
    "largest_refund_percent": 60,  # R8, D9
    "name": None,
}
LARGEST_RECORD = 262_144
LONGEST_SOURCE = 1_000
LARGEST_AMOUNT = 2**63 - 1

CLIENT_REASONS = {
    "ordered_by_mistake",
    "requirements_changed",
    "not_as_expected",
    "freelancer_unresponsive",
    "late_delivery",
    "other",
}
FREELANCER_REASONS = {
    "scope_changed",
    "unable_to_complete",
    "missing_information",
    "client_unresponsive",
    "client_asked",
    "conduct",
    "other",
}
REFUND_REASONS = {"scope_reduced", "delay_compensation", "minor_dissatisfaction", "other"}

AWAITING, IN_PROGRESS, DELIVERED = "awaiting requirements", "in progress", "delivered"
COMPLETED, CANCELED = "completed", "canceled"
CLOSED = (COMPLETED, CANCELED)  # R4

FITS = {  # a reported fact: the states it fits
    "RecordRequirementsSubmitted": (AWAITING,),
    "RecordDelivery": (IN_PROGRESS,),
    "RecordRevisionRequested": (DELIVERED,),
    "RecordCompletion": (IN_PROGRESS, DELIVERED),
    "RecordCancellation": (AWAITING, IN_PROGRESS, DELIVERED),
}
MAY_ASK = {  # a kind of request: who may send it, in which states
    "order_update": (("client",), (IN_PROGRESS,)),  # R6, D12, D13
    "cancellation": (("client", "freelancer"), (AWAITING, IN_PROGRESS, DELIVERED)),  # R6, R10
    "delivery_extension": (("freelancer",), (IN_PROGRESS,)),  # R7, D12, D13
    "partial_refund": (("freelancer",), (AWAITING, IN_PROGRESS, DELIVERED)),  # R8
}

Data = dict[str, Any]
Happens = Callable[..., None]


@dataclass(slots=True)
class Record:
    key: bytes | None
    value: bytes | None
    time: int  # business time of the record (D1), microseconds since the epoch


@dataclass(slots=True)
class Judged:
    events: list[Data] = field(default_factory=list)
    outcome: Data | None = None
    dead: bool = False


class Rejected(Exception):
    def __init__(self, code: str, **details: Any) -> None:
        super().__init__(code)
        self.code = code
        self.details = details


class Oracle:
    def __init__(self) -> None:
        self.orders: dict[str, Data] = {}
        # (order id, command id in small letters): the first command's id, name and data, its outcome's time and data
        self.memory: dict[tuple[str, str], tuple[str, str, Any, str, Data]] = {}

    def read(self, record: Record) -> Judged:
        envelope = read_envelope(record)
        if envelope is None:
            return Judged(dead=True)
        return self.judge(envelope["subject"], envelope["type"], envelope["id"], envelope.get("data", {}), record.time)

    def judge(self, order_id: str, type: str, command_id: str, data: Any, time: int) -> Judged:
        name, schema = COMMAND_TYPES[type]
        order = self.orders.get(order_id)
        now = time if order is None else max(time, order["last"])  # D1, D4

        # A repeated command id comes before everything and changes nothing (D19).
        remembered = self.memory.get((order_id, command_id.lower()))
        if remembered is not None:
            first_id, first_name, first_data, at, said = remembered
            if name == first_name and same_json(with_small_ids(data), with_small_ids(first_data)):
                said = {**said, "duplicate": True}
                command_id = first_id  # what was stored first
            else:
                at = instant_text(now)
                said = {"command_id": command_id, "command": name, "code": "command_id_reused", "details": {}}
            return Judged([], outcome(order_id, command_id, at, said))

        # At the deadline sharp the open dispute has been accepted, whoever comes to notice it (R3, D2, D3).
        events: list[Data] = []
        if order is not None and order["open"] is not None and now >= order["open"]["respond_by"]:
            auto_accept(order, events, command_id)

        said = {"command_id": command_id, "command": name}
        try:
            self.decide(order_id, name, command_id, schema(data), now, events)
            said["events"] = [
                {"type": f"resolution.event.{event['type']}.v1", "sequence": event["sequence"]} for event in events
            ]
        except Rejected as rejected:  # without a trace in the order (D1), but for the auto-acceptance
            said["code"] = rejected.code
            said["details"] = rejected.details

        at = instant_text(now)
        self.memory[order_id, command_id.lower()] = (command_id, name, data, at, dict(said))
        return Judged(events, outcome(order_id, command_id, at, said))

    def decide(  # noqa: C901 - one pass, to be read beside the rules
        self, order_id: str, name: str, command_id: str, data: Data, now: int, events: list[Data]
    ) -> None:
        """Checks in the order of precedence; `data` has passed the schema, and no auto-acceptance is due."""
        order = self.orders.get(order_id)

        # -- registering: the one command that needs no order, and which only compares where there is one

        if name == "RegisterOrder":
            if order is None:
                order = self.orders[order_id] = new_order(order_id, data)
                expected = data["expected_delivery_at"]
                told = {**data, "expected_delivery_at": None if expected is None else instant_text(expected)}
                if told["terms"] == HELP_PAGE:
                    del told["terms"]  # then nothing is said of them
                into(events, order, command_id, now)("OrderRegistered", **told)
            elif data != order["registered"]:
                raise Rejected("order_exists")
            return

        if order is None:
            raise Rejected("order_unknown")
        happens = into(events, order, command_id, now)
        state, opened, terms = order["state"], order["open"], order["terms"]

        # -- an operator, the timer and the payment service: in every state

        if name == "EraseOrderTexts":
            if order["texts"]:
                happens("OrderTextsErased")
                order["texts"] = False
                if opened is not None:
                    opened["asked"] |= {name: "[erased]" for name in TEXTS if name in opened["asked"]}
            return

        if name == "ExpireDispute":
            dispute = order["disputes"].get(data["dispute_id"].lower())
            if dispute is None:
                raise Rejected("dispute_unknown")
            if dispute["settled_as"] is None:  # were it due, judge() would have auto-accepted it
                raise Rejected("not_due")
            return

        if name == "RecordRefundProcessed":  # D10
            refund = order["refund"]
            if refund is None or refund["id"].lower() != data["refund_id"].lower():
                raise Rejected("refund_unknown")
            if not refund["processed"]:
                refund["processed"] = True
                happens("RefundProcessed", refund_id=refund["id"])
            return

        # -- the order service

        if name in FITS:
            if name == "RecordRequirementsSubmitted" and state == AWAITING:
                expected = data["expected_delivery_at"]
                if expected is None:
                    expected = order["expected"]
                if expected is None:  # in progress there is always a delivery date (D13)
                    raise invalid()
            if state in CLOSED:  # R4
                raise Rejected("order_closed")
            if state not in FITS[name]:
                raise Rejected("invalid_transition")

            if name == "RecordRequirementsSubmitted":
                order["state"] = IN_PROGRESS
                order["expected"] = expected
                happens("RequirementsSubmitted", expected_delivery_at=instant_text(expected))
            elif name == "RecordDelivery":
                if opened is not None and opened["kind"] in ("delivery_extension", "order_update"):
                    close_dispute(order, happens, "order_delivered")  # D11
                order["state"] = DELIVERED
                happens("OrderDelivered")
            elif name == "RecordRevisionRequested":  # D12
                order["state"] = IN_PROGRESS
                happens("RevisionRequested")
            elif name == "RecordCompletion":
                close_dispute(order, happens, "order_completed")  # D11
                order["state"] = COMPLETED
                happens("OrderCompleted")
            elif name == "RecordCancellation":
                close_dispute(order, happens, "order_canceled")  # D11
                cancel(order, happens, "order_service", "external", data["comment"])
            return

        # -- a party: which of the two?

        roles = {order["client"]: "client", order["freelancer"]: "freelancer"}
        role = roles.get(data["actor"])

        # -- an answer: judged by the dispute it names, also when the order is closed by now

        if name in ("Accept", "Decline", "Withdraw"):
            if role is None:
                raise Rejected("not_a_party")
            dispute = order["disputes"].get(data["dispute_id"].lower())
            if dispute is None:
                raise Rejected("dispute_unknown")
            if (role == dispute["opened_by"]) != (name == "Withdraw"):  # D7
                raise Rejected("not_allowed")
            if dispute["settled_as"] is not None:
                raise Rejected("dispute_settled", settled_as=dispute["settled_as"])

            told = {"dispute_id": dispute["id"], "kind": dispute["kind"], "by": role}
            if name == "Accept":  # R1
                settle(order, "accepted")
                happens("Accepted", **told, message=data["message"])
                carry_out(order, happens, dispute, "agreement")
            elif name == "Decline":  # R1
                settle(order, "declined")
                happens("Declined", **told, message=data["message"])
            else:  # R2
                settle(order, "withdrawn")
                happens("Withdrawn", **told)
            return

        # -- a cancellation's reason is from the list of whoever asks; the freelancer must give one (R10)

        if name == "OpenDispute" and data["request"]["kind"] == "cancellation":
            reason = data["request"]["reason"]
            if role == "client" and reason is not None and reason not in CLIENT_REASONS:
                raise invalid()
            if role == "freelancer" and reason not in FREELANCER_REASONS:
                raise invalid()

        # -- nor is an extension longer than the order's terms allow (R7, D20)

        if name == "OpenDispute" and data["request"].get("days", 0) > terms["longest_extension_days"]:
            raise invalid()

        if state in CLOSED:  # R4
            raise Rejected("order_closed")
        if role is None:
            raise Rejected("not_a_party")

        # -- the client's right to cancel (R5), in whose way no open dispute stands (D6)

        if name == "CancelOrder":
            if role != "client":
                raise Rejected("not_allowed")
            if state == DELIVERED:
                raise Rejected("approval_needed", possible_from=None)
            if state == IN_PROGRESS:
                very_late = order["expected"] + terms["very_late_after_hours"] * HOUR  # D5, D14, D20
                if now < very_late:
                    raise Rejected("approval_needed", possible_from=instant_text(very_late))
            grounds = "awaiting_requirements" if state == AWAITING else "very_late"
            close_dispute(order, happens, "order_canceled")
            cancel(order, happens, "client", grounds, data["comment"])
            return

        # -- a party asks for something (R6, R7, R8, R10)

        if name == "OpenDispute":
            asked = dict(data["request"])
            kind = asked.pop("kind")
        else:  # OfferPartialRefund, whose reason is confidential: it is not even kept (R8, D16)
            asked = {"amount": data["amount"], "explanation": data["explanation"]}
            kind = "partial_refund"

        who, when = MAY_ASK[kind]
        if role not in who or state not in when:
            raise Rejected("not_allowed")
        if opened is not None:  # R11
            raise Rejected("dispute_open", dispute_id=opened["id"], kind=opened["kind"])
        if kind == "partial_refund":
            price, most, percent = order["price"], terms["largest_refund_percent"], data.get("percent")
            if order["refund"] is not None:  # R9
                raise Rejected("refund_already_granted")
            if percent is not None:  # a share of the price, rounded down
                asked["amount"] = money_of(order, percent * price["amount"] // 100)
            offer = asked["amount"]
            if offer["currency"] != price["currency"]:
                raise Rejected("currency_mismatch")
            if (percent or 0) > most or 100 * offer["amount"] > most * price["amount"]:  # R8, D9, D20
                raise Rejected("refund_over_limit", limit=money_of(order, most * price["amount"] // 100))
            if offer["amount"] == 0:  # of a small price; an amount is at least one minor unit (D9)
                raise Rejected("not_allowed")

        respond_by = now + terms["response_hours"] * HOUR  # fixed from now on (D18, D20)
        dispute = {"id": command_id, "kind": kind, "opened_by": role, "respond_by": respond_by}
        order["open"] = order["disputes"][command_id.lower()] = {**dispute, "settled_as": None, "asked": asked}
        happens(
            "DisputeOpened",
            dispute_id=command_id,
            kind=kind,
            opened_by=role,
            respond_by=instant_text(respond_by),
            **asked,
        )


TEXTS = ("message", "comment", "note", "explanation")

# -- what happens to an order --------------------------------------------------------------------------------


def new_order(order_id: str, facts: Data) -> Data:
    return {
        "id": order_id,
        "registered": facts,  # never changes
        "terms": facts["terms"],  # nor do they (D20)
        "client": facts["client_id"],
        "freelancer": facts["freelancer_id"],
        "price": facts["price"],  # the original one (D9)
        "state": AWAITING if facts["awaiting_requirements"] else IN_PROGRESS,
        "expected": facts["expected_delivery_at"],  # moves with every accepted extension (R7)
        "disputes": {},  # every dispute ever, by id in small letters
        "open": None,  # the one of them that is open (R11)
        "refund": None,  # the only one ever granted (R9)
        "texts": False,  # whether anybody wrote anything since they were last erased
        "sequence": 0,
        "last": 0,  # the time of the last event (D1)
    }


def into(events: list[Data], order: Data, command_id: str, at: int) -> Happens:
    """A function that appends an event of this order, at this time, brought out by this command."""

    def happens(type: str, /, **data: Any) -> None:
        order["sequence"] += 1
        order["last"] = at
        order["texts"] |= any(data.get(name) is not None for name in TEXTS)
        events.append(
            {
                "type": type,
                "id": f"{order['id']}:{order['sequence']}",
                "subject": order["id"],
                "sequence": order["sequence"],
                "time": instant_text(at),
                "causationid": command_id,
                "data": data,
            }
        )

    return happens


def settle(order: Data, how: str) -> None:
    order["open"]["settled_as"] = how
    order["open"] = None


def auto_accept(order: Data, events: list[Data], command_id: str) -> None:
    """As of the deadline, whenever it is noticed (R3, D3), and not under the name of an acceptance (D17)."""
    dispute = order["open"]
    happens = into(events, order, command_id, dispute["respond_by"])
    deadline = instant_text(dispute["respond_by"])
    settle(order, "auto_accepted")
    happens("AutoAccepted", dispute_id=dispute["id"], kind=dispute["kind"], deadline=deadline)
    carry_out(order, happens, dispute, "auto_accepted")


def carry_out(order: Data, happens: Happens, dispute: Data, grounds: str) -> None:
    """What was asked for happens, directly after its Accepted or AutoAccepted."""
    asked = dispute["asked"]
    if dispute["kind"] == "cancellation":
        cancel(order, happens, dispute["opened_by"], grounds, asked["comment"], dispute["id"])
    elif dispute["kind"] == "delivery_extension":  # R7: added to the delivery date, not to today; D14
        order["expected"] = min(order["expected"] + asked["days"] * DAY, LAST_DELIVERY)
        told = {"days": asked["days"], "expected_delivery_at": instant_text(order["expected"])}
        happens("DeliveryDateExtended", dispute_id=dispute["id"], **told)
    elif dispute["kind"] == "partial_refund":  # R9, D10
        order["refund"] = {"id": dispute["id"], "amount": asked["amount"]["amount"], "processed": False}
        happens("PartialRefundGranted", refund_id=dispute["id"], amount=asked["amount"])
    # and nothing for an order update (D8)


def close_dispute(order: Data, happens: Happens, because: str) -> None:
    """The dispute left open, if there is one, is settled by what happens to the order (D6, D11)."""
    dispute = order["open"]
    if dispute is not None:
        settle(order, "closed")
        happens("DisputeClosed", dispute_id=dispute["id"], kind=dispute["kind"], because=because)


def cancel(
    order: Data,
    happens: Happens,
    initiated_by: str,
    grounds: str,
    comment: str | None,
    dispute_id: str | None = None,
) -> None:
    left = order["price"]["amount"] - (order["refund"]["amount"] if order["refund"] else 0)  # D10
    order["state"] = CANCELED
    happens(
        "OrderCanceled",
        initiated_by=initiated_by,
        dispute_id=dispute_id,
        grounds=grounds,
        affects_metrics=grounds in ("agreement", "auto_accepted", "very_late"),  # D15
        refund_due=None if grounds == "external" else money_of(order, left),
        comment=comment,
    )


def money_of(order: Data, amount: int) -> Data:
    return {"amount": amount, "currency": order["price"]["currency"]}


def outcome(order_id: str, command_id: str, at: str, said: Data) -> Data:
    return {
        "type": "CommandRejected" if "code" in said else "CommandAccepted",
        "id": f"{order_id}:{command_id}",
        "subject": order_id,
        "time": at,
        "causationid": command_id,
        "data": said,
    }


# -- the schema of a command's data: a reader returns a value as it is kept, or raises invalid ---------------

Reader = Callable[[Any], Any]
ABSENT: Any = object()

# Unicode's White_Space, which unlike str.strip() leaves out U+001C to U+001F.
WHITE_SPACE = "\t\n\v\f\r \x85\xa0\u1680\u2000\u2001\u2002\u2003\u2004\u2005\u2006\u2007\u2008\u2009\u200a"
WHITE_SPACE += "\u2028\u2029\u202f\u205f\u3000"
NOT_TEXT = re.compile("[\0\ud800-\udfff]")  # NUL, and halves of characters
# What shows nothing: white space, controls, Unicode's Default_Ignorable_Code_Point, and the empty cell of Braille.
INVISIBLE = {
    *WHITE_SPACE,
    *map(chr, [*range(0x20), *range(0x7F, 0xA0), 0xAD, 0x34F, 0x61C, 0x115F, 0x1160, 0x17B4, 0x17B5]),
}
INVISIBLE |= {
    chr(n) for a, b in ((0x180B, 0x180F), (0x200B, 0x200F), (0x202A, 0x202E), (0x2060, 0x206F)) for n in range(a, b + 1)
}
INVISIBLE |= {*"\u2800\u3164\ufeff\uffa0", *map(chr, range(0xFE00, 0xFE10)), *map(chr, range(0xFFF0, 0xFFFC))}
INVISIBLE |= {*map(chr, [*range(0x1BCA0, 0x1BCA4), *range(0x1D173, 0x1D17B), *range(0xE0000, 0xE1000)])}
CURRENCY = re.compile("[A-Z]{3}")
SHORT_NAME = re.compile("[A-Za-z0-9._-]{1,64}")
INSTANT = re.compile(  # RFC 3339 lets T and Z be small
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt]([0-9]{2}):([0-9]{2}):([0-9]{2})(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([0-9]{2}):([0-9]{2}))"
)
MICROSECOND = timedelta(microseconds=1)
EPOCH = datetime(1970, 1, 1)
END_OF_TIME = (datetime(9000, 1, 1) - EPOCH) // MICROSECOND
LAST_DELIVERY = (datetime(9999, 1, 1) - EPOCH) // MICROSECOND  # extensions end there, where dates do


def invalid() -> Rejected:
    return Rejected("invalid", errors=None)  # what the errors say is not modelled


def fields(**readers: Reader) -> Reader:
    """An object with these fields and no others."""

    def read(value: Any) -> Data:
        if type(value) is not dict or not value.keys() <= readers.keys():  # a dict of another type has a key twice
            raise invalid()
        return {name: reader(value.get(name, ABSENT)) for name, reader in readers.items()}

    return read


def optional(reader: Reader) -> Reader:
    return lambda value: None if value is None or value is ABSENT else reader(value)


def or_else(default: Any, reader: Reader) -> Reader:
    """Null is no way to leave it out: it has a default, it is not optional."""
    return lambda value: default if value is ABSENT else reader(value)


def one_of(names: set[str]) -> Reader:
    def read(value: Any) -> str:
        if type(value) is not str or value not in names:
            raise invalid()
        return value

    return read


def whole_number(least: int, most: int) -> Reader:
    def read(value: Any) -> int:
        if type(value) is not int or not least <= value <= most:  # a bool's type is not int; 5.0 was read as one
            raise invalid()
        return value

    return read


def identifier(value: Any) -> str:
    if type(value) is not str or not 1 <= len(value) <= 200 or NOT_TEXT.search(value) or INVISIBLE.issuperset(value):
        raise invalid()
    return value


def text(value: Any) -> str:
    if type(value) is not str:
        raise invalid()
    trimmed = value.strip(WHITE_SPACE)
    if not 1 <= len(trimmed) <= 2500 or NOT_TEXT.search(trimmed) or INVISIBLE.issuperset(trimmed):
        raise invalid()
    return trimmed


def currency(value: Any) -> str:
    if type(value) is not str or not CURRENCY.fullmatch(value):
        raise invalid()
    return value


def flag(value: Any) -> bool:
    if type(value) is not bool:
        raise invalid()
    return value


def short_name(value: Any) -> str:
    if type(value) is not str or not SHORT_NAME.fullmatch(value):
        raise invalid()
    return value


def instant(value: Any) -> int:
    match = INSTANT.fullmatch(value) if type(value) is str else None
    if match is None:
        raise invalid()
    year, month, day, hour, minute, second, fraction, sign, hours_off, minutes_off = match.groups()
    try:
        local = datetime(int(year), int(month), int(day), int(hour), int(minute), int(second))
    except ValueError:  # the 30th of February, 24:00, a leap second
        raise invalid() from None
    micros = (local - EPOCH) // MICROSECOND + int((fraction or "").ljust(6, "0")[:6])
    if sign:
        if int(hours_off) > 23 or int(minutes_off) > 59:
            raise invalid()
        offset = int(hours_off) * HOUR + int(minutes_off) * HOUR // 60
        micros += offset if sign == "-" else -offset
    if not 0 <= micros < END_OF_TIME:  # 1970 to 8999 in UTC
        raise invalid()
    return micros


def registration(value: Any) -> Data:
    return possible({**REGISTRATION(value), "terms": HELP_PAGE})


def registration_with_terms(value: Any) -> Data:
    facts: Data = REGISTRATION_WITH_TERMS(value)
    return possible({**facts, "terms": facts["terms"] or HELP_PAGE})


def possible(facts: Data) -> Data:
    if facts["client_id"] == facts["freelancer_id"]:
        raise invalid()
    if facts["expected_delivery_at"] is None and not facts["awaiting_requirements"]:
        raise invalid()
    return facts


def offer_or_share(value: Any) -> Data:
    """An amount, or percent of the price: one of the two."""
    offer: Data = OFFER_OR_SHARE(value)
    if (offer["amount"] is None) == (offer["percent"] is None):
        raise invalid()
    return offer


def request(value: Any) -> Data:
    kind = value.get("kind") if isinstance(value, dict) else None
    if type(kind) is not str or kind not in REQUESTS:
        raise invalid()
    asked: Data = REQUESTS[kind](value)
    return asked


MONEY = fields(amount=whole_number(1, LARGEST_AMOUNT), currency=currency)
FACTS: dict[str, Reader] = {
    "client_id": identifier,
    "freelancer_id": identifier,
    "price": MONEY,
    "expected_delivery_at": optional(instant),
    "awaiting_requirements": or_else(False, flag),
}
TERMS = fields(  # D20
    response_hours=or_else(HELP_PAGE["response_hours"], whole_number(1, 720)),
    very_late_after_hours=or_else(HELP_PAGE["very_late_after_hours"], whole_number(0, 720)),
    longest_extension_days=or_else(HELP_PAGE["longest_extension_days"], whole_number(0, 365)),
    largest_refund_percent=or_else(HELP_PAGE["largest_refund_percent"], whole_number(0, 100)),
    name=optional(short_name),
)
REGISTRATION = fields(**FACTS)
REGISTRATION_WITH_TERMS = fields(**FACTS, terms=optional(TERMS))
REFUND_REASON = one_of(REFUND_REASONS)
OFFER = fields(actor=identifier, amount=MONEY, explanation=text, reason=REFUND_REASON)
OFFER_OR_SHARE = fields(
    actor=identifier,
    amount=optional(MONEY),
    percent=optional(whole_number(1, 100)),
    explanation=text,
    reason=REFUND_REASON,
)
CANCELLATION_REASON = one_of(CLIENT_REASONS | FREELANCER_REASONS)  # whose: only the order can tell
REQUESTS = {
    "order_update": fields(kind=identifier, message=text),
    "cancellation": fields(kind=identifier, comment=text, reason=optional(CANCELLATION_REASON)),
    "delivery_extension": fields(kind=identifier, days=whole_number(1, 365), note=text),  # R7, D20
}
ANSWER = fields(actor=identifier, dispute_id=identifier, message=optional(text))
NOTHING = fields()
COMMANDS: dict[str, Reader] = {
    "RegisterOrder": registration,
    "RecordRequirementsSubmitted": fields(expected_delivery_at=optional(instant)),
    "RecordDelivery": NOTHING,
    "RecordRevisionRequested": NOTHING,
    "RecordCompletion": NOTHING,
    "RecordCancellation": fields(comment=optional(text)),
    "RecordRefundProcessed": fields(refund_id=identifier),
    "OpenDispute": fields(actor=identifier, request=request),
    "OfferPartialRefund": OFFER,
    "Accept": ANSWER,
    "Decline": ANSWER,
    "Withdraw": fields(actor=identifier, dispute_id=identifier),
    "CancelOrder": fields(actor=identifier, comment=text),
    "ExpireDispute": fields(dispute_id=identifier),
    "EraseOrderTexts": NOTHING,
}
SECOND_VERSIONS: dict[str, Reader] = {"RegisterOrder": registration_with_terms, "OfferPartialRefund": offer_or_share}

# -- the envelope, and JSON in and out -----------------------------------------------------------------------

COMMAND_TYPES = {  # a version has a schema of its own, and is judged under the same name
    f"resolution.command.{name}.{version}": (name, schema)
    for version, schemas in (("v1", COMMANDS), ("v2", SECOND_VERSIONS))
    for name, schema in schemas.items()
}
UUID = re.compile("[0-9A-Fa-f]{8}(?:-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}")
ORDER_ID = re.compile("[A-Za-z0-9._-]{1,64}")


def read_envelope(record: Record) -> Data | None:
    """The envelope, or None where there is none to read: such a record is dead."""
    if record.key is None or record.value is None or len(record.value) > LARGEST_RECORD:
        return None
    try:
        key = record.key.decode()
        envelope = JSON.decode(record.value.decode())
    except (ValueError, RecursionError):  # not UTF-8, not JSON, nested some hundred levels deep
        return None
    if not isinstance(envelope, dict):
        return None
    # Of an attribute that comes twice the last counts, and each has to be what it should.
    if isinstance(envelope, Twice):
        twice = [{**envelope, name: content} for name, content in envelope.pairs if name in ATTRIBUTES]
        if not all(map(could_be_read, twice)):
            return None
    command_id, command = envelope.get("id"), envelope.get("type")
    source, subject = envelope.get("source"), envelope.get("subject")
    if (
        envelope.get("specversion") == "1.0"
        and (type(command_id) is str and UUID.fullmatch(command_id))
        and (type(command) is str and command in COMMAND_TYPES)
        and (type(source) is str and 1 <= len(source) <= LONGEST_SOURCE)
        and (type(subject) is str and ORDER_ID.fullmatch(subject) and subject == key)
        and "data_base64" not in envelope
        and not any(NOT_TEXT.search(name) for name in envelope)
        and not has_no_text([content for name, content in envelope.items() if name != "data"])
    ):
        return envelope
    return None


ATTRIBUTES = ("specversion", "id", "type", "source", "subject")


def could_be_read(envelope: Data) -> bool:
    texts = all(type(envelope.get(name)) is str for name in ATTRIBUTES)
    return texts and envelope["specversion"] == "1.0" and envelope["source"] != ""


def has_no_text(value: Any) -> bool:
    """Whether a text anywhere in it has a NUL or half of a character."""
    values = [value]
    while values:
        one = values.pop()
        if type(one) is str and NOT_TEXT.search(one):
            return True
        if isinstance(one, dict):
            values += [*one.keys(), *one.values()]
        elif type(one) is list:
            values += one
    return False


def integer(digits: str) -> int | Decimal:
    """Python reads no int of more than 4,300 digits. Longer ones are JSON, too, if no amount."""
    return int(digits) if len(digits) <= 4000 else Decimal(digits)


def number(text: str) -> int | float:
    """JSON Schema: a number without a fraction is an integer, however it is written."""
    try:
        value = Decimal(text)
    except ArithmeticError:  # an exponent of twenty digits
        return float(text)
    return int(value) if value.adjusted() < 20 and value == value.to_integral_value() else float(text)


class Twice(dict[str, Any]):
    """An object with a key that comes twice, of which it has the last."""

    pairs: list[tuple[str, Any]]


def members(pairs: list[tuple[str, Any]]) -> Data:
    found = dict(pairs)
    if len(found) < len(pairs):
        found = Twice(found)
        found.pairs = pairs
    return found


def not_json(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is not JSON")  # NaN, Infinity, -Infinity, which Python would read


JSON = json.JSONDecoder(parse_int=integer, parse_float=number, parse_constant=not_json, object_pairs_hook=members)


def with_small_ids(data: Any) -> Any:
    """A dispute's or refund's id is the same in capital letters."""
    if type(data) is not dict:
        return data
    ids = {name: data[name].lower() for name in ("dispute_id", "refund_id") if is_uuid(data.get(name))}
    return {**data, **ids}


def is_uuid(value: Any) -> bool:
    return type(value) is str and UUID.fullmatch(value) is not None


def same_json(one: Any, other: Any) -> bool:
    """Equal as JSON: 1 is 1.0 but not true, and the order of an object's keys means nothing."""
    pairs = [(one, other)]
    while pairs:
        a, b = pairs.pop()
        if isinstance(a, dict) and isinstance(b, dict):
            if a.keys() != b.keys():
                return False
            pairs += [(a[name], b[name]) for name in a]
        elif type(a) is list and type(b) is list:
            if len(a) != len(b):
                return False
            pairs += zip(a, b, strict=True)
        elif (type(a) is bool) != (type(b) is bool) or a != b:
            return False
    return True


def instant_text(micros: int) -> str:
    return (EPOCH + micros * MICROSECOND).isoformat(timespec="microseconds") + "Z"
