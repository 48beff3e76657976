"""Reads the commands of stored outcomes again from their topic, in the order of judging."""

from collections.abc import Collection, Mapping
from typing import Any

from psycopg import Connection

from services.eventstore.dead_letters import dead_letters
from services.judging.dead_letters import at_first_time, first_offset
from services.judging.record import Record
from services.kafka.read_topics import Stream


class JudgedCommands:
    """The commands of some partitions. Parked orders are judged later than their commands came, so these wait here."""

    def __init__(self, streams: Mapping[int, Stream]) -> None:
        """`streams`: the partitions of the commands topic, at least up to the last command that was judged."""
        self._streams = streams
        self.waiting: dict[tuple[int, int], Record] = {}
        """Commands that were read and not taken, by partition and offset."""

    async def take(self, partition: int, offset: int) -> Record | None:
        """Returns the command at this place, or None if there is none. Raises KafkaError."""
        stream = self._streams[partition]
        if (record := stream.take_at(offset)) is None:  # not fetched yet, or read before
            while (record := await stream.peek()) is not None and record.offset <= offset:
                self.waiting[record.partition, record.offset] = stream.take()
            record = self.waiting.pop((partition, offset), None)
        return record

    async def wait_again(self, places: Collection[tuple[int, int]]) -> None:
        """Lets commands wait that were taken from the streams before. Raises KafkaError."""
        for partition, stream in self._streams.items():
            for record in await stream.again({offset for number, offset in places if number == partition}):
                self.waiting[partition, record.offset] = record

    async def read_rest(self) -> None:
        """Lets all remaining commands wait. Raises KafkaError."""
        for stream in self._streams.values():
            while (record := await stream.peek()) is not None:
                self.waiting[record.partition, record.offset] = stream.take()


def as_first_sent(connection: Connection[Any], record: Record) -> Record:
    """Returns a retried dead letter with the time at which it came first, and any other record unchanged.

    Raises psycopg.Error.
    """
    if (offset := first_offset(record)) is None:
        return record
    return at_first_time(record, next(iter(dead_letters(connection, [(record.partition, offset)])), None))
