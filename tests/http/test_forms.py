"""What a browser can send to the pages and what only a stranger would: forms, paths and queries, at random."""

import asyncio
import logging
from collections.abc import AsyncIterator
from urllib.parse import quote, urlencode
from uuid import uuid4

import httpx
import hypothesis
import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.http.gateway import PARTY_COMMANDS
from tests.support.commands import CLIENT, FREELANCER, register
from tests.support.installation import Installation, until

_ODD = [
    "",
    " ",
    "\u00b2",
    "\u0663",
    "9e999999",
    "-9e-999999",
    "1e3",
    "NaN",
    "sNaN",
    "Infinity",
    "0",
    "-1",
    "1_0",
    "1.00",
]
_ODD += [
    "9" * 5000,
    "\0",
    "\r\n",
    "\u202e",
    "<b>",
    "{{ 7 }}",
    "[/x]",
    "x" * 3000,
    "USD",
    "RSD",
    "XXX",
    "usd",
    str(uuid4()),
]
_LONG = st.sampled_from("9x").map(lambda character: character * 5000)
_VALUES = st.sampled_from(_ODD) | _LONG | st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_KINDS = st.sampled_from(["order_update", "cancellation", "delivery_extension", "partial_refund"]) | _VALUES
_FORMS = st.fixed_dictionaries(
    {"command": st.sampled_from([*PARTY_COMMANDS, "RecordCompletion"]) | _VALUES},
    optional={
        "form": st.builds(lambda command, kind: f"{command}-{kind}", st.sampled_from(list(PARTY_COMMANDS)), _KINDS),
        "id": st.uuids().map(str) | _VALUES,
        "kind": _KINDS,
        "reason": st.sampled_from(["other", "scope_changed", "scope_reduced"]) | _VALUES,
        **dict.fromkeys(["dispute_id", "message", "comment", "note", "explanation", "days", "amount"], _VALUES),
        "currency": st.sampled_from(["USD", "RSD", "XXX"]) | _VALUES,
        "actor": _VALUES,
    },
)
_RAW = st.binary(max_size=40) | st.sampled_from(
    [b"command=%ed%a0%80", b"command=%", b"=&&=", b"a" * 300_000, b"&" * 5000]
)
_ANSWERS = {200, 303, 307, 400, 403, 404, 409, 413, 415, 422}


@pytest.fixture
async def pages(installation: Installation) -> AsyncIterator[httpx.AsyncClient]:
    await installation.run("commands", "relay", "projections", "http")
    await installation.send("order-1", register())
    await until(lambda: installation.page("order-1"))
    async with httpx.AsyncClient(base_url=installation.url, timeout=30) as client:
        await client.post("/login", data={"user": FREELANCER})
        yield client


def _settings(examples: int) -> hypothesis.settings:
    return hypothesis.settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(hypothesis.HealthCheck),
    )


@pytest.mark.filterwarnings("ignore::hypothesis.errors.HypothesisDeprecationWarning")  # random, beside another thread
async def test_no_form_path_or_query_makes_a_page_fail(pages: httpx.AsyncClient):
    logging.getLogger("httpx").setLevel(logging.WARNING)
    loop = asyncio.get_running_loop()

    def get(answer):
        found = asyncio.run_coroutine_threadsafe(answer, loop).result(60)
        assert found.status_code in _ANSWERS, (found.request.url, found.request.content, found.text)
        kind = found.headers.get("content-type", "")
        assert found.status_code in (303, 307) or kind.startswith(("text/html", "application/problem+json")), kind
        assert "Traceback" not in found.text
        return found

    accept = st.sampled_from(["text/html", "*/*"])
    typed = {"Content-Type": "application/x-www-form-urlencoded"}

    @_settings(100)
    @given(form=_FORMS, accept=accept)
    def forms(form, accept):
        get(pages.post("/orders/order-1", content=urlencode(form), headers=typed | {"Accept": accept}))

    @_settings(30)
    @given(path=st.sampled_from(["/orders/order-1", "/login", "/logout"]), body=_RAW, accept=accept)
    def raw(path, body, accept):
        if path == "/orders/order-1":  # the others change who is logged in
            get(pages.post(path, content=body, headers=typed | {"Accept": accept}))
        else:
            get(_as_nobody(path, body, typed | {"Accept": accept}))

    async def _as_nobody(path, body, headers):
        async with httpx.AsyncClient(base_url=pages.base_url) as nobody:
            return await nobody.post(path, content=body, headers=headers)

    @_settings(60)
    @given(
        path=st.sampled_from(["/", "/orders/", "/orders/order-1", "/metrics", "/operator", "/login", "/static/"]),
        more=st.just("") | _VALUES,
        query=st.dictionaries(st.sampled_from(["after", "done", "sent", "cursor", "orders", "x"]), _VALUES, max_size=3),
        accept=accept,
    )
    def reads(path, more, query, accept):
        get(pages.get(path + quote(more, safe=""), params=query, headers={"Accept": accept}))

    for fuzz in (forms, raw, reads):
        await asyncio.to_thread(fuzz)
    page = await pages.get("/orders/order-1", headers={"Accept": "text/html"})
    assert (page.status_code, CLIENT in page.text) == (200, True)
