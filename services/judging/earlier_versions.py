"""Reads a command's `data` as earlier versions did, for history that they judged.

They accepted equal keys (the last one counts), amounts of any size, and texts with invisible characters only. They
refused 100.0 as an integer, instants with more than six decimals, and more than the help page's terms on any order.
"""

import re
from collections.abc import Callable
from functools import cache
from typing import Any, cast

from pydantic_core import SchemaValidator, ValidationError
from resolution_contracts import values
from resolution_contracts.commands import COMMAND_TYPES, Command

from services.orders import rejections
from services.orders.policy import HELP_PAGE

from .command_data import refused

_has_seven_decimals = re.compile(r"\.[0-9]{7}").search


def read_data_as_before(type_: str, data: bytes) -> Command | rejections.Rejected:
    """Returns the command, or a rejection in today's words. Raises NotJson."""
    try:
        return _validator(type_)(data)
    except ValidationError as error:
        return refused(data, error)


@cache
def _validator(type_: str) -> Callable[[bytes], Command]:
    # Without this, pydantic takes today's validators for the models in the command: its request, its amount.
    schema = _as_before(COMMAND_TYPES[type_].__pydantic_core_schema__)
    validator = SchemaValidator(schema, _use_prebuilt=False)
    return cast("Callable[[bytes], Command]", validator.validate_json)


def _as_before(schema: Any) -> Any:
    """Returns a copy of a pydantic core schema with the checks of earlier versions."""
    if isinstance(schema, list):
        return [_as_before(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    function = schema["function"].get("function") if isinstance(schema.get("function"), dict) else None
    if function is values.at_most_64_bits:
        return _as_before(schema["schema"])
    copy = {name: _as_before(value) for name, value in schema.items()}
    for name, most in _EARLIER_LIMITS.items():
        if name in copy.get("fields", ()):
            copy["fields"][name] = _limited(copy["fields"][name], most)
    if function in _EARLIER:
        copy["function"] = {**schema["function"], "function": _EARLIER[function]}
    return copy


def _limited(schema: Any, most: int) -> Any:
    """Returns a schema with this limit for its integer."""
    if schema["type"] == "int":
        return schema | {"le": most}
    return schema | {"schema": _limited(schema["schema"], most)}


def _no_nul(value: str) -> str:
    if "\0" in value:
        raise ValueError("should not contain the NUL character")
    return value


def _six_decimals(value: Any) -> Any:
    if isinstance(value, str) and _has_seven_decimals(value):
        raise ValueError("should have six decimals at most")
    return values.rfc3339_only(value)


_EARLIER_LIMITS = {"days": HELP_PAGE.longest_extension_days, "percent": HELP_PAGE.largest_refund_percent}
_EARLIER: dict[Any, Any] = {values.readable: _no_nul, values.rfc3339_only: _six_decimals}
