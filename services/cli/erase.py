"""`resolution erase` destroys the texts of an order; `resolution rewrap-keys` introduces a new master key."""

import asyncio
import json
from typing import Annotated

import typer
from pydantic import ValidationError
from resolution_contracts import CommandRejected, EraseOrderTexts
from resolution_contracts.client import Client, OutcomePending

from services.eventstore.database import connect
from services.eventstore.parking import parked_commands
from services.failures import Failure
from services.kafka.topics import Topics, require_topics
from services.runtime.installation import installation, up_to_date
from services.sealing.order_keys import rewrap
from services.settings import Settings

from .terminal import say


class NotErased(Failure):
    """An order's texts were not erased. The message says why and what to do."""


def erase(
    order_id: Annotated[str, typer.Argument(metavar="ORDER", help="The order's id.")],
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the outcome.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print machine-readable JSON on stdout.")] = False,
) -> None:
    """Erase what people wrote on an order, and its confidential reasons. This cannot be undone.

    Replay and verification still work. Kafka and backups keep their copies until their retention ends: docs/erasure.md
    says how long that is, and how to set it.
    """
    with installation(Settings.from_environment()) as settings:
        _refuse_if_parked(settings, order_id)
        events = asyncio.run(_send(settings, order_id, timeout))
    if as_json:
        say(json.dumps({"order_id": order_id, "erased": bool(events), "events": events}))
    elif events:
        say(f"{order_id}: the texts were erased by event {events[0]}. Copies on Kafka stay until their retention ends.")
    else:
        say(f"{order_id}: there are no texts to erase.")


def _refuse_if_parked(settings: Settings, order_id: str) -> None:
    if any(_is_parked(shard, order_id) for shard in up_to_date(settings)):
        raise NotErased(
            f"{order_id} is parked, and its waiting commands contain texts. First run `resolution parked retry "
            f"{order_id}`, or `discard`."
        )


def _is_parked(settings: Settings, order_id: str) -> bool:
    with connect(settings.database) as connection:
        return bool(parked_commands(connection, order_id))


async def _send(settings: Settings, order_id: str, timeout: float) -> list[int]:
    """Sends the command. Returns the sequences of its events. Raises NotErased, TopicError and KafkaError."""
    topics = Topics(settings.topic_prefix)
    await require_topics(settings.cluster, topics.commands, topics.outcomes)
    async with Client(**settings.cluster.options, source="/resolution-cli", prefix=settings.topic_prefix) as client:
        try:
            outcome = await client.send(order_id, EraseOrderTexts(), timeout=timeout)
        except ValidationError:
            raise NotErased(f"{order_id} cannot be an order's id. Ids have 1-64 characters of A-Za-z0-9._-.") from None
        except OutcomePending:
            raise NotErased(
                f"{order_id}: no outcome within {timeout:g} s. Is the service running (resolution serve)? The command "
                "waits for it. It does no harm to erase again."
            ) from None
    if isinstance(outcome, CommandRejected):
        raise NotErased(f"{order_id}: {outcome.message}")
    return [event.sequence for event in outcome.events if event.type.endswith("OrderTextsErased.v1")]


def rewrap_keys() -> None:
    """Wrap every order's key with the newest master key, so that the older ones can go. The roles may run meanwhile.

    Restart the roles with the new master key first, so that they wrap no more keys with an older one.
    """
    with installation(Settings.from_environment(), kafka=False) as settings:
        count = 0
        for shard in up_to_date(settings):
            with connect(shard.database, autocommit=True) as connection:
                count += rewrap(connection, shard.master_keys)
    say(f"{count:,} keys were wrapped again. Older master keys can go once the backups that need them are gone.")
