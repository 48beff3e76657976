"""Reads what a sender wrote to a topic, whatever it is, so that one record never stops a partition.

The broker stores batches that aiokafka cannot read: header names that are not UTF-8, codecs that nobody has, twenty
megabytes of spaces in twenty kilobytes. aiokafka raises on the first such record, forgets the records of the other
partitions that it was about to return, and raises again at the next poll. Here such a record comes out in its
place among the others, with its raw bytes, and says why it cannot be decoded.

`services.kafka.cluster`, from which every client takes its address, makes all consumers of the process read like that.
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

from services.judging.record import Record

LARGEST_BATCH_BYTES: Final = 24 * 1024 * 1024
"""What one batch may decompress to. A larger one is undecodable, and takes no more memory than its compressed form."""

_FETCH_BYTES: Final = 8 * 1024 * 1024
"""After how many decompressed bytes of one partition the rest of a fetched response is left for the next fetch."""

_MOST_AT_ONCE: Final = 50_000
"""Of a batch with more records these are made one at a time: three million fit into one."""

_HEADER = struct.Struct(">qiibIhiqqqhii")
_LENGTH = struct.Struct(">i")
_LENGTH_OFFSET, _LOG_OVERHEAD, _MAGIC_OFFSET, _ATTRIBUTES_OFFSET = 8, 12, 16, 21
_CODEC_MASK, _LOG_APPEND_TIME = 0x07, 0x08
_OUTPUT_BYTES = (256 * 1024, 4 * 1024 * 1024, LARGEST_BATCH_BYTES)
_GZIP_MAGIC = b"\x1f\x8b"
_XERIAL_MAGIC = b"\x82SNAPPY\x00"
_XERIAL_HEADER_BYTES = 16


class UnreadablePartition(Exception):
    """What the broker gave of a partition is damaged: not even the extent of its batches is known."""

    def __init__(self, where: TopicPartition, offset: int, error: Exception) -> None:
        super().__init__(f"{where.topic}/{where.partition} cannot be read at offset {offset}: {error}")
        self.where, self.offset = where, offset


class _Records:
    """The batches of one fetched partition, each cut out by its length. Takes the place of aiokafka's MemoryRecords."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)
        self._position = 0
        self._left = _FETCH_BYTES

    def size_in_bytes(self) -> int:
        return len(self._data)

    def has_next(self) -> bool:
        """Whether a whole batch follows. False also once enough was read of this response; the rest comes again."""
        # At the beginning there always is one: what cannot be cut there is damaged, and would be left out in silence.
        return self._left > 0 and (self._end() is not None or (self._position == 0 and len(self._data) > 0))

    def next_batch(self) -> Any:
        end = self._end()
        if end is None:
            raise CorruptRecordException("the first batch is not whole")
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
    """One batch: what aiokafka's fetcher asks of it, and its records."""

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
        """The first record of a control batch."""
        return next(self._batch)

    def __iter__(self) -> Iterator[Any]:
        try:
            raw = _uncompressed(self._raw)
        except Exception as error:  # the library's own, on bytes of anybody's choice
            self._spend(len(self._raw))
            reason = f"its batch cannot be decompressed to at most {LARGEST_BATCH_BYTES} bytes ({error})"
            return iter(_raw_records(self._raw, self._raw, 0, reason))
        self._spend(len(raw))
        return _plain_records(raw)


@dataclass(slots=True)
class _Record:
    """What aiokafka's own decoder makes of a record; `why` says why it is undecodable, and is empty where it is not."""

    offset: int
    timestamp: int
    timestamp_type: int
    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes | None]]
    why: str = ""


def _uncompressed(raw: bytes) -> bytes:
    """The batch with its records in plain. Raises where they cannot be decompressed, or take too much memory."""
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
    """In a buffer of a fixed size, the next larger one where that is full: so a bound costs no memory beforehand."""
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
    """All members, one after another. What follows the last one is left out, as Java does."""
    plain = bytearray()
    while body.startswith(_GZIP_MAGIC):
        member = zlib.decompressobj(wbits=zlib.MAX_WBITS | 16)
        plain += member.decompress(body, LARGEST_BATCH_BYTES - len(plain) + 1)
        if len(plain) > LARGEST_BATCH_BYTES:
            raise ValueError("it is larger")
        if not member.eof:
            raise ValueError("it ends too early")
        body = member.unused_data
    return bytes(plain)


def _from_snappy(body: bytes) -> bytes:
    """Snappy comes in blocks (xerial, as Java writes it) or as one. Each says how long it is before it is read."""
    if not body.startswith(_XERIAL_MAGIC):
        return _snappy_block(body, LARGEST_BATCH_BYTES)
    plain, at = bytearray(), _XERIAL_HEADER_BYTES
    while at < len(body):
        (length,) = _LENGTH.unpack_from(body, at)
        if not 0 < length <= len(body) - at - _LENGTH.size:
            raise ValueError(f"a snappy block of {length} bytes")
        at += _LENGTH.size
        plain += _snappy_block(body[at : at + length], LARGEST_BATCH_BYTES - len(plain))
        at += length
    return bytes(plain)


def _snappy_block(block: bytes, most: int) -> bytes:
    if (length := cramjam.snappy.decompress_raw_len(block)) > most:
        raise ValueError(f"snappy announces {length} bytes")
    return bytes(cramjam.snappy.decompress_raw(block))


def _plain_records(raw: bytes) -> Iterator[Any]:
    """The records of an uncompressed batch, by aiokafka's decoder where that can be relied on.

    The broker does not look at the offsets that a sender writes into the records of an uncompressed batch, and aiokafka
    believes them. As long as nothing was compacted away, a record's place in its batch is its offset. Attributes are a
    byte, and aiokafka reads a number of variable length.
    """
    base, _, _, _, _, _, last_delta, *_, count = _HEADER.unpack_from(raw)
    if count <= _MOST_AT_ONCE and _attributes_are_small(raw, count):
        try:
            records = list(DefaultRecordBatch(raw))
        except Exception:  # of some record; which one is found by reading them one by one
            return _one_by_one(raw)
        offsets = [record.offset for record in records]
        if count <= last_delta or offsets == list(range(base, base + count)):
            return iter(records)
    return _one_by_one(raw)


def _attributes_are_small(raw: bytes, count: int) -> bool:
    """Whether the attributes of each record are less than 0x80. They have no meaning yet."""
    position = _HEADER.size
    try:
        for _ in range(count):
            length = raw[position]
            if length < 0x80:
                length, position = length >> 1, position + 1
            elif (high := raw[position + 1]) < 0x80:  # all but the largest: a call for each would be felt
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
    """The records of an uncompressed batch, one at a time and without trusting any of them."""
    base, _, _, _, _, attributes, last_delta, first_time, max_time, *_, count = _HEADER.unpack_from(raw)
    position = _HEADER.size
    for number in range(count):
        try:
            length, start = _varint(raw, position)
            end = start + length
            if not start < end <= len(raw):
                raise ValueError(f"a record of {length} bytes")
        except Exception as error:  # where the next one begins is not known either
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
    """A record's content after its length; its timestamp is the difference to its batch's. Raises what goes wrong."""
    time_delta, position = _varint(body, 1, bits=64)  # after one byte of attributes, which have no meaning yet
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
    """A number and the position after it, as Kafka reads it: what does not fit into `bits` is cut off."""
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            break
        if shift > bits:
            raise ValueError("a number without an end")
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
    """A record for each offset from the batch's record number `first` on. The first one has the raw bytes of all."""
    base, _, _, _, _, attributes, last_delta, first_time, max_time, *_ = _HEADER.unpack_from(batch)
    stamped = bool(attributes & _LOG_APPEND_TIME)
    time = max_time if stamped else first_time
    for number in range(first, last_delta + 1):
        own = value if number == first else None
        told = why if number == first else f"{why}; the record at offset {base + first} has its bytes"
        yield _Record(base + number, time, int(stamped), None, own, [], why=told)


class _PartitionRecords(fetcher.PartitionRecords):
    """The same for the records of one fetched partition. Those before what is damaged come out first."""

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
            if self.next_fetch_offset > self._began_at:  # the next fetch begins with it
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
    """Makes every consumer of this process read like that."""
    fetcher.MemoryRecords = _Records  # type: ignore[attr-defined]
    fetcher.PartitionRecords = _PartitionRecords  # type: ignore[misc]


async def poll(
    consumer: AIOKafkaConsumer, *partitions: TopicPartition, timeout_ms: int, max_records: int | None = None
) -> dict[TopicPartition, list[Record]]:
    """The consumer's `getmany`: all consumers of this process make such records."""
    found: Any = await consumer.getmany(*partitions, timeout_ms=timeout_ms, max_records=max_records)
    return cast("dict[TopicPartition, list[Record]]", found)
