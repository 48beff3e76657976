"""A payment service: pays each granted partial refund once, and reports it to the Resolution Center.

    KAFKA=localhost:9092 python examples/payment_service.py

It stores its position in a file, and continues from there when it is started again. If it died while it handled a
refund, it handles that refund again under the same ids. This changes nothing, because the bank recognizes the refund's
id, and the Resolution Center recognizes the command's id.
"""

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

from resolution_contracts import CommandRejected, Money, RecordRefundProcessed
from resolution_contracts.client import Client, OutcomePending, Start
from resolution_contracts.events import PartialRefundGranted

log = logging.getLogger("payments")


async def pay(refund_id: str, amount: Money) -> None:
    """Would call the bank, with the refund's id as the idempotency key."""
    log.info("paid %s %s for refund %s", amount.amount, amount.currency, refund_id)


async def run(servers: str, prefix: str, memory: Path) -> None:
    start: Start = "beginning"
    if memory.exists():
        start = {int(partition): offset for partition, offset in json.loads(memory.read_text()).items()}
    async with Client(servers, source="/payment-service", prefix=prefix) as client:
        async for received in client.events(start):
            if isinstance(received.event, PartialRefundGranted):
                await pay(received.event.refund_id, received.event.amount)
                await report(client, received.order_id, received.event.refund_id)
            remember(memory, received.position)


def remember(memory: Path, position: Mapping[int, int]) -> None:
    """Replaces the file as a whole, so that a service killed while it writes finds its last position again."""
    new = memory.with_suffix(".new")
    new.write_text(json.dumps(position))
    new.replace(memory)


async def report(client: Client, order_id: str, refund_id: str) -> None:
    """Sends the command again and again until its outcome arrives."""
    command_id = str(uuid5(NAMESPACE_OID, refund_id))  # the same whenever this refund is reported
    while True:
        try:
            outcome = await client.send(order_id, RecordRefundProcessed(refund_id=refund_id), id=command_id)
        except OutcomePending:
            log.warning("no outcome yet for refund %s; sending again", refund_id)
            continue
        if isinstance(outcome, CommandRejected):
            log.error("refund %s was paid, but: %s", refund_id, outcome.message)
        return


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(
        run(
            os.environ.get("KAFKA", "localhost:9092"),
            os.environ.get("PREFIX", "resolution."),
            Path(os.environ.get("MEMORY", "payments.json")),
        )
    )
