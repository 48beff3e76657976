"""`resolution parked`: shows and frees parked orders, on which our own code failed."""

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from itertools import chain
from typing import Annotated, Any

import typer

from services.commands.parked_orders import NotParked, ParkedOrders
from services.eventstore.application import OrderStore
from services.eventstore.database import connect
from services.eventstore.parking import parked_commands, parked_orders
from services.judging.outcomes import ParkedCommand
from services.kafka.topics import Topics
from services.runtime.installation import clock_of, installation, up_to_date
from services.settings import Settings

from .options import AsJson
from .reasons import require_reason
from .terminal import facts, say, short, table

app = typer.Typer(
    help="Parked orders: the service's own code failed on them. Their commands wait; all other orders work.",
    no_args_is_help=True,
)
OrderId = Annotated[str, typer.Argument(help="The order's id.")]
_LABELS = {"command_id": "command id", "why": "where our code failed"}


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """List the parked orders, longest-waiting first."""
    with _shards() as shards:
        orders = sorted(chain.from_iterable(map(_parked, shards)), key=lambda order: order["since"])
    if as_json:
        for order in orders:
            say(json.dumps(order, default=str))
    elif not orders:
        say("No order is parked.")
    else:
        table(
            ("order", "commands", "since", "where our code failed"),
            ((order["order_id"], order["commands"], short(str(order["since"])), order["why"]) for order in orders),
            fold=("order", "where our code failed"),
        )


@app.command()
def show(order_id: OrderId, as_json: AsJson = False) -> None:
    """Show an order's parked commands, in their order. The first one failed, and the others wait."""
    with _shards() as shards:
        commands = [_describe(command) for shard in shards for command in _commands(shard, order_id)]
    if not commands:
        raise NotParked(f"No command of order {order_id} is parked.")
    for number, command in enumerate(commands):
        if as_json:
            say(json.dumps(command))
        else:
            say(*[""] if number else [])
            facts((_LABELS.get(name, name), value) for name, value in command.items() if value or name != "why")


@app.command()
def retry(
    order_id: Annotated[str | None, typer.Argument(help="The order's id; or use --all.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Retry every parked order.")] = False,
) -> None:
    """Judge the parked commands again, at their own business times. Run this once the bug is fixed."""
    if (order_id is None) is not every:
        raise typer.BadParameter("name one order, or say --all")
    with _shards() as shards:
        ids = [order_id] if order_id else [order["order_id"] for shard in shards for order in _parked(shard)]
        results = {name: _act(shards, name, ParkedOrders.retry) for name in ids}
    if not results:
        say("No order is parked.")
    _print_results(results)


@app.command()
def discard(
    order_id: OrderId,
    reason: Annotated[str, typer.Option(help="Why. Published with the dead letter.", callback=require_reason)],
) -> None:
    """Turn the command that failed into a dead letter, and judge the commands after it."""
    with _shards() as shards:
        _print_results({order_id: _act(shards, order_id, partial(ParkedOrders.discard, reason=reason))})


@contextmanager
def _shards() -> Iterator[list[Settings]]:
    with installation(Settings.from_environment(), kafka=False) as settings:
        yield up_to_date(settings)


def _parked(settings: Settings) -> list[dict[str, Any]]:
    with connect(settings.database) as connection:
        return parked_orders(connection)


def _commands(settings: Settings, order_id: str) -> list[ParkedCommand]:
    with connect(settings.database) as connection:
        return parked_commands(connection, order_id)


def _act(shards: Sequence[Settings], order_id: str, action: Callable[[ParkedOrders, str], str]) -> str:
    """Calls `action` for an order in the shard where it is parked. Returns what `action` does."""
    shard = next((shard for shard in shards if _commands(shard, order_id)), shards[0])
    with OrderStore(shard.database, shard.master_keys) as store:
        return action(ParkedOrders(store, Topics(shard.topic_prefix).commands, clock_of(shard).of_record), order_id)


def _print_results(results: dict[str, str]) -> None:
    for order_id, failed in results.items():
        say(f"{order_id}: " + (f"stays parked: {failed}" if failed else "is free again"))
    if any(results.values()):
        raise typer.Exit(1)


def _describe(command: ParkedCommand) -> dict[str, Any]:
    """Describes a command without its data, which may be confidential (D16). The topic has the data at the offset."""
    try:
        envelope = json.loads(command.value or b"{}")
    except (ValueError, RecursionError):
        envelope = None
    if not isinstance(envelope, dict):
        envelope = {}
    return {
        "partition": command.partition,
        "offset": command.record_offset,
        "recorded": datetime.fromtimestamp(command.record_time / 1000, UTC).isoformat(timespec="milliseconds"),
        "command_id": command.command_id,
        "type": str(envelope.get("type", "")),
        "sender": str(envelope.get("source", "")),
        "why": command.why,
    }
