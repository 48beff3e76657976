"""Where an order's records are is what Kafka's clients say."""

from aiokafka.partitioner import murmur2
from hypothesis import given
from hypothesis import strategies as st

from services.judging.partitioner import partition_of


@given(st.binary(max_size=80), st.integers(1, 100))
def test_a_keys_partition_is_that_of_kafkas_own_partitioner(key: bytes, partitions: int):
    assert partition_of(key, partitions) == (murmur2(key) & 0x7FFFFFFF) % partitions
