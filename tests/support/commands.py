"""Commands for the tests of the running service."""

from datetime import UTC, datetime, timedelta
from typing import Any

from resolution_contracts import (
    CancellationRequest,
    DeliveryExtensionRequest,
    Money,
    OfferPartialRefund,
    OpenDispute,
    OrderUpdateRequest,
    RefundReason,
    RegisterOrder,
)

CLIENT, FREELANCER = "client-1", "freelancer-1"


def register(price: int = 10_000, **facts: Any) -> RegisterOrder:
    defaults = {"expected_delivery_at": datetime.now(UTC) + timedelta(days=5)}
    return RegisterOrder(
        client_id=CLIENT, freelancer_id=FREELANCER, price=Money(amount=price, currency="USD"), **(defaults | facts)
    )


def ask_update() -> OpenDispute:
    return OpenDispute(actor=CLIENT, request=OrderUpdateRequest(kind="order_update", message="How is it going?"))


def ask_extension(days: int = 3) -> OpenDispute:
    request = DeliveryExtensionRequest(kind="delivery_extension", days=days, note="The fonts are late.")
    return OpenDispute(actor=FREELANCER, request=request)


def ask_cancellation() -> OpenDispute:
    return OpenDispute(actor=CLIENT, request=CancellationRequest(kind="cancellation", comment="Plans changed."))


def offer_refund(amount: int = 1_000) -> OfferPartialRefund:
    return OfferPartialRefund(
        actor=FREELANCER,
        amount=Money(amount=amount, currency="USD"),
        explanation="One draft is late.",
        reason=RefundReason.MINOR_DISSATISFACTION,
    )
