"""`resolution checkpoints`, and `resolution verify --checkpoints`: the chain of signed hashes of the event store."""

import asyncio
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from services.audit.checkpoints import verify_checkpoints
from services.audit.tampering import Tampering
from services.checkpoints.chain import key_id
from services.checkpoints.keys import read_public_key, write_key_pair
from services.cli.differences import tell_differences
from services.cli.progress import events_progress
from services.installation import installation
from services.kafka.single import all_values
from services.kafka.topics import Topics, require_topic
from services.settings import Settings

app = typer.Typer(help="Signed hashes of the event store, for auditors.", no_args_is_help=True)
CheckpointsFile = Annotated[
    Path | None,
    typer.Option("--checkpoints", help="Compare the event store with this file of checkpoints instead; no Kafka."),
]
PublicKeys = Annotated[
    list[Path] | None,
    typer.Option("--public-key", help="With --checkpoints: a key that you trust; may be given several times."),
]
_MOST_PROCESSES = 4


@app.command()
def key(directory: Annotated[Path, typer.Argument(help="Where to put the two files; it is created.")]) -> None:
    """Make a key pair: one file signs checkpoints and stays secret, the other is for auditors."""
    private, public = write_key_pair(directory)
    print(f"{private} signs: keep it secret, and name it in RESOLUTION_CHECKPOINT_KEY_FILE.")
    print(f"{public} is for auditors: key {key_id(read_public_key(public))}.")


@app.command()
def export(file: Annotated[Path, typer.Argument(help="Is replaced if it exists.")]) -> None:
    """Write the chain, as it was published, to a file for auditors: a checkpoint in each line."""
    with installation(Settings.from_environment(), database=False) as settings:
        count = asyncio.run(_export(settings, file))
    print(f"Checkpoints in {file}: {count:,}.")


async def _export(settings: Settings, file: Path) -> int:
    topic = Topics(settings.topic_prefix).checkpoints
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


def verify_against(file: Path, public_keys: Sequence[Path], as_json: bool) -> NoReturn:
    """What `verify --checkpoints` does. Exits with 1 if anything differs."""
    if not public_keys:
        raise typer.BadParameter("name the public keys that you trust, each with --public-key")
    keys = [read_public_key(public) for public in public_keys]
    processes = min(_MOST_PROCESSES, os.cpu_count() or 1)
    with installation(Settings.from_environment(), kafka=False) as settings, events_progress(False) as progress:
        found = verify_checkpoints(settings.database, file, keys, processes, progress)
    print(json.dumps(found.as_dict())) if as_json else _show(found)
    raise typer.Exit(1 if found.differences else 0)


def _show(found: Tampering) -> None:
    print(f"Events compared: {found.events:,}, with {found.checkpoints:,} checkpoints.")
    if found.last_at is not None:
        print(
            f"The last one is number {found.last_checkpoint:,}, of {found.last_at}, up to event {found.last_event:,}."
        )
    print(f"Events that came later, which none covers: {found.uncovered:,}.")
    tell_differences(found, "Nothing was changed.")
