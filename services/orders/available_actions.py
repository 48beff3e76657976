"""Lists the commands that each party may send now, with their limits. Uses the guards that also judge the commands."""

from collections.abc import Callable
from datetime import datetime
from typing import Any

import msgspec
from resolution_contracts.values import (
    CLIENT_REASONS,
    FREELANCER_REASONS,
    DisputeKind,
    RefundReason,
    Role,
    format_instant,
)

from .events import Money
from .guards import must_be_free_to_request, must_need_no_approval
from .rejections import Rejected, no_room_for_refund
from .state import CLOSED, Order


class Action(msgspec.Struct, frozen=True):
    """A command that a party could send about an order."""

    command: str
    """The command's name."""
    available: bool
    """Whether the rules allow the command now."""
    kind: DisputeKind | None = None
    """What a request asks for, or what the dispute to be answered is about."""
    needs: dict[str, Any] = {}
    """The limits, choices and times of the command's fields."""
    why_not: str | None = None
    """Why the action isn't available, as a sentence; None if it is."""
    possible_from: str | None = None
    """The instant from which it will be available, if time alone changes that."""


def available_actions(order: Order, role: Role, now: datetime) -> list[Action]:
    """Returns the actions of a party at the business time `now`. A closed order has none (R4).

    Apply the events of `auto_acceptance` to the order first: a deadline that has passed shows even before its event is
    stored (D3).
    """
    if order.registered is None or order.status in CLOSED:
        return []
    requests = _requests(order, order.registered.price, role)
    return [*_answers(order, role), *requests, *_right_to_cancel(order, role, now)]


def _answers(order: Order, role: Role) -> list[Action]:
    dispute = order.open_dispute
    if dispute is None:
        return []
    needs = {"dispute_id": dispute.dispute_id, "respond_by": format_instant(dispute.respond_by)}
    if dispute.opened_by is role:
        return [Action("Withdraw", True, dispute.kind, needs)]
    text = {"message": "optional, 1-2500 characters"}
    return [Action(answer, True, dispute.kind, needs | text) for answer in ("Accept", "Decline")]


def _requests(order: Order, price: Money, role: Role) -> list[Action]:
    texts = "1-2500 characters"
    if role is Role.CLIENT:
        return [
            _request(order, role, DisputeKind.ORDER_UPDATE, {"message": texts}),
            _request(order, role, DisputeKind.CANCELLATION, {"comment": texts, "reasons": sorted(CLIENT_REASONS)}),
        ]
    cancellation = {"comment": texts, "reasons": sorted(FREELANCER_REASONS)}
    return [
        _extension(order, role, texts),
        _refund(order, price, role, texts),
        _request(order, role, DisputeKind.CANCELLATION, cancellation),
    ]


def _extension(order: Order, role: Role, texts: str) -> Action:
    most, kind = order.terms.longest_extension_days, DisputeKind.DELIVERY_EXTENSION
    if most == 0:
        return Action("OpenDispute", False, kind, why_not="This order's terms allow no delivery extension.")
    extension = {"days": {"min": 1, "max": most}, "note": texts}
    if order.expected_delivery_at is not None:
        extension["expected_delivery_at"] = format_instant(order.expected_delivery_at)
    return _request(order, role, kind, extension)


def _refund(order: Order, price: Money, role: Role, texts: str) -> Action:
    limit, kind = order.terms.largest_refund(price.amount), DisputeKind.PARTIAL_REFUND
    if limit == 0:
        return Action("OfferPartialRefund", False, kind, why_not=no_room_for_refund(order.terms))
    refund = {
        "largest_refund": {"amount": limit, "currency": price.currency},
        "explanation": texts,
        "reasons": sorted(RefundReason),
    }
    return _request(order, role, kind, refund)


def _request(order: Order, role: Role, kind: DisputeKind, needs: dict[str, Any]) -> Action:
    command = "OfferPartialRefund" if kind is DisputeKind.PARTIAL_REFUND else "OpenDispute"
    return _guarded(lambda: must_be_free_to_request(order, kind, role), command, kind, needs)


def _right_to_cancel(order: Order, role: Role, now: datetime) -> list[Action]:
    if role is not Role.CLIENT:
        return []
    needs = {"comment": "1-2500 characters"}
    return [_guarded(lambda: must_need_no_approval(order, role, now), "CancelOrder", None, needs)]


def _guarded(guard: Callable[[], object], command: str, kind: DisputeKind | None, needs: dict[str, Any]) -> Action:
    try:
        guard()
    except Rejected as rejected:
        possible_from = rejected.details.get("possible_from")
        return Action(command, False, kind, needs, why_not=rejected.message, possible_from=possible_from)
    return Action(command, True, kind, needs)
