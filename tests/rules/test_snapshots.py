"""What a snapshot may hold, and which ones are believed; that they give the same is in `test_against_the_oracle.py`."""

from typing import get_args, get_type_hints

import pytest
from resolution_contracts import Command, EraseOrderTexts

from services.eventstore import snapshots
from services.eventstore.snapshots import decode_state, encode_state, snapshot_version
from services.orders import Order, events
from services.orders.events import OrderRegistered, PartialRefundGranted
from services.orders.texts import ERASED, WITH_TEXTS
from tests.rules.logs import Service
from tests.rules.test_confidential import MARKER, assert_not_marked
from tests.support.controls import (
    CLIENT,
    DAYS,
    FREELANCER,
    HOURS,
    ORDER,
    STRANGER,
    T,
    accept,
    cancel,
    cancellation,
    command_id,
    decline,
    delivered,
    expire,
    extension,
    opened,
    order_update,
    refund_offer,
    refunded,
    registered,
    revised,
    withdraw,
)

REASON = "delay_compensation"
CANCELLATION = cancellation("conduct", MARKER)


def refund() -> Command:
    return refund_offer(reason=REASON, explanation=MARKER)


def written_all_over() -> list[Command]:
    """Each kind of request, and each way to end one, with texts wherever there can be any."""
    ids = [command_id(number) for number in range(30)]
    return [
        registered(),
        *(refund(), decline(ids[1], CLIENT, MARKER)),
        *(opened(order_update(MARKER)), accept(ids[3], FREELANCER, MARKER)),
        *(opened(extension(5, MARKER)), accept(ids[5], CLIENT, MARKER)),
        EraseOrderTexts(),
        *(opened(CANCELLATION, FREELANCER), delivered(), revised(), withdraw(ids[8], FREELANCER)),
        *(opened(extension(5, MARKER)), EraseOrderTexts(), delivered(), revised()),
        *(refund(), accept(ids[16], CLIENT, MARKER), refunded(ids[16])),
        *(opened(order_update(MARKER)), expire(ids[19])),
        *(opened(CANCELLATION, FREELANCER), EraseOrderTexts(), accept(ids[21], CLIENT, MARKER)),
    ]


def test_D16_a_snapshot_has_no_text_and_no_confidential_reason_and_there_is_none_with_an_open_dispute():
    service, taken, refused = Service(cached_orders=0), [], 0
    for number, command in enumerate(written_all_over()):
        late = 49 * HOURS if command == expire(command_id(19)) else HOURS
        _, outcome = service.send(command, command_id(number), at=T + number * HOURS + late)
        assert "code" not in outcome, (command, outcome)
        order = service.load(ORDER)
        if order.open_dispute is None:
            taken.append(encode_state(order).decode())
            continue
        refused += 1
        with pytest.raises(ValueError, match="open dispute"):
            encode_state(order)
    for snapshot in taken:
        assert_not_marked(snapshot)
        assert REASON not in snapshot
        assert ERASED not in snapshot
    assert (len(taken), refused) == (12, 12)


def test_no_event_that_a_snapshot_holds_has_fields_that_an_erasure_takes_away():
    kept = [hint for name, hint in get_type_hints(Order).items() if name != "open_dispute"]
    held = {kind for hint in kept for kind in (hint, *get_args(hint)) if kind in events.EVENTS.values()}
    assert held == {OrderRegistered, PartialRefundGranted}
    assert not held & WITH_TEXTS


def test_a_snapshot_is_of_the_last_version_without_an_open_dispute():
    service = Service(cached_orders=0, snapshot_after=0)
    for number, command in enumerate([registered(), opened(CANCELLATION, FREELANCER), delivered(), EraseOrderTexts()]):
        service.send(command, command_id(number))
    order = service.load(ORDER)
    assert (order.version, snapshot_version(order)) == (4, 1)
    assert service.stored.snapshots[ORDER][0] == 1
    service.send(withdraw(command_id(1), FREELANCER), command_id(9))
    service.load(ORDER)
    assert service.stored.snapshots[ORDER][0] == 5


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"null",
        b"\xff",
        b"{}",
        b'{"id":"order-1"}',
        b'{"id":"order-2","version":1}',
        b'{"id":"order-1","version":2}',
        b'{"id":"order-1","version":1,"settled":[]}',
        b'{"id":"order-1","version":1}{}',
    ],
)
def test_what_is_not_the_state_of_this_order_at_this_version_is_not_read(data: bytes):
    assert decode_state(ORDER, 1, data) is None


def test_a_state_with_an_open_dispute_is_not_read():
    service = Service()
    service.send(registered(), command_id(1))
    service.send(refund(), command_id(2))
    order = service.load(ORDER)
    assert decode_state(ORDER, 2, snapshots._encode(order)) is None
    service.send(withdraw(command_id(2), FREELANCER), command_id(3))
    order = service.load(ORDER)
    assert decode_state(ORDER, 3, encode_state(order)) == order


def test_an_order_goes_on_from_a_snapshot_as_from_its_events():
    """A price that fits no machine word; a settled dispute that is named again; a refund that was granted."""
    commands = [
        registered(price=refund_offer(2**63 - 1).amount),
        refund_offer(1),
        accept(command_id(1), CLIENT),
        refund_offer(1),
        accept(command_id(1), CLIENT),
        withdraw(command_id(1), FREELANCER),
        cancel(STRANGER),
        opened(order_update()),
        refunded(command_id(1)),
        accept(command_id(7), FREELANCER),
    ]
    plain, from_snapshots = Service(cached_orders=0), Service(cached_orders=0, snapshot_after=0)
    for number, command in enumerate(commands):
        sent = command, command_id(number), T + number * DAYS
        assert from_snapshots.send(*sent) == plain.send(*sent)
