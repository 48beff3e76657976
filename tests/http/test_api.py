"""The API: reading by viewer, one's own writes, live updates, commands; and what a stranger gets."""

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.runtime.supervisor import Supervisor
from tests.support.commands import CLIENT, FREELANCER, offer_refund, register
from tests.support.installation import Installation, until

ALL = ("commands", "relay", "projections", "http")
KEY = ec.generate_private_key(ec.SECP256R1())
ISSUER, AUDIENCE = "https://issuer.example", "resolution"
UPDATE = {"request": {"kind": "order_update", "message": "How is it going?"}}
EXTENSION = {"request": {"kind": "delivery_extension", "days": 3, "note": "Late."}}


def token(user: str, key: Any = KEY, **claims: Any) -> str:
    known = {"sub": user, "exp": time.time() + 600, "iss": ISSUER, "aud": AUDIENCE}
    return jwt.encode(known | claims, key, "ES256")


def bearer(user: str, **claims: Any) -> dict[str, str]:
    return {"Authorization": f"Bearer {token(user, **claims)}"}


@pytest.fixture
async def api(installation: Installation, tmp_path: Path) -> AsyncIterator[httpx.AsyncClient]:
    key_file = tmp_path / "key.pem"
    key_file.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    installation.settings = replace(
        installation.settings, jwt_key_file=key_file, jwt_issuer=ISSUER, jwt_audience=AUDIENCE
    )
    installation.supervisor = Supervisor(installation.settings)
    await installation.run(*ALL)
    await installation.send("order-1", register())
    await until(lambda: installation.page("order-1"))
    async with httpx.AsyncClient(base_url=installation.url, headers=bearer(CLIENT), timeout=20) as client:
        yield client


async def _send(api: httpx.AsyncClient, command: str, data: Any, *, user: str = CLIENT, **headers: str) -> Any:
    body = {"order_id": "order-1", "command": command, "data": data}
    return await api.post("/api/commands", json=body, headers=bearer(user) | {"Prefer": "wait=10"} | headers)


async def test_a_client_reads_its_own_writes(api: httpx.AsyncClient):
    sent = await _send(api, "OpenDispute", UPDATE)
    assert sent.status_code == 200
    position = sent.json()["position"]
    page = (await api.get(f"/api/orders/order-1?after={position}")).json()
    dispute = page["open_dispute"]["dispute_id"]
    assert sent.headers["location"] == f"/api/orders/order-1/commands/{dispute}"
    assert (await api.get(sent.headers["location"])).json()["causationid"] == dispute
    for party in ("inbox", "metrics"):
        assert (await api.get(f"/api/{party}?after={position}")).status_code == 200
    inbox = (await api.get("/api/inbox", headers=bearer(FREELANCER))).json()
    assert [line["dispute_id"] for line in inbox["to_answer"]] == [dispute]
    [withdraw] = [a for a in page["available_actions"]["client"] if a["command"] == "Withdraw"]
    assert (await _send(api, "Withdraw", withdraw["send"]["data"])).status_code == 200
    assert (await api.get(withdraw["schema"])).json()["required"] == ["actor", "dispute_id"]


async def test_an_idempotency_key_is_the_command_id_in_any_letter_case(api: httpx.AsyncClient):
    key = str(uuid4())
    first = await _send(api, "OpenDispute", UPDATE, **{"Idempotency-Key": key})
    for spelled in (key, key.upper()):
        again = (await _send(api, "OpenDispute", UPDATE, **{"Idempotency-Key": spelled})).json()
        assert again["data"].pop("duplicate") is True
        assert (again["causationid"], again["position"]) == (key, first.json()["position"])
        assert first.json()["data"]["events"] == again["data"]["events"]
        looked_up = await api.get(f"/api/orders/order-1/commands/{spelled}")
        assert looked_up.json()["id"] == f"order-1:{key}"
    other = await _send(api, "OpenDispute", EXTENSION, **{"Idempotency-Key": key})
    assert other.json()["data"]["code"] == "command_id_reused"


async def test_an_outcome_comes_from_the_store_before_the_relay_publishes_it(
    api: httpx.AsyncClient, installation: Installation
):
    await installation.stop("relay", "commands")
    # As if the topic had been renewed: from here on, the store's offsets are not those of the topic.
    installation.query("UPDATE positions SET base = 1000, next_offset = next_offset + 1000 WHERE consumer = 'commands'")
    await installation.run("commands")
    key = str(uuid4())
    first = await _send(api, "OpenDispute", UPDATE, **{"Idempotency-Key": key})
    assert first.status_code == 200
    found = await api.get(first.headers["location"])
    assert found.json() == first.json()
    for data in (UPDATE, EXTENSION):  # a repeat and another use have outcomes of their own, which the relay publishes
        again = await _send(api, "OpenDispute", data, **{"Idempotency-Key": key, "Prefer": "wait=2"})
        assert (again.status_code, set(again.json())) == (202, {"command_id"})
    in_capitals = await _send(api, "OpenDispute", UPDATE, **{"Idempotency-Key": str(uuid4()).upper()})
    assert (in_capitals.status_code, in_capitals.json()["data"]["code"]) == (200, "dispute_open")


async def test_an_outcome_that_kafka_has_of_another_record_under_the_same_id_is_not_given(
    api: httpx.AsyncClient, installation: Installation
):
    await installation.stop("relay")
    key = {"Idempotency-Key": str(uuid4())}
    first = await _send(api, "OpenDispute", UPDATE, **key)
    await installation.stop("http")
    await installation.run("http")  # a process that knows nothing of the first request, as with two replicas
    async with httpx.AsyncClient(base_url=installation.url, timeout=30) as other:
        sending = [
            asyncio.create_task(_send(other, "OpenDispute", data, **key, Prefer="wait=20"))
            for data in (EXTENSION, UPDATE)
        ]
        await until(
            lambda: installation.query("SELECT count(*) FROM outcomes WHERE kind IN ('repeated', 'reused')") == [(2,)]
        )
        await installation.run("relay")
        reused, repeated = [answer.json() for answer in await asyncio.gather(*sending)]
    assert reused["data"]["code"] == "command_id_reused"
    assert repeated["data"] == first.json()["data"] | {"duplicate": True}
    assert repeated["position"] == first.json()["position"]


async def test_a_refusal_is_an_outcome_and_a_command_without_wait_is_only_taken(api: httpx.AsyncClient):
    refused = await _send(api, "OpenDispute", EXTENSION)
    assert (refused.status_code, refused.json()["data"]["code"]) == (200, "not_allowed")
    nul = await _send(api, "OpenDispute", {"request": {"kind": "order_update", "message": "\0"}})
    assert (nul.status_code, nul.json()["data"]["code"]) == (200, "invalid")
    taken = await _send(api, "OpenDispute", UPDATE, Prefer="")
    assert (taken.status_code, set(taken.json())) == (202, {"command_id"})


async def test_etags_do_not_change_with_the_clock(api: httpx.AsyncClient):
    for path in ("/api/orders/order-1", "/api/orders", "/api/inbox", "/api/metrics"):
        etag = (await api.get(path)).headers["etag"]
        await asyncio.sleep(0.01)
        assert (await api.get(path, headers={"If-None-Match": etag})).status_code == 304
    etag = (await api.get("/api/orders/order-1")).headers["etag"]
    position = (await _send(api, "OpenDispute", UPDATE)).json()["position"]
    changed = await api.get(f"/api/orders/order-1?after={position}", headers={"If-None-Match": etag})
    assert changed.status_code == 200


async def test_history_comes_in_pages(api: httpx.AsyncClient, installation: Installation):
    await installation.send("order-1", offer_refund())
    first = (await api.get("/api/orders/order-1/history?limit=1")).json()
    assert [event["sequence"] for event in first["events"]] == [1]
    rest = (await api.get(f"/api/orders/order-1/history?cursor={first['next']}")).json()
    assert [event["sequence"] for event in rest["events"]] == [2]
    assert rest["next"] is None
    assert "minor_dissatisfaction" not in json.dumps(rest)


async def test_live_updates_go_on_behind_the_last_one_seen(api: httpx.AsyncClient, installation: Installation):
    await _send(api, "OpenDispute", UPDATE)
    assert await _first_event(api, "/api/orders/order-1/live", {"Last-Event-ID": "1"}) == "2"
    known = await _first_event(api, "/api/inbox/live", {})
    waiting = asyncio.create_task(_first_event(api, "/api/inbox/live", {"Last-Event-ID": known}))
    await asyncio.sleep(1.5)
    assert not waiting.done()
    await installation.send("order-2", register())
    other = {"order_id": "order-2", "command": "OpenDispute", "data": UPDATE}
    assert (await api.post("/api/commands", json=other, headers={"Prefer": "wait=10"})).status_code in (200, 404)
    await until(lambda: installation.page("order-2"))
    await api.post("/api/commands", json=other, headers={"Prefer": "wait=10"})
    assert await asyncio.wait_for(waiting, 10) != known


async def _first_event(api: httpx.AsyncClient, path: str, headers: dict[str, str]) -> str:
    async with api.stream("GET", path, headers=headers) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("id: "):
                return line.removeprefix("id: ")
    raise AssertionError("the stream ended")


FORGED = ec.generate_private_key(ec.SECP256R1())


async def test_a_stranger_gets_nothing(api: httpx.AsyncClient):
    """No token, a forged, expired or foreign one, another party's order, an operator who acts."""
    paths = ["/api/orders/order-1", "/api/orders/order-1/history", "/api/orders/order-1/live", "/api/orders/unknown"]
    for headers, status in (
        ({"Authorization": ""}, 401),
        (bearer(CLIENT, key=FORGED), 401),
        (bearer(CLIENT, exp=time.time() - 60), 401),
        (bearer(CLIENT, aud="another"), 401),
        (bearer(CLIENT, iss="https://another.example"), 401),
        ({"Authorization": "Bearer " + jwt.encode({"sub": CLIENT, "exp": time.time() + 60}, "x" * 40, "HS256")}, 401),
        ({"Authorization": "Bearer e30.e30."}, 401),
        (bearer("somebody"), 404),
    ):
        for path in paths:
            answer = await api.get(path, headers=headers)
            assert answer.status_code == status, (headers, path)
            assert answer.headers["content-type"] == "application/problem+json"
            assert CLIENT not in answer.text
            assert FREELANCER not in answer.text
    body = {"order_id": "order-1", "command": "OpenDispute", "data": UPDATE}
    assert (await api.post("/api/commands", json=body, headers=bearer("somebody"))).status_code == 404
    acting = body | {"data": UPDATE | {"actor": FREELANCER}}
    assert (await api.post("/api/commands", json=acting)).status_code == 403
    fact = body | {"command": "RecordCompletion", "data": {}}
    assert (await api.post("/api/commands", json=fact)).status_code == 422
    assert (await api.get("/api/overview")).status_code == 403
    as_operator = bearer("op", scope="resolution:operator")
    assert (await api.get("/api/overview", headers=as_operator)).status_code == 200
    assert (await api.post("/api/commands", json=body, headers=as_operator)).status_code == 403


@pytest.mark.timeout(400)
async def test_no_answer_is_outside_the_openapi_document(
    api: httpx.AsyncClient, installation: Installation, tmp_path: Path
):
    """Schemathesis sends what fits the document and what does not, one request after the other and in sequences."""
    assert (await api.get("/openapi.json")).json()["openapi"].startswith("3.1")
    options = [
        "--exclude-path-regex=/live$",  # they do not end
        "--checks=all",
        "--exclude-checks=positive_data_acceptance",
        "--phases=examples,coverage,fuzzing,stateful",
        "--mode=all",
        "--max-examples=8",
        "--seed=1",
        "--generation-database=none",
        "--no-shrink",
        "--suppress-health-check=all",
        "--request-retries=3",  # a connection that was idle may just be closed
        "--request-timeout=60",
        "--warnings=off",
        "--no-color",
        f"--header=Authorization: {bearer(CLIENT)['Authorization']}",
    ]
    program = await asyncio.create_subprocess_exec(
        Path(sys.executable).absolute().with_name("schemathesis"),
        "run",
        f"{installation.url}/openapi.json",
        *options,
        cwd=tmp_path,  # it keeps what it finds
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    said, _ = await program.communicate()
    assert program.returncode == 0, said.decode()
    for phase in ("Examples", "Coverage", "Fuzzing", "Stateful"):
        assert f"\u2705  {phase}" in said.decode(), said.decode()
