"""Measures `POST /api/commands` with `Prefer: wait`, beside producing the same commands on Kafka."""

import asyncio
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from itertools import islice
from typing import Any
from urllib.parse import urlsplit

import httpx
from resolution_contracts import CommandEnvelope
from resolution_contracts.client import Client

from bench import engine
from bench.rounds import medians
from services.http.viewers import COOKIE
from services.settings import Settings

_ALL = ("commands", "relay", "timer", "projections", "http")
_SENDERS = 16


async def beside_kafka(settings: Settings, per_second: int, seconds: int, rounds: int) -> dict[str, Any]:
    """Returns milliseconds to the outcome, for the sender of a POST and for one on Kafka, at a steady rate.

    The two take turns. `x` in the result is the median of the ratios of their p50.
    """
    async with engine.running(settings, *_ALL) as supervisor:
        await supervisor.ready()
        async with Client(settings.kafka, prefix=settings.topic_prefix) as client:
            turns = []
            for number in range(rounds + 1):
                kafka, posted = engine.steady(f"kafka-{number}"), engine.steady(f"posted-{number}")
                by_kafka = await engine.at_a_rate(client, per_second, kafka, per_second * seconds)
                await engine.at_a_rate(client, per_second, posted, engine.STEADY_ORDERS)
                await asyncio.sleep(1)  # until the read model knows the new orders
                by_post = await _at_a_rate(supervisor.said["http"], per_second, [*islice(posted, per_second * seconds)])
                turn: dict[str, Any] = {"kafka": engine.percentiles(by_kafka), "post": engine.percentiles(by_post)}
                turns.append(turn | {"x": turn["post"]["p50_ms"] / turn["kafka"]["p50_ms"]})
    return medians(turns[1:])  # the first turn warms up


async def _at_a_rate(url: str, per_second: int, commands: Sequence[CommandEnvelope]) -> list[float]:
    sender = _Sender(url)
    for user in {command.data["actor"] for command in commands}:
        await asyncio.to_thread(sender.log_in, user)
    with ThreadPoolExecutor(_SENDERS) as senders:
        run = asyncio.get_running_loop().run_in_executor
        return await engine.paced(
            per_second, commands, lambda command: run(senders, sender.send, command, time.perf_counter())
        )


class _Sender:
    """Sends commands as whoever they name as their actor, with a connection for each thread."""

    def __init__(self, url: str) -> None:
        self._url, self._host = url, urlsplit(url).netloc
        self._of_thread = threading.local()
        self._cookies: dict[str, str] = {}

    def log_in(self, user: str) -> None:
        login = httpx.post(f"{self._url}/login", data={"user": user})
        self._cookies[user] = f"{COOKIE}={login.cookies[COOKIE]}"

    def send(self, command: CommandEnvelope, asked: float) -> float:
        """Returns milliseconds since the command was due to be sent."""
        connection: HTTPConnection | None = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = self._of_thread.connection = HTTPConnection(self._host, timeout=30)
        body = {"order_id": command.subject, "command": command.type.split(".")[2], "data": command.data}
        headers = {
            "Content-Type": "application/json",
            "Cookie": self._cookies[command.data["actor"]],
            "Idempotency-Key": command.id,
            "Origin": self._url,
            "Prefer": "wait=20",
        }
        connection.request("POST", "/api/commands", json.dumps(body), headers)
        answer = connection.getresponse()
        outcome = json.loads(answer.read())
        assert answer.status == 200, outcome
        assert "events" in outcome["data"], outcome
        return (time.perf_counter() - asked) * 1000
