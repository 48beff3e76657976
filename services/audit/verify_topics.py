"""The commands topic, judged again from its first record, against what is on the other topics: byte for byte.

Nothing that was stored is used, but the clock's origin and which commands are parked. It runs beside a live service and
reads only: first it notes where the outputs end, then where the commands end, so that whatever it finds published must
follow from the commands that it judges. The topics cannot be looked at in one moment, and a transaction appears on one
before it does on another; so something counts as missing only if a later command's output was visible before the end of
the topic that lacks it was noted, transactions under way included.
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
"""By partition, the offsets that a topic had when the verification began."""

Answers = dict[tuple[str, str], str]
"""By order id and command id, the code of the first outcome that was published; empty where it is an acceptance."""


class HistoryExpired(Failure):
    """The commands topic does not have its first records any more."""


@dataclass(kw_only=True)
class Findings(Differences):
    """What was compared, and what differs.

    `unpublished`: what lies ahead of the relay; `outgrown`: dead letters that an earlier version could not read, and
    this one can.
    """

    commands: int = 0
    events: int = 0
    outcomes: int = 0
    dead_letters: int = 0
    parked: int = 0
    unpublished: int = 0
    outgrown: int = 0


@dataclass
class _Expected:
    """A record that must come on a topic, and the offset of the command that causes it."""

    offset: int
    value: bytes | None


@dataclass(frozen=True)
class _Outputs:
    """By topic, what readers could see at first, and what had been written a moment later, committed or not."""

    visible: dict[str, Extent]
    written: dict[str, Extent]


class _Judge:
    """One partition's commands, judged as the service has to."""

    def __init__(
        self,
        business_time: Callable[[int], datetime],
        partitions: int,
        passed_over: set[int],
        letters: dict[int, DeadLetter],
        answers: Answers,
    ) -> None:
        self._business_time = business_time
        self._partitions = partitions
        self._passed_over = passed_over
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
        """Raises whatever our own code fails with: then there is nothing to compare with."""
        for record in records:
            if record.offset in self._passed_over:
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
                place = self.dead if row.kind is OutcomeKind.DEAD else self.outcomes[record.key]
                place.append(_Expected(record.offset, row.message))

    def _reading(self, record: Record) -> tuple[Record, Reading]:
        """As the version that judged the record read it."""
        first = first_offset(record)
        timely = record if first is None else at_first_time(record, self._letters.get(first))
        [found] = read([timely], self._business_time, self._partitions)
        # No command by today's rules, and no dead letter: an earlier version accepted it, or it is not published yet.
        is_dead = isinstance(found[1], str) and record.offset not in self._letters
        if is_dead or (isinstance(found[1], Received) and self._was_judged_before(found[1])):
            [found] = read([timely], self._business_time, None, as_before=True)
        return found

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
    """Judges every command again. `parked`: partition and offset of those not judged yet; `progress(done, of)`.

    Raises HistoryExpired, TopicError, KafkaError, and what our own code fails with on a command that is not parked.
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
                    "again from its beginning. A longer retention of the topic keeps it."
                )
            letters = _read(consumer, topics.dead_letters, partition, outputs.written[topics.dead_letters])
            dead = [letter async for batch in letters for letter in batch]
            passed_over = {offset for number, offset in parked if number == partition}
            discarded = {_source_offset(record) for record in dead if _is_discarded(record)}
            by_offset = {_source_offset(record): _letter(record) for record in dead}
            answers: Answers = {}
            async for batch in _read(consumer, topics.outcomes, partition, outputs.written[topics.outcomes]):
                _note_answers(batch, answers)
            again = _Judge(business_time, partitions, passed_over | discarded, by_offset, answers)
            async for batch in _read(consumer, topics.commands, partition, commands):
                again.take(batch)
                findings.commands += len(batch)
                progress(findings.commands, total)
            findings.outgrown += again.outgrown
            await _compare_partition(consumer, topics, partition, outputs, dead, again, findings)
        return findings


async def _compare_partition(
    consumer: AIOKafkaConsumer,
    topics: Topics,
    partition: int,
    outputs: _Outputs,
    dead: list[Record],
    again: _Judge,
    findings: Findings,
) -> None:
    visible: list[int] = []
    answered: list[int] = []

    def compare(record: Record, expected: deque[_Expected]) -> int:
        offset = _compare(record, expected, record.key in again.erased, findings)
        if record.offset in outputs.visible[record.topic][partition]:
            visible.append(offset)
        return offset

    for letter in dead:
        if not _is_discarded(letter):
            compare(letter, again.dead)
    findings.dead_letters += len(dead)
    async for batch in _read(consumer, topics.events, partition, outputs.written[topics.events]):
        for event in batch:
            compare(event, again.events[event.key])
        findings.events += len(batch)
    expired = outputs.written[topics.outcomes][partition].start > 0
    async for batch in _read(consumer, topics.outcomes, partition, outputs.written[topics.outcomes]):
        for outcome in batch:
            if expired:
                _pass_over_expired(again.outcomes[outcome.key], outcome)
            answered.append(compare(outcome, again.outcomes[outcome.key]))
        findings.outcomes += len(batch)
    last = max(visible, default=-1)
    _look_for_missing(partition, [*again.events.values(), again.dead], range(last), findings)
    first = min(answered, default=last) if expired else 0
    _look_for_missing(partition, again.outcomes.values(), range(first, last), findings)


def _compare(record: Record, expected: deque[_Expected], erased: bool, findings: Findings) -> int:
    """Returns the offset of the command that a published record follows from, or -1.

    Where texts of its order were `erased`, it may have been published with them or without.
    """
    place = f"{record.topic}/{record.partition} offset {record.offset}"
    if not expected:
        findings.differs(f"{place} follows from no command")
        return -1
    should = expected.popleft()
    # Of a large dead letter the topic has the beginning; an earlier version published all of it.
    published = published_letter(None, should.value, ())[1]
    if (
        record.value not in (should.value, published)
        and not same_but_for_sentences(should.value, record.value)
        and not (erased and _same_without_texts(should.value, record.value))
    ):
        findings.differs(
            f"{place}, from the command at offset {should.offset}: {_difference(should.value, record.value)}"
        )
    return should.offset


def _same_without_texts(expected: bytes | None, found: bytes | None) -> bool:
    """A dead letter that was erased before it was published has no value."""
    return found is None or published_without_texts(expected or b"") == published_without_texts(found)


def _difference(expected: bytes | None, found: bytes | None) -> str:
    """Returns the names of the fields that differ. Leaves out values, which may be confidential or long."""
    try:
        should, is_ = json.loads(expected or b""), json.loads(found or b"")
        names = [name for name in sorted(should.keys() | is_.keys()) if should.get(name) != is_.get(name)]
    except (ValueError, AttributeError):
        names = []
    return f"not what it should be ({', '.join(names) or 'its bytes'} differ)"


def _pass_over_expired(queue: deque[_Expected], outcome: Record) -> None:
    while queue and queue[0].value != outcome.value:
        queue.popleft()


def _look_for_missing(partition: int, queues: Iterable[deque[_Expected]], published: range, findings: Findings) -> None:
    """What was not published though a later command's output was is missing; what comes after that is on its way."""
    for expected in chain.from_iterable(queues):
        if expected.offset in published:
            findings.differs(f"what follows from the command at {partition}/{expected.offset} is missing")
        elif expected.offset >= published.stop:
            findings.unpublished += 1


def _is_discarded(record: Record) -> bool:
    return (dict(record.headers).get("error") or b"").startswith(_DISCARDED)


def _letter(record: Record) -> DeadLetter:
    where = record.partition, _source_offset(record)
    return DeadLetter(*where, record.key, record.value, list(record.headers), how=None, why=None)


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
        topic: {number: range(first, ends[topic][number]) for number, first in found.items()}
        for topic, found in begins.items()
    }


def _read(consumer: AIOKafkaConsumer, topic: str, partition: int, extent: Extent) -> AsyncIterator[list[Record]]:
    """A partition's committed records, in batches; waits for transactions that are under way before its end."""
    where, offsets = TopicPartition(topic, partition), extent[partition]
    consumer.assign([where])
    return Stream(consumer, where, offsets.start, offsets.stop).batches()
