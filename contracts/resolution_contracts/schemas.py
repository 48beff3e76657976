"""Makes the JSON Schemas of all messages, and the AsyncAPI 3 document, from the models."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from . import topics
from .commands import COMMANDS, V2_COMMANDS
from .envelope import CommandEnvelope, Envelope, EventEnvelope, NotificationEnvelope, OutcomeEnvelope
from .events import EVENTS
from .notifications import DisputeReminder, DisputeReminderV2
from .outcomes import OUTCOMES

Json = dict[str, Any]

_DIALECT = "https://json-schema.org/draft/2020-12/schema"
_REQUIRED = ["specversion", "id", "type", "source", "subject"]


class _Family:
    """The messages of one topic."""

    def __init__(
        self, folder: str, topic: str, envelope: type[Envelope], models: Mapping[str, type[BaseModel]], required: str
    ) -> None:
        """`models`: the data by CloudEvents type. `required`: more required attributes of the envelope, with spaces."""
        self.folder = folder
        self.topic = topic
        self.envelope = envelope
        self.models = models
        self.required = [*_REQUIRED, *required.split()]


def _typed(
    models: Mapping[str, type[BaseModel]], type_of: Callable[[str, int], str], version: int = 1
) -> dict[str, type[BaseModel]]:
    return {type_of(name, version): model for name, model in models.items()}


_FAMILIES = (
    _Family(
        "commands",
        topics.COMMANDS,
        CommandEnvelope,
        _typed(COMMANDS, topics.command_type) | _typed(V2_COMMANDS, topics.command_type, 2),
        "",
    ),
    _Family(
        "events", topics.EVENTS, EventEnvelope, _typed(EVENTS, topics.event_type), "time sequence causationid data"
    ),
    _Family(
        "outcomes", topics.OUTCOMES, OutcomeEnvelope, _typed(OUTCOMES, topics.outcome_type), "time causationid data"
    ),
    _Family(
        "notifications",
        topics.NOTIFICATIONS,
        NotificationEnvelope,
        _typed({"DisputeReminder": DisputeReminder}, topics.notification_type)
        | _typed({"DisputeReminder": DisputeReminderV2}, topics.notification_type, 2),
        "time data",
    ),
)


def schemas() -> dict[str, Json]:
    """Returns the JSON Schema (draft 2020-12) of each message, by file name, such as `commands/Accept.v1.json`.

    A schema covers envelope and data.
    """
    return {
        f"{family.folder}/{_short(type_)}.json": _message(family, type_, model)
        for family in _FAMILIES
        for type_, model in family.models.items()
    }


def asyncapi() -> Json:
    """Returns the AsyncAPI 3.0 document: what to send and read, and where. Payloads refer to the schemas' files."""
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Resolution Center",
            "version": "1.0.0",
            "description": (
                "Settles disputes on a marketplace's orders. Publish commands; read what became of each on the "
                "outcomes topic, and what happened on the events topic. Topic names start with the installation's "
                "prefix, `resolution.` by default. Consumers read committed records only "
                "(`isolation.level=read_committed`), because the service publishes in Kafka transactions."
            ),
            "license": {"name": "Apache-2.0"},
        },
        "defaultContentType": topics.CONTENT_TYPE,
        "channels": {family.folder: _channel(family) for family in _FAMILIES},
        "operations": dict(_operations()),
        "components": {"messages": dict(_messages()), "messageTraits": _traits()},
    }


_ABOUT = {
    "commands": (
        "receive",
        "What other services ask for. The record's key is the order id (`subject`), placed by Kafka's murmur2 "
        "partitioner. `id` is a UUID of the sender's choice and the idempotency key: sending a command again under "
        "the same id changes nothing and gets the first outcome again. A command's business time is the time at "
        "which the broker appended it. A record that is larger than 256 KiB, is in another partition than that of its "
        "key, or is not a command goes to `resolution.commands.dead`. The header `error` gives the reason. A large "
        "value is cut to its first 64 KiB.",
    ),
    "events": (
        "send",
        "What happened, in order and without a gap in `sequence` within each order. `id` is `<order id>:<sequence>`; "
        "`causationid` is the command's id. The key is the order id. Ignore fields and events that you do not know.",
    ),
    "outcomes": (
        "send",
        "Exactly one for each command: accepted, or rejected with a code and a sentence that says what to do "
        "instead. `causationid` is the command's id; the key is the order id.",
    ),
    "notifications": (
        "send",
        "What other services pass on to a person. Each notification has its own `id`, which never changes.",
    ),
}


def _channel(family: _Family) -> Json:
    return {
        "address": family.topic,
        "description": _ABOUT[family.folder][1],
        "messages": {
            _short(type_): {"$ref": f"#/components/messages/{family.folder}.{_short(type_)}"} for type_ in family.models
        },
        "bindings": {"kafka": {"topic": family.topic, "partitions": 8, "bindingVersion": "0.5.0"}},
    }


def _operations() -> Iterator[tuple[str, Json]]:
    for family in _FAMILIES:
        action, description = _ABOUT[family.folder]
        yield (
            f"{action}_{family.folder}",
            {
                "action": action,
                "channel": {"$ref": f"#/channels/{family.folder}"},
                "summary": description.split(". ")[0].rstrip(".") + ".",
                "messages": [
                    {"$ref": f"#/channels/{family.folder}/messages/{_short(type_)}"} for type_ in family.models
                ],
            },
        )


def _messages() -> Iterator[tuple[str, Json]]:
    for family in _FAMILIES:
        trait = "cloudevent" if family.folder == "notifications" else "traced"
        for type_, model in family.models.items():
            yield (
                f"{family.folder}.{_short(type_)}",
                {
                    "name": type_,
                    "title": _short(type_),
                    "summary": _doc(model),
                    "contentType": topics.CONTENT_TYPE,
                    "traits": [{"$ref": f"#/components/messageTraits/{trait}"}],
                    "payload": {"$ref": f"./{family.folder}/{_short(type_)}.json"},
                    "bindings": {
                        "kafka": {
                            "key": {"type": "string", "description": "the order id"},
                            "bindingVersion": "0.5.0",
                        }
                    },
                },
            )


def _traits() -> Json:
    """Returns the headers, which senders may leave out. The values are bytes, described here as UTF-8 text."""
    content: Json = {"content-type": {"const": topics.CONTENT_TYPE}}
    trace: Json = {
        "traceparent": {
            "type": "string",
            "description": "W3C Trace Context. A command's sender may set it. What follows continues the trace.",
        }
    }
    return {
        "cloudevent": {"headers": {"type": "object", "properties": content}},
        "traced": {"headers": {"type": "object", "properties": content | trace}},
    }


def _message(family: _Family, type_: str, model: type[BaseModel]) -> Json:
    references, combined = models_json_schema([(family.envelope, "validation"), (model, "validation")])
    definitions = combined["$defs"]
    envelope = definitions.pop(family.envelope.__name__)
    data = _refer(references[model, "validation"], definitions)
    properties = {name: _without_default(schema) for name, schema in envelope["properties"].items()}
    properties["type"] = {"const": type_}
    properties["data"] = data
    required = {"data"} if data.get("required") else set()
    return _portable_object(
        {
            "$schema": _DIALECT,
            "$id": f"urn:resolution-center:{family.folder}:{_short(type_)}",
            "title": _short(type_),
            "description": _doc(model),
            "type": "object",
            "properties": properties,
            "required": [*family.required, *sorted(required - set(family.required))],
            "$defs": {name: schema for name, schema in sorted(definitions.items()) if name != model.__name__},
        }
    )


def _refer(reference: Json, definitions: Json) -> Json:
    """Returns the schema that a reference names, without its description. Schemas that it uses stay in `$defs`."""
    schema: Json = definitions[reference["$ref"].rpartition("/")[2]]
    return {name: value for name, value in schema.items() if name != "description"}


def _without_default(schema: Json) -> Json:
    return {name: value for name, value in schema.items() if name != "default"}


def _portable(schema: Any) -> Any:
    """Returns a schema with JSON Schema's anchors in patterns, and without titles that are made from field names."""
    if isinstance(schema, list):
        return [_portable(item) for item in schema]
    return _portable_object(schema) if isinstance(schema, dict) else schema


def _portable_object(schema: Json) -> Json:
    result: Json = {}
    for name, value in schema.items():
        if name == "pattern" and isinstance(value, str):
            result[name] = value.replace(r"\A", "^").replace(r"\z", "$")
        elif (name == "title" and isinstance(value, str) and "$id" not in schema) or (name == "$defs" and not value):
            continue
        else:
            result[name] = _portable(value)
    return result


def _short(type_: str) -> str:
    """Returns `Accept.v1` for `resolution.command.Accept.v1`."""
    return ".".join(type_.split(".")[-2:])


def _doc(model: type[BaseModel]) -> str:
    own = model.__dict__.get("__doc__") or ""
    return " ".join(own.split()) or _words(model.__name__)


def _words(name: str) -> str:
    return "".join(" " + letter.lower() if letter.isupper() else letter for letter in name).strip().capitalize() + "."
