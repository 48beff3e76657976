"""The command line: `resolution`, or `python -m services`.

Each command is in a module, which is imported when the command is used, because what commands need takes a second.
"""

import errno
import io
import os
import sys
from contextlib import suppress
from importlib import import_module
from importlib.metadata import version as version_of
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from services.failures import Failure, Misuse
from services.telemetry import logs

from .terminal import complain, say

COMMANDS = {
    "demo": "demo:demo",
    "serve": "serve:serve",
    "migrate": "migrate:migrate",
    "order": "order:order",
    "send": "send:send",
    "verify": "verify:verify",
    "ledger": "ledger:ledger",
    "rebuild": "rebuild:rebuild",
    "replay": "replay:replay",
    "what-if": "what_if:what_if",
    "schema": "schema:schema",
    "export": "export:export",
    "erase": "erase:erase",
    "rewrap-keys": "erase:rewrap_keys",
    "renew-topics": "renew_topics:renew_topics",
    "retire-outcomes": "retire_outcomes:retire_outcomes",
    "split": "split:split",
    "parked": "parked:app",
    "dead": "dead:app",
    "checkpoints": "checkpoints:app",
}
"""By name, in the order of the help: the module in this package, and the function or the group of commands in it."""

_SETTINGS: dict[str, Any] = {
    "context_settings": {"help_option_names": ["-h", "--help"]},
    "pretty_exceptions_enable": False,
    "rich_markup_mode": "markdown",
}


class _Commands(TyperGroup):
    """Imports a command when it is asked for."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands = dict.fromkeys(COMMANDS)  # type: ignore[assignment]  # Typer suggests names from here

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """Returns the command, or None if there is none of this name."""
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name].partition(":")
        found = getattr(import_module(f"{__name__}.{module}"), name)
        if isinstance(found, typer.Typer):
            command = typer.main.get_command(found)
        else:
            one = typer.Typer(add_completion=False, **_SETTINGS)
            one.command()(found)
            command = typer.main.get_command(one)
        command.name = cmd_name
        return command


app = typer.Typer(
    cls=_Commands,
    help="The Resolution Center: settles disputes on a marketplace's orders. Commands use the servers in "
    "RESOLUTION_DATABASE_URL and RESOLUTION_KAFKA_SERVERS, or embedded ones if those are not set.",
    no_args_is_help=True,
    **_SETTINGS,
)
_USAGE = 2


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
    except Failure as error:
        _fail(error, _USAGE if isinstance(error, Misuse) else 1)
    except UnicodeEncodeError as error:
        _fail(f"{error.object} is not text in UTF-8.", _USAGE)
    except OSError as error:
        _drop_output()
        _fail(_sentence(error), 1, quiet=error.errno == errno.EPIPE)
    except Exception as error:
        from .server_errors import explain, is_of_server  # here, because the servers' clients take long to import

        if not is_of_server(error):
            raise
        _fail(explain(error), 1)
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


def _fail(error: object, code: int, *, quiet: bool = False) -> NoReturn:
    if not quiet:
        complain(f"resolution: {error}")
    raise SystemExit(code)
