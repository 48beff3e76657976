"""Counts how disputes end, by kind: follows the events topic in forty lines, with aiokafka alone.

KAFKA=localhost:9092 python examples/follow_events.py
"""

import asyncio
import json
import os
from collections import Counter

from aiokafka import AIOKafkaConsumer

ENDS = {"Accepted", "AutoAccepted", "Declined", "Withdrawn", "DisputeClosed"}


async def main(servers: str, topic: str) -> None:
    consumer = AIOKafkaConsumer(
        topic,
        bootstrap_servers=servers,
        group_id="dispute-counter",
        isolation_level="read_committed",  # the service publishes in transactions, and a transaction may be aborted
        auto_offset_reset="earliest",
    )
    counts: Counter[tuple[str, str]] = Counter()
    last: dict[str, int] = {}  # the sequence of each order's last event, so that a record read twice changes nothing
    await consumer.start()
    try:
        async for record in consumer:
            event = json.loads(record.value)
            if event["sequence"] <= last.get(event["subject"], 0):
                continue
            last[event["subject"]] = event["sequence"]
            name = event["type"].split(".")[2]  # resolution.event.<Name>.v1
            if name in ENDS:
                counts[event["data"]["kind"], name] += 1
                print(json.dumps({f"{kind} {end}": n for (kind, end), n in sorted(counts.items())}), flush=True)
    finally:
        await consumer.stop()


if __name__ == "__main__":
    asyncio.run(main(os.environ.get("KAFKA", "localhost:9092"), os.environ.get("TOPIC", "resolution.events")))
