"""`resolution what-if`: judges history again under other terms, and says what would have come out differently."""

import json
from pathlib import Path
from typing import Annotated

import typer

from services.runtime.installation import as_they_are, clock_of, installation
from services.settings import Settings
from services.what_if.change import Change
from services.what_if.comparison import Comparison
from services.what_if.files import new_files
from services.what_if.history import compare_shard
from services.what_if.report import Report

from .options import AsJson
from .progress import events_progress
from .terminal import Terminal, say
from .what_if_options import (
    LargestRefundPercent,
    LongestExtensionDays,
    ResponseHours,
    Since,
    TermsName,
    Until,
    VeryLateAfterHours,
)
from .what_if_report import print_report


def what_if(
    response_hours: ResponseHours = None,
    very_late_after_hours: VeryLateAfterHours = None,
    longest_extension_days: LongestExtensionDays = None,
    largest_refund_percent: LargestRefundPercent = None,
    terms_name: TermsName = None,
    since: Since = None,
    until: Until = None,
    to: Annotated[
        Path | None,
        typer.Option(metavar="DIR", help="Also write report, orders and all events into a new directory."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Judge the commands again under other terms, in memory, and report what would have come out differently.

    Terms that are not named stay each order's own. Without any, nothing should differ. Reads only, and the service may
    run meanwhile. `resolution replay ORDER --what-if` shows one order: docs/terms.md.
    """
    if since is not None and until is not None and since >= until:
        raise typer.BadParameter("--since has to be before --until; otherwise no order fits")
    change = Change(
        response_hours=response_hours,
        very_late_after_hours=very_late_after_hours,
        longest_extension_days=longest_extension_days,
        largest_refund_percent=largest_refund_percent,
        terms_name=terms_name,
        since=since,
        until=until,
    )
    report = Report(change)
    with installation(Settings.from_environment()) as settings, new_files(to) as files:
        shards = as_they_are(settings)
        for shard in shards:
            of_shard = f"commands of {shard.shard}" if len(shards) > 1 else "commands"
            comparison = Comparison(change, None if files is None else files.write)
            with events_progress(as_json, of_shard) as progress:
                not_judged = compare_shard(shard, clock_of(shard), comparison, progress)
            report.add(comparison, not_judged)
        if files is not None:
            files.finish(report)
    if as_json:
        say(json.dumps(report.as_dict()))
    else:
        print_report(Terminal(), report)
        if to is not None:
            say("", f"Written to {to}: report.json, orders.jsonl, events.jsonl.")
