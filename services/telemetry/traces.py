"""Traces a command from its `traceparent` to the records that the relay publishes. Off unless OTEL_* names an exporter.

The sender decides which commands are traced. A command without `traceparent` starts no trace and costs nothing. From
role to role, PostgreSQL carries the trace context in the outcome's row.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import msgspec

if TYPE_CHECKING:
    from opentelemetry.trace import Span, Tracer

TRACEPARENT = "traceparent"
_ENDPOINTS = ("OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT")
_is_traceparent = re.compile("[0-9a-f]{2}-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}").fullmatch
_tracer: "Tracer | None" = None


class _Attribute(msgspec.Struct):
    traceparent: msgspec.Raw = msgspec.Raw(b"null")


_decode = msgspec.json.Decoder(_Attribute).decode


@contextmanager
def exported(role: str, env: Mapping[str, str] = os.environ) -> Iterator[None]:
    """Sends this process's spans to the exporter that OTEL_* names. The context's end waits for the last spans."""
    if env.get("OTEL_SDK_DISABLED", "").lower() == "true" or not any(env.get(name) for name in _ENDPOINTS):
        yield
        return
    # Imported here, so that a process that traces nothing does not load OpenTelemetry.
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    global _tracer
    name = {} if env.get("OTEL_SERVICE_NAME") else {SERVICE_NAME: f"resolution-{role}"}
    provider = TracerProvider(resource=Resource.create(name), shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    _tracer = provider.get_tracer("resolution")
    try:
        yield
    finally:
        _tracer = None
        provider.shutdown()


def on() -> bool:
    """Whether this process traces."""
    return _tracer is not None


def valid(text: str | None) -> str | None:
    """Returns the text if it is a valid `traceparent`, otherwise None."""
    return text if text is not None and _is_traceparent(text) else None


def given(headers: Sequence[tuple[str, bytes | None]], value: bytes | None) -> str | None:
    """Returns a record's `traceparent` from its headers, or else from its envelope, or None.

    In the envelope it is an extension attribute of CloudEvents.
    """
    for name, text in headers:
        if name == TRACEPARENT and text is not None:
            return valid(text.decode(errors="replace"))
    if value is None or b'"traceparent"' not in value:
        return None
    try:
        attribute = msgspec.json.decode(_decode(value).traceparent)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None
    return valid(attribute) if isinstance(attribute, str) else None


class Spans:
    """The spans of one batch, which end together."""

    def __init__(self) -> None:
        self._spans: list[Span] = []

    def begin(self, name: str, traceparent: str, kind: str, **attributes: Any) -> str:
        """Begins a span below `traceparent`. Returns the `traceparent` for what follows from it.

        `kind` is "consumer" or "producer". If this process does not trace, returns `traceparent` unchanged.
        """
        if _tracer is None:
            return traceparent
        from opentelemetry.trace import SpanKind
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        propagator = TraceContextTextMapPropagator()
        span = _tracer.start_span(
            name,
            propagator.extract({TRACEPARENT: traceparent}),
            SpanKind[kind.upper()],
            {f"resolution.{key}": value for key, value in attributes.items()},
        )
        self._spans.append(span)
        context = span.get_span_context()
        return f"00-{context.trace_id:032x}-{context.span_id:016x}-{context.trace_flags:02x}"

    def end(self) -> None:
        """Ends all spans now."""
        for span in self._spans:
            span.end()
        self._spans = []
