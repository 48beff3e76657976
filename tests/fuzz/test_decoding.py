"""What a record says, as the service reads it and as the oracle does: many thousands, without a server."""

from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from uuid import UUID

import pytest

from services.judging.decode import Unreadable, decode
from services.judging.partitioner import partition_of
from services.judging.record import Record as KafkaRecord
from services.orders import Rejected
from tests.fuzz.generate import ORDERS, command, drawn, text_of
from tests.rules.oracle import COMMAND_TYPES, Record, read_envelope
from tests.rules.oracle import Rejected as Invalid
from tests.support.controls import raw_record
from tests.support.installation import PARTITIONS

ORDER = ORDERS[0][0]
NUL = '"a\\u0000b"'


def what_it_is(key: bytes, value: bytes) -> str:
    partition = partition_of(key, PARTITIONS)
    record = KafkaRecord("commands", partition, 0, 0, key, value)
    try:
        received = decode(record, datetime.now(UTC), PARTITIONS)
    except Unreadable:
        return "dead"
    return "invalid" if isinstance(received.command, Rejected) else "a command"


def as_the_oracle_says(key: bytes, value: bytes) -> str:
    envelope = read_envelope(Record(key, value, 0))
    if envelope is None:
        return "dead"
    _, schema = COMMAND_TYPES[envelope["type"]]
    try:
        schema(envelope.get("data", {}))
    except Invalid:
        return "invalid"
    return "a command"


def test_service_and_oracle_read_the_same_records(seed: int):
    wrong = [
        (record.key, record.value)
        for garbage in islice(drawn(seed), 2_000)
        for record in garbage.batch.records
        if record.key is not None and record.value is not None
        and what_it_is(record.key, record.value) != as_the_oracle_says(record.key, record.value)
    ]  # fmt: skip
    assert wrong == []


@pytest.mark.parametrize(("before", "after"), [('{"a":', "}"), ("[", "]")])
@pytest.mark.parametrize("depth", [300, 600, 900])
def test_a_nul_is_found_however_deep_it_lies(before: str, after: str, depth: int):
    """Our own code must not fail on it: the order would be parked."""
    value = text_of([*command(ORDER, 1), ("x", before * depth + NUL + after * depth)])
    assert what_it_is(ORDER.encode(), value) == "dead"


def test_a_nul_is_found_beside_a_number_that_nobody_can_read():
    for where, attribute in (("data", "source"), ("x", "source"), ("x", "y")):
        members = dict(command(ORDER, 1)) | {attribute: NUL, where: "1e400"}
        assert what_it_is(ORDER.encode(), text_of(list(members.items()))) == "dead", (where, attribute)


@pytest.mark.parametrize(
    ("member", "named"),
    [
        ('"source":"\\ud800"', "source"),
        ('"x":["\\udc00\\ud800"]', "x"),
        ('"x":{"\\udc00":1}', "x"),
        ('"\\ud800":1', "half of a character"),
    ],
)
def test_half_a_character_outside_of_data_makes_a_dead_letter_that_says_so(member, named):
    value = text_of(command(ORDER, 1))[:-1] + b"," + member.encode() + b"}"
    with pytest.raises(Unreadable, match=named):
        decode(raw_record(ORDER.encode(), value), datetime.now(UTC), None)


@pytest.mark.parametrize(
    "member", ['"x":"\\ud83d\\ude00"', '"x":"\\\\ud800"', '"x":1,"x":2', f'"id":"{UUID(int=7)}"', '"x":{"data":1}']
)
def test_what_others_take_for_strange_is_read(member):
    value = text_of(command(ORDER, 1))[:-1] + b"," + member.encode() + b"}"
    assert what_it_is(ORDER.encode(), value) == "a command"


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ((("ce_specversion", b"1.0"), ("ce_id", b"1")), b'{"actor": "a"}'),
        ((("ce_specversion", b"1.0"),), None),
        ((("CE_SPECVERSION", b"1.0"),), b"\xff"),
    ],
)
def test_a_record_in_binary_mode_is_told_to_be_structured(headers, value):
    record = replace(raw_record(ORDER.encode(), value), headers=headers)
    with pytest.raises(Unreadable, match="send structured JSON"):
        decode(record, datetime.now(UTC), None)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ((b'"id"', b'"ID"'), "id is missing"),
        ((b'"source":"/fuzz"', b'"source":7'), "source is not a text"),
        ((b'"source":"/fuzz"', b'"source":""'), "source is empty"),
        ((b'"source":"/fuzz"', b'"source":"' + b"x" * 1001 + b'"'), "more than 1000 characters"),
        ((b'"1.0"', b'"0.3"'), 'specversion is not "1.0"'),
        ((b'"subject":"', b'"subject":"' + b"x" * 100_000), "subject is not 1-64 characters"),
        ((b'{"specversion"', b'[{"specversion"'), "JSON"),
    ],
)
def test_an_envelope_that_cannot_be_read_says_what_is_wrong(change, why):
    value = text_of(command(ORDER, 1)).replace(*change)
    with pytest.raises(Unreadable, match=why) as raised:
        decode(raw_record(ORDER.encode(), value), datetime.now(UTC), None)
    assert "str" not in str(raised.value).split()
