"""Each alert fires when its fault is made: a real Prometheus, the deployed rules, the real roles."""

import asyncio
import json
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import pytest
from aiokafka import TopicPartition
from aiokafka.admin import AIOKafkaAdminClient, RecordsToDelete
from typer.testing import CliRunner

from services import cli
from services.embedded import Servers
from services.runtime.roles import ROLES
from tests.observability.conftest import refusing
from tests.observability.prometheus import DEPLOYED, Prometheus, program, prometheus, rules
from tests.roles.test_partitions import add_partitions
from tests.support.checkpoints import with_key
from tests.support.commands import ask_update, register
from tests.support.damage import damage
from tests.support.installation import Installation, until

_IN_10_SECONDS = 17_280
"""The scale at which 48 hours pass in 10 s."""

_NAMES = {rule["alert"] for rule in rules()}
_PATIENCE = 60
"""Seconds: roles look every 5 s, deadlines take 10 s, and the machine may be busy."""


def test_prometheus_takes_the_rules_and_the_configuration():
    subprocess.run([program("promtool"), "check", "rules", str(DEPLOYED / "alerts.yml")], check=True)
    subprocess.run([program("promtool"), "check", "config", str(DEPLOYED / "prometheus.yml")], check=True)


def test_each_alert_says_what_it_means_and_where_the_runbook_says_what_to_do():
    headings = re.findall(r"^## (.+)$", (DEPLOYED.parents[1] / "docs/runbook.md").read_text(), re.MULTILINE)
    assert set(headings) == _NAMES
    for rule in rules():
        assert rule["annotations"]["summary"]
        assert rule["annotations"]["description"]
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"


@pytest.fixture
async def installation(servers: Servers) -> AsyncIterator[Installation]:
    """With so many partitions, the steps after the damage use others than the damaged ones."""
    async with Installation.fresh(servers, partitions=8) as fresh:
        yield fresh


@pytest.mark.timeout(400)
async def test_each_alert_fires_when_its_fault_is_made(
    installation: Installation, ports: dict[str, int], tmp_path: Path
):
    with_key(installation, tmp_path / "key")
    await installation.run(*ROLES, scale=_IN_10_SECONDS)
    async with prometheus(tmp_path, ports) as watching, AsyncExitStack() as faults:
        await installation.send("order-0", register())
        await until(lambda: installation.query("SELECT last_event_id FROM checkpoints") == [(1,)])
        await until(lambda: all_are_up(watching))
        await until(lambda: installation.page("order-0"))
        await until(lambda: watching.value('max(resolution_server_up{server="postgresql"})'))
        assert await watching.firing() == set()
        faults.enter_context(installation.holding("projection_tracking"))
        await a_dead_letter(installation)
        await a_parked_order(installation)
        await a_forged_event(installation)
        await a_damaged_partition(installation)
        shown = {
            "ResolutionPartitionStopped",
            "ResolutionPollsFail",
            "ResolutionNoProgress",
            "ResolutionRecordsExpired",
        }
        await all_fire(watching, shown)
        await faults.aclose()
        await add_partitions(installation, installation.topics.notifications)
        await one_that_dies_again_and_again(installation, watching)
        await a_deadline_without_a_timer(installation)
        await installation.stop("projections", "relay", "checkpoints")
        installation.query("UPDATE publishing SET intended_outcome_id = 0")  # as in a backup from the beginning
        await installation.publish("order-0", ask_update())
        await until(lambda: installation.query("SELECT count(*) FROM outcomes WHERE order_id = 'order-0'") == [(2,)])
        await installation.stop("commands")
        await installation.publish("order-0", ask_update())
        await all_fire(watching, _NAMES - shown - {"ResolutionServerUnreachable"})
        with refusing(installation):
            await all_fire(watching, {"ResolutionServerUnreachable"})


async def all_fire(watching: Prometheus, expected: set[str]) -> None:
    """Waits for each alert to fire, or to have done so: a restart, for one, is forgotten after a while."""
    missing = set(expected)

    async def none_missing() -> bool:
        missing.difference_update(await watching.firing())
        return not missing

    try:
        await until(none_missing, _PATIENCE)
    except TimeoutError:
        raise AssertionError(f"{missing} did not fire within {_PATIENCE} s") from None


async def all_are_up(watching: Prometheus) -> bool:
    return await watching.value('sum(up{job="resolution"})') == len(ROLES)


async def a_dead_letter(installation: Installation) -> None:
    await installation.publish_raw(b"order-9", b"no command")


async def a_parked_order(installation: Installation) -> None:
    """A history that this version cannot read."""
    await installation.send("order-1", register())
    await installation.stop("commands")
    installation.query("UPDATE order_events SET topic = 'FromALaterVersion' WHERE originator_id = 'order-1'")
    await installation.run("commands")
    await installation.publish("order-1", ask_update())
    await until(lambda: installation.query("SELECT count(*) FROM parked_commands") == [(1,)])


async def a_damaged_partition(installation: Installation) -> None:
    await installation.stop("commands")
    await installation.publish_raw(b"order-9", b"no command", partition=5)
    damage(installation, 5)
    await installation.publish_raw(b"order-9", b"no command", partition=6)
    await delete_records(installation, 6)
    await installation.run("commands")


async def delete_records(installation: Installation, partition: int) -> None:
    """All that a partition of the commands topic has, before anybody has read it."""
    admin = AIOKafkaAdminClient(**installation.settings.cluster.options)
    await admin.start()
    try:
        where = TopicPartition(installation.topics.commands, partition)
        await admin.delete_records({where: RecordsToDelete(before_offset=-1)})
    finally:
        await admin.close()


async def a_forged_event(installation: Installation) -> None:
    """One that no command gives; the verification of what was published finds it."""
    [event] = await installation.events("order-0")
    forged = event | {"sequence": 2, "id": "order-0:2", "causationid": str(uuid4())}
    await installation.publish_raw(b"order-0", json.dumps(forged).encode(), installation.topics.events)
    arguments = ["verify", "--from-commands"]
    result = await asyncio.to_thread(CliRunner().invoke, cli.app, arguments, env=installation.settings.as_environment())
    assert result.exit_code == 1, result.output


async def one_that_dies_again_and_again(installation: Installation, watching: Prometheus) -> None:
    """A kill -9 each time that Prometheus has seen the last start."""
    for _ in range(3):
        before = await watching.value('process_start_time_seconds{role="timer"}')
        pid = installation.supervisor.pid("timer")
        assert pid is not None
        os.kill(pid, signal.SIGKILL)
        await until(lambda before=before: started_after(watching, before))


async def started_after(watching: Prometheus, before: float | None) -> bool:
    now = await watching.value('process_start_time_seconds{role="timer"}')
    return before is not None and now is not None and now > before


async def a_deadline_without_a_timer(installation: Installation) -> None:
    await installation.send("order-4", register())
    await installation.send("order-4", ask_update())
    # It was killed before: until its group has let go of the dead one, it reads nothing.
    await until(lambda: installation.query("SELECT count(*) FROM deadlines WHERE order_id = 'order-4'") == [(1,)], 60)
    await installation.send("order-2", register())
    await installation.send("order-2", ask_update())
    await until(lambda: installation.query("SELECT count(*) FROM deadlines WHERE order_id = 'order-2'") == [(1,)])
    await installation.stop("timer")
    assert installation.query("SELECT count(*) FROM deadlines WHERE order_id = 'order-2'") == [(1,)]
    await installation.send("order-3", register())  # which it does not read


async def test_an_alert_ends_when_an_operator_has_dealt_with_it(
    installation: Installation, ports: dict[str, int], tmp_path: Path
):
    await installation.run("commands", "relay")
    async with prometheus(tmp_path, ports) as watching:
        await a_dead_letter(installation)
        await all_fire(watching, {"ResolutionDeadLetters"})
        [(partition, offset)] = installation.query("SELECT partition, record_offset FROM outcomes WHERE kind = 'dead'")
        installation.query(
            "INSERT INTO handled_dead_letters VALUES (%s, %s, 'discarded', 'of no use', %s)",
            (partition, offset, datetime.now(UTC)),
        )

        async def quiet() -> bool:
            return "ResolutionDeadLetters" not in await watching.firing()

        await until(quiet)
