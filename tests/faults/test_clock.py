"""The broker's clock jumps back and forth, but business time never runs backwards within an order (D1)."""

import random
import time

from aiokafka.admin import AIOKafkaAdminClient
from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from resolution_contracts import CommandEnvelope

from tests.support.commands import ask_update, register_under_some_terms
from tests.support.installation import Installation
from tests.support.judgement_day import assert_as_the_oracle_says

_HOUR_MS = 3_600_000


async def test_D1_a_clock_that_jumps_gives_each_order_one_history(installation: Installation, seed: int):
    dice = random.Random(seed)
    await installation.run()
    await _let_the_test_set_the_time(installation)
    now = time.time() * 1000
    for number in range(300):
        order_id = f"order-{dice.randrange(10)}"
        command = register_under_some_terms(dice) if number < 40 else ask_update()
        envelope = CommandEnvelope.of(order_id, command, source="/tests")
        passed = 240 * number / 300 + dice.uniform(-40, 40)  # ten days, with jumps of up to 80 hours in them
        at = int(now - max(0, 240 - passed) * _HOUR_MS)
        await installation.publish_raw(envelope.key, envelope.to_json(), timestamp_ms=at)
    await installation.stop("timer")  # it would ask on while the oracle reads
    await installation.until_published()
    await assert_as_the_oracle_says(installation)
    auto_accepted = 0
    for number in range(10):
        events = await installation.events(f"order-{number}")
        times = [event["time"] for event in events]
        assert times == sorted(times)
        auto_accepted += sum("AutoAccepted" in event["type"] for event in events)
    assert auto_accepted > 0, "no jump crossed a deadline"


async def _let_the_test_set_the_time(installation: Installation) -> None:
    """Lets senders set the timestamps of records from now on, which the service takes for the broker's clock.

    Also switches retention off. Otherwise the broker would delete old records, and the oracle would miss them.
    """
    admin = AIOKafkaAdminClient(bootstrap_servers=installation.settings.kafka)
    await admin.start()
    try:
        configs = {"message.timestamp.type": "CreateTime", "retention.ms": "-1"}
        await admin.alter_configs(
            [ConfigResource(ConfigResourceType.TOPIC, installation.topics.commands, configs=configs)]
        )
    finally:
        await admin.close()
