"""A command in; events, one outcome, and the order page out."""

import json
from uuid import uuid4

from resolution_contracts import Accept, Decline, EventEnvelope, OutcomeEnvelope

from tests.support.commands import CLIENT, FREELANCER, ask_extension, offer_refund, register
from tests.support.installation import Installation, until
from tests.support.judgement_day import assert_as_the_oracle_says


async def test_a_command_becomes_events_an_outcome_and_a_line_on_the_order_page(installation: Installation):
    await installation.run()
    await installation.send("order-1", register())
    dispute_id = str(uuid4())
    opened = await installation.send("order-1", ask_extension(), id=dispute_id)
    assert opened["data"] == {
        "command_id": dispute_id,
        "command": "OpenDispute",
        "events": [{"type": "resolution.event.DisputeOpened.v1", "sequence": 2}],
    }
    await until(lambda: (installation.page("order-1") or {}).get("open_dispute"))
    page = installation.page("order-1", CLIENT)
    assert page is not None
    assert page["open_dispute"]["dispute_id"] == dispute_id
    assert 172_000 < page["open_dispute"]["seconds_left"] <= 172_800
    assert {a["command"] for a in page["available_actions"]["client"] if a["available"]} == {"Accept", "Decline"}

    await installation.send("order-1", Accept(actor=CLIENT, dispute_id=dispute_id))
    assert [event["type"].split(".")[2] for event in await installation.events()] == [
        "OrderRegistered", "DisputeOpened", "Accepted", "DeliveryDateExtended",
    ]  # fmt: skip
    await assert_as_the_oracle_says(installation)


async def test_one_order_keeps_its_partition_number_on_every_topic(installation: Installation):
    await installation.run("commands", "relay")
    for number in range(12):
        await installation.send(f"order-{number}", register())
    partitions = {}
    for topic in (installation.topics.commands, installation.topics.events, installation.topics.outcomes):
        for record in await installation.read(topic):
            partitions.setdefault(record.key, set()).add(record.partition)
    assert len(partitions) == 12
    assert all(len(numbers) == 1 for numbers in partitions.values())


async def test_what_is_published_fits_the_contract_that_other_teams_install(installation: Installation):
    await installation.run("commands", "relay")
    await installation.send("order-1", register())
    await installation.send("order-1", offer_refund())
    await installation.send("order-1", offer_refund())
    records = await installation.read(installation.topics.events)
    assert all(("content-type", b"application/cloudevents+json") in record.headers for record in records)
    events = [EventEnvelope.model_validate_json(record.value) for record in records]
    assert [type(event.event()).__name__ for event in events] == ["OrderRegistered", "DisputeOpened"]
    outcomes = [
        OutcomeEnvelope.model_validate_json(record.value)
        for record in await installation.read(installation.topics.outcomes)
    ]
    assert [type(outcome.outcome()).__name__ for outcome in outcomes] == [
        "CommandAccepted", "CommandAccepted", "CommandRejected",
    ]  # fmt: skip


async def test_D19_a_repeated_command_gets_its_first_outcome_also_after_a_restart(installation: Installation):
    await installation.run("commands", "relay")
    await installation.send("order-1", register())
    command_id = str(uuid4())
    first = await installation.send("order-1", offer_refund(1_000), id=command_id)
    await installation.stop("commands")
    await installation.run("commands")
    again = await installation.send("order-1", offer_refund(1_000), id=command_id)
    assert again == first | {"data": first["data"] | {"duplicate": True}}
    other = await installation.send("order-1", offer_refund(2_000), id=command_id)
    assert other["data"]["code"] == "command_id_reused"
    assert len(await installation.events("order-1")) == 2
    await assert_as_the_oracle_says(installation)


async def test_D16_the_confidential_reason_leaves_the_service_nowhere(installation: Installation):
    await installation.run()
    await installation.send("order-1", register())
    await installation.send("order-1", offer_refund(9_000))
    await installation.send("order-1", offer_refund(1_000))
    await until(lambda: (installation.page("order-1") or {}).get("open_dispute"))
    for topic in (installation.topics.events, installation.topics.outcomes):
        assert all(b"minor_dissatisfaction" not in (record.value or b"") for record in await installation.read(topic))
    disputes = json.dumps((installation.page("order-1", CLIENT) or {})["disputes"])
    assert "minor_dissatisfaction" not in disputes
    assert "minor_dissatisfaction" in json.dumps((installation.page("order-1", FREELANCER) or {})["disputes"])


async def test_two_commands_of_one_batch_see_each_other(installation: Installation):
    """They wait in the topic together, and the second is judged on what the first did, before anything is committed."""
    await installation.publish("order-1", register())
    dispute_id = await installation.publish("order-1", ask_extension())
    await installation.publish("order-1", Decline(actor=CLIENT, dispute_id=dispute_id))
    await installation.publish("order-1", Decline(actor=CLIENT, dispute_id=dispute_id))
    await installation.run("commands", "relay")
    await installation.until_published()
    codes = [outcome["data"].get("code") for outcome in await installation.outcomes()]
    assert codes == [None, None, None, "dispute_settled"]
    await assert_as_the_oracle_says(installation)


async def test_D19_repeats_in_a_backlog_too_large_to_look_each_up_get_their_first_outcomes(installation: Installation):
    command = register()
    for number in range(300):
        await installation.publish(f"order-{number % 30}", command, id=f"00000000-0000-0000-0000-{number:012}")
    await installation.run("commands", "relay")
    await installation.until_published()
    for number in range(150, 450):
        await installation.publish(f"order-{number % 30}", command, id=f"00000000-0000-0000-0000-{number:012}")
    await installation.until_published()
    repeats = [outcome for outcome in await installation.outcomes() if outcome["data"].get("duplicate")]
    assert len(repeats) == 150
    await assert_as_the_oracle_says(installation)
