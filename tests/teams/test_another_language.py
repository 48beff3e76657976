"""A program that was written from docs/messages.md and the AsyncAPI document alone, in JavaScript."""

import asyncio
import json
import os
import sys
from pathlib import Path

from tests.support.installation import Installation

ROOT = Path(__file__).parents[2]
PROGRAM = Path(__file__).parent / "node"
BIN = Path(sys.executable).parent


async def test_it_opens_and_settles_a_dispute_and_follows_the_events(installation: Installation):
    await installation.run("commands", "relay")
    await node(installation, "npm", "ci", "--no-audit", "--no-fund", "--silent")
    out = await node(installation, "node", "settle.js", "order-7")
    told = [json.loads(line) for line in out.splitlines()]

    outcomes = [
        (e["data"]["command"], e["data"].get("code")) for e in told if e["type"].startswith("resolution.outcome")
    ]
    assert outcomes == [
        ("RegisterOrder", None),
        ("OfferPartialRefund", None),
        ("OfferPartialRefund", None),
        ("Accept", "not_allowed"),
        ("Accept", None),
    ]
    events = [e for e in told if e["type"].startswith("resolution.event")]
    assert [e["type"].split(".")[2] for e in events] == [
        "OrderRegistered",
        "DisputeOpened",
        "Accepted",
        "PartialRefundGranted",
    ]
    assert [e["sequence"] for e in events] == [1, 2, 3, 4]
    assert events[-1]["data"]["amount"] == {"amount": 2_500, "currency": "USD"}


async def node(installation: Installation, *command: str) -> str:
    process = await asyncio.create_subprocess_exec(
        BIN / command[0],
        *command[1:],
        cwd=PROGRAM,
        env=os.environ
        | {
            "PATH": f"{BIN}:{os.environ['PATH']}",
            "KAFKA": installation.settings.kafka,
            "PREFIX": installation.topics.prefix,
            "ASYNCAPI": str(ROOT / "contracts" / "schemas" / "asyncapi.json"),
            "KAFKAJS_NO_PARTITIONER_WARNING": "1",
        },
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(), 120)
    assert process.returncode == 0, err.decode()
    return out.decode()
