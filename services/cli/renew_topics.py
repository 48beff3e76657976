"""`resolution renew-topics`: continues with new topics after Kafka has lost its data."""

import asyncio

from services.kafka.topics import Topics
from services.relay.renew_topics import NotRenewed
from services.relay.renew_topics import renew_topics as renew
from services.runtime.installation import installation, prepare, with_partitions
from services.settings import Settings

from .terminal import say


def renew_topics() -> None:
    """Continue with new, empty topics after Kafka has lost its data. Creates missing topics. No role may run.

    The relay publishes the whole history to them again. Commands that had no outcome are lost: have them sent again,
    with the same ids. docs/backup.md has the whole procedure.
    """
    with installation(Settings.from_environment()) as settings:
        if len(settings.shards) > 1:
            raise NotRenewed(
                "Several databases cannot continue with new topics, because none of them can publish again what was "
                "stored before they were split. docs/backup.md says what you can do instead."
            )
        prepare(settings)
        topics = Topics(settings.topic_prefix, with_partitions(settings).shard)
        outcomes = asyncio.run(renew(settings.cluster, topics, settings.database))
    say(
        f"The database continues with {topics.commands}. Start the relay alone. Once it has published {outcomes:,} "
        "outcomes again, start the other roles."
    )
