"""Whose token it is: clocks that differ, scopes, what a stranger sends for a token, an issuer that changes or is away."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from fastapi import Request
from hypothesis import given
from hypothesis import strategies as st
from jwt.algorithms import ECAlgorithm, RSAAlgorithm

from services.http import token_keys
from services.http.problems import Problem
from services.http.viewers import Gate
from tests.support.installation import until

KEY, OTHER = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
RSA = rsa.generate_private_key(65537, 2048)


def token(key: Any = KEY, key_id: str | None = None, algorithm: str = "ES256", **claims: Any) -> str:
    known = {"sub": "ann", "exp": time.time() + 600}
    return jwt.encode(known | claims, key, algorithm, headers={"kid": key_id} if key_id else None)


async def who(gate: Gate, token: str) -> str | int:
    """The viewer's id, with a star for an operator, or the status of the problem."""
    headers = [(b"authorization", f"Bearer {token}".encode("latin-1"))]
    try:
        viewer = await gate.viewer(Request({"type": "http", "headers": headers}))
        return viewer.user + "*" * viewer.operator
    except Problem as problem:
        return problem.status if problem.status != 503 or problem.headers == {"Retry-After": "10"} else 500


def with_file(folder: Path, text: str) -> Gate:
    file = folder / "key"
    file.write_text(text)
    return Gate(jwks_url=None, key_file=file, issuer=None, audience=None)


def jwks(**known: Any) -> str:
    """A JWKS with these keys, by id."""
    keys = []
    for key_id, key in known.items():
        algorithm = RSAAlgorithm if isinstance(key, rsa.RSAPrivateKey) else ECAlgorithm
        keys.append(algorithm.to_jwk(key.public_key(), as_dict=True) | {"kid": key_id})
    return json.dumps({"keys": keys})


@pytest.fixture
def gate(tmp_path: Path) -> Gate:
    pem = KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return with_file(tmp_path, pem.decode())


async def test_clocks_may_differ_by_30_seconds(gate: Gate):
    now = time.time()
    for claims in ({"exp": now - 20}, {"nbf": now + 20}, {"iat": now + 20}):
        assert await who(gate, token(**claims)) == "ann"
    for claims in ({"exp": now - 40}, {"nbf": now + 40}, {"iat": now + 40}):
        assert await who(gate, token(**claims)) == 401


async def test_only_the_scope_makes_an_operator(gate: Gate):
    for scope in ("resolution:operator", "openid resolution:operator", ["openid", "resolution:operator"]):
        assert await who(gate, token(scope=scope)) == "ann*"
    for claims in (
        {"operator": True},
        {"scope": "resolution:operators"},
        {"scope": [["resolution:operator"], {}, 1]},
        {"scope": {"resolution:operator": True}},
        {"scope": None},
    ):
        assert await who(gate, token(**claims)) == "ann"


async def test_who_logs_in_for_development_is_what_was_said():
    gate = Gate(jwks_url=None, key_file=None, issuer=None, audience=None)
    assert await who(gate, gate.token_for("ann", operator=False)) == "ann"
    assert await who(gate, gate.token_for("op", operator=True)) == "op*"


async def test_what_names_no_user_or_no_key_of_its_kind_is_refused(gate: Gate, tmp_path: Path):
    for sub in ("", "\0", "a\0b", "\ud800", "x" * 201):
        assert await who(gate, token(sub=sub)) == 401
    both = with_file(tmp_path, jwks(one=KEY, two=RSA))
    assert await who(both, token(key_id="one")) == "ann"
    assert await who(both, token(RSA, "two", "PS256")) == "ann"
    assert await who(both, token(RSA, "one", "RS256")) == 401  # an EC key's id
    assert await who(both, token(KEY, "two")) == 401
    assert await who(both, token(OTHER, "one")) == 401
    assert await who(both, token(key_id="three")) == 401
    assert await who(both, token()) == 401


_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["alg", "kid", "typ", "crit", "b64", "x"]), inner)
    ),
    max_leaves=6,
)
_HEADERS = st.fixed_dictionaries(
    {"alg": st.sampled_from(["ES256", "RS256", "EdDSA", "HS256", "none"]) | _JSON},
    optional={"kid": st.just("one") | _JSON, "crit": _JSON, "b64": _JSON, "typ": _JSON},
)


def _segment(content: Any) -> str:
    return base64.urlsafe_b64encode(content if isinstance(content, bytes) else json.dumps(content).encode()).decode()


@given(
    st.text(st.characters(max_codepoint=255), max_size=30)
    | st.tuples(_HEADERS | _JSON, _JSON | st.just({"sub": "ann"}), st.binary(max_size=70)).map(
        lambda parts: ".".join(map(_segment, parts)).replace("=", "")
    )
)
def test_whatever_is_sent_for_a_token_is_refused(tmp_path_factory: pytest.TempPathFactory, sent: str):
    gate = with_file(tmp_path_factory.getbasetemp(), jwks(one=KEY, two=RSA))
    assert asyncio.run(who(gate, sent)) == 401


async def test_a_deep_token_is_refused(gate: Gate):
    deep = _segment(b'{"alg":' + b"[" * 10_000)
    for sent in (f"{deep}.e30.e30", f"{_segment({'alg': 'ES256'})}.{deep}.e30"):
        assert await who(gate, sent) == 401


class Issuer:
    """Serves a JWKS, hangs, or fails, and counts how often it was asked."""

    def __init__(self) -> None:
        self.jwks, self.status, self.asked = jwks(one=KEY), 200, 0
        self.hangs = asyncio.Event()
        self.hangs.set()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.asked += 1
        await self.hangs.wait()
        body = self.jwks.encode()
        writer.write(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % (self.status, len(body)))
        writer.write(body)
        writer.close()


@asynccontextmanager
async def an_issuer() -> AsyncIterator[tuple[Issuer, Gate]]:
    issuer = Issuer()
    async with await asyncio.start_server(issuer.answer, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/jwks"
        gate = Gate(jwks_url=url, key_file=None, issuer=None, audience=None)
        async with gate.open():
            yield issuer, gate
        issuer.hangs.set()


async def test_a_key_that_left_the_jwks_is_refused_and_a_new_one_is_found(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(token_keys, "_REFRESH_EVERY_SECONDS", 0.01)
    async with an_issuer() as (issuer, gate):
        assert await who(gate, token(key_id="one")) == "ann"
        issuer.jwks = jwks(two=OTHER)
        await until(lambda: _is(gate, token(key_id="one"), 401))
        assert await who(gate, token(OTHER, "two")) == "ann"
        issuer.jwks = '{"keys": []}'
        await until(lambda: _is(gate, token(OTHER, "two"), 401))


async def _is(gate: Gate, token: str, expected: Any) -> bool:
    return await who(gate, token) == expected


async def test_an_unknown_key_has_the_jwks_fetched_once(monkeypatch: pytest.MonkeyPatch):
    async with an_issuer() as (issuer, gate):
        assert await who(gate, token(key_id="one")) == "ann"
        strangers = [token(OTHER, f"unknown-{n}") for n in range(20)]
        assert [await who(gate, sent) for sent in strangers] == [401] * 20
        assert issuer.asked == 1  # a moment ago
        monkeypatch.setattr(token_keys, "_SHORTEST_PAUSE_SECONDS", 0.0)
        issuer.jwks = jwks(one=KEY, two=OTHER)
        found = await asyncio.gather(*(who(gate, token(OTHER, "two")) for _ in range(20)))
        assert found == ["ann"] * 20
        assert issuer.asked == 2


async def test_while_the_issuer_is_away_known_keys_count_for_a_while(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(token_keys, "_REFRESH_EVERY_SECONDS", 0.01)
    monkeypatch.setattr(token_keys, "_SHORTEST_PAUSE_SECONDS", 0.01)
    async with an_issuer() as (issuer, gate):
        issuer.status = 500
        assert await who(gate, token(key_id="one")) == 503
        issuer.status, asked = 200, issuer.asked
        await until(lambda: _is(gate, token(key_id="one"), "ann"))
        issuer.jwks, asked = "<html>Down</html>", issuer.asked
        await until(lambda: issuer.asked > asked + 1)
        assert await who(gate, token(key_id="one")) == "ann"
        assert await who(gate, token(OTHER, "two")) == 503
        monkeypatch.setattr(token_keys, "_KEPT_WITHOUT_ISSUER_SECONDS", 0.0)
        assert await who(gate, token(key_id="one")) == 503


async def test_an_issuer_that_hangs_keeps_nobody_waiting_whose_key_is_known(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(token_keys, "_SHORTEST_PAUSE_SECONDS", 0.0)
    monkeypatch.setattr(token_keys, "_LONGEST_FETCH_SECONDS", 0.3)
    async with an_issuer() as (issuer, gate):
        assert await who(gate, token(key_id="one")) == "ann"
        issuer.hangs.clear()
        strangers = [asyncio.create_task(who(gate, token(OTHER, "two"))) for _ in range(50)]
        await until(lambda: issuer.asked == 2)
        assert await asyncio.to_thread(lambda: "read") == "read"  # as the database is read
        assert await who(gate, token(key_id="one")) == "ann"
        assert not any(stranger.done() for stranger in strangers)
        assert await asyncio.gather(*strangers) == [503] * 50
