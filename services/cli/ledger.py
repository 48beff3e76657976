"""`resolution ledger`: whether each record of the commands topic led to one thing, and that is on Kafka."""

import asyncio
import json
from dataclasses import asdict, astuple
from typing import Annotated

import typer

from services.audit.ledger import Account, Ledger, balance
from services.audit.outcomes_on_kafka import compare_outcomes
from services.kafka.topics import Topics
from services.runtime.installation import installation
from services.settings import Settings
from services.shards.identity import require_shard

from .differences import tell_differences
from .progress import events_progress
from .terminal import say


def ledger(
    as_json: Annotated[bool, typer.Option("--json", help="Print machine-readable JSON on stdout.")] = False,
) -> None:
    """Check that each record of the commands topic led to one outcome, dead letter or parked command, and none to two.

    Each outcome and dead letter that is published has to be on Kafka once, as it is stored, and nothing else may be.

    Reads only; the service may run meanwhile. Exit code 1 if anything is wrong.
    """
    with installation(Settings.from_environment()) as settings, events_progress(False, "offsets") as progress:
        found = Ledger()
        for one in settings.shards:
            topics = Topics(one.topic_prefix, require_shard(one.database, one.shard).shard)
            accounts = asyncio.run(balance(one.database, one.cluster, topics, progress))
            accounts.note(asyncio.run(compare_outcomes(one.database, one.cluster, topics)))
            found.add(accounts, one.shard)
        found.partitions.sort(key=lambda account: account.partition)
    say(json.dumps(found.as_dict())) if as_json else _show(found)
    raise typer.Exit(1 if found.differences else 0)


def _show(found: Ledger) -> None:
    for account in found.partitions:
        say(f"partition {account.partition}: {_sum(account)}")
    if len(found.partitions) > 1:
        totals = [sum(column) for column in zip(*map(astuple, found.partitions), strict=True)]
        say(f"all: {_sum(Account(*totals))}")
    say("waiting: not judged yet. expired: became something, and left the topic since.")
    tell_differences(found, "Every record led to one thing, and Kafka has it once.")


def _sum(account: Account) -> str:
    """What came, and what became of it: equal, where nothing is wrong."""
    came = {"records": account.records, "expired": account.expired}
    became = {name: count for name, count in asdict(account).items() if name not in ("partition", *came)}
    sides = [[f"{count:,} {name}" for name, count in side.items() if count] for side in (came, became)]
    return " = ".join(" + ".join(side) or "nothing" for side in sides) if any(sides) else "empty"
