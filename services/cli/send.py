"""`resolution send`: reads commands as JSON lines, and prints their outcomes as JSON lines."""

import asyncio
import codecs
import json
import os
import re
import sys
from collections import defaultdict, deque
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any, NamedTuple, NoReturn
from uuid import uuid4

import msgspec
import typer
from aiokafka.errors import KafkaError
from resolution_contracts import COMMANDS
from resolution_contracts.client import Client
from resolution_contracts.topics import command_type

from services.failures import Misuse
from services.kafka.topics import LARGEST_RECORD, Topics, require_topics
from services.runtime.installation import installation
from services.settings import Settings

from .progress import events_progress
from .terminal import complain, say

_LARGEST_VALUE = LARGEST_RECORD - 64 * 1024
"""In bytes. Leaves room for the key and for what Kafka adds."""
_NOT_ASCII = re.compile("[^ -~]")


class CommandsFileError(Misuse):
    """A file or a line cannot be sent. The message names it and says what to do. Nothing was sent."""


class Line(NamedTuple):
    """A command to publish."""

    order_id: str
    value: bytes
    """The envelope. Attributes that the line had are unchanged."""
    has_new_id: bool
    """Whether this program made the command's id."""
    number: int
    """The number of the line in the file, from 1."""
    type: str
    """The command's type, as the line has it."""


def send(
    file: Annotated[Path, typer.Argument(help="JSON lines, each a command's envelope. - is stdin.")],
    ids: Annotated[
        Path | None,
        typer.Option(
            "--ids",
            metavar="FILE",
            help="Store the ids that this program makes in this file. Use the same file again to give the same lines "
            "the same ids, so that a file can be sent again without harm.",
        ),
    ] = None,
    timeout: Annotated[float, typer.Option(min=0, help="Give up after this many seconds without an outcome.")] = 30.0,
) -> None:
    """Publish commands, and print the outcome of each as a JSON line, in the order sent.

    A line needs `subject` (the order id) and `type` (a short name such as Accept is enough). If `id`, `source` or
    `specversion` is missing, this fills it in. Exit code 1 if a line isn't a command, or got no outcome. Example:

    {"subject": "order-7", "type": "RecordDelivery"}
    """
    kept = KeptIds(ids)
    lines = read_commands(_content(file), kept)
    kept.save()
    if not lines:
        complain(f"resolution: {'Standard input' if str(file) == '-' else file} contains no commands.")
        return
    sending = Sending()
    with installation(Settings.from_environment(), database=False) as settings:
        try:
            asyncio.run(send_all(settings, lines, timeout, sending))
        except (KafkaError, TimeoutError, KeyboardInterrupt) as error:
            if not sending.published and not isinstance(error, TimeoutError):
                raise
            _give_up(error, timeout, lines[sending.printed :], ids)
    if sending.dead:
        complain(f"resolution: {sending.dead:,} of {len(lines):,} lines became dead letters: they are not commands.")
        raise typer.Exit(1)


# --- reading ---


class KeptIds:
    """Gives ids to lines without one. With a file, a line that comes again gets the id that it had."""

    def __init__(self, file: Path | None) -> None:
        """Reads the file if it exists. Raises CommandsFileError."""
        self._file = file
        self._all: list[_KeptId] = []
        self._unused: defaultdict[str, deque[str]] = defaultdict(deque)
        if file is None or not file.exists():
            return
        try:
            self._all = _decode_ids.decode_lines(file.read_bytes())
        except msgspec.MsgspecError:
            raise CommandsFileError(f"{file} is not a file of ids. Name another file, or a new one.") from None
        except OSError as error:
            raise CommandsFileError(f"{file} cannot be read: {error.strerror}.") from None
        for kept in self._all:
            self._unused[kept.line].append(kept.id)

    def of(self, line: bytes) -> str:
        """Returns the next stored id of an equal line, in the order of the file, or else a new id."""
        digest = sha256(line).hexdigest()
        if self._unused[digest]:
            return self._unused[digest].popleft()
        self._all.append(_KeptId(digest, str(uuid4())))
        return self._all[-1].id

    def save(self) -> None:
        """Writes all ids to the file. Raises CommandsFileError."""
        if self._file is None:
            return
        new = self._file.with_name(f".{self._file.name}-{os.getpid()}")
        try:
            with new.open("wb") as stream:
                stream.write(msgspec.json.Encoder().encode_lines(self._all))
                stream.flush()
                os.fsync(stream.fileno())
            new.replace(self._file)
        except OSError as error:
            new.unlink(missing_ok=True)
            raise CommandsFileError(f"Cannot write {self._file}: {error.strerror}. Nothing was sent.") from None


class _KeptId(msgspec.Struct, forbid_unknown_fields=True):
    """The id that was given to a line."""

    line: str
    """The SHA-256 of the line, in hexadecimal."""
    id: str


_decode_ids = msgspec.json.Decoder(_KeptId)


def read_commands(content: bytes, ids: KeptIds) -> list[Line]:
    """Completes the envelopes. Checks only what is needed to publish them. Raises CommandsFileError."""
    lines = content.removeprefix(codecs.BOM_UTF8).split(b"\n")  # the only line end in JSON lines
    return [_complete(line.strip(), number, ids) for number, line in enumerate(lines, 1) if line.strip()]


def _complete(line: bytes, number: int, ids: KeptIds) -> Line:
    try:
        members = _members(line)
        if repeated := _repeated(line):
            raise CommandsFileError(f"Line {number} has {repeated!r} twice; leave one out. Nothing was sent.")
    except msgspec.ValidationError:
        raise CommandsFileError(f"Line {number} is not a JSON object, which a command is; nothing was sent.") from None
    except UnicodeError:
        raise CommandsFileError(f"Line {number} is not UTF-8; nothing was sent.") from None
    except (ValueError, RecursionError) as error:
        raise CommandsFileError(f"Line {number} is not JSON ({error}); nothing was sent.") from None
    subject, name = (_text(members.get(attribute)) for attribute in ("subject", "type"))
    if subject is None:
        raise CommandsFileError(f"Line {number} names no order; add subject, the order id. Nothing was sent.")
    if name is None:
        raise CommandsFileError(f"Line {number} names no command; add type, such as Accept. Nothing was sent.")
    completed: dict[str, Any] = dict(members)
    if name in COMMANDS:
        completed["type"] = command_type(name)
    if has_new_id := "id" not in members:
        completed["id"] = ids.of(line)
    value = msgspec.json.encode({"specversion": "1.0", "source": "/resolution-cli"} | completed)
    if len(value) > _LARGEST_VALUE:
        raise CommandsFileError(
            f"Line {number} has {len(value):,} bytes; Kafka takes at most {_LARGEST_VALUE:,}. Nothing was sent."
        )
    return Line(subject, value, has_new_id, number, name)


def _members(line: bytes) -> dict[str, msgspec.Raw]:
    """Returns the members of a JSON object as they are written, so that the service judges exactly what the line has.

    Raises msgspec.ValidationError if it is no object, ValueError and RecursionError.
    """
    text = line.decode()
    try:
        return msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    except msgspec.DecodeError:
        # msgspec refuses a lone surrogate anywhere. The service has to judge it, because it says which field has it.
        members = json.loads(text)
        if not isinstance(members, dict):
            raise msgspec.ValidationError("a command is an object") from None
        return {name.encode().decode(): msgspec.Raw(json.dumps(value)) for name, value in members.items()}


def _repeated(line: bytes) -> str | None:
    """Returns a name that the line's object has twice. The service judges what is repeated within `data`."""
    pairs = json.loads(line, object_pairs_hook=tuple, parse_int=str, parse_float=str)  # of any number of digits
    names = [name for name, _ in pairs]
    return next((name for name in names if names.count(name) > 1), None)


def _text(member: msgspec.Raw | None) -> str | None:
    try:
        return msgspec.json.decode(member or b"", type=str)
    except msgspec.DecodeError:
        return None


def _content(file: Path) -> bytes:
    try:
        return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()
    except OSError as error:
        raise CommandsFileError(f"{file} cannot be read: {error.strerror}.") from None


# --- sending ---


@dataclass
class Sending:
    """The progress of sending."""

    published: int = 0
    printed: int = 0
    """How many outcomes were printed. They belong to the first lines."""
    dead: int = 0
    """How many of the printed outcomes are dead letters."""


async def send_all(settings: Settings, lines: Sequence[Line], timeout: float, sending: Sending) -> None:
    """Publishes the commands and prints their outcomes in the order sent.

    Raises TopicError, KafkaError, and TimeoutError after `timeout` seconds without progress.
    """
    loop = asyncio.get_running_loop()
    topics = Topics(settings.topic_prefix)
    await require_topics(settings.cluster, topics.commands, topics.outcomes)
    async with (
        Client(**settings.cluster.options, prefix=settings.topic_prefix) as client,
        asyncio.timeout(timeout) as limit,
    ):
        outcomes = []
        with events_progress(False, "sent") as progress:
            for line in lines:
                outcomes.append(await client.publish(line.order_id, line.value))
                sending.published += 1
                limit.reschedule(loop.time() + timeout)
                progress(sending.published, len(lines))
        # On a terminal, the printed outcomes show the progress.
        with events_progress(False, "outcomes", hidden=sys.stdout.isatty()) as progress:
            for line, future in zip(lines, outcomes, strict=True):
                outcome = await future
                if "dead" in outcome:
                    outcome |= {"line": line.number, "subject": line.order_id, "type": line.type}
                say(json.dumps(outcome))
                sending.printed += 1
                sending.dead += "dead" in outcome
                limit.reschedule(loop.time() + timeout)
                progress(sending.printed, len(lines))


def _give_up(error: BaseException, timeout: float, rest: Sequence[Line], ids: Path | None) -> NoReturn:
    """Prints the lines without an outcome, and says how to send them again so that nothing takes effect twice."""
    match error:
        case TimeoutError():
            why = f"no outcome came for {timeout:g} s. Is the service running (resolution serve)?"
        case KeyboardInterrupt():
            why = "the command was interrupted."
        case _:
            why = f"{error}."
    if any(line.has_new_id for line in rest) and ids is None:
        again = "Send the lines above, not the file: they have the ids under which they were sent"
    elif ids is None:
        again = "Send the lines above again"
    else:
        again = f"Send the file again with --ids {ids}, which has the ids"
    if ids is None:
        for line in rest:
            complain(_NOT_ASCII.sub(lambda match: json.dumps(match[0])[1:-1], line.value.decode()))
    complain(f"resolution: {len(rest):,} lines have no outcome yet: {why}")
    complain(f"{again}. Each command takes effect once, whether or not it has arrived already.")
    raise typer.Exit(130 if isinstance(error, KeyboardInterrupt) else 1)
