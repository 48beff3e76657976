"""What a record says, as the service reads it and as the oracle does: many thousands, without a server."""

from datetime import UTC, datetime
from itertools import islice

import pytest
from aiokafka import ConsumerRecord

from services.commands.decode import Unreadable, decode
from services.kafka.topics import partition_of
from tests.fuzz.generate import ORDERS, PARTITIONS, command, drawn, is_doubtful, text_of
from tests.rules.oracle import Record, read_envelope

ORDER = ORDERS[0][0]
NUL = '"a\\u0000b"'


def is_read(key: bytes, value: bytes) -> bool:
    partition = partition_of(key, PARTITIONS)
    record = ConsumerRecord("commands", partition, 0, 0, 1, key, value, None, len(key), len(value), ())
    try:
        decode(record, datetime.now(UTC), PARTITIONS)
    except Unreadable:
        return False
    return True


def test_service_and_oracle_read_the_same_records(seed: int):
    wrong = [
        (record.key, record.value)
        for garbage in islice(drawn(seed), 2_000)
        for record in garbage.batch.records
        if record.key is not None and record.value is not None and not is_doubtful(record.value)
        and is_read(record.key, record.value) is (read_envelope(Record(record.key, record.value, 0)) is None)
    ]  # fmt: skip
    assert wrong == []


@pytest.mark.parametrize(("before", "after"), [('{"a":', "}"), ("[", "]")])
@pytest.mark.parametrize("depth", [300, 600, 900])
def test_a_nul_is_found_however_deep_it_lies(before: str, after: str, depth: int):
    """Our own code must not fail on it: the order would be parked."""
    value = text_of([*command(ORDER, 1), ("x", before * depth + NUL + after * depth)])
    assert not is_read(ORDER.encode(), value)


def test_a_nul_is_found_beside_a_number_that_nobody_can_read():
    for where, attribute in (("data", "source"), ("x", "source"), ("x", "y")):
        members = dict(command(ORDER, 1)) | {attribute: NUL, where: "1e400"}
        assert not is_read(ORDER.encode(), text_of(list(members.items()))), (where, attribute)
