"""A partition whose data is damaged on the broker's disk stops, loudly and alone, until an operator skips what is lost."""

import httpx
import pytest

from services.judging.partitioner import partition_of
from tests.observability.prometheus import free_port
from tests.roles.test_bad_input import resolution
from tests.support.commands import ask_update, register
from tests.support.damage import damage
from tests.support.installation import PARTITIONS, Installation, until

STOPPED = "order-1"
OTHERS = [f"order-{number}" for number in range(2, 12)]


def partition(order_id: str) -> int:
    return partition_of(order_id.encode(), PARTITIONS)


@pytest.mark.timeout(240)
async def test_a_damaged_partition_stops_alone_and_goes_on_when_an_operator_skips_it(installation: Installation):
    port = free_port()
    installation.supervisor._metrics_ports = {"commands": port}
    others = [order_id for order_id in OTHERS if partition(order_id) != partition(STOPPED)]
    for order_id in (STOPPED, *others):
        await installation.publish(order_id, register())
    lost = await installation.publish_raw(STOPPED.encode(), b"which of these is lost nobody can tell")
    damage(installation, lost.partition)
    await installation.run("commands", "relay")
    for order_id in others:
        await installation.send(order_id, ask_update())

    async def stopped() -> str:
        answer = (await client.get("/health/ready")).json()
        return answer.get("why", "")

    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client:
        said = await until(stopped)
        assert f"{lost.partition} cannot be read at offset {lost.offset}" in said
        assert (await client.get("/health/live")).status_code == 200, "the others are read on"
        place = f"{lost.partition}/{lost.offset}"
        assert b"1 skipped" in resolution(installation, "dead", "skip", place, "--reason", "a disk failed")
        outcome = await installation.send(STOPPED, ask_update())
        assert outcome["data"]["events"], "what came before the damage was judged, and what comes after it"
    await until(lambda: installation.read(installation.topics.dead_letters))
    [letter] = await installation.read(installation.topics.dead_letters)
    assert b"a disk failed" in dict(letter.headers)["error"]
    resolution(installation, "ledger")
    await installation.stop()
    resolution(installation, "verify", "--from-commands")


async def test_records_that_can_be_read_are_not_skipped(installation: Installation):
    sent = await installation.publish_raw(STOPPED.encode(), b"no command")
    with pytest.raises(Exception, match="returned non-zero exit status"):
        resolution(installation, "dead", "skip", f"{sent.partition}/{sent.offset}", "--reason", "none")
    await installation.run("commands", "relay")
    await installation.until_published()
