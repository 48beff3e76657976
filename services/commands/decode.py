"""From a Kafka record to a command, or to the reason why it is none."""

import hashlib
import json
import re
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Literal, NoReturn

import msgspec
from pydantic import ValidationError
from pydantic_core import ErrorDetails
from resolution_contracts.commands import COMMAND_TYPES, Command
from resolution_contracts.topics import MAX_COMMAND_BYTES
from resolution_contracts.values import DisputeKind

from services.kafka.consumer import Record
from services.kafka.record_batches import UndecodableRecord
from services.kafka.topics import partition_of
from services.orders import rejections

_NAMES = {type_: type_.split(".")[-2] for type_ in COMMAND_TYPES}
_KINDS = set(DisputeKind)
_VALIDATE: dict[str, Callable[[bytes], Command]] = {
    type_: command.__pydantic_validator__.validate_json for type_, command in COMMAND_TYPES.items()
}
_MOST_ERRORS = 20
_LONGEST_PATH = 200


class Unreadable(Exception):
    """A record that is no command: it becomes a dead letter. The text says why, for the header `error`."""


_is_command_id = re.compile("[0-9A-Fa-f]{8}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{4}-[0-9A-Fa-f]{12}").fullmatch
_is_order_id = re.compile("[A-Za-z0-9._-]{1,64}").fullmatch


class _Envelope(msgspec.Struct, gc=False):
    specversion: Literal["1.0"]
    id: str
    type: str
    source: Annotated[str, msgspec.Meta(min_length=1)]
    subject: str
    data: msgspec.Raw = msgspec.Raw(b"{}")
    data_base64: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class Received(msgspec.Struct, gc=False):
    """A readable command. `time` is its record's business time; bad data makes `command` the rejection it gets."""

    order_id: str
    command_id: str
    name: str
    source: str
    command: Command | rejections.Rejected
    digest: bytes
    time: datetime


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_attributes = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_has_nul = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000").search  # a backslash before it may be an escaped one


def decode(record: Record, time: datetime, partitions: int | None) -> Received:
    """`partitions`: of the commands topic, for commands have to be in the one of their key.

    None reads as earlier versions did: from any partition, and content in Base64 as none. Raises Unreadable.
    """
    envelope = _envelope(_value(record))
    name = _NAMES.get(envelope.type)
    if name is None:
        raise Unreadable("type is not a command that this service knows")
    if not _is_command_id(envelope.id):
        raise Unreadable("the envelope is not a command's: id is not a UUID")
    if not _is_order_id(envelope.subject):
        raise Unreadable("the envelope is not a command's: subject is not 1-64 characters of A-Za-z0-9._-")
    if record.key != envelope.subject.encode():
        raise Unreadable("subject is not the record's key")
    if partitions is not None:
        _must_be_in_its_partition(record, partitions)
        if envelope.data_base64 is not msgspec.UNSET:
            raise Unreadable("data_base64 is not supported: send the command's content as JSON in data")
    return Received(
        order_id=envelope.subject,
        command_id=envelope.id,
        name=name,
        source=envelope.source,
        command=_command(envelope.type, envelope.data),
        digest=_digest(name, envelope.data),
        time=time,
    )


def _value(record: Record) -> bytes:
    if type(record) is UndecodableRecord:
        raise Unreadable(f"the record cannot be decoded: {record.why}")
    if record.value is None:
        raise Unreadable("the record has no value")
    if len(record.value) > MAX_COMMAND_BYTES:
        raise Unreadable(f"the record is larger than {MAX_COMMAND_BYTES} bytes")
    return record.value


def _envelope(value: bytes) -> _Envelope:
    try:
        value.decode()
        envelope = _decode_envelope(value)
        if b"\\" in value and b"\\u0000" in value:  # a single byte is found in a tenth of the time
            _must_have_no_nul(value)
    except UnicodeDecodeError:
        raise Unreadable("the value is not UTF-8") from None
    except RecursionError:
        raise Unreadable("the JSON is nested too deeply") from None
    except msgspec.ValidationError as error:
        raise Unreadable(f"the envelope is not a command's: {error}") from None
    except msgspec.DecodeError as error:
        raise Unreadable(f"the value is not JSON: {error}") from None
    return envelope


def _must_have_no_nul(value: bytes) -> None:
    """PostgreSQL stores no NUL. In `data` it is for the schema to say so, and the command's outcome says where."""
    for name, content in _decode_attributes(value).items():
        if "\0" in name or (name != "data" and _has_nul(bytes(content))):
            raise Unreadable(f"the attribute {name[:_LONGEST_PATH]!a} has a NUL character: leave it out")


def _must_be_in_its_partition(record: Record, partitions: int) -> None:
    assert record.key is not None
    if (own := partition_of(record.key, partitions)) != record.partition:
        raise Unreadable(
            f"the record is in partition {record.partition}, and its key belongs in {own}: its sender does not use "
            "Kafka's murmur2 partitioner. With librdkafka (confluent-kafka) set partitioner=murmur2_random"
        )


def _command(type_: str, data: msgspec.Raw) -> Command | rejections.Rejected:
    try:
        return _VALIDATE[type_](bytes(data))
    except ValidationError as error:
        found = error.errors(include_url=False, include_context=False, include_input=False)
    if found[0]["type"] == "json_invalid":
        _must_be_json(data)
    return rejections.invalid([_describe(error) for error in found[:_MOST_ERRORS]])


def _must_be_json(data: msgspec.Raw) -> None:
    # The envelope's decoder passes over `data` without reading it, and pydantic refuses some JSON (lone surrogates).
    try:
        json.loads(bytes(data), parse_constant=_no_constant, parse_int=float)
    except RecursionError:
        raise Unreadable("the JSON is nested too deeply") from None
    except ValueError as error:
        raise Unreadable(f"the value is not JSON: {error}") from None


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")


def _describe(error: ErrorDetails) -> dict[str, str]:
    """Path and reason; no value, which might be confidential (D16). pydantic's path names the request's kind too."""
    path = ".".join(str(part) for part in error["loc"] if part not in _KINDS)
    return {"path": path[:_LONGEST_PATH], "reason": error["msg"].removeprefix("Value error, ")}


def _number(text: str) -> int | float:
    """3.0 is 3 in JSON."""
    value = float(text)
    return int(value) if value.is_integer() and abs(value) < 2**53 else value


_decode_data = msgspec.json.Decoder(float_hook=_number).decode
_encode_sorted = msgspec.json.Encoder(order="deterministic").encode


def _digest(name: str, data: msgspec.Raw) -> bytes:
    """The same for the same name and data, however the JSON is written (D19)."""
    try:
        canonical = _encode_sorted(_decode_data(data))
    except (msgspec.MsgspecError, RecursionError):
        canonical = bytes(data)
    return hashlib.sha256(canonical + name.encode()).digest()[:16]
