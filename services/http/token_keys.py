"""The public keys that tokens are verified with: from a file, or from the issuer's JWKS."""

import asyncio
import json
import logging
import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any, Protocol

import jwt
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.serialization import load_pem_public_key

from services.environment import SettingsError
from services.waiting import happens_within

log = logging.getLogger(__name__)

_REFRESH_EVERY_SECONDS = 300.0
"""A key that left the issuer's JWKS is refused after this time."""
_SHORTEST_PAUSE_SECONDS = 10.0
"""The shortest time between two fetches, so that tokens with unknown keys cannot make us flood the issuer."""
_LONGEST_FETCH_SECONDS = 5.0
_KEPT_WITHOUT_ISSUER_SECONDS = 3600.0


class KeysUnavailable(Exception):
    """The issuer's keys cannot be fetched, so nobody knows whether a token is valid."""


class Keys(Protocol):
    """Where public keys come from."""

    async def key(self, key_id: str | None) -> Any:
        """Returns a key. Raises jwt.PyJWTError if there is none with this id, KeysUnavailable if nobody knows."""

    def kept(self) -> AbstractAsyncContextManager[None]:
        """Keeps the keys up to date while it is open."""


class KeyFile:
    """A PEM public key, or a JWKS document. Raises SettingsError if it is neither."""

    def __init__(self, file: Path) -> None:
        text = file.read_bytes()
        self._keys: dict[str | None, jwt.PyJWK] | None = None
        try:
            if text.lstrip().startswith(b"{"):
                self._keys = _by_id(jwt.PyJWKSet.from_dict(json.loads(text)))
            else:
                self._pem = load_pem_public_key(text)
        except (ValueError, AttributeError, jwt.PyJWTError, UnsupportedAlgorithm):
            raise SettingsError(
                f"RESOLUTION_JWT_KEY_FILE is {file}, which is neither a PEM public key nor a JWKS."
            ) from None

    async def key(self, key_id: str | None) -> Any:
        """The key with this id. Raises KeysUnavailable if nobody can say whether there is one."""
        return self._pem if self._keys is None else _find(self._keys, key_id)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keeps the keys up to date while it is open."""
        yield


class IssuerKeys:
    """The keys of the JWKS at a URL.

    One task fetches the JWKS in its own thread. A request waits for a fetch only if its key is unknown.
    """

    def __init__(self, url: str) -> None:
        self._client = jwt.PyJWKClient(url, cache_jwk_set=False, timeout=_LONGEST_FETCH_SECONDS)
        self._thread = ThreadPoolExecutor(1, "jwks")
        self._keys: dict[str | None, jwt.PyJWK] = {}
        self._fetched_at = self._tried_at = float("-inf")
        self._failed = True
        self._wanted, self._tried = asyncio.Event(), asyncio.Event()

    async def key(self, key_id: str | None) -> Any:
        """The key with this id. Raises KeysUnavailable if nobody can say whether there is one."""
        if key_id not in self._keys and time.monotonic() - self._tried_at > _SHORTEST_PAUSE_SECONDS:
            self._wanted.set()
            if not await happens_within(self._tried, _LONGEST_FETCH_SECONDS):
                raise KeysUnavailable
        known_for = time.monotonic() - self._fetched_at
        if known_for > _KEPT_WITHOUT_ISSUER_SECONDS or (self._failed and key_id not in self._keys):
            raise KeysUnavailable
        return _find(self._keys, key_id)

    @asynccontextmanager
    async def kept(self) -> AsyncIterator[None]:
        """Keeps the keys up to date while it is open."""
        fetching = asyncio.create_task(self._fetch_for_ever())
        try:
            yield
        finally:
            fetching.cancel()
            self._thread.shutdown(wait=False, cancel_futures=True)

    async def _fetch_for_ever(self) -> None:
        while True:
            await self._fetch()
            await happens_within(self._wanted, _SHORTEST_PAUSE_SECONDS if self._failed else _REFRESH_EVERY_SECONDS)

    async def _fetch(self) -> None:
        self._wanted.clear()
        fetching = asyncio.get_running_loop().run_in_executor(self._thread, self._client.fetch_data)
        try:
            async with asyncio.timeout(2 * _LONGEST_FETCH_SECONDS):
                document = await fetching
            self._keys = _by_id(jwt.PyJWKSet.from_dict(document)) if document.get("keys") != [] else {}
            self._fetched_at, self._failed = time.monotonic(), False
        except Exception as error:  # whatever the issuer sends, the keys known so far stay in use
            self._failed = True
            log.warning("the issuer's JWKS cannot be fetched, trying again: %s", error or type(error).__name__)
        self._tried_at = time.monotonic()
        self._tried.set()
        self._tried = asyncio.Event()


def _by_id(jwks: jwt.PyJWKSet) -> dict[str | None, jwt.PyJWK]:
    return {key.key_id: key for key in jwks.keys if key.public_key_use in ("sig", None)}


def _find(keys: dict[str | None, jwt.PyJWK], key_id: str | None) -> Any:
    if key_id not in keys:
        raise jwt.InvalidTokenError("The token names no key of the issuer.")
    return keys[key_id].key
