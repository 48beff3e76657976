"""`resolution renew-topics`: what to do when Kafka has lost its data."""

import asyncio

from services.kafka.topics import Topics
from services.relay.renew_topics import NotRenewed
from services.relay.renew_topics import renew_topics as renew
from services.runtime.installation import installation, prepare, with_partitions
from services.settings import Settings

from .terminal import say


def renew_topics() -> None:
    """Go on with new, empty topics after Kafka has lost its data; missing ones are created. No role may run.

    All of history is published to them again. Commands that had no outcome are lost: have them sent again, with the
    same ids. docs/backup.md has the whole procedure.
    """
    with installation(Settings.from_environment()) as settings:
        if len(settings.shards) > 1:
            raise NotRenewed(
                "Several databases cannot go on with new topics: numbers from before they were split cannot be "
                "published again by each of them. docs/backup.md says what is left to do."
            )
        prepare(settings)
        topics = Topics(settings.topic_prefix, with_partitions(settings).shard)
        outcomes = asyncio.run(renew(settings.cluster, topics, settings.database))
    say(
        f"The database goes on with {topics.commands}. Start the relay alone; once it has published {outcomes:,} "
        "outcomes again, start the other roles."
    )
