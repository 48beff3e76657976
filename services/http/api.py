"""The API: what a program asks. Everything a page shows comes from here too."""

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

from .gateway import PARTY_COMMANDS, Desk, Json
from .order_ids import OrderId, in_address
from .problems import Problem, documented
from .request_bodies import json_of
from .viewers import Viewer

router = APIRouter(prefix="/api", tags=["api"], responses=documented(400, 401, 403, 404, 405, 409, 413, 422, 503))
_UNCHANGED: dict[int | str, dict[str, Any]] = {304: {"description": "What If-None-Match named is still so."}}

_UUID = f"^{COMMAND_ID}$"
CommandId = Annotated[str, Path(pattern=_UUID)]
Key = Annotated[str | None, Header(pattern=_UUID)]
After = Annotated[int | None, Query(ge=0, le=2**62, description="Wait until the read model has come to this position.")]
ListCursor = Annotated[str | None, Query(pattern=CURSOR, description="`next` of the page before.")]
_PAGE = 100
_MOVING = {"now", "seconds_left"}


# FastAPI calls what is not async in a thread, which takes longer than these do.
async def desk_of(request: Request) -> Desk:
    """What the requests of this process share."""
    desk: Desk = request.app.state.desk
    return desk


async def viewer_of(request: Request) -> Viewer:
    """Who sends a request. Raises Problem."""
    viewer: Viewer = await request.app.state.gate.viewer(request)
    return viewer


ADesk = Annotated[Desk, Depends(desk_of)]
AViewer = Annotated[Viewer, Depends(viewer_of)]


_EXAMPLE: Any = {
    "order_id": "order-1",
    "command": "OpenDispute",
    "data": {"request": {"kind": "order_update", "message": "How is it going?"}},
}


class CommandRequest(BaseModel):
    """A command of the viewer; `actor` is filled in."""

    model_config = ConfigDict(extra="forbid", json_schema_extra={"examples": [_EXAMPLE]})

    order_id: str = Field(pattern=f"^{ORDER_ID}$")
    command: str = Field(json_schema_extra={"enum": list(PARTY_COMMANDS)})
    data: dict[str, Any] = {}


_SCHEMA = CommandRequest.model_json_schema()


async def command_of(request: Request) -> CommandRequest:
    """The command in a request's body. Raises Problem (400, 415), RequestValidationError."""
    try:
        return CommandRequest.model_validate(await json_of(request))
    except ValidationError as error:
        raise RequestValidationError([{**one, "loc": ("body", *one["loc"])} for one in error.errors()]) from None


@router.get("/orders", responses=_UNCHANGED)
async def orders(
    desk: ADesk, viewer: AViewer, request: Request, after: After = None, cursor: ListCursor = None
) -> Response:
    """A page of the viewer's orders, the ones that something happened to last first; `total` counts all of them.

    `next` is the cursor of the next page, null on the last.
    """
    if after is not None:
        await desk.caught_up("order_page", after)
    page = await desk.orders(viewer, cursor_of(cursor))
    return _with_etag(request, {"orders": page.lines, "total": page.total, "next": page.next})


@router.get("/orders/{order_id}", responses=_UNCHANGED)
async def order(desk: ADesk, viewer: AViewer, request: Request, order_id: OrderId, after: After = None) -> Response:
    """The order page, with the actions open to the viewer: limits, JSON Schema, and the command to send."""
    if after is not None:
        await desk.caught_up("order_page", after)
    page = await desk.order(viewer, order_id)
    root = request.scope["root_path"]
    for actions in page["available_actions"].values():
        for action in actions:
            action["schema"] = f"{root}/api/schemas/{action['command']}"
            action["send"] = {"order_id": order_id, "command": action["command"], "data": _begun(action)}
    return _with_etag(request, page)


@router.get("/orders/{order_id}/history")
async def history(
    desk: ADesk,
    viewer: AViewer,
    order_id: OrderId,
    cursor: Annotated[int, Query(ge=0, le=2**62, description="The sequence to go on behind.")] = 0,
    limit: Annotated[int, Query(ge=1, le=_PAGE)] = _PAGE,
) -> dict[str, Any]:
    """The order's public events in order; `next` is the cursor of the next page, null on the last."""
    events = await desk.history(viewer, order_id, cursor, limit)
    return {"events": events, "next": events[-1]["sequence"] if len(events) == limit else None}


@router.get("/orders/{order_id}/commands/{command_id}")
async def outcome(desk: ADesk, viewer: AViewer, order_id: OrderId, command_id: CommandId) -> dict[str, Any]:
    """What became of a command; 404 while that is not known."""
    return await desk.outcome(viewer, order_id, command_id)


@router.get("/inbox", responses=_UNCHANGED)
async def inbox(
    desk: ADesk,
    viewer: AViewer,
    request: Request,
    after: After = None,
    to_answer: ListCursor = None,
    awaiting_answer: ListCursor = None,
) -> Response:
    """A page of what waits for the viewer's answer, soonest deadline first, and one of what the viewer waits for.

    `totals` counts all of each. `next` has the cursors of the next pages, null on the last: each is for the parameter
    of its name.
    """
    if after is not None:
        await desk.caught_up("inbox", after)
    begins = {"to_answer": cursor_of(to_answer), "awaiting_answer": cursor_of(awaiting_answer)}
    return _with_etag(request, (await desk.inbox(viewer, begins)).as_json())


@router.get("/metrics", responses=_UNCHANGED)
async def metrics(desk: ADesk, viewer: AViewer, request: Request, after: After = None) -> Response:
    """The viewer's metrics, as client and as freelancer."""
    if after is not None:
        await desk.caught_up("metrics", after)
    return _with_etag(request, await desk.metrics(viewer))


@router.get("/overview", responses=_UNCHANGED)
async def overview(desk: ADesk, viewer: AViewer, request: Request) -> Response:
    """Operators only: open disputes, deadlines ahead, how each day's disputes ended."""
    if not viewer.operator:
        raise Problem(403, "Operators only.")
    return _with_etag(request, await desk.overview())


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
    desk: ADesk,
    viewer: AViewer,
    body: Annotated[CommandRequest, Depends(command_of)],
    request: Request,
    idempotency_key: Key = None,
    prefer: Annotated[str | None, Header(max_length=100)] = None,
) -> JSONResponse:
    """Publishes a command, and answers once Kafka has it (202). With `Prefer: wait=5` the whole takes 5 s at most, and
    the answer is the outcome (200) where that comes in time.

    `Idempotency-Key` is the command id: sent again, it changes nothing and gives the first outcome. After a 503 send it
    again so, with `command_id` for the key: the command may have arrived, or may still arrive.
    """
    command_id, found = await desk.send(
        viewer,
        body.order_id,
        body.command,
        body.data,
        id=idempotency_key,
        wait=_seconds(prefer),
        traceparent=traces.valid(request.headers.get(traces.TRACEPARENT)),
    )
    where = {"Location": f"/api/orders/{in_address(body.order_id)}/commands/{command_id}"}
    if found is None:
        return JSONResponse({"command_id": command_id}, 202, where)
    return JSONResponse(found, 200, where | {"Preference-Applied": "wait"})


@router.get("/orders/{order_id}/live", response_class=EventSourceResponse)
async def live_order(
    desk: ADesk,
    viewer: AViewer,
    order_id: OrderId,
    last_event_id: Annotated[str | None, Header(pattern=r"^\d{1,18}$")] = None,
) -> EventSourceResponse:
    """The order's public events as they come (server-sent events), from the one behind `Last-Event-ID` on.

    The stream ends when the token does.
    """
    page = await desk.order(viewer, order_id)
    start = int(last_event_id) if last_event_id is not None else page["version"]
    return stream_of(_follow(desk, viewer, order_id, start))


@router.get("/inbox/live", response_class=EventSourceResponse)
async def live_inbox(
    desk: ADesk,
    viewer: AViewer,
    last_event_id: Annotated[str | None, Header(max_length=64)] = None,
) -> EventSourceResponse:
    """The inbox whenever it changes (server-sent events); the id names its content, so nothing is told twice.

    The stream ends when the token does.
    """
    return stream_of(_follow_inbox(desk, viewer, last_event_id))


async def _follow(desk: Desk, viewer: Viewer, order_id: str, sequence: int) -> AsyncIterator[ServerSentEvent]:
    async for _ in desk.beats(viewer):
        for event in await desk.history(viewer, order_id, sequence, _PAGE):
            sequence = event["sequence"]
            await desk.shown(order_id, sequence)
            yield ServerSentEvent(json.dumps(event), event="changed", id=str(sequence))


async def _follow_inbox(desk: Desk, viewer: Viewer, known: str | None) -> AsyncIterator[ServerSentEvent]:
    async for _ in desk.beats(viewer):
        inbox = (await desk.inbox(viewer)).as_json()
        if (now := digest(inbox)) != known:
            known = now
            yield ServerSentEvent(json.dumps(inbox), event="changed", id=now)


def stream_of(events: AsyncIterator[ServerSentEvent]) -> EventSourceResponse:
    """The events as an answer. It ends when the database is away; whoever reads it connects again."""

    async def until_away() -> AsyncIterator[ServerSentEvent]:
        with suppress(Problem):
            async for event in events:
                yield event

    return EventSourceResponse(until_away(), ping=15)


def cursor_of(text: str | None) -> Cursor | None:
    """The page cursor in a query, or None if it has none."""
    return None if text is None else Cursor.parse(text)


def _begun(action: Json) -> Json:
    """What of the command's data is settled already."""
    needs = action["needs"]
    if action["command"] == "OpenDispute":
        return {"request": {"kind": action["kind"]}}
    return {"dispute_id": needs["dispute_id"]} if "dispute_id" in needs else {}


def _with_etag(request: Request, body: Json) -> Response:
    """The answer, or 304 where the client has it. The running clock alone does not make it another one."""
    etag = f'W/"{digest(body)}"'
    headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
    known = [tag.strip() for tag in request.headers.get("if-none-match", "").split(",")]
    if etag in known or "*" in known:
        return Response(status_code=304, headers=headers)
    return JSONResponse(body, headers=headers)


def digest(body: Any) -> str:
    """Names the content of an answer. The running clock alone does not change it."""
    return hashlib.sha256(json.dumps(_still(body), sort_keys=True).encode()).hexdigest()[:24]


def _still(body: Any) -> Any:
    if isinstance(body, dict):
        return {name: _still(value) for name, value in body.items() if name not in _MOVING}
    return [_still(value) for value in body] if isinstance(body, list) else body


def _seconds(prefer: str | None) -> float | None:
    for preference in (prefer or "").split(","):
        name, _, value = preference.partition(";")[0].partition("=")  # RFC 7240: parameters, quotes, any letter case
        value = value.strip().strip('"')
        if name.strip().lower() == "wait" and value.isdecimal():
            return float(min(int(value), 30))
    return None
