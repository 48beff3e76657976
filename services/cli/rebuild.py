"""`resolution rebuild`: makes a read model again."""

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

from .options import AsJson
from .progress import events_progress
from .terminal import complain, say


def rebuild(
    name: Annotated[str, typer.Argument(help=f"One of: {', '.join(READ_MODELS)}.")],
    drop_old: Annotated[
        bool, typer.Option("--drop-old", help="Only delete the tables that the last rebuild replaced.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Build a read model again beside the live one, compare the two, and switch.

    If a rebuild was stopped, the next one continues it.
    """
    with installation(Settings.from_environment(), kafka=False) as settings:
        for shard in settings.shards:
            require_shard(shard.database, shard.shard)
            if not shard.shard.alone and not as_json:
                say(f"{shard.shard}:")
            with OrderStore(shard.database, shard.master_keys) as store:
                _rebuild(Rebuild(store, name), shard.shard, drop_old, as_json)


def _rebuild(work: Rebuild, shard: Shard, drop_old: bool, as_json: bool) -> None:
    if drop_old:
        existed = work.drop_old()
        complain("The old tables are deleted." if existed else "There are no old tables.")
        return
    with events_progress(as_json) as progress:
        rebuilt = work.run(progress)
    if as_json:
        say(json.dumps({"rebuilt": asdict(rebuilt) | shard.label}))
    else:
        _show(rebuilt)


def _show(rebuilt: Rebuilt) -> None:
    say(f"{rebuilt.name} is rebuilt from {rebuilt.events:,} events and live.")
    if not rebuilt.differences:
        say("It has the same rows as before.")
    for difference in rebuilt.differences:
        say(
            f"  {difference.table}: {difference.only_in_old:,} old rows are not in the new table, "
            f"{difference.only_in_new:,} new rows were not in the old table: {', '.join(difference.keys)}"
        )
    if rebuilt.differences and rebuilt.same_version:
        say("The read model's version is the same, so something else had changed the old rows.")
    elif rebuilt.differences:
        say("Another version of the read model had made the old rows.")
    say(f"The old tables are kept. `resolution rebuild {rebuilt.name} --drop-old` deletes them.")
