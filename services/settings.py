"""The settings, read from environment variables once at the start. No layer below reads the environment."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime
from fractions import Fraction
from functools import cached_property
from pathlib import Path

import psycopg
from psycopg.conninfo import conninfo_to_dict
from resolution_contracts import topics

from .environment import SettingsError, readable_file
from .kafka.cluster import REQUEST_TIMEOUT_MS, SHORTEST_REQUEST_TIMEOUT_MS, Cluster
from .kafka.security import PLAINTEXT, KafkaSecurity
from .sealing.master_keys import MasterKeyError, MasterKeys
from .shards.arithmetic import ALONE, Shard
from .telemetry.logs import LogFormat

__all__ = ["Settings", "SettingsError"]

_PUBLIC_URL = re.compile(r"(https?)://([a-z0-9.-]+|\[[0-9a-f:]+\])(:[0-9]{1,5})?((?:/[a-z0-9._~-]+)*)/?", re.IGNORECASE)
_TOPIC_PREFIX = re.compile(r"[A-Za-z0-9._-]{0,200}")
_BOOTSTRAP_SERVER = re.compile(r"(?:[^\s:/@\[\]]+|\[[0-9A-Fa-f:.]+\]):([0-9]{1,5})")
_DEFAULT_PORTS = {"http": ":80", "https": ":443"}


@dataclass(frozen=True)
class Settings:
    """The checked settings."""

    database_url: str | None = field(default=None, repr=False)  # it may have a password
    """One URL, or the shards' URLs in their order, separated by spaces. None starts the embedded PostgreSQL."""
    shard: Shard = ALONE
    """Which shard `database_url` is, in one of `shards`."""
    only_shard: int | None = None
    """The number of the shard that this process's roles work on; None for all."""
    kafka_servers: str | None = None
    """The bootstrap servers. None starts the embedded Kafka."""
    kafka_security: KafkaSecurity = PLAINTEXT
    """How to connect to Kafka: TLS, SASL and credentials."""
    kafka_request_timeout_ms: int = REQUEST_TIMEOUT_MS
    """After how many milliseconds a Kafka client gives up on a request."""
    topic_prefix: str = topics.PREFIX
    """What the names of all topics begin with."""
    time_scale: Fraction = Fraction(1)
    """Business seconds per real second."""
    time_origin: datetime | None = None
    """The real instant at which business time begins to run faster; None for the one that the database has stored."""
    http_port: int = 8080
    """The port of the pages and the API; 0 for a free one."""
    http_host: str = "127.0.0.1"
    """The address that the http role listens on."""
    http_development_login_anywhere: bool = False
    """Whether the development login works beyond loopback: for a container, whose published port is not loopback."""
    http_public_url: str | None = None
    """The address of the pages behind a proxy: origin and path, without a slash at the end."""
    http_login_url: str | None = None
    """The marketplace's page where people log in."""
    jwt_jwks_url: str | None = None
    """The URL of the keys that verify tokens."""
    jwt_key_file: Path | None = None
    """A file with the key that verifies tokens."""
    jwt_issuer: str | None = None
    """The issuer that tokens must have."""
    jwt_audience: str | None = None
    """The audience that tokens must have."""
    data_dir: Path | None = None
    """The folder of the embedded servers."""
    metrics_port: int | None = None
    """The port of the first role's metrics; None for no metrics."""
    metrics_host: str = "127.0.0.1"
    """The address that metrics are served on."""
    log_format: LogFormat | None = None
    """`json` or `text`; None chooses by whether a terminal reads the log."""
    checkpoint_key_file: Path | None = None
    """The private key that signs checkpoints."""
    checkpoint_next_key_file: Path | None = None
    """The public key that checkpoints announce as the next one."""
    checkpoint_file: Path | None = None
    """The file that gets a copy of each checkpoint."""
    checkpoint_events: int = 10_000
    """How many events a checkpoint covers at most."""
    checkpoint_seconds: float = 60.0
    """How many seconds pass at most before new events get a checkpoint."""
    master_key: str | None = field(default=None, repr=False)
    """The master keys, newest first."""
    master_key_file: Path | None = None
    """A file with the master keys, newest first."""

    @classmethod
    def from_environment(cls, env: Mapping[str, str] = os.environ) -> "Settings":
        """Reads and checks the variables. Raises SettingsError."""
        database_url = _database_url(env.get("RESOLUTION_DATABASE_URL"))
        data_dir = env.get("RESOLUTION_DATA_DIR")
        checkpoint_file = env.get("RESOLUTION_CHECKPOINT_FILE")
        settings = cls(
            database_url=database_url,
            only_shard=_only_shard(env.get("RESOLUTION_SHARD"), database_url),
            kafka_servers=_kafka_servers(env.get("RESOLUTION_KAFKA_SERVERS")),
            kafka_security=KafkaSecurity.from_environment(env),
            kafka_request_timeout_ms=_request_timeout_ms(env.get("RESOLUTION_KAFKA_REQUEST_TIMEOUT_MS")),
            topic_prefix=_topic_prefix(env.get("RESOLUTION_TOPIC_PREFIX", topics.PREFIX)),
            time_scale=_time_scale(env.get("RESOLUTION_TIME_SCALE") or "1"),
            time_origin=_time_origin(env.get("RESOLUTION_TIME_ORIGIN")),
            http_port=_port(env.get("RESOLUTION_HTTP_PORT") or "8080"),
            http_host=env.get("RESOLUTION_HTTP_HOST") or "127.0.0.1",
            http_development_login_anywhere=_anywhere(env.get("RESOLUTION_HTTP_DEVELOPMENT_LOGIN")),
            http_public_url=_public_url(env.get("RESOLUTION_HTTP_PUBLIC_URL")),
            jwt_jwks_url=_jwks_url(env.get("RESOLUTION_JWT_JWKS_URL")),
            http_login_url=_login_url(env.get("RESOLUTION_HTTP_LOGIN_URL")),
            jwt_key_file=readable_file(env, "RESOLUTION_JWT_KEY_FILE"),
            jwt_issuer=env.get("RESOLUTION_JWT_ISSUER") or None,
            jwt_audience=env.get("RESOLUTION_JWT_AUDIENCE") or None,
            data_dir=Path(data_dir) if data_dir else None,
            metrics_port=_metrics_port(env.get("RESOLUTION_METRICS_PORT")),
            metrics_host=env.get("RESOLUTION_METRICS_HOST") or "127.0.0.1",
            log_format=_log_format(env.get("RESOLUTION_LOG_FORMAT")),
            checkpoint_key_file=readable_file(env, "RESOLUTION_CHECKPOINT_KEY_FILE"),
            checkpoint_next_key_file=readable_file(env, "RESOLUTION_CHECKPOINT_NEXT_KEY_FILE"),
            checkpoint_file=Path(checkpoint_file) if checkpoint_file else None,
            checkpoint_events=_checkpoint_events(env.get("RESOLUTION_CHECKPOINT_EVENTS") or "10000"),
            checkpoint_seconds=_checkpoint_seconds(env.get("RESOLUTION_CHECKPOINT_SECONDS") or "60"),
            master_key=env.get("RESOLUTION_MASTER_KEY") or None,
            master_key_file=readable_file(env, "RESOLUTION_MASTER_KEY_FILE"),
        )
        _ = settings.master_keys
        return settings

    @cached_property
    def master_keys(self) -> MasterKeys:
        """The master keys. Raises SettingsError."""
        if self.master_key and self.master_key_file:
            raise SettingsError("RESOLUTION_MASTER_KEY and RESOLUTION_MASTER_KEY_FILE are both given; leave one out.")
        name = "RESOLUTION_MASTER_KEY_FILE" if self.master_key_file else "RESOLUTION_MASTER_KEY"
        text = self.master_key_file.read_text(errors="replace") if self.master_key_file else self.master_key
        try:
            return MasterKeys() if text is None else MasterKeys.parse(text)
        except MasterKeyError as error:
            raise SettingsError(f"{name} cannot be used: {error}.") from None

    def as_environment(self) -> dict[str, str]:
        """Returns the variables from which a child process reads the same settings."""
        env = {
            "RESOLUTION_TOPIC_PREFIX": self.topic_prefix,
            "RESOLUTION_TIME_SCALE": str(self.time_scale),
            "RESOLUTION_HTTP_PORT": str(self.http_port),
            "RESOLUTION_CHECKPOINT_EVENTS": str(self.checkpoint_events),
            "RESOLUTION_CHECKPOINT_SECONDS": str(self.checkpoint_seconds),
            "RESOLUTION_KAFKA_REQUEST_TIMEOUT_MS": str(self.kafka_request_timeout_ms),
        }
        optional = {
            "RESOLUTION_SHARD": None if self.only_shard is None else str(self.only_shard),
            "RESOLUTION_HTTP_HOST": self.http_host,
            "RESOLUTION_HTTP_DEVELOPMENT_LOGIN": "anywhere" if self.http_development_login_anywhere else None,
            "RESOLUTION_HTTP_PUBLIC_URL": self.http_public_url,
            "RESOLUTION_HTTP_LOGIN_URL": self.http_login_url,
            "RESOLUTION_JWT_JWKS_URL": self.jwt_jwks_url,
            "RESOLUTION_JWT_KEY_FILE": self.jwt_key_file and str(self.jwt_key_file),
            "RESOLUTION_JWT_ISSUER": self.jwt_issuer,
            "RESOLUTION_JWT_AUDIENCE": self.jwt_audience,
            "RESOLUTION_METRICS_PORT": None if self.metrics_port is None else str(self.metrics_port),
            "RESOLUTION_METRICS_HOST": self.metrics_host,
            "RESOLUTION_LOG_FORMAT": self.log_format,
            "RESOLUTION_CHECKPOINT_KEY_FILE": self.checkpoint_key_file and str(self.checkpoint_key_file),
            "RESOLUTION_CHECKPOINT_NEXT_KEY_FILE": self.checkpoint_next_key_file and str(self.checkpoint_next_key_file),
            "RESOLUTION_CHECKPOINT_FILE": self.checkpoint_file and str(self.checkpoint_file),
            "RESOLUTION_MASTER_KEY": self.master_key,
            "RESOLUTION_MASTER_KEY_FILE": self.master_key_file and str(self.master_key_file),
        }
        env |= {name: value for name, value in optional.items() if value}
        if self.database_url:
            env["RESOLUTION_DATABASE_URL"] = self.database_url
        if self.kafka_servers:
            env["RESOLUTION_KAFKA_SERVERS"] = self.kafka_servers
        env |= self.kafka_security.as_environment()
        if self.time_origin:
            env["RESOLUTION_TIME_ORIGIN"] = self.time_origin.isoformat()
        if self.data_dir:
            env["RESOLUTION_DATA_DIR"] = str(self.data_dir)
        return env

    @property
    def database(self) -> str:
        """The URL of the one database. With several databases, use the settings in `shards`."""
        assert self.database_url is not None
        assert len(self.database_url.split()) == 1
        return self.database_url

    @property
    def shards(self) -> "list[Settings]":
        """For each database, in their order: these settings with that database alone."""
        urls = (self.database_url or "").split()
        if len(urls) < 2:
            return [self]
        return [
            replace(self, database_url=url, shard=Shard(n, len(urls), self.shard.total)) for n, url in enumerate(urls)
        ]

    @property
    def own_shards(self) -> "list[Settings]":
        """Those of `shards` that this process's roles work on."""
        return [settings for settings in self.shards if self.only_shard in (None, settings.shard.number)]

    @property
    def kafka(self) -> str:
        """The bootstrap servers, which must be known."""
        assert self.kafka_servers is not None
        return self.kafka_servers

    @property
    def cluster(self) -> Cluster:
        """What Kafka clients are made from. The bootstrap servers must be known."""
        return Cluster(self.kafka, self.kafka_security, self.kafka_request_timeout_ms)


def _check_database_url(url: str) -> None:
    """Raises SettingsError, without quoting the URL or libpq's error: both may have parts of a password."""
    try:
        found = conninfo_to_dict(url) if url.startswith(("postgresql://", "postgres://")) else None
    except psycopg.Error:
        found = None
    hosts, ports = (str((found or {}).get(name) or "").split(",") for name in ("host", "port"))
    misread = any("@" in host and not host.startswith("/") for host in hosts)  # the rest of a password
    if found is None or misread or not all(_is_port(port) for port in ports if port):
        raise SettingsError(
            "RESOLUTION_DATABASE_URL is no URL of a database, such as postgresql://user@host:5432/resolution. A port "
            "is from 1 to 65535. In a password, write %40 for @, %2F for /, %3A for : and %25 for %."
        )


def _database_url(text: str | None) -> str | None:
    urls = (text or "").split()
    if len(set(urls)) < len(urls):
        raise SettingsError("RESOLUTION_DATABASE_URL names the same database twice; each shard has one of its own.")
    for url in urls:
        _check_database_url(url)
    return " ".join(urls) or None


def _is_port(text: str) -> bool:
    return text.isdecimal() and 0 < int(text) <= 65535


def _kafka_servers(text: str | None) -> str | None:
    """Returns the bootstrap servers without spaces, or None if there are none."""
    if not text or not text.strip():
        return None
    servers = [server.strip() for server in text.split(",")]
    for server in servers:
        if not (found := _BOOTSTRAP_SERVER.fullmatch(server)) or not _is_port(found[1]):
            raise SettingsError(
                f"RESOLUTION_KAFKA_SERVERS is {text!r}; give HOST:PORT of one or more brokers, separated by commas, "
                "such as one:9092,two:9092. A port is from 1 to 65535."
            )
    return ",".join(servers)


def _topic_prefix(text: str) -> str:
    if not _TOPIC_PREFIX.fullmatch(text):
        raise SettingsError(
            f"RESOLUTION_TOPIC_PREFIX is {text!r}; give what the names of all topics begin with, such as resolution.: "
            "at most 200 of A-Z, a-z, 0-9, '.', '_' and '-'."
        )
    return text


def _only_shard(text: str | None, database_url: str | None) -> int | None:
    if not text:
        return None
    count = len((database_url or "one").split())
    if not text.isdecimal() or int(text) >= count:
        raise SettingsError(
            f"RESOLUTION_SHARD is {text!r}; give the place of one of the databases in RESOLUTION_DATABASE_URL, from 0 "
            f"to {count - 1}, or leave it out for all."
        )
    return int(text)


def _time_scale(text: str) -> Fraction:
    try:
        scale = Fraction(text)
    except (ValueError, ZeroDivisionError):
        scale = Fraction(0)
    if scale <= 0:
        raise SettingsError(
            f"RESOLUTION_TIME_SCALE is {text!r}; give business seconds per real second, above 0, e.g. 1 or 17280."
        )
    return scale


def _time_origin(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        origin = datetime.fromisoformat(text)
    except ValueError:
        origin = None
    if origin is None or origin.tzinfo is None:
        raise SettingsError(f"RESOLUTION_TIME_ORIGIN is {text!r}; give an instant such as 2026-01-31T12:00:00Z.")
    return origin


def _request_timeout_ms(text: str | None) -> int:
    if not text:
        return REQUEST_TIMEOUT_MS
    if not text.isdecimal() or not SHORTEST_REQUEST_TIMEOUT_MS <= int(text) <= 300_000:
        raise SettingsError(
            f"RESOLUTION_KAFKA_REQUEST_TIMEOUT_MS is {text!r}; give the milliseconds after which a Kafka client gives "
            f"up on a request, from {SHORTEST_REQUEST_TIMEOUT_MS} to 300000."
        )
    return int(text)


def _anywhere(text: str | None) -> bool:
    if text not in (None, "", "loopback", "anywhere"):
        raise SettingsError(f"RESOLUTION_HTTP_DEVELOPMENT_LOGIN is {text!r}; say loopback (the default) or anywhere.")
    return text == "anywhere"


def _public_url(text: str | None) -> str | None:
    """Returns the origin, as browsers write it in the header `Origin`, and the path."""
    if not text:
        return None
    found = _PUBLIC_URL.fullmatch(text)
    if found is None:
        raise SettingsError(
            f"RESOLUTION_HTTP_PUBLIC_URL is {text!r}; give the address that browsers see, such as "
            "https://market.example or https://market.example/resolution."
        )
    scheme, host, port, path = found.groups()
    is_default = port == _DEFAULT_PORTS[scheme.lower()]
    return f"{scheme}://{host}".lower() + ("" if is_default else port or "") + path


def _jwks_url(text: str | None) -> str | None:
    if text and not text.startswith(("http://", "https://")):
        raise SettingsError(f"RESOLUTION_JWT_JWKS_URL is {text!r}; give the URL of the issuer's JWKS, with https.")
    return text or None


def _login_url(text: str | None) -> str | None:
    if text and not text.startswith(("http://", "https://")):
        raise SettingsError(
            f"RESOLUTION_HTTP_LOGIN_URL is {text!r}; give the address where people log in, such as "
            "https://market.example/login."
        )
    return text or None


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise SettingsError(f"RESOLUTION_HTTP_PORT is {text!r}; give a port from 1 to 65535, or 0 for a free one.")
    return int(text)


def _metrics_port(text: str | None) -> int | None:
    if not text:
        return None
    if not text.isdecimal() or not 0 < int(text) < 65_000:
        raise SettingsError(
            f"RESOLUTION_METRICS_PORT is {text!r}; give a port from 1 to 64999, or leave it out for no metrics."
        )
    return int(text)


def _log_format(text: str | None) -> LogFormat | None:
    match text or None:
        case None | "json" | "text" as known:
            return known
        case _:
            raise SettingsError(f"RESOLUTION_LOG_FORMAT is {text!r}; say json or text.")


def _checkpoint_events(text: str) -> int:
    if not text.isdecimal() or not 0 < int(text) <= 50_000:
        raise SettingsError(f"RESOLUTION_CHECKPOINT_EVENTS is {text!r}; give the most events for one, from 1 to 50000.")
    return int(text)


def _checkpoint_seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= 86_400:
        raise SettingsError(
            f"RESOLUTION_CHECKPOINT_SECONDS is {text!r}; give the seconds from one to the next, above 0, up to 86400."
        )
    return seconds
