"""`make bench`: measures, and prints each figure beside its target. `--json` prints JSON."""

import argparse
import asyncio
import json
import logging
import os
import tempfile
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg

from bench import audit, ceiling, costs, deadlines, engine, growth, library, load, posts, read_side, sheet, soak, stages
from bench.peers import kafka_streams
from bench.rounds import ROUNDS, Result, medians
from services.embedded import embedded
from services.eventstore.migrate import migrate
from services.kafka.topics import DEFAULT_PARTITIONS, Topics, ensure_topics
from services.runtime.installation import claim_shards
from services.runtime.roles import tune_interpreter
from services.settings import Settings

_NO_COMPILER = {"skipped": "no javac; install a JDK from 17 on (Debian: default-jdk-headless)"}
_PLAIN_COMMANDS = 2_000
"""The plain use of the library is much slower, so it gets only a part of the same backlog."""

_LONG = 5
"""How many times as long the backlog beside Kafka Streams is. The first of these parts warms both up."""


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
        for _ in range(ROUNDS):
            settings = self.on_the_backlog()
            one = await engine.backlog(settings, self.commands)
            rows = ceiling.rows_of(settings.database)
            two = await engine.backlog(self.on_the_backlog(), self.commands, processes=2)
            plain = await library.backlog(self.kafka, topic, self.empty_database(), min(_PLAIN_COMMANDS, self.commands))
            raw = await ceiling.backlog(self.kafka, topic, self.empty_database(), rows)
            x = {f"x_{name}": one["per_second"] / of for name, of in (("library", plain), ("ceiling", raw))}
            rounds.append(
                {"one": one["per_second"], "two": two["per_second"], "library": plain, "ceiling": raw}
                | {"busy_one": one["busy"], "busy_two": two["busy"], "x_two": two["per_second"] / one["per_second"]}
                | x
            )
        return medians(rounds)

    async def shards(self) -> Result:
        """Compares two shards with a process each, one shard with one process, and one shard with two, in turns."""
        rounds: list[Result] = []
        for _ in range(ROUNDS):
            one = await engine.backlog(self.on_the_backlog(), self.commands)
            two = await engine.backlog(self.on_the_backlog(), self.commands, processes=2)
            shards = await engine.backlog(self.on_the_backlog(2), self.commands)
            of_each = {"one": one["per_second"], "two": two["per_second"], "shards": shards["per_second"]}
            x = {f"x_{name}": of_each["shards"] / of_each[name] for name in ("one", "two")}
            rounds.append(of_each | x)
        return medians(rounds)

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
        for _ in range(ROUNDS):
            settings = await self.fresh()
            commands = await load.publish(self.kafka, Topics(settings.topic_prefix).commands, self.orders)
            one = await engine.backlog(settings, commands)
            relay = await engine.relay_backlog(settings, commands)
            rounds.append({"per_second": relay["per_second"], "x": relay["per_second"] / one["per_second"]})
        return medians(rounds)

    async def kafka_streams(self) -> Result:
        """Compares a long backlog of the service with that of the peer, in turns, when both are warm."""
        if not kafka_streams.can_run():
            return _NO_COMPILER
        rounds = []
        for _ in range(ROUNDS):
            settings = await self.fresh()
            topic = Topics(settings.topic_prefix).commands
            commands = await load.publish(self.kafka, topic, _LONG * self.orders)
            one = await engine.backlog(settings, commands, warm=commands // _LONG)
            peer = await kafka_streams.backlog(settings, commands, warm=commands // _LONG)
            rounds.append({"one": one["per_second"], "per_second": peer, "x": one["per_second"] / peer})
        return medians(rounds)

    async def beside_streams(self) -> Result:
        """Compares the latency of the service with that of the peer, which commits every 10 ms, in turns."""
        if not kafka_streams.can_run():
            return _NO_COMPILER
        result: Result = {}
        for rate in (100, 1000):
            rounds = []
            for _ in range(ROUNDS):
                service = await engine.latency(await self.fresh(), rate, self.seconds)
                peer = await kafka_streams.latency(await self.fresh(), rate, self.seconds, commit_interval_ms=10)
                x = {f"x_{p}": service[f"{p}_ms"] / peer[f"{p}_ms"] for p in ("p50", "p99")}
                rounds.append({"service": service, "peer": peer} | x)
            result[str(rate)] = medians(rounds)
        return result

    async def rebuild(self) -> Result:
        """Compares rebuilding the order page with the library's runner, with the same handlers on the same store."""
        settings = self.on_the_backlog()
        await engine.backlog(settings, self.commands)
        batches = await asyncio.to_thread(read_side.rebuild, settings)
        one_by_one = await asyncio.to_thread(read_side.library, settings, min(3_000, self.commands))
        return {"per_second": batches, "library": one_by_one, "x": batches / one_by_one}

    async def verify(self) -> Result:
        """Measures `resolution verify` beside the commands process whose commands it verifies. Nothing may differ."""
        rounds = []
        for _ in range(ROUNDS):
            settings = await self.fresh()
            commands = await load.publish(self.kafka, Topics(settings.topic_prefix).commands, self.orders)
            one = (await engine.backlog(settings, commands))["per_second"]
            await engine.relay_backlog(settings, commands)
            verified = await asyncio.to_thread(audit.verify, settings)
            x = {"x": verified["commands_per_second"] / one, "x_history": verified["history_commands_per_second"] / one}
            what_if = await asyncio.to_thread(audit.what_if, settings)
            rounds.append(verified | x | {"what_if": what_if, "x_what_if": what_if / verified["seconds"]})
        return medians(rounds)

    async def live(self) -> Result:
        return await read_side.live(await self.fresh(), 20 * self.seconds)

    async def pages(self) -> Result:
        return medians([await read_side.pages(await self.fresh(), 200, self.seconds) for _ in range(ROUNDS)])

    async def latency(self) -> Result:
        return await engine.latency(await self.fresh(), 100, self.seconds)

    async def posts(self) -> Result:
        return await posts.beside_kafka(await self.fresh(), 50, self.seconds, ROUNDS)

    async def lateness(self) -> Result:
        return medians([await deadlines.lateness(await self.fresh(), 15 * self.seconds) for _ in range(ROUNDS)])

    async def deadlines(self) -> Result:
        disputes, until_due = 10 * self.orders, 30 + self.orders // 100
        return medians([await deadlines.all_at_once(await self.fresh(), disputes, until_due) for _ in range(ROUNDS)])

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
    "beside_streams": Bench.beside_streams,
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
    print(json.dumps(result)) if options.json else sheet.show(result)
    if result.get("soak", {}).get("failures"):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
