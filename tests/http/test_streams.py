"""Streams of changes start from what is shown and end with the viewer's token, without servers."""

import asyncio
import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from services.http.viewers import Gate
from tests.http.without_servers import OneOrder, pages_of
from tests.support.controls import CLIENT, opened, order_update

KEY = ec.generate_private_key(ec.SECP256R1())


def gate(folder: Path, login_url: str | None = None) -> Gate:
    key_file = folder / "key.pem"
    key_file.write_bytes(KEY.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    return Gate(jwks_url=None, key_file=key_file, issuer=None, audience=None, login_url=login_url)


def token(user: str, *, good_for_seconds: float = 60) -> str:
    """The gate takes a token for 30 s longer, since clocks may differ."""
    return jwt.encode({"sub": user, "exp": time.time() - 30 + good_for_seconds}, KEY, "ES256")


async def test_a_stream_says_what_changed_since_the_page_and_ends_with_its_token(tmp_path: Path):
    gateway = OneOrder()
    async with pages_of(gateway, CLIENT, gate=gate(tmp_path)) as browser:
        browser.headers["Authorization"] = f"Bearer {token(CLIENT)}"
        list_as_shown = (await browser.get("/")).text.partition('data-shown="')[2].partition('"')[0]
        gateway.judge(opened(order_update()))
        browser.headers["Authorization"] = f"Bearer {token(CLIENT, good_for_seconds=2)}"
        shown = ["orders?shown=" + list_as_shown, *(f"orders/order-1?shown={version}" for version in (1, 2, 3))]
        streams = await asyncio.gather(*(browser.get(f"/live/{stream}") for stream in shown))
        assert {stream.headers["content-type"].partition(";")[0] for stream in streams} == {"text/event-stream"}
        assert [stream.text.count("event: changed") for stream in streams] == [1, 1, 0, 0]
        assert (await browser.get("/live/orders/order-1?shown=1")).status_code == 401


async def test_whoever_has_no_valid_token_of_an_issuer_is_led_where_one_gets_it(tmp_path: Path):
    for login_url in (None, "https://market.example/login"):
        async with pages_of(OneOrder(), CLIENT, gate=gate(tmp_path, login_url)) as browser:
            for headers in ({}, {"Authorization": "Bearer e30.e30."}):
                page = await browser.get("/orders/order-1", headers=headers, follow_redirects=False)
                assert page.headers.get("location") == login_url
                if login_url is None:
                    assert page.status_code == 401
                    assert "Log in first, then open this page again." in page.text
                form = {"message": "How is it going?"}
                page = await browser.post("/orders/order-1", headers=headers, data=form)
                assert page.status_code == 401
                assert form["message"] in page.text
                assert f'<a href="{login_url or ""}">' in page.text
