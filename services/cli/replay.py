"""`resolution replay`: shows an order's history, or makes all read models as they were at an instant."""

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from resolution_contracts.values import format_instant

from projections.framework.as_of import ReadModelsAsOf, Replayed
from services.audit.replay import NoHistory
from services.audit.replay import replay as replay_order
from services.audit.replay_files import write_files
from services.clock import Clock
from services.eventstore.application import OrderStore
from services.eventstore.database import connect
from services.runtime.installation import clock_of, installation, shard_of, up_to_date
from services.settings import Settings
from services.shards.arithmetic import Shard
from services.what_if.change import Change
from services.what_if.one_order import judge_order_again

from .history import history
from .instants import instant
from .options import AsJson
from .progress import events_progress
from .terminal import Terminal, say
from .what_if_options import LargestRefundPercent, LongestExtensionDays, ResponseHours, VeryLateAfterHours
from .what_if_order import side_by_side

_PREFIX = re.compile(r"(?!pg_)[a-z][a-z0-9_]{0,39}")
_NO_PREFIX = "a prefix has up to 40 of a-z, 0-9 and _, begins with a letter, and not with pg_"


def replay(
    order_id: Annotated[str | None, typer.Argument(metavar="ORDER", help="The order's id.")] = None,
    as_of: Annotated[
        datetime | None,
        typer.Option(parser=instant, metavar="INSTANT", help="Only what had happened by this instant (UTC)."),
    ] = None,
    at: Annotated[int | None, typer.Option(min=1, help="Only the order's first N events.", metavar="N")] = None,
    commands: Annotated[
        bool, typer.Option("--commands", help="Also show commands that changed nothing: those rejected, or sent again.")
    ] = False,
    every: Annotated[
        bool, typer.Option("--all", help="Make all read models as they were at --as-of, beside the live ones.")
    ] = False,
    into: Annotated[
        str | None,
        typer.Option(metavar="PREFIX", help="With --all: into schemas PREFIX_order_page, …; else asof_DATE_TIME_…"),
    ] = None,
    to: Annotated[
        Path | None, typer.Option(metavar="DIR", help="With --all: into a new directory, as JSON lines.")
    ] = None,
    drop: Annotated[
        str | None, typer.Option(metavar="PREFIX", help="Delete the schemas that --all made with this prefix.")
    ] = None,
    what_if: Annotated[
        bool, typer.Option("--what-if", help="Show the order beside what it would have been under the terms named.")
    ] = False,
    response_hours: ResponseHours = None,
    very_late_after_hours: VeryLateAfterHours = None,
    longest_extension_days: LongestExtensionDays = None,
    largest_refund_percent: LargestRefundPercent = None,
    as_json: AsJson = False,
) -> None:
    """Show an order's history: each event with its cause and what it changed. Includes confidential fields.

    With --all, build the read models as they were at an instant, from the event store: docs/auditors.md.
    With --what-if, judge the order again under other terms: docs/terms.md.
    """
    change = Change(
        response_hours=response_hours,
        very_late_after_hours=very_late_after_hours,
        longest_extension_days=longest_extension_days,
        largest_refund_percent=largest_refund_percent,
    )
    for wrong, sentence in (
        ((order_id is not None) + every + (drop is not None) != 1, "name one order, or say --all, or --drop PREFIX"),
        (as_of is not None and at is not None, "--as-of and --at exclude each other; say one of them"),
        (order_id is None and (at is not None or commands), "--at and --commands are for one order; name it"),
        (every and as_of is None, "--all needs an instant; say --as-of INSTANT"),
        (drop is not None and as_of is not None, "--drop deletes everything with the prefix; leave --as-of out"),
        (not every and (into is not None or to is not None), "--into and --to go with --all"),
        (into is not None and to is not None, "--into and --to exclude each other; say one of them"),
        (bool(change.terms) and not what_if, "other terms need --what-if"),
        (what_if and order_id is None, "--what-if is for one order; name it"),
        (what_if and (as_of is not None or at is not None or commands), "--what-if shows all of the order's commands"),
        (not all(map(_PREFIX.fullmatch, (prefix for prefix in (into, drop) if prefix is not None))), _NO_PREFIX),
    ):
        if wrong:
            raise typer.BadParameter(sentence)
    with installation(Settings.from_environment(), kafka=what_if) as settings:
        if order_id is not None and what_if:
            _show_what_if(shard_of(settings, order_id), order_id, change, as_json)
            return
        if order_id is not None:
            # `shard_of` changes nothing, unlike `up_to_date`: an auditor may only have the right to read.
            _show_order(shard_of(settings, order_id), order_id, as_of, at, commands, as_json)
            return
        for shard in up_to_date(settings):
            if drop is not None:
                _drop(shard, drop, as_json)
            else:
                assert as_of is not None
                _replay_all(shard, as_of, into, to and shard.shard.folder(to), as_json)


# --- one order ---


def _show_order(
    settings: Settings, order_id: str, as_of: datetime | None, at: int | None, commands: bool, as_json: bool
) -> None:
    with OrderStore(settings.database, settings.master_keys) as store:
        try:
            steps: list[dict[str, Any]] = list(replay_order(store, order_id, as_of=as_of, at=at, commands=commands))
        except ValueError as error:
            raise NoHistory(
                f"The stored events do not follow from each other: {str(error).removesuffix('.')}. "
                "`resolution verify` checks all orders."
            ) from error
        parked = len(store.parked(order_id))
    if not steps:
        raise NoHistory(f"Order {order_id} has no event up to that point.")
    if as_json:
        for step in steps:
            say(json.dumps(step))
        return
    history(Terminal(), order_id, steps)
    if at is None and (note := _overdue(steps, as_of or clock_of(settings).now())):
        say("", note)
    if parked:
        say("", _parked(order_id, parked))


def _parked(order_id: str, parked: int) -> str:
    return f"{parked} commands of this order are parked, not judged yet: see `resolution parked show {order_id}`"


def _show_what_if(settings: Settings, order_id: str, change: Change, as_json: bool) -> None:
    steps = judge_order_again(settings, clock_of(settings), order_id, change)
    if not steps:
        raise NoHistory(f"Order {order_id} has no event.")
    with OrderStore(settings.database, settings.master_keys) as store:
        parked = len(store.parked(order_id))
    if as_json:
        for step in steps:
            say(json.dumps(step))
    else:
        side_by_side(Terminal(), order_id, steps)
        if parked:
            say("", _parked(order_id, parked))


def _overdue(steps: list[dict[str, Any]], until: datetime) -> str:
    """Returns a note if a deadline has passed and its event is not stored yet (D3), otherwise an empty text."""
    last = next((step["state"] for step in reversed(steps) if "state" in step), None)
    dispute = last and last["open_dispute"]
    if not dispute or dispute["respond_by"] > format_instant(until):
        return ""
    return (
        f"The deadline of the open dispute, {dispute['respond_by']}, has passed. The next command on the order settles "
        "it as accepted automatically, unless an answer was sent in time and is not judged yet."
    )


# --- all read models, of each shard ---


def _where(where: str, shard: Shard) -> str:
    return where if shard.alone else f"{where} of {shard}"


def _replay_all(settings: Settings, as_of: datetime, into: str | None, to: Path | None, as_json: bool) -> None:
    clock = clock_of(settings)
    if as_of > (now := clock.now()):
        raise typer.BadParameter(f"--as-of is in the future; it is {format_instant(now)} now")
    with events_progress(as_json) as progress:
        if to is not None:
            replayed = write_files(settings.database, to, as_of, progress)
            where = str(to)
        else:
            prefix = into or f"asof_{as_of:%Y%m%d_%H%M%S}"
            with ReadModelsAsOf.hold(settings.database, prefix) as read_models:
                replayed = read_models.fill(as_of, progress)
                read_models.keep()
            where = _where(f"the schemas {prefix}_…", settings.shard)
    parked = _parked_by(settings, clock, as_of)
    if as_json:
        result = msgspec.to_builtins(replayed) | {"to": where, "parked": parked} | settings.shard.label
        say(json.dumps({"replayed": result}))
    else:
        _print_replayed(replayed, where, parked)


def _parked_by(settings: Settings, clock: Clock, as_of: datetime) -> int:
    """Returns how many commands came up to this instant and are not judged, because their orders are parked."""
    with connect(settings.database) as connection:
        times = connection.execute("SELECT record_time FROM parked_commands").fetchall()
    return sum(clock.of_record(time) <= as_of for (time,) in times)


def _print_replayed(replayed: Replayed, where: str, parked: int) -> None:
    say(
        f"{where}: the read models as of {format_instant(replayed.as_of)}, from {replayed.events:,} events of "
        f"{replayed.orders:,} orders; {replayed.position:,} events are stored."
    )
    for table, count in replayed.rows.items():
        say(f"  {table}: {count:,} rows")
    if replayed.overdue:
        say(
            f"{replayed.overdue:,} disputes are open in them although their deadlines had passed, because their "
            "auto-acceptances are not stored yet. Replay again when the service has caught up."
        )
    if parked:
        say(f"{parked:,} commands that came by then are parked, not judged yet: see `resolution parked list`")


def _drop(settings: Settings, prefix: str, as_json: bool) -> None:
    with ReadModelsAsOf.hold(settings.database, prefix) as read_models:
        dropped = read_models.drop()
    if as_json:
        say(json.dumps({"dropped": dropped} | settings.shard.label))
    else:
        result = f"Deleted: {', '.join(dropped)}" if dropped else f"There are no schemas of a replay into {prefix}"
        say(f"{_where(result, settings.shard)}.")
