"""Decodes a Kafka record into a command, or into the reason why it is not one."""

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
_NAME_BYTES = {name: name.encode() for name in _NAMES.values()}
_CACHED_ORDER_IDS = 20_000
_MAX_ORDER_ID_CHARACTERS = 64
_ID_FIELDS = dict.fromkeys(("Accept", "Decline", "Withdraw", "ExpireDispute"), "dispute_id")
_ID_FIELDS["RecordRefundProcessed"] = "refund_id"
_MAX_SOURCE_CHARACTERS = 1000
_UNSET = msgspec.UNSET
_SHOWN_NAME_CHARACTERS = 200


class Unreadable(Exception):
    """The record is not a command, and becomes a dead letter. The text says why, for the header `error`."""


_is_command_id = re.compile(COMMAND_ID).fullmatch
_is_order_id = re.compile(ORDER_ID).fullmatch


class _Envelope(msgspec.Struct, gc=False):
    """The attributes of a command's envelope, named as in the contract. Others are ignored."""

    specversion: Literal["1.0"]
    id: str
    type: str
    source: Annotated[str, msgspec.Meta(min_length=1)]
    subject: str
    data: msgspec.Raw = msgspec.Raw(b"{}")
    data_base64: msgspec.Raw | msgspec.UnsetType = _UNSET


class Received(msgspec.Struct, gc=False):
    """A command that was read from a record."""

    order_id: str
    """The order that the command is about: the `subject` of its envelope."""
    command_id: str
    """The `id` of its envelope, as its sender wrote it."""
    name: str
    """The command's name, without a version."""
    source: str
    """Who sent the command: the `source` of its envelope."""
    command: Command | rejections.Rejected
    """The command; if its data is invalid, its rejection."""
    digest: bytes
    """Hash of the command's name and data: the same for a repeat, another one for a reused id."""
    time: datetime
    """The business time of the record. The order's own business time may be later (D1)."""
    as_before: bool = False
    """Whether to judge it as earlier versions did, which compared ids exactly as they were written."""


_decode_envelope = msgspec.json.Decoder(_Envelope).decode
_decode_attributes = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode
_PLACEHOLDER = b"\\uFdD0"  # for a lone surrogate: Unicode has no such character, and nobody spells it this way
_escapes = re.compile(
    rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(\\u[dD][89a-fA-F][0-9a-fA-F]{2})|\\."
).sub
_has_nul = re.compile(rb"(?<!\\)(?:\\\\)*\\u0000").search  # a backslash before it may be an escaped one


def decode(record: Record, time: datetime, partitions: int | None, *, as_before: bool = False) -> Received:
    """Returns the command in a record. Raises Unreadable if the record is not a command.

    `partitions` is the number of partitions of the commands topic: a command must be in the partition of its key. None
    accepts any partition. `as_before` reads as earlier versions did: it accepts any partition, ignores `data_base64`
    and validates the data with the earlier schema.
    """
    envelope = _envelope(record, as_before)
    name = _NAMES.get(envelope.type)
    if name is None:
        raise Unreadable("type is not a command that this service knows")
    if not _is_command_id(envelope.id):
        raise Unreadable("the envelope is not a command's: id is not a UUID")
    # Only short ids are cached: otherwise a sender could fill the memory.
    if len(envelope.subject) > _MAX_ORDER_ID_CHARACTERS or (own := _partition_of(envelope.subject, partitions)) is None:
        raise Unreadable("the envelope is not a command's: subject is not 1-64 characters of A-Za-z0-9._-")
    if record.key != envelope.subject.encode():
        raise Unreadable("subject is not the record's key")
    in_own = partitions is None or own == record.partition
    if not as_before and not (
        in_own and envelope.data_base64 is _UNSET and len(envelope.source) <= _MAX_SOURCE_CHARACTERS
    ):
        raise Unreadable(_objection(envelope, record, own if not in_own else None))
    data = bytes(envelope.data)
    canonical = canonical_form(data)
    try:
        command = read_data_as_before(envelope.type, data) if as_before else read_data(envelope.type, data, canonical)
    except NotJson as error:
        raise Unreadable(str(error)) from None
    if name in _ID_FIELDS and not as_before:
        canonical = _without_case(canonical, _ID_FIELDS[name], command)
    digest = sha256(canonical + _NAME_BYTES[name]).digest()[:16]
    return Received(envelope.subject, envelope.id, name, envelope.source, command, digest, time, as_before)


def _objection(envelope: _Envelope, record: Record, partition: int | None) -> str:
    """Says why this version refuses a record that earlier versions took.

    `partition` is the one that the record should be in, or None if it is in the right one.
    """
    if partition is not None:
        return (
            f"the record is in partition {record.partition}, and its key belongs in {partition}: its sender does not "
            "use Kafka's murmur2 partitioner. With librdkafka (confluent-kafka) set partitioner=murmur2_random"
        )
    if envelope.data_base64 is not _UNSET:
        return "data_base64 is not supported: send the command's content as JSON in data"
    return f"source has more than {_MAX_SOURCE_CHARACTERS} characters: send a shorter one"


@lru_cache(_CACHED_ORDER_IDS)
def _partition_of(subject: str, partitions: int | None) -> int | None:
    """Returns the partition of an order id, -1 if `partitions` is None, or None if `subject` is not an order id.

    Cached because the commands of one order often come close together.
    """
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
        raise Unreadable(f"the envelope is not a command's: {_describe_flaw(value)}") from None
    except msgspec.DecodeError as error:
        repaired = value if as_before else _escapes(lambda escape: _PLACEHOLDER if escape[1] else escape[0], value)
        if repaired == value:
            raise Unreadable(f"the value is not JSON: {error}") from None
    return _decoded_with_placeholders(repaired)


def _decoded_with_placeholders(value: bytes) -> _Envelope:
    """Decodes a value whose lone surrogates were replaced by placeholders.

    An attribute must not have one. In `data` the lone surrogate is put back: the command's outcome says where it is.
    """
    envelope = _decoded(value, as_before=False)
    _must_have_no_placeholder(value)
    envelope.data = msgspec.Raw(bytes(envelope.data).replace(_PLACEHOLDER, b"\\ud800"))
    return envelope


def _describe_flaw(value: bytes) -> str:
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
    """Refuses NUL in attributes, because PostgreSQL cannot store it.

    In `data` the command's schema refuses it, and the command's outcome says where it is.
    """
    for name, content in _decode_attributes(value).items():
        if "\0" in name or (name != "data" and _has_nul(bytes(content))):
            raise Unreadable(f"the attribute {name[:_SHOWN_NAME_CHARACTERS]!a} has a NUL character: leave it out")


def _must_have_no_placeholder(value: bytes) -> None:
    for name, content in _decode_attributes(value).items():
        if "\ufdd0" in name or (name != "data" and _PLACEHOLDER in bytes(content)):
            shown = name[:_SHOWN_NAME_CHARACTERS]
            raise Unreadable(f"the attribute {shown!a} has half of a character (a lone surrogate): leave it out")


def _without_case(canonical: bytes, field: str, command: Command | rejections.Rejected) -> bytes:
    """Returns the canonical form with the id in `field` in small letters, so that its spelling makes no difference."""
    id_: str = getattr(command, field, "")
    if id_.islower() or not _is_command_id(id_):
        return canonical
    return canonical.replace(f'"{field}":"{id_}"'.encode(), f'"{field}":"{id_.lower()}"'.encode())
