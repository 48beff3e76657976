"""The values that commands, events and outcomes are made of."""

import re
from datetime import UTC, datetime
from enum import StrEnum
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PlainSerializer,
    StringConstraints,
)

_INSTANT = re.compile(r"(?a)\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_VISIBLE = re.compile(
    # Neither white space nor a control character, nor what Unicode calls Default_Ignorable, nor an empty Braille cell.
    r"[^\s\x00-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f"
    r"\u2800\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufffb\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff]"
)
_PLAIN = frozenset(map(chr, range(ord("!"), ord("~") + 1)))
FIRST_YEAR, LAST_YEAR = 1970, 8999

LARGEST_AMOUNT = 2**63 - 1
"""In minor units: what 64 bits hold."""


def format_instant(instant: datetime) -> str:
    """Returns an aware UTC instant as RFC 3339 text, always with six decimals and `Z`."""
    return instant.isoformat(timespec="microseconds")[:-6] + "Z"


def rfc3339_only(value: Any) -> Any:
    """Reads an instant from RFC 3339 text. Raises ValueError for other text. Returns any other datetime unchanged."""
    if isinstance(value, datetime):
        return value
    try:
        if isinstance(value, str) and _INSTANT.fullmatch(value):
            return datetime.fromisoformat(value.upper())  # cuts further decimals
    except ValueError:
        pass  # a 13th month
    raise ValueError("should be a date and time with an offset, as RFC 3339 has them: 2027-01-31T12:00:00Z")


def _to_utc(value: datetime) -> datetime:
    try:
        return value.astimezone(UTC)
    except OverflowError:
        return datetime.min.replace(tzinfo=UTC)


def _of_a_command(instant: datetime) -> datetime:
    if not FIRST_YEAR <= instant.year <= LAST_YEAR:
        raise ValueError(f"should lie in the years {FIRST_YEAR} to {LAST_YEAR}")
    return instant


def readable(value: str) -> str:
    """Returns a text or an id. Raises ValueError if it has a NUL character, or no visible character."""
    if "\0" in value:
        raise ValueError("should not contain the NUL character")
    if value[0] not in _PLAIN and not _VISIBLE.search(value):
        raise ValueError("should not be empty: it has only spaces and invisible characters")
    return value


PublishedInstant = Annotated[
    AwareDatetime,
    BeforeValidator(rfc3339_only),
    AfterValidator(_to_utc),
    PlainSerializer(format_instant, return_type=str, when_used="json"),
]
"""A moment in UTC. On the wire: RFC 3339 with an offset, read to the microsecond, written with six decimals and `Z`.

Further decimals are cut."""

Instant = Annotated[PublishedInstant, AfterValidator(_of_a_command)]
"""A moment in a command. One in an event may lie after the last year: terms and extensions add to it."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2500), AfterValidator(readable)]
"""What a person wrote: 1 to 2,500 characters after trimming, one of them visible at least."""

Id = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(readable)]
"""A user's, dispute's or refund's id, as its owner wrote it. UUIDs are compared without regard to letter case."""

ORDER_ID = "[A-Za-z0-9._-]{1,64}"
"""The pattern of an order id, without anchors."""

COMMAND_ID = "[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}"
"""The pattern of a command id, a UUID, without anchors."""

OrderId = Annotated[str, StringConstraints(pattern=rf"\A{ORDER_ID}\z")]
CommandId = Annotated[str, StringConstraints(pattern=rf"\A{COMMAND_ID}\z")]
Currency = Annotated[str, StringConstraints(pattern=r"\A[A-Z]{3}\z")]


class Message(BaseModel):
    """Base of everything inside a command's `data`: frozen, strict about types, refuses unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Money(Message):
    """An integer count of the currency's minor units (cents, yen), and the ISO 4217 code."""

    amount: Annotated[int, Field(ge=1)]
    currency: Currency


def at_most_64_bits(money: Money) -> Money:
    """The limit of a command's amounts. Events of earlier versions may have larger ones."""
    if money.amount > LARGEST_AMOUNT:
        raise ValueError(f"should have an amount of at most {LARGEST_AMOUNT}, which is 2^63 - 1")
    return money


Amount = Annotated[Money, AfterValidator(at_most_64_bits)]
"""Money in a command: at most 2^63 - 1 minor units."""


class Role(StrEnum):
    """The two parties of an order."""

    CLIENT = "client"
    FREELANCER = "freelancer"

    @property
    def other(self) -> "Role":
        """The other party of the order."""
        return Role.FREELANCER if self is Role.CLIENT else Role.CLIENT


class DisputeKind(StrEnum):
    """What a request asks for."""

    ORDER_UPDATE = "order_update"
    CANCELLATION = "cancellation"
    DELIVERY_EXTENSION = "delivery_extension"
    PARTIAL_REFUND = "partial_refund"


class CancellationReason(StrEnum):
    """The reasons of both parties for a cancellation. `OTHER` is on both parties' lists."""

    ORDERED_BY_MISTAKE = "ordered_by_mistake"
    REQUIREMENTS_CHANGED = "requirements_changed"
    NOT_AS_EXPECTED = "not_as_expected"
    FREELANCER_UNRESPONSIVE = "freelancer_unresponsive"
    LATE_DELIVERY = "late_delivery"
    SCOPE_CHANGED = "scope_changed"
    UNABLE_TO_COMPLETE = "unable_to_complete"
    MISSING_INFORMATION = "missing_information"
    CLIENT_UNRESPONSIVE = "client_unresponsive"
    CLIENT_ASKED = "client_asked"
    CONDUCT = "conduct"
    OTHER = "other"


_REASON = CancellationReason
CLIENT_REASONS = frozenset(
    {
        _REASON.ORDERED_BY_MISTAKE,
        _REASON.REQUIREMENTS_CHANGED,
        _REASON.NOT_AS_EXPECTED,
        _REASON.FREELANCER_UNRESPONSIVE,
        _REASON.LATE_DELIVERY,
        _REASON.OTHER,
    }
)
FREELANCER_REASONS = frozenset(set(_REASON) - CLIENT_REASONS | {_REASON.OTHER})


class RefundReason(StrEnum):
    """Confidential: seen by the freelancer who gave it and by auditors (D16)."""

    SCOPE_REDUCED = "scope_reduced"
    DELAY_COMPENSATION = "delay_compensation"
    MINOR_DISSATISFACTION = "minor_dissatisfaction"
    OTHER = "other"


class CancellationGrounds(StrEnum):
    """Why an order could be canceled."""

    AGREEMENT = "agreement"
    AUTO_ACCEPTED = "auto_accepted"
    AWAITING_REQUIREMENTS = "awaiting_requirements"
    VERY_LATE = "very_late"
    EXTERNAL = "external"


class Initiator(StrEnum):
    """Who asked for a cancellation or used a right to it."""

    CLIENT = "client"
    FREELANCER = "freelancer"
    ORDER_SERVICE = "order_service"


class ClosedBecause(StrEnum):
    """What ended a dispute without an answer (D11)."""

    ORDER_DELIVERED = "order_delivered"
    ORDER_COMPLETED = "order_completed"
    ORDER_CANCELED = "order_canceled"


class SettledAs(StrEnum):
    """How a dispute ended."""

    ACCEPTED = "accepted"
    DECLINED = "declined"
    WITHDRAWN = "withdrawn"
    AUTO_ACCEPTED = "auto_accepted"
    CLOSED = "closed"
