"""Why a command is refused: the contract's code, a sentence for a person that says what to do instead, details."""

from datetime import datetime
from typing import Any

from resolution_contracts.outcomes import Code
from resolution_contracts.values import DisputeKind, Role, SettledAs, format_instant

KIND_NAMES = {
    DisputeKind.ORDER_UPDATE: "order update request",
    DisputeKind.CANCELLATION: "cancellation request",
    DisputeKind.DELIVERY_EXTENSION: "delivery extension request",
    DisputeKind.PARTIAL_REFUND: "partial refund offer",
}


_TOLD = 3
"""How many of the errors in a command's data its message tells. All are in the details."""


class Rejected(Exception):
    """A command that the rules refuse."""

    def __init__(self, code: Code, message: str, **details: Any) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details


def invalid(errors: list[dict[str, str]]) -> Rejected:
    """`errors`: path and reason of each. They name no value that the sender sent (D16)."""
    told = [f"{error['path'] or 'data'} {error['reason']}" for error in errors[:_TOLD]]
    more = f"; and {len(errors) - _TOLD} more" if len(errors) > _TOLD else ""
    return Rejected(Code.INVALID, f"Correct the command's data: {'; '.join(told)}{more}.", errors=errors)


def invalid_field(path: str, reason: str) -> Rejected:
    return invalid([{"path": path, "reason": reason}])


def order_unknown() -> Rejected:
    return Rejected(Code.ORDER_UNKNOWN, "There is no such order; register it first, or check the order id.")


def order_exists() -> Rejected:
    return Rejected(
        Code.ORDER_EXISTS,
        "This order is registered already with other facts, which stay; use another order id for another order.",
    )


def order_closed(status: str) -> Rejected:
    return Rejected(
        Code.ORDER_CLOSED,
        f"The order is {status}, and the Resolution Center is closed for it; please contact customer support.",
    )


def invalid_transition(status: str, needed: str) -> Rejected:
    return Rejected(Code.INVALID_TRANSITION, f"The order is {status}; this fact fits an order that is {needed}.")


def not_a_party() -> Rejected:
    return Rejected(Code.NOT_A_PARTY, "Only the order's client and freelancer may do this; act as one of them.")


def not_allowed(message: str) -> Rejected:
    return Rejected(Code.NOT_ALLOWED, message)


def dispute_open(dispute_id: str, kind: DisputeKind, *, own: bool) -> Rejected:
    """`own`: whether the actor opened the one that stands in the way, and so can withdraw it (D6)."""
    remedy = "withdraw it or wait for the answer" if own else "accept or decline it"
    return Rejected(
        Code.DISPUTE_OPEN,
        f"An open {KIND_NAMES[kind]} must end before another request can be sent; {remedy} first.",
        dispute_id=dispute_id,
        kind=kind,
    )


def dispute_unknown() -> Rejected:
    return Rejected(
        Code.DISPUTE_UNKNOWN, "No dispute with this id was ever opened on this order; look it up on the order page."
    )


def dispute_settled(settled_as: SettledAs) -> Rejected:
    return Rejected(
        Code.DISPUTE_SETTLED,
        f"This dispute is already settled ({settled_as.replace('_', '-')}); nothing more can be done about it. "
        "See the order page for what is possible now.",
        settled_as=settled_as,
    )


def not_due(respond_by: datetime) -> Rejected:
    return Rejected(
        Code.NOT_DUE, f"The dispute can be answered until {format_instant(respond_by)}; ask again from then on."
    )


def approval_needed(possible_from: datetime | None) -> Rejected:
    if possible_from is None:
        message = "A delivered order needs the freelancer's approval to be canceled; send a cancellation request."
        return Rejected(Code.APPROVAL_NEEDED, message, possible_from=None)
    return Rejected(
        Code.APPROVAL_NEEDED,
        "The order is not very late, so the freelancer has to approve; send a cancellation request, "
        f"or cancel without approval from {format_instant(possible_from)} on.",
        possible_from=format_instant(possible_from),
    )


def refund_over_limit(limit: int, currency: str) -> Rejected:
    return Rejected(
        Code.REFUND_OVER_LIMIT,
        f"A partial refund is at most 60% of the original price: offer {limit} {currency} (minor units) or less.",
        limit={"amount": limit, "currency": currency},
    )


def refund_already_granted() -> Rejected:
    return Rejected(
        Code.REFUND_ALREADY_GRANTED,
        "A partial refund was accepted on this order before, and there is one at most; "
        "request a cancellation if more is to be paid back.",
    )


def refund_unknown() -> Rejected:
    return Rejected(
        Code.REFUND_UNKNOWN, "No refund with this id was granted on this order; its id is that of the accepted offer."
    )


def command_id_reused() -> Rejected:
    return Rejected(
        Code.COMMAND_ID_REUSED,
        "This command id was used before on this order with other data; send the new command under a new id.",
    )


def command_id_of_old() -> Rejected:
    return Rejected(
        Code.COMMAND_ID_REUSED,
        "This command id was used on this order so long ago that what came with it is not kept any more. The order "
        "page shows what it changed; send a new command under a new id.",
    )


def currency_mismatch(currency: str) -> Rejected:
    return Rejected(Code.CURRENCY_MISMATCH, f"The order is priced in {currency}; offer the refund in {currency}.")


def wrong_role(role: Role, verb: str) -> Rejected:
    return not_allowed(f"A {role} may not {verb}; only the {role.other} may.")


def only_in_progress(status: str, kind: DisputeKind) -> Rejected:
    return not_allowed(f"The order is {status}; a {KIND_NAMES[kind]} fits an order in progress only.")
