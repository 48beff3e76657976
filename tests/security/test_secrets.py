"""No process shows a password in its output, logs, responses or arguments, whatever fails."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from urllib.parse import quote

import httpx
import psycopg
import pytest

from services.settings import Settings
from tests.observability.prometheus import free_port
from tests.support.installation import until

from .broker import password_of as kafka_password_of
from .conftest import Guarded, Told
from .database import password_of

pytestmark = pytest.mark.timeout(400)
WRONG = "Wrong/Pass:word@1"
_KNOWN = (
    *(WRONG, password_of("service"), password_of("http")),
    *(kafka_password_of("resolution"), kafka_password_of("resolution-http")),
)
SECRETS = {text for secret in _KNOWN for text in (secret, quote(secret), quote(secret, safe=""))}


@dataclass
class Process:
    """What a process said, both streams together."""

    running: asyncio.subprocess.Process
    said: list[str] = field(default_factory=list)

    def has_said(self, text: str) -> bool:
        return any(text in line for line in self.said)

    async def until_it_says(self, text: str) -> None:
        await until(lambda: self.has_said(text), 90)

    def check(self) -> None:
        shown = [line for line in self.said if any(secret in line for secret in SECRETS)]
        assert not shown


@asynccontextmanager
async def started(settings: Settings, module: str, *arguments: str) -> AsyncIterator[Process]:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        module,
        *arguments,
        env=os.environ | settings.as_environment(),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    found = Process(process)
    reading = asyncio.create_task(_read(found))
    try:
        yield found
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile, or the system has no such file
            seen = Path(f"/proc/{process.pid}/cmdline").read_text()
            assert not any(secret in seen for secret in SECRETS)
    finally:
        if process.returncode is None:
            process.terminate()
        await asyncio.wait_for(process.wait(), 60)
        await reading
    found.check()


async def _read(process: Process) -> None:
    assert process.running.stdout is not None
    async for line in process.running.stdout:
        process.said.append(line.decode())


@pytest.fixture
def settings(guarded: Guarded) -> Settings:
    return guarded.as_user("service", "resolution")


def wrong_database(guarded: Guarded, settings: Settings) -> Settings:
    return replace(settings, database_url=guarded.postgres.url("service", password=WRONG))


def nowhere(guarded: Guarded, settings: Settings) -> Settings:
    return replace(settings, database_url=guarded.postgres.url("service").replace(f":{guarded.postgres.port}/", ":1/"))


def wrong_kafka(guarded: Guarded, settings: Settings) -> Settings:
    return replace(settings, kafka_security=replace(settings.kafka_security, password=WRONG))


@pytest.mark.parametrize(
    ("spoilt", "module", "arguments", "said"),
    [
        (nowhere, "services", ("serve",), "PostgreSQL does not answer"),
        (wrong_database, "services", ("serve",), "password authentication failed"),
        (wrong_kafka, "services", ("serve",), "Kafka refuses the connection"),
        (wrong_database, "tests.security.one_role", ("commands",), "password authentication failed"),
        (wrong_kafka, "tests.security.one_role", ("relay",), "KafkaConnectionError"),
        (wrong_kafka, "tests.security.one_role", ("timer",), "KafkaConnectionError"),
        (wrong_database, "services", ("order", "order-1"), "password authentication failed"),
        (wrong_kafka, "services", ("checkpoints", "export", "nowhere"), "Kafka refuses the connection"),
    ],
)
async def test_a_process_that_cannot_log_in_says_so_without_the_password(
    told: Told, guarded: Guarded, settings: Settings, spoilt, module: str, arguments: tuple[str, ...], said: str
):
    async with started(spoilt(guarded, settings), module, *arguments) as process:
        await process.until_it_says(said)


async def test_a_role_whose_password_no_longer_holds_shows_none(told: Told, guarded: Guarded):
    port = free_port()
    settings = replace(guarded.as_user("http", "resolution-http"), metrics_port=port)
    async with started(settings, "tests.security.one_role", "http") as process:
        await process.until_it_says("'ready': 'http'")
        shown = [await _ask(port, "/health/ready", 200), await _ask(port, "/metrics", 200)]
        with psycopg.connect(guarded.admin, dbname="postgres", autocommit=True) as admin:
            try:
                admin.execute("ALTER ROLE resolution_http PASSWORD 'another'")
                admin.execute(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'resolution_http'"
                )
                shown += [await _ask(port, "/health/ready", 503, "OperationalError"), await _ask(port, "/metrics", 200)]
            finally:
                admin.execute(f"ALTER ROLE resolution_http PASSWORD '{password_of('http')}'")
    assert "resolution_server_up" in shown[3]
    assert not any(secret in text for secret in SECRETS for text in shown)


async def _ask(port: int, path: str, status: int, says: str = "") -> str:
    """The first answer with this status that says so: on a busy machine other servers may be late as well."""
    async with httpx.AsyncClient(timeout=10) as client:

        async def answered() -> str | None:
            answer = await client.get(f"http://127.0.0.1:{port}{path}")
            return answer.text if answer.status_code == status and says in answer.text else None

        return str(await until(answered, 90))


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://resolution:{WRONG}@host/resolution",
        f"postgresql://resolution:{WRONG.replace('/', '')}@host/resolution",
        f"postgres//resolution:{WRONG}@host/resolution",
        f"host=host password={WRONG}",
        "postgresql://resolution:Wrong%Pass@host/resolution",
    ],
)
def test_a_url_that_cannot_be_read_is_refused_without_being_told(url: str):
    with pytest.raises(Exception, match="RESOLUTION_DATABASE_URL") as refused:
        Settings.from_environment({"RESOLUTION_DATABASE_URL": url})
    assert "Wrong" not in str(refused.value)
    assert "word" not in str(refused.value).replace("password", "")
