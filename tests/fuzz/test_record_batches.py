"""The reader of record batches returns every offset once, in its place, whatever the bytes are. Uses no server."""

import random
from typing import Any

import pytest
from aiokafka import TopicPartition
from aiokafka.record.util import calc_crc32c
from hypothesis import given
from hypothesis import strategies as st

from services.kafka import record_batches
from services.kafka.record_batches import LARGEST_BATCH_BYTES, UnreadablePartition
from tests.fuzz.wire import CODECS, RawBatch, RawRecord

WHERE = TopicPartition("commands", 3)
THREE = tuple(RawRecord(key=b"order-%d" % n, value=b"value %d" % n, headers=((b"h", b"x"),)) for n in range(3))


def read(data: bytes, offset: int = 0) -> list[Any]:
    """What a consumer of committed records gets of a fetched response."""
    records = record_batches._Records(data)
    return list(record_batches._PartitionRecords(WHERE, records, [], offset, None, None, True, 1))


def test_records_come_with_their_content_whatever_codec_they_have():
    for name in (
        "none",
        "gzip",
        "gzip, trailing zeros",
        "snappy, raw",
        "snappy, xerial",
        "lz4",
        "zstd",
        "zstd, two frames",
    ):
        found = read(RawBatch(THREE, codec=name, base_offset=7).encode())
        assert [(r.offset, r.key, r.value, r.headers) for r in found] == [
            (7 + n, record.key, record.value, (("h", b"x"),)) for n, record in enumerate(THREE)
        ], name
        assert not any(record.undecodable for record in found), name


def test_an_offset_is_the_place_in_the_batch_whatever_the_record_says():
    lies = (
        RawRecord(value=b"a", offset_delta=2**31 - 1),
        RawRecord(value=b"b", offset_delta=-5),
        RawRecord(value=b"c"),
    )
    assert [(record.offset, record.value) for record in read(RawBatch(lies).encode())] == [
        (0, b"a"),
        (1, b"b"),
        (2, b"c"),
    ]


def test_attributes_are_one_byte():
    shifted = (RawRecord(key=b"k", value=b"v", attributes=0x80), RawRecord(key=b"", value=b"w", attributes=0x80))
    found = read(RawBatch(shifted).encode())
    assert [(record.offset, record.key, record.value) for record in found] == [(0, b"k", b"v"), (1, b"", b"w")]


def test_a_header_name_that_is_not_utf8_spoils_its_own_record_only():
    spoilt = (THREE[0], RawRecord(key=b"k", value=b"v", headers=((b"\xff", None),)), THREE[2])
    good, bad, last = read(RawBatch(spoilt).encode())
    assert bad.undecodable
    assert (bad.offset, bad.key, bad.value) == (1, b"k", b"v")
    headers: Any = bad.headers
    assert headers == (("\\xff", None),)
    assert (good.value, last.value) == (b"value 0", b"value 2")


def test_a_batch_that_cannot_be_decompressed_comes_with_its_raw_bytes_at_its_first_offset():
    raw = RawBatch(THREE, codec="codec 7", base_offset=40).encode()
    found = read(raw, 40)
    assert all(record.undecodable for record in found)
    assert [(record.offset, record.value) for record in found] == [(40, raw), (41, None), (42, None)]
    assert "unknown codec 7" in found[0].undecodable
    assert "offset 40" in found[1].undecodable


@pytest.mark.parametrize("codec", ["gzip", "snappy, raw", "snappy, xerial", "lz4", "zstd"])
def test_a_batch_that_decompresses_to_too_much_is_not_decompressed(codec: str):
    raw = RawBatch((RawRecord(value=bytes(LARGEST_BATCH_BYTES)),), codec=codec).encode()
    [record] = read(raw)
    assert record.undecodable
    assert record.value == raw


def test_a_response_is_read_on_where_it_was_left_once_it_has_given_enough():
    batches = [RawBatch((RawRecord(value=bytes(5_000_000)),), codec="gzip", base_offset=n).encode() for n in range(4)]
    assert [record.offset for record in read(b"".join(batches))] == [0, 1]
    assert [record.offset for record in read(b"".join(batches[2:]), 2)] == [2, 3]


def test_what_comes_before_damage_comes_out_first_and_then_the_partition_stops():
    good, bad = RawBatch(THREE).encode(), bytearray(RawBatch(THREE, base_offset=3).encode())
    bad[-1] ^= 0xFF
    assert [record.offset for record in read(good + bytes(bad))] == [0, 1, 2]
    with pytest.raises(UnreadablePartition) as stopped:
        read(bytes(bad), 3)
    assert (stopped.value.where, stopped.value.offset) == (WHERE, 3)
    with pytest.raises(UnreadablePartition):
        read(good[:40])


@given(st.integers(0, 2**32 - 1), st.sampled_from(sorted(CODECS)), st.integers(1, 30))
def test_bytes_of_any_kind_give_each_offset_once(seed: int, codec: str, changes: int):
    dice = random.Random(seed)
    records = tuple(RawRecord(key=dice.randbytes(3), value=dice.randbytes(dice.randrange(60))) for _ in range(4))
    raw = bytearray(RawBatch(records, codec=codec, base_offset=100).encode())
    for _ in range(changes):  # after the header, of which the broker vouches for base offset, length, deltas and count
        raw[dice.randrange(61, len(raw))] = dice.randrange(256)
    raw[17:21] = calc_crc32c(bytes(raw[21:])).to_bytes(4)
    assert [record.offset for record in read(bytes(raw), 100)] == [100, 101, 102, 103]
