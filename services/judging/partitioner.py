"""Kafka's default partitioner. With it all records of an order are in one partition, in order."""

from collections.abc import Callable
from functools import cache
from struct import Struct


def partition_of(key: bytes, partitions: int) -> int:
    """Returns the partition that Kafka's default partitioner chooses for a key."""
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    """Kafka's hash of a key. aiokafka's version reads one byte at a time, which is slow in a backlog of new orders."""
    digest = 0x9747B28C ^ len(data)
    for word in _words(len(data) // 4)(data):
        mixed = word * 0x5BD1E995 & 0xFFFFFFFF
        digest = digest * 0x5BD1E995 & 0xFFFFFFFF ^ (mixed ^ mixed >> 24) * 0x5BD1E995 & 0xFFFFFFFF
    if tail := len(data) % 4:
        digest = (digest ^ int.from_bytes(data[-tail:], "little")) * 0x5BD1E995 & 0xFFFFFFFF
    digest = (digest ^ digest >> 13) * 0x5BD1E995 & 0xFFFFFFFF
    return digest ^ digest >> 15


@cache
def _words(count: int) -> Callable[[bytes], tuple[int, ...]]:
    """Returns a function that reads `count` 32-bit words from the start of a key. Faster than `struct.unpack_from`."""
    return Struct(f"<{count}I").unpack_from
