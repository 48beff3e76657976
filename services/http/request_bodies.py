"""The bodies of requests: JSON from programs, forms from browsers."""

import json
import math
from typing import Any

from fastapi import Request
from pydantic_core import from_json

from .problems import Problem


async def json_of(request: Request) -> Any:
    """Raises Problem (400, 415)."""
    kind, _, subtype = _media_type(request).partition("/")
    if kind != "application" or not (subtype == "json" or subtype.endswith("+json")):
        raise Problem(415, "Send the body as application/json.")
    try:
        return _strict(await request.body())
    except ValueError as error:
        raise Problem(400, f"The body cannot be read as JSON: {error}.") from None


async def fields_of(request: Request) -> dict[str, str]:
    """The fields of a form by name; of several with the same name, the last.

    Raises Problem (415), and Starlette's HTTPException (400) for what is no such form.
    """
    if _media_type(request) != "application/x-www-form-urlencoded":
        raise Problem(415, "Send the form as application/x-www-form-urlencoded.")
    return {name: str(value) for name, value in (await request.form()).items()}


def _media_type(request: Request) -> str:
    return request.headers.get("content-type", "").partition(";")[0].strip().lower()


def _strict(text: bytes) -> Any:
    """Raises ValueError. Python's parser alone would let through what does not reach the commands role unchanged."""
    from_json(text, allow_inf_nan=False)  # refuses lone surrogates, NaN, deep nesting
    return json.loads(text, object_pairs_hook=_each_key_once, parse_float=_finite)


def _each_key_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for name, value in pairs:
        if name in found:
            raise ValueError(f"the key {name!r} comes twice in an object")
        found[name] = value
    return found


def _finite(number: str) -> float:
    if math.isinf(found := float(number)):
        raise ValueError("a number is too large")
    return found
