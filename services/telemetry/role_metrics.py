"""The metrics of one role. A role observes them once per batch, never once per record.

`services/runtime/installation_metrics.py` has the metrics of the whole installation: lag, parked orders and so on.

No label has a value that a user chose, and none identifies an order.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from time import perf_counter

from prometheus_client import Counter, Histogram

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_RECORDS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 4000)
_LATENESS = (0.01, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 3600, 86_400)

STAGES = ("decode", "load", "judge", "commit", "relay_read", "relay_publish", "projection_apply")
"""The values of the label `stage`."""

_commands = Counter(
    "resolution_commands",
    "Records of the commands topic, by command and outcome. Outcomes are accepted, a rejection's code, duplicate, "
    "dead_letter and parked.",
    ["command", "outcome"],
)
_polls_failed = Counter("resolution_poll_failures", "Polls of a topic that raised an error.", ["topic"])
_expired = Counter("resolution_expired_records", "Records that expired before they were read.", ["topic"])
_batch = Histogram("resolution_batch_records", "Records in one transaction of the commands role.", buckets=_RECORDS)
_stage = Histogram("resolution_stage_seconds", "Seconds of a batch in a stage.", ["stage"], buckets=_SECONDS)
_published = Counter("resolution_published_records", "Records the relay has published, by kind.", ["kind"])
_applied = Counter("resolution_projection_applied_events", "Events applied to a read model.", ["read_model"])
_failed = Counter("resolution_projection_failures", "Batches on which a read model failed.", ["read_model"])
_asked = Counter("resolution_deadlines_asked", "ExpireDispute commands sent by the timer.")
_lateness = Histogram(
    "resolution_deadline_lateness_seconds",
    "Real seconds from a deadline until its AutoAccepted was published.",
    buckets=_LATENESS,
)
_reminders = Counter("resolution_reminders_sent", "Reminders handed to the relay.")
_requests = Counter("resolution_http_requests", "Answered HTTP requests.", ["method", "route", "status"])
_request_seconds = Histogram("resolution_http_request_seconds", "Seconds to an answer's beginning.", buckets=_SECONDS)

_STAGES = {stage: _stage.labels(stage) for stage in STAGES}


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Times a stage of a batch, also if it fails."""
    started = perf_counter()
    try:
        yield
    finally:
        _STAGES[name].observe(perf_counter() - started)


def judged(records: int, tally: Mapping[tuple[str, str], int]) -> None:
    """Counts a committed batch of the commands role. `tally` has the number of records by command and outcome."""
    _batch.observe(records)
    for (command, outcome), count in tally.items():
        _commands.labels(command, outcome).inc(count)


def polls(topic: str) -> None:
    """Creates a topic's counter of failed polls at 0, so that the first failure shows as an increase."""
    _polls_failed.labels(topic)


def poll_failed(topic: str) -> None:
    """Counts a poll of a topic that raised an error."""
    _polls_failed.labels(topic).inc()


def expired(topic: str, records: int) -> None:
    """Counts records that expired before they were read."""
    _expired.labels(topic).inc(records)


def published(**records: int) -> None:
    """Counts the records of a committed Kafka transaction, by kind."""
    for kind, count in records.items():
        if count:
            _published.labels(kind).inc(count)


def applied(events: Mapping[str, int], seconds: float) -> None:
    """Counts the events of a committed batch by read model, and times the batch."""
    for read_model, count in events.items():
        _applied.labels(read_model).inc(count)
    _STAGES["projection_apply"].observe(seconds)


def stands_still(read_model: str) -> None:
    """Counts a batch on which a read model failed. It will try again."""
    _failed.labels(read_model).inc()


def asked(deadlines: int) -> None:
    """Counts the ExpireDispute commands that the timer sent."""
    _asked.inc(deadlines)


def auto_accepted(late_seconds: float) -> None:
    """Observes how long after its deadline an AutoAccepted was published, in real seconds."""
    _lateness.observe(max(0.0, late_seconds))


def reminded(reminders: int) -> None:
    """Counts reminders that were stored for the relay to publish."""
    _reminders.inc(reminders)


def answered(method: str, route: str, status: int, seconds: float) -> None:
    """Counts and times an HTTP request. `route` is the pattern of its path, or "other"."""
    _requests.labels(method, route, str(status)).inc()
    _request_seconds.observe(seconds)
