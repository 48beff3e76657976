"""`make bench`: prints what was measured; `--json` for machines, `--orders N` for a smaller backlog."""

import argparse
import asyncio
import json
import logging
import os
import tempfile
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
from rich.console import Console
from rich.table import Table

from bench import engine, library, load
from services.kafka.topics import Topics, ensure_topics
from services.servers import embedded
from services.settings import Settings
from services.store import migrate

_PLAIN_COMMANDS = 3_000
"""The plain use is so much slower that a part of the same backlog has to do."""


async def measure(kafka: str, database: str, orders: int, seconds: int) -> dict[str, Any]:
    """Runs everything, one after the other, on the same servers and the same commands."""
    settings = _fresh(kafka, database)
    topics = Topics(settings.topic_prefix)
    await ensure_topics(kafka, topics)
    commands = await load.publish(kafka, topics.commands, orders)
    result: dict[str, Any] = {"cores": os.cpu_count(), "commands": commands, "orders": orders}
    result["backlog"] = await engine.backlog(settings, commands)
    result["relay"] = await engine.relay_backlog(settings, commands)
    plain = min(_PLAIN_COMMANDS, commands)
    result["library"] = {
        "per_second": await library.backlog(kafka, topics.commands, _fresh(kafka, database).database, plain),
        "commands": plain,
    }
    latency = _fresh(kafka, database)
    await ensure_topics(kafka, Topics(latency.topic_prefix))
    result["latency"] = await engine.latency(latency, 100, seconds)
    return result


def _fresh(kafka: str, database: str) -> Settings:
    name = f"bench_{uuid4().hex[:8]}"
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    url = urlsplit(database)._replace(path=f"/{name}").geturl()
    migrate(url)
    return Settings(database_url=url, kafka_servers=kafka, topic_prefix=f"{name}.")


def show(result: dict[str, Any]) -> None:
    """The table for a person."""
    table = Table(title=f"{result['commands']:,} commands on {result['orders']:,} orders, {result['cores']} cores")
    table.add_column("measure")
    table.add_column("measured", justify="right")
    table.add_column("beside the plain library", justify="right")
    plain = result["library"]["per_second"]
    for name, key in (("backlog, one commands process", "backlog"), ("relay, the same backlog", "relay")):
        rate = result[key]["per_second"]
        table.add_row(name, f"{rate:,.0f} commands/s", f"{rate / plain:.1f} x")
    table.add_row("plain use of the library, one save per command", f"{plain:,.0f} commands/s", "1 x")
    latency = result["latency"]
    table.add_row("produce to outcome at 100 commands/s, p50", f"{latency['p50_ms']:.1f} ms", "")
    table.add_row("produce to outcome at 100 commands/s, p99", f"{latency['p99_ms']:.1f} ms", "")
    table.add_row("memory of the commands process", f"{result['backlog']['memory_mb']:.0f} MB", "")
    Console().print(table)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--orders", type=int, default=10_000, help="orders in the backlog, ten commands each")
    parser.add_argument("--seconds", type=int, default=20, help="how long to measure latency")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    given = os.environ.get("RESOLUTION_DATABASE_URL"), os.environ.get("RESOLUTION_KAFKA_SERVERS")
    if all(given):
        result = asyncio.run(measure(str(given[1]), str(given[0]), options.orders, options.seconds))
    else:
        with tempfile.TemporaryDirectory(prefix="rc-bench-") as folder, embedded(Path(folder)) as servers:
            result = asyncio.run(measure(str(servers.kafka), str(servers.database), options.orders, options.seconds))
    print(json.dumps(result)) if options.json else show(result)


if __name__ == "__main__":
    main()
