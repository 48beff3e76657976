"""Who looks: a JWT bearer, or a login for development that works on loopback only."""

import asyncio
import json
import math
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import jwt
from fastapi import Request

from .problems import Problem

COOKIE = "resolution_token"
_ALGORITHMS = ["RS256", "PS256", "ES256", "EdDSA"]
_CHALLENGE = {"WWW-Authenticate": "Bearer"}


@dataclass(frozen=True)
class Viewer:
    """A user, or an operator, who sees all orders and acts for nobody."""

    user: str
    operator: bool = False
    until: float = math.inf
    """When the token ends, in seconds of Unix time."""

    @property
    def party(self) -> str | None:
        """The id to look with; None sees as an operator does."""
        return None if self.operator else self.user

    def is_current(self) -> bool:
        """Whether the token has not ended yet."""
        return time.time() < self.until


class _Keys(Protocol):
    async def key(self, token: str) -> Any: ...


class _KeyFile:
    """A PEM public key, or a JWKS document."""

    def __init__(self, file: Path) -> None:
        text = file.read_text()
        self._jwks = jwt.PyJWKSet.from_dict(json.loads(text)) if text.lstrip().startswith("{") else None
        self._pem = text

    async def key(self, token: str) -> Any:
        if self._jwks is None:
            return self._pem
        return self._jwks[jwt.get_unverified_header(token)["kid"]].key


class _KeyUrl:
    """An issuer's JWKS, fetched when a key is new and kept for a while."""

    def __init__(self, url: str) -> None:
        self._client = jwt.PyJWKClient(url, cache_keys=True, timeout=5)

    async def key(self, token: str) -> Any:
        return (await asyncio.to_thread(self._client.get_signing_key_from_jwt, token)).key


class Gate:
    """Turns a request into its viewer."""

    def __init__(
        self,
        *,
        jwks_url: str | None,
        key_file: Path | None,
        issuer: str | None,
        audience: str | None,
        login_url: str | None = None,
    ) -> None:
        self._issuer, self._audience = issuer, audience
        self._keys: _Keys | None = _KeyUrl(jwks_url) if jwks_url else _KeyFile(key_file) if key_file else None
        self._secret = secrets.token_bytes(32)
        self.login_url = "/login" if self.development else login_url
        """Where people log in, if that is known."""

    @property
    def development(self) -> bool:
        """No issuer is configured: anybody on this machine may say who they are."""
        return self._keys is None

    def token_for(self, user: str, *, operator: bool) -> str:
        """A token of the development login, good until this process ends."""
        assert self.development
        return jwt.encode({"sub": user, "operator": operator}, self._secret, "HS256")

    async def viewer(self, request: Request) -> Viewer:
        """Raises Problem (401)."""
        viewer = await self.find(request)
        if viewer is None:
            raise Problem(401, "Send Authorization: Bearer with a token of your issuer.", _CHALLENGE)
        return viewer

    async def find(self, request: Request) -> Viewer | None:
        """None where there is no token. Raises Problem (401) for one that is not valid."""
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not token or scheme.lower() != "bearer":
            token = request.cookies.get(COOKIE, "")
        if not token:
            return None
        try:
            claims = await self._claims(token)
        except (jwt.PyJWTError, KeyError, ValueError):
            raise Problem(401, "The token is not valid, or not any more: get a new one.", _CHALLENGE) from None
        user = claims.get("sub")
        if not isinstance(user, str) or not user:
            raise Problem(401, "The token names no user (sub).", _CHALLENGE)
        scopes = str(claims.get("scope", "")).split()
        operator = claims.get("operator") is True or "resolution:operator" in scopes
        return Viewer(user, operator, until=float(claims.get("exp", math.inf)))

    async def _claims(self, token: str) -> dict[str, Any]:
        if self._keys is None:
            return dict(jwt.decode(token, self._secret, ["HS256"]))
        return dict(
            jwt.decode(
                token,
                await self._keys.key(token),
                _ALGORITHMS,
                issuer=self._issuer,
                audience=self._audience,
                options={"require": ["exp", "sub"], "verify_aud": self._audience is not None},
            )
        )
