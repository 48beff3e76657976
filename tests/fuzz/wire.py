"""Kafka's record batches, version 2, byte by byte, so that a test can write what no client library would.

`read_payload` is the other direction, with the semantics of Kafka's own Java client: what such a client would see.
"""

import gzip
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import cramjam
from aiokafka.record.util import calc_crc32c

Headers = tuple[tuple[bytes, bytes | None], ...]

NO_PRODUCER = (-1, -1, -1)
"""Producer id, epoch and sequence of a batch that is neither idempotent nor transactional."""

TRANSACTIONAL = 0x10
CONTROL = 0x20

_CODEC_MASK = 0x07
_BEFORE_CRC = struct.Struct(">qiib")
_CRC = struct.Struct(">I")
_AFTER_CRC = struct.Struct(">hiqqqhii")


def varint(value: int, width: int = 0) -> bytes:
    """Zigzag, as Kafka writes numbers inside records. With `width`, as many bytes even where fewer would do."""
    return unsigned_varint((value << 1) ^ (value >> 63), width)


def unsigned_varint(value: int, width: int = 0) -> bytes:
    value &= 0xFFFF_FFFF_FFFF_FFFF
    found = bytearray()
    while value > 0x7F or len(found) + 1 < width:
        found.append(0x80 | (value & 0x7F))
        value >>= 7
    found.append(value)
    return bytes(found)


@dataclass(frozen=True)
class RawRecord:
    """A record. The fields after `headers` say what its bytes have that no client writes."""

    key: bytes | None = None
    value: bytes | None = None
    headers: Headers = ()
    attributes: int = 0
    timestamp_delta: int = 0
    offset_delta: int | None = None
    """None: its place in the batch."""
    null: int = -1
    """The negative length that means null."""
    width: int = 0
    """At least as many bytes for each varint."""
    key_length: int | None = None
    value_length: int | None = None
    header_count: int | None = None
    header_name_length: int | None = None
    length: int | None = None
    """What the record says of itself where it is not the truth; the same for the four above."""
    tail: bytes = b""
    """Bytes after the last header, within the record."""

    def encode(self, place: int) -> bytes:
        """Its bytes as number `place` of a batch."""
        delta = place if self.offset_delta is None else self.offset_delta
        body = bytes([self.attributes & 0xFF]) + self._number(self.timestamp_delta) + self._number(delta)
        body += self._field(self.key, self.key_length) + self._field(self.value, self.value_length)
        body += self._number(len(self.headers) if self.header_count is None else self.header_count)
        for name, value in self.headers:
            body += self._field(name, self.header_name_length) + self._field(value)
        body += self.tail
        return self._number(len(body) if self.length is None else self.length) + body

    def _field(self, value: bytes | None, length: int | None = None) -> bytes:
        if length is None:
            length = self.null if value is None else len(value)
        return self._number(length) + (value or b"")

    def _number(self, value: int) -> bytes:
        return varint(value, self.width)


@dataclass(frozen=True)
class Codec:
    """A way to compress the records of a batch: the number that its attributes have, and one framing of it."""

    number: int
    compress: Callable[[bytes], bytes]


def _halves(data: bytes) -> tuple[bytes, bytes]:
    return data[: len(data) // 2], data[len(data) // 2 :]


def _gzip(data: bytes) -> bytes:
    return gzip.compress(data, 6, mtime=0)


def _gzip_with_name(data: bytes) -> bytes:
    """A member whose header has a file name, a comment and an extra field."""
    compressor = zlib.compressobj(6, zlib.DEFLATED, -15)
    deflated = compressor.compress(data) + compressor.flush()
    head = b"\x1f\x8b\x08\x1c\0\0\0\0\0\x03" + b"\x04\0abcd" + b"name\0" + b"comment\0"
    return head + deflated + struct.pack("<II", zlib.crc32(data), len(data) & 0xFFFF_FFFF)


def _lz4(data: bytes) -> bytes:
    return bytes(_finished(cramjam.lz4.Compressor(level=4, content_checksum=False, block_linked=False), data))


def _lz4_with_checksum(data: bytes) -> bytes:
    return bytes(_finished(cramjam.lz4.Compressor(level=4, content_checksum=True, block_linked=False), data))


def _lz4_linked(data: bytes) -> bytes:
    return bytes(_finished(cramjam.lz4.Compressor(level=4, content_checksum=False, block_linked=True), data))


def _finished(compressor: cramjam.lz4.Compressor, data: bytes) -> cramjam.Buffer:
    compressor.compress(data)
    return compressor.finish()


def _zstd(data: bytes) -> bytes:
    return bytes(cramjam.zstd.compress(data, level=3))


def _zstd_streamed(data: bytes) -> bytes:
    """A frame that does not say how large its content is."""
    compressor = cramjam.zstd.Compressor(3)
    compressor.compress(data)
    return bytes(compressor.finish())


def _snappy(data: bytes) -> bytes:
    return bytes(cramjam.snappy.compress_raw(data))


_XERIAL = b"\x82SNAPPY\0" + struct.pack(">ii", 1, 1)


def _xerial_blocks(data: bytes, size: int) -> bytes:
    found = bytearray()
    for start in range(0, len(data), size):
        block = _snappy(data[start : start + size])
        found += struct.pack(">i", len(block)) + block
    return bytes(found)


CODECS: dict[str, Codec] = {
    "none": Codec(0, lambda data: data),
    "gzip": Codec(1, _gzip),
    "gzip, stored": Codec(1, lambda data: gzip.compress(data, 0, mtime=0)),
    "gzip, named": Codec(1, _gzip_with_name),
    "gzip, two members": Codec(1, lambda data: b"".join(map(_gzip, _halves(data)))),
    "gzip, an empty member last": Codec(1, lambda data: _gzip(data) + _gzip(b"")),
    "snappy, xerial": Codec(2, lambda data: _XERIAL + _xerial_blocks(data, 32 * 1024)),
    "snappy, xerial, small blocks": Codec(2, lambda data: _XERIAL + _xerial_blocks(data, 100)),
    "snappy, raw": Codec(2, _snappy),
    "lz4": Codec(3, _lz4),
    "lz4, checksum": Codec(3, _lz4_with_checksum),
    "lz4, linked blocks": Codec(3, _lz4_linked),
    "lz4, two frames": Codec(3, lambda data: b"".join(map(_lz4, _halves(data)))),
    "lz4, a frame after the last": Codec(3, lambda data: _lz4(data) + _lz4(b"more")),
    "lz4, an empty frame last": Codec(3, lambda data: _lz4(data) + _lz4(b"")),
    "zstd": Codec(4, _zstd),
    "zstd, size not said": Codec(4, _zstd_streamed),
    "zstd, two frames": Codec(4, lambda data: b"".join(map(_zstd, _halves(data)))),
    "zstd, a skippable frame first": Codec(4, lambda data: struct.pack("<II", 0x184D2A50, 3) + b"abc" + _zstd(data)),
    "codec 5": Codec(5, lambda data: data),
    "codec 7": Codec(7, lambda data: data),
    "gzip, garbage": Codec(1, lambda data: b"\x1f\x8b" + data),
    "gzip, cut": Codec(1, lambda data: _gzip(data)[:-9]),
    "gzip, trailing garbage": Codec(1, lambda data: _gzip(data) + b"garbage"),
    "gzip, trailing zeros": Codec(1, lambda data: _gzip(data) + bytes(16)),
    "gzip, wrong checksum": Codec(1, lambda data: _gzip(data)[:-8] + bytes(8)),
    "snappy, garbage": Codec(2, lambda data: b"\xff\xff" + data),
    "snappy, xerial, trailing garbage": Codec(2, lambda data: _XERIAL + _xerial_blocks(data, 1000) + b"\0\0"),
    "snappy, xerial of another version": Codec(
        2, lambda data: _XERIAL[:8] + struct.pack(">ii", 7, 1) + _xerial_blocks(data, 1000)
    ),
    "snappy, xerial, two streams": Codec(
        2, lambda data: b"".join(_XERIAL + _xerial_blocks(half, 1000) for half in _halves(data))
    ),
    "snappy, xerial, an empty block": Codec(
        2, lambda data: _XERIAL + struct.pack(">i", 1) + _snappy(b"") + _xerial_blocks(data, 1000)
    ),
    "lz4, garbage": Codec(3, lambda data: b"\x04\x22\x4d\x18" + data),
    "lz4, trailing garbage": Codec(3, lambda data: _lz4(data) + b"garbage"),
    "zstd, garbage": Codec(4, lambda data: b"\x28\xb5\x2f\xfd" + data),
    "zstd, trailing garbage": Codec(4, lambda data: _zstd(data) + b"garbage"),
    "zstd, cut": Codec(4, lambda data: _zstd(data)[:-3]),
}
"""By name. Only the broker knows which of them it accepts."""


@dataclass(frozen=True)
class RawBatch:
    """A batch of records, and what its header says."""

    records: tuple[RawRecord, ...]
    codec: str = "none"
    attributes: int = 0
    producer: tuple[int, int, int] = NO_PRODUCER
    base_offset: int = 0
    leader_epoch: int = -1
    magic: int = 2
    first_timestamp: int = 1_790_000_000_000
    largest_timestamp: int = 1_790_000_000_000
    count: int | None = None
    last_offset_delta: int | None = None
    length_added: int = 0
    """To the batch's own length."""
    tail: bytes = b""
    """Bytes after the last record, compressed with the records."""

    @property
    def payload(self) -> bytes:
        """The records' bytes before they are compressed."""
        return b"".join(record.encode(place) for place, record in enumerate(self.records)) + self.tail

    def encode(self) -> bytes:
        codec = CODECS[self.codec]
        compressed = codec.compress(self.payload)
        last = len(self.records) - 1 if self.last_offset_delta is None else self.last_offset_delta
        rest = _AFTER_CRC.pack(
            (self.attributes & ~_CODEC_MASK) | codec.number,
            last,
            self.first_timestamp,
            self.largest_timestamp,
            *self.producer,
            len(self.records) if self.count is None else self.count,
        )
        rest += compressed
        length = _BEFORE_CRC.size - 12 + _CRC.size + len(rest) + self.length_added
        head = _BEFORE_CRC.pack(self.base_offset, length, self.leader_epoch, self.magic)
        return head + _CRC.pack(calc_crc32c(rest)) + rest


class NotReadable(Exception):
    """Bytes that Kafka's own client could not read as records either."""


@dataclass(frozen=True)
class Seen:
    """A record as Kafka's own client sees it. Header names are bytes here; Java replaces what is not UTF-8 in them."""

    offset_delta: int
    key: bytes | None
    value: bytes | None
    headers: Headers


def read_payload(payload: bytes, count: int) -> list[Seen]:
    """The records of a batch, uncompressed. Raises NotReadable."""
    cursor = _Cursor(payload)
    found = [_read_record(cursor) for _ in range(count)]
    if cursor.left():
        raise NotReadable(f"{cursor.left()} bytes after the last record")
    return found


class _Cursor:
    def __init__(self, data: bytes) -> None:
        self._data = data
        self.position = 0

    def left(self) -> int:
        return len(self._data) - self.position

    def take(self, length: int) -> bytes:
        if length > self.left():
            raise NotReadable("a field ends after the batch")
        self.position += length
        return self._data[self.position - length : self.position]

    def number(self, most_bytes: int = 5) -> int:
        """A zigzag varint: 32 bits in at most 5 bytes, 64 bits in at most 10. Bits beyond are dropped."""
        value = 0
        for place in range(most_bytes):
            [byte] = self.take(1)
            value |= (byte & 0x7F) << (7 * place)
            if byte < 0x80:
                value &= 0xFFFF_FFFF if most_bytes == 5 else 0xFFFF_FFFF_FFFF_FFFF
                return (value >> 1) ^ -(value & 1)
        raise NotReadable("a number without an end")

    def field(self) -> bytes | None:
        length = self.number()
        return None if length < 0 else self.take(length)


def _read_record(cursor: _Cursor) -> Seen:
    length = cursor.number()
    if length < 0 or length > cursor.left():
        raise NotReadable("a record's length")
    start = cursor.position
    cursor.take(1)  # its attributes: one byte, and not used
    cursor.number(most_bytes=10)
    delta = cursor.number()
    key, value, headers = cursor.field(), cursor.field(), _read_headers(cursor)
    if cursor.position - start != length:
        raise NotReadable("a record that is not as long as it says")
    return Seen(delta, key, value, headers)


def _read_headers(cursor: _Cursor) -> Headers:
    count = cursor.number()
    if count < 0 or count > cursor.left():
        raise NotReadable("a number of headers")
    found: Sequence[tuple[bytes | None, bytes | None]] = [(cursor.field(), cursor.field()) for _ in range(count)]
    if any(name is None for name, _ in found):
        raise NotReadable("a header without a name")
    return tuple((name or b"", value) for name, value in found)


@dataclass(frozen=True)
class BatchHeader:
    """What a stored batch says of itself. `length`: all its bytes, these too."""

    SIZE: ClassVar[int] = _BEFORE_CRC.size + _CRC.size + _AFTER_CRC.size

    base_offset: int
    length: int
    attributes: int
    last_offset_delta: int
    largest_timestamp: int
    count: int

    @classmethod
    def of(cls, stored: bytes, position: int) -> "BatchHeader | None":
        """The one that begins at a position, if all of the batch is there."""
        if len(stored) < position + cls.SIZE:
            return None
        base_offset, length, _, _ = _BEFORE_CRC.unpack_from(stored, position)
        after = _AFTER_CRC.unpack_from(stored, position + _BEFORE_CRC.size + _CRC.size)
        attributes, last_offset_delta, _, largest_timestamp, *_, count = after
        if position + 12 + length > len(stored):
            return None
        return cls(base_offset, 12 + length, attributes, last_offset_delta, largest_timestamp, count)
