"""Serves `/metrics`, `/health/live` and `/health/ready` of one role from its own thread.

The thread answers even while the event loop hangs, because that is what a health check has to find out.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from copy import copy
from socketserver import ThreadingMixIn
from threading import Thread
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server
from wsgiref.types import StartResponse, WSGIEnvironment

from prometheus_client import REGISTRY, CollectorRegistry, make_wsgi_app
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from services.environment import SettingsError
from services.shards.arithmetic import ALONE, Shard

from .health import Health


@contextmanager
def endpoint(host: str, port: int, health: Health, shard: Shard = ALONE) -> Iterator[None]:
    """Serves while the context is open. If there are several shards, metrics have the shard's number as a label.

    Raises SettingsError if the process cannot listen on this port.
    """
    try:
        server = make_server(host, port, _App(health, shard), _Server, _QuietHandler)
    except OSError as error:
        raise SettingsError(
            f"Cannot listen on {host}:{port} ({error.strerror}). Set RESOLUTION_METRICS_PORT to another port. "
            "Several roles of one `serve` take that port and the ones after it."
        ) from None
    thread = Thread(target=server.serve_forever, name="metrics", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _App:
    def __init__(self, health: Health, shard: Shard) -> None:
        self._health = health
        self._metrics = make_wsgi_app(REGISTRY if shard.alone else _of_shard(shard))

    def __call__(self, environ: WSGIEnvironment, start: StartResponse) -> Iterable[bytes]:
        match environ["PATH_INFO"]:
            case "/metrics":
                metrics: Iterable[bytes] = self._metrics(environ, start)
                return metrics
            case "/health/live":
                return _answer(start, self._health.not_alive())
            case "/health/ready":
                return _answer(start, self._health.not_ready())
            case _:
                start("404 Not Found", [("Content-Type", "text/plain")])
                return [b"/metrics, /health/live, /health/ready\n"]


def _of_shard(shard: Shard) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(_Labelled(str(shard.number)))
    return registry


class _Labelled(Collector):
    """This process's metrics with the label `shard`."""

    def __init__(self, shard: str) -> None:
        self._shard = shard

    def collect(self) -> Iterator[Metric]:
        for metric in REGISTRY.collect():
            labelled = copy(metric)
            labelled.samples = [s._replace(labels=s.labels | {"shard": self._shard}) for s in metric.samples]
            yield labelled


def _answer(start: StartResponse, trouble: str) -> list[bytes]:
    status = "503 Service Unavailable" if trouble else "200 OK"
    start(status, [("Content-Type", "application/json"), ("Cache-Control", "no-store")])
    return [json.dumps({"status": "trouble" if trouble else "ok"} | ({"why": trouble} if trouble else {})).encode()]


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _QuietHandler(WSGIRequestHandler):
    timeout = 10

    def log_message(self, format: str, *args: object) -> None:
        """Logs nothing, because probes come every few seconds."""
