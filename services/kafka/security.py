"""TLS and SASL for Kafka clients, read from the environment."""

import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from services.environment import SettingsError, readable_file

Protocol = Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"]
Mechanism = Literal["SCRAM-SHA-512", "SCRAM-SHA-256", "PLAIN"]

_PROTOCOL = "RESOLUTION_KAFKA_SECURITY_PROTOCOL"
_MECHANISM = "RESOLUTION_KAFKA_SASL_MECHANISM"
_USERNAME = "RESOLUTION_KAFKA_SASL_USERNAME"
_PASSWORD = "RESOLUTION_KAFKA_SASL_PASSWORD"  # noqa: S105 (a name)
_PASSWORD_FILE = "RESOLUTION_KAFKA_SASL_PASSWORD_FILE"  # noqa: S105 (a name)
_CA = "RESOLUTION_KAFKA_TLS_CA_FILE"
_CERTIFICATE = "RESOLUTION_KAFKA_TLS_CERTIFICATE_FILE"
_KEY = "RESOLUTION_KAFKA_TLS_KEY_FILE"
_OF_SASL = (_MECHANISM, _USERNAME, _PASSWORD, _PASSWORD_FILE)
_OF_TLS = (_CA, _CERTIFICATE, _KEY)


@dataclass(frozen=True)
class KafkaSecurity:
    """How clients connect to the brokers and log in. All files are PEM."""

    protocol: Protocol = "PLAINTEXT"
    """Whether clients use TLS, SASL, both or neither."""
    mechanism: Mechanism = "SCRAM-SHA-512"
    """The SASL mechanism. Used only if the protocol uses SASL."""
    username: str = ""
    """The SASL user name."""
    password: str = field(default="", repr=False)
    """The SASL password, unless `password_file` has it."""
    password_file: Path | None = None
    """Read for each new client, so that a changed password needs no restart."""
    ca_file: Path | None = None
    """The CA that signed the brokers' certificates. Without it, the system's CAs are trusted."""
    certificate_file: Path | None = None
    """The client's own certificate."""
    key_file: Path | None = None
    """The unencrypted key of the client's certificate."""

    @classmethod
    def from_environment(cls, env: Mapping[str, str]) -> "KafkaSecurity":
        """Reads the settings, and tries the files. Raises SettingsError."""
        protocol = _one_of(Protocol, env, _PROTOCOL, "PLAINTEXT")
        security = cls(
            protocol,
            _one_of(Mechanism, env, _MECHANISM, "SCRAM-SHA-512"),
            env.get(_USERNAME, ""),
            env.get(_PASSWORD, ""),
            readable_file(env, _PASSWORD_FILE),
            readable_file(env, _CA),
            readable_file(env, _CERTIFICATE),
            readable_file(env, _KEY),
        )
        security._check_combination(env)
        if security.uses_sasl:
            security._check_credentials()
        security.ssl_context()
        return security

    def as_environment(self) -> dict[str, str]:
        """Returns the environment variables that give a child process the same settings."""
        if self.protocol == "PLAINTEXT":
            return {}
        variables = {_PROTOCOL: self.protocol, _USERNAME: self.username, _PASSWORD: self.password}
        if self.uses_sasl:
            variables[_MECHANISM] = self.mechanism
        files = {
            _PASSWORD_FILE: self.password_file,
            _CA: self.ca_file,
            _CERTIFICATE: self.certificate_file,
            _KEY: self.key_file,
        }
        return {name: value for name, value in variables.items() if value} | {
            name: str(path) for name, path in files.items() if path
        }

    @property
    def uses_sasl(self) -> bool:
        """Whether clients log in with a name and a password."""
        return self.protocol.startswith("SASL_")

    @property
    def uses_tls(self) -> bool:
        """Whether connections are encrypted."""
        return self.protocol.endswith("SSL")

    def ssl_context(self) -> ssl.SSLContext | None:
        """Returns a context that checks the brokers' certificates and names, or None without TLS.

        Raises SettingsError if a file cannot be used.
        """
        if not self.uses_tls:
            return None
        try:
            context = ssl.create_default_context(cafile=self.ca_file)
        except (ssl.SSLError, OSError) as error:
            raise SettingsError(f"{_CA} is {self.ca_file}, which holds no certificate in PEM ({error}).") from None
        if self.certificate_file is not None:
            try:
                # Without a password given, OpenSSL would ask for one at the terminal.
                context.load_cert_chain(self.certificate_file, self.key_file, password="")
            except (ssl.SSLError, OSError) as error:
                raise SettingsError(
                    f"{_CERTIFICATE} and {_KEY} are {self.certificate_file} and {self.key_file}, which aren't a "
                    f"certificate and its unencrypted key in PEM ({error})."
                ) from None
        return context

    def secret(self) -> str:
        """Returns the password. Raises SettingsError if its file cannot be read any more."""
        if self.password_file is None:
            return self.password
        try:
            return self.password_file.read_text().rstrip("\r\n")
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(f"{_PASSWORD_FILE} is {self.password_file}, which cannot be read: {error}.") from None

    def _check_combination(self, env: Mapping[str, str]) -> None:
        """Refuses settings that the protocol does not use, because whoever set them would feel protected by them."""
        if self.protocol != "PLAINTEXT" and not env.get("RESOLUTION_KAFKA_SERVERS"):
            raise SettingsError(
                f"{_PROTOCOL} is {self.protocol}, but RESOLUTION_KAFKA_SERVERS names no cluster, and the embedded one "
                "speaks PLAINTEXT on loopback: name the brokers, or leave the protocol out."
            )
        for used, names, protocols in (
            (self.uses_sasl, _OF_SASL, "SASL_SSL or SASL_PLAINTEXT"),
            (self.uses_tls, _OF_TLS, "SASL_SSL or SSL"),
        ):
            unused = [name for name in names if env.get(name)]
            if unused and not used:
                raise SettingsError(
                    f"{', '.join(unused)} says nothing while {_PROTOCOL} is {self.protocol}: set that to {protocols}, "
                    "or leave it out."
                )
        if (self.certificate_file is None) != (self.key_file is None):
            raise SettingsError(f"{_CERTIFICATE} and {_KEY} go together: set both or neither.")

    def _check_credentials(self) -> None:
        if not self.username:
            raise SettingsError(
                f"{_PROTOCOL} is {self.protocol}, but {_USERNAME} is not set: say who logs in to Kafka."
            )
        if bool(self.password) == (self.password_file is not None):
            raise SettingsError(
                f"{_PROTOCOL} is {self.protocol}: set one of the two, either {_PASSWORD}, or {_PASSWORD_FILE} to a "
                "file that contains the password."
            )
        if not self.secret():
            raise SettingsError(f"{_PASSWORD_FILE} is {self.password_file}, which is empty.")


PLAINTEXT = KafkaSecurity()
"""No TLS and no login: for the embedded broker, and for a network that nobody else uses."""


def _one_of(known: Any, env: Mapping[str, str], name: str, default: str) -> Any:
    value = env.get(name) or default
    if value not in get_args(known):
        raise SettingsError(f"{name} is {value!r}; say one of {', '.join(get_args(known))}.")
    return value
