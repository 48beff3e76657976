"""`resolution erase`: texts of an order that are never to be read again; `resolution rewrap-keys`: a new master key."""

import asyncio
import json
from typing import Annotated

import typer
from pydantic import ValidationError
from resolution_contracts import CommandRejected, EraseOrderTexts
from resolution_contracts.client import Client, OutcomePending

from services.eventstore.database import connect
from services.eventstore.parking import parked_commands
from services.runtime.installation import installation, up_to_date
from services.sealing.order_keys import rewrap
from services.settings import Settings

from .terminal import say


class NotErased(Exception):
    """An erasure that did not happen: a sentence that says why and what to do."""


def erase(
    order_id: Annotated[str, typer.Argument(metavar="ORDER", help="The order's id.")],
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the outcome.")] = 30.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print machine-readable JSON on stdout.")] = False,
) -> None:
    """Erase what people wrote on an order and its confidential reasons, for good. Nothing brings them back.

    The history still replays and verifies. What lies on Kafka and in backups goes with their retention:
    docs/erasure.md says how long that is, and how to set it.
    """
    with installation(Settings.from_environment()) as settings:
        _refuse_if_parked(settings, order_id)
        events = asyncio.run(_send(settings, order_id, timeout))
    if as_json:
        say(json.dumps({"order_id": order_id, "erased": bool(events), "events": events}))
    elif events:
        say(f"{order_id}: the texts are erased, as of event {events[0]}. On Kafka they go with its retention.")
    else:
        say(f"{order_id}: there are no texts to erase.")


def _refuse_if_parked(settings: Settings, order_id: str) -> None:
    if any(_is_parked(one, order_id) for one in up_to_date(settings)):
        raise NotErased(
            f"{order_id} is parked: its commands wait with what was written in them. First `resolution parked retry "
            f"{order_id}`, or `discard`."
        )


def _is_parked(one: Settings, order_id: str) -> bool:
    with connect(one.database) as connection:
        return bool(parked_commands(connection, order_id))


async def _send(settings: Settings, order_id: str, timeout: float) -> list[int]:
    """The sequence numbers of the events that follow. Raises NotErased and KafkaError."""
    async with Client(**settings.cluster.options, source="/resolution-cli", prefix=settings.topic_prefix) as client:
        try:
            outcome = await client.send(order_id, EraseOrderTexts(), timeout=timeout)
        except ValidationError:
            raise NotErased(f"{order_id} is no order's id: that is 1-64 characters of A-Za-z0-9._-.") from None
        except OutcomePending:
            raise NotErased(
                f"{order_id}: no outcome within {timeout:g} s. Is the service running (resolution serve)? The command "
                "waits for it; to erase again does no harm."
            ) from None
    if isinstance(outcome, CommandRejected):
        raise NotErased(f"{order_id}: {outcome.message}")
    return [event.sequence for event in outcome.events if event.type.endswith("OrderTextsErased.v1")]


def rewrap_keys() -> None:
    """Wrap every order's key with the newest master key; then the older ones can go. The roles may run meanwhile.

    Restart the roles with the new master key first, so that no new key is wrapped by an older one.
    """
    with installation(Settings.from_environment(), kafka=False) as settings:
        count = 0
        for one in up_to_date(settings):
            with connect(one.database, autocommit=True) as connection:
                count += rewrap(connection, one.master_keys)
    say(f"{count:,} keys are wrapped anew. Older master keys can go, once backups that need them are gone.")
