"""Reads a command's `data`: into the command, or into a rejection that says field by field what to correct."""

import json
import re
from collections.abc import Callable, Iterator
from decimal import Decimal, InvalidOperation
from typing import Any, NoReturn

import msgspec
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from resolution_contracts.commands import COMMAND_TYPES, Command
from resolution_contracts.values import LARGEST_AMOUNT, DisputeKind

from services.orders import rejections

_VALIDATE: dict[str, Callable[[bytes], Command]] = {
    type_: command.__pydantic_validator__.validate_json for type_, command in COMMAND_TYPES.items()
}
_KINDS = set(DisputeKind)
_MAX_ERRORS = 20
_MAX_PATH_CHARACTERS = 200
_MAX_DEPTH = 100
_MAX_DIGITS = 4300
_has_lone_surrogate = re.compile("[\ud800-\udfff]").search

Error = dict[str, str]


class NotJson(ValueError):
    """`data` is not JSON. The envelope's decoder does not check that. The text says what is wrong."""


# --- the command ---


def read_data(type_: str, data: bytes, canonical: bytes) -> Command | rejections.Rejected:
    """Returns the command, or the rejection that says what to correct. Raises NotJson.

    `canonical` is the `canonical_form` of `data`.
    """
    if len(data) != len(canonical) and _may_have_equal_keys(data, canonical) and (errors := _find_flaws(data)):
        return rejections.invalid(errors)
    try:
        return _VALIDATE[type_](data)
    except ValidationError as error:
        details = error.errors(include_url=False, include_input=False)
        about_integers = any(detail["type"].startswith("int_") for detail in details)
        return _read_with_integers(type_, data) if about_integers else refused(data, error)


def _read_with_integers(type_: str, data: bytes) -> Command | rejections.Rejected:
    """Reads the data with numbers such as 1e3 and 100.0 as integers, as JSON Schema does. pydantic refuses them."""
    if errors := _find_flaws(data):
        return rejections.invalid(errors)
    try:
        return _VALIDATE[type_](_with_integers(data))
    except ValidationError as error:
        return refused(data, error)


def refused(data: bytes, error: ValidationError) -> rejections.Rejected:
    """Returns the rejection for data that the validator refused. Raises NotJson."""
    details = error.errors(include_url=False, include_input=False)
    if details[0]["type"] == "json_invalid":
        return rejections.invalid(_find_flaws(data) or [{"path": "", "reason": "cannot be read: simplify it"}])
    return rejections.invalid([_describe(detail) for detail in details[:_MAX_ERRORS]])


def _with_integers(data: bytes) -> bytes:
    try:
        return msgspec.json.encode(_decode_integers(data))
    except (msgspec.MsgspecError, RecursionError, OverflowError):
        return data


def _integer_if_equal(text: str) -> int | float:
    try:
        number = Decimal(text)
    except InvalidOperation:  # an exponent of twenty digits
        return float(text)
    is_integer = number.adjusted() < len(str(LARGEST_AMOUNT)) and number == number.to_integral_value()
    return int(number) if is_integer else float(text)


_decode_integers = msgspec.json.Decoder(float_hook=_integer_if_equal).decode


# --- whether two commands have the same data ---


def canonical_form(data: msgspec.Raw | bytes) -> bytes:
    """Returns the same bytes for the same data, however its JSON is written (D19). Keeps the last of equal keys."""
    try:
        return _encode_sorted(_decode_data(data))
    except (msgspec.MsgspecError, RecursionError):
        return bytes(data)


def _canonical_number(text: str) -> int | float:
    """3.0 is 3 in JSON. Do not change this: stored digests depend on it."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


_decode_data = msgspec.json.Decoder(float_hook=_canonical_number).decode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode


# --- what the schema's validator ignores or cannot read ---


def _may_have_equal_keys(data: bytes, canonical: bytes) -> bool:
    """A cheap test: each key has a colon, and the canonical form has dropped the first of two equal keys.

    The canonical form writes an escaped colon, \\u003a, as a colon. The caller skips this test if both forms have the
    same length, as with compact JSON. Then no key was dropped, unless a number such as 1e9 made up for it, and
    `_read_with_integers` looks for flaws in such data.
    """
    return data.count(b":") != canonical.count(b":") or (b"\\" in data and b"\\u003" in data)


class _Object(list[tuple[str, Any]]):
    """A JSON object as a list of its members, so that equal keys are kept."""


class _TooManyDigits:
    """Stands for a number with too many digits to be read."""


def _find_flaws(data: bytes) -> list[Error]:
    """Returns an error for each equal key, lone surrogate, overlong number and value nested too deeply.

    Returns at most `_MAX_ERRORS`, in the order of the data. Raises NotJson.
    """
    try:
        content = json.loads(data, object_pairs_hook=_Object, parse_constant=_no_constant, parse_int=_integer)
    except RecursionError:
        raise NotJson("the JSON is nested too deeply") from None
    except ValueError as error:
        raise NotJson(f"the value is not JSON: {error}") from None
    return [error for error, _ in zip(_flaws(content), range(_MAX_ERRORS), strict=False)]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int | _TooManyDigits:
    return int(digits) if len(digits) <= _MAX_DIGITS else _TooManyDigits()


def _flaws(content: Any) -> Iterator[Error]:
    values: list[tuple[tuple[str, ...], Any]] = [((), content)]
    while values:
        path, value = values.pop()
        members: list[tuple[str, Any]] = []
        if len(path) > _MAX_DEPTH:
            yield _error(path, "is nested too deeply")
        elif isinstance(value, _TooManyDigits):
            yield _error(path, f"should be at most {LARGEST_AMOUNT}, which is 2^63 - 1")
        elif isinstance(value, str) and _has_lone_surrogate(value):
            yield _error(path, "has half of a character (a lone surrogate): send the whole character, or leave it out")
        elif isinstance(value, _Object):
            members = value
        elif isinstance(value, list):
            members = [(str(index), item) for index, item in enumerate(value)]
        names: set[str] = set()
        for name, _ in members:
            if _has_lone_surrogate(name):
                yield _error((*path, name), "is named with half of a character (a lone surrogate): rename it")
            if name in names:
                yield _error((*path, name), "is there more than once: send it once")
            names.add(name)
        values += [((*path, name), member) for name, member in reversed(members)]


def _error(path: tuple[str, ...], reason: str) -> Error:
    shown = ".".join(path).encode(errors="backslashreplace").decode()
    return {"path": shown[:_MAX_PATH_CHARACTERS], "reason": reason}


# --- what the errors say ---

_CURRENCY = "should be an ISO 4217 code of three capital letters, such as USD"
_NAME = "should be 1 to 64 letters, digits, dots, underscores and hyphens"
_INTEGER = "should be a whole number"
_REASONS: dict[str, str] = {
    "missing": "is missing: add it",
    "extra_forbidden": "is not a field of this command: leave it out",
    "string_type": "should be a text",
    "string_too_short": "should not be empty",
    "string_too_long": "should have at most {max_length} characters",
    "int_type": _INTEGER,
    "int_from_float": _INTEGER,
    "bool_type": "should be true or false",
    "greater_than_equal": "should be at least {ge}",
    "less_than_equal": "should be at most {le}",
    "enum": "should be {expected}",
    "literal_error": "should be {expected}",
    "union_tag_invalid": "should have a kind, one of {expected_tags}",
    "union_tag_not_found": "should have a kind, such as 'cancellation'",
    "model_type": "should be an object",
    "dict_type": "should be an object",
}
"""What to correct, by pydantic's type of error. No reason quotes a value of the sender's (D16)."""


def _describe(error: ErrorDetails) -> Error:
    """Returns the path and the reason of an error. Drops the request's kind, which pydantic puts into the path."""
    path = ".".join(str(part) for part in error["loc"] if part not in _KINDS)
    template = _REASONS.get(error["type"], "is not what the command needs: see docs/messages.md")
    context = error.get("ctx", {})
    if error["type"] == "string_pattern_mismatch":
        template = _NAME if path.endswith("name") else _CURRENCY
    reason = str(context["error"]) if error["type"] == "value_error" else template.format_map(context)
    return {"path": path[:_MAX_PATH_CHARACTERS], "reason": reason}
