"""The pages of one order without servers: commands are judged on the spot, by a real order."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any, ClassVar
from uuid import uuid4

import httpx
from resolution_contracts import Command
from resolution_contracts.values import format_instant

from projections import inbox, order_page
from projections.framework.paging import Page
from services.clock import Clock
from services.http.gateway import PARTY_COMMANDS, Gateway
from services.http.problems import Problem, unknown
from services.http.viewers import Gate, Viewer
from services.http.wake_ups import WakeUps
from services.orders import Order
from services.orders.evolve import evolve, evolve_all
from services.orders.guards import must_be_known
from services.orders.public_events import event_envelope
from tests.http.serving import served
from tests.support.controls import ORDER, T, registered
from tests.support.decisions import carry_out

Json = dict[str, Any]


@dataclass
class OneOrder:
    """A gateway with one order, without servers."""

    order_id: str = ORDER
    events: list[Any] = field(default_factory=list)
    outcomes: dict[str, Json] = field(default_factory=dict)
    lags: bool = False
    """Whether the read model never comes to a position."""

    clock: ClassVar[Clock] = Clock(T)

    def judge(self, command: Command, id_: str | None = None) -> str:
        """Judges a command and stores its outcome in `outcomes`. Returns the command id."""
        id_ = id_ or str(uuid4())
        order = evolve_all(Order(id=self.order_id), self.events)
        decision = carry_out(order, command, id_, T + timedelta(minutes=len(self.events)))
        if (rejected := decision.rejection) is not None:
            data = {"code": rejected.code, "message": rejected.message, "details": rejected.details}
        else:
            new = [event_envelope(event) for event in decision.events]
            data = {"events": [{"type": event["type"], "sequence": event["sequence"]} for event in new]}
        self.events += decision.events
        self.outcomes[id_] = {"data": data}
        return id_

    async def order(self, viewer: Viewer, order_id: str) -> Json:
        page = order_page.Page(Order(id=self.order_id))
        for event in self.events:
            evolve(page.order, event)
            order_page.show(page, event)
        facts = must_be_known(page.order)
        if order_id != self.order_id or viewer.user not in (facts.client_id, facts.freelancer_id):
            raise unknown("order")
        return order_page.view(page, self.events, viewer.party, T + timedelta(minutes=len(self.events)))

    async def must_see(self, viewer: Viewer, order_id: str) -> None:
        await self.order(viewer, order_id)

    async def orders(self, viewer: Viewer, after: object = None, limit: int = 0) -> Page:
        page = await self.order(viewer, self.order_id)
        return Page([page], 1, 0, None)

    async def inbox(self, viewer: Viewer, after: object = None, limit: int = 0) -> inbox.View:
        page = await self.order(viewer, self.order_id)
        dispute, lists = page["open_dispute"], {name: Page([], 0, 0, None) for name in inbox.LISTS}
        if dispute:
            mine = dispute["opened_by"] == page["viewer"]
            line = dispute | {"order_id": self.order_id, "other_party": page[f"{dispute['opened_by']}_id"]}
            lists["awaiting_answer" if mine else "to_answer"] = Page([line], 1, 0, None)
        return inbox.View(viewer.user, format_instant(T), lists)

    async def version(self, order_id: str) -> int:
        return len(self.events)

    ticks = Gateway.ticks
    wake_ups: ClassVar[WakeUps] = WakeUps([])

    async def versions(self, *_: object) -> list[Any]:
        return [[(self.order_id, len(self.events))]]

    async def history(self, viewer: Viewer, order_id: str, after: int, limit: int) -> list[Json]:
        return [event_envelope(event) for event in self.events[after : after + limit]]

    async def outcome(self, viewer: Viewer, order_id: str, command_id: str) -> Json:
        if command_id not in self.outcomes:
            raise unknown("command on this order")
        return self.outcomes[command_id]

    async def caught_up(self, read_model: str, position: int) -> None:
        if self.lags:
            raise Problem(409, f"{read_model} has not reached position {position} yet; ask again.")

    async def send(
        self, viewer: Viewer, order_id: str, name: str, data: Json, *, id: str | None, **_: object
    ) -> tuple[str, Json]:
        command = PARTY_COMMANDS[name].model_validate(data | {"actor": viewer.user}, strict=False)
        sent = self.judge(command, id)
        return sent, self.outcomes[sent] | {"position": len(self.events)}


@asynccontextmanager
async def pages_of(gateway: OneOrder, user: str, gate: Gate | None = None) -> AsyncIterator[httpx.AsyncClient]:
    """A browser without JavaScript, in which `user` has logged in. The order is registered first."""
    if not gateway.events:
        gateway.judge(registered())
    async with (
        served(gateway, gate) as url,
        httpx.AsyncClient(base_url=url, headers={"Accept": "text/html"}, follow_redirects=True) as client,
    ):
        await client.post("/login", data={"user": user})
        yield client
