"""What a command's `data` says: the command, or what is to be corrected, field by field."""

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
_MOST_ERRORS = 20
_LONGEST_PATH = 200
_DEEPEST = 100
_LONGEST_NUMBER = 4300
_has_half_a_character = re.compile("[\ud800-\udfff]").search

Error = dict[str, str]


class NotJson(ValueError):
    """`data` is not JSON, which the envelope's decoder does not look at. The text says why."""


# --- the command ---


def read_data(type_: str, data: bytes, canonical: bytes) -> Command | rejections.Rejected:
    """The command, or the rejection it gets. `canonical` is of `canonical_form`. Raises NotJson."""
    if len(data) != len(canonical) and _may_have_equal_keys(data, canonical) and (found := _look_through(data)):
        return rejections.invalid(found)
    try:
        return _VALIDATE[type_](data)
    except ValidationError as error:
        whole = any(one["type"].startswith("int_") for one in error.errors(include_url=False, include_input=False))
        return _read_again(type_, data) if whole else refused(data, error)


def _read_again(type_: str, data: bytes) -> Command | rejections.Rejected:
    """As JSON Schema says, 1e3 and 100.0 are integers. pydantic takes none of them."""
    if found := _look_through(data):
        return rejections.invalid(found)
    try:
        return _VALIDATE[type_](_with_whole_numbers(data))
    except ValidationError as error:
        return refused(data, error)


def refused(data: bytes, error: ValidationError) -> rejections.Rejected:
    """What is to be corrected. Raises NotJson."""
    found = error.errors(include_url=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        return rejections.invalid(_look_through(data) or [{"path": "", "reason": "cannot be read: simplify it"}])
    return rejections.invalid([_describe(one) for one in found[:_MOST_ERRORS]])


def _with_whole_numbers(data: bytes) -> bytes:
    try:
        return msgspec.json.encode(_decode_whole(data))
    except (msgspec.MsgspecError, RecursionError, OverflowError):
        return data


def _whole_number(text: str) -> int | float:
    try:
        number = Decimal(text)
    except InvalidOperation:  # an exponent of twenty digits
        return float(text)
    whole = number.adjusted() < len(str(LARGEST_AMOUNT)) and number == number.to_integral_value()
    return int(number) if whole else float(text)


_decode_whole = msgspec.json.Decoder(float_hook=_whole_number).decode


# --- whether two are the same ---


def canonical_form(data: msgspec.Raw | bytes) -> bytes:
    """The same for the same data, however the JSON is written (D19). Of equal keys it has the last."""
    try:
        return _encode_sorted(_decode_data(data))
    except (msgspec.MsgspecError, RecursionError):
        return bytes(data)


def _number(text: str) -> int | float:
    """3.0 is 3 in JSON. Not to be changed: stored digests are made of it."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


_decode_data = msgspec.json.Decoder(float_hook=_number).decode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode


# --- what the schema's validator passes over, or cannot read ---


def _may_have_equal_keys(data: bytes, canonical: bytes) -> bool:
    """A cheap test. Each key has its colon, and the canonical form lost those of equal keys.

    A colon that is written as an escape, \\u003a, appears there as one. Where both have the same length, as with
    compact JSON, no key was lost: only a number such as 1e9 is longer there, and `_read_again` looks at those.
    """
    return data.count(b":") != canonical.count(b":") or (b"\\" in data and b"\\u003" in data)


class _Object(list[tuple[str, Any]]):
    """A JSON object with all its members."""


class _TooLong:
    """In the place of a number with too many digits."""


def _look_through(data: bytes) -> list[Error]:
    """Equal keys, halves of characters, and what is too long or too deep. Raises NotJson."""
    try:
        content = json.loads(data, object_pairs_hook=_Object, parse_constant=_no_constant, parse_int=_integer)
    except RecursionError:
        raise NotJson("the JSON is nested too deeply") from None
    except ValueError as error:
        raise NotJson(f"the value is not JSON: {error}") from None
    return [error for error, _ in zip(_flaws(content), range(_MOST_ERRORS), strict=False)]


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _integer(digits: str) -> int | _TooLong:
    return int(digits) if len(digits) <= _LONGEST_NUMBER else _TooLong()


def _flaws(content: Any) -> Iterator[Error]:
    values: list[tuple[tuple[str, ...], Any]] = [((), content)]
    while values:
        path, value = values.pop()
        members: list[tuple[str, Any]] = []
        if len(path) > _DEEPEST:
            yield _error(path, "is nested too deeply")
        elif isinstance(value, _TooLong):
            yield _error(path, f"should be at most {LARGEST_AMOUNT}, which is 2^63 - 1")
        elif isinstance(value, str) and _has_half_a_character(value):
            yield _error(path, "has half of a character (a lone surrogate): send the whole character, or leave it out")
        elif isinstance(value, _Object):
            members = value
        elif isinstance(value, list):
            members = [(str(number), one) for number, one in enumerate(value)]
        names: set[str] = set()
        for name, _ in members:
            if _has_half_a_character(name):
                yield _error((*path, name), "is named with half of a character (a lone surrogate): rename it")
            if name in names:
                yield _error((*path, name), "is there more than once: send it once")
            names.add(name)
        values += [((*path, name), one) for name, one in reversed(members)]


def _error(path: tuple[str, ...], reason: str) -> Error:
    shown = ".".join(path).encode(errors="backslashreplace").decode()
    return {"path": shown[:_LONGEST_PATH], "reason": reason}


# --- how it is said ---

_CURRENCY = "should be an ISO 4217 code of three capital letters, such as USD"
_WHOLE_NUMBER = "should be a whole number"
_REASONS: dict[str, str] = {
    "missing": "is missing: add it",
    "extra_forbidden": "is not a field of this command: leave it out",
    "string_type": "should be a text",
    "string_too_short": "should not be empty",
    "string_too_long": "should have at most {max_length} characters",
    "string_pattern_mismatch": _CURRENCY,  # nothing else in a command has a pattern
    "int_type": _WHOLE_NUMBER,
    "int_from_float": _WHOLE_NUMBER,
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
"""By pydantic's type of error, for a person: what to do, and no value of the sender's (D16)."""


def _describe(error: ErrorDetails) -> Error:
    """Path and reason. pydantic's path names the request's kind too."""
    path = ".".join(str(part) for part in error["loc"] if part not in _KINDS)
    told = _REASONS.get(error["type"], "is not what the command needs: see docs/messages.md")
    reason = str(error["ctx"]["error"]) if error["type"] == "value_error" else told.format_map(error.get("ctx", {}))
    return {"path": path[:_LONGEST_PATH], "reason": reason}
