"""A real Prometheus: Debian's, installed where it is missing, on the rules that are deployed."""

import asyncio
import os
import re
import shutil
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import yaml

from tests.support.installation import until

DEPLOYED = Path(__file__).parents[2] / "deploy/prometheus"


def program(name: str = "prometheus") -> str:
    """The path of `prometheus` or `promtool`. Raises CalledProcessError where they cannot be installed."""
    if found := shutil.which(name):
        return found
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    sudo = [] if os.geteuid() == 0 else ["sudo"]
    subprocess.run([*sudo, "apt-get", "update", "-qq"], check=True)
    subprocess.run(
        [*sudo, "apt-get", "install", "-y", "-qq", "--no-install-recommends", "prometheus"],
        check=True,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    return shutil.which(name) or name


def rules() -> list[dict[str, Any]]:
    """The alert rules, as they are deployed."""
    [group] = yaml.safe_load((DEPLOYED / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


class Prometheus:
    """A server that runs. Expressions are the deployed ones; what lasts a minute there lasts some seconds here."""

    def __init__(self, url: str) -> None:
        self._client = httpx.AsyncClient(base_url=url, timeout=10)

    async def ask(self, path: str, **parameters: str) -> Any:
        answer = await self._client.get(f"/api/v1/{path}", params=parameters)
        answer.raise_for_status()
        return answer.json()["data"]

    async def firing(self) -> set[str]:
        alerts = (await self.ask("alerts"))["alerts"]
        return {alert["labels"]["alertname"] for alert in alerts if alert["state"] == "firing"}

    async def value(self, expression: str) -> float | None:
        found = (await self.ask("query", query=expression))["result"]
        return float(found[0]["value"][1]) if found else None


@asynccontextmanager
async def prometheus(folder: Path, ports: Mapping[str, int]) -> AsyncIterator[Prometheus]:
    """Scrapes roles at these ports every second."""
    port = free_port()
    (folder / "alerts.yml").write_text(yaml.safe_dump({"groups": [{"name": "r", "rules": _hasty(rules())}]}))
    (folder / "prometheus.yml").write_text(yaml.safe_dump(_config(ports)))
    with (folder / "log").open("w") as log:
        server = await asyncio.create_subprocess_exec(
            program(),
            f"--config.file={folder / 'prometheus.yml'}",
            f"--storage.tsdb.path={folder / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
            stdout=log,
            stderr=log,
        )
        try:
            found = Prometheus(f"http://127.0.0.1:{port}")
            await until(lambda: _answers(found))
            yield found
        finally:
            server.terminate()
            await server.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _hasty(found: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For a second instead of a minute, and for what is 6 s late instead of a minute or ten."""
    return [
        rule
        | {"expr": re.sub(r"(_seconds\b.*) > (?:60|600)$", r"\1 > 6", rule["expr"])}
        | ({"for": "1s"} if "for" in rule else {})
        for rule in found
    ]


def _config(ports: Mapping[str, int]) -> dict[str, Any]:
    config: dict[str, Any] = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
    config["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    jobs = config["scrape_configs"][0]["static_configs"]
    for job in jobs:
        job["targets"] = [f"127.0.0.1:{ports[job['labels']['role']]}"]
    return config


async def _answers(server: Prometheus) -> bool:
    try:
        return bool(await server.ask("status/buildinfo"))
    except httpx.HTTPError:
        return False
