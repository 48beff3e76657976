"""The pages: what the parties and the operators look at. They work without JavaScript."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any
from uuid import uuid4

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates

from services.money import decimal_text, money_text, read_money

from .api import ADesk, OrderId, desk_of
from .bodies import fields_of
from .desk import Json
from .problems import Problem
from .public_path import UnderPublicPath
from .same_site import same_site
from .who import COOKIE, Viewer, is_user_id

router = APIRouter(include_in_schema=False)
_templates = Jinja2Templates(Path(__file__).with_name("templates"))
_templates.env.template_class = UnderPublicPath
_WAIT_SECONDS = 8.0


async def _viewer_of(request: Request) -> Viewer:
    gate = request.app.state.gate
    viewer: Viewer | None = await gate.find(request)
    if viewer is None:
        if gate.development:
            raise Problem(401, "Log in first.", {"Location": "/login"})
        raise Problem(401, "Open this page from the marketplace, where you are logged in.")
    return viewer


AViewer = Annotated[Viewer, Depends(_viewer_of)]
SameSite = Depends(same_site)


def _show(request: Request, template: str, viewer: Viewer | None, status: int = 200, **context: Any) -> HTMLResponse:
    gate = request.app.state.gate
    context |= {"viewer": viewer, "development": gate.development}
    return _templates.TemplateResponse(request, template, context, status)


def failure(request: Request, told: Response) -> Response:
    """A failure as a page; who has to log in is led there."""
    if told.status_code == 401 and told.headers.get("location"):
        return RedirectResponse(told.headers["location"], 303)
    problem = json.loads(bytes(told.body))
    return _templates.TemplateResponse(
        request, "failure.html", {"problem": problem, "viewer": None, "development": False}, told.status_code
    )


@router.get("/")
async def orders(request: Request, desk: ADesk, viewer: AViewer) -> Response:
    """The viewer's orders, and what waits for an answer."""
    if viewer.operator:
        return RedirectResponse("/operator", 303)
    lines, inbox = await desk.orders(viewer), await desk.inbox(viewer)
    return _show(request, "orders.html", viewer, orders=lines, inbox=inbox, scale=float(desk.clock.scale))


@router.get("/orders/{order_id}")
async def order(
    request: Request,
    desk: ADesk,
    viewer: AViewer,
    order_id: OrderId,
    after: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    done: Annotated[str | None, Query(max_length=40)] = None,
) -> Response:
    """An order's page with its Resolution Center."""
    if after is not None:
        await desk.caught_up("order_page", after)
    said = _DONE.get(done or "")
    return await _order_page(request, viewer, order_id, said=said)


_NOT_SENT = "Your command was not sent: the service cannot take any right now. Nothing is lost here; try again soon."
_DONE = {
    "OpenDispute": "Your request was sent. The other party has 48 hours to answer.",
    "OfferPartialRefund": "Your offer was sent. The client has 48 hours to answer.",
    "Accept": "You accepted the request.",
    "Decline": "You declined the request.",
    "Withdraw": "You withdrew your request.",
    "CancelOrder": "The order is canceled.",
}


@dataclass(frozen=True)
class _Refused:
    """A form that was sent and refused: which one, why, and what was in it.

    `id`: of its command, where the command may still arrive: sent again under it, it takes effect once.
    """

    form: str
    why: str
    values: dict[str, str]
    id: str | None = None


async def _order_page(
    request: Request,
    viewer: Viewer,
    order_id: str,
    said: str | None = None,
    refused: _Refused | None = None,
    status: int = 200,
) -> Response:
    desk = await desk_of(request)
    page = await desk.order(viewer, order_id)
    actions = [action for party in page["available_actions"].values() for action in party]
    return _show(
        request,
        "order.html",
        viewer,
        status,
        page=page,
        actions=[] if viewer.operator else actions,
        scale=float(desk.clock.scale),
        new_id=lambda: str(uuid4()),
        said=said,
        refused=refused,
    )


@router.post("/orders/{order_id}", dependencies=[SameSite])
async def act(request: Request, desk: ADesk, viewer: AViewer, order_id: OrderId) -> Response:
    """A form that was sent: publishes the command, waits for its outcome, and shows what came of it."""
    form = await fields_of(request)
    command, key = form.get("command", ""), form.get("form", "")
    try:
        data = _data_of(command, form)
        _, outcome = await desk.send(viewer, order_id, command, data, id=form.get("id"), wait=_WAIT_SECONDS)
    except (Problem, ValueError) as error:
        if isinstance(error, Problem) and error.status == 404:
            raise
        if isinstance(error, Problem) and (id_ := error.more.get("command_id")):
            refused = _Refused(key, _NOT_SENT, form, id_)
            return await _order_page(request, viewer, order_id, refused=refused, status=503)
        refused = _Refused(key, str(error), form)
        return await _order_page(request, viewer, order_id, refused=refused, status=422)
    if outcome is None:
        said = "Your command was sent and will be judged soon. Reload the page to see what came of it."
        return await _order_page(request, viewer, order_id, said=said)
    if "code" in outcome["data"]:
        refused = _Refused(key, _reason(outcome["data"]), form)
        return await _order_page(request, viewer, order_id, refused=refused, status=422)
    return RedirectResponse(f"/orders/{order_id}?after={outcome['position']}&done={command}", 303)


def _reason(rejected: Json) -> str:
    """The rejection's own sentence; where it speaks of minor units, one for people."""
    if rejected["code"] == "refund_over_limit":
        limit = money_text(rejected["details"]["limit"])
        return f"A partial refund is at most 60% of the original price: offer {limit} or less."
    return str(rejected["message"])


def _data_of(command: str, form: dict[str, str]) -> Json:
    """The command's data from the fields of its form. Raises ValueError, which says what is wrong."""
    text = {name: form[name] for name in ("message", "comment", "note", "explanation", "reason") if form.get(name)}
    match command:
        case "OpenDispute":
            request: Json = {"kind": form.get("kind", "")} | text
            if "days" in form:
                request["days"] = int(form["days"]) if form["days"].isdecimal() else 0
            return {"request": request}
        case "OfferPartialRefund":
            return {"amount": read_money(form.get("amount", ""), form.get("currency", ""))} | text
        case "CancelOrder":
            return dict(text)
        case _:
            return {"dispute_id": form.get("dispute_id", "")} | text


@router.get("/metrics")
async def metrics(request: Request, desk: ADesk, viewer: AViewer) -> Response:
    """How the viewer fares."""
    return _show(request, "metrics.html", viewer, metrics=await desk.metrics(viewer))


@router.get("/operator")
async def operators(request: Request, desk: ADesk, viewer: AViewer) -> Response:
    """Open disputes, deadlines ahead, lag, parked orders, dead letters."""
    if not viewer.operator:
        raise Problem(404, "There is no such page.")
    overview, state = await desk.overview(), await desk.operations()
    state["waiting"], state["unpublished"] = await desk.unread_commands(), await desk.unpublished()
    return _show(request, "operator.html", viewer, overview=overview, state=state)


# --- the login for development ---


@router.get("/login")
async def login(request: Request) -> Response:
    """Who do you want to be? On loopback only, where no issuer is configured."""
    if not request.app.state.gate.development:
        raise Problem(404, "There is no such page.")
    return _show(request, "login.html", None)


@router.post("/login", dependencies=[SameSite])
async def logged_in(request: Request) -> Response:
    gate = request.app.state.gate
    if not gate.development:
        raise Problem(404, "There is no such page.")
    form = await fields_of(request)
    user, is_operator = form.get("user", "").strip(), form.get("operator") == "yes"
    if not is_user_id(user or "operator") or not (user or is_operator):
        return _show(request, "login.html", None, 422, why="Enter the id of a client or a freelancer.")
    response = RedirectResponse("/", 303)
    token = gate.token_for(user or "operator", operator=is_operator)
    response.set_cookie(COOKIE, token, httponly=True, samesite="lax")
    return response


@router.post("/logout", dependencies=[SameSite])
async def logged_out(request: Request) -> Response:
    response = RedirectResponse("/login" if request.app.state.gate.development else "/", 303)
    response.delete_cookie(COOKIE)
    return response


# --- how things are said ---


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _duration(seconds: float) -> str:
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    return f"{hours} h {minutes:02} min"


def _step(money: Json) -> str:
    """The smallest amount of a currency, for a number field."""
    return decimal_text({"amount": 1, "currency": money["currency"]})


def serve_under(path: str) -> None:
    """From now on links begin with this path, which a proxy takes off again."""
    _templates.env.globals["public_path"] = path


_templates.env.filters |= {
    "money": money_text,
    "decimal": decimal_text,
    "step": _step,
    "words": _words,
    "duration": _duration,
}
