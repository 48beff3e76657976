"""`resolution retire-outcomes`: drops the outcomes of old months."""

import asyncio
import json
from typing import Annotated

import msgspec
import typer

from services.retention.retire import Verdict, retire
from services.runtime.installation import installation, up_to_date
from services.settings import Settings
from services.shards.arithmetic import Shard

from .options import AsJson
from .terminal import say


def retire_outcomes(
    older_than: Annotated[
        int,
        typer.Option(
            envvar="RESOLUTION_OUTCOMES_MONTHS",
            min=1,
            metavar="MONTHS",
            help="Drop months that ended at least this many months ago.",
        ),
    ],
    only_check: Annotated[bool, typer.Option("--check", help="Only print what would be dropped.")] = False,
    as_json: AsJson = False,
) -> None:
    """Drop the outcomes of old months. Events stay, and so does the memory of every command that changed an order.

    If a command that changed nothing comes again after that, it is judged again. A month is kept as long as the
    commands topic has records of it: docs/retention.md. The roles may run meanwhile. Run this as the tables' owner.
    Exit code 1 if a month stays until somebody acts.
    """
    verdicts: list[Verdict] = []
    with installation(Settings.from_environment()) as settings:
        for shard in up_to_date(settings):
            of_shard = asyncio.run(retire(shard, older_than, only_check=only_check))
            verdicts += of_shard
            if not (of_shard or as_json):
                say(f"{shard.shard.prefix}No month is so old.")
            for verdict in of_shard:
                say(_json(shard.shard, verdict) if as_json else shard.shard.prefix + _sentence(verdict, only_check))
    raise typer.Exit(1 if any(verdict.act for verdict in verdicts) else 0)


def _sentence(verdict: Verdict, only_check: bool) -> str:
    month = f"{verdict.month:%Y-%m}, {verdict.outcomes:,} outcomes"
    if verdict.stays:
        return f"{month}: stays, and so do later months: {verdict.stays}."
    return f"{month}: {'would be' if only_check else 'is'} retired."


def _json(shard: Shard, verdict: Verdict) -> str:
    return json.dumps({"shard": shard.number} | msgspec.to_builtins(verdict))
