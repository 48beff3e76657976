"""`resolution ledger`: checks that each record of the commands topic led to one outcome, and that Kafka has it."""

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

from .differences import print_differences
from .progress import events_progress
from .terminal import say


def ledger(
    as_json: Annotated[bool, typer.Option("--json", help="Print machine-readable JSON on stdout.")] = False,
) -> None:
    """Check that each record of the commands topic led to exactly one outcome, dead letter or parked command.

    Each published outcome and dead letter has to be on Kafka exactly once, as it is stored, and nothing else may be.

    Writes nothing; the service may run meanwhile. Exit code 1 if anything is wrong.
    """
    with installation(Settings.from_environment()) as settings, events_progress(False, "offsets") as progress:
        whole_ledger = Ledger()
        for shard in settings.shards:
            topics = Topics(shard.topic_prefix, require_shard(shard.database, shard.shard).shard)
            accounts = asyncio.run(balance(shard.database, shard.cluster, topics, progress))
            accounts.note(asyncio.run(compare_outcomes(shard.database, shard.cluster, topics)))
            whole_ledger.add(accounts, shard.shard)
        whole_ledger.partitions.sort(key=lambda account: account.partition)
    say(json.dumps(whole_ledger.as_dict())) if as_json else _show(whole_ledger)
    raise typer.Exit(1 if whole_ledger.differences else 0)


def _show(whole_ledger: Ledger) -> None:
    for account in whole_ledger.partitions:
        say(f"partition {account.partition}: {_sum(account)}")
    if len(whole_ledger.partitions) > 1:
        totals = [sum(column) for column in zip(*map(astuple, whole_ledger.partitions), strict=True)]
        say(f"all: {_sum(Account(*totals))}")
    say("waiting: not judged yet. expired: has an outcome, and has left the topic since.")
    print_differences(whole_ledger, "Every record led to one outcome, and Kafka has it once.")


def _sum(account: Account) -> str:
    """Formats both sides of an account: the records, and what became of them. If nothing is wrong, they are equal."""
    came = {"records": account.records, "expired": account.expired}
    became = {name: count for name, count in asdict(account).items() if name not in ("partition", *came)}
    sides = [[f"{count:,} {name}" for name, count in side.items() if count] for side in (came, became)]
    return " = ".join(" + ".join(side) or "nothing" for side in sides) if any(sides) else "empty"
