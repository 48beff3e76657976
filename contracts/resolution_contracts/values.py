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

_INSTANT = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d{1,6})?([Zz]|[+-]\d\d:\d\d)")
_FIRST_YEAR, _LAST_YEAR = 1970, 8999

LARGEST_AMOUNT = 2**63 - 1
"""Minor units: what 64 bits hold."""


def format_instant(instant: datetime) -> str:
    """An aware UTC instant as the contract writes it: RFC 3339, always six decimals, `Z`."""
    return instant.isoformat(timespec="microseconds")[:-6] + "Z"


def _rfc3339_only(value: Any) -> Any:
    if isinstance(value, datetime):
        return value
    if isinstance(value, str) and _INSTANT.fullmatch(value):
        return datetime.fromisoformat(value.upper())
    raise ValueError("should be an RFC 3339 instant with an offset and at most six decimals")


def _to_utc(value: datetime) -> datetime:
    try:
        instant = value.astimezone(UTC)
    except OverflowError:
        instant = datetime.min.replace(tzinfo=UTC)
    if not _FIRST_YEAR <= instant.year <= _LAST_YEAR:
        raise ValueError(f"should lie in the years {_FIRST_YEAR} to {_LAST_YEAR}")
    return instant


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("should not contain the NUL character")
    return value


Instant = Annotated[
    AwareDatetime,
    BeforeValidator(_rfc3339_only),
    AfterValidator(_to_utc),
    PlainSerializer(format_instant, return_type=str, when_used="json"),
]
"""A moment in UTC. On the wire: RFC 3339 with an offset, read with up to six decimals, written with six and `Z`."""

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=2500), AfterValidator(_no_nul)]
"""What a person wrote: 1 to 2,500 characters after trimming."""

Id = Annotated[str, StringConstraints(min_length=1, max_length=200), AfterValidator(_no_nul)]
"""A user's, dispute's or refund's id, as its owner wrote it."""

OrderId = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9._-]{1,64}\z")]
CommandId = Annotated[
    str,
    StringConstraints(pattern=r"\A[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}\z"),
]
Currency = Annotated[str, StringConstraints(pattern=r"\A[A-Z]{3}\z")]


class Message(BaseModel):
    """Base of everything inside a command's `data`: frozen, strict about types, refuses unknown fields."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid")


class Money(Message):
    """An integer count of the currency's minor units (cents, yen), and the ISO 4217 code."""

    amount: Annotated[int, Field(ge=1)]
    currency: Currency


class Role(StrEnum):
    CLIENT = "client"
    FREELANCER = "freelancer"

    @property
    def other(self) -> "Role":
        """The party across the table."""
        return Role.FREELANCER if self is Role.CLIENT else Role.CLIENT


class DisputeKind(StrEnum):
    ORDER_UPDATE = "order_update"
    CANCELLATION = "cancellation"
    DELIVERY_EXTENSION = "delivery_extension"
    PARTIAL_REFUND = "partial_refund"


class CancellationReason(StrEnum):
    """Both parties' lists; `OTHER` is on each."""

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
    ORDER_DELIVERED = "order_delivered"
    ORDER_COMPLETED = "order_completed"
    ORDER_CANCELED = "order_canceled"


class SettledAs(StrEnum):
    ACCEPTED = "accepted"
    DECLINED = "declined"
    WITHDRAWN = "withdrawn"
    AUTO_ACCEPTED = "auto_accepted"
    CLOSED = "closed"
