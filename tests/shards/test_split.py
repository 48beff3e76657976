"""From one database to two, as docs/scaling.md says: stop, copy, split, start. Nothing is lost and nothing twice."""

import asyncio
import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit
from uuid import uuid4

import psycopg
import pytest
from resolution_contracts import CommandEnvelope
from typer.testing import CliRunner

from services import cli
from services.audit.findings import Differences
from services.audit.verify_split import verify_splits
from services.checkpoints.signing_keys import write_key_pair
from services.embedded import Servers
from services.eventstore.checkpoint_chain import parse
from services.eventstore.positions import StoredPositions
from services.judging.partitioner import partition_of
from services.kafka.read_topics import last_value
from services.kafka.relay_position import published
from services.kafka.topics import Topics
from services.shards import split as splitting
from services.shards.arithmetic import Shard
from services.shards.identity import WrongShard
from services.shards.split_database import CannotSplit, State, keep_own
from tests.faults.load import FAST, assert_nothing_lost_and_nothing_twice, under_load
from tests.support.backups import copy_database
from tests.support.commands import register
from tests.support.installation import PARTITIONS, ROLES, Installation, until

ALL = (*ROLES, "checkpoints")


@pytest.fixture
async def installation(servers: Servers, tmp_path: Path) -> AsyncIterator[Installation]:
    private, _ = write_key_pair(tmp_path / "keys")
    async with Installation.fresh(servers, checkpoint_key_file=private, checkpoint_seconds=0.1) as fresh:
        yield fresh


@asynccontextmanager
async def copied(installation: Installation) -> AsyncIterator[Installation]:
    """Returns the installation with copies of its databases added after them."""
    urls = [one.database for one in installation.settings.shards]
    names = {urlsplit(url).path[1:]: f"{urlsplit(urls[0]).path[1:]}_{len(urls) + n}" for n, url in enumerate(urls)}
    for name, copy in names.items():
        copy_database(installation, name, copy)
    copies = [urlsplit(urls[0])._replace(path=f"/{copy}").geturl() for copy in names.values()]
    more = Installation(replace(installation.settings, database_url=" ".join(urls + copies)))
    try:
        yield more
    finally:
        await more.supervisor.stop()
        await more._stack.aclose()
        more.disconnect()
        for copy in names.values():
            installation.query(f"DROP DATABASE {copy} WITH (FORCE)")


async def everything_is_out(installation: Installation) -> bool:
    """All that is stored is published, and covered by a checkpoint."""
    for number, one in enumerate(installation.settings.shards):
        topics = Topics(one.topic_prefix, one.shard)
        [(events, outcomes)] = installation.query(
            "SELECT (SELECT max(notification_id) FROM order_events), max(outcome_id) FROM outcomes", shard=number
        )
        last = await last_value(one.cluster, topics.checkpoints)
        if (await published(one.cluster, topics)).outcome_id < outcomes or last is None or parse(last).last < events:
            return False
    return True


async def test_one_database_becomes_two_under_load(installation: Installation, tmp_path: Path):
    await installation.run(*ALL, scale=FAST)
    async with AsyncExitStack() as stack:
        async with under_load(installation, random.Random(1), per_second=100):
            await until(lambda: installation.query("SELECT count(*) > 200 FROM outcomes") == [(True,)])
            await installation.stop("commands", "timer", "projections")
            await until(lambda: everything_is_out(installation))
            await installation.stop()
            two = await stack.enter_async_context(copied(installation))
            with pytest.raises(WrongShard, match="resolution split"):
                await told(two, "migrate")
            assert "It can be split" in await told(two, "split", "--check")
            await assert_it_goes_on_where_it_was_stopped(two)
            await assert_the_old_setting_is_refused(installation)
            await two.run(*ALL)
            await until(lambda: all(n > 250 for (n,) in two.query_all("SELECT count(*) FROM outcomes")))
        await assert_nothing_lost_and_nothing_twice(two)
        await until(lambda: everything_is_out(two))
        await two.stop()
        for check in ("verify", "ledger"):
            assert json.loads(await told(two, check, "--json"))["differences"] == [], check
        await assert_checkpoints_cover_all(two, tmp_path)
        four = await stack.enter_async_context(copied(two))
        await told(four, "split")
        await assert_checkpoints_cover_all(four, tmp_path)
        await assert_each_number_is_there_once(four)


async def assert_it_goes_on_where_it_was_stopped(two: Installation) -> None:
    for shard in (0, 1):
        two.query(
            "INSERT INTO order_snapshots SELECT DISTINCT originator_id, 1, '', ''::bytea FROM order_events", shard=shard
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(splitting, "keep_own", stopped_before_shard_1)
        with pytest.raises(RuntimeError, match="killed"):
            await told(two, "split")
    with pytest.raises(WrongShard, match="resolution split"):
        await told(two, "migrate")
    said = await told(two, "split")
    assert "shard 0 of 2: done before" in said
    assert "shard 1 of 2: is one by itself now" in said
    assert "already" in await told(two, "split")
    keys = [{order for (order,) in two.query("SELECT order_id FROM order_keys", shard=shard)} for shard in (0, 1)]
    assert keys[0], "some have texts"
    assert not keys[0] & keys[1], "an erasure has one place to take the key from"
    assert two.query_all("SELECT order_id FROM order_snapshots EXCEPT SELECT originator_id FROM order_events") == []


def stopped_before_shard_1(url: str, was: State, shard: Shard, *arguments: Any) -> Any:
    if shard.number == 1:
        raise RuntimeError("killed")
    return keep_own(url, was, shard, *arguments)


async def assert_the_old_setting_is_refused(installation: Installation) -> None:
    with pytest.raises(WrongShard, match="names one database, and that is shard 0 of 2"):
        await told(installation, "migrate")
    # A process that was not stopped, and would read the other shard's partitions from their beginning.
    for consumer in ("commands", "timer"):
        with pytest.raises(psycopg.errors.CheckViolation):
            await StoredPositions(installation.settings.database, consumer).positions(uuid4(), {0: 0, 1: 0})
    assert (await published(installation.settings.cluster, installation.topics)).shards == 2


async def assert_checkpoints_cover_all(shards: Installation, folder: Path) -> None:
    """Those of before a split are compared with the rows of all databases that came from that one."""
    trusted = ("--public-key", str(folder / "keys" / "checkpoint.pub"))
    for number in map(str, range(len(shards.settings.shards))):
        file = str(folder / f"chain-{number}")
        await told(shards, "checkpoints", "export", file, "--shard", number)
        found = json.loads(await told(shards, "verify", "--checkpoints", file, *trusted, "--shard", number, "--json"))
        assert (found["differences"], found["uncovered"]) == ([], 0)


async def assert_each_number_is_there_once(shards: Installation) -> None:
    found = Differences()
    await asyncio.to_thread(verify_splits, shards.settings.shards, found)
    assert found.differences == []
    first = "SELECT min(notification_id) FROM order_events"
    shards.query(f"DELETE FROM order_events WHERE notification_id = ({first})", shard=3)
    await asyncio.to_thread(verify_splits, shards.settings.shards, found)
    [sentence] = found.differences
    assert "were stored before the database was split" in sentence


async def told(installation: Installation, *arguments: str) -> str:
    """What a command of the command line says; raises what would become a sentence on stderr."""
    environment = installation.settings.as_environment()
    result = await asyncio.to_thread(CliRunner().invoke, cli.app, arguments, env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


async def test_what_is_not_ready_is_not_split(installation: Installation):
    await installation.publish("order-1", register())
    # To a partition of the other shard: its sender does not use Kafka's partitioner.
    stray = CommandEnvelope.of("order-2", register(), source="/tests")
    await installation.publish_raw(stray.key, stray.to_json(), partition=partition_of(b"order-1", PARTITIONS))
    async with installation.earlier_here("commands"):
        await until(lambda: installation.query("SELECT 1 FROM outcomes WHERE outcome_id = 2"))
    async with copied(installation) as two:
        with pytest.raises(CannotSplit, match="2 outcomes of shard 0 of 1 are not on Kafka yet"):
            await told(two, "split")
        await installation.run("relay")
        await installation.until_published()
        await installation.stop()
        with pytest.raises(CannotSplit, match="order-2 in partition"):
            await told(two, "split")
        two.query("DELETE FROM outcomes WHERE outcome_id = 2", shard=1)
        with pytest.raises(CannotSplit, match="shard 1 of 2 is not a copy of the one for shard 0 of 2 as it is now"):
            await told(two, "split")
        assert not two.query_all("SELECT 1 FROM splits"), "nothing was written"
