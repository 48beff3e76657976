"""Makes a Markdown page for people, docs/messages.md, from the JSON Schemas of all messages."""

from collections.abc import Iterator
from typing import Any

from .schemas import asyncapi, schemas

Json = dict[str, Any]

_INTRODUCTION = """# Messages

Every command, event, outcome and notification, field by field. This page, the JSON Schemas in
`contracts/schemas/` and the AsyncAPI 3 document `contracts/schemas/asyncapi.json` are made from the
models in `contracts/resolution_contracts/` by `make schemas`. [Consumers](consumers.md) says how to
read and send without losing or repeating anything.

**Before you send, set the partitioner.** A command must be in the partition that Kafka's murmur2
gives its key. This is the default of the Java client, aiokafka and kafkajs. With librdkafka
(confluent-kafka for Python, Go and .NET), set `partitioner=murmur2_random`. A command in another
partition is not judged: it goes to `resolution.commands.dead`, and the header `error` says so.

## What all messages share

- **Envelope.** A record's value is one CloudEvents 1.0 JSON object, with the header
  `content-type: application/cloudevents+json`. Binary mode and `data_base64` are not supported.
- **Key.** A record's key is `subject`, the order id.
- **Source.** `source` has at most 1,000 characters.
- **Instants** are RFC 3339 in UTC. In a command, they may have any offset and any number of
  decimals. The service cuts them to microseconds.
- **Money** is an integer count of the currency's minor units, at most 2^63 - 1 in a command.
- **UUIDs** are compared without regard to letter case. The service publishes the first spelling.
- **Refused**: a key that occurs twice in `data`, and a text or an id without a visible character.
- **Traces.** A command may have a header `traceparent` (W3C Trace Context). The events and the
  outcome that follow have one that continues the trace.
"""


def page() -> str:
    """Returns the page."""
    return "\n".join([_INTRODUCTION, *_channels()]).rstrip() + "\n"


def _channels() -> Iterator[str]:
    documents = schemas()
    for name, channel in asyncapi()["channels"].items():
        yield f"## {name.capitalize()}: `{channel['address']}`\n"
        yield channel["description"] + "\n"
        messages = {file: schema for file, schema in documents.items() if file.startswith(name + "/")}
        yield from _envelope(next(iter(messages.values())))
        for schema in messages.values():
            yield from _message(schema)


def _envelope(schema: Json) -> Iterator[str]:
    yield "| attribute | |\n|---|---|"
    for name, of in schema["properties"].items():
        if name not in ("type", "data"):
            yield f"| `{name}` | {_kind(of, schema)}{_optional(name, schema)} |"
    yield ""


def _message(schema: Json) -> Iterator[str]:
    yield f"### {schema['title']}\n"
    yield f"`{schema['properties']['type']['const']}`: {schema['description']}\n"
    yield from _fields(schema["properties"]["data"], schema)


def _fields(data: Json, schema: Json) -> Iterator[str]:
    if not data.get("properties"):
        yield "No data.\n"
        return
    yield "| field | |\n|---|---|"
    for name, of in data["properties"].items():
        yield f"| `{name}` | {_kind(of, schema)}{_optional(name, data)} |"
    yield ""


def _optional(name: str, of: Json) -> str:
    if name in of.get("required", ()):
        return ""
    default = of["properties"][name].get("default")
    return f"; {default} if absent" if isinstance(default, int) and not isinstance(default, bool) else "; optional"


def _kind(of: Json, schema: Json) -> str:
    if "$ref" in of:
        return _named(schema["$defs"][of["$ref"].rpartition("/")[2]], schema)
    if "const" in of:
        return f"`{of['const']}`"
    if "enum" in of:
        return ", ".join(f"`{value}`" for value in of["enum"])
    for alternatives in ("anyOf", "oneOf"):
        if alternatives in of:
            kinds = [_kind(option, schema) for option in of[alternatives] if option.get("type") != "null"]
            null = " or null" if any(option.get("type") == "null" for option in of[alternatives]) else ""
            return "; or ".join(kinds) + null
    if of.get("type") == "array":
        return f"a list of {_kind(of['items'], schema)}"
    if of.get("format") == "date-time":
        return "an instant"
    return _scalar(of)


def _named(definition: Json, schema: Json) -> str:
    if "properties" not in definition:
        return _kind(definition, schema)
    fields = (
        f"`{name}` ({_kind(of, schema)}{_optional(name, definition)})" for name, of in definition["properties"].items()
    )
    return "an object: " + ", ".join(fields)


def _scalar(of: Json) -> str:
    kinds = {"string": "text", "integer": "an integer", "boolean": "true or false", "object": "an object"}
    kind = kinds.get(str(of.get("type")), "anything")
    if "pattern" in of:
        return f"{kind} (`{of['pattern']}`)"
    if "maxLength" in of:
        return f"{kind} ({of['minLength']:,} to {of['maxLength']:,} characters)"
    if "maximum" in of:
        return f"{kind} ({of['minimum']} to {of['maximum']})"
    return kind + (f" (at least {of['minimum']})" if "minimum" in of else "")
