"""The pages for parties and operators. They work without JavaScript."""

import json
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID, uuid4

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.templating import Jinja2Templates
from markupsafe import Markup
from starlette.exceptions import HTTPException

from projections.framework.paging import CURSOR
from services.orders.money import is_of_iso_4217, money_text, not_of_iso_4217, read_money

from . import forms, live_updates
from .api import AGateway, cursor_of, gateway_of
from .forms import Refused
from .gateway import Gateway, Json
from .order_ids import OrderId, in_address
from .problems import Problem, suppress_status
from .public_path import UnderPublicPath
from .request_bodies import fields_of
from .same_site import same_site
from .viewers import COOKIE, Viewer, is_user_id

router = APIRouter(include_in_schema=False)
_templates = Jinja2Templates(Path(__file__).with_name("templates"))
_templates.env.template_class = UnderPublicPath
_WAIT_SECONDS = 8.0


async def _viewer_of(request: Request) -> Viewer:
    gate = request.app.state.gate
    viewer: Viewer | None = None
    with suppress_status(401):  # an expired token, for instance
        viewer = await gate.find(request)
    if viewer is None:
        where = {"Location": gate.login_url} if gate.login_url else None
        raise Problem(401, "Log in first, then open this page again.", where)
    return viewer


async def _begins(
    orders: Annotated[str | None, Query(pattern=CURSOR)] = None,
    to_answer: Annotated[str | None, Query(pattern=CURSOR)] = None,
    awaiting_answer: Annotated[str | None, Query(pattern=CURSOR)] = None,
) -> live_updates.Cursors:
    """Reads the page cursors of the lists on the page of orders."""
    cursors = {"orders": orders, "to_answer": to_answer, "awaiting_answer": awaiting_answer}
    return {name: cursor_of(cursor) for name, cursor in cursors.items()}


AViewer = Annotated[Viewer, Depends(_viewer_of)]
Shown = Annotated[str, Query(max_length=64, description="The mark of the page.")]
ShownVersion = Annotated[int, Query(alias="shown", ge=0, le=2**62, description="The version on the page.")]
Begins = Annotated[live_updates.Cursors, Depends(_begins)]
SameSite = Depends(same_site)


def _show(request: Request, template: str, viewer: Viewer | None, status: int = 200, **context: Any) -> HTMLResponse:
    gate = request.app.state.gate
    context |= {"viewer": viewer, "development": gate.development}
    return _templates.TemplateResponse(request, template, context, status)


async def failure(request: Request, response: Response) -> Response:
    """Turns problem details into a page, or into a redirect to the login.

    If a form was sent without a valid login, the page has the texts of the form, so that the viewer can copy them.
    """
    login = response.headers.get("location") if response.status_code == 401 else None
    if login and request.method == "GET":
        return RedirectResponse(login, 303)
    form: Mapping[str, str] = {}
    if response.status_code == 401 and request.method == "POST":
        with suppress(HTTPException, Problem):  # the body isn't a form
            form = await forms.entered(request)
    problem = json.loads(bytes(response.body))
    page = _failure(request, None, response.status_code, form, problem=problem, login=login)
    page.headers.update({name: response.headers[name] for name in _KEPT_HEADERS if name in response.headers})
    return page


_KEPT_HEADERS = ("allow", "retry-after", "www-authenticate")


def _failure(
    request: Request, viewer: Viewer | None, status: int, form: Mapping[str, str], **context: Any
) -> HTMLResponse:
    """Returns a page that says what failed. It has the texts of the form, to be copied."""
    written = [form[name] for name in forms.TEXTS if form.get(name)]
    return _show(request, "failure.html", viewer, status, written=written, **context)


@router.get("/")
async def orders(request: Request, gateway: AGateway, viewer: AViewer, begins: Begins) -> Response:
    """Shows the viewer's orders, and the requests that wait for an answer."""
    if viewer.operator:
        return RedirectResponse("/operator", 303)
    page = await live_updates.OrdersPage.read(gateway, viewer, begins)
    query = urlencode({name: str(cursor) for name, cursor in begins.items() if cursor})
    return _show(request, "orders.html", viewer, page=page, query=query, scale=float(gateway.clock.scale))


@router.get("/live/orders")
async def follow_orders(gateway: AGateway, viewer: AViewer, begins: Begins, shown: Shown) -> Response:
    """Streams changes of the page of orders."""
    return live_updates.follow_orders(gateway, viewer, begins, shown)


@router.get("/orders/{order_id}")
async def order(
    request: Request,
    gateway: AGateway,
    viewer: AViewer,
    order_id: OrderId,
    after: Annotated[int | None, Query(ge=0, le=2**62)] = None,
    sent: Annotated[UUID | None, Query(description="The command that the viewer has just sent.")] = None,
) -> Response:
    """Shows an order with its Resolution Center."""
    late = after is not None
    if after is not None:
        with suppress_status(409):
            await gateway.caught_up("order_page", after)
            late = False
    confirmation = await _confirmation(gateway, viewer, order_id, str(sent)) if sent else None
    return await _order_page(request, viewer, order_id, confirmation=confirmation, late=late)


@router.get("/live/orders/{order_id}")
async def follow_order(gateway: AGateway, viewer: AViewer, order_id: OrderId, shown: ShownVersion) -> Response:
    """Streams changes of an order's page."""
    return await live_updates.follow_order(gateway, viewer, order_id, shown)


_NOT_SENT = "Your command was not sent: the service cannot take any right now. Nothing is lost here; try again soon."
_SENT = "Your command was sent and will be judged soon. Open the order again to see what came of it."
_DONE = {
    "DisputeOpened": "Your request was sent. The other party has {time} to answer.",
    "Accepted": "You accepted the request.",
    "Declined": "You declined the request.",
    "Withdrawn": "You withdrew your request.",
    "OrderCanceled": "The order is canceled.",
}
"""The sentence about a command of the viewer, by the event that followed from it."""


async def _confirmation(gateway: Gateway, viewer: Viewer, order_id: str, command_id: str) -> str | None:
    """Says what the viewer's command did on this order. None if it did nothing, or if somebody else sent it."""
    with suppress_status(404):
        page, outcome = await gateway.order(viewer, order_id), await gateway.outcome(viewer, order_id, command_id)
        for reference in outcome["data"].get("events", []):
            [event] = await gateway.history(viewer, order_id, reference["sequence"] - 1, 1)
            by = [event["data"].get(name) for name in ("opened_by", "by", "initiated_by")]
            if page["viewer"] in by:
                done = _DONE.get(event["type"].split(".")[-2])
                return done and done.format(time=_hours(page["terms"]["response_hours"]))
    return None


async def _order_page(
    request: Request,
    viewer: Viewer,
    order_id: str,
    confirmation: str | None = None,
    late: bool = False,
    refused: Refused | None = None,
    status: int = 200,
) -> Response:
    gateway = await gateway_of(request)
    page = await gateway.order(viewer, order_id)
    actions = [_with_form(action) for party in page["available_actions"].values() for action in party]
    return _show(
        request,
        "order.html",
        viewer,
        status,
        page=page,
        actions=[] if viewer.operator else actions,
        scale=float(gateway.clock.scale),
        new_id=lambda: str(uuid4()),
        confirmation=confirmation,
        late=late,
        refused=refused,
    )


def _with_form(action: Json) -> Json:
    """Returns the action. It is unavailable if its form cannot take amounts in the order's currency."""
    currency = action["needs"].get("largest_refund", {}).get("currency")
    if not action["available"] or currency is None or is_of_iso_4217(currency):
        return action
    return action | {"available": False, "why_not": not_of_iso_4217(currency)}


@router.post("/orders/{order_id}", dependencies=[SameSite])
async def act(request: Request, gateway: AGateway, viewer: AViewer, order_id: OrderId) -> Response:
    """Handles a sent form: publishes the command, waits for its outcome, and shows the result."""
    form = await forms.entered(request)
    key = form.get("form", "")
    if (opened_as := form.get("viewer", viewer.user)) != viewer.user:
        problem = {"title": "Somebody else is logged in", "status": 403, "detail": _made_for(opened_as, viewer)}
        return _failure(request, viewer, 403, form, problem=problem)

    async def refuse(why: str | None = None, *, status: int = 422, **about: Any) -> Response:
        refused = Refused(key, form, why, **about)
        return await _order_page(request, viewer, order_id, refused=refused, status=status)

    try:
        data = _data_of(form)
    except ValueError as error:
        return await refuse(fields={"amount": forms.about(key, "amount", str(error), form)})
    page = await gateway.order(viewer, order_id)
    if wrong := forms.wrong_fields(key, form, data, page["terms"]):
        return await refuse(fields=wrong)
    try:
        id_ = forms.command_id_of(form)
        sent, outcome = await gateway.send(viewer, order_id, form.get("command", ""), data, id=id_, wait=_WAIT_SECONDS)
    except Problem as problem:
        if problem.status == 404:
            raise
        if id_ := problem.more.get("command_id"):
            return await refuse(_NOT_SENT, status=503, id=id_)
        return await refuse(str(problem))
    if outcome is None:
        return await _order_page(request, viewer, order_id, confirmation=_SENT)
    if "code" in outcome["data"]:
        fields = _refused_fields(key, form, outcome["data"])
        return await refuse(None if fields else _reason(outcome["data"]), fields=fields)
    return RedirectResponse(f"/orders/{in_address(order_id)}?after={outcome['position']}&sent={sent}", 303)


def _made_for(opened_as: str, viewer: Viewer) -> Markup:
    """Says that a form was made for somebody else than the viewer. Browsers share a login among their tabs."""
    return Markup(
        "This page was opened as <bdi>{0}</bdi>; you are now logged in as <bdi>{1}</bdi>. Nothing was sent. "
        "Log in as <bdi>{0}</bdi> to send it, or open the order again to act as <bdi>{1}</bdi>."
    ).format(opened_as, viewer.user)


def _refused_fields(key: str, form: Mapping[str, str], rejected: Json) -> dict[str, Markup]:
    if rejected["code"] == "refund_over_limit":
        return {"amount": forms.about(key, "amount", _reason(rejected), form)}
    return forms.refused_fields(key, form, rejected)


_ON_THE_ORDER_PAGE = {
    "dispute_settled": "This dispute is already settled ({settled_as}), so nothing was changed. "
    "This page shows what is possible now.",
    "dispute_unknown": "This order has no such dispute. This page shows its disputes, and what is possible now.",
    "command_id_reused": "This form was sent before with other entries, so nothing was changed. "
    "This page shows what came of it; to send these entries too, send the form again.",
}
"""Sentences about a rejection, by its code."""


def _reason(rejected: Json) -> str:
    """Returns the rejection's sentence, for somebody who reads it on the order page.

    Rewrites sentences that point to that page, and those that have an amount in minor units or a machine's instant.
    """
    if rejected["code"] in _ON_THE_ORDER_PAGE:
        settled_as = str(rejected["details"].get("settled_as", "")).replace("_", "-")
        return _ON_THE_ORDER_PAGE[rejected["code"]].format(settled_as=settled_as)
    if rejected["code"] == "refund_over_limit":
        before, _, minor_units = str(rejected["message"]).partition(": offer ")
        limit = money_text(rejected["details"]["limit"])
        return f"{before}: offer {limit} or less." if minor_units else before
    if rejected["code"] == "approval_needed" and (instant := rejected["details"]["possible_from"]):
        return _macro("early", instant) + " Until then, ask to cancel it."
    return str(rejected["message"])


def _data_of(form: Mapping[str, str]) -> Json:
    """Makes the command's data from the form's fields. Raises ValueError, which says what is wrong with the amount."""
    text = {name: form[name] for name in (*forms.TEXTS, "reason") if form.get(name, "").strip()}
    match form.get("command"):
        case "OpenDispute":
            request: Json = {"kind": form.get("kind", "")} | text
            if "days" in form:
                request["days"] = forms.whole_number(form["days"])
            return {"request": request}
        case "OfferPartialRefund":
            return {"amount": read_money(form.get("amount", ""), form.get("currency", ""))} | text
        case "CancelOrder":
            return dict(text)
        case _:
            return {"dispute_id": form.get("dispute_id", "")} | text


@router.get("/metrics")
async def metrics(request: Request, gateway: AGateway, viewer: AViewer) -> Response:
    """Shows the viewer's metrics."""
    return _show(request, "metrics.html", viewer, metrics=await gateway.metrics(viewer))


@router.get("/operator")
async def operators(request: Request, gateway: AGateway, viewer: AViewer) -> Response:
    """Shows operators open disputes, coming deadlines, lag, parked orders and dead letters."""
    if not viewer.operator:
        raise HTTPException(404)
    overview, state = await gateway.overview(), await gateway.operations()
    state["waiting"], state["unpublished"] = await gateway.unread_commands(), await gateway.unpublished()
    return _show(request, "operator.html", viewer, overview=overview, state=state)


# --- the login for development ---


@router.get("/login")
async def login(request: Request) -> Response:
    """Shows the login for development, where anybody can log in as anybody."""
    if not request.app.state.gate.development:
        raise HTTPException(404)
    return _show(request, "login.html", None)


@router.post("/login", dependencies=[SameSite])
async def logged_in(request: Request) -> Response:
    """Takes the form of the login for development, and sets the cookie."""
    gate = request.app.state.gate
    if not gate.development:
        raise HTTPException(404)
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
    """Deletes the cookie, and redirects to the login or to the start page."""
    response = RedirectResponse("/login" if request.app.state.gate.development else "/", 303)
    response.delete_cookie(COOKIE)
    return response


# --- wording ---


_ASKED = {
    "order_update": "asked for an order update",
    "cancellation": "asked to cancel the order",
    "delivery_extension": "asked to extend the delivery date",
    "partial_refund": "offered a partial refund",
}


def _waiting(dispute: Json, viewer: str | None) -> str:
    """Says who asked for what, and who has to answer. `viewer` is a party's role, or None."""
    requester, request = dispute["opened_by"], dispute["request"]
    other = "freelancer" if requester == "client" else "client"
    what = _ASKED[dispute["kind"]]
    if days := request.get("days"):
        what += f" by {days} day{'' if days == 1 else 's'}"
    if amount := request.get("amount"):
        what += f" of {money_text(amount)}"
    if viewer == other:
        return f"The {requester} {what}, and is waiting for your answer."
    return f"{'You' if viewer == requester else f'The {requester}'} {what}. Waiting for the {other}'s answer."


def _macro(name: str, *values: object) -> Markup:
    """Calls a macro of the templates with values, which it escapes."""
    markup: Markup = getattr(_templates.get_template("macros.html").module, name)(*values)
    return markup


def _words(name: object) -> str:
    return str(name).replace("_", " ")


def _hours(hours: int) -> str:
    return f"{hours} hour{'' if hours == 1 else 's'}"


def _time_to_answer(dispute: Json) -> str:
    """Returns how long the other party had to answer, in hours."""
    opened_at, respond_by = (datetime.fromisoformat(dispute[name]) for name in ("opened_at", "respond_by"))
    return _hours((respond_by - opened_at) // timedelta(hours=1))


def _duration(seconds: float) -> str:
    hours, minutes = int(seconds // 3600), int(seconds % 3600 // 60)
    return f"{hours} h {minutes:02} min"


def serve_under(path: str) -> None:
    """Makes all links begin with this path, which a proxy removes from requests."""
    _templates.env.globals["public_path"] = path


_templates.env.filters |= {
    "money": money_text,
    "words": _words,
    "waiting": _waiting,
    "duration": _duration,
    "hours": _hours,
    "time_to_answer": _time_to_answer,
    "in_address": in_address,
}
_templates.env.globals |= {"key_of": forms.key_of, "labels_of": forms.labels_of}
