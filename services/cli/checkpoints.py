"""`resolution checkpoints` and `resolution verify --checkpoints`: signed hashes of the event store."""

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
from services.kafka.topics import Topics, require_topics
from services.runtime.installation import installation
from services.settings import Settings
from services.shards.identity import require_shard

from .differences import print_differences
from .progress import events_progress
from .terminal import say

app = typer.Typer(help="Signed hashes of the event store, for auditors.", no_args_is_help=True)
CheckpointsFile = Annotated[
    Path | None,
    typer.Option(
        "--checkpoints", help="Compare the event store with this file of checkpoints instead. Kafka is not used."
    ),
]
PublicKeys = Annotated[
    list[Path] | None,
    typer.Option("--public-key", help="With --checkpoints: a key that you trust. Repeat the option for several keys."),
]
ShardNumber = Annotated[
    int | None,
    typer.Option(
        "--shard",
        envvar="RESOLUTION_SHARD",
        help="If there are several databases: the one that the checkpoints belong to. Counted from 0.",
    ),
]
_MAX_PROCESSES = 4


@app.command()
def key(directory: Annotated[Path, typer.Argument(help="The directory for the two files. It is created.")]) -> None:
    """Make a key pair: a secret key that signs checkpoints, and a public key for auditors."""
    private, public = write_key_pair(directory)
    say(f"{private} signs checkpoints. Keep it secret, and set RESOLUTION_CHECKPOINT_KEY_FILE to it.")
    say(f"{public} is for auditors. Its key id is {key_id(read_public_key(public))}.")


@app.command()
def export(file: Annotated[Path, typer.Argument(help="Replaced if it exists.")], shard: ShardNumber = None) -> None:
    """Write the published checkpoints to a file for auditors, one checkpoint per line."""
    with installation(Settings.from_environment(), database=False) as settings:
        count = asyncio.run(_export(_shard_settings(settings, shard), file))
    say(f"Checkpoints in {file}: {count:,}.")


async def _export(settings: Settings, file: Path) -> int:
    topic = Topics(settings.topic_prefix, settings.shard).checkpoints
    await require_topics(settings.cluster, topic)
    count = 0
    new = file.with_name(f".{file.name}-{os.getpid()}")
    try:
        with new.open("wb") as stream:
            async for value in all_values(settings.cluster, topic):
                stream.write(value + b"\n")
                count += 1
        new.replace(file)
    except OSError as error:
        raise typer.BadParameter(f"cannot write {file}: {error.strerror}") from None
    finally:
        new.unlink(missing_ok=True)
    return count


def _shard_settings(settings: Settings, number: int | None) -> Settings:
    """Returns the settings of one shard."""
    count = len(settings.shards)
    if number is None and count > 1:
        raise typer.BadParameter(f"there are {count} databases, and each has its own checkpoints; say --shard NUMBER")
    if not 0 <= (number or 0) < count:
        raise typer.BadParameter(f"--shard is a number from 0 to {count - 1}")
    return settings.shards[number or 0]


def verify_against(file: Path, public_keys: Sequence[Path], shard: int | None, as_json: bool) -> NoReturn:
    """Runs `verify --checkpoints`. Exits with 1 if anything differs."""
    if not public_keys:
        raise typer.BadParameter("name the public keys that you trust, each with --public-key")
    keys = [read_public_key(public) for public in public_keys]
    processes = min(_MAX_PROCESSES, os.cpu_count() or 1)
    with installation(Settings.from_environment(), kafka=False) as settings, events_progress(False) as progress:
        urls = [one_shard.database for one_shard in settings.shards]
        number = _shard_settings(settings, shard).shard.number
        for one_shard in settings.shards:
            require_shard(one_shard.database, one_shard.shard)
        tampering = verify_checkpoints(urls, number, file, keys, processes, progress)
    say(json.dumps(tampering.as_dict())) if as_json else _show(tampering)
    raise typer.Exit(1 if tampering.differences else 0)


def _show(tampering: Tampering) -> None:
    say(f"Events compared: {tampering.events:,}, with {tampering.checkpoints:,} checkpoints.")
    if tampering.last_at is not None:
        say(
            f"The last checkpoint is number {tampering.last_checkpoint:,}, of {tampering.last_at}. It covers events up "
            f"to {tampering.last_event:,}."
        )
    say(f"Later events, which no checkpoint covers: {tampering.uncovered:,}.")
    print_differences(tampering, "Nothing was changed.")
