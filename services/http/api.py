"""The HTTP API for programs. It returns everything that the pages show."""

import hashlib
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from resolution_contracts.commands import COMMANDS
from resolution_contracts.values import COMMAND_ID, ORDER_ID
from sse_starlette import EventSourceResponse, ServerSentEvent

from projections.framework.paging import CURSOR, Cursor
from services.telemetry import traces

from .gateway import PARTY_COMMANDS, Gateway, Json
from .order_ids import OrderId, in_address
from .problems import Problem, documented
from .request_bodies import json_of
from .viewers import Viewer

router = APIRouter(prefix="/api", tags=["api"], responses=documented(400, 401, 403, 404, 405, 409, 413, 422, 503))
_UNCHANGED: dict[int | str, dict[str, Any]] = {
    304: {"description": "Nothing has changed since the ETag in If-None-Match."}
}

_UUID = f"^{COMMAND_ID}$"
CommandId = Annotated[str, Path(pattern=_UUID)]
Key = Annotated[str | None, Header(pattern=_UUID)]
After = Annotated[int | None, Query(ge=0, le=2**62, description="Wait until the read model has reached this position.")]
ListCursor = Annotated[str | None, Query(pattern=CURSOR, description="`next` of the page before.")]
_PAGE = 100
_CLOCK_FIELDS = {"now", "seconds_left"}


# async, because FastAPI runs other functions in a thread, which takes longer than these functions do.
async def gateway_of(request: Request) -> Gateway:
    """Returns the gateway, which all requests of this process share."""
    gateway: Gateway = request.app.state.gateway
    return gateway


async def viewer_of(request: Request) -> Viewer:
    """Returns who sent the request. Raises Problem."""
    viewer: Viewer = await request.app.state.gate.viewer(request)
    return viewer


AGateway = Annotated[Gateway, Depends(gateway_of)]
AViewer = Annotated[Viewer, Depends(viewer_of)]


_EXAMPLE: Any = {
    "order_id": "order-1",
    "command": "OpenDispute",
    "data": {"request": {"kind": "order_update", "message": "How is it going?"}},
}


class CommandRequest(BaseModel):
    """A command of the viewer. The service fills in `actor`."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    order_id: str = Field(pattern=f"^{ORDER_ID}$")
    command: str = Field(json_schema_extra={"enum": list(PARTY_COMMANDS)})
    data: dict[str, Any] = {}


_SCHEMA = CommandRequest.model_json_schema()


async def command_of(request: Request) -> CommandRequest:
    """Reads the command in a request's body. Raises Problem (400, 415), RequestValidationError."""
    try:
        return CommandRequest.model_validate(await json_of(request))
    except ValidationError as error:
        details = [{**detail, "loc": ("body", *detail["loc"])} for detail in error.errors()]
        raise RequestValidationError(details) from None


@router.get("/orders", responses=_UNCHANGED)
async def orders(
    gateway: AGateway, viewer: AViewer, request: Request, after: After = None, cursor: ListCursor = None
) -> Response:
    """A page of the viewer's orders, the most recently changed first. `total` counts all of the viewer's orders.

    `next` is the cursor of the next page, null on the last page.
    """
    if after is not None:
        await gateway.caught_up("order_page", after)
    page = await gateway.orders(viewer, cursor_of(cursor))
    return _with_etag(request, {"orders": page.lines, "total": page.total, "next": page.next})


@router.get("/orders/{order_id}", responses=_UNCHANGED)
async def order(
    gateway: AGateway, viewer: AViewer, request: Request, order_id: OrderId, after: After = None
) -> Response:
    """The order page. Each action open to the viewer has its limits, its JSON Schema and the command to send."""
    if after is not None:
        await gateway.caught_up("order_page", after)
    page = await gateway.order(viewer, order_id)
    root = request.scope["root_path"]
    for actions in page["available_actions"].values():
        for action in actions:
            action["schema"] = f"{root}/api/schemas/{action['command']}"
            action["send"] = {"order_id": order_id, "command": action["command"], "data": _known_data(action)}
    return _with_etag(request, page)


@router.get("/orders/{order_id}/history")
async def history(
    gateway: AGateway,
    viewer: AViewer,
    order_id: OrderId,
    cursor: Annotated[int, Query(ge=0, le=2**62, description="Return events after this sequence.")] = 0,
    limit: Annotated[int, Query(ge=1, le=_PAGE)] = _PAGE,
) -> dict[str, Any]:
    """The order's public events, oldest first. `next` is the cursor of the next page, null on the last page."""
    events = await gateway.history(viewer, order_id, cursor, limit)
    return {"events": events, "next": events[-1]["sequence"] if len(events) == limit else None}


@router.get("/orders/{order_id}/commands/{command_id}")
async def outcome(gateway: AGateway, viewer: AViewer, order_id: OrderId, command_id: CommandId) -> dict[str, Any]:
    """The outcome of a command. 404 until it is known."""
    return await gateway.outcome(viewer, order_id, command_id)


@router.get("/inbox", responses=_UNCHANGED)
async def inbox(
    gateway: AGateway,
    viewer: AViewer,
    request: Request,
    after: After = None,
    to_answer: ListCursor = None,
    awaiting_answer: ListCursor = None,
) -> Response:
    """Two lists: requests that the viewer has to answer, and the viewer's own requests. Soonest deadline first.

    `totals` has the length of each whole list. `next` has for each list the cursor of its next page, null on the last
    page. Send it as the parameter of the same name.
    """
    if after is not None:
        await gateway.caught_up("inbox", after)
    begins = {"to_answer": cursor_of(to_answer), "awaiting_answer": cursor_of(awaiting_answer)}
    return _with_etag(request, (await gateway.inbox(viewer, begins)).as_json())


@router.get("/metrics", responses=_UNCHANGED)
async def metrics(gateway: AGateway, viewer: AViewer, request: Request, after: After = None) -> Response:
    """The viewer's metrics, as client and as freelancer."""
    if after is not None:
        await gateway.caught_up("metrics", after)
    return _with_etag(request, await gateway.metrics(viewer))


@router.get("/overview", responses=_UNCHANGED)
async def overview(gateway: AGateway, viewer: AViewer, request: Request) -> Response:
    """For operators: open disputes, coming deadlines, and how each day's disputes ended."""
    if not viewer.operator:
        raise Problem(403, "Operators only.")
    return _with_etag(request, await gateway.overview())


@router.get("/schemas/{command}")
async def schema(command: Annotated[str, Path(max_length=40)]) -> dict[str, Any]:
    """The JSON Schema of a command's data."""
    if command not in COMMANDS:
        raise Problem(404, f"There is no command {command}; there are {', '.join(COMMANDS)}.")
    return COMMANDS[command].model_json_schema()


@router.post(
    "/commands",
    status_code=202,
    responses={200: {"description": "The outcome."}, **documented(408, 415)},
    openapi_extra={"requestBody": {"required": True, "content": {"application/json": {"schema": _SCHEMA}}}},
)
async def send(
    gateway: AGateway,
    viewer: AViewer,
    body: Annotated[CommandRequest, Depends(command_of)],
    request: Request,
    idempotency_key: Key = None,
    prefer: Annotated[str | None, Header(max_length=100)] = None,
) -> JSONResponse:
    """Publishes a command, and answers once Kafka has it (202). With `Prefer: wait=5`, waits for the outcome and
    returns it (200) if it comes within 5 s.

    `Idempotency-Key` is the command id. Sending a command again under its id changes nothing and returns the first
    outcome. After a 503 the command may have arrived, or may still arrive: send it again with the answer's
    `command_id` as the key.
    """
    command_id, outcome = await gateway.send(
        viewer,
        body.order_id,
        body.command,
        body.data,
        id=idempotency_key,
        wait=_seconds(prefer),
        traceparent=traces.valid(request.headers.get(traces.TRACEPARENT)),
    )
    where = {"Location": f"/api/orders/{in_address(body.order_id)}/commands/{command_id}"}
    if outcome is None:
        return JSONResponse({"command_id": command_id}, 202, where)
    return JSONResponse(outcome, 200, where | {"Preference-Applied": "wait"})


@router.get("/orders/{order_id}/live", response_class=EventSourceResponse)
async def live_order(
    gateway: AGateway,
    viewer: AViewer,
    order_id: OrderId,
    last_event_id: Annotated[str | None, Header(pattern=r"^\d{1,18}$")] = None,
) -> EventSourceResponse:
    """The order's new public events (server-sent events), starting after `Last-Event-ID`.

    The stream ends when the token expires.
    """
    page = await gateway.order(viewer, order_id)
    start = int(last_event_id) if last_event_id is not None else page["version"]
    return stream_of(_follow(gateway, viewer, order_id, start))


@router.get("/inbox/live", response_class=EventSourceResponse)
async def live_inbox(
    gateway: AGateway,
    viewer: AViewer,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> EventSourceResponse:
    """The inbox, whenever it changes (server-sent events). The id names the content: send it as `Last-Event-ID` to
    receive only later changes.

    The stream ends when the token expires.
    """
    return stream_of(_follow_inbox(gateway, viewer, last_event_id))


async def _follow(gateway: Gateway, viewer: Viewer, order_id: str, sequence: int) -> AsyncIterator[ServerSentEvent]:
    async for _ in gateway.ticks(viewer):
        for event in await gateway.history(viewer, order_id, sequence, _PAGE):
            sequence = event["sequence"]
            await gateway.shown(order_id, sequence)
            yield ServerSentEvent(json.dumps(event), event="changed", id=str(sequence))


async def _follow_inbox(gateway: Gateway, viewer: Viewer, known: str | None) -> AsyncIterator[ServerSentEvent]:
    async for _ in gateway.ticks(viewer):
        inbox = (await gateway.inbox(viewer)).as_json()
        if (now := digest(inbox)) != known:
            known = now
            yield ServerSentEvent(json.dumps(inbox), event="changed", id=now)


def stream_of(events: AsyncIterator[ServerSentEvent]) -> EventSourceResponse:
    """Returns the events as a response. It ends if the database stops answering; the client then connects again."""

    async def until_problem() -> AsyncIterator[ServerSentEvent]:
        with suppress(Problem):
            async for event in events:
                yield event

    return EventSourceResponse(until_problem(), ping=15)


def cursor_of(text: str | None) -> Cursor | None:
    """Returns the page cursor in a query, or None without one."""
    return None if text is None else Cursor.parse(text)


def _known_data(action: Json) -> Json:
    """Returns the part of the command's data that follows from the action."""
    needs = action["needs"]
    if action["command"] == "OpenDispute":
        return {"request": {"kind": action["kind"]}}
    return {"dispute_id": needs["dispute_id"]} if "dispute_id" in needs else {}


def _with_etag(request: Request, body: Json) -> Response:
    """Returns the response, or 304 if the client has it already. Fields that only follow the clock do not count."""
    etag = f'W/"{digest(body)}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return JSONResponse(body, headers=headers)


def digest(body: Any) -> str:
    """Returns a hash of a response's content, without the fields that only follow the clock."""
    return hashlib.sha256(json.dumps(_without_clock(body), sort_keys=True).encode()).hexdigest()[:24]


def _without_clock(body: Any) -> Any:
    if isinstance(body, dict):
        return {name: _without_clock(value) for name, value in body.items() if name not in _CLOCK_FIELDS}
    return [_without_clock(value) for value in body] if isinstance(body, list) else body


def _seconds(prefer: str | None) -> float | None:
    for preference in (prefer or "").split(","):
        name, _, value = preference.partition(";")[0].partition("=")  # RFC 7240: parameters, quotes, any letter case
        value = value.strip().strip('"')
        if name.strip().lower() == "wait" and value.isdecimal():
            return float(min(int(value), 30))
    return None
