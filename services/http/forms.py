"""The forms of an order page: their labels, how they are read, and the sentences about refused entries."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from fastapi import Request
from markupsafe import Markup
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from resolution_contracts.values import COMMAND_ID

from .gateway import PARTY_COMMANDS, Json
from .request_bodies import fields_of

TEXTS = ("message", "comment", "note", "explanation")
_LABELS: Mapping[str, Mapping[str, str]] = {
    "Accept-order_update": {"message": "Your update"},
    "OpenDispute-order_update": {"message": "What do you want to know?"},
    "OpenDispute-cancellation": {"reason": "Reason", "comment": "Why do you want to cancel?"},
    "OpenDispute-delivery_extension": {"days": "Days to add to the delivery date", "note": "Note to the client"},
    "OfferPartialRefund-partial_refund": {
        "amount": "Amount",
        "explanation": "Explanation to the client",
        "reason": "Reason, which stays confidential",
    },
    "CancelOrder-": {"comment": "Comment"},
}
_OTHER_LABELS = {"message": "Message"}
_LONGEST_QUOTE = 40
_CHOOSE = "Choose one from the list."
_is_command_id = re.compile(COMMAND_ID).fullmatch


@dataclass(frozen=True)
class Refused:
    """A form that was sent and refused."""

    form: str
    """The form's key."""
    values: Mapping[str, str]
    """The values that were entered, by field."""
    why: str | None = None
    """What is wrong with the form as a whole."""
    fields: Mapping[str, Markup] = field(default_factory=dict)
    """What is wrong with single fields, by field."""
    id: str | None = None
    """The command's id, if the command may still arrive. Sent again under this id, it takes effect once."""


def key_of(command: str, kind: str | None) -> str:
    """Returns the key that names a form on its page."""
    return f"{command}-{kind or ''}"


def labels_of(key: str) -> Mapping[str, str]:
    """Returns the labels of a form's fields, by field."""
    return _LABELS.get(key, _OTHER_LABELS)


async def entered(request: Request) -> dict[str, str]:
    """Returns the values of a sent form, by field. Turns line breaks into single characters; browsers send two.

    Raises what `fields_of` does.
    """
    fields = await fields_of(request)
    return {name: value.replace("\r\n", "\n").replace("\r", "\n") for name, value in fields.items()}


def command_id_of(form: Mapping[str, str]) -> str | None:
    """Returns the command id that the form contains, or None if it has no valid one."""
    id_ = form.get("id", "")
    return id_ if _is_command_id(id_) else None


def wrong_fields(key: str, form: Mapping[str, str], data: Json, terms: Json) -> dict[str, Markup]:
    """Checks a command's data against the contract and the order's terms.

    Returns a sentence for each wrong field of the form, by field.
    """
    model = PARTY_COMMANDS.get(form.get("command", ""))
    if model is None:
        return {}
    most_days = terms["longest_extension_days"]
    sentences: dict[str, Markup] = {}
    try:
        model.model_validate_json(msgspec.json.encode(data | {"actor": "-"}))
    except ValidationError as error:
        sentences = _sentences(key, form, error)
    days = data.get("request", {}).get("days")
    if "days" in sentences or (days is not None and not 1 <= days <= most_days):
        sentence = f"Enter a whole number from 1 to {most_days}." if most_days else "This order has no extensions."
        sentences["days"] = about(key, "days", sentence, form)
    return sentences


def _sentences(key: str, form: Mapping[str, str], error: ValidationError) -> dict[str, Markup]:
    sentences: dict[str, Markup] = {}
    for detail in error.errors(include_url=False, include_input=False):
        name = _field_of(key, detail["loc"])
        if name is not None:
            sentences.setdefault(name, _sentence(key, name, form, detail))
    return sentences


def _field_of(key: str, path: Iterable[object]) -> str | None:
    """Returns the form's field that a path in the command's data comes from."""
    labels = labels_of(key)
    return next((str(part) for part in path if part in labels), None)


def _sentence(key: str, name: str, form: Mapping[str, str], error: ErrorDetails) -> Markup:
    if name == "reason":
        return about(key, name, _CHOOSE, form)
    if name == "amount":
        too_low = error["type"] == "greater_than_equal"
        return about(key, name, "Enter more than zero." if too_low else "Enter a smaller amount.", form)
    if error["type"] == "string_too_long":
        most, length = error["ctx"]["max_length"], len(form.get(name, "").strip())
        return about(key, name, f"Write at most {most:,} characters, not {length:,}.", form)
    return about(key, name, f"This text {error['msg'].removeprefix('Value error, ')}.", form)


def about(key: str, name: str, sentence: str, form: Mapping[str, str]) -> Markup:
    """Says what is wrong with a field: its label, the sentence, and the value that was entered."""
    label, value = labels_of(key).get(name, name), form.get(name, "").strip()
    if not value:
        return Markup("“{}” is empty. {}").format(label, "Fill it in." if name in TEXTS else sentence)
    if name in TEXTS:
        return Markup("“{}”: {}").format(label, sentence)
    quote = value if len(value) <= _LONGEST_QUOTE else f"{value[:_LONGEST_QUOTE]}…"
    return Markup("“{}”: {} You entered “<bdi>{}</bdi>”.").format(label, sentence, quote)


def whole_number(text: str) -> int:
    """Returns the number that was entered, or 0 if the text isn't a number."""
    return int(text) if re.fullmatch(r"\s*[0-9]{1,9}\s*", text) else 0


def refused_fields(key: str, form: Mapping[str, str], rejected: Json) -> dict[str, Markup]:
    """Returns a sentence for each field that the rules rejected as `invalid`, by field."""
    details: Any = rejected["details"]
    errors = details.get("errors", []) if isinstance(details, dict) else []
    sentences = {_field_of(key, error["path"].split(".")): f"It {error['reason']}." for error in errors}
    if "reason" in sentences:
        sentences["reason"] = _CHOOSE
    return {name: about(key, name, sentence, form) for name, sentence in sentences.items() if name}
