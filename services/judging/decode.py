"""From a Kafka record to a command, or to the reason why it is none."""

import re
from datetime import datetime
from functools import lru_cache
from hashlib import sha256
from typing import Annotated, Literal

import msgspec
from resolution_contracts.commands import COMMAND_TYPES, Command
from resolution_contracts.topics import MAX_COMMAND_BYTES
from resolution_contracts.values import COMMAND_ID, ORDER_ID

from services.orders import rejections

from .command_data import NotJson, canonical_form, read_data
from .earlier_versions import read_data_as_before
from .partitioner import partition_of
from .record import Record

_NAMES = {type_: type_.split(".")[-2] for type_ in COMMAND_TYPES}
_ENDS = {name: name.encode() for name in _NAMES.values()}
_REMEMBERED_ORDERS = 20_000
_LONGEST_ORDER_ID = 64
_NAMED_IDS = dict.fromkeys(("Accept", "Decline", "Withdraw", "ExpireDispute"), "dispute_id")
_NAMED_IDS["RecordRefundProcessed"] = "refund_id"
_LONGEST_SOURCE = 1000
_UNSET = msgspec.UNSET
_LONGEST_NAME = 200


class Unreadable(Exception):
    """A record that is no command: it becomes a dead letter. The text says why, for the header `error`."""


_is_command_id = re.compile(COMMAND_ID).fullmatch
_is_order_id = re.compile(ORDER_ID).fullmatch


class _Envelope(msgspec.Struct, gc=False):
    specversion: Literal["1.0"]
    id: str
    type: str
    source: Annotated[str, msgspec.Meta(min_length=1)]
    subject: str
    data: msgspec.Raw = msgspec.Raw(b"{}")
    data_base64: msgspec.Raw | msgspec.UnsetType = _UNSET


class Received(msgspec.Struct, gc=False):
    """A readable command.

    `time` is its record's business time; bad data makes `command` the rejection it gets. `as_before`: it was judged by
    an earlier version, which compared ids as they were written.
    """

    order_id: str
    command_id: str
    name: str
    source: str
    command: Command | rejections.Rejected
    digest: bytes
    time: datetime
    as_before: bool = False


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_attributes = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_STAND_IN = b"\\uFdD0"  # for half of a character: no character of Unicode, in a spelling that nobody uses
_escapes = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
).sub
_has_nul = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000").search  # a backslash before it may be an escaped one


def decode(record: Record, time: datetime, partitions: int | None, *, as_before: bool = False) -> Received:
    """`partitions`: of the commands topic, for commands have to be in the one of their key. None takes any.

    `as_before` reads as earlier versions did: from any partition, content in Base64 as none, and data by their schema.
    Raises Unreadable.
    """
    envelope = _envelope(record, as_before)
    name = _NAMES.get(envelope.type)
    if name is None:
        raise Unreadable("type is not a command that this service knows")
    if not _is_command_id(envelope.id):
        raise Unreadable("the envelope is not a command's: id is not a UUID")
    # Only what is short is remembered: a sender could fill the memory.
    if len(envelope.subject) > _LONGEST_ORDER_ID or (own := _partition_of(envelope.subject, partitions)) is None:
        raise Unreadable("the envelope is not a command's: subject is not 1-64 characters of A-Za-z0-9._-")
    if record.key != envelope.subject.encode():
        raise Unreadable("subject is not the record's key")
    is_there = partitions is None or own == record.partition
    if not as_before and not (is_there and envelope.data_base64 is _UNSET and len(envelope.source) <= _LONGEST_SOURCE):
        raise Unreadable(_objection(envelope, record, own if not is_there else None))
    data = bytes(envelope.data)
    canonical = canonical_form(data)
    try:
        command = read_data_as_before(envelope.type, data) if as_before else read_data(envelope.type, data, canonical)
    except NotJson as error:
        raise Unreadable(str(error)) from None
    if name in _NAMED_IDS and not as_before:
        canonical = _without_case(canonical, _NAMED_IDS[name], command)
    digest = sha256(canonical + _ENDS[name]).digest()[:16]
    return Received(envelope.subject, envelope.id, name, envelope.source, command, digest, time, as_before)


def _objection(envelope: _Envelope, record: Record, partition: int | None) -> str:
    """Why a record is not taken any more. `partition`: the one that it should be in, if that is another one."""
    if partition is not None:
        return (
            f"the record is in partition {record.partition}, and its key belongs in {partition}: its sender does not "
            "use Kafka's murmur2 partitioner. With librdkafka (confluent-kafka) set partitioner=murmur2_random"
        )
    if envelope.data_base64 is not _UNSET:
        return "data_base64 is not supported: send the command's content as JSON in data"
    return f"source has more than {_LONGEST_SOURCE} characters: send a shorter one"


@lru_cache(_REMEMBERED_ORDERS)
def _partition_of(subject: str, partitions: int | None) -> int | None:
    """None if it is not an order id; -1 if nobody asks. An order's commands often come close together."""
    if not _is_order_id(subject):
        return None
    return -1 if partitions is None else partition_of(subject.encode(), partitions)


# --- the envelope ---


def _envelope(record: Record, as_before: bool) -> _Envelope:
    if record.undecodable:
        raise Unreadable(f"the record cannot be decoded: {record.undecodable}")
    try:
        return _decoded(record.value, as_before)
    except Unreadable:
        if any(name.lower() == "ce_specversion" for name, _ in record.headers):
            raise Unreadable(
                "the record is a CloudEvent in binary mode, which is not supported: send structured JSON, with all "
                "attributes and data in the value"
            ) from None
        raise


def _decoded(value: bytes | None, as_before: bool) -> _Envelope:
    if value is None:
        raise Unreadable("the record has no value")
    try:
        if len(value) > MAX_COMMAND_BYTES:
            raise Unreadable(f"the record is larger than {MAX_COMMAND_BYTES} bytes")
        if not value.isascii():
            value.decode()
        envelope = _decode_envelope(value)
        if b"\\" in value and b"\\u0000" in value:  # a single byte is found in a tenth of the time
            _must_have_no_nul(value)
        return envelope
    except UnicodeDecodeError:
        raise Unreadable("the value is not UTF-8") from None
    except RecursionError:
        raise Unreadable("the JSON is nested too deeply") from None
    except msgspec.ValidationError:
        raise Unreadable(f"the envelope is not a command's: {_what_is_wrong(value)}") from None
    except msgspec.DecodeError as error:
        whole = value if as_before else _escapes(lambda escape: _STAND_IN if escape[1] else escape[0], value)
        if whole == value:
            raise Unreadable(f"the value is not JSON: {error}") from None
    return _with_halves(whole)


def _with_halves(value: bytes) -> _Envelope:
    """Halves of characters (lone surrogates) are no text. In `data` it is for the command's outcome to say where."""
    envelope = _decoded(value, as_before=False)
    _must_have_no_stand_in(value)
    envelope.data = msgspec.Raw(bytes(envelope.data).replace(_STAND_IN, b"\\ud800"))
    return envelope


def _what_is_wrong(value: bytes) -> str:
    try:
        attributes = {name: bytes(content) for name, content in _decode_attributes(value).items()}
    except RecursionError:
        return "it is nested too deeply"
    except msgspec.MsgspecError:
        return "it is not one JSON object; send each command as a record of its own"
    for name in ("specversion", "id", "type", "source", "subject"):
        if name not in attributes:
            return f"{name} is missing"
        if not attributes[name].startswith(b'"'):
            return f"{name} is not a text"
    if attributes["source"] == b'""':
        return "source is empty"
    return 'specversion is not "1.0"' if attributes["specversion"] != b'"1.0"' else "an attribute is there twice"


def _must_have_no_nul(value: bytes) -> None:
    """PostgreSQL stores no NUL. In `data` it is for the schema to say so, and the command's outcome says where."""
    for name, content in _decode_attributes(value).items():
        if "\0" in name or (name != "data" and _has_nul(bytes(content))):
            raise Unreadable(f"the attribute {name[:_LONGEST_NAME]!a} has a NUL character: leave it out")


def _must_have_no_stand_in(value: bytes) -> None:
    for name, content in _decode_attributes(value).items():
        if "\ufdd0" in name or (name != "data" and _STAND_IN in bytes(content)):
            shown = name[:_LONGEST_NAME]
            raise Unreadable(f"the attribute {shown!a} has half of a character (a lone surrogate): leave it out")


def _without_case(canonical: bytes, field: str, command: Command | rejections.Rejected) -> bytes:
    """A dispute is the same in capital letters, and so is the data that names it."""
    id_: str = getattr(command, field, "")
    if id_.islower() or not _is_command_id(id_):
        return canonical
    return canonical.replace(f'"{field}":"{id_}"'.encode(), f'"{field}":"{id_.lower()}"'.encode())
