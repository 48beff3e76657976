"""`resolution rebuild`."""

import json
from dataclasses import asdict
from typing import Annotated

import typer

from projections import READ_MODELS
from projections.framework.rebuild import Rebuild, Rebuilt
from services.eventstore.application import OrderStore
from services.runtime.installation import installation
from services.settings import Settings
from services.shards.arithmetic import Shard
from services.shards.identity import require_shard

from .progress import events_progress
from .terminal import complain, say


def rebuild(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(READ_MODELS)}.")],
    drop_old: Annotated[bool, typer.Option("--drop-old", help="Only delete what the last rebuild replaced.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print machine-readable JSON lines on stdout.")] = False,
) -> None:
    """Build a read model anew beside the live one, compare the two, and switch. Stopped, it goes on where it was."""
    with installation(Settings.from_environment(), kafka=False) as settings:
        for one in settings.shards:
            require_shard(one.database, one.shard)
            if not one.shard.alone and not as_json:
                say(f"{one.shard}:")
            with OrderStore(one.database, one.master_keys) as store:
                _rebuild(Rebuild(store, name), one.shard, drop_old, as_json)


def _rebuild(work: Rebuild, shard: Shard, drop_old: bool, as_json: bool) -> None:
    if drop_old:
        there = work.drop_old()
        complain("The old tables are gone." if there else "There are no old tables.")
        return
    with events_progress(as_json) as progress:
        done = work.run(progress)
    if as_json:
        say(json.dumps({"rebuilt": asdict(done) | shard.label}))
    else:
        _show(done)


def _show(done: Rebuilt) -> None:
    say(f"{done.name} is rebuilt from {done.events:,} events and live.")
    if not done.differences:
        say("It has the same rows as before.")
    for difference in done.differences:
        say(
            f"  {difference.table}: {difference.only_in_old:,} rows of the old are not in the new, "
            f"{difference.only_in_new:,} of the new not in the old: {', '.join(difference.keys)}"
        )
    if done.differences and done.same_version:
        say("The read model's version is the same: something else had changed the old rows.")
    elif done.differences:
        say("The old one was built by another version.")
    say(f"The old tables are kept; resolution rebuild {done.name} --drop-old deletes them.")
