"""docker-compose.yml for real, where an engine answers: up, the story of an order, a crash, down and up again."""

import json
import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest

from services.runtime.roles import ROLES
from tests.deploy.test_compose import COMPOSE, OURS, ROOT, SERVICES

pytestmark = pytest.mark.timeout(900)
SERVERS = ("kafka", "postgres")
PYTHON_IMAGE = os.environ.get("PYTHON_IMAGE") or COMPOSE["x-service"]["build"]["args"]["PYTHON_IMAGE"][16:-1]


def _engine() -> str | None:
    """Why it cannot be done here, if it cannot."""
    if not shutil.which("docker") or not _succeeds("info"):
        return "no Docker engine answers"
    if not _succeeds("compose", "version"):
        return "docker has no compose plugin"
    for image in (PYTHON_IMAGE, *(SERVICES[name]["image"] for name in SERVERS)):
        if not _succeeds("image", "inspect", image) and not _succeeds("pull", "-q", image):
            return f"the image {image} cannot be had" + (
                "; PYTHON_IMAGE may name another one with Python 3.11" if image == PYTHON_IMAGE else ""
            )
    return None


def _succeeds(*arguments: str) -> bool:
    return subprocess.run(["docker", *arguments], capture_output=True, check=False, timeout=300).returncode == 0


class Composed:
    """A project of the test's own, which publishes no port."""

    def __init__(self, folder: Path) -> None:
        self._project = f"rc-test-{uuid4().hex[:8]}"
        self._image = f"{self._project}-image"
        self._override = folder / "override.yml"
        # Built in the host's network: a machine may reach its package index in no other way.
        own = dict.fromkeys(OURS, f"image: {self._image}, build: {{network: host}}, ")
        self._override.write_text(
            "services:\n" + "".join(f"  {name}: {{{own.get(name, '')}ports: !reset []}}\n" for name in SERVICES)
        )

    def compose(self, *arguments: str, stdin: str = "", check: bool = True) -> str:
        done = subprocess.run(
            ["docker", "compose", "-p", self._project, "-f", "docker-compose.yml", "-f", str(self._override), *arguments],
            cwd=ROOT, input=stdin, capture_output=True, text=True, check=False, timeout=600,
            env=os.environ | {"PYTHON_IMAGE": PYTHON_IMAGE, "DOCKER_BUILDKIT": "0"},
        )  # fmt: skip
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def build(self) -> None:
        self.compose("build", "migrate")

    def up(self) -> None:
        self.compose("up", "-d", "--no-build", *SERVERS, *ROLES)
        until(lambda: all("ready {" in self.compose("logs", "--no-log-prefix", role) for role in ROLES))

    def resolution(self, *arguments: str, stdin: str = "") -> str:
        return self.compose("exec", "-T", "relay", "resolution", *arguments, stdin=stdin)

    def inspect(self, service: str) -> dict[str, Any]:
        identity = self.compose("ps", "-aq", service).strip()
        found = subprocess.run(["docker", "inspect", identity], capture_output=True, text=True, check=True)
        return dict(json.loads(found.stdout)[0])

    def send(self, *commands: dict[str, Any]) -> list[dict[str, Any]]:
        lines = "\n".join(json.dumps(command) for command in commands)
        return [json.loads(line) for line in self.resolution("send", "-", stdin=lines).splitlines()]

    def remove(self) -> None:
        self.compose("down", "-v", "--timeout", "5", check=False)
        subprocess.run(["docker", "image", "rm", "-f", self._image], capture_output=True, check=False)


def until(condition: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.5)


@pytest.fixture(scope="module")
def composed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Composed]:
    if why := _engine():
        pytest.skip(why)
    composed = Composed(tmp_path_factory.mktemp("compose"))
    try:
        composed.build()
        composed.up()
        yield composed
    finally:
        composed.remove()


def register(order: str) -> dict[str, Any]:
    price, delivery = {"amount": 12500, "currency": "USD"}, "2027-01-31T12:00:00Z"
    data = {"client_id": "ann", "freelancer_id": "bob", "price": price, "expected_delivery_at": delivery}
    return {"subject": order, "type": "RegisterOrder", "data": data}


def test_an_orders_story_is_told_and_verified(composed: Composed):
    dispute = str(uuid4())
    offer = {"actor": "bob", "amount": {"amount": 2500, "currency": "USD"}, "explanation": "One draft less.",
             "reason": "scope_reduced"}  # fmt: skip
    outcomes = composed.send(
        register("order-1"),
        {"subject": "order-1", "type": "OfferPartialRefund", "id": dispute, "data": offer},
        {"subject": "order-1", "type": "Accept", "data": {"actor": "ann", "dispute_id": dispute}},
    )
    assert [outcome["type"].split(".")[-2] for outcome in outcomes] == ["CommandAccepted"] * 3
    until(lambda: "Granted" in composed.resolution("replay", "order-1", "--json"))
    assert "Nothing differs." in composed.resolution("verify", "--from-commands")


def test_the_pages_are_served(composed: Composed):
    page = "from urllib.request import urlopen; print(urlopen('http://127.0.0.1:8080/login').status)"
    assert composed.compose("exec", "-T", "http", "python", "-c", page) == "200\n"


def test_migrating_again_changes_nothing(composed: Composed):
    assert composed.resolution("migrate") == "Schema and topics are up to date.\n"


@pytest.mark.parametrize("role", ROLES)
def test_a_container_may_write_to_tmp_only_and_is_nobody(composed: Composed, role: str):
    state = composed.inspect(role)
    assert state["HostConfig"]["ReadonlyRootfs"] is True
    tried = "touch /tmp/x && id -u && ! touch /opt/resolution/x 2>/dev/null && ! command -v gcc"
    assert composed.compose("exec", "-T", role, "sh", "-c", tried) == "10001\n"
    assert state["State"]["OOMKilled"] is False


def test_a_container_that_crashes_comes_back_and_goes_on(composed: Composed):
    pid = composed.inspect("commands")["State"]["Pid"]
    try:
        os.kill(pid, signal.SIGKILL)  # `docker kill` would count as stopped by hand
    except (ProcessLookupError, PermissionError):
        pytest.skip("the engine's processes are not this machine's, or not ours to kill")
    until(lambda: composed.inspect("commands")["RestartCount"] == 1)
    [outcome] = composed.send(register("order-2"))
    assert outcome["type"] == "resolution.outcome.CommandAccepted.v1"


def test_a_server_that_is_restarted_is_waited_for(composed: Composed):
    composed.compose("restart", *SERVERS)
    composed.compose("up", "-d", "--no-build", "--wait", *SERVERS)
    [outcome] = composed.send(register("order-3"))
    assert outcome["type"] == "resolution.outcome.CommandAccepted.v1"
    assert "Nothing differs." in composed.resolution("verify", "--from-commands")


def test_down_and_up_again_keeps_everything(composed: Composed):
    before = composed.resolution("replay", "order-1", "--json")
    stopping = time.monotonic()
    composed.compose("down")
    assert time.monotonic() - stopping < 60, "nobody has to be killed"
    composed.up()
    assert composed.resolution("replay", "order-1", "--json") == before
    assert composed.send(register("order-1"))[0]["type"] == "resolution.outcome.CommandAccepted.v1"
    assert "Nothing differs." in composed.resolution("verify", "--from-commands")


@pytest.mark.skipif(
    "RESOLUTION_METRICS_PORT" not in (ROOT / "services/settings.py").read_text(), reason="the roles serve no health"
)
def test_every_role_says_that_it_is_ready(composed: Composed):
    until(lambda: all(composed.inspect(role)["State"]["Health"]["Status"] == "healthy" for role in ROLES))
