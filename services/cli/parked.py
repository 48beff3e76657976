"""`resolution parked`: orders on which our own code failed, and what an operator does about them."""

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

from .terminal import facts, say, short, table

app = typer.Typer(
    help="Orders on which the service's own code failed. Their commands wait in order; everything else goes on.",
    no_args_is_help=True,
)
OrderId = Annotated[str, typer.Argument(help="The order's id.")]
_LABELS = {"command_id": "command id", "why": "where our code failed"}
AsJson = Annotated[bool, typer.Option("--json", help="Print machine-readable JSON lines on stdout.")]


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """The parked orders, the one that has waited longest first."""
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
            ((one["order_id"], one["commands"], short(str(one["since"])), one["why"]) for one in orders),
            fold=("order", "where our code failed"),
        )


@app.command()
def show(order_id: OrderId, as_json: AsJson = False) -> None:
    """An order's parked commands, in order. The first one failed; the others wait behind it."""
    with _shards() as shards:
        commands = [_describe(command) for one in shards for command in _commands(one, order_id)]
    if not commands:
        raise NotParked(f"No command of order {order_id} is parked.")
    for number, command in enumerate(commands):
        if as_json:
            say(json.dumps(command))
        else:
            say(*[""] if number else [])
            facts((_LABELS.get(name, name), value) for name, value in command.items())


@app.command()
def retry(
    order_id: Annotated[str | None, typer.Argument(help="The order's id; or use --all.")] = None,
    every: Annotated[bool, typer.Option("--all", help="Retry every parked order.")] = False,
) -> None:
    """Judge the parked commands again, with their own business times, after the cause was mended."""
    if (order_id is None) is not every:
        raise typer.BadParameter("name one order, or say --all")
    with _shards() as shards:
        ids = [order_id] if order_id else [order["order_id"] for one in shards for order in _parked(one)]
        results = {name: _with(shards, name, ParkedOrders.retry) for name in ids}
    _tell(results)


@app.command()
def discard(
    order_id: OrderId,
    reason: Annotated[str, typer.Option(help="Why; it goes with the command to the dead letters.")],
) -> None:
    """Give up on the command that failed: it becomes a dead letter, and the ones behind it are judged."""
    with _shards() as shards:
        _tell({order_id: _with(shards, order_id, partial(ParkedOrders.discard, reason=reason))})


@contextmanager
def _shards() -> Iterator[list[Settings]]:
    with installation(Settings.from_environment(), kafka=False) as settings:
        yield up_to_date(settings)


def _parked(one: Settings) -> list[dict[str, Any]]:
    with connect(one.database) as connection:
        return parked_orders(connection)


def _commands(one: Settings, order_id: str) -> list[ParkedCommand]:
    with connect(one.database) as connection:
        return parked_commands(connection, order_id)


def _with(shards: Sequence[Settings], order_id: str, act: Callable[[ParkedOrders, str], str]) -> str:
    """Acts on an order where it is parked, if anywhere."""
    one = next((one for one in shards if _commands(one, order_id)), shards[0])
    with OrderStore(one.database, one.master_keys) as store:
        return act(ParkedOrders(store, Topics(one.topic_prefix).commands, clock_of(one).of_record), order_id)


def _tell(results: dict[str, str]) -> None:
    for order_id, failed in results.items():
        say(f"{order_id}: " + (f"stays parked: {failed}" if failed else "goes on"))
    if any(results.values()):
        raise typer.Exit(1)


def _describe(command: ParkedCommand) -> dict[str, Any]:
    """Without the command's data, which may hold a confidential reason (D16); it is in the log at that offset."""
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
