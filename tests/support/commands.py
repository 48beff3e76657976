"""Commands for the tests of the running service."""

import random
from datetime import UTC, datetime, timedelta
from typing import Any

from resolution_contracts import (
    CancellationRequest,
    CancelOrder,
    DeliveryExtensionRequest,
    Money,
    OfferPartialRefund,
    OpenDispute,
    OrderUpdateRequest,
    RefundReason,
    RegisterOrder,
)
from resolution_contracts.commands import OfferPartialRefundV2, RegisterOrderV2

CLIENT, FREELANCER = "client-1", "freelancer-1"

_TERMS: dict[str, list[Any]] = {
    "response_hours": [1, 12, 24, 47, 72, 96],
    "very_late_after_hours": [0, 1, 24, 72, 720],
    "longest_extension_days": [0, 1, 45, 60, 90, 365],
    "largest_refund_percent": [0, 1, 60, 61, 99, 100],
    "name": [None, "gold", "spring-2026"],
}


def register(price: int = 10_000, **facts: Any) -> RegisterOrder:
    """Registers an order. With `terms`, a dictionary or None, it is the second version of the command."""
    defaults = {"expected_delivery_at": datetime.now(UTC) + timedelta(days=5)}
    version = RegisterOrderV2 if "terms" in facts else RegisterOrder
    return version(
        client_id=CLIENT, freelancer_id=FREELANCER, price=Money(amount=price, currency="USD"), **(defaults | facts)
    )


def register_under_some_terms(dice: random.Random, **facts: Any) -> RegisterOrder:
    """Registers an order under the help page's terms or others, of which any may be missing (D20).

    There are at most 96 hours to answer, so that a test at a fast scale can wait for all deadlines.
    """
    if dice.random() < 0.3:
        return register(**facts)
    own = {name: dice.choice(values) for name, values in _TERMS.items() if dice.random() < 0.6}
    return register(terms=own or None, **facts)


def ask_update() -> OpenDispute:
    return OpenDispute(actor=CLIENT, request=OrderUpdateRequest(kind="order_update", message="How is it going?"))


def ask_extension(days: int = 3) -> OpenDispute:
    request = DeliveryExtensionRequest(kind="delivery_extension", days=days, note="The fonts are late.")
    return OpenDispute(actor=FREELANCER, request=request)


def cancel_order() -> CancelOrder:
    return CancelOrder(actor=CLIENT, comment="It is too late.")


def ask_cancellation() -> OpenDispute:
    return OpenDispute(actor=CLIENT, request=CancellationRequest(kind="cancellation", comment="Plans changed."))


def offer_refund(amount: int = 1_000) -> OfferPartialRefund:
    return OfferPartialRefund(
        actor=FREELANCER,
        amount=Money(amount=amount, currency="USD"),
        explanation="One draft is late.",
        reason=RefundReason.MINOR_DISSATISFACTION,
    )


def offer_share(percent: int) -> OfferPartialRefundV2:
    """Offers a percentage of the price."""
    reason = RefundReason.MINOR_DISSATISFACTION
    return OfferPartialRefundV2(actor=FREELANCER, percent=percent, explanation="One draft is late.", reason=reason)
