"""Measures the read side: rebuilds, an event's way into the read model, and page views while the service works."""

import asyncio
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Executor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from http.client import HTTPConnection
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
from eventsourcing.persistence import Tracking
from eventsourcing.postgres import PostgresTrackingRecorder
from eventsourcing.projection import Projection, ProjectionRunner
from resolution_contracts import Accept, CommandEnvelope, OpenDispute, OrderUpdateRequest
from resolution_contracts.client import Client

from bench import engine
from bench.library import environment_of
from bench.load import life
from projections.framework.projector import CHANNEL
from projections.framework.rebuild import Rebuild
from projections.order_page import OrderPages
from services.eventstore.application import OrderStore
from services.http.viewers import COOKIE
from services.sealing.master_keys import MasterKeys
from services.settings import Settings

_ALL = ("commands", "relay", "timer", "projections")
_BROWSERS = 64


def rebuild(settings: Settings) -> float:
    """Returns events per second of `resolution rebuild order_page`, without its comparison."""
    with OrderStore(settings.database, settings.master_keys) as store:
        work = Rebuild(store, "order_page")
        work._new.prepare()
        started = time.perf_counter()
        work._fill_new(lambda done, of: None)
        return work._new.position() / (time.perf_counter() - started)


def library(settings: Settings, events: int) -> float:
    """Returns events per second of the library's ProjectionRunner with the same handlers, one event per transaction."""
    environment = environment_of(settings.database) | {"DATABASE_URL": settings.database}
    started = time.perf_counter()
    with ProjectionRunner(
        application_class=_Store, projection_class=_OneByOne, view_class=_View, env=environment
    ) as runner:
        runner.wait(events, timeout=600)
        return events / (time.perf_counter() - started)


class _Store(OrderStore):
    """The application, made from the environment that the library passes to it."""

    name = "order"

    def __init__(self, env: dict[str, str]) -> None:
        super().__init__(env["DATABASE_URL"], MasterKeys())


class _View(PostgresTrackingRecorder):
    """The order page in a separate schema."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._model = OrderPages()
        with self._transaction() as cursor:
            cursor.execute("CREATE SCHEMA one_by_one")
            self._model.create(cursor)

    def apply(self, event: Any, tracking: Tracking) -> None:
        with self._transaction() as cursor:
            self._insert_tracking(cursor, tracking)
            self._model.apply(cursor, [event])

    @contextmanager
    def _transaction(self) -> Iterator[Any]:
        with self.datastore.transaction(commit=True) as cursor:
            cursor.execute("SET LOCAL search_path TO one_by_one, public")
            yield cursor


class _OneByOne(Projection[_View]):
    name = "one_by_one"

    def process_event(self, domain_event: Any, tracking: Tracking) -> None:
        self.view.apply(domain_event, tracking)


async def live(settings: Settings, commands: int) -> dict[str, float]:
    """Returns milliseconds from the notification of an event's commit to that of the order page, at 20 commands/s."""
    async with engine.running(settings, *_ALL) as supervisor:
        await supervisor.ready()
        taken = []
        async with (
            Client(settings.kafka, prefix=settings.topic_prefix) as client,
            await psycopg.AsyncConnection.connect(settings.database, autocommit=True) as connection,
        ):
            await connection.execute(f"LISTEN order_events; LISTEN {CHANNEL}")
            for envelope in _requests(commands):
                await client.publish(envelope.subject, envelope.to_json())
                appended = None
                async for notification in connection.notifies():
                    if notification.channel == "order_events":
                        appended = time.perf_counter()
                    elif notification.payload == "order_page" and appended is not None:
                        taken.append((time.perf_counter() - appended) * 1000)
                        break
                await asyncio.sleep(0.05)
    return engine.percentiles(taken)


def _requests(commands: int) -> Iterator[CommandEnvelope]:
    register = life("live")[0]
    yield register
    client, freelancer = register.data["client_id"], register.data["freelancer_id"]
    request = OrderUpdateRequest(kind="order_update", message="How is it going?")
    for _ in range(commands // 2):
        ask = CommandEnvelope.of("live", OpenDispute(actor=client, request=request), source="/bench")
        yield ask
        yield CommandEnvelope.of("live", Accept(actor=freelancer, dispute_id=ask.id, message="Well."), source="/bench")


async def pages(settings: Settings, per_second: int, seconds: int) -> dict[str, float]:
    """Returns milliseconds to get an order's page as HTML at a steady rate, while all other roles run."""
    async with engine.running(settings, *_ALL, "http") as supervisor:
        await supervisor.ready()
        async with Client(settings.kafka, prefix=settings.topic_prefix) as client:
            for envelope in life("page")[:8]:
                await (await client.publish(envelope.subject, envelope.to_json()))
        url = supervisor.said["http"]
        async with httpx.AsyncClient(base_url=url) as web:
            login = await web.post("/login", data={"user": "client-page"})
        with ThreadPoolExecutor(_BROWSERS) as browsers:
            browse = partial(_at_a_rate, browsers, _Browser(url, f"{COOKIE}={login.cookies[COOKIE]}"), per_second)
            await browse(per_second)
            return engine.percentiles(await browse(per_second * seconds))


class _Browser:
    """Loads an order's page, with a connection for each thread.

    It uses the standard library's client, because it shares the cores with the service: httpx took as much processor
    time as the service.
    """

    def __init__(self, url: str, cookie: str) -> None:
        self._host, self._cookie = urlsplit(url).netloc, cookie
        self._of_thread = threading.local()

    def view(self, asked: float) -> float:
        """Returns milliseconds since the page was due to be asked for."""
        connection: HTTPConnection | None = getattr(self._of_thread, "connection", None)
        if connection is None:
            connection = self._of_thread.connection = HTTPConnection(self._host, timeout=30)
        connection.request("GET", "/orders/page", headers={"Cookie": self._cookie})
        answer = connection.getresponse()
        page = answer.read()
        assert answer.status == 200, page
        return (time.perf_counter() - asked) * 1000


async def _at_a_rate(browsers: Executor, browser: _Browser, per_second: int, views: int) -> list[float]:
    run = asyncio.get_running_loop().run_in_executor
    return await engine.paced(per_second, range(views), lambda _: run(browsers, browser.view, time.perf_counter()))
