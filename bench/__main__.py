"""`make bench`: measures, and prints each figure beside its target. `--json` prints JSON."""

import argparse
import asyncio
import json
import logging
import os
import statistics
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
from rich.console import Console
from rich.table import Table

from bench import audit, ceiling, costs, deadlines, engine, growth, library, load, posts, read_side, soak, stages
from bench.peers import kafka_streams
from services.embedded import embedded
from services.eventstore.migrate import migrate
from services.kafka.topics import DEFAULT_PARTITIONS, Topics, ensure_topics
from services.runtime.installation import claim_shards
from services.runtime.roles import tune_interpreter
from services.settings import Settings

_PLAIN_COMMANDS = 2_000
"""The plain use of the library is much slower, so it gets only a part of the same backlog."""

_ROUNDS = 3
"""Comparisons are measured in turns, and the median of the ratios counts, because other programs use the machine."""

Result = dict[str, Any]


class Bench:
    """The servers, and a backlog on them that several measurements share."""

    def __init__(self, kafka: str, database: str, orders: int, seconds: int, minutes: int) -> None:
        self.kafka, self.database, self.orders = kafka, database, orders
        self.seconds, self.minutes = seconds, minutes
        self.base = Settings(kafka_servers=kafka, topic_prefix=f"bench_{uuid4().hex[:8]}.")
        self.commands = 0

    async def prepare(self) -> None:
        await ensure_topics(self.base.cluster, Topics(self.base.topic_prefix))
        self.commands = await load.publish(self.kafka, Topics(self.base.topic_prefix).commands, self.orders)

    async def fresh(self) -> Settings:
        """Returns new topics and a new database."""
        settings = replace(self.base, topic_prefix=f"bench_{uuid4().hex[:8]}.", database_url=self.empty_database())
        await ensure_topics(self.base.cluster, Topics(settings.topic_prefix))
        return settings

    def on_the_backlog(self, shards: int = 1) -> Settings:
        """Returns the shared commands topic with one or several new databases to read it into."""
        urls = [self.empty_database() for _ in range(shards)]
        settings = replace(self.base, database_url=" ".join(urls))
        claim_shards(settings, DEFAULT_PARTITIONS)
        return settings

    def empty_database(self) -> str:
        name = f"bench_{uuid4().hex[:8]}"
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}")
        url = urlsplit(self.database)._replace(path=f"/{name}").geturl()
        migrate(url)
        return url

    async def backlog(self) -> Result:
        """Compares one process, two processes, the plain library and the raw ceiling in turns, on the same commands."""
        topic = Topics(self.base.topic_prefix).commands
        rounds: list[Result] = []
        for _ in range(_ROUNDS):
            settings = self.on_the_backlog()
            one = await engine.backlog(settings, self.commands)
            rows = ceiling.rows_of(settings.database)
            two = await engine.backlog(self.on_the_backlog(), self.commands, processes=2)
            plain = await library.backlog(self.kafka, topic, self.empty_database(), min(_PLAIN_COMMANDS, self.commands))
            raw = await ceiling.backlog(self.kafka, topic, self.empty_database(), rows)
            rounds.append(
                {"one": one["per_second"], "two": two["per_second"], "library": plain, "ceiling": raw}
                | {"busy_one": one["busy"], "busy_two": two["busy"]}
            )
        result: Result = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
        for name in ("library", "ceiling"):
            result[f"x_{name}"] = statistics.median(r["one"] / r[name] for r in rounds)
        return result | {"x_two": statistics.median(r["two"] / r["one"] for r in rounds), "rounds": rounds}

    async def shards(self) -> Result:
        """Compares two shards with a process each, one shard with one process, and one shard with two, in turns."""
        rounds: list[Result] = []
        for _ in range(_ROUNDS):
            one = await engine.backlog(self.on_the_backlog(), self.commands)
            two = await engine.backlog(self.on_the_backlog(), self.commands, processes=2)
            shards = await engine.backlog(self.on_the_backlog(2), self.commands)
            rounds.append({"one": one["per_second"], "two": two["per_second"], "shards": shards["per_second"]})
        result: Result = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
        result["x_one"] = statistics.median(r["shards"] / r["one"] for r in rounds)
        result["x_two"] = statistics.median(r["shards"] / r["two"] for r in rounds)
        return result | {"rounds": rounds}

    async def costs(self) -> Result:
        """Measures processor time, WAL, tables and topics per command."""
        settings = await self.fresh()
        commands = await load.publish(self.kafka, Topics(settings.topic_prefix).commands, self.orders)
        result = await costs.per_command(settings, commands)
        for events in (0, 500 * self.orders):
            settings = await self.fresh()
            topic = Topics(settings.topic_prefix).commands
            commands = await load.publish(self.kafka, topic, self.orders, load.scattered)
            result.setdefault("scattered", []).append(await costs.wal_of_large_store(settings, commands, events))
        return result

    async def stages(self) -> Result:
        topic = Topics(self.base.topic_prefix).commands
        return {"per_command_us": await stages.per_command(self.on_the_backlog(), topic, self.commands)}

    async def relay(self) -> Result:
        """Compares the relay with the commands process whose outcomes it publishes."""
        rounds = []
        for _ in range(_ROUNDS):
            settings = await self.fresh()
            commands = await load.publish(self.kafka, Topics(settings.topic_prefix).commands, self.orders)
            one = await engine.backlog(settings, commands)
            relay = await engine.relay_backlog(settings, commands)
            rounds.append({"per_second": relay["per_second"], "x": relay["per_second"] / one["per_second"]})
        return {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}

    async def kafka_streams(self) -> Result:
        """Compares backlog and latency of the peer with those of the service, in turns."""
        if not kafka_streams.can_run():
            return {"skipped": "no javac; install a JDK from 17 on (Debian: default-jdk-headless)"}
        rounds = []
        for _ in range(_ROUNDS):
            settings = await self.fresh()
            commands = await load.publish(self.kafka, Topics(settings.topic_prefix).commands, self.orders)
            one = await engine.backlog(settings, commands)
            peer = await kafka_streams.backlog(settings, commands)
            rounds.append({"per_second": peer, "x": one["per_second"] / peer})
        result: Result = {name: statistics.median(r[name] for r in rounds) for name in rounds[0]}
        for interval in (10, 100):
            result[f"every_{interval}_ms"] = await kafka_streams.latency(
                await self.fresh(), 100, self.seconds, commit_interval_ms=interval
            )
        return result

    async def rebuild(self) -> Result:
        """Compares rebuilding the order page with the library's runner, with the same handlers on the same store."""
        settings = self.on_the_backlog()
        await engine.backlog(settings, self.commands)
        batches = await asyncio.to_thread(read_side.rebuild, settings)
        one_by_one = await asyncio.to_thread(read_side.library, settings, min(3_000, self.commands))
        return {"per_second": batches, "library": one_by_one, "x": batches / one_by_one}

    async def verify(self) -> Result:
        """Measures `resolution verify` after all roles have worked on a backlog. Nothing may differ."""
        settings = await self.fresh()
        commands = await load.publish(self.kafka, Topics(settings.topic_prefix).commands, self.orders)
        await engine.backlog(settings, commands)
        await engine.relay_backlog(settings, commands)
        return await asyncio.to_thread(audit.verify, settings)

    async def live(self) -> Result:
        return await read_side.live(await self.fresh(), 20 * self.seconds)

    async def pages(self) -> Result:
        return await read_side.pages(await self.fresh(), 200, self.seconds)

    async def latency(self) -> Result:
        return await engine.latency(await self.fresh(), 100, self.seconds)

    async def posts(self) -> Result:
        return await posts.beside_kafka(await self.fresh(), 50, self.seconds, _ROUNDS)

    async def lateness(self) -> Result:
        return await deadlines.lateness(await self.fresh(), 15 * self.seconds)

    async def deadlines(self) -> Result:
        return await deadlines.all_at_once(await self.fresh(), 10 * self.orders, 30 + self.orders // 100)

    async def soak(self) -> Result:
        return await soak.soak(await self.fresh(), self.minutes)

    async def long_orders(self) -> Result:
        """Compares orders with about 1,000 events with orders with 10, loaded once and then in the cache."""
        rates: dict[int, float] = {}
        for each in (9, 999):
            settings = await self.fresh()
            topic = Topics(settings.topic_prefix).commands
            orders = max(10, self.commands // each)
            commands = await growth.publish_long_lives(self.kafka, topic, orders, each)
            rates[each] = (await engine.backlog(settings, commands))["per_second"]
        return {"short": rates[9], "long": rates[999], "x": rates[9] / rates[999]}

    async def snapshots(self) -> Result:
        """Compares loading long orders with snapshots and without."""
        return await asyncio.to_thread(growth.snapshots, await self.fresh())

    async def large_store(self) -> Result:
        """Compares a store with 5,000,000 events with one with 50,000."""
        rates: dict[int, float] = {}
        for events in (5 * self.orders, 500 * self.orders):
            settings = self.on_the_backlog()
            growth.fill(settings.database, events)
            rates[events] = (await engine.backlog(settings, self.commands, already=events))["per_second"]
        small, large = rates.values()
        return {"small": small, "large": large, "x": small / large, "events": max(rates)}


MEASURES: dict[str, Callable[[Bench], Awaitable[Result]]] = {
    "backlog": Bench.backlog,
    "shards": Bench.shards,
    "costs": Bench.costs,
    "stages": Bench.stages,
    "relay": Bench.relay,
    "latency": Bench.latency,
    "kafka_streams": Bench.kafka_streams,
    "posts": Bench.posts,
    "lateness": Bench.lateness,
    "rebuild": Bench.rebuild,
    "verify": Bench.verify,
    "live": Bench.live,
    "pages": Bench.pages,
    "deadlines": Bench.deadlines,
    "long_orders": Bench.long_orders,
    "snapshots": Bench.snapshots,
    "large_store": Bench.large_store,
}
ON_REQUEST: dict[str, Callable[[Bench], Awaitable[Result]]] = {"soak": Bench.soak}
"""Measurements that take too long for a run of all."""


def table(result: Result) -> list[tuple[str, str, str]]:
    """Formats a measurement for people: its name, its figure and its target."""
    rows: list[tuple[str, str, str]] = []
    if backlog := result.get("backlog"):
        rows += [
            ("backlog, one commands process", f"{backlog['one']:,.0f} commands/s", ""),
            ("  beside the plain library", f"{backlog['x_library']:.1f} x of {backlog['library']:,.0f}/s", "50 x"),
            ("  beside the raw ceiling", f"{backlog['x_ceiling']:.2f} x of {backlog['ceiling']:,.0f}/s", "0.5 x"),
            ("two commands processes", f"{backlog['x_two']:.2f} x of one", "1.5 x"),
            ("  cores in use, with one and two", f"{backlog['busy_one']:.0%}, {backlog['busy_two']:.0%}", ""),
        ]
    if shards := result.get("shards"):
        rows.append(("two shards, a commands process each", f"{shards['x_one']:.2f} x of one with one", ""))
        rows.append(("  beside one shard with two", f"{shards['x_two']:.2f} x of {shards['two']:,.0f}/s", ""))
    rows += _costs(result.get("costs"))
    for stage, spent in result.get("stages", {}).get("per_command_us", {}).items():
        rows.append((f"  {stage}, alone", f"{spent['wall']:.1f} us, {spent['cpu']:.1f} of them computing", ""))
    if relay := result.get("relay"):
        rows.append(("relay", f"{relay['per_second']:,.0f} commands/s, {relay['x']:.2f} x of commands", "1 x"))
    rows += _waits(result)
    if due := result.get("deadlines"):
        rows.append((f"{due['disputes']:,} deadlines at once, all settled", f"{due['seconds']:.1f} s", "12 s"))
    rows += _of_the_read_side(result)
    if long := result.get("long_orders"):
        rows.append(("per command, 1,000 events in an order against 10", f"{long['x']:.2f} x", "1.3 x"))
    rows += _snapshots(result.get("snapshots", {}))
    if large := result.get("large_store"):
        rows.append((f"per command, {large['events']:,} events stored against 1 %", f"{large['x']:.2f} x", "1.3 x"))
    rows += soak.rows(result.get("soak"))
    peaks = ", ".join(f"{role} {megabytes:.0f}" for role, megabytes in result["memory_mb"].items())
    return [*rows, ("most memory, MB", peaks, "300")]


def _waits(result: Result) -> list[tuple[str, str, str]]:
    """Formats what somebody waits for."""
    rows: list[tuple[str, str, str]] = []
    if latency := result.get("latency"):
        figures = f"{latency['p50_ms']:.1f} / {latency['p99_ms']:.1f} ms"
        rows.append(("produce to outcome at 100/s, p50 / p99", figures, "8 / 25 ms"))
        spent = ", ".join(f"{name} {us:,.0f}" for name, us in latency["cpu_us"].items())
        rows.append(("  a command's processor time", f"{sum(latency['cpu_us'].values()):,.0f} us: {spent}", ""))
    if posted := result.get("posts"):
        figures = f"{posted['post']['p50_ms']:.1f} / {posted['post']['p99_ms']:.1f} ms"
        rows.append(("a POST that waits for the outcome, at 50/s, p50 / p99", figures, ""))
        figures = f"{posted['x']:.2f} x of {posted['kafka']['p50_ms']:.1f} ms (p50)"
        rows.append(("  beside produce to outcome", figures, "0.7 x"))
    if late := result.get("lateness"):
        figures = f"{late['p50_ms']:.0f} / {late['p99_ms']:.0f} ms"
        rows.append(("AutoAccepted after the deadline, p50 / p99", figures, "100 ms"))
    return rows + _peer(result.get("kafka_streams"))


def _costs(costs: Result | None) -> list[tuple[str, str, str]]:
    if costs is None:
        return []
    rows = [
        (f"a command's processor time, {role}", ", ".join(f"{name} {us:.0f}" for name, us in spent.items()) + " us", "")
        for role, spent in costs["cpu_us"].items()
    ]
    for what, name in (("tables", "table_bytes"), ("topics", "topic_bytes"), ("WAL", "wal_bytes")):
        sizes = ", ".join(f"{part} {size:,.0f}" for part, size in costs[name].items())
        rows.append((f"a command's bytes, {what}", sizes, ""))
    for large in costs["scattered"]:
        what = f"a command's WAL, scattered order ids, {large['events']:,} events stored"
        rows.append((what, f"{large['wal_bytes']:,.0f} bytes", ""))
    return rows


def _snapshots(loaded: Result) -> list[tuple[str, str, str]]:
    rows = []
    for events, took in loaded.items():
        figures = f"{took['x']:.1f} x: {took['snapshot']:,.0f} us, replayed {took['replay']:,.0f} us"
        rows.append((f"loading an order of {events} events from a snapshot", figures, ""))
        rows.append(("  writing one", f"{took['write']:,.0f} us", ""))
    return rows


def _of_the_read_side(result: Result) -> list[tuple[str, str, str]]:
    rows: list[tuple[str, str, str]] = []
    if rebuilt := result.get("rebuild"):
        rows.append(("rebuilding the order page", f"{rebuilt['per_second']:,.0f} events/s", "20,000"))
        rows.append(("  beside the library's runner", f"{rebuilt['x']:.0f} x of {rebuilt['library']:,.0f}/s", "8 x"))
    if verified := result.get("verify"):
        rows.append(("verifying history and read models", f"{verified['per_second']:,.0f} events/s", "50,000"))
        rows.append(("  history alone", f"{verified['history_per_second']:,.0f} events/s", ""))
    for name, what, bar in (
        ("live", "an event into the order page, p50 / p99", "50 ms"),
        ("pages", "200 page views a second, p50 / p99", "50 ms"),
    ):
        if took := result.get(name):
            rows.append((what, f"{took['p50_ms']:.1f} / {took['p99_ms']:.1f} ms", bar))
    return rows


def _peer(peer: Result | None) -> list[tuple[str, str, str]]:
    if peer is None:
        return []
    if "skipped" in peer:
        return [("Kafka Streams", peer["skipped"], "")]
    figures = f"{peer['per_second']:,.0f}/s; the service {peer['x']:.2f} x of it"
    rows = [("Kafka Streams, one thread, backlog", figures, "")]
    for interval in (10, 100):
        taken = peer[f"every_{interval}_ms"]
        figures = f"{taken['p50_ms']:.1f} / {taken['p99_ms']:.1f} ms"
        rows.append((f"  produce to outcome, committing every {interval} ms", figures, ""))
    return rows


async def measure(bench: Bench, names: list[str]) -> Result:
    """Runs the named measurements, one after another, on the same servers."""
    await bench.prepare()
    result: Result = {"cores": os.cpu_count(), "commands": bench.commands, "orders": bench.orders}
    with psycopg.connect(bench.database) as connection:
        for setting in ("fsync", "synchronous_commit"):
            [result[setting]] = connection.execute(f"SHOW {setting}").fetchone() or [None]
            assert result[setting] == "on", f"{setting} is {result[setting]}: what would be measured is no commit"
    for name in names:
        result[name] = await (MEASURES | ON_REQUEST)[name](bench)
        logging.getLogger("bench").warning(
            "%s: %s", name, {k: v for k, v in result[name].items() if k not in ("rounds", "minutes")}
        )
    return result | {"memory_mb": engine.PEAKS}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    known = MEASURES | ON_REQUEST
    all_of_them = f"any of {', '.join(known)}; all but {', '.join(ON_REQUEST)} by default"
    parser.add_argument("measures", nargs="*", help=all_of_them)
    parser.add_argument("--orders", type=int, default=10_000, help="orders in the backlog, ten commands each")
    parser.add_argument("--seconds", type=int, default=20, help="how long to measure latency")
    parser.add_argument("--minutes", type=int, default=60, help="how long the soak takes, at least 2")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    if unknown := set(options.measures) - set(known):
        parser.error(f"there is no measure {', '.join(sorted(unknown))}; there are {', '.join(known)}")
    if options.minutes < 2:
        parser.error("--minutes has to be 2 at least: the soak compares later minutes with earlier ones")
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    names = options.measures or list(MEASURES)
    tune_interpreter()  # the stages, the library and the ceiling run in this process

    def run(kafka: str, database: str) -> Result:
        return asyncio.run(measure(Bench(kafka, database, options.orders, options.seconds, options.minutes), names))

    given = os.environ.get("RESOLUTION_DATABASE_URL"), os.environ.get("RESOLUTION_KAFKA_SERVERS")
    if all(given):
        result = run(str(given[1]), str(given[0]))
    else:
        with (
            tempfile.TemporaryDirectory(prefix="rc-bench-", ignore_cleanup_errors=True) as folder,
            embedded(Path(folder)) as servers,
        ):
            result = run(str(servers.kafka), str(servers.database))
    print(json.dumps(result)) if options.json else _show(result)
    if result.get("soak", {}).get("failures"):
        raise SystemExit(1)


def _show(result: Result) -> None:
    sheet = Table("measure", "measured", "at least", title=f"{result['commands']:,} commands, {result['cores']} cores")
    for row in table(result):
        sheet.add_row(*row)
    Console().print(sheet)


if __name__ == "__main__":
    main()
