"""The conditions for carrying out a command. Each guard raises Rejected if its condition does not hold.

`decide.py` calls the guards to judge a command, `available_actions.py` to find out what a party may do.
"""

from datetime import datetime

from resolution_contracts.commands import CancellationRequest, DeliveryExtensionRequest, OrderUpdateRequest
from resolution_contracts.values import CLIENT_REASONS, FREELANCER_REASONS, CancellationGrounds, DisputeKind, Role

from . import rejections
from .events import DisputeOpened, Money, OrderRegistered, PartialRefundGranted
from .state import CLOSED, Order, Settled, Status

# --- the order ---


def must_be_known(order: Order) -> OrderRegistered:
    """Returns the facts of an order that was registered."""
    if order.registered is None:
        raise rejections.order_unknown()
    return order.registered


def must_not_be_closed(order: Order) -> OrderRegistered:
    """Returns the facts of an order that is neither completed nor canceled (R4)."""
    facts = must_be_known(order)
    if order.status in CLOSED:
        raise rejections.order_closed(order.status)
    return facts


def must_be_in(order: Order, *statuses: Status) -> None:
    """The order has one of these statuses."""
    must_not_be_closed(order)
    if order.status not in statuses:
        raise rejections.invalid_transition(order.status, " or ".join(statuses))


# --- the party ---


def must_be_party(order: Order, actor: str) -> Role:
    """Returns the actor's role."""
    must_be_known(order)
    role = order.role_of(actor)
    if role is None:
        raise rejections.not_a_party()
    return role


# --- requests ---

_SENDER: dict[DisputeKind, Role | None] = {
    DisputeKind.ORDER_UPDATE: Role.CLIENT,
    DisputeKind.CANCELLATION: None,
    DisputeKind.DELIVERY_EXTENSION: Role.FREELANCER,
    DisputeKind.PARTIAL_REFUND: Role.FREELANCER,
}
_VERBS = {
    DisputeKind.ORDER_UPDATE: "ask for an order update",
    DisputeKind.DELIVERY_EXTENSION: "ask for a delivery extension",
    DisputeKind.PARTIAL_REFUND: "offer a partial refund",
}
_ONLY_IN_PROGRESS = (DisputeKind.ORDER_UPDATE, DisputeKind.DELIVERY_EXTENSION)


def must_be_free_to_request(order: Order, kind: DisputeKind, role: Role) -> None:
    """A party may send a request of this kind now (R6-R11, D12, D13)."""
    if _SENDER[kind] not in (None, role):
        raise rejections.wrong_role(role, _VERBS[kind])
    if kind in _ONLY_IN_PROGRESS and order.status != Status.IN_PROGRESS:
        raise rejections.only_in_progress(order.status, kind)
    if (dispute := order.open_dispute) is not None:
        raise rejections.dispute_open(dispute.dispute_id, dispute.kind, own=dispute.opened_by == role)
    if kind is DisputeKind.PARTIAL_REFUND and order.refund is not None:
        raise rejections.refund_already_granted()


def must_give_listed_reason(
    order: Order, actor: str, request: OrderUpdateRequest | CancellationRequest | DeliveryExtensionRequest
) -> None:
    """A cancellation's reason is on its party's list. The freelancer must give one, the client may leave it out."""
    if request.kind != "cancellation" or (role := order.role_of(actor)) is None:
        return
    if request.reason is None:
        if role is Role.FREELANCER:
            raise rejections.invalid_field("request.reason", "is required of the freelancer")
    elif request.reason not in (CLIENT_REASONS if role is Role.CLIENT else FREELANCER_REASONS):
        raise rejections.invalid_field("request.reason", f"is not on the {role}'s list of reasons")


def must_be_within_terms(
    order: Order, request: OrderUpdateRequest | CancellationRequest | DeliveryExtensionRequest
) -> None:
    """An extension is not longer than the order's terms allow (R7, D20)."""
    if request.kind == "delivery_extension" and request.days > (most := order.terms.longest_extension_days):
        reason = f"should be at most {most}" if most else rejections.NO_EXTENSIONS
        raise rejections.invalid_field("request.days", reason)


def must_be_within_limit(order: Order, offered: Money, price: Money) -> None:
    """The offer is at most what the order's terms allow, and in the price's currency (R8, D9, D20)."""
    if offered.currency != price.currency:
        raise rejections.currency_mismatch(price.currency)
    if offered.amount > order.terms.largest_refund(price.amount):
        raise rejections.refund_over_limit(order.terms, price)


# --- disputes and refunds that a command names ---


def must_be_answerable(order: Order, actor: str, dispute_id: str, *, ids_as_written: bool) -> DisputeOpened:
    """Returns the open dispute that the actor may accept or decline (R1)."""
    role = must_be_party(order, actor)
    dispute = must_be_dispute(order, dispute_id, ids_as_written=ids_as_written)
    if dispute.opened_by is role:
        raise rejections.not_allowed("Only the other party may answer the request; withdraw it instead.")
    return must_be_open(dispute)


def must_be_withdrawable(order: Order, actor: str, dispute_id: str, *, ids_as_written: bool) -> DisputeOpened:
    """Returns the open dispute that the actor may withdraw (R2)."""
    role = must_be_party(order, actor)
    dispute = must_be_dispute(order, dispute_id, ids_as_written=ids_as_written)
    if dispute.opened_by is not role:
        raise rejections.not_allowed("Only the party that sent the request may withdraw it; decline it instead.")
    return must_be_open(dispute)


def must_be_dispute(order: Order, dispute_id: str, *, ids_as_written: bool) -> DisputeOpened | Settled:
    """Returns the dispute with this id, open or not.

    Ids are compared without regard to letter case, unless `ids_as_written`. An id in the same spelling is preferred.
    """
    opened = order.open_dispute
    if opened is not None and opened.dispute_id == dispute_id:
        return opened
    if (settled := order.settled.get(dispute_id)) is not None:
        return settled
    if not ids_as_written:
        for known, settled in order.settled.items():
            if known.lower() == dispute_id.lower():
                return settled
        if opened is not None and opened.dispute_id.lower() == dispute_id.lower():
            return opened
    raise rejections.dispute_unknown()


def must_be_open(dispute: DisputeOpened | Settled) -> DisputeOpened:
    """Returns the dispute, which is not settled."""
    if isinstance(dispute, Settled):
        raise rejections.dispute_settled(dispute.settled_as)
    return dispute


def must_be_granted(order: Order, refund_id: str, *, ids_as_written: bool) -> PartialRefundGranted:
    """Returns the granted refund with this id."""
    refund = order.refund
    if refund is not None and refund.refund_id == refund_id:
        return refund
    if refund is not None and not ids_as_written and refund.refund_id.lower() == refund_id.lower():
        return refund
    raise rejections.refund_unknown()


# --- the client's right ---


def must_need_no_approval(order: Order, role: Role, now: datetime) -> CancellationGrounds:
    """Returns the grounds on which the client may cancel at once (R5, D5, D14)."""
    if role is not Role.CLIENT:
        raise rejections.not_allowed(
            "Only the client may cancel without approval; send a cancellation request instead."
        )
    if order.status == Status.AWAITING_REQUIREMENTS:
        return CancellationGrounds.AWAITING_REQUIREMENTS
    if order.status == Status.DELIVERED or order.expected_delivery_at is None:
        raise rejections.approval_needed(None)
    very_late_at = order.expected_delivery_at + order.terms.very_late_after
    if now < very_late_at:
        raise rejections.approval_needed(very_late_at)
    return CancellationGrounds.VERY_LATE
