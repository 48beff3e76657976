"""Reads whatever senders wrote to a topic, so that one record never stops a partition.

The broker stores record batches that aiokafka cannot read: header names that aren't UTF-8, unknown codecs, twenty
megabytes of spaces compressed to twenty kilobytes. aiokafka raises on the first such record, drops the records of the
other partitions that it was about to return, and raises again at the next poll. With this module, such a record is
returned in its place among the others, with its raw bytes and the reason why it cannot be decoded.

`services.kafka.cluster` installs this for all consumers of the process. In this module a batch is Kafka's record batch.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final, cast

import cramjam
from aiokafka import AIOKafkaConsumer, TopicPartition
from aiokafka.consumer import fetcher
from aiokafka.errors import CorruptRecordException
from aiokafka.record.default_records import DefaultRecordBatch
from aiokafka.record.legacy_records import LegacyRecordBatch

from services.failures import Failure
from services.judging.record import Record

LARGEST_BATCH_BYTES: Final = 24 * 1024 * 1024
"""The decompressed size that a batch may have. A larger batch is undecodable, and keeps its compressed bytes only."""

_FETCH_BYTES: Final = 8 * 1024 * 1024
"""Decompressed bytes of one partition after which the rest of a response is left for the next fetch."""

_LIST_RECORDS: Final = 50_000
"""The largest batch whose records are decoded into a list. Larger ones are decoded one record at a time, because a
batch can hold three million records."""

_HEADER = struct.Struct(">qiibIhiqqqhii")
_LENGTH = struct.Struct(">i")
_LENGTH_OFFSET, _LOG_OVERHEAD, _MAGIC_OFFSET, _ATTRIBUTES_OFFSET = 8, 12, 16, 21
_CODEC_MASK, _LOG_APPEND_TIME = 0x07, 0x08
_OUTPUT_BYTES = (256 * 1024, 4 * 1024 * 1024, LARGEST_BATCH_BYTES)
_GZIP_MAGIC = b"\x1f\x8b"
_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16


class UnreadablePartition(Failure):
    """The broker's data for a partition is damaged so that not even the borders of its batches are known."""

    def __init__(self, where: TopicPartition, offset: int, error: Exception) -> None:
        super().__init__(f"{where.topic}/{where.partition} cannot be read at offset {offset}: {error}")
        self.where, self.offset = where, offset


class _Records:
    """Splits one partition's fetched bytes into batches by their lengths. Replaces aiokafka's MemoryRecords."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._position = 0
        self._left = _FETCH_BYTES

    def size_in_bytes(self) -> int:
        return len(self._data)

    def has_next(self) -> bool:
        """Whether a complete batch follows. Also False after `_FETCH_BYTES`, because the rest is fetched again."""
        # True at the beginning even if no batch can be split off: `next_batch` has to raise, or nobody notices damage.
        return self._left > 0 and (self._end() is not None or (self._position == 0 and len(self._data) > 0))

    def next_batch(self) -> Any:
        end = self._end()
        if end is None:
            raise CorruptRecordException("the first batch is incomplete")
        raw = self._data[self._position : end]
        self._position = end
        if len(raw) <= _MAGIC_OFFSET:
            raise CorruptRecordException(f"a batch of {len(raw)} bytes")
        if raw[_MAGIC_OFFSET] < 2:
            return LegacyRecordBatch(raw, raw[_MAGIC_OFFSET])
        if len(raw) < _HEADER.size:
            raise CorruptRecordException(f"a batch of {len(raw)} bytes")
        return _Batch(bytes(raw), self._spend)

    def _end(self) -> int | None:
        if len(self._data) - self._position < _LOG_OVERHEAD:
            return None
        (length,) = _LENGTH.unpack_from(self._data, self._position + _LENGTH_OFFSET)
        end = self._position + _LOG_OVERHEAD + int(length)
        return end if self._position < end <= len(self._data) else None

    def _spend(self, size: int) -> None:
        self._left -= size


class _Batch:
    """One batch, with the interface that aiokafka's fetcher needs."""

    def __init__(self, raw: bytes, spend: Callable[[int], None]) -> None:
        self._raw = raw
        self._spend = spend
        self._batch = batch = DefaultRecordBatch(raw)
        self.base_offset: int = batch.base_offset
        self.next_offset: int = batch.next_offset
        self.producer_id: int = batch.producer_id
        self.is_control_batch: bool = batch.is_control_batch
        self.is_transactional: bool = batch.is_transactional

    def validate_crc(self) -> bool:
        return self._batch.validate_crc()

    def __next__(self) -> Any:
        """Returns the first record of a control batch."""
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            raw = _uncompressed(self._raw)
        except Exception as error:  # the codec libraries raise all kinds of errors on malformed bytes
            self._spend(len(self._raw))
            reason = f"its batch cannot be decompressed to at most {LARGEST_BATCH_BYTES} bytes ({error})"
            return iter(_raw_records(self._raw, self._raw, 0, reason))
        self._spend(len(raw))
        return _plain_records(raw)


@dataclass(slots=True)
class _Record:
    """A record with the attributes of aiokafka's own."""

    offset: int
    """The record's offset."""
    timestamp: int
    """Milliseconds since 1970."""
    timestamp_type: int
    """0 if the sender set the timestamp, 1 if the broker did."""
    key: bytes | None
    """The record's key, or None."""
    value: bytes | None
    """The record's value, or None."""
    headers: list[tuple[str, bytes | None]]
    """Names and contents of the headers, in order."""
    why: str = ""
    """Why the record is undecodable. Empty if it was decoded."""


def _uncompressed(raw: bytes) -> bytes:
    """Returns the batch uncompressed. Raises if it cannot be decompressed or is too large."""
    codec = raw[_ATTRIBUTES_OFFSET + 1] & _CODEC_MASK
    if codec == 0:
        return raw
    body = raw[_HEADER.size :]
    match codec:
        case 1:
            plain = _from_gzip(body)
        case 2:
            plain = _from_snappy(body)
        case 3:
            plain = _decompressed(cramjam.lz4, body)
        case 4:
            plain = _decompressed(cramjam.zstd, body)
        case _:
            raise ValueError(f"unknown codec {codec}")
    header = bytearray(raw[: _HEADER.size])
    header[_ATTRIBUTES_OFFSET + 1] &= ~_CODEC_MASK
    return bytes(header) + plain


def _decompressed(codec: Any, body: bytes) -> bytes:
    """Decompresses into buffers of growing size, so that small batches need no buffer of the largest size."""
    for size in _OUTPUT_BYTES:
        output = bytearray(size)
        try:
            length = codec.decompress_into(body, output)
        except cramjam.DecompressionError:
            if size == LARGEST_BATCH_BYTES:
                raise
        else:
            return bytes(memoryview(output)[:length])
    raise AssertionError("the last size returns or raises")


def _from_gzip(body: bytes) -> bytes:
    """Decompresses all gzip members. Ignores what follows the last member, as Java does."""
    plain = bytearray()
    while body.startswith(_GZIP_MAGIC):
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        plain += member.decompress(body, LARGEST_BATCH_BYTES - len(plain) + 1)
        if len(plain) > LARGEST_BATCH_BYTES:
            raise ValueError("the content is too large")
        if not member.eof:
            raise ValueError("the content ends too early")
        body = member.unused_data
    return bytes(plain)


def _from_snappy(body: bytes) -> bytes:
    """Decompresses snappy: either xerial blocks, as Java writes them, or one raw block."""
    if not body.startswith(_XERIAL_MAGIC):
        return _snappy_block(body, LARGEST_BATCH_BYTES)
    plain, position = bytearray(), _XERIAL_HEADER_BYTES
    while position < len(body):
        (length,) = _LENGTH.unpack_from(body, position)
        if not 0 < length <= len(body) - position - _LENGTH.size:
            raise ValueError(f"a snappy block of {length} bytes")
        position += _LENGTH.size
        plain += _snappy_block(body[position : position + length], LARGEST_BATCH_BYTES - len(plain))
        position += length
    return bytes(plain)


def _snappy_block(block: bytes, most_bytes: int) -> bytes:
    """Reads the announced size first, so that a block that is too large is never decompressed."""
    if (length := cramjam.snappy.decompress_raw_len(block)) > most_bytes:
        raise ValueError(f"snappy announces {length} bytes")
    return bytes(cramjam.snappy.decompress_raw(block))


def _plain_records(raw: bytes) -> Iterator[Any]:
    """Decodes the records of an uncompressed batch, with aiokafka's fast decoder if that is right for this batch.

    aiokafka's decoder is wrong in two cases. It trusts the offsets that the sender wrote into the records, which the
    broker does not check; unless the topic was compacted, a record's offset follows from its number in the batch. And
    it reads a record's attributes as a number of variable length, although they are one byte.
    """
    base, _, _, _, _, _, last_delta, *_, count = _HEADER.unpack_from(raw)
    if count <= _LIST_RECORDS and _attributes_are_small(raw, count):
        try:
            records = list(DefaultRecordBatch(raw))
        except Exception:  # some record is malformed; decoding one by one finds out which
            return _one_by_one(raw)
        offsets = [record.offset for record in records]
        if count <= last_delta or offsets == list(range(base, base + count)):
            return iter(records)
    return _one_by_one(raw)


def _attributes_are_small(raw: bytes, count: int) -> bool:
    """Whether the attributes of each record are less than 0x80, so that aiokafka reads them as one byte."""
    position = _HEADER.size
    try:
        for _ in range(count):
            length = raw[position]
            if length < 0x80:
                length, position = length >> 1, position + 1
            elif (high := raw[position + 1]) < 0x80:  # most records; a function call for each would be slow
                length, position = (length & 0x7F | high << 7) >> 1, position + 2
            else:
                length, position = _varint(raw, position)
            if raw[position] >= 0x80:
                return False
            position += length
    except (IndexError, ValueError):
        return False
    return True


def _one_by_one(raw: bytes) -> Iterator[_Record]:
    """Decodes the records of an uncompressed batch one at a time, and trusts none of them."""
    base, _, _, _, _, attributes, last_delta, first_time, max_time, *_, count = _HEADER.unpack_from(raw)
    position = _HEADER.size
    for number in range(count):
        try:
            length, start = _varint(raw, position)
            end = start + length
            if not start < end <= len(raw):
                raise ValueError(f"a record of {length} bytes")
        except Exception as error:  # the beginning of the next record is unknown, too
            yield from _raw_records(raw, raw[position:], number, f"its batch is malformed ({error})")
            return
        position = end
        try:
            record = _decode(raw[start:end], base)
        except Exception as error:
            why = f"the record is malformed ({error})"
            record = _Record(base + number, 0, 0, None, raw[start:end], [], why=why)
        if count > last_delta:
            record.offset = base + number
        if attributes & _LOG_APPEND_TIME:
            record.timestamp, record.timestamp_type = max_time, 1
        else:
            record.timestamp += first_time
        yield record


def _decode(body: bytes, base: int) -> _Record:
    """Decodes a record from the bytes after its length. Its timestamp is relative to its batch's.

    Raises IndexError or ValueError if the record is malformed.
    """
    time_delta, position = _varint(body, 1, bits=64)  # byte 0 holds attributes, which Kafka does not use yet
    offset_delta, position = _varint(body, position)
    key, position = _bytes(body, position)
    value, position = _bytes(body, position)
    count, position = _varint(body, position)
    headers: list[tuple[str, bytes | None]] = []
    why = ""
    for _ in range(count):
        name, position = _bytes(body, position)
        content, position = _bytes(body, position)
        if name is None:
            raise ValueError("a header without a name")
        try:
            text = name.decode()
        except UnicodeDecodeError:
            text, why = name.decode(errors="backslashreplace"), "the name of a header is not UTF-8"
        headers.append((text, content))
    if position != len(body):
        raise ValueError(f"{len(body) - position} bytes too many")
    return _Record(base + offset_delta, time_delta, 0, key, value, headers, why=why)


def _varint(data: bytes, position: int, bits: int = 32) -> tuple[int, int]:
    """Returns a number and the position after it. Cuts off what does not fit into `bits`, as Kafka does."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift > bits:
            raise ValueError("a number of variable length does not end")
    value &= (1 << bits) - 1
    return (value >> 1) ^ -(value & 1), position


def _bytes(body: bytes, position: int) -> tuple[bytes | None, int]:
    length, position = _varint(body, position)
    if length < 0:
        return None, position
    if length > len(body) - position:
        raise ValueError(f"{length} bytes announced, {len(body) - position} left")
    return body[position : position + length], position + length


def _raw_records(batch: bytes, value: bytes, first: int, why: str) -> Iterator[_Record]:
    """Makes an undecodable record for each offset from record number `first` on. The first one has the raw bytes."""
    base, _, _, _, _, attributes, last_delta, first_time, max_time, *_ = _HEADER.unpack_from(batch)
    stamped = bool(attributes & _LOG_APPEND_TIME)
    time = max_time if stamped else first_time
    for number in range(first, last_delta + 1):
        if number == first:
            yield _Record(base + number, time, int(stamped), None, value, [], why=why)
        else:
            has_bytes = f"{why}; the record at offset {base + first} has its bytes"
            yield _Record(base + number, time, int(stamped), None, None, [], why=has_bytes)


class _PartitionRecords(fetcher.PartitionRecords):
    """The records of one fetched partition, as our own `Record`. Records before a damaged place are returned first."""

    def __init__(self, tp: TopicPartition, records: Any, aborted: Any, fetch_offset: int, *options: Any) -> None:
        super().__init__(tp, records, aborted, fetch_offset, *options)  # type: ignore[no-untyped-call]
        self._began_at = fetch_offset

    def __next__(self) -> Any:
        try:
            return next(self._records_iterator)
        except StopIteration:
            self._records_iterator = None
            raise
        except Exception as error:
            if self.next_fetch_offset > self._began_at:  # the next fetch starts at the damaged place and raises
                raise StopIteration from error
            raise UnreadablePartition(self._tp, self.next_fetch_offset, error) from error

    def _consumer_record(self, tp: TopicPartition, record: Any) -> Record:
        return Record(
            tp.topic,
            tp.partition,
            record.offset,
            record.timestamp,
            record.key,
            record.value,
            tuple(record.headers),
            record.timestamp_type,
            record.why if type(record) is _Record else "",
        )


def read_whatever_senders_write() -> None:
    """Patches aiokafka, so that every consumer of this process reads its records with this module."""
    fetcher.MemoryRecords = _Records  # type: ignore[attr-defined]
    fetcher.PartitionRecords = _PartitionRecords  # type: ignore[misc]


async def poll(
    consumer: AIOKafkaConsumer, *partitions: TopicPartition, timeout_ms: int, max_records: int | None = None
) -> dict[TopicPartition, list[Record]]:
    """Calls the consumer's `getmany`. Its records are our own `Record`, because this module has patched aiokafka."""
    records: Any = await consumer.getmany(*partitions, timeout_ms=timeout_ms, max_records=max_records)
    return cast("dict[TopicPartition, list[Record]]", records)
