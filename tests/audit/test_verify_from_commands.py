"""The commands topic, read again, gives byte-identical events and outcomes; `resolution verify` says where not."""

import asyncio
import json
import random
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from services import cli
from tests.faults.load import FAST, under_load
from tests.support.commands import register
from tests.support.installation import Installation, until


def verify(installation: Installation, *arguments: str) -> Result:
    return CliRunner().invoke(cli.app, ["verify", *arguments], env=installation.settings.as_environment())


async def findings(installation: Installation) -> dict[str, Any]:
    result = await asyncio.to_thread(verify, installation, "--from-commands", "--json")
    found: dict[str, Any] = json.loads(result.stdout)
    assert result.exit_code == bool(found["differences"])
    return found


async def test_the_commands_judged_again_give_the_same_bytes_also_while_the_service_works(
    installation: Installation,
):
    await installation.run(scale=FAST)
    async with under_load(installation, random.Random(1), per_second=100):
        await asyncio.sleep(4)
        live = await findings(installation)
    await installation.until_published()
    await installation.until_quiet()
    done = await findings(installation)
    assert live["differences"] == done["differences"] == []
    assert 0 < live["commands"] < done["commands"] == len(await installation.read(installation.topics.commands))
    assert done["unpublished"] == 0
    assert done["events"] == len(await installation.events())
    assert done["outcomes"] == len(await installation.outcomes())
    assert done["dead_letters"] == len(await installation.read(installation.topics.dead_letters)) > 0
    assert "Nothing differs." in (await asyncio.to_thread(verify, installation, "--from-commands")).output


@pytest.mark.parametrize(
    ("tamper", "said"),
    [
        ("UPDATE outcomes SET message = message || ' ' WHERE outcome_id = 3", "its bytes differ"),
        (
            "UPDATE order_events SET state = convert_to(replace(convert_from(state, 'UTF8'), '10000', '9999'), 'UTF8') "
            "WHERE notification_id = 1",
            "data differ",
        ),
        ("DELETE FROM outcomes WHERE outcome_id = 2", "not what it should be"),  # but what the next one should be
        ("UPDATE outcomes SET order_id = 'order-2' WHERE outcome_id = 2", "follows from no command"),
    ],
)
async def test_what_was_changed_before_it_was_published_is_found(installation: Installation, tamper: str, said: str):
    await installation.run("commands")
    for _ in range(30):
        await installation.publish("order-1", register())
    await until(lambda: installation.query("SELECT count(*) FROM outcomes") == [(30,)])
    assert (await findings(installation))["unpublished"] == 31  # one event, thirty outcomes
    installation.query(tamper)
    [(left,)] = installation.query("SELECT count(*) FROM outcomes")
    await installation.run("relay")

    async def published() -> bool:
        return len(await installation.outcomes()) == left

    await until(published)
    found = await findings(installation)
    assert found["differences"]
    assert said in found["differences"][0]
