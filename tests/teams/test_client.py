"""The client that other teams install: `resolution_contracts.client`."""

import asyncio
import gc
import json
from datetime import UTC, datetime
from uuid import uuid4

import pytest
from aiokafka.errors import KafkaConnectionError, KafkaError
from resolution_contracts import Accept, CommandAccepted, CommandRejected, EventEnvelope, OpenDispute
from resolution_contracts.client import Client, DeadLetter, OutcomePending, Received, SequenceBroken, Start
from resolution_contracts.events import Accepted, DisputeOpened, OrderRegistered

from tests.support.commands import CLIENT, ask_cancellation, ask_update, offer_refund, register
from tests.support.installation import Installation, until


def client(installation: Installation) -> Client:
    return Client(installation.settings.kafka, source="/tests", prefix=installation.topics.prefix)


async def some(installation: Installation, start: Start, count: int) -> list[Received]:
    found: list[Received] = []
    async with client(installation) as following:
        async for received in following.events(start):
            found.append(received)
            if len(found) == count:
                break
    return found


async def test_send_returns_the_outcome_and_a_rejection_is_typed(installation: Installation):
    await installation.run("commands", "relay")
    async with client(installation) as shop:
        registered = await shop.send("order-7", register())
        assert isinstance(registered, CommandAccepted)
        opened = await shop.send("order-7", ask_cancellation())
        assert isinstance(opened, CommandAccepted)
        again = await shop.send("order-7", ask_update())
        assert isinstance(again, CommandRejected)
        assert again.code == "dispute_open"
        assert "wait for the answer" in again.message


async def test_a_command_without_an_outcome_in_time_keeps_its_id_and_is_safe_to_send_again(installation: Installation):
    command = register()
    async with client(installation) as shop:
        with pytest.raises(OutcomePending) as pending:
            await shop.send("order-7", command, timeout=0.5)
        await installation.run("commands", "relay")
        outcome = await shop.send("order-7", command, id=pending.value.command_id)
    assert isinstance(outcome, CommandAccepted)
    assert [e["sequence"] for e in await installation.events("order-7")] == [1]


async def test_what_is_no_command_for_the_service_is_raised_as_a_dead_letter(installation: Installation):
    await installation.run("commands", "relay")
    async with client(installation) as shop:
        request = ask_update().request.model_copy(update={"message": "x" * 300_000})
        with pytest.raises(DeadLetter, match="the record is larger than 262144 bytes"):
            await shop.send("order-7", OpenDispute.model_construct(actor="ann", request=request))


async def test_a_record_that_is_no_outcome_is_logged_and_the_next_outcome_arrives(
    installation: Installation, caplog: pytest.LogCaptureFixture
):
    await installation.run("commands", "relay")
    async with client(installation) as shop:
        await installation.publish_raw(b"order-7", b"garbage", installation.topics.outcomes)
        assert isinstance(await shop.send("order-7", register()), CommandAccepted)
    assert f"skipped a record that cannot be read: {installation.topics.outcomes}/" in caplog.text


async def test_a_client_that_has_stopped_reading_fails_those_who_wait(installation: Installation):
    async with client(installation) as shop:
        waiting = asyncio.create_task(shop.send("order-7", register()))
        await until(lambda: shop._waiting)
        shop._answers._fetcher._proc_fetch_request = None  # type: ignore[method-assign]  # its task fails at once
        with pytest.raises(KafkaError, match="open a new one"):
            await waiting
        with pytest.raises(KafkaError, match="open a new one"):
            await shop.send("order-7", register())


async def test_events_from_the_beginning_an_instant_and_a_position(installation: Installation):
    await installation.run("commands", "relay")
    async with client(installation) as shop:
        await shop.send("order-7", register())
        between = datetime.now(UTC)
        await shop.send("order-7", offer_refund())
        first = await some(installation, "beginning", 2)
        assert [type(r.event) for r in first] == [OrderRegistered, DisputeOpened]
        assert [r.order_id for r in first] == ["order-7", "order-7"]
        [later] = await some(installation, between, 1)
        assert isinstance(later.event, DisputeOpened)
        accept = Accept(actor=CLIENT, dispute_id=later.event.dispute_id)
        await shop.send("order-7", accept)
        [next_] = await some(installation, json_round_trip(first[-1].position), 1)
        assert isinstance(next_.event, Accepted)
        assert next_.event.by == "client"


def json_round_trip(position: object) -> dict[int, int]:
    """As a consumer keeps it."""
    return {int(partition): offset for partition, offset in json.loads(json.dumps(position)).items()}


@pytest.mark.parametrize("sequences", [[1, 3], [1, 1], [2]])
async def test_a_gap_and_a_repeat_in_the_stream_are_found(installation: Installation, sequences: list[int]):
    for sequence in sequences:
        await publish_event(installation, sequence)
    with pytest.raises(SequenceBroken, match="order-7"):
        await some(installation, "beginning", len(sequences) + 1)


async def test_an_event_that_this_version_does_not_know_is_handed_over_untyped(installation: Installation):
    await publish_event(installation, 1, type_="resolution.event.OrderRegistered.v9")
    await publish_event(installation, 2, type_="resolution.event.OrderFramed.v1")
    assert [r.event for r in await some(installation, "beginning", 2)] == [None, None]


async def publish_event(
    installation: Installation, sequence: int, type_: str = "resolution.event.OrderDelivered.v1"
) -> None:
    now = datetime.now(UTC)
    envelope = EventEnvelope(
        specversion="1.0",
        id=f"order-7:{sequence}",
        source="/resolution-center",
        type=type_,
        subject="order-7",
        time=now,
        sequence=sequence,
        causationid=str(uuid4()),
        data={},
    )
    await installation.publish_raw(b"order-7", envelope.model_dump_json().encode(), topic=installation.topics.events)


async def test_a_client_that_cannot_start_leaves_nothing_open(caplog: pytest.LogCaptureFixture):
    with pytest.raises(KafkaConnectionError):
        async with Client("127.0.0.1:1", source="/tests"):
            pass
    gc.collect()
    assert "Unclosed" not in caplog.text
