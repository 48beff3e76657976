"""Reads the bodies of requests: JSON from programs, forms from browsers."""

import json
import math
from typing import Any

from fastapi import Request
from pydantic_core import from_json

from .problems import Problem


async def json_of(request: Request) -> Any:
    """Returns the decoded JSON. Raises Problem (400, 415)."""
    kind, _, subtype = _media_type(request).partition("/")
    if kind != "application" or not (subtype == "json" or subtype.endswith("+json")):
        raise Problem(415, "Send the body as application/json.")
    try:
        return _strict(await request.body())
    except ValueError as error:
        raise Problem(400, f"The body cannot be read as JSON: {error}.") from None


async def fields_of(request: Request) -> dict[str, str]:
    """Returns the fields of a form by name. If a name comes several times, the last value counts.

    Raises Problem (415), and Starlette's HTTPException (400) for a malformed form.
    """
    if _media_type(request) != "application/x-www-form-urlencoded":
        raise Problem(415, "Send the form as application/x-www-form-urlencoded.")
    return {name: str(value) for name, value in (await request.form()).items()}


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _strict(text: bytes) -> Any:
    """Raises ValueError, also for JSON that Python's parser accepts but would not reach the commands role unchanged."""
    from_json(text, allow_inf_nan=False)  # refuses lone surrogates, NaN, deep nesting
    return json.loads(text, object_pairs_hook=_each_key_once, parse_float=_finite)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members: dict[str, Any] = {}
    for name, value in pairs:
        if name in members:
            raise ValueError(f"the key {name!r} comes twice in an object")
        members[name] = value
    return members


def _finite(text: str) -> float:
    if math.isinf(number := float(text)):
        raise ValueError("a number is too large")
    return number
