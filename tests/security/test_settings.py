"""Kafka settings in the environment: each mistake is reported before a client connects, and no secret is sent in clear."""

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    PrivateFormat,
    load_pem_private_key,
)

from services.kafka.faststream_adapter import broker_of
from services.settings import Settings, SettingsError

from .certificates import Authority

SASL_SSL = {
    "RESOLUTION_KAFKA_SERVERS": "kafka:9093",
    "RESOLUTION_KAFKA_SECURITY_PROTOCOL": "SASL_SSL",
    "RESOLUTION_KAFKA_SASL_USERNAME": "resolution",
    "RESOLUTION_KAFKA_SASL_PASSWORD": "the-secret",
}
SSL = {"RESOLUTION_KAFKA_SERVERS": "kafka:9093", "RESOLUTION_KAFKA_SECURITY_PROTOCOL": "SSL"}


def without(env: dict[str, str], *names: str) -> dict[str, str]:
    return {name: value for name, value in env.items() if name.removeprefix("RESOLUTION_KAFKA_") not in names}


def plus(env: dict[str, str], **more: object) -> dict[str, str]:
    return env | {f"RESOLUTION_KAFKA_{name}": str(value) for name, value in more.items()}


@pytest.mark.parametrize(
    ("env", "said"),
    [
        (plus(SASL_SSL, SECURITY_PROTOCOL="TLS"), "say one of PLAINTEXT, SSL, SASL_PLAINTEXT, SASL_SSL"),
        (plus(SASL_SSL, SASL_MECHANISM="GSSAPI"), "say one of SCRAM-SHA-512"),
        (without(SASL_SSL, "SASL_USERNAME"), "SASL_USERNAME is not set"),
        (
            without(SASL_SSL, "SASL_PASSWORD"),
            "either RESOLUTION_KAFKA_SASL_PASSWORD, or RESOLUTION_KAFKA_SASL_PASSWORD_FILE",
        ),
        (plus(SASL_SSL, SASL_PASSWORD_FILE="{file}"), "one of the two"),
        (plus(without(SASL_SSL, "SASL_PASSWORD"), SASL_PASSWORD_FILE="{empty}"), "which is empty"),
        (plus(SASL_SSL, TLS_CA_FILE="/nowhere/ca.crt"), "no file that can be read (No such file or directory)"),
        (plus(SASL_SSL, TLS_CA_FILE="{file}"), "holds no certificate in PEM"),
        (plus(SSL, TLS_CERTIFICATE_FILE="{certificate}"), "go together"),
        (
            plus(SSL, TLS_CERTIFICATE_FILE="{certificate}", TLS_KEY_FILE="{other_key}"),
            "aren't a certificate and its unencrypted key",
        ),
        (plus(SSL, TLS_CERTIFICATE_FILE="{certificate}", TLS_KEY_FILE="{encrypted}"), "unencrypted"),
        (without(SASL_SSL, "SECURITY_PROTOCOL"), "says nothing while RESOLUTION_KAFKA_SECURITY_PROTOCOL is PLAINTEXT"),
        (plus({}, TLS_CA_FILE="{ca}"), "says nothing while"),
        (without(SASL_SSL, "SERVERS"), "RESOLUTION_KAFKA_SERVERS names no cluster"),
    ],
)
def test_a_mistake_is_told_with_what_to_do(tmp_path: Path, env: dict[str, str], said: str):
    authority = Authority(tmp_path)
    one, other = authority.issue("one"), authority.issue("other")
    file, empty, encrypted = (tmp_path / name for name in ("file", "empty", "encrypted"))
    file.write_text("the-secret-in-a-file")
    empty.write_text("\n")
    key = load_pem_private_key(one.key.read_bytes(), None)
    encrypted.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"unknown")))
    places = {"certificate": one.certificate, "other_key": other.key, "encrypted": encrypted, "ca": authority.file}
    places |= {"file": file, "empty": empty}
    with pytest.raises(SettingsError) as told:
        Settings.from_environment({name: value.format(**places) for name, value in env.items()})
    assert said in str(told.value)
    assert "the-secret" not in str(told.value)


def test_every_client_gets_what_the_environment_says(tmp_path: Path):
    authority = Authority(tmp_path)
    client = authority.issue("client")
    env = plus(
        SASL_SSL,
        SASL_MECHANISM="SCRAM-SHA-256",
        TLS_CA_FILE=authority.file,
        TLS_CERTIFICATE_FILE=client.certificate,
        TLS_KEY_FILE=client.key,
    )
    settings = Settings.from_environment(env)
    options = settings.cluster.options
    assert (options["security_protocol"], options["sasl_mechanism"]) == ("SASL_SSL", "SCRAM-SHA-256")
    assert (options["sasl_plain_username"], options["sasl_plain_password"]) == ("resolution", "the-secret")
    assert options["ssl_context"].check_hostname
    assert Settings.from_environment(settings.as_environment()).kafka_security == settings.kafka_security
    assert "the-secret" not in repr(settings)
    assert "the-secret" not in repr(settings.cluster)


def test_a_password_file_is_read_anew_for_each_client(tmp_path: Path):
    file = tmp_path / "password"
    file.write_text("first\n")
    env = plus(without(SASL_SSL, "SASL_PASSWORD"), SASL_PASSWORD_FILE=file)
    cluster = Settings.from_environment(env).cluster
    assert cluster.options["sasl_plain_password"] == "first"
    file.write_text("second\n")
    assert cluster.options["sasl_plain_password"] == "second"


@pytest.mark.parametrize("mechanism", ["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"])
def test_faststream_gets_the_same(mechanism: str):
    settings = Settings.from_environment(plus(SASL_SSL, SASL_MECHANISM=mechanism))
    builder = broker_of(settings.cluster).config.broker_config.builder
    assert isinstance(builder, partial)
    made = builder.keywords
    theirs = {name: made.get(name) for name in settings.cluster.options}
    assert theirs | {"ssl_context": None} == settings.cluster.options | {
        "ssl_context": None,
        "bootstrap_servers": ["kafka:9093"],
    }


def test_no_client_is_made_elsewhere():
    """Whoever names servers by hand makes a client that knows no TLS and no password."""
    places = [file for folder in ("services", "projections") for file in Path(folder).rglob("*.py")]
    naming = {str(file) for file in places if "bootstrap_servers" in file.read_text()}
    assert naming == {"services/kafka/cluster.py"}
    naming = {str(file) for file in places if "settings.kafka," in file.read_text()}
    assert naming == {"services/runtime/serve.py"}  # tells people where
    making = {str(file) for file in places if "KafkaBroker(" in file.read_text()}
    assert making == {"services/kafka/faststream_adapter.py"}


def test_the_command_line_tells_a_mistake_and_ends_with_2():
    env = os.environ | without(SASL_SSL, "SASL_USERNAME")
    done = subprocess.run([sys.executable, "-m", "services", "migrate"], env=env, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("resolution: RESOLUTION_KAFKA_SECURITY_PROTOCOL is SASL_SSL, but")
