"""Whatever a client sends, it gets problem details with the right status, and the headers that every answer has."""

import asyncio
import json
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import urlsplit

import h11
import httpx
import pytest

from services.http import app, connection_limits
from services.http.app import HEADERS, create
from services.http.role import serve
from services.http.viewers import COOKIE
from tests.http.serving import FakeDesk, development_gate, served
from tests.support.installation import until

FORM = b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-www-form-urlencoded\r\n"
COMMAND = {"order_id": "order-1", "command": "CancelOrder", "data": {"comment": "No."}}


@pytest.fixture
def gateway() -> FakeDesk:
    return FakeDesk()


@pytest.fixture
async def client(gateway: FakeDesk) -> AsyncIterator[httpx.AsyncClient]:
    gate = development_gate()
    async with (
        served(gateway, gate) as url,
        httpx.AsyncClient(base_url=url, cookies={COOKIE: gate.token_for("ann", operator=False)}) as client,
    ):
        yield client


def is_problem(answer: httpx.Response, status: int) -> bool:
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert HEADERS.items() <= {name.title().replace("Xc", "XC"): v for name, v in answer.headers.items()}.items()
    assert answer.headers["cache-control"] == "no-store"
    return bool(answer.json()["status"] == status and answer.json()["detail"])


async def raw(client: httpx.AsyncClient, request: bytes) -> httpx.Response:
    """The answer to bytes that no client library would send."""
    address = urlsplit(str(client.base_url))
    reader, writer = await asyncio.open_connection(address.hostname, address.port)
    writer.write(request)
    head = await reader.readuntil(b"\r\n\r\n")
    status, *lines = head.decode("latin-1").strip().split("\r\n")
    headers = dict(line.split(": ", 1) for line in lines)
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    writer.close()
    return httpx.Response(int(status.split()[1]), headers=headers, content=body)


BODIES = {
    b"": 400,
    b"{": 400,
    b"\xff{": 400,
    b"\xef\xbb\xbf{}": 400,
    b"[" * 100_000: 400,
    b'{"order_id": "order-1", "command": "CancelOrder", "data": ' + b'{"a":' * 500 + b"1" + b"}" * 501: 400,
    b'{"order_id": "order-1", "command": "CancelOrder", "data": {"comment": "\\ud800"}}': 400,
    b'{"order_id": "order-1", "command": "CancelOrder", "data": {"a": NaN}}': 400,
    b'{"order_id": "order-1", "command": "CancelOrder", "data": {"a": 9e999999}}': 400,
    b'{"order_id": "order-1", "command": "CancelOrder", "data": {"a": ' + b"9" * 5000 + b"}}": 400,
    b'{"order_id": "order-1", "command": "CancelOrder", "data": {"a": 1, "a": 2}}': 400,
    b'{"\\ud800": 1}': 400,
    b'{"order_id": "order-1", "command": "CancelOrder", "data": {}, "extra": "\\u0000"}': 422,
    b"[]": 422,
    b'{"order_id": "../1", "command": "CancelOrder"}': 422,
    b'{"order_id": "order-1", "command": 7}': 422,
    b'{"order_id": "order-1", "command": "CancelOrder", "data": []}': 422,
    json.dumps(COMMAND).encode().ljust(300_000): 413,
}


async def test_what_is_no_command_is_refused(client: httpx.AsyncClient, gateway: FakeDesk):
    headers = {"Content-Type": "application/json"}
    for body, status in BODIES.items():
        assert is_problem(await client.post("/api/commands", content=body, headers=headers), status), body[:80]
    refused = await client.post("/api/commands", content=b"[]", headers=headers)
    assert refused.json()["errors"][0]["path"] == "body"

    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(40):
            yield b" " * 10_000

    assert is_problem(await client.post("/api/commands", content=chunks(), headers=headers), 413)
    for media_type in ("", "text/plain", "application/x-www-form-urlencoded", "json", "\u00b2"):
        encoded = {"Content-Type": media_type.encode("latin-1")}
        assert is_problem(await client.post("/api/commands", content=b"{}", headers=encoded), 415)  # type: ignore[arg-type]
    assert gateway.sent == []

    as_cloud_event = {"Content-Type": "application/cloudevents+json; charset=utf-8"}
    content = json.dumps(COMMAND | {"data": {"comment": "\0 \U0001f600", "n": 1e3}}).encode()
    assert (await client.post("/api/commands", content=content, headers=as_cloud_event)).status_code == 202
    assert gateway.sent[0]["data"] == {"comment": "\0 \U0001f600", "n": 1000.0}


async def test_preferences_are_read_or_left_alone(client: httpx.AsyncClient, gateway: FakeDesk):
    preferences = {"wait=5": 5.0, "respond-async, wait=2": 2.0, "wait=99": 30.0}
    preferences |= dict.fromkeys(("wait=\u00b2", "wait=", "wait=-1", "wait=1e3", "=", ",,"))
    for prefer, wait in preferences.items():
        sent = await client.post("/api/commands", json=COMMAND, headers={"Prefer": prefer.encode("latin-1")})  # type: ignore[dict-item]
        assert sent.status_code == 202
        assert gateway.sent[-1]["wait"] == wait


async def test_HEAD_is_GET_without_the_body_and_ends(client: httpx.AsyncClient):
    for path in (
        "/login",
        "/openapi.json",
        "/api/schemas/Accept",
        "/static/page.js",
        "/nothing",
        "/api/orders/order-1",
    ):
        got, head = await client.get(path), await client.head(path)
        assert (head.status_code, head.content) == (got.status_code, b"")
        for name in ("content-type", "content-length", "etag", "content-security-policy"):
            assert head.headers.get(name) == got.headers.get(name)
    live = await client.head("/api/orders/order-1/live")
    assert (live.status_code, live.headers["content-type"][:17]) == (200, "text/event-stream")
    assert is_problem(await client.put("/api/orders"), 405)
    assert (await client.head("/api/commands")).status_code == 405


async def test_a_bug_of_ours_is_a_problem_without_a_traceback(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture
):
    """The fake gateway has no metrics."""
    assert is_problem(await client.get("/api/metrics"), 500)
    page = await client.get("/metrics", headers={"Accept": "text/html"})
    assert (page.status_code, page.headers["content-type"]) == (500, "text/html; charset=utf-8")
    assert "Traceback" not in page.text
    assert "Our mistake" in page.text
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "AttributeError" in caplog.text


async def test_requests_that_no_library_would_send(client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture):
    caplog.set_level(logging.ERROR)
    requests = {
        b"nonsense\r\n\r\n": 400,
        b"GET / HTTP/1.1\r\n\r\n": 400,
        b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n": 400,
        b"GET /api/orders HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n": 400,
        b"POST /login HTTP/1.1\r\nHost: x\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n": 400,
        b"POST /login HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n": 501,
        b"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + b"x" * 40_000: 431,
        b"GET / HTTP/1.1\r\nHost: x\r\nCookie: " + b"x" * 40_000 + b"\r\n\r\n": 431,
        b"GET /api/orders HTTP/1.1\r\nHost: [\r\n\r\n": 401,
        b"GET /%ff%00/.. HTTP/1.1\r\nHost: \xff\r\n\r\n": 404,
        b"GET /static/%00 HTTP/1.1\r\nHost: x\r\n\r\n": 404,
        b"GET /static/..%2fapp.py HTTP/1.1\r\nHost: x\r\n\r\n": 404,
        b"GET /static/" + b"x" * 5000 + b" HTTP/1.1\r\nHost: x\r\n\r\n": 404,
        b"GET //evil.example/ HTTP/1.1\r\nHost: x\r\n\r\n": 404,
        b"GET /login/ HTTP/1.1\r\nHost: evil.example\r\n\r\n": 404,  # no redirect to the Host
        b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n": 404,
        b"BREW /api/orders HTTP/1.1\r\nHost: x\r\n\r\n": 405,
        b"GET /api/orders HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer \xff.\xb2.\r\n\r\n": 401,
        b"GET /api/orders HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n": 401,
    }
    for request, status in requests.items():
        assert is_problem(await raw(client, request), status), request[:80]
    page = await raw(client, b"GET /nothing HTTP/1.1\r\nHost: [\r\nAccept: text/html\r\n\r\n")
    assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
    address = urlsplit(str(client.base_url))
    for half in (b"1\r\nx\r\nnonsense", b"5\r\nuser="):  # a broken chunk, and a client that leaves
        _, writer = await asyncio.open_connection(address.hostname, address.port)
        writer.write(FORM + b"Transfer-Encoding: chunked\r\n\r\n" + half)
        await writer.drain()
        writer.close()
        await writer.wait_closed()
    await until(lambda: not connection_limits.Connection._waiting)
    assert caplog.text == ""


async def test_a_form_is_a_form(client: httpx.AsyncClient, gateway: FakeDesk):
    form = b'--x\r\nContent-Disposition: form-data; name="user"\r\n\r\nann\r\n--x--\r\n'
    for media_type in (
        "multipart/form-data; boundary=x",
        "multipart/form-data; boundary=x; charset=undefined",
        "multipart/form-data",
        "text/plain",
        "",
    ):
        assert is_problem(await client.post("/login", content=form, headers={"Content-Type": media_type}), 415)
    many = await client.post("/login", data={f"field-{n}": "x" for n in range(1001)})
    assert is_problem(many, 400)
    for user in ("", " ", "a\0", "x" * 201):
        assert (await client.post("/login", data={"user": user})).status_code == 422
    assert (await client.post("/login", data={"user": "ann"})).status_code == 303
    assert gateway.sent == []


FORMS: list[tuple[str | None, dict[str, str], bool]] = [
    (None, {}, True),  # a program
    (None, {"Sec-Fetch-Site": "same-origin", "Origin": "https://market.example"}, True),  # the proxy rewrote Host
    (None, {"Sec-Fetch-Site": "none"}, True),
    (None, {"Sec-Fetch-Site": "same-site"}, False),
    (None, {"Sec-Fetch-Site": "cross-site", "Origin": "http://service"}, False),
    (None, {"Sec-Fetch-Site": "x"}, False),
    (None, {"Origin": "http://service"}, True),
    (None, {"Origin": "https://service"}, True),  # a proxy that speaks TLS and keeps Host
    (None, {"Origin": "https://market.example"}, False),
    (None, {"Origin": "null"}, False),
    (None, {"Origin": "http://["}, False),
    ("https://market.example", {"Origin": "https://market.example"}, True),
    ("https://market.example", {"Origin": "http://market.example"}, False),
    ("https://market.example", {"Origin": "http://service"}, False),
    ("https://market.example", {"Origin": "null"}, False),
    ("https://market.example", {"Sec-Fetch-Site": "cross-site", "Origin": "https://market.example"}, False),
]


async def test_a_form_of_another_site_is_refused():
    for public_url in {url for url, _, _ in FORMS}:
        async with served(public_url=public_url) as url, httpx.AsyncClient(base_url=url) as client:
            for headers, may in [(headers, may) for url, headers, may in FORMS if url == public_url]:
                answer = await client.post("/login", data={"user": "ann"}, headers={"Host": "service"} | headers)
                assert answer.status_code == (303 if may else 403), headers


async def test_whoever_sends_is_answered_however_many_do_not(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection_limits, "_MOST_CONNECTIONS", 6)
    async with served() as url, httpx.AsyncClient(base_url=url) as client:
        assert (await client.get("/login")).status_code == 200
        address = urlsplit(url)
        half = [b"", b"GET / HT", FORM + b"Content-Length: 9\r\n\r\nuser"]
        stuck = []
        for number in range(15):
            reader, writer = await asyncio.open_connection(address.hostname, address.port)
            writer.write(half[number % 3])
            stuck.append((reader, writer))
            assert (await client.get("/login")).status_code == 200
        ended = [await reader.read() for reader, _ in stuck[:9]]
        assert {answer[:12] for answer in ended} == {b"", b"HTTP/1.1 408"}
        assert b"application/problem+json" in ended[1]
        assert (await client.get("/login")).status_code == 200
        for _, writer in stuck:
            writer.close()


async def test_too_many_complete_requests_are_told_to_come_back(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(app, "_MAX_REQUESTS", 1)
    async with client.stream("GET", "/api/orders/order-1/live") as live:
        assert live.status_code == 200
        refused = await client.get("/login")
        assert is_problem(refused, 503)
        assert int(refused.headers["retry-after"]) > 0
    await until(lambda: _is_answered(client))


async def _is_answered(client: httpx.AsyncClient) -> bool:
    return (await client.get("/login")).status_code == 200


async def test_a_request_has_to_come_in_time(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection_limits, "_SECONDS_TO_SEND", 0.1)
    async with served() as url, httpx.AsyncClient(base_url=url) as client:
        for request in (b"GET /", FORM, FORM + b"Content-Length: 9\r\n\r\nuser"):
            assert is_problem(await raw(client, request), 408)
        reader, writer = await asyncio.open_connection(urlsplit(url).hostname, urlsplit(url).port)
        writer.write(b"HEAD /login HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nuser")
        assert (await reader.read()).startswith(b"HTTP/1.1 408")
        writer.close()


async def test_an_answer_has_to_be_read_in_time(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(connection_limits, "_SECONDS_TO_READ", 0.1)
    lost = asyncio.Event()
    ended = connection_limits.Connection.connection_lost

    def connection_lost(*given: Any) -> None:
        ended(*given)
        lost.set()

    monkeypatch.setattr(connection_limits.Connection, "connection_lost", connection_lost)
    address = urlsplit(str(client.base_url))
    with socket.create_connection((address.hostname, address.port)) as connection:
        connection.setblocking(False)
        requests = b"GET /openapi.json HTTP/1.1\r\nHost: x\r\n\r\n" * 1000  # the answers fill all buffers
        await asyncio.get_running_loop().sock_sendall(connection, requests)
        await asyncio.wait_for(lost.wait(), 30)
    assert (await client.get("/login")).status_code == 200


async def test_an_application_that_does_not_start_is_an_error_and_no_end_of_the_process():
    """uvicorn raises SystemExit, which would leave the event loop without ending what is open."""

    @asynccontextmanager
    async def fails() -> AsyncIterator[Any]:
        raise RuntimeError("Kafka is away")
        yield

    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(RuntimeError, match="did not start"):
        await serve(create(development_gate(), fails), listener)


async def test_reasons_say_what_to_send_instead_of_a_pattern_or_a_type(client: httpx.AsyncClient):
    async def reasons(method: str, path: str, **options: Any) -> dict[str, str]:
        answer = await client.request(method, path, **options)
        assert is_problem(answer, 422)
        return {error["path"]: error["reason"] for error in answer.json()["errors"]}

    uuid = "should be a UUID, such as 123e4567-e89b-12d3-a456-426614174000"
    key = {"Idempotency-Key": "mine"}
    assert await reasons("POST", "/api/commands", json=COMMAND, headers=key) == {"header.idempotency-key": uuid}
    assert await reasons("GET", "/api/orders/order-1/commands/x") == {"path.command_id": uuid}
    cursor = "should be the value of next in an earlier answer"
    assert await reasons("GET", "/api/orders?cursor=x") == {"query.cursor": cursor}
    assert await reasons("GET", "/api/inbox?to_answer=x") == {"query.to_answer": cursor}
    order = "should have 1 to 64 letters, digits, dots, underscores and hyphens"
    assert await reasons("GET", "/api/orders/%00") == {"path.order_id": order}
    assert await reasons("GET", "/api/orders/order-1/history?limit=0") == {"query.limit": "should be at least 1"}
    assert await reasons("GET", "/api/orders/order-1?after=²") == {"query.after": "should be a whole number"}
    assert await reasons("POST", "/api/commands", json=[]) == {"body": "should be an object"}
    wrong = COMMAND | {"order_id": 1, "data": "x", "more": 1}
    assert await reasons("POST", "/api/commands", json=wrong) == {
        "body.order_id": "should be a text",
        "body.data": "should be an object",
        "body.more": "is not a field of this request: leave it out",
    }


@pytest.mark.parametrize("request_", [b"\x16\x03\x01\x02\x00\r\n\r\n", b"GET /\xff HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_what_is_no_http_is_not_quoted_as_python_writes_it(client: httpx.AsyncClient, request_: bytes):
    answer = await raw(client, request_)
    assert is_problem(answer, 400)
    assert answer.json()["detail"] == "Invalid HTTP request received: illegal request line."


@pytest.mark.parametrize("prefer", ["wait=5", "WAIT=5", 'respond-async, wait="5"', "wait = 5; x=y"])
async def test_preferences_are_read_as_rfc_7240_writes_them(client: httpx.AsyncClient, gateway: FakeDesk, prefer: str):
    await client.post("/api/commands", json=COMMAND, headers={"Prefer": prefer})
    [sent] = gateway.sent
    assert sent["wait"] == 5


async def test_refusals_of_an_address_a_method_or_a_size_say_what_to_do(client: httpx.AsyncClient):
    for method, path, allow in (
        ("DELETE", "/", "GET, HEAD"),
        ("DELETE", "/orders/order-1", "GET, HEAD, POST"),
        ("POST", "/api/orders", "GET, HEAD"),
        ("GET", "/api/commands", "POST"),
        ("GET", "/logout", "POST"),
        ("POST", "/static/page.js", "GET, HEAD"),
    ):
        answer = await client.request(method, path)
        assert is_problem(answer, 405)
        assert answer.headers["allow"] == allow
        detail = f"This address does not take {method}: use {' or '.join(allow.rsplit(', ', 1))}."
        assert answer.json()["detail"] == detail
        page = await client.request(method, path, headers={"Accept": "text/html"})
        assert (page.status_code, page.headers["allow"]) == (405, allow)
    for path in ("/nothing", "/static/nothing", "/operator"):
        missing = await client.get(path)
        assert is_problem(missing, 404)
        assert "address: /openapi.json lists the API's, the pages start at /." in missing.json()["detail"]
    large = await client.post("/login", content=b"x" * 2_000_000)
    assert is_problem(large, 413)
    assert "send less" in large.json()["detail"]


async def test_a_browser_gets_a_page_whatever_refuses_its_request(
    client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    html = {"Accept": "text/html"}
    large = await client.post("/login", content=b"x" * 2_000_000, headers=html)
    assert (large.status_code, large.headers["content-type"]) == (413, "text/html; charset=utf-8")
    assert "send less" in large.text
    monkeypatch.setattr(app, "_MAX_REQUESTS", 0)
    busy = await client.get("/login", headers=html)
    assert (busy.status_code, busy.headers["content-type"]) == (503, "text/html; charset=utf-8")
    assert busy.headers["retry-after"] == "5"


@pytest.mark.parametrize("pieces", [1, 2, 7])
@pytest.mark.parametrize(("size", "status"), [(32_768, 401), (32_769, 431), (40_000, 431), (200_000, 431)])
async def test_headers_are_too_large_however_they_arrive(
    client: httpx.AsyncClient, pieces: int, size: int, status: int
):
    head, end = b"GET /api/orders HTTP/1.1\r\nHost: x\r\nCookie: ", b"\r\n\r\n"
    request = head + b"x" * (size - len(head) - len(end)) + end
    connection = connection_limits._Requests()
    length = -(-len(request) // pieces)
    statuses = set()
    for begin in range(0, len(request), length):
        connection.receive_data(request[begin : begin + length])
        try:
            connection.next_event()
        except h11.RemoteProtocolError as error:
            statuses.add(error.error_status_hint)
            break
    assert statuses == ({431} if status == 431 else set())
    answer = await raw(client, request)
    assert is_problem(answer, status)
    if status == 431:
        assert answer.json()["detail"] == (
            "The headers have more than 32768 bytes: send less, such as fewer or smaller cookies."
        )


async def test_trailers_are_headers(client: httpx.AsyncClient):
    chunks = b"Transfer-Encoding: chunked\r\n\r\n0\r\nA: " + b"x" * 40_000 + b"\r\n\r\n"
    assert is_problem(await raw(client, FORM + chunks), 431)


@pytest.mark.parametrize("port", ["", ":8080"])
async def test_targets_in_absolute_form_are_read(client: httpx.AsyncClient, port: str):
    """RFC 9112, 3.2.2: a server must accept them, and take the host from them in place of Host."""

    async def get(target: str, more: str = "") -> httpx.Response:
        lines = f"GET {target} HTTP/1.1\r\nHost: other\r\n{more}\r\n"
        return await raw(client, lines.encode())

    assert (await get(f"http://market.example{port}/login")).status_code == 200
    assert is_problem(await get(f"HTTPS://market.example{port}/api/orders?cursor=1"), 401)
    for path in ("", "?orders=1"):
        assert is_problem(await get(f"http://market.example{port}{path}"), 401)
    for target in ("http:///login", "http:login", "ftp://market.example/login"):
        assert is_problem(await get(target), 404)
    form = b"user=ann"
    head = f"POST http://market.example{port}/login HTTP/1.1\r\nHost: other\r\n".encode()
    head += b"Content-Type: application/x-www-form-urlencoded\r\nContent-Length: %d\r\nOrigin: http://" % len(form)
    sent = await raw(client, head + f"market.example{port}\r\n\r\n".encode() + form)
    assert sent.status_code == 303
    assert is_problem(await raw(client, head + b"other\r\n\r\n" + form), 403)
