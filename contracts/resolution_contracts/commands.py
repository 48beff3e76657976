"""The commands that other services may send. Each class describes the `data` of one command."""

from typing import Annotated, ClassVar, Literal, Self

from pydantic import Field, model_validator

from . import topics
from .terms import Terms
from .values import Amount, CancellationReason, Id, Instant, Message, RefundReason, Text


class Command(Message):
    """Base of all commands. `version` is the version on the wire. Each later version has its own class."""

    version: ClassVar[int] = 1

    @classmethod
    def type(cls) -> str:
        """Returns the CloudEvents type, such as `resolution.command.Accept.v1`."""
        return topics.command_type(cls.__name__.removesuffix(f"V{cls.version}"), cls.version)


class RegisterOrder(Command):
    """The order service: this order exists from now on."""

    client_id: Id
    freelancer_id: Id
    price: Amount
    expected_delivery_at: Instant | None = None
    awaiting_requirements: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.expected_delivery_at is None and not self.awaiting_requirements:
            raise ValueError("needs expected_delivery_at, unless the order awaits requirements")
        if self.client_id == self.freelancer_id:
            raise ValueError("should have a client_id and a freelancer_id that differ")
        return self


class RecordRequirementsSubmitted(Command):
    """The order service: work starts. The date is optional if one was registered."""

    expected_delivery_at: Instant | None = None


class RecordDelivery(Command):
    """The order service: the freelancer delivered."""


class RecordRevisionRequested(Command):
    """The order service: the client asked for a revision. A delivered order is in progress again."""


class RecordCompletion(Command):
    """The order service: the order is completed."""


class RecordCancellation(Command):
    """The order service: the order was canceled outside the Resolution Center."""

    comment: Text | None = None


class RecordRefundProcessed(Command):
    """The payment service: a granted refund was paid."""

    refund_id: Id


class OrderUpdateRequest(Message):
    """The client asks for an update on the order (R6)."""

    kind: Literal["order_update"]
    message: Text


class CancellationRequest(Message):
    """Either party asks to cancel by agreement (R6, R10). The reason is optional for the client."""

    kind: Literal["cancellation"]
    comment: Text
    reason: CancellationReason | None = None


class DeliveryExtensionRequest(Message):
    """The freelancer asks for more days, added to the delivery date (R7). The order's terms say how many at most."""

    kind: Literal["delivery_extension"]
    days: Annotated[int, Field(ge=1, le=365)]
    note: Text


DisputeRequest = Annotated[
    OrderUpdateRequest | CancellationRequest | DeliveryExtensionRequest, Field(discriminator="kind")
]


class OpenDispute(Command):
    """A party sends a request to the other party. The order's terms say how long that party has to answer (R1)."""

    actor: Id
    request: DisputeRequest


class OfferPartialRefund(Command):
    """The freelancer offers a part of the original price back (R8). The reason is confidential.

    The order's terms say how much at most.
    """

    actor: Id
    amount: Amount
    explanation: Text
    reason: RefundReason


class Accept(Command):
    """The other party accepts. For an order update, `message` is the update (D8)."""

    actor: Id
    dispute_id: Id
    message: Text | None = None


class Decline(Command):
    """The other party declines."""

    actor: Id
    dispute_id: Id
    message: Text | None = None


class Withdraw(Command):
    """The requester takes the request back (R2)."""

    actor: Id
    dispute_id: Id


class CancelOrder(Command):
    """The client cancels at once, without approval, where the rules allow it (R5)."""

    actor: Id
    comment: Text


class ExpireDispute(Command):
    """The timer: the time to answer this dispute is over (R3)."""

    dispute_id: Id


class EraseOrderTexts(Command):
    """An operator: destroys all that people wrote on this order, and its confidential reasons.

    It is allowed in every state of the order. The order's events stay, without their texts. An erasure is final.
    """


COMMANDS: dict[str, type[Command]] = {command.__name__: command for command in Command.__subclasses__()}
"""The first version of every command, by its name on the wire."""


class RegisterOrderV2(RegisterOrder):
    """The order service: this order exists from now on, under these terms (D20).

    What is missing is as on the help page. Without terms it is the same as version 1.
    """

    version = 2

    terms: Terms | None = None


class OfferPartialRefundV2(Command):
    """The freelancer offers a part of the original price back (R8): an `amount`, or `percent` of the price.

    The order's terms say how much at most. A percentage is rounded down to a whole number of minor units, so that the
    largest one is always within the limit (D9). The reason is confidential.
    """

    version = 2

    actor: Id
    amount: Amount | None = None
    percent: Annotated[int, Field(ge=1, le=100)] | None = None
    explanation: Text
    reason: RefundReason

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if (self.amount is None) is (self.percent is None):
            raise ValueError("should have either amount or percent")
        return self


V2_COMMANDS: dict[str, type[Command]] = {
    "RegisterOrder": RegisterOrderV2,
    "OfferPartialRefund": OfferPartialRefundV2,
}
"""The second versions, by name. The service accepts both versions."""

COMMAND_TYPES: dict[str, type[Command]] = {
    command.type(): command for command in (*COMMANDS.values(), *V2_COMMANDS.values())
}
"""Every command in every version, by its CloudEvents type."""
