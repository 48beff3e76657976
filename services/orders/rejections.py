"""The rejections: for each, the contract's code, a sentence that says what to do instead, and details for programs."""

from datetime import datetime
from typing import Any

from resolution_contracts.outcomes import Code
from resolution_contracts.values import DisputeKind, Role, SettledAs, format_instant

from .events import Money
from .policy import Terms

KIND_NAMES = {
    DisputeKind.ORDER_UPDATE: "order update request",
    DisputeKind.CANCELLATION: "cancellation request",
    DisputeKind.DELIVERY_EXTENSION: "delivery extension request",
    DisputeKind.PARTIAL_REFUND: "partial refund offer",
}


NO_EXTENSIONS = "cannot be asked for: this order's terms allow no delivery extension"
"""Why no number of days is valid, if the order's terms allow none (D20)."""

_ERRORS_IN_MESSAGE = 3
"""How many errors of a command's data the message names. The details have all errors."""


class Rejected(Exception):
    """The rules refuse the command."""

    def __init__(self, code: Code, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


def invalid(errors: list[dict[str, str]]) -> Rejected:
    """The data does not fit the command. Each error has a `path` and a `reason`, but no value of the sender's (D16)."""
    named = [f"{error['path'] or 'data'} {error['reason']}" for error in errors[:_ERRORS_IN_MESSAGE]]
    more = f"; and {len(errors) - _ERRORS_IN_MESSAGE} more" if len(errors) > _ERRORS_IN_MESSAGE else ""
    return Rejected(Code.INVALID, f"Correct the command's data: {'; '.join(named)}{more}.", errors=errors)


def invalid_field(path: str, reason: str) -> Rejected:
    """One field of the data does not fit the command."""
    return invalid([{"path": path, "reason": reason}])


def order_unknown() -> Rejected:
    """Nobody registered the order."""
    return Rejected(Code.ORDER_UNKNOWN, "There is no such order; register it first, or check the order id.")


def order_exists() -> Rejected:
    """The order was registered before, with other facts or terms."""
    return Rejected(
        Code.ORDER_EXISTS,
        "This order is registered already with other facts or terms, which stay; use another order id for another "
        "order.",
    )


def order_closed(status: str) -> Rejected:
    """The order is completed or canceled (R4)."""
    return Rejected(
        Code.ORDER_CLOSED,
        f"The order is {status}, and the Resolution Center is closed for it; please contact customer support.",
    )


def invalid_transition(status: str, needed: str) -> Rejected:
    """The reported fact needs an order in another status. `needed` names the statuses that it fits."""
    return Rejected(Code.INVALID_TRANSITION, f"The order is {status}; this fact fits an order that is {needed}.")


def not_a_party() -> Rejected:
    """The actor is neither the client nor the freelancer."""
    return Rejected(Code.NOT_A_PARTY, "Only the order's client and freelancer may do this; act as one of them.")


def not_allowed(message: str) -> Rejected:
    """The rules do not allow this, for the reason in `message`."""
    return Rejected(Code.NOT_ALLOWED, message)


def dispute_open(dispute_id: str, kind: DisputeKind, *, own: bool) -> Rejected:
    """Another dispute is open (R11). `own`: whether the actor opened it, and so may withdraw it (D7)."""
    remedy = "withdraw it or wait for the answer" if own else "accept or decline it"
    return Rejected(
        Code.DISPUTE_OPEN,
        f"An open {KIND_NAMES[kind]} must end before another request can be sent; {remedy} first.",
        dispute_id=dispute_id,
        kind=kind,
    )


def dispute_unknown() -> Rejected:
    """The order has no dispute with the id in the command."""
    return Rejected(
        Code.DISPUTE_UNKNOWN, "No dispute with this id was ever opened on this order; look it up on the order page."
    )


def dispute_settled(settled_as: SettledAs) -> Rejected:
    """The dispute in the command is not open any more."""
    return Rejected(
        Code.DISPUTE_SETTLED,
        f"This dispute is already settled ({settled_as.replace('_', '-')}); nothing more can be done about it. "
        "See the order page for what is possible now.",
        settled_as=settled_as,
    )


def not_due(respond_by: datetime) -> Rejected:
    """The deadline in `ExpireDispute` is not over yet."""
    return Rejected(
        Code.NOT_DUE, f"The dispute can be answered until {format_instant(respond_by)}; ask again from then on."
    )


def approval_needed(possible_from: datetime | None) -> Rejected:
    """The client may not cancel at once (R5). `possible_from`: from when on, or None if time does not change that."""
    if possible_from is None:
        message = "A delivered order needs the freelancer's approval to be canceled; send a cancellation request."
        return Rejected(Code.APPROVAL_NEEDED, message, possible_from=None)
    return Rejected(
        Code.APPROVAL_NEEDED,
        "The order is not very late, so the freelancer has to approve; send a cancellation request, "
        f"or cancel without approval from {format_instant(possible_from)} on.",
        possible_from=format_instant(possible_from),
    )


def refund_over_limit(terms: Terms, price: Money) -> Rejected:
    """The offer is larger than the order's terms allow of this price (D9, D20)."""
    limit = terms.largest_refund(price.amount)
    if limit:
        message = (
            f"A partial refund is at most {terms.largest_refund_percent}% of the original price: "
            f"offer {limit} {price.currency} (minor units) or less."
        )
    else:
        message = f"{no_room_for_refund(terms)} Ask to cancel the order if money is to be paid back."
    return Rejected(Code.REFUND_OVER_LIMIT, message, limit={"amount": limit, "currency": price.currency})


def no_room_for_refund(terms: Terms) -> str:
    """Says why the largest refund is nothing."""
    if terms.largest_refund_percent == 0:
        return "This order's terms allow no partial refund."
    return "The price leaves no room for a refund."


def refund_already_granted() -> Rejected:
    """The order has a granted refund, and cannot get a second one (R9)."""
    return Rejected(
        Code.REFUND_ALREADY_GRANTED,
        "A partial refund was accepted on this order before, and there is one at most; "
        "request a cancellation if more is to be paid back.",
    )


def refund_unknown() -> Rejected:
    """The order has no granted refund with the id in the command."""
    return Rejected(
        Code.REFUND_UNKNOWN, "No refund with this id was granted on this order; its id is that of the accepted offer."
    )


def command_id_reused() -> Rejected:
    """The command id came before with other data (D19)."""
    return Rejected(
        Code.COMMAND_ID_REUSED,
        "This command id was used before on this order with other data; send the new command under a new id.",
    )


def command_id_of_old() -> Rejected:
    """The command id came before, but its outcome was retired, so nobody can compare the data."""
    return Rejected(
        Code.COMMAND_ID_REUSED,
        "This command id was used on this order so long ago that what came with it is not kept any more. The order "
        "page shows what it changed; send a new command under a new id.",
    )


def currency_mismatch(currency: str) -> Rejected:
    """The offer is not in `currency`, the currency of the price."""
    return Rejected(Code.CURRENCY_MISMATCH, f"The order is priced in {currency}; offer the refund in {currency}.")


def wrong_role(role: Role, verb: str) -> Rejected:
    """Only the other role may send such a request. `verb` is what the party tried to do."""
    return not_allowed(f"A {role} may not {verb}; only the {role.other} may.")


def only_in_progress(status: str, kind: DisputeKind) -> Rejected:
    """The request needs an order in progress (D12, D13)."""
    article = "an" if kind is DisputeKind.ORDER_UPDATE else "a"
    return not_allowed(f"The order is {status}; {article} {KIND_NAMES[kind]} fits an order in progress only.")
