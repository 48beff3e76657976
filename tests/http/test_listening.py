"""Where the role may listen: without an issuer on loopback only, unless somebody says that this is safe."""

import socket
from dataclasses import replace
from datetime import UTC, datetime
from fractions import Fraction
from pathlib import Path

import httpx
import pytest

from services.clock import Clock
from services.http.listening import listen
from services.http.role import run
from services.http.viewers import Gate
from services.kafka.topics import Topics
from services.runtime.supervisor import Supervisor
from services.settings import Settings, SettingsError
from tests.support.installation import Installation


async def test_without_an_issuer_it_refuses_to_listen_beyond_loopback():
    clock = Clock(datetime.now(UTC), Fraction(1))
    with pytest.raises(SettingsError, match="anybody could log in as anybody"):
        await run(Settings(http_host="0.0.0.0"), Topics("test."), clock, print)


def test_a_port_in_use_is_said_in_one_sentence():
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(SettingsError) as refused:
            listen("127.0.0.1", port, "RESOLUTION_HTTP_PORT")
    assert str(refused.value) == (
        f"Cannot listen on 127.0.0.1:{port} (Address already in use). Set RESOLUTION_HTTP_PORT to another port, "
        "or end the program that uses it."
    )


async def test_a_container_may_say_that_its_port_is_on_loopback(installation: Installation):
    settings = replace(installation.settings, http_host="0.0.0.0", http_development_login_anywhere=True)
    installation.supervisor = Supervisor(settings)
    await installation.run("http")
    async with httpx.AsyncClient() as client:
        assert (await client.get(installation.url.replace("0.0.0.0", "127.0.0.1") + "/login")).status_code == 200


def test_what_it_says_has_to_be_one_of_two_words():
    variable = "RESOLUTION_HTTP_DEVELOPMENT_LOGIN"
    assert Settings.from_environment({variable: "loopback"}).http_development_login_anywhere is False
    anywhere = Settings.from_environment({variable: "anywhere"})
    assert Settings.from_environment(anywhere.as_environment()) == anywhere
    with pytest.raises(SettingsError, match="or anywhere"):
        Settings.from_environment({variable: "yes"})


@pytest.mark.parametrize(
    ("url", "known"),
    [
        ("https://Market.example", "https://market.example"),
        ("https://market.example:443/", "https://market.example"),
        ("http://market.example:8443/a/resolution/", "http://market.example:8443/a/resolution"),
        ("http://[::1]:80/Resolution", "http://[::1]/Resolution"),
        ("", None),
    ],
)
def test_the_public_url_is_known_as_browsers_write_it(url: str, known: str | None):
    settings = Settings.from_environment({"RESOLUTION_HTTP_PUBLIC_URL": url})
    assert settings.http_public_url == known
    assert Settings.from_environment(settings.as_environment()) == settings


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        *(
            ("RESOLUTION_HTTP_PUBLIC_URL", url)
            for url in (
                "market.example",
                "ftp://x",
                "https://",
                "https://u@x",
                "https://x/?a",
                "https://x//a",
                "//x",
                "http://[",
            )
        ),
        ("RESOLUTION_JWT_JWKS_URL", "file:///etc/passwd"),
        ("RESOLUTION_HTTP_PORT", "\u00b2"),
        ("RESOLUTION_METRICS_PORT", "\u00b2"),
    ],
)
def test_what_cannot_be_used_is_refused_with_an_example(variable: str, value: str):
    with pytest.raises(SettingsError, match=f"{variable} is .*; give "):
        Settings.from_environment({variable: value})


async def test_a_key_file_has_to_hold_a_key(tmp_path: Path):
    file = tmp_path / "key"
    for text in ("", "nonsense", "{}", '{"keys": []}', "{", '{"keys": [1]}', "-----BEGIN PUBLIC KEY-----"):
        file.write_text(text)
        with pytest.raises(SettingsError, match="neither a PEM public key nor a JWKS"):
            Gate(jwks_url=None, key_file=file, issuer=None, audience=None)


def test_where_people_log_in_has_to_be_a_url():
    variable = "RESOLUTION_HTTP_LOGIN_URL"
    known = Settings.from_environment({variable: "https://market.example/login"})
    assert Settings.from_environment(known.as_environment()) == known
    with pytest.raises(SettingsError, match="where people log in"):
        Settings.from_environment({variable: "market.example"})
