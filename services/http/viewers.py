"""Authenticates viewers: with a JWT bearer token, or with a login for development that works on loopback only."""

import math
import secrets
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jwt
from fastapi import Request
from pydantic import TypeAdapter, ValidationError
from resolution_contracts.values import Id

from .problems import Problem
from .token_keys import IssuerKeys, KeyFile, Keys, KeysUnavailable

COOKIE = "resolution_token"
_ALGORITHMS = ["RS256", "PS256", "ES256", "EdDSA"]
_CHALLENGE = {"WWW-Authenticate": "Bearer"}
_CLOCK_SKEW_SECONDS = 30
_OPERATOR = "resolution:operator"
_USER_ID: TypeAdapter[str] = TypeAdapter(Id)


@dataclass(frozen=True)
class Viewer:
    """A user, or an operator, who sees all orders and acts for no party."""

    user: str
    operator: bool = False
    until: float = math.inf
    """When the token expires, in seconds of Unix time."""

    @property
    def party(self) -> str | None:
        """The user id for queries. None for an operator, who sees everything."""
        return None if self.operator else self.user

    def is_current(self) -> bool:
        """Whether the token has not expired yet."""
        return time.time() < self.until


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
        self._keys: Keys | None = IssuerKeys(jwks_url) if jwks_url else KeyFile(key_file) if key_file else None
        self._secret = secrets.token_bytes(32)
        self.login_url = "/login" if self.development else login_url
        """Where people log in, if that is known."""

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Keeps the issuer's keys up to date while it is open."""
        if self._keys is None:
            yield
        else:
            async with self._keys.kept():
                yield

    @property
    def development(self) -> bool:
        """Whether no issuer is configured, so that anybody on this machine can log in as anybody."""
        return self._keys is None

    def token_for(self, user: str, *, operator: bool) -> str:
        """Returns a token of the login for development, valid until this process ends."""
        assert self.development
        return jwt.encode({"sub": user, "scope": _OPERATOR if operator else ""}, self._secret, "HS256")

    async def viewer(self, request: Request) -> Viewer:
        """Returns the request's viewer. Raises Problem (401, 503)."""
        viewer = await self.find(request)
        if viewer is None:
            raise Problem(401, "Send Authorization: Bearer with a token of your issuer.", _CHALLENGE)
        return viewer

    async def find(self, request: Request) -> Viewer | None:
        """Returns the request's viewer, or None without a token.

        Raises Problem: 401 for an invalid token, 503 while the issuer does not answer.
        """
        scheme, _, token = request.headers.get("authorization", "").partition(" ")
        if not token or scheme.lower() != "bearer":
            token = request.cookies.get(COOKIE, "")
        if not token:
            return None
        try:
            claims = await self._claims(token)
        except KeysUnavailable:
            raise Problem(503, "The token's issuer does not answer; try again soon.", {"Retry-After": "10"}) from None
        except (jwt.PyJWTError, ValueError, TypeError, RecursionError):
            raise Problem(401, "The token is invalid or has expired: get a new one.", _CHALLENGE) from None
        until = float(claims.get("exp", math.inf)) + _CLOCK_SKEW_SECONDS
        return Viewer(_user(claims), operator=_OPERATOR in _scopes(claims), until=until)

    async def _claims(self, token: str) -> dict[str, Any]:
        if self._keys is None:
            return dict(jwt.decode(token, self._secret, ["HS256"]))
        key = await self._keys.key(jwt.get_unverified_header(token).get("kid"))
        return dict(
            jwt.decode(
                token,
                key,
                _ALGORITHMS,
                issuer=self._issuer,
                audience=self._audience,
                leeway=_CLOCK_SKEW_SECONDS,
                options={"require": ["exp", "sub"], "verify_aud": self._audience is not None},
            )
        )


def is_user_id(text: str) -> bool:
    """Whether a party can have this id."""
    try:
        _USER_ID.validate_python(text, strict=True)
    except ValidationError:
        return False
    return True


def _user(claims: dict[str, Any]) -> str:
    user: str = claims.get("sub", "")
    if not is_user_id(user):
        raise Problem(401, "The token names no user (sub).", _CHALLENGE)
    return user


def _scopes(claims: dict[str, Any]) -> list[Any]:
    """Returns the claim `scope`, which is a list, or words with spaces between (RFC 8693)."""
    scope = claims.get("scope")
    return scope.split() if isinstance(scope, str) else scope if isinstance(scope, list) else []
