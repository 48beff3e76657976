"""`resolution retire-outcomes`: what is kept of commands that were judged long ago."""

import asyncio
import json
from typing import Annotated

import msgspec
import typer

from services.retention.retire import Verdict, retire
from services.runtime.installation import installation, up_to_date
from services.settings import Settings
from services.shards.arithmetic import Shard

from .terminal import say


def retire_outcomes(
    older_than: Annotated[
        int,
        typer.Option(
            envvar="RESOLUTION_OUTCOMES_MONTHS",
            min=1,
            metavar="MONTHS",
            help="Months that ended so long ago are dropped.",
        ),
    ],
    only_check: Annotated[bool, typer.Option("--check", help="Only say what would be dropped.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print machine-readable JSON lines on stdout.")] = False,
) -> None:
    """Drop the outcomes of old months. Events stay; so does the memory of every command that changed an order.

    A command that changed nothing is judged anew when it comes again after that. Months whose records are on Kafka
    still are kept, whatever their age: docs/retention.md. The roles may run meanwhile; run it as the tables' owner.
    Exit code 1 if a month stays until somebody does something.
    """
    verdicts: list[Verdict] = []
    with installation(Settings.from_environment()) as settings:
        for one in up_to_date(settings):
            found = asyncio.run(retire(one, older_than, only_check=only_check))
            verdicts += found
            if not (found or as_json):
                say(f"{one.shard.prefix}No month is so old.")
            for verdict in found:
                say(_json(one.shard, verdict) if as_json else one.shard.prefix + _sentence(verdict, only_check))
    raise typer.Exit(1 if any(verdict.act for verdict in verdicts) else 0)


def _sentence(verdict: Verdict, only_check: bool) -> str:
    month = f"{verdict.month:%Y-%m}, {verdict.outcomes:,} outcomes"
    if verdict.stays:
        return f"{month}: stays, and so does what is later: {verdict.stays}."
    return f"{month}: {'would be' if only_check else 'is'} retired."


def _json(shard: Shard, verdict: Verdict) -> str:
    return json.dumps({"shard": shard.number} | msgspec.to_builtins(verdict))
