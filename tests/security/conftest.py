"""Servers that ask who somebody is, and the service on them with the least rights, started once for these tests."""

import asyncio
import os
import sys
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from resolution_contracts import CommandAccepted
from resolution_contracts.client import Client

from services.checkpoints.signing_keys import write_key_pair
from services.kafka.cluster import Cluster
from services.kafka.read_topics import last_value
from services.runtime.supervisor import Supervisor
from services.settings import Settings
from tests.http.test_api import AUDIENCE, ISSUER, KEY, UPDATE, bearer
from tests.observability.prometheus import free_port
from tests.support.commands import CLIENT, ask_cancellation, register
from tests.support.installation import until

from .broker import GuardedKafka
from .database import GuardedPostgres

WHO = {
    "commands": ("service", "resolution"),
    "relay": ("service", "resolution"),
    "timer": ("service", "resolution"),
    "checkpoints": ("service", "resolution"),
    "projections": ("projections", "resolution"),
    "http": ("http", "resolution-http"),
}
"""By role, its user in PostgreSQL and in Kafka."""
_TWO_DAYS_IN_TWO_SECONDS = Fraction(86_400)


@dataclass
class Guarded:
    """Both servers as an operator has set them up with the files in deploy/."""

    kafka: GuardedKafka
    bootstrap: str
    postgres: GuardedPostgres
    admin: str
    """How PostgreSQL's administrator connects."""
    settings: Settings = field(init=False)

    def __post_init__(self) -> None:
        self.settings = Settings(kafka_servers=self.bootstrap, http_port=0, time_scale=_TWO_DAYS_IN_TWO_SECONDS)

    def cluster(self, principal: str) -> Cluster:
        return self.kafka.cluster(self.bootstrap, principal)

    def as_user(self, database: str, principal: str) -> Settings:
        """The service's settings for somebody in PostgreSQL and somebody in Kafka."""
        return replace(
            self.settings,
            database_url=self.postgres.url(database),
            kafka_security=self.kafka.security(principal),
        )

    async def run(self, settings: Settings, *arguments: str) -> tuple[int, str, str]:
        """`resolution` with these settings: exit code, stdout, stderr."""
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "services",
            *arguments,
            env=os.environ | settings.as_environment() | {"NO_COLOR": "1"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(), 150)
        assert process.returncode is not None
        return process.returncode, out.decode(), err.decode()


@dataclass(frozen=True)
class Told:
    """The result of a story that the service played with the least rights."""

    page: dict[str, Any]


@pytest.fixture(scope="package")
def guarded() -> Iterator[Guarded]:
    with tempfile.TemporaryDirectory(prefix="rc-", ignore_cleanup_errors=True) as name:
        for server in ("kafka", "postgres"):
            (Path(name) / server).mkdir()
        kafka, postgres = GuardedKafka(Path(name) / "kafka"), GuardedPostgres(Path(name) / "postgres")
        try:
            with ThreadPoolExecutor() as at_once:
                servers, admin = at_once.submit(kafka.set_up), at_once.submit(postgres.set_up)
            yield Guarded(kafka, servers.result(), postgres, admin.result())
        finally:
            kafka.stop()
            postgres.stop()


@pytest.fixture(scope="package")
async def told(guarded: Guarded, tmp_path_factory: pytest.TempPathFactory) -> Told:
    """`resolution migrate` as the owner, each role as its own user, and an order's story from outside; all stopped."""
    code, out, err = await guarded.run(guarded.as_user("owner", "resolution-owner"), "migrate")
    assert code == 0, out + err
    ports = {role: free_port() for role in WHO}
    folder = tmp_path_factory.mktemp("keys")
    key_file, (signing_key, _) = folder / "jwt.pem", write_key_pair(folder / "checkpoints")
    key_file.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    guarded.settings = replace(
        guarded.settings,
        jwt_key_file=key_file,
        jwt_issuer=ISSUER,
        jwt_audience=AUDIENCE,
        checkpoint_key_file=signing_key,
        checkpoint_seconds=0.5,
    )
    supervisors = {role: Supervisor(guarded.as_user(*who), ports) for role, who in WHO.items()}
    try:
        async with asyncio.timeout(150):
            for role, supervisor in supervisors.items():
                supervisor.start(role)
            await asyncio.gather(*(supervisor.ready() for supervisor in supervisors.values()))
            return await _tell(guarded, supervisors["http"].said["http"], ports)
    finally:
        await asyncio.gather(*(supervisor.stop() for supervisor in supervisors.values()))


async def _tell(guarded: Guarded, url: str, ports: dict[str, int]) -> Told:
    async with (
        Client(**guarded.cluster("sender").options, source="/tests") as sender,
        httpx.AsyncClient(base_url=url, headers=bearer(CLIENT), timeout=20) as http,
    ):
        for order, command in (("order-1", register()), ("order-2", register()), ("order-1", ask_cancellation())):
            assert isinstance(await sender.send(order, command), CommandAccepted)
        body = {"order_id": "order-2", "command": "OpenDispute", "data": UPDATE}
        sent = await http.post("/api/commands", json=body, headers={"Prefer": "wait=20"})
        assert sent.status_code == 200, sent.text

        async def canceled() -> Any:
            """By the timer, once the deadline was over."""
            page = (await http.get("/api/orders/order-1")).json()
            return page if page.get("status") == "canceled" else None

        page = await until(canceled, 120)
    await until(lambda: last_value(guarded.cluster("auditor"), "resolution.checkpoints"), 60)
    for port in ports.values():
        await until(partial(_asked, port), 120)
    return Told(page)


async def _asked(port: int) -> bool:
    """Whether the role has asked its servers for what the metrics of the installation are made of. None refused it."""
    async with httpx.AsyncClient(timeout=10) as client:
        answer = await client.get(f"http://127.0.0.1:{port}/health/ready")
    assert "Privilege" not in answer.text, answer.text
    assert "Authorization" not in answer.text, answer.text
    return answer.status_code == 200 or "TimeoutError" in answer.text  # a busy machine is nobody's refusal
