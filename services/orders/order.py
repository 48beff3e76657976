"""The order aggregate: its state, and one method per command, in the order of the help page.

Time is an argument everywhere. Every command goes through `handle`, which first brings out an auto-acceptance that
is due (D3). Guards come first, in the order of the contract's codes; then the event.
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

import msgspec
from resolution_contracts.commands import (
    Accept,
    CancellationRequest,
    CancelOrder,
    Command,
    Decline,
    DeliveryExtensionRequest,
    EraseOrderTexts,
    ExpireDispute,
    OfferPartialRefund,
    OfferPartialRefundV2,
    OpenDispute,
    OrderUpdateRequest,
    RecordCancellation,
    RecordCompletion,
    RecordDelivery,
    RecordRefundProcessed,
    RecordRequirementsSubmitted,
    RecordRevisionRequested,
    RegisterOrder,
    Withdraw,
)
from resolution_contracts.values import (
    CLIENT_REASONS,
    FREELANCER_REASONS,
    CancellationGrounds,
    ClosedBecause,
    DisputeKind,
    Initiator,
    Role,
)

from . import evolve, policy, rejections
from .events import (
    Accepted,
    AutoAccepted,
    Declined,
    DeliveryDateExtended,
    DisputeClosed,
    DisputeOpened,
    Event,
    Money,
    OrderCanceled,
    OrderCompleted,
    OrderDelivered,
    OrderRegistered,
    OrderTextsErased,
    PartialRefundGranted,
    RefundProcessed,
    RequirementsSubmitted,
    RevisionRequested,
    Withdrawn,
)
from .state import CLOSED, Settled, Status


class Order(msgspec.Struct, dict=True):
    """An order and its disputes, as its events left it. An order nobody registered has version 0."""

    id: str
    version: int = 0
    status: Status = Status.UNKNOWN
    registered: OrderRegistered | None = None
    expected_delivery_at: datetime | None = None
    open_dispute: DisputeOpened | None = None
    settled: dict[str, Settled] = {}
    refund: PartialRefundGranted | None = None
    refund_processed: bool = False
    has_texts: bool = False
    last_event_at: datetime | None = None

    def __post_init__(self) -> None:
        self.pending: list[Event] = []
        self._cause = ""
        self._now: datetime | None = None
        self._ids_as_written = False

    # --- the one door ---

    def handle(
        self,
        command: Command | rejections.Rejected,
        command_id: str,
        now: datetime,
        *,
        ids_as_written: bool = False,
    ) -> None:
        """Judges a command at the business time `now` (see `business_time`).

        Disputes are named without regard to letter case, or by their `ids_as_written`, as earlier versions compared.

        What follows from it is in `pending`, and stays there when the command is rejected: a due auto-acceptance
        holds all the same (D3). A command that its schema refused comes as the rejection it gets. Raises Rejected.
        """
        self._cause = command_id
        self._now = now
        self._ids_as_written = ids_as_written
        self.settle_if_due(now)
        if isinstance(command, rejections.Rejected):
            raise command
        _HANDLERS[type(command)](self, command)

    def business_time(self, record_time: datetime) -> datetime:
        """The record's time, never earlier than the order's last event (D1)."""
        return record_time if self.last_event_at is None else max(record_time, self.last_event_at)

    def settle_if_due(self, now: datetime) -> None:
        """At or after `respond_by` the open dispute is auto-accepted, as of `respond_by` (R3, D2, D3)."""
        dispute = self.open_dispute
        if dispute is None or now < dispute.respond_by:
            return
        deadline = dispute.respond_by
        self._trigger(AutoAccepted, at=deadline, dispute_id=dispute.dispute_id, kind=dispute.kind, deadline=deadline)
        self._carry_out(dispute, CancellationGrounds.AUTO_ACCEPTED, at=deadline)

    # --- facts from other services ---

    def register(self, command: RegisterOrder) -> None:
        price = Money(command.price.amount, command.price.currency)
        facts = (command.client_id, command.freelancer_id, price)
        terms = (command.expected_delivery_at, command.awaiting_requirements)
        known = self.registered
        if known is None:
            self._trigger(
                OrderRegistered,
                client_id=command.client_id,
                freelancer_id=command.freelancer_id,
                price=price,
                expected_delivery_at=command.expected_delivery_at,
                awaiting_requirements=command.awaiting_requirements,
            )
        elif (known.client_id, known.freelancer_id, known.price) != facts or (
            known.expected_delivery_at,
            known.awaiting_requirements,
        ) != terms:
            raise rejections.order_exists()

    def record_requirements_submitted(self, command: RecordRequirementsSubmitted) -> None:
        self._must_be_in(Status.AWAITING_REQUIREMENTS)
        expected = command.expected_delivery_at or self.expected_delivery_at
        if expected is None:
            raise rejections.invalid_field("expected_delivery_at", "is required: none was registered with the order")
        self._trigger(RequirementsSubmitted, expected_delivery_at=expected)

    def record_delivery(self, command: RecordDelivery) -> None:
        """Delivers what an extension or an update was about; a cancellation or refund stays open (D11, D12)."""
        self._must_be_in(Status.IN_PROGRESS)
        dispute = self.open_dispute
        if dispute and dispute.kind in (DisputeKind.DELIVERY_EXTENSION, DisputeKind.ORDER_UPDATE):
            self._close(dispute, ClosedBecause.ORDER_DELIVERED)
        self._trigger(OrderDelivered)

    def record_revision_requested(self, command: RecordRevisionRequested) -> None:
        self._must_be_in(Status.DELIVERED)
        self._trigger(RevisionRequested)

    def record_completion(self, command: RecordCompletion) -> None:
        self._must_be_in(Status.IN_PROGRESS, Status.DELIVERED)
        if self.open_dispute:
            self._close(self.open_dispute, ClosedBecause.ORDER_COMPLETED)
        self._trigger(OrderCompleted)

    def record_cancellation(self, command: RecordCancellation) -> None:
        self._must_not_be_closed()
        self._cancel(Initiator.ORDER_SERVICE, CancellationGrounds.EXTERNAL, comment=command.comment)

    def record_refund_processed(self, command: RecordRefundProcessed) -> None:
        """Fits every state, also after the end of the order; the second time changes nothing (D10)."""
        self._must_be_known()
        if self.refund is None or not self._is_same(self.refund.refund_id, command.refund_id):
            raise rejections.refund_unknown()
        if not self.refund_processed:
            self._trigger(RefundProcessed, refund_id=self.refund.refund_id)

    # --- for operators ---

    def erase_texts(self, command: EraseOrderTexts) -> None:
        """Fits every state, also with an open dispute; where there is nothing to erase it changes nothing."""
        self._must_be_known()
        if self.has_texts:
            self._trigger(OrderTextsErased)

    # --- requests (R1, R6-R8, R10) ---

    def open(self, command: OpenDispute) -> None:
        """A party sends a request: an update (R6), an extension (R7), a cancellation (R6, R10)."""
        self._must_be_known()
        request, role = command.request, self.find_role(command.actor)
        if isinstance(request, CancellationRequest) and role is not None:
            _check_reason(request, role)
        self.check_may_request(DisputeKind(request.kind), self._actor(role))
        match request:
            case OrderUpdateRequest():
                self._open(DisputeKind.ORDER_UPDATE, message=request.message)
            case CancellationRequest():
                self._open(DisputeKind.CANCELLATION, role, comment=request.comment, reason=request.reason)
            case DeliveryExtensionRequest():
                self._open(DisputeKind.DELIVERY_EXTENSION, days=request.days, note=request.note)

    def offer_partial_refund(self, command: OfferPartialRefund | OfferPartialRefundV2) -> None:
        """The freelancer offers up to 60% of the original price (R8, D9); one granted at most (R9)."""
        self._must_be_known()
        self.check_may_request(DisputeKind.PARTIAL_REFUND, self._actor(self.find_role(command.actor)))
        price = self.facts.price
        amount = self._offered(command)
        if amount.currency != price.currency:
            raise rejections.currency_mismatch(price.currency)
        limit = policy.largest_refund(price.amount)
        if amount.amount > limit:
            raise rejections.refund_over_limit(limit, price.currency)
        self._open(
            DisputeKind.PARTIAL_REFUND,
            amount=amount,
            explanation=command.explanation,
            refund_reason=command.reason,
        )

    def _offered(self, command: OfferPartialRefund | OfferPartialRefundV2) -> Money:
        if isinstance(command, OfferPartialRefundV2) and command.percent is not None:
            price = self.facts.price
            amount = policy.share(price.amount, command.percent)
            if amount == 0:
                raise rejections.not_allowed(f"{command.percent} percent of the price is less than one minor unit.")
            return Money(amount, price.currency)
        assert command.amount is not None
        return Money(command.amount.amount, command.amount.currency)

    def check_may_request(self, kind: DisputeKind, role: Role) -> None:
        """Whether a party may send a request of this kind now. Raises Rejected (R4, R6-R11, D12, D13)."""
        self._must_not_be_closed()
        sender = _SENDER[kind]
        if sender not in (None, role):
            raise rejections.wrong_role(role, _VERBS[kind])
        if kind in (DisputeKind.ORDER_UPDATE, DisputeKind.DELIVERY_EXTENSION) and self.status != Status.IN_PROGRESS:
            raise rejections.not_allowed(
                f"The order is {self.status}; a {rejections.KIND_NAMES[kind]} fits an order in progress only."
            )
        if (dispute := self.open_dispute) is not None:
            raise rejections.dispute_open(dispute.dispute_id, dispute.kind, own=dispute.opened_by == role)
        if kind is DisputeKind.PARTIAL_REFUND and self.refund is not None:
            raise rejections.refund_already_granted()

    # --- answers (R1-R3) ---

    def accept(self, command: Accept) -> None:
        """The other party accepts in time (R1, D2, D7), and what was asked for happens."""
        dispute = self._answerable(command.dispute_id, command.actor)
        by = dispute.opened_by.other
        self._trigger(Accepted, dispute_id=dispute.dispute_id, kind=dispute.kind, by=by, message=command.message)
        self._carry_out(dispute, CancellationGrounds.AGREEMENT)

    def decline(self, command: Decline) -> None:
        """The other party declines in time (R1, D2, D7); nothing follows, and a new request may be sent."""
        dispute = self._answerable(command.dispute_id, command.actor)
        by = dispute.opened_by.other
        self._trigger(Declined, dispute_id=dispute.dispute_id, kind=dispute.kind, by=by, message=command.message)

    def withdraw(self, command: Withdraw) -> None:
        """The requester takes it back until it is answered (R2, D7)."""
        role = self._party(command.actor)
        dispute_id = self._dispute_named(command.dispute_id)
        if self._opened_by(dispute_id) is not role:
            raise rejections.not_allowed("Only the party that sent the request may withdraw it; decline it instead.")
        dispute = self._still_open(dispute_id)
        self._trigger(Withdrawn, dispute_id=dispute.dispute_id, kind=dispute.kind, by=role)

    def expire(self, command: ExpireDispute) -> None:
        """The timer's nudge. What was due is out by now (D3); a dispute settled otherwise needs nothing."""
        self._must_be_known()
        dispute_id = self._dispute_named(command.dispute_id)
        dispute = self.open_dispute
        if dispute is not None and dispute.dispute_id == dispute_id:
            raise rejections.not_due(dispute.respond_by)

    # --- the client's right (R5) ---

    def cancel(self, command: CancelOrder) -> None:
        """At once, whatever dispute is open (D6)."""
        self._must_be_known()
        self._must_not_be_closed()
        grounds = self.check_may_cancel(self._party(command.actor), self._time)
        self._cancel(Initiator.CLIENT, grounds, comment=command.comment)

    def check_may_cancel(self, role: Role, now: datetime) -> CancellationGrounds:
        """The grounds on which the client needs no approval now (R5, D5, D14). Raises Rejected."""
        self._must_not_be_closed()
        if role is not Role.CLIENT:
            raise rejections.not_allowed(
                "Only the client may cancel without approval; send a cancellation request instead."
            )
        if self.status == Status.AWAITING_REQUIREMENTS:
            return CancellationGrounds.AWAITING_REQUIREMENTS
        if self.status == Status.DELIVERED or self.expected_delivery_at is None:
            raise rejections.approval_needed(None)
        very_late_at = self.expected_delivery_at + policy.VERY_LATE_AFTER
        if now < very_late_at:
            raise rejections.approval_needed(very_late_at)
        return CancellationGrounds.VERY_LATE

    # --- what follows ---

    def _open(self, kind: DisputeKind, role: Role | None = None, **request: Any) -> None:
        opened_by = _SENDER[kind] or role
        self._trigger(
            DisputeOpened,
            dispute_id=self._cause,
            kind=kind,
            opened_by=opened_by,
            respond_by=self._time + policy.RESPONSE_WINDOW,
            **request,
        )

    def _carry_out(self, dispute: DisputeOpened, grounds: CancellationGrounds, at: datetime | None = None) -> None:
        """What was asked for happens, directly after its acceptance. An update has no consequence (D8)."""
        dispute_id = dispute.dispute_id
        match dispute.kind:
            case DisputeKind.CANCELLATION:
                initiator = Initiator(dispute.opened_by)
                self._cancel(initiator, grounds, dispute_id=dispute_id, comment=str(dispute.comment), at=at)
            case DisputeKind.DELIVERY_EXTENSION:
                assert self.expected_delivery_at is not None
                assert isinstance(dispute.days, int)
                date = policy.extended(self.expected_delivery_at, dispute.days)
                self._trigger(
                    DeliveryDateExtended, at=at, dispute_id=dispute_id, days=dispute.days, expected_delivery_at=date
                )
            case DisputeKind.PARTIAL_REFUND:
                self._trigger(PartialRefundGranted, at=at, refund_id=dispute_id, amount=dispute.amount)

    def _cancel(
        self,
        initiator: Initiator,
        grounds: CancellationGrounds,
        *,
        dispute_id: str | None = None,
        comment: str | None,
        at: datetime | None = None,
    ) -> None:
        """Cancels; what is due back is the price less a granted refund (D10), and which count is D15."""
        if self.open_dispute:
            self._close(self.open_dispute, ClosedBecause.ORDER_CANCELED)
        external = grounds is CancellationGrounds.EXTERNAL
        price, granted = self.facts.price, self.refund.amount.amount if self.refund else 0
        self._trigger(
            OrderCanceled,
            at=at,
            initiated_by=initiator,
            dispute_id=dispute_id,
            grounds=grounds,
            affects_metrics=not external and grounds is not CancellationGrounds.AWAITING_REQUIREMENTS,
            refund_due=None if external else Money(price.amount - granted, price.currency),
            comment=comment,
        )

    def _close(self, dispute: DisputeOpened, because: ClosedBecause) -> None:
        self._trigger(DisputeClosed, dispute_id=dispute.dispute_id, kind=dispute.kind, because=because)

    def _trigger(self, event_type: type[Event], at: datetime | None = None, **fields: Any) -> None:
        event = event_type(
            originator_id=self.id,
            originator_version=self.version + 1,
            timestamp=at or self._time,
            command_id=self._cause,
            **fields,
        )
        evolve.evolve(self, event)
        self.pending.append(event)

    # --- guards and look-ups ---

    @property
    def facts(self) -> OrderRegistered:
        """What was registered. Raises Rejected (`order_unknown`)."""
        self._must_be_known()
        assert self.registered is not None
        return self.registered

    @property
    def _time(self) -> datetime:
        assert self._now is not None, "time comes with the command: call handle()"
        return self._now

    def find_role(self, actor: str) -> Role | None:
        """The party that a user is, or None for a stranger."""
        facts = self.facts
        if actor == facts.client_id:
            return Role.CLIENT
        return Role.FREELANCER if actor == facts.freelancer_id else None

    def _party(self, actor: str) -> Role:
        role = self.find_role(actor)
        if role is None:
            raise rejections.not_a_party()
        return role

    def _actor(self, role: Role | None) -> Role:
        self._must_not_be_closed()
        if role is None:
            raise rejections.not_a_party()
        return role

    def _must_be_known(self) -> None:
        if self.registered is None:
            raise rejections.order_unknown()

    def _must_not_be_closed(self) -> None:
        self._must_be_known()
        if self.status in CLOSED:
            raise rejections.order_closed(self.status)

    def _must_be_in(self, *statuses: Status) -> None:
        self._must_not_be_closed()
        if self.status not in statuses:
            raise rejections.invalid_transition(self.status, " or ".join(statuses))

    def _dispute_named(self, dispute_id: str) -> str:
        """A dispute's id as it is stored."""
        known = [*self.settled, *([] if self.open_dispute is None else [self.open_dispute.dispute_id])]
        if dispute_id in known:
            return dispute_id
        for one in known:
            if self._is_same(one, dispute_id):
                return one
        raise rejections.dispute_unknown()

    def _is_same(self, stored: str, named: str) -> bool:
        return stored == named or (not self._ids_as_written and stored.lower() == named.lower())

    def _opened_by(self, dispute_id: str) -> Role:
        dispute = self.open_dispute
        if dispute is not None and dispute.dispute_id == dispute_id:
            return dispute.opened_by
        return self.settled[dispute_id].opened_by

    def _still_open(self, dispute_id: str) -> DisputeOpened:
        if (settled := self.settled.get(dispute_id)) is not None:
            raise rejections.dispute_settled(settled.settled_as)
        assert self.open_dispute is not None
        return self.open_dispute

    def _answerable(self, dispute_id: str, actor: str) -> DisputeOpened:
        role = self._party(actor)
        dispute_id = self._dispute_named(dispute_id)
        if self._opened_by(dispute_id) is role:
            raise rejections.not_allowed("Only the other party may answer the request; withdraw it instead.")
        return self._still_open(dispute_id)

    # --- the library's side ---

    def collect_events(self) -> list[Event]:
        """Hands over the pending events."""
        events, self.pending = self.pending, []
        return events

    @classmethod
    def project(cls, order: "Order | None", events: Iterable[Event]) -> "Order | None":
        """Replays events: a projector function for the library's repository. None if there is nothing."""
        for event in events:
            order = order or cls(id=event.originator_id)
            evolve.evolve(order, event)
        return order


def _check_reason(request: CancellationRequest, role: Role) -> None:
    """Reasons are a closed list for each party; a freelancer has to give one."""
    allowed = CLIENT_REASONS if role is Role.CLIENT else FREELANCER_REASONS
    if request.reason is None and role is Role.FREELANCER:
        raise rejections.invalid_field("request.reason", "is required of the freelancer")
    if request.reason is not None and request.reason not in allowed:
        raise rejections.invalid_field("request.reason", f"is not on the {role}'s list of reasons")


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

_HANDLERS: dict[type[Command], Callable[[Order, Any], None]] = {
    RegisterOrder: Order.register,
    RecordRequirementsSubmitted: Order.record_requirements_submitted,
    RecordDelivery: Order.record_delivery,
    RecordRevisionRequested: Order.record_revision_requested,
    RecordCompletion: Order.record_completion,
    RecordCancellation: Order.record_cancellation,
    RecordRefundProcessed: Order.record_refund_processed,
    OpenDispute: Order.open,
    OfferPartialRefund: Order.offer_partial_refund,
    OfferPartialRefundV2: Order.offer_partial_refund,
    Accept: Order.accept,
    Decline: Order.decline,
    Withdraw: Order.withdraw,
    CancelOrder: Order.cancel,
    ExpireDispute: Order.expire,
    EraseOrderTexts: Order.erase_texts,
}
