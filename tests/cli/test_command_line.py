"""The command line, as a new user and as a script sees it: `resolution` in processes of its own."""

import asyncio
import fcntl
import json
import os
import re
import signal
import struct
import sys
import termios
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from importlib.resources import files
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import httpx
import psutil
import psycopg
import pytest
from resolution_contracts import CommandEnvelope

from tests.support.commands import ask_cancellation, offer_refund, register
from tests.support.installation import Installation, until

COMMANDS = ("demo", "serve", "migrate", "send", "order", "replay")


async def resolution(installation: Installation, *arguments: str, stdin: bytes = b"") -> tuple[int, str, str]:
    """Exit code, stdout, stderr."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services",
        *arguments,
        env=os.environ | installation.settings.as_environment() | {"COLUMNS": "100", "NO_COLOR": "1"},
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    out, err = await asyncio.wait_for(process.communicate(stdin), 150)
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


@asynccontextmanager
async def serving(installation: Installation, *roles: str) -> AsyncIterator[dict[str, str]]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services",
        "serve",
        *roles,
        env=os.environ | installation.settings.as_environment(),
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        assert line.startswith("ready ")
        yield json.loads(line.removeprefix("ready "))
    finally:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_a_script_that_knows_only_the_contract_gets_one_right_outcome_for_each_command(
    installation: Installation, tmp_path: Path
):
    file = tmp_path / "commands.jsonl"
    file.write_text('{"subject": "order-2", "type": "RecordDelivery"}\n')
    async with serving(installation) as ready:
        http = ready.pop("http")
        assert ready == {"kafka": installation.settings.kafka, "database": installation.settings.database}
        async with httpx.AsyncClient() as client:
            assert (await client.get(http + "/login")).status_code == 200
        dispute_id = str(uuid4())
        lines = [
            CommandEnvelope.of("order-1", register(), source="/script").model_dump(mode="json"),
            CommandEnvelope.of("order-1", offer_refund(7_000), source="/script").model_dump(mode="json"),
            {"subject": "order-1", "type": "OpenDispute", "id": dispute_id, "data": ask_cancellation().model_dump()},
            {"subject": "order-1", "type": "Accept", "data": {"actor": "freelancer-1", "dispute_id": dispute_id}},
            {"subject": "order-1", "type": "RecordDelivery", "specversion": "0.1"},
        ]
        text = "\n".join(json.dumps(line) for line in lines)
        code, out, err = await resolution(installation, "send", "-", stdin=text.encode())
        assert code == 1
        assert "1 of 5 lines became dead letters" in err
        answers = [json.loads(line) for line in out.splitlines()]
        assert [answer.get("data", {}).get("code") for answer in answers] == [
            None, "refund_over_limit", None, None, None,
        ]  # fmt: skip
        assert "specversion" in answers[-1]["dead"]
        for duplicate in (None, True):
            code, out, _ = await resolution(installation, "send", str(file), "--ids", str(file) + ".ids")
            assert code == 0
            assert json.loads(out)["data"].get("duplicate") is duplicate
        await until(lambda: (installation.page("order-1") or {}).get("status") == "canceled")

        code, out, _ = await resolution(installation, "order", "order-1", "--as", "client-1")
        assert code == 0
        assert "canceled" in out
        assert "refund due 100.00 USD" in out
        code, out, _ = await resolution(installation, "order", "order-1", "--as", "client-1", "--json")
        assert json.loads(out)["viewer"] == "client"
        code, out, _ = await resolution(installation, "replay", "order-1", "--json")
        assert [json.loads(line)["event"] for line in out.splitlines()] == [
            "OrderRegistered", "DisputeOpened", "Accepted", "OrderCanceled",
        ]  # fmt: skip
        code, out, _ = await resolution(installation, "replay", "order-1", "--at", "2")
        assert "Accepted" not in out
        assert "cancellation" in out


async def test_a_stranger_and_a_missing_order_get_the_same_answer(installation: Installation):
    await installation.run("commands", "projections")
    await installation.publish("order-1", register())
    await until(lambda: installation.page("order-1"))
    for arguments in (("order", "order-1", "--as", "stranger"), ("order", "order-2", "--as", "stranger")):
        code, out, err = await resolution(installation, *arguments)
        assert code == 1
        assert not out
        assert re.fullmatch(r"resolution: There is no order order-\d of stranger\.\n", err)


async def test_bad_usage_says_what_to_do(installation: Installation):
    for arguments, stdin, said in (
        (("serve", "dishwasher"), b"", "There is no role 'dishwasher'; the roles are commands"),
        (("send", "-"), b"{", "Line 1 is not JSON"),
        (("send", "-"), b'{"type": "Accept"}', "add subject"),
        (("send", "/no/such/file"), b"", "/no/such/file"),
        (("replay", "order-1", "--as-of", "yesterday"), b"", "as-of"),
    ):
        code, _, err = await resolution(installation, *arguments, stdin=stdin)
        assert (code, said in err) == (2, True), err


async def test_what_has_no_outcome_is_told_with_the_ids_to_send_again(installation: Installation, tmp_path: Path):
    text = b'{"subject": "order-1", "type": "RecordDelivery", "data": {"note": "\xc2\xa0"}}\n'
    code, out, err = await resolution(installation, "send", "-", "--timeout", "3", stdin=text)
    assert (code, out) == (1, "")
    line, summary, advice = err.splitlines()[-3:]
    [record] = await installation.read(installation.topics.commands)
    assert json.loads(line)["id"] == json.loads(record.value or b"")["id"]
    assert json.loads(line)["data"] == {"note": "\xa0"}
    assert "1 lines have no outcome yet: no outcome came for 3 s" in summary
    assert advice.startswith("Send the lines above, not the file")
    ids = str(tmp_path / "ids")
    code, _, err = await resolution(installation, "send", "-", "--ids", ids, "--timeout", "0.2", stdin=text)
    assert code == 1
    assert f"Send the file again with --ids {ids}" in err


async def test_a_line_that_is_no_command_is_named_with_its_outcome(installation: Installation):
    await installation.run("commands", "relay")
    text = b'\n{"subject": "order-1", "type": "Dance", "data": {}}\n'
    code, out, _ = await resolution(installation, "send", "-", stdin=text)
    outcome = json.loads(out)

    assert (code, outcome["line"], outcome["subject"], outcome["type"]) == (1, 2, "order-1", "Dance")
    assert outcome["dead"] == "type is not a command that this service knows"


async def test_a_topic_that_is_missing_is_named_at_once(installation: Installation, tmp_path: Path):
    installation.settings = replace(installation.settings, topic_prefix="elsewhere.")
    text = b'{"subject": "order-1", "type": "Accept", "data": {}}\n'
    for arguments, missing in (
        (("send", "-"), "elsewhere.commands, elsewhere.outcomes"),
        (("erase", "order-1"), "elsewhere.commands, elsewhere.outcomes"),
        (("checkpoints", "export", str(tmp_path / "file")), "elsewhere.checkpoints"),
    ):
        code, out, err = await resolution(installation, *arguments, stdin=text)
        assert (code, out) == (1, "")
        assert f"There is no topic {missing} that this user may see." in err.splitlines()[-1]


@pytest.mark.parametrize(
    ("user", "database", "said"),
    [("postgres", "nothing", 'database "nothing" does not exist'), ("nobody", None, 'role "nobody" does not exist')],
)
async def test_serve_says_at_once_what_waiting_does_not_mend(
    installation: Installation, user: str, database: str | None, said: str
):
    parts = urlsplit(installation.settings.database)
    where = parts._replace(netloc=f"{user}@{parts.netloc.rpartition('@')[2]}")
    url = (where._replace(path=f"/{database}") if database else where).geturl()
    for command in ("serve", "migrate"):
        code, out, err = await resolution(Installation(replace(installation.settings, database_url=url)), command)
        assert (code, out) == (2, "")
        assert err.splitlines()[-1].startswith(f"resolution: PostgreSQL refuses the connection: {said}. ")


async def test_serve_ends_when_a_role_cannot_start_with_its_settings(installation: Installation):
    beyond = Installation(replace(installation.settings, http_host="0.0.0.0"))
    code, out, err = await resolution(beyond, "serve", "http")
    assert (code, out) == (2, "")
    assert "anybody could log in as anybody" in err.splitlines()[-1]


async def test_help_is_something_to_work_from(installation: Installation):
    _, out, _ = await resolution(installation, "--help")
    assert all(command in out for command in COMMANDS)
    for command in COMMANDS:
        code, out, _ = await resolution(installation, command, "--help")
        assert code == 0
        assert "Usage" in out


async def test_two_that_migrate_at_once_run_each_migration_once_and_say_which(installation: Installation):
    name = f"empty_{uuid4().hex[:12]}"
    url = urlsplit(installation.settings.database)._replace(path=f"/{name}").geturl()
    with psycopg.connect(installation.settings.database, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
        empty = Installation(replace(installation.settings, database_url=url))
        done = await asyncio.gather(*(resolution(empty, "migrate", "--json") for _ in range(2)))
        assert [code for code, _, _ in done] == [0, 0]
        ran = [name for _, out, _ in done for name in json.loads(out)["ran"]]
        migrations = sorted(path.name for path in files("services.eventstore").joinpath("migrations").iterdir())
        assert sorted(ran) == migrations, "each by one of the two"
        code, out, _ = await resolution(empty, "migrate")
        assert (code, out) == (0, "Schema and topics are up to date.\n")
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


async def test_a_role_that_dies_is_started_again(installation: Installation):
    await installation.run("commands", "relay")
    first = installation.supervisor.pid("commands")
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert (await installation.send("order-1", register()))["data"]["events"]
    assert installation.supervisor.pid("commands") != first


async def test_roles_end_when_the_process_that_started_them_is_killed(installation: Installation):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services", "serve", "relay",
        env=os.environ | installation.settings.as_environment(), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    await asyncio.wait_for(process.stdout.readline(), 60)
    started = psutil.Process(process.pid).children(recursive=True)
    process.kill()
    await process.wait()
    await until(lambda: not any(map(runs, started)), 20)


def runs(process: psutil.Process) -> bool:
    try:
        return process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_roles_go_on_after_the_process_that_they_are_forked_from_was_killed(installation: Installation):
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services", "serve", "commands", "relay",
        env=os.environ | installation.settings.as_environment(), stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        assert process.stdout is not None
        await asyncio.wait_for(process.stdout.readline(), 60)
        before = psutil.Process(process.pid).children(recursive=True)
        [fork_server] = [
            one for one in before if any("forkserver" in word for word in one.cmdline()) and one.children()
        ]
        roles = fork_server.children()
        assert len(roles) == 2
        fork_server.kill()
        assert (await installation.send("order-1", register()))["data"]["events"]
        assert all(map(runs, roles))
        roles[0].kill()
        assert (await installation.send("order-2", register()))["data"]["events"]
        roles[1].kill()
        assert (await installation.send("order-3", register()))["data"]["events"]
    finally:
        process.terminate()
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def interrupted(
    installation: Installation, arguments: tuple[str, ...], when: str, stdin: bytes = b"", **environment: str
) -> tuple[int, str]:
    """Sends Ctrl-C once the process has printed `when`, and something is on the commands topic if it was given stdin.

    Returns its exit code and all that it printed.
    """
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services", *arguments,
        env=os.environ | installation.settings.as_environment() | environment,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background job ignores it
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(stdin)
    process.stdin.write_eof()
    said = ""
    try:
        async with asyncio.timeout(120):
            while when not in said:
                line = await process.stdout.readline()
                assert line, said
                said += line.decode()
            if stdin:
                await until(lambda: installation.read(installation.topics.commands), 60)
            process.send_signal(signal.SIGINT)
            said += (await process.stdout.read()).decode()
            return await process.wait(), said
    finally:
        if process.returncode is None:
            process.kill()


async def test_ctrl_c_is_never_a_traceback(installation: Installation):
    command = b'{"subject": "order-1", "type": "RecordDelivery"}\n'
    for arguments, when, stdin, environment, code in (
        (("serve", "commands", "relay"), "ready ", b"", {}, 0),
        (("serve",), "does not answer", b"", {"RESOLUTION_KAFKA_SERVERS": "127.0.0.1:1"}, 130),
        (("serve",), "does not answer", b"", {"RESOLUTION_DATABASE_URL": "postgresql://u@127.0.0.1:1/d"}, 130),
        (("send", "-"), "", command, {}, 130),
    ):
        found, said = await interrupted(installation, arguments, when, stdin, **environment)
        assert (found, "Traceback" in said) == (code, False), said
    assert "1 lines have no outcome yet: the command was interrupted" in said


async def in_a_terminal(installation: Installation, *arguments: str, stdout: int | None = None) -> tuple[int, str]:
    """Runs a command in a terminal of 80 columns; its exit code, and what the terminal got. `stdout` may be a file."""
    master, terminal = os.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES", "NO_COLOR")}
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "services", *arguments, stdin=terminal, stdout=stdout or terminal, stderr=terminal,
        env=environment | installation.settings.as_environment() | {"TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(terminal)
    reading = asyncio.create_task(asyncio.to_thread(_read_all, master))
    code = await asyncio.wait_for(process.wait(), 150)
    return code, (await reading).decode()


def _read_all(master: int) -> bytes:
    said = b""
    with os.fdopen(master, "rb", buffering=0) as stream, suppress(OSError):  # it ends with an error
        while some := stream.read(65536):
            said += some
    return said


async def test_in_a_terminal_of_80_columns_all_is_readable_and_send_shows_how_far_it_is(
    installation: Installation, tmp_path: Path
):
    await installation.run("commands", "relay", "projections")
    await installation.send("order-1", register())
    await installation.send("order-1", offer_refund())
    await until(lambda: (installation.page("order-1") or {}).get("open_dispute"))
    file, outcomes = tmp_path / "commands.jsonl", tmp_path / "outcomes.jsonl"
    file.write_text('{"subject": "order-1", "type": "Acept", "source": "/[/x]"}\n' * 20)
    with outcomes.open("wb") as stdout:
        code, said = await in_a_terminal(installation, "send", str(file), stdout=stdout.fileno())
    assert code == 1
    assert "outcomes" in said
    assert "20/20" in said
    assert [list(json.loads(line)) for line in outcomes.read_text().splitlines()] == [
        ["dead", "line", "subject", "type"]
    ] * 20
    for command in (("dead", "list"), ("order", "order-1"), ("replay", "order-1"), ("dead", "-h")):
        code, said = await in_a_terminal(installation, *command)
        assert code == 0, said
        lines = re.sub(r"\x1b\[[0-9;]*m", "", said).replace("\r", "").splitlines()
        assert max(map(len, lines)) <= 80, command
        assert not re.search(r"[\x00-\x09\x0b-\x1f]|…", "".join(lines)), command
    code, said = await in_a_terminal(installation, "dead", "show", "--raw", "0/0")
    assert code == 2
    assert "not for a terminal" in said
