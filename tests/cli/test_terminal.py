"""What the command line does to a terminal: 80 columns, other people's text, files that cannot be written, Ctrl-C."""

import asyncio
import json
import logging
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any
from uuid import UUID

import psycopg
import pytest
import typer
from aiokafka.errors import KafkaConnectionError, TopicAuthorizationFailedError
from eventsourcing.persistence import PersistenceError
from psycopg import errors
from resolution_contracts import CancellationRequest, CommandEnvelope
from rich.cells import cell_len
from typer.testing import CliRunner

from services import cli
from services.audit.worker_processes import ignoring_ctrl_c
from services.cli import terminal
from services.cli.send import CommandsFileError, KeptIds, read_commands
from services.cli.server_errors import explain
from services.cli.terminal import Terminal, complain, facts, say, styled, table
from services.eventstore.database import answer_of_server, refusal_of_server
from services.telemetry import logs
from services.telemetry.printable import printable
from tests.support.commands import ask_cancellation, register
from tests.support.installation import Installation, until

HOSTILE = "[/x] [red]a[/] :smile: \x1b[2J\x1b]0;title\x07 ann\u202eevil\u2066\u200b \0\b\r\x9b31m \ud800 \x7f"
"""Rich's markup and emoji, escape sequences, bidi and zero-width controls, NUL, C1, a lone surrogate, DEL."""
SHOWN = (
    "[/x] [red]a[/] :smile: \\x1b[2J\\x1b]0;title\\x07 ann\\u202eevil\\u2066\\u200b \\x00\\x08\\r\\x9b31m \\ud800 \\x7f"
)

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command in this process, in a terminal of 80 columns: its exit code, stdout and stderr."""
    monkeypatch.setattr(logs, "configure", lambda *_: None)
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("NO_COLOR", "1")

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["resolution", *arguments])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        out, err = capsys.readouterr()
        return ended.value.code or 0, out, err  # type: ignore[return-value]

    return run


# --- other people's text ---


def test_text_of_others_is_shown_and_does_nothing(capsys: pytest.CaptureFixture[str]):
    assert printable(HOSTILE) == SHOWN
    assert printable("Zoë's 発注 №7 👍") == "Zoë's 発注 №7 👍"
    say(HOSTILE, "a\nb")
    complain(f"resolution: {HOSTILE}\nresolution: all is well")
    facts([("key", HOSTILE), ("value", "{\n}")])
    console = Terminal()
    console.width = 200
    console.print(HOSTILE)
    console.print(styled((HOSTILE, "bold"), "\n", HOSTILE))
    out, err = capsys.readouterr()
    assert out.splitlines() == [SHOWN, "a\\nb", f"key: {SHOWN}", "value: {", "    }", SHOWN, SHOWN, SHOWN]
    assert err.splitlines() == [f"resolution: {SHOWN}", "  resolution: all is well"]


def test_a_long_table_shows_its_first_rows_before_the_last_ones_are_made(monkeypatch: pytest.MonkeyPatch):
    shown: list[tuple[object, ...]] = []
    monkeypatch.setattr(terminal, "say", lambda *lines: shown.append(lines))
    monkeypatch.setenv("COLUMNS", "80")
    table(("place", "why"), [("0/1", "not JSON"), ("0/10", "発注 " * 60)], fold=("why",))
    assert shown[0] == ("0/1    not JSON",)
    assert len(shown) == 2
    assert all(cell_len(str(line)) <= 80 for line in shown[1])


def test_a_table_of_80_columns_cuts_nothing_but_what_is_endless(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("COLUMNS", "80")
    key, why = "k" * 64, "the envelope is not a command's: " + HOSTILE
    row = ("7/123456789", "2026-11-27 19:31:23", 1_048_576, key, why)
    table(("place", "recorded", "bytes", "key", "why"), [row, (*row[:3], "x" * 1_000_000, why)], fold=("key", "why"))
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    text = "\n".join(lines)
    assert all(str(whole) in text for whole in row[:3])
    assert text.count("k") == 64 + len("key") - 2 + why.count("k") * 2
    assert text.count("x" * 10) < 30
    assert "1,000,000" in "".join(text.split())
    assert text.isprintable() or set(text) - set("\n") == {c for c in text if c.isprintable()}


def test_a_line_of_the_log_is_one_record(capsys: pytest.CaptureFixture[str]):
    record = logging.LogRecord("test", logging.INFO, "", 0, "from %s", (f"{HOSTILE}\nINFO all is well",), None)
    first, second = logs._formatter("text", "cli").format(record).split("\n")
    assert first.endswith(f"from {SHOWN}")
    assert second == "    INFO all is well"


@pytest.mark.parametrize(
    "arguments",
    [
        ("dead", "show", HOSTILE),
        ("dead", "retry", HOSTILE),
        ("dead", "discard", HOSTILE, "--reason", "r"),
        ("dead", "skip", HOSTILE, "--reason", "r"),
        ("replay", "order-1", "--as-of", HOSTILE),
        ("replay", "--drop", HOSTILE),
        ("serve", HOSTILE),
        ("send", HOSTILE.replace("\0", "")),
        ("export", "--to", "x", "--format", HOSTILE),
        (HOSTILE,),
    ],
)
def test_a_refused_argument_is_named_in_a_sentence(run: Run, arguments: tuple[str, ...]):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("resolution: ")
    assert set(err) - {"\n"} == {c for c in err if c.isprintable()}


async def test_every_command_shows_what_others_wrote_and_obeys_none_of_it(
    installation: Installation, run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    stored = HOSTILE.replace("\0", "").replace("\ud800", "")  # PostgreSQL and UTF-8 take all the rest
    for name, value in installation.settings.as_environment().items():
        monkeypatch.setenv(name, value)
    await installation.run("commands", "relay", "projections")
    await a_hostile_order(installation, stored)
    [partition, offset] = await a_hostile_dead_letter(installation, stored)
    place = f"{partition}/{offset}"

    async def said(*arguments: str, code: int = 0) -> str:
        found, out, err = await asyncio.to_thread(run, *arguments)
        assert found == code, (arguments, out, err)
        assert set(out + err) - {"\n"} == {c for c in out + err if c.isprintable()}, arguments
        if "--json" in arguments:
            assert all(json.loads(line) is not None for line in out.splitlines())
        return out + err

    shown = printable(stored)
    assert shown in await said("dead", "show", place)
    assert "[/x]" in await said("dead", "list")
    assert max(map(len, (await said("dead", "list")).splitlines())) <= 80
    assert json.loads(await said("dead", "list", "--json"))["key"] == stored
    assert json.loads(await said("dead", "show", place, "--json"))["headers"]["note"] == stored
    assert json.loads(await said("dead", "list", "--key", stored, "--json"))["place"] == place
    await said("dead", "list", "--error", HOSTILE)
    await said("dead", "show", "--raw", HOSTILE, code=2)
    assert "1 published again" in await said("dead", "retry", place)
    await said("dead", "discard", place, "--reason", stored)
    handled = [json.loads(line)["handled"] for line in (await said("dead", "list", "--all", "--json")).splitlines()]
    assert f"discarded: {stored}" in handled
    table = await said("dead", "list", "--all")
    assert "discarded:" in table
    assert max(map(len, table.splitlines())) <= 80

    page = await said("order", "order-1")
    assert max(map(len, page.splitlines())) <= 80
    assert "[/x]" in page
    await said("order", "order-1", "--as", stored)
    await said("order", "order-1", "--json")
    assert "[/x]" in await said("order", stored, code=1)
    replayed = await said("replay", "order-1", "--commands")
    assert "".join(shown.split()) in "".join(replayed.split())
    await said("replay", stored, code=1)
    await said("erase", stored, code=1)
    await said("rebuild", stored, code=1)
    await said("export", "--to", str(tmp_path / "export"))
    await said("checkpoints", "export", str(tmp_path / "checkpoints"))

    await installation.stop("commands")
    park(installation, stored)
    listed = await said("parked", "list")
    assert "[/x]" in listed
    assert max(map(len, listed.splitlines())) <= 80
    assert f"sender: {shown}" in await said("parked", "show", stored)
    assert json.loads(await said("parked", "show", stored, "--json"))["sender"] == stored
    await said("parked", "show", HOSTILE.replace("\0", ""), code=2)
    await said("ledger", code=1)
    await said("parked", "discard", stored, "--reason", stored)
    await said("parked", "retry", stored, code=1)


async def a_hostile_order(installation: Installation, text: str) -> None:
    order = register().model_copy(update={"freelancer_id": text})
    envelope = CommandEnvelope.of("order-1", order, source=text)
    await installation.outcome_of("order-1", envelope.to_json())
    asked = ask_cancellation().model_copy(
        update={"request": CancellationRequest(kind="cancellation", comment=f"{text}\n{text}")}
    )
    await installation.outcome_of("order-1", CommandEnvelope.of("order-1", asked, source=text).to_json())
    await until(lambda: (installation.page("order-1") or {}).get("open_dispute"))


async def a_hostile_dead_letter(installation: Installation, text: str) -> tuple[int, int]:
    value = {"specversion": text, "id": text, "type": text, "source": text, "subject": text}
    sent = await installation.publish_raw(
        text.encode(), json.dumps(value).encode(), headers=[("note", text.encode()), (text, b"\xff\x1b")]
    )
    await until(lambda: installation.query("SELECT 1 FROM outcomes WHERE kind = 'dead'"))
    return sent.partition, sent.offset


def park(installation: Installation, text: str) -> None:
    value = json.dumps({"type": text, "source": text, "id": text}).encode()
    installation.query(
        "INSERT INTO parked_commands "
        "(partition, record_offset, order_id, command_id, record_time, key, value, headers, why) "
        "VALUES (0, 1000, %s, %s, 0, %s, %s, '[]', %s)",
        (text, text, text.encode(), value, text),
    )


# --- help ---


def commands() -> Iterator[list[str]]:
    found: Any = typer.main.get_command(cli.app)
    for name in found.list_commands(None):
        yield [name]
        yield from ([name, inner] for inner in getattr(found.get_command(None, name), "commands", ()))


def test_every_command_has_help_that_fits_80_columns(run: Run):
    for command in ([], *commands()):
        code, out, _ = run(*command, "-h")
        assert (code, "Usage: resolution" in out) == (0, True), command
        assert max(map(len, out.splitlines())) <= 80
        cut = {word for word in out.split() if "…" in word}
        assert cut <= {"asof_DATE_TIME_…", "PREFIX_order_page,", "…;"}, command
    assert len(list(commands())) > 20


def test_a_command_without_its_arguments_says_which_are_missing(run: Run):
    code, _, err = run("order")
    assert (code, err) == (2, "resolution: Missing argument 'order_id'. Try `resolution order --help`.\n")
    assert run("dead")[0] == 2


def test_the_version_is_that_of_the_distribution(run: Run):
    code, out, _ = run("--version")
    assert code == 0
    assert out.startswith("resolution 0.")


def test_the_shell_completes_commands():
    environment = {"_RESOLUTION_COMPLETE": "complete_bash", "COMP_WORDS": "resolution par", "COMP_CWORD": "1"}
    assert CliRunner().invoke(cli.app, [], env=environment, prog_name="resolution").output.split() == ["parked"]


# --- files ---


def test_a_path_that_cannot_be_written_is_a_sentence(run: Run, tmp_path: Path):
    file = tmp_path / "file"
    file.write_text('{"subject": "order-1", "type": "RecordDelivery"}\n')
    for arguments, code in (
        (("schema", str(file / "schemas")), 1),
        (("schema", str(tmp_path / "schemas"), "--page", str(tmp_path)), 1),
        (("checkpoints", "key", str(file / "keys")), 1),
        (("send", str(file), "--ids", str(tmp_path / "nowhere" / "ids")), 2),
        (("send", str(file), "--ids", str(tmp_path)), 2),
        (("send", str(tmp_path)), 2),
    ):
        found, _, err = run(*arguments)
        assert (found, err.count("\n")) == (code, 1), (arguments, err)
        assert err.startswith("resolution: ")
        assert str(tmp_path) in err


@pytest.mark.parametrize(("target", "said"), [("/dev/full", "No space left on device"), (None, "")])
def test_output_that_nobody_takes_is_no_traceback(target: str | None, said: str):
    """A full disk, and a reader that has ended, like `head`."""
    reading, writing = os.pipe()
    os.close(reading)
    if target is not None:
        os.close(writing)
        writing = os.open(target, os.O_WRONLY)
    process = subprocess.run(
        [sys.executable, "-m", "services", "--version"], stdout=writing, stderr=subprocess.PIPE, timeout=60, check=False
    )
    os.close(writing)
    assert process.returncode == 1
    assert (said in process.stderr.decode(), b"Traceback" in process.stderr, b"ignored" in process.stderr) == (
        True, False, False,
    )  # fmt: skip


# --- send ---


def test_lines_end_at_line_feeds_only_and_a_byte_order_mark_is_no_text():
    text = '\ufeff{"subject": "order-1", "type": "Accept", "data": {"message": "a\u2028b\x85c"}}\r\n\r\n'
    [line] = read_commands(text.encode(), KeptIds(None))
    assert line.order_id == "order-1"
    envelope = json.loads(line.value)
    assert envelope["type"] == "resolution.command.Accept.v1"
    assert envelope["data"] == {"message": "a\u2028b\x85c"}
    assert UUID(envelope["id"])
    assert line.has_new_id


def test_what_a_line_says_is_sent_as_it_is_written():
    data = '{"amount": 1e3, "amount": 9e999999, "deep": ' + "[" * 500 + "]" * 500 + "}"
    [line] = read_commands(f'{{"subject": "o", "type": "X", "id": 7, "data": {data}}}'.encode(), KeptIds(None))
    assert f'"data":{data}'.encode() in line.value
    assert b'"id":7' in line.value
    assert not line.has_new_id
    [line] = read_commands(b'{"subject": "o", "type": "X", "data": {"note": "\\ud800"}}', KeptIds(None))
    assert b'"data":{"note": "\\ud800"}' in line.value


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "Line 2 is not JSON"),
        (b"[1]", "Line 2 is not a JSON object"),
        (b'{"subject": "a", "type": "X", "subject": "b"}', "Line 2 has 'subject' twice"),
        (b'{"\\ud800": 1}', "Line 2 is not UTF-8"),
        (b"[" * 100_000, "Line 2 is not JSON"),
        (b"\xff", "Line 2 is not UTF-8"),
        (b"\0", "Line 2 is not JSON"),
        (b"{}", "add subject"),
        (b'{"subject": 7}', "add subject"),
        (b'{"subject": "\\ud800"}', "add subject"),
        (b'{"subject": "order-1"}', "add type"),
        (b'{"subject": "order-1", "type": []}', "add type"),
        (b'{"subject": "o", "type": "X", "data": "' + b"x" * 2**22 + b'"}', "Kafka takes at most"),
    ],
)
def test_a_line_that_cannot_be_published_is_named_and_nothing_is_sent(line: bytes, said: str):
    good = b'{"subject": "order-1", "type": "RecordDelivery"}\n'
    with pytest.raises(CommandsFileError, match=r"[Nn]othing was sent") as refused:
        read_commands(good + line, KeptIds(None))
    assert said in str(refused.value)


def test_ids_that_were_made_up_are_kept_for_the_same_lines(tmp_path: Path):
    def ids(*lines: str) -> list[str]:
        kept = KeptIds(tmp_path / "ids")
        found = read_commands("\n".join(lines).encode(), kept)
        kept.save()
        return [json.loads(line.value)["id"] for line in found]

    one, other, own = (
        f'{{"subject": "order-{n}", "type": "RecordDelivery"{more}}}'
        for n, more in ((1, ""), (2, ""), (3, ', "id": "x"'))
    )
    first = ids(one, other, own, one)
    assert len(set(first)) == 4
    assert first[2] == "x"
    assert ids(one, other, own, one) == first
    assert ids(other, one) == [first[1], first[0]], "whatever their order"
    assert ids(one, one, one)[:2] == [first[0], first[3]]
    assert ids(other) == [first[1]], "and what is not sent this time is not forgotten"
    (tmp_path / "ids").write_text("{}")
    with pytest.raises(CommandsFileError, match="not a file of ids"):
        KeptIds(tmp_path / "ids")


# --- serve ---


@pytest.mark.parametrize("variable", ["RESOLUTION_HTTP_PORT", "RESOLUTION_METRICS_PORT"])
def test_a_port_in_use_is_said_before_anything_starts(run: Run, monkeypatch: pytest.MonkeyPatch, variable: str):
    monkeypatch.setenv("RESOLUTION_DATABASE_URL", "postgresql://nobody@127.0.0.1:1/nothing")
    monkeypatch.setenv("RESOLUTION_KAFKA_SERVERS", "127.0.0.1:1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        monkeypatch.setenv(variable, str(port))
        code, _, err = run("serve", "http")
    assert (code, err.count("\n")) == (2, 1)
    assert f"127.0.0.1:{port} (Address already in use" in err
    assert variable in err


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ('failed: FATAL:  database "x" does not exist', 'database "x" does not exist'),
        ('failed: FATAL:  role "x" does not exist\nmore', 'role "x" does not exist'),
        ('FATAL:  password authentication failed for user "x"', 'password authentication failed for user "x"'),
        ("FATAL:  no such database: x", "no such database: x"),
        ("fe_sendauth: no password supplied", "no password supplied"),
        (
            'FATAL:  pg_hba.conf rejects connection for host "h", user "x"',
            'pg_hba.conf rejects connection for host "h", user "x"',
        ),
        (
            'FATAL:  database "x" is not currently accepting connections',
            'database "x" is not currently accepting connections',
        ),
        ('invalid port number: "0"', 'invalid port number: "0"'),
        ("FATAL:  the database system is starting up", None),
        ("FATAL:  sorry, too many clients already", None),
        ('connection to server at "127.0.0.1", port 1 failed: Connection refused', None),
        ('could not translate host name "x" to address: Name or service not known', None),
    ],
)
def test_what_does_not_mend_itself_is_told_from_what_does(said: str, why: str | None):
    found = refusal_of_server(psycopg.OperationalError(f"connection failed: {said}"))
    assert found == why or (why and found and found.startswith(f"PostgreSQL refuses the connection: {why}. Waiting"))


@pytest.mark.parametrize(
    ("said", "answer"),
    [
        (
            'connection to server at "127.0.0.1", port 5432 failed: FATAL:  Passwort-Authentifizierung fehlgeschlagen',
            "Passwort-Authentifizierung fehlgeschlagen",
        ),
        ('connection to server at "h", port 1 failed: ВАЖНО:  роль "x" не существует\n', 'роль "x" не существует'),
        ('connection to server at "h", port 1 failed: Connection refused\n\tIs the server running?', None),
        ('could not translate host name "x" to address: Name or service not known', None),
    ],
)
def test_a_server_that_refuses_in_any_language_has_answered(said: str, answer: str | None):
    assert answer_of_server(psycopg.OperationalError(f"connection failed: {said}")) == answer


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.InsufficientPrivilege("permission denied for table x\nmore"), "the database user ann lacks a right: permission denied for table x. Connect as"),
        (errors.ReadOnlySqlTransaction("cannot execute INSERT"), "PostgreSQL lets the database user ann only read: cannot execute INSERT. If the"),
        (KafkaConnectionError("no brokers"), "Kafka does not answer at nowhere:1. Start it, or correct RESOLUTION_KAFKA_SERVERS."),
        (TopicAuthorizationFailedError("x"), "x"),
        (errors.DiskFull("no space left"), "no space left"),
    ],
    ids=["a right", "a standby", "no Kafka", "an ACL", "anything else"],
)  # fmt: skip
def test_what_a_server_refuses_is_a_sentence(error: Exception, said: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("RESOLUTION_DATABASE_URL", "postgresql://ann:secret@h/x")
    monkeypatch.setenv("RESOLUTION_KAFKA_SERVERS", "nowhere:1")
    assert said in str(explain(error))
    wrapped = PersistenceError("wrapped")
    wrapped.__cause__ = error
    if isinstance(error, psycopg.Error) and not isinstance(error, errors.DiskFull):
        assert said in str(explain(wrapped))


# --- Ctrl-C ---


def test_it_is_no_traceback_while_the_commands_are_loaded():
    program = """
import os, signal, sys
class CtrlC:
    def find_spec(self, name, *_):
        if name == "services.cli":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, CtrlC())
from services.__main__ import main
main()
"""
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, timeout=60, check=False,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )  # fmt: skip
    assert (process.returncode, process.stdout, process.stderr) == (-signal.SIGINT, b"", b"")


def test_only_the_process_that_was_started_acts_on_it():
    before = signal.getsignal(signal.SIGINT)
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        with ignoring_ctrl_c():
            first = pool.submit(signal.getsignal, signal.SIGINT)
        assert first.result() == signal.SIG_IGN
    assert signal.getsignal(signal.SIGINT) == before
