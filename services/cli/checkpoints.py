"""`resolution checkpoints`, and `resolution verify --checkpoints`: the chain of signed hashes of the event store."""

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from services.audit.tampering import Tampering
from services.audit.verify_checkpoints import verify_checkpoints
from services.checkpoints.signing_keys import read_public_key, write_key_pair
from services.eventstore.checkpoint_chain import key_id
from services.kafka.read_topics import all_values
from services.kafka.topics import Topics, require_topic
from services.runtime.installation import installation
from services.settings import Settings
from services.shards.identity import require_shard

from .differences import tell_differences
from .progress import events_progress
from .terminal import say

app = typer.Typer(help="Signed hashes of the event store, for auditors.", no_args_is_help=True)
CheckpointsFile = Annotated[
    Path | None,
    typer.Option("--checkpoints", help="Compare the event store with this file of checkpoints instead; no Kafka."),
]
PublicKeys = Annotated[
    list[Path] | None,
    typer.Option("--public-key", help="With --checkpoints: a key that you trust; may be given several times."),
]
ShardNumber = Annotated[
    int | None,
    typer.Option("--shard", envvar="RESOLUTION_SHARD", help="Of several databases the one whose chain it is, from 0."),
]
_MOST_PROCESSES = 4


@app.command()
def key(directory: Annotated[Path, typer.Argument(help="Where to put the two files; it is created.")]) -> None:
    """Make a key pair: one file signs checkpoints and stays secret, the other is for auditors."""
    private, public = write_key_pair(directory)
    say(f"{private} signs: keep it secret, and name it in RESOLUTION_CHECKPOINT_KEY_FILE.")
    say(f"{public} is for auditors: key {key_id(read_public_key(public))}.")


@app.command()
def export(file: Annotated[Path, typer.Argument(help="Is replaced if it exists.")], shard: ShardNumber = None) -> None:
    """Write the chain, as it was published, to a file for auditors: a checkpoint in each line."""
    with installation(Settings.from_environment(), database=False) as settings:
        count = asyncio.run(_export(_one_of(settings, shard), file))
    say(f"Checkpoints in {file}: {count:,}.")


async def _export(settings: Settings, file: Path) -> int:
    topic = Topics(settings.topic_prefix, settings.shard).checkpoints
    await require_topic(settings.cluster, topic)
    count = 0
    new = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        with new.open("wb") as stream:
            async for value in all_values(settings.cluster, topic):
                stream.write(value + b"\n")
                count += 1
        new.replace(file)
    except OSError as error:
        raise typer.BadParameter(f"{file} cannot be written: {error.strerror}") from None
    finally:
        new.unlink(missing_ok=True)
    return count


def _one_of(settings: Settings, number: int | None) -> Settings:
    """The settings of one shard."""
    count = len(settings.shards)
    if number is None and count > 1:
        raise typer.BadParameter(f"there are {count} databases, and each has a chain of its own; say --shard NUMBER")
    if not 0 <= (number or 0) < count:
        raise typer.BadParameter(f"--shard is a number from 0 to {count - 1}")
    return settings.shards[number or 0]


def verify_against(file: Path, public_keys: Sequence[Path], shard: int | None, as_json: bool) -> NoReturn:
    """What `verify --checkpoints` does. Exits with 1 if anything differs."""
    if not public_keys:
        raise typer.BadParameter("name the public keys that you trust, each with --public-key")
    keys = [read_public_key(public) for public in public_keys]
    processes = min(_MOST_PROCESSES, os.cpu_count() or 1)
    with installation(Settings.from_environment(), kafka=False) as settings, events_progress(False) as progress:
        urls, number = [one.database for one in settings.shards], _one_of(settings, shard).shard.number
        for one in settings.shards:
            require_shard(one.database, one.shard)
        found = verify_checkpoints(urls, number, file, keys, processes, progress)
    say(json.dumps(found.as_dict())) if as_json else _show(found)
    raise typer.Exit(1 if found.differences else 0)


def _show(found: Tampering) -> None:
    say(f"Events compared: {found.events:,}, with {found.checkpoints:,} checkpoints.")
    if found.last_at is not None:
        say(f"The last one is number {found.last_checkpoint:,}, of {found.last_at}, up to event {found.last_event:,}.")
    say(f"Events that came later, which none covers: {found.uncovered:,}.")
    tell_differences(found, "Nothing was changed.")
