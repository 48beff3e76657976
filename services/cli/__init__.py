"""The command line: `resolution`, or `python -m services`."""

import asyncio
import errno
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib.metadata import version as version_of
from typing import Annotated, NoReturn

import psycopg
import typer
from aiokafka.errors import KafkaError
from eventsourcing.persistence import PersistenceError

from projections import order_page
from projections.framework.as_of import AsOfError
from projections.framework.rebuild import RebuildError
from services.audit.replay import NoHistory
from services.audit.verify import VerificationFailed
from services.audit.verify_checkpoints import CannotVerify
from services.audit.verify_topics import HistoryExpired
from services.checkpoints.signing_keys import KeyFileError
from services.commands.dead_letters import NotRetried
from services.commands.parked_orders import NotParked
from services.commands.skip_records import NotSkipped
from services.demo import run as run_demo
from services.embedded import ServerError
from services.eventstore.database import connect
from services.eventstore.migrate import SchemaOutdated
from services.export import ExportError
from services.kafka.record_batches import UnreadablePartition
from services.kafka.topics import TopicError
from services.relay.renew_topics import NotRenewed
from services.retention.retire import NotRetired
from services.runtime.installation import clock_of, installation, prepare, require_known_topics, shard_of
from services.runtime.role_names import ROLE_NAMES
from services.runtime.role_process import start_fork_server
from services.runtime.serve import require_free_ports
from services.runtime.serve import serve as serve_roles
from services.runtime.supervisor import known_roles
from services.sealing.master_keys import MasterKeyError
from services.settings import Settings, SettingsError
from services.shards.identity import WrongShard
from services.shards.split_database import CannotSplit
from services.telemetry import logs

from . import checkpoints, dead, parked, show
from .erase import NotErased, erase, rewrap_keys
from .export import export
from .failures import explain
from .ledger import ledger
from .rebuild import rebuild
from .renew_topics import renew_topics
from .replay import replay
from .retire_outcomes import retire_outcomes
from .schema import schema
from .send import CommandsFileError, send
from .split import split
from .terminal import Terminal, complain, say
from .verify import verify

app = typer.Typer(
    help="The Resolution Center: settles disputes on a marketplace's orders. Commands use the servers in "
    "RESOLUTION_DATABASE_URL and RESOLUTION_KAFKA_SERVERS, or embedded ones if those are not set.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)
app.add_typer(parked.app, name="parked")
app.add_typer(dead.app, name="dead")
app.add_typer(checkpoints.app, name="checkpoints")
app.command()(send)
app.command()(verify)
app.command()(ledger)
app.command()(rebuild)
app.command()(replay)
app.command()(schema)
app.command()(export)
app.command()(erase)
app.command()(rewrap_keys)
app.command()(renew_topics)
app.command()(retire_outcomes)
app.command()(split)
AsJson = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON lines on stdout.")]
_USAGE = 2
_FAILURES = (
    AsOfError,
    CannotSplit,
    CannotVerify,
    ExportError,
    HistoryExpired,
    KeyFileError,
    MasterKeyError,
    NoHistory,
    NotErased,
    NotParked,
    NotRenewed,
    NotRetired,
    NotRetried,
    NotSkipped,
    UnreadablePartition,
    VerificationFailed,
    RebuildError,
    SchemaOutdated,
    ServerError,
    TopicError,
    psycopg.Error,
    PersistenceError,
    KafkaError,
)


def main() -> NoReturn:
    """Runs a command. For a failure that a user can cause, prints a sentence to stderr and exits with 1 or 2."""
    logs.configure("text", "resolution")
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # whatever the terminal's encoding is
    try:
        code = app(prog_name="resolution", standalone_mode=False)
        sys.stdout.flush()
    except typer.TyperException as error:
        _misused(error)
    except (SettingsError, CommandsFileError, WrongShard) as error:
        _fail(error, _USAGE)
    except UnicodeEncodeError as error:
        _fail(f"{error.object} is not text in UTF-8.", _USAGE)
    except _FAILURES as error:
        _fail(explain(error), 1)
    except OSError as error:
        _drop_output()
        _fail(_sentence(error), 1, quiet=error.errno == errno.EPIPE)
    raise SystemExit(code)


def _sentence(error: OSError) -> str:
    """Names the file, which another program may have made where a directory is needed."""
    if isinstance(error, NotADirectoryError | FileExistsError) and error.filename:
        return f"{error.filename}: this, or what it is in, is a file and not a directory. Name another directory."
    return f"{error.filename or 'Standard output'}: {error.strerror or error}."


def _misused(error: typer.TyperException) -> NoReturn:
    context = getattr(error, "ctx", None)
    hint = f" Try `{context.command_path} --help`." if context else ""
    if message := error.format_message():  # empty if the help was printed instead
        complain(f"resolution: {message}{'' if message.endswith(('.', '?')) else '.'}{hint}")
    raise SystemExit(error.exit_code)


def _drop_output() -> None:
    """Sends the rest of stdout to nowhere, because Python flushes it at exit, which would fail again."""
    with suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"resolution {version_of('resolution-center')}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Handles the options before a command."""


@app.command()
def demo(
    as_json: AsJson = False,
    keep: Annotated[bool, typer.Option(help="Keep the demo's topics and database.")] = False,
) -> None:
    """Play a marketplace's day at a scaled clock through real Kafka and PostgreSQL, and verify it."""
    with installation(Settings.from_environment()) as settings:
        passed = asyncio.run(run_demo(settings, Terminal(), as_json=as_json, keep=keep))
    raise typer.Exit(0 if passed else 1)


@app.command()
def serve(
    roles: Annotated[list[str] | None, typer.Argument(help=f"Any of: {', '.join(ROLE_NAMES)}. All by default.")] = None,
    shard: Annotated[
        str | None,
        typer.Option(
            envvar="RESOLUTION_SHARD",
            help="If there are several databases: work for this one only. Counted from 0.",
            metavar="N",
        ),
    ] = None,
) -> None:
    """Run roles until SIGTERM, each in its own process. Prints `ready {json}` once all work."""
    try:
        wanted = known_roles(roles or [], list(ROLE_NAMES))
    except ValueError as error:
        _fail(error, _USAGE)
    configured = Settings.from_environment(os.environ | ({"RESOLUTION_SHARD": shard} if shard else {}))
    logs.configure(configured.log_format, "serve")
    require_free_ports(configured, wanted, list(ROLE_NAMES))
    start_fork_server()
    with installation(configured) as settings:
        prepare(settings)
        require_known_topics(settings)
        asyncio.run(serve_roles(settings, wanted, list(ROLE_NAMES)))


@app.command()
def migrate(as_json: AsJson = False) -> None:
    """Bring the database's schema and the topics up to date, before the roles start.

    It does no harm to run this again, or twice at the same time.
    """
    with installation(Settings.from_environment()) as settings:
        ran = prepare(settings)
    if as_json:
        say(json.dumps({"ran": ran}))
    else:
        say(*(f"ran {name}" for name in ran), "Schema and topics are up to date.")


@app.command()
def order(
    order_id: Annotated[str, typer.Argument(help="The order's id.")],
    viewer: Annotated[str | None, typer.Option("--as", help="The id of the client or freelancer who looks.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the order page, with the actions that are available now to the viewer, or to both parties without --as."""
    with _database() as settings, connect((shard := shard_of(settings, order_id)).database) as connection:
        try:
            page = order_page.look(connection, shard.master_keys, order_id, viewer, clock_of(shard).now())
        except order_page.NotAParty:
            page = None
        except psycopg.errors.UndefinedTable:
            page = None
    if page is None:
        # The answer is the same for an order that does not exist and for other people's, so a stranger learns nothing.
        _fail(f"There is no order {order_id}" + (f" of {viewer}." if viewer else "."), 1)
    say(json.dumps(page)) if as_json else show.order(Terminal(), page)


@contextmanager
def _database() -> Iterator[Settings]:
    with installation(Settings.from_environment(), kafka=False) as settings:
        yield settings


def _fail(error: object, code: int, *, quiet: bool = False) -> NoReturn:
    if not quiet:
        complain(f"resolution: {error}")
    raise SystemExit(code)
