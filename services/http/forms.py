"""What the forms of an order page ask for, and what they say to somebody whose entry was refused."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import msgspec
from fastapi import Request
from markupsafe import Markup
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from resolution_contracts.commands import DeliveryExtensionRequest
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
_DAYS = DeliveryExtensionRequest.model_json_schema()["properties"]["days"]
_LONGEST_QUOTE = 40
_CHOOSE = "Choose one from the list."
_is_command_id = re.compile(COMMAND_ID).fullmatch


@dataclass(frozen=True)
class Refused:
    """A form that was sent and refused."""

    form: str
    """Which one, by its key."""
    values: Mapping[str, str]
    """What was entered."""
    why: str | None = None
    """What is wrong with the form as a whole."""
    fields: Mapping[str, Markup] = field(default_factory=dict)
    """What is wrong with a field, by its name."""
    id: str | None = None
    """The command's id, if the command may still arrive: sent again under it, it takes effect once."""


def key_of(command: str, kind: str | None) -> str:
    """Names a form among those of a page."""
    return f"{command}-{kind or ''}"


def labels_of(key: str) -> Mapping[str, str]:
    """The label of each field of a form."""
    return _LABELS.get(key, _OTHER_LABELS)


async def entered(request: Request) -> dict[str, str]:
    """The fields of the form that was sent. Browsers send two characters for a line break; it counts as one.

    Raises what `fields_of` does.
    """
    fields = await fields_of(request)
    return {name: value.replace("\r\n", "\n").replace("\r", "\n") for name, value in fields.items()}


def command_id_of(form: Mapping[str, str]) -> str | None:
    """The id that the form brought for its command."""
    id_ = form.get("id", "")
    return id_ if _is_command_id(id_) else None


def wrong_fields(key: str, form: Mapping[str, str], data: Json) -> dict[str, Markup]:
    """What the contract refuses in a command's data: a sentence for each field of the form, by its name."""
    model = PARTY_COMMANDS.get(form.get("command", ""))
    if model is None:
        return {}
    try:
        model.model_validate_json(msgspec.json.encode(data | {"actor": "-"}))
    except ValidationError as error:
        return _sentences(key, form, error)
    return {}


def _sentences(key: str, form: Mapping[str, str], error: ValidationError) -> dict[str, Markup]:
    found: dict[str, Markup] = {}
    for one in error.errors(include_url=False, include_input=False):
        name = _field_of(key, one["loc"])
        if name is not None:
            found.setdefault(name, _sentence(key, name, form, one))
    return found


def _field_of(key: str, path: Iterable[object]) -> str | None:
    """The field of the form that a path in the command's data comes from."""
    labels = labels_of(key)
    return next((str(part) for part in path if part in labels), None)


def _sentence(key: str, name: str, form: Mapping[str, str], error: ErrorDetails) -> Markup:
    if name == "days":
        return about(key, name, "Enter a whole number from {minimum} to {maximum}.".format(**_DAYS), form)
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
    """What is wrong with a field: its label, the sentence, and what was entered."""
    label, value = labels_of(key).get(name, name), form.get(name, "").strip()
    if not value:
        return Markup("“{}” is empty. {}").format(label, "Fill it in." if name in TEXTS else sentence)
    if name in TEXTS:
        return Markup("“{}”: {}").format(label, sentence)
    quote = value if len(value) <= _LONGEST_QUOTE else f"{value[:_LONGEST_QUOTE]}…"
    return Markup("“{}”: {} You entered “<bdi>{}</bdi>”.").format(label, sentence, quote)


def whole_number(text: str) -> int:
    """The number that was entered; 0 if it is none."""
    return int(text) if re.fullmatch(r"\s*[0-9]{1,9}\s*", text) else 0


def refused_fields(key: str, form: Mapping[str, str], rejected: Json) -> dict[str, Markup]:
    """The same for what the order's rules refused as `invalid`."""
    details: Any = rejected["details"]
    errors = details.get("errors", []) if isinstance(details, dict) else []
    found = {_field_of(key, error["path"].split(".")): f"It {error['reason']}." for error in errors}
    if "reason" in found:
        found["reason"] = _CHOOSE
    return {name: about(key, name, sentence, form) for name, sentence in found.items() if name}
