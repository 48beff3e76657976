"""Runs for an hour, or some minutes, at half of the sustained throughput. Checks that memory and latency stay flat."""

import asyncio
import json
import statistics
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import psycopg
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.errors import KafkaError

from bench.engine import running
from bench.traffic import Traffic, traffic
from bench.watch import Watch
from services.audit.verify import VerificationFailed, verify_history
from services.checkpoints.signing_keys import own_key
from services.kafka.read_topics import extents
from services.kafka.topics import DEFAULT_PARTITIONS, TopicError, Topics
from services.runtime.installation import clock_of
from services.runtime.roles import ROLES
from services.settings import Settings

Result = dict[str, Any]

_IN_3_MINUTES = Fraction(960)
"""The time scale at which 48 hours pass in three minutes, so that deadlines are due all the time."""

_AHEAD = 40_000
"""How many commands the slowest role is kept behind while the throughput is measured."""

_WARM_SECONDS, _SUSTAINED_SECONDS = 15, 60
_CACHES_FILL_MINUTES = 10
_SEED = 7


async def soak(settings: Settings, minutes: int) -> Result:
    """Runs the soak. `failures` in the result lists what must not happen: lost or doubled records, restarts of roles,
    differences."""
    with tempfile.TemporaryDirectory(prefix="rc-soak-") as folder:
        settings = replace(settings, time_scale=_IN_3_MINUTES, http_port=0, checkpoint_key_file=own_key(Path(folder)))
        async with running(settings, *ROLES) as supervisor, traffic(settings, _SEED) as sends:
            await supervisor.ready()
            watch = Watch(settings, supervisor, sends)
            result = await _measured(watch, sends, minutes)
            await watch.until_done()
            result["counts"] = counts = await _counts(settings)
            failures = watch.failures + lost_or_twice(counts, sends)
    verified, differences = await asyncio.to_thread(_verified, settings)
    return result | {"verify": verified, "failures": failures + differences}


async def _measured(watch: Watch, sends: Traffic, minutes: int) -> Result:
    sustained = await _sustained(watch, sends)
    _tell(sustained)
    await watch.until_caught_up()
    per_second = sustained["per_second"] / 2
    samples = await _steady(watch, sends, per_second, minutes)
    return {"sustained": sustained, "per_second": per_second, "minutes": samples, **verdict(samples)}


async def _steady(watch: Watch, sends: Traffic, per_second: float, minutes: int) -> list[Result]:
    """Takes a sample each minute."""
    samples: list[Result] = []
    sends.times()  # discards the times of the backlog
    start = time.perf_counter()
    sending = asyncio.create_task(sends.steady(per_second, 60 * minutes))
    viewing = asyncio.create_task(watch.view_pages())
    for minute in range(1, minutes + 1):
        done, _ = await asyncio.wait([sending], timeout=start + 60 * minute - time.perf_counter())
        for ended in done:
            ended.result()  # raises the error that ended it too early
        samples.append({"minute": minute, **await watch.sample()})
        _tell(samples[-1])
    await sending
    viewing.cancel()
    await asyncio.wait([viewing])
    return samples


async def _sustained(watch: Watch, sends: Traffic) -> Result:
    """Returns commands per second that every role has done. The slowest role is the one furthest behind."""
    behind: defaultdict[str, list[int]] = defaultdict(list)
    began = time.perf_counter()
    first: tuple[float, int] | None = None
    while True:
        lags = await watch.lags()
        # An order's life has about one event a command, so lags in either are compared as they are.
        now, done = time.perf_counter(), sends.sent - max(lags.values())
        if first is None and now - began > _WARM_SECONDS:
            first = now, done
            behind.clear()
        if first and now - first[0] > _SUSTAINED_SECONDS:
            break
        for role, lag in lags.items():
            behind[role].append(lag)
        await sends.burst(max(0, _AHEAD - max(lags.values())))
        await asyncio.sleep(0.1)
    means = {role: statistics.mean(lags) for role, lags in behind.items()}
    rate = (done - first[1]) / (now - first[0])
    return {"per_second": rate, "bound_by": max(means, key=means.__getitem__), "mean_lag": means}


def _verified(settings: Settings) -> tuple[Result, list[str]]:
    """What `resolution verify` compared, and the differences it found."""
    try:
        found = verify_history(settings, clock_of(settings), None, lambda what, done, of: None)
    except (VerificationFailed, TopicError, KafkaError, psycopg.Error) as error:  # keep the figures of an hour
        return {}, [f"the verification could not go on: {type(error).__name__}: {error}"]
    differences = list(found.differences)
    if found.unpublished or found.parked:
        differences.append(f"{found.unpublished} outcomes were not published, {found.parked} commands are parked")
    return {"events": found.events, "outcomes": found.outcomes, "different": found.different}, differences


async def _counts(settings: Settings) -> dict[str, int]:
    """Records on Kafka and rows of the store, at rest."""
    topics = Topics(settings.topic_prefix)
    _, ends = await extents(settings.cluster, (topics.commands,), DEFAULT_PARTITIONS)
    query = (
        "SELECT count(*) FILTER (WHERE source = '/resolution-center/timer'), "
        "count(*) FILTER (WHERE kind = 'dead'), count(*) FROM outcomes"
    )
    with psycopg.connect(settings.database) as connection:
        timer, dead, stored = connection.execute(query).fetchone() or (0, 0, 0)
    return {
        "commands": sum(
            ends[topics.commands].values()
        ),  # no sender uses transactions, so there are no transaction markers
        "of the timer": timer,
        "stored": stored,
        "dead": dead,
        "outcomes": await _count(settings, topics.outcomes),
        "dead letters": await _count(settings, topics.dead_letters),
    }


async def _count(settings: Settings, topic: str) -> int:
    """Counts records without offsets of transaction markers, by reading the topic as `read_committed`."""
    reader = AIOKafkaConsumer(**settings.cluster.options, isolation_level="read_committed", enable_auto_commit=False)
    await reader.start()
    try:
        everywhere = [TopicPartition(topic, n) for n in range(DEFAULT_PARTITIONS)]
        reader.assign(everywhere)
        await reader.seek_to_beginning()
        ends, found = await reader.end_offsets(everywhere), 0
        while any([await reader.position(where) < ends[where] for where in everywhere]):
            found += sum(map(len, (await reader.getmany(timeout_ms=500)).values()))
        return found
    finally:
        await reader.stop()


def lost_or_twice(counts: dict[str, int], sends: Traffic) -> list[str]:
    """Checks that each command has one outcome in the store and on Kafka, and each garbage record one dead letter."""
    due = {
        "commands": sends.sent + counts["of the timer"],
        "stored": counts["commands"],
        "dead": sends.garbage,
        "outcomes": counts["commands"] - sends.garbage,
        "dead letters": sends.garbage,
    }
    failures = [f"{what}: {counts[what]:,} instead of {n:,}" for what, n in due.items() if counts[what] != n]
    if sends.failed:
        failures.append(f"the broker did not take {sends.failed:,} commands")
    if sends.unexpected:
        failures.append(f"{sends.unexpected:,} outcomes answer no command, or one a second time")
    return failures


def verdict(samples: Sequence[Result]) -> Result:
    """Returns by role the growth of memory in MB per hour, once the caches are full, and its drift; and the median of
    the minutes' latencies, and their drift. If a minute lacks figures, which is a failure, both are empty."""
    if not all(sample["latency"] and sample["memory_mb"].keys() == ROLES.keys() for sample in samples):
        return {"memory": {}, "latency": {}}
    warm = samples[min(_CACHES_FILL_MINUTES, len(samples) // 4) :]
    memory = {}
    for role in ROLES:
        line = statistics.linear_regression([s["minute"] for s in warm], [s["memory_mb"][role] for s in warm])
        memory[role] = {"mb_per_hour": line.slope * 60, "drift": _drift([s["memory_mb"][role] for s in samples])}
    latency = {}
    for name in ("p50_ms", "p99_ms"):
        taken = [sample["latency"][name] for sample in samples]
        latency[name] = {"median": statistics.median(taken), "drift": _drift(taken)}
    return {"memory": memory, "latency": latency}


def _drift(values: Sequence[float]) -> float:
    """Returns the ratio of the last quarter's median to the second quarter's."""
    n = len(values)
    return statistics.median(values[3 * n // 4 :]) / statistics.median(values[n // 4 : n // 2])


def _tell(what: Result) -> None:
    print(json.dumps(what), file=sys.stderr, flush=True)


def rows(soaked: Result | None) -> list[tuple[str, str, str]]:
    """Formats the figures for the table."""
    if soaked is None:
        return []
    sustained, minutes, verify = soaked["sustained"], soaked["minutes"], soaked["verify"]
    bound = f"{sustained['per_second']:,.0f} commands/s, bound by {sustained['bound_by']}"
    found = [
        ("all roles together sustain", bound, ""),
        (f"{len(minutes)} minutes at half of it", f"{soaked['per_second']:,.0f} commands/s", ""),
    ]
    for name, one in soaked["latency"].items():
        figures = f"{one['median']:.1f} ms; in the end {one['drift']:.2f} x"
        found.append((f"  due to outcome, {name[:3]} of a minute", figures, "1 x"))
    for role, one in soaked["memory"].items():
        figures = f"{minutes[-1]['memory_mb'][role]:.0f} MB, {one['mb_per_hour']:+.1f} an hour"
        found.append((f"  memory, {role}", f"{figures}; in the end {one['drift']:.2f} x", "1 x"))
    if verify:
        found.append(("  then verified", f"{verify['events']:,} events, {verify['different']:,} differences", "0"))
    return found + [("  FAILED", failure, "") for failure in soaked["failures"][:20]]
