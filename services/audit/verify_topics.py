"""Judges the commands topic again from its first record, and compares the other topics with the result, byte for byte.

The database is used for two things only: the clock's origin, and which commands are parked. The service may run
meanwhile. The verification notes the ends of the output topics first, and the end of the commands topic after that. So
every output up to these ends must follow from a command that the verification judges.

The ends of several topics cannot be read at one moment, and a transaction becomes visible on one topic before another.
So each output topic has two ends: first that of the visible records, then that of all records, with open transactions.
An output that is not among all records is missing only if the output of a later command was visible.
"""

import json
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from itertools import chain

import msgspec
from aiokafka import AIOKafkaConsumer, TopicPartition

from services.failures import Failure
from services.judging.dead_letters import DeadLetter, at_first_time, first_offset, published_letter
from services.judging.decode import Received
from services.judging.first_uses import FirstUses
from services.judging.judge import Reading, judge, read
from services.judging.outcomes import OutcomeKind
from services.judging.record import Record
from services.kafka.cluster import Cluster
from services.kafka.read_topics import Ends, Stream, extents, open_consumer
from services.kafka.topics import Topics, count_partitions
from services.orders import Order
from services.orders.events import OrderTextsErased
from services.orders.public_events import event_message
from services.orders.texts import published_without_texts

from .earlier_rules import code_of, judged_before, same_but_for_sentences, spelled_twice
from .findings import Differences

_DISCARDED = b"discarded by an operator"

Extent = dict[int, range]
"""The offsets that a topic had when the verification began, by partition."""

Answers = dict[tuple[str, str], str]
"""The code of the first published outcome, by order id and command id. Empty if the command was accepted."""


class HistoryExpired(Failure):
    """The first records of the commands topic have expired. The text says how many."""


@dataclass(kw_only=True)
class Findings(Differences):
    """How much was compared, and what differs."""

    commands: int = 0
    """How many records of the commands topic were judged again or skipped."""
    events: int = 0
    """How many published events were compared."""
    outcomes: int = 0
    """How many published outcomes were compared."""
    dead_letters: int = 0
    """How many dead letters were compared, or skipped because an operator had discarded them."""
    parked: int = 0
    """How many commands are parked, so that they have no outcome yet."""
    unpublished: int = 0
    """How many events, outcomes and dead letters the relay has not published yet."""
    outgrown: int = 0
    """How many dead letters an earlier version could not read, and this version can."""


@dataclass
class _Expected:
    """A record that must be on a topic."""

    offset: int
    """The offset of the command that it follows from."""
    value: bytes | None
    """The record's value."""


@dataclass(frozen=True)
class _Outputs:
    """How far the output topics went when the verification began."""

    visible: dict[str, Extent]
    """The records that readers could see, by topic. Measured first."""
    written: dict[str, Extent]
    """All records, also those of open transactions, by topic. Measured after `visible`."""


class _Judge:
    """Judges one partition's commands, and collects the records that must be published for them."""

    def __init__(
        self,
        business_time: Callable[[int], datetime],
        partitions: int,
        skipped: set[int],
        letters: dict[int, DeadLetter],
        answers: Answers,
    ) -> None:
        """`skipped`: the offsets of parked and discarded commands. `letters`: dead letters, by the record's offset."""
        self._business_time = business_time
        self._partitions = partitions
        self._skipped = skipped
        self._letters = letters
        self._answers = answers
        self._twice = spelled_twice(answers)
        self._orders: dict[str, Order] = {}
        self._first_uses: FirstUses = {}
        self.outgrown = 0
        self.erased: set[bytes | None] = set()
        self.events: defaultdict[bytes | None, deque[_Expected]] = defaultdict(deque)
        self.outcomes: defaultdict[bytes | None, deque[_Expected]] = defaultdict(deque)
        self.dead: deque[_Expected] = deque()

    def take(self, records: list[Record]) -> None:
        """Judges the next records. Raises RuntimeError if our own code fails on one of them."""
        for record in records:
            if record.offset in self._skipped:
                continue
            readings = [self._reading(record)]
            [(_, reading)] = readings
            if not isinstance(reading, str) and record.offset in self._letters:
                self.outgrown += 1
                self.dead.append(_Expected(record.offset, record.value))
                continue
            if not isinstance(reading, str):
                self._orders.setdefault(reading.order_id, Order(id=reading.order_id))
            parked: set[str] = set()
            judged = judge(readings, self._orders, [self._first_uses], parked)
            if parked:
                raise RuntimeError(f"the command at offset {record.offset} cannot be judged: {judged.parked[0].why}")
            self._first_uses |= judged.first_uses
            for event in judged.events:
                if isinstance(event, OrderTextsErased):
                    self.erased.add(record.key)
                self.events[record.key].append(_Expected(record.offset, event_message(event)))
            for row in judged.outcomes:
                expected = self.dead if row.kind is OutcomeKind.DEAD else self.outcomes[record.key]
                expected.append(_Expected(record.offset, row.message))

    def _reading(self, record: Record) -> tuple[Record, Reading]:
        """Reads a record as the version that judged it did."""
        first = first_offset(record)
        dated = record if first is None else at_first_time(record, self._letters.get(first))
        [reading] = read([dated], self._business_time, self._partitions)
        # Today it is not a command, but it has no dead letter: an earlier version read it as one, or the dead letter
        # is not published yet.
        lacks_letter = isinstance(reading[1], str) and record.offset not in self._letters
        if lacks_letter or (isinstance(reading[1], Received) and self._was_judged_before(reading[1])):
            [reading] = read([dated], self._business_time, None, as_before=True)
        return reading

    def _was_judged_before(self, received: Received) -> bool:
        use = received.order_id, received.command_id
        code = self._answers.get(use)
        return code is not None and judged_before(received, code, (use[0], use[1].lower()) in self._twice)


async def verify_from_commands(
    cluster: Cluster,
    topics: Topics,
    business_time: Callable[[int], datetime],
    parked: set[tuple[int, int]],
    progress: Callable[[int, int], None],
) -> Findings:
    """Judges every command again, and compares the output topics. Calls `progress(done, total)` with records judged.

    `parked`: partition and offset of the parked commands, which are skipped. Raises HistoryExpired, TopicError,
    KafkaError, and RuntimeError if our own code fails on a command that is not parked.
    """
    findings = Findings(parked=len(parked))
    partitions = await count_partitions(cluster, topics)
    async with open_consumer(cluster) as consumer:
        outputs = await _outputs(cluster, topics, partitions)
        commands = _extents(*await extents(cluster, [topics.commands], partitions, only_visible=True))[topics.commands]
        total = sum(map(len, commands.values()))
        for partition in range(partitions):
            if first := commands[partition].start:
                raise HistoryExpired(
                    f"The first {first} commands of partition {partition} have expired, so history cannot be judged "
                    "again from its beginning. Give the topic a longer retention to keep them."
                )
            letters = _read(consumer, topics.dead_letters, partition, outputs.written[topics.dead_letters])
            dead = [letter async for batch in letters for letter in batch]
            parked_offsets = {offset for number, offset in parked if number == partition}
            discarded = {_source_offset(record) for record in dead if _is_discarded(record)}
            by_offset = {_source_offset(record): _letter(record) for record in dead}
            answers: Answers = {}
            async for batch in _read(consumer, topics.outcomes, partition, outputs.written[topics.outcomes]):
                _note_answers(batch, answers)
            judged = _Judge(business_time, partitions, parked_offsets | discarded, by_offset, answers)
            async for batch in _read(consumer, topics.commands, partition, commands):
                judged.take(batch)
                findings.commands += len(batch)
                progress(findings.commands, total)
            findings.outgrown += judged.outgrown
            await _compare_partition(consumer, topics, partition, outputs, dead, judged, findings)
        return findings


async def _compare_partition(
    consumer: AIOKafkaConsumer,
    topics: Topics,
    partition: int,
    outputs: _Outputs,
    dead: list[Record],
    judged: _Judge,
    findings: Findings,
) -> None:
    visible: list[int] = []
    answered: list[int] = []

    def compare(record: Record, expected: deque[_Expected]) -> int:
        offset = _compare(record, expected, record.key in judged.erased, findings)
        if record.offset in outputs.visible[record.topic][partition]:
            visible.append(offset)
        return offset

    for letter in dead:
        if not _is_discarded(letter):
            compare(letter, judged.dead)
    findings.dead_letters += len(dead)
    async for batch in _read(consumer, topics.events, partition, outputs.written[topics.events]):
        for event in batch:
            compare(event, judged.events[event.key])
        findings.events += len(batch)
    expired = outputs.written[topics.outcomes][partition].start > 0
    async for batch in _read(consumer, topics.outcomes, partition, outputs.written[topics.outcomes]):
        for outcome in batch:
            if expired:
                _drop_expired(judged.outcomes[outcome.key], outcome)
            answered.append(compare(outcome, judged.outcomes[outcome.key]))
        findings.outcomes += len(batch)
    last = max(visible, default=-1)
    _look_for_missing(partition, [*judged.events.values(), judged.dead], range(last), findings)
    first = min(answered, default=last) if expired else 0
    _look_for_missing(partition, judged.outcomes.values(), range(first, last), findings)


def _compare(record: Record, expected: deque[_Expected], erased: bool, findings: Findings) -> int:
    """Compares a published record with the next expected one. Returns its command's offset, or -1 if it has none.

    If the order's texts were `erased`, the record may have been published with or without them.
    """
    place = f"{record.topic}/{record.partition} offset {record.offset}"
    if not expected:
        findings.differs(f"{place} follows from no command")
        return -1
    wanted = expected.popleft()
    # The relay publishes only the first bytes of a large dead letter. An earlier version published all of it.
    cut = published_letter(None, wanted.value, ())[1]
    if (
        record.value not in (wanted.value, cut)
        and not same_but_for_sentences(wanted.value, record.value)
        and not (erased and _same_without_texts(wanted.value, record.value))
    ):
        findings.differs(
            f"{place}, from the command at offset {wanted.offset}: {_difference(wanted.value, record.value)}"
        )
    return wanted.offset


def _same_without_texts(expected: bytes | None, found: bytes | None) -> bool:
    """Whether both are the same except for texts. A dead letter that is published after its erasure has no value."""
    return found is None or published_without_texts(expected or b"") == published_without_texts(found)


def _difference(expected: bytes | None, found: bytes | None) -> str:
    """Returns the names of the fields that differ. Leaves out values, which may be confidential or long."""
    try:
        wanted, actual = json.loads(expected or b""), json.loads(found or b"")
        names = [name for name in sorted(wanted.keys() | actual.keys()) if wanted.get(name) != actual.get(name)]
    except (ValueError, AttributeError):
        names = []
    return f"not what it should be ({', '.join(names) or 'its bytes'} differ)"


def _drop_expired(queue: deque[_Expected], outcome: Record) -> None:
    """Drops the expected outcomes before this one: they have expired from their topic."""
    while queue and queue[0].value != outcome.value:
        queue.popleft()


def _look_for_missing(partition: int, queues: Iterable[deque[_Expected]], published: range, findings: Findings) -> None:
    """Reports expected records that were not published, although later ones were. Counts the rest as unpublished.

    `published`: the offsets of commands whose records must be published.
    """
    for expected in chain.from_iterable(queues):
        if expected.offset in published:
            findings.differs(f"what follows from the command at {partition}/{expected.offset} is missing")
        elif expected.offset >= published.stop:
            findings.unpublished += 1


def _is_discarded(record: Record) -> bool:
    return (dict(record.headers).get("error") or b"").startswith(_DISCARDED)


def _letter(record: Record) -> DeadLetter:
    return DeadLetter(
        record.partition, _source_offset(record), record.key, record.value, list(record.headers), how=None, why=None
    )


def _source_offset(record: Record) -> int:
    return int(dict(record.headers)["source-offset"] or b"")


class _Published(msgspec.Struct):
    subject: str
    causationid: str


_decode_published = msgspec.json.Decoder(_Published).decode


def _note_answers(outcomes: Iterable[Record], answers: Answers) -> None:
    for record in outcomes:
        value = record.value or b""
        outcome, code = _decode_published(value), code_of(value)
        if code != "command_id_reused" and not value.endswith(b'"duplicate":true}}'):
            answers.setdefault((outcome.subject, outcome.causationid), code)


async def _outputs(cluster: Cluster, topics: Topics, partitions: int) -> _Outputs:
    names = (topics.events, topics.outcomes, topics.dead_letters)
    return _Outputs(
        _extents(*await extents(cluster, names, partitions, only_visible=True)),
        _extents(*await extents(cluster, names, partitions)),
    )


def _extents(begins: Ends, ends: Ends) -> dict[str, Extent]:
    return {
        topic: {number: range(first, ends[topic][number]) for number, first in partitions.items()}
        for topic, partitions in begins.items()
    }


def _read(consumer: AIOKafkaConsumer, topic: str, partition: int, extent: Extent) -> AsyncIterator[list[Record]]:
    """Yields a partition's committed records, one list for each fetch. Waits for open transactions before its end."""
    where, offsets = TopicPartition(topic, partition), extent[partition]
    consumer.assign([where])
    return Stream(consumer, where, offsets.start, offsets.stop).batches()
