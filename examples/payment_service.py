"""A payment service: pays each partial refund that was granted, once, and tells the Resolution Center.

    KAFKA=localhost:9092 python examples/payment_service.py

It remembers in a file how far it has come. Started again, it goes on there; what it had in hand when it died is done
again under the same ids, which changes nothing: the bank knows the refund's id, and the Resolution Center the
command's.
"""

import asyncio
import json
import logging
import os
from pathlib import Path
from uuid import NAMESPACE_OID, uuid5

from resolution_contracts import CommandRejected, Money, RecordRefundProcessed
from resolution_contracts.client import Client, OutcomePending
from resolution_contracts.events import PartialRefundGranted

log = logging.getLogger("payments")


async def pay(refund_id: str, amount: Money) -> None:
    """Here the bank would be asked, with the refund's id as its idempotency key."""
    log.info("paid %s %s for refund %s", amount.amount, amount.currency, refund_id)


async def run(servers: str, prefix: str, memory: Path) -> None:
    start = {int(n): at for n, at in json.loads(memory.read_text()).items()} if memory.exists() else "beginning"
    async with Client(servers, source="/payment-service", prefix=prefix) as client:
        async for received in client.events(start):
            if isinstance(received.event, PartialRefundGranted):
                await pay(received.event.refund_id, received.event.amount)
                await tell(client, received.order_id, received.event.refund_id)
            memory.write_text(json.dumps(received.position))


async def tell(client: Client, order_id: str, refund_id: str) -> None:
    """Until it is known that the Resolution Center knows."""
    command_id = str(uuid5(NAMESPACE_OID, refund_id))  # the same whenever this refund is told
    while True:
        try:
            outcome = await client.send(order_id, RecordRefundProcessed(refund_id=refund_id), id=command_id)
        except OutcomePending:
            log.warning("no outcome yet for refund %s; telling again", refund_id)
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
