"""A command's trace, from its sender's `traceparent` to its events and outcome, by way of PostgreSQL."""

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from resolution_contracts import CommandEnvelope
from resolution_contracts.client import Client

from services.telemetry import traces
from tests.support.commands import ask_update, offer_refund, register
from tests.support.installation import Installation, until

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
GIVEN = f"00-{TRACE}-{SPAN}-01"


class Collector:
    """What an OpenTelemetry collector gets."""

    def __init__(self) -> None:
        self.url = ""
        self.requests: list[ExportTraceServiceRequest] = []

    def spans(self) -> list[Any]:
        return [
            span
            for request in self.requests
            for resource in request.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    def services(self) -> set[str]:
        return {
            attribute.value.string_value
            for request in self.requests
            for resource in request.resource_spans
            for attribute in resource.resource.attributes
            if attribute.key == "service.name"
        }


@pytest.fixture
def collector() -> Iterator[Collector]:
    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            found.requests.append(ExportTraceServiceRequest.FromString(body))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield found
    server.shutdown()
    server.server_close()
    thread.join()


def tracing(installation: Installation, collector: Collector) -> None:
    installation.supervisor.environment |= {
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_EXPORTER_OTLP_COMPRESSION": "none",
        "OTEL_BSP_SCHEDULE_DELAY": "100",
    }


async def traceparents(installation: Installation, topic: str) -> list[str | None]:
    headers = [dict(record.headers) for record in await installation.read(topic)]
    return [found.decode() if (found := each.get("traceparent")) else None for each in headers]


async def test_a_trace_goes_from_the_sender_to_the_events_and_the_outcome(
    installation: Installation, collector: Collector
):
    tracing(installation, collector)
    await installation.run("commands", "relay")
    async with Client(installation.settings.kafka, source="/tests", prefix=installation.topics.prefix) as client:
        await client.send("order-1", register(), traceparent=GIVEN)
        await client.send("order-1", ask_update())
    events = await traceparents(installation, installation.topics.events)
    outcomes = await traceparents(installation, installation.topics.outcomes)
    assert events == outcomes == [outcomes[0], None]
    await until(lambda: len(collector.spans()) == 2)
    [judge] = [span for span in collector.spans() if span.name == "judge"]
    [publish] = [span for span in collector.spans() if span.name == "publish"]
    assert judge.trace_id.hex() == publish.trace_id.hex() == TRACE
    assert judge.parent_span_id.hex() == SPAN
    assert publish.parent_span_id == judge.span_id
    assert outcomes[0] == f"00-{TRACE}-{publish.span_id.hex()}-01"
    assert collector.services() == {"resolution-commands", "resolution-relay"}


async def test_D16_a_span_tells_no_reason(installation: Installation, collector: Collector):
    tracing(installation, collector)
    await installation.run("commands", "relay")
    async with Client(installation.settings.kafka, source="/tests", prefix=installation.topics.prefix) as client:
        await client.send("order-1", register(), traceparent=GIVEN)
        await client.send("order-1", offer_refund(), traceparent=GIVEN)
    await until(lambda: len(collector.spans()) == 4)
    assert "minor_dissatisfaction" not in str(collector.requests)


async def test_what_is_published_differs_in_headers_only_and_nothing_is_traced_without_an_exporter(
    installation: Installation,
):
    await installation.run("commands", "relay")
    envelope = CommandEnvelope.of("order-1", register(), source="/tests")
    traced = json.dumps(json.loads(envelope.to_json()) | {"traceparent": GIVEN}).encode()
    outcome = await installation.outcome_of("order-1", traced)
    assert "traceparent" not in outcome
    assert await traceparents(installation, installation.topics.outcomes) == [None]
    assert installation.query("SELECT traceparent FROM outcomes") == [(None,)]


async def test_the_envelopes_attribute_does_as_well_and_a_bad_one_fails_no_record(
    installation: Installation, collector: Collector
):
    tracing(installation, collector)
    await installation.run("commands", "relay")
    for number, attribute in enumerate([GIVEN, 7, "no trace", None, {"x": [1]}]):
        envelope = CommandEnvelope.of(f"order-{number}", register(), source="/tests")
        value = json.dumps(json.loads(envelope.to_json()) | {"traceparent": attribute}).encode()
        assert "events" in (await installation.outcome_of(f"order-{number}", value))["data"]
    rows = installation.query("SELECT traceparent FROM outcomes ORDER BY outcome_id")
    assert [traceparent is not None for (traceparent,) in rows] == [True, False, False, False, False]


@pytest.mark.parametrize(
    "value", [None, b"", b'"traceparent"', b'{"traceparent": "\xff"}', b'{"traceparent": ' + b"[" * 9999]
)
def test_a_record_that_is_no_command_has_no_trace(value: bytes | None):
    assert traces.given([("traceparent", b"\xff\xff"), ("x", None)], value) is None
    assert traces.given([], value) is None


def test_the_header_comes_first():
    assert traces.given([("traceparent", GIVEN.encode())], b'{"traceparent": "other"}') == GIVEN


def test_it_is_off_unless_an_exporter_is_named():
    with traces.exported("commands", {}):
        assert not traces.on()
    with traces.exported(
        "commands", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1", "OTEL_SDK_DISABLED": "true"}
    ):
        assert not traces.on()
    assert traces.Spans().begin("judge", GIVEN, "consumer") == GIVEN
