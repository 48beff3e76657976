"""`resolution order`: shows an order page."""

import json
from typing import Annotated

import psycopg
import typer

from projections import order_page
from services.eventstore.database import connect
from services.failures import Failure
from services.runtime.installation import clock_of, installation, shard_of
from services.settings import Settings

from . import show
from .options import AsJson
from .terminal import Terminal, say


def order(
    order_id: Annotated[str, typer.Argument(help="The order's id.")],
    viewer: Annotated[str | None, typer.Option("--as", help="The id of the client or freelancer who looks.")] = None,
    as_json: AsJson = False,
) -> None:
    """Show the order page, with the actions that are available now to the viewer, or to both parties without --as."""
    with installation(Settings.from_environment(), kafka=False) as settings:
        shard = shard_of(settings, order_id)
        with connect(shard.database) as connection:
            try:
                page = order_page.look(connection, shard.master_keys, order_id, viewer, clock_of(shard).now())
            except (order_page.NotAParty, psycopg.errors.UndefinedTable):
                page = None
    if page is None:
        # The answer is the same for an order that does not exist and for other people's, so a stranger learns nothing.
        raise Failure(f"There is no order {order_id}" + (f" of {viewer}." if viewer else "."))
    say(json.dumps(page)) if as_json else show.order(Terminal(), page)
