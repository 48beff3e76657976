"""Where Kafka's own partitioner puts a key. An order has its records in one partition, in their order."""

from collections.abc import Callable
from functools import cache
from struct import Struct


def partition_of(key: bytes, partitions: int) -> int:
    """Where Kafka's own partitioner puts a key."""
    return (_murmur2(key) & 0x7FFFFFFF) % partitions


def _murmur2(data: bytes) -> int:
    """Kafka's hash of a key. aiokafka's takes byte by byte, which a backlog of new orders feels."""
    found = 0x9747B28C ^ len(data)
    for word in _words(len(data) // 4)(data):
        mixed = word * 0x5BD1E995 & 0xFFFFFFFF
        found = found * 0x5BD1E995 & 0xFFFFFFFF ^ (mixed ^ mixed >> 24) * 0x5BD1E995 & 0xFFFFFFFF
    if rest := len(data) % 4:
        found = (found ^ int.from_bytes(data[-rest:], "little")) * 0x5BD1E995 & 0xFFFFFFFF
    found = (found ^ found >> 13) * 0x5BD1E995 & 0xFFFFFFFF
    return found ^ found >> 15


@cache
def _words(count: int) -> Callable[[bytes], tuple[int, ...]]:
    """Takes that many from the beginning of a key. Formats are looked up more slowly by text."""
    return Struct(f"<{count}I").unpack_from
