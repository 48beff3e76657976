"""A sender writes whatever the broker accepts, beside steady good commands: each record has exactly one result.

What the broker refuses is no record. Where something fails, the batch is shown in hex, and the seed is the test's own.
"""

import asyncio
import hashlib
import json
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import chain, count, repeat
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from resolution_contracts import CommandEnvelope
from typer.testing import CliRunner

from services import cli
from services.judging.partitioner import partition_of
from services.runtime.supervisor import Supervisor
from tests.fuzz.generate import Garbage, catalogue, drawn, flood, repeated
from tests.fuzz.sender import BrokerHungUp, RawSender, Refused, Taken
from tests.fuzz.topic import Found, Place, read_topic
from tests.fuzz.wire import RawBatch, RawRecord
from tests.observability.prometheus import free_port
from tests.rules.oracle import Judged, Oracle
from tests.rules.oracle import Record as Read
from tests.support.commands import ask_update, register
from tests.support.installation import PARTITIONS, ROLES, Installation, until
from tests.support.judgement_day import _by_order, _comparable, _envelope

_VALUES = Path("deploy/helm/resolution-center/values.yaml")
_ALL_ROLES = (*ROLES, "http")
_AT_ONCE = 16
_RETRIES = 60
_PATIENCE_SECONDS = 60
"""Once all is written: for the good commands' outcomes, and for the next record's fate."""
_LARGEST_COMMAND = 256 * 1024
_KEPT = 64 * 1024

Json = dict[str, Any]


# --- what the test does ---


@dataclass
class Good:
    """Commands of senders that do all as they should, one after the other on each partition."""

    outcomes: Counter[int] = field(default_factory=Counter)
    """By partition."""
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def send(self, installation: Installation, partition: int) -> None:
        client = await installation.client()
        order_id = next(o for n in count() if partition_of((o := f"good-{n}").encode(), PARTITIONS) == partition)
        for command in chain([register()], repeat(ask_update())):
            if self.enough.is_set():
                return
            envelope = CommandEnvelope.of(order_id, command, source="/tests")
            await (await client.publish(envelope.subject, envelope.to_json()))
            self.outcomes[partition] += 1
            await asyncio.sleep(0.1)


@asynccontextmanager
async def good_commands(installation: Installation) -> AsyncIterator[Good]:
    """Raises what a sender raised, and TimeoutError where commands have no outcome although no garbage comes any more.

    Before that it is no matter how long one takes: the garbage is made by the process that looks at the time.
    """
    good = Good()
    await installation.client()
    sending = [asyncio.create_task(good.send(installation, partition)) for partition in range(PARTITIONS)]
    try:
        yield good
        good.enough.set()
        async with asyncio.timeout(_PATIENCE_SECONDS):
            await asyncio.gather(*sending)
    finally:
        for task in sending:
            task.cancel()


@dataclass
class Written:
    """What the broker made of the batches."""

    taken: dict[Place, Garbage] = field(default_factory=dict)
    """By the place of its first record."""
    records: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    """How many batches, by Kafka's error."""

    def note(self, garbage: Garbage, answer: Taken | Refused) -> None:
        if isinstance(answer, Taken):
            self.taken[answer.partition, answer.base_offset] = garbage
            self.records += len(garbage.batch.records)
        else:
            self.refused[f"{answer.code} {answer.why}"[:60]] += 1


async def write(installation: Installation, garbage: Iterator[Garbage], wanted: int) -> Written:
    """Writes batches until the broker has as many records as wanted, and then some once more, as retries."""
    written, numbers = Written(), count()

    async def one_after_the_other() -> None:
        async with RawSender.connected(installation.settings.kafka) as sender:
            while written.records < wanted:
                one = next(garbage)
                written.note(one, await _write_one(sender, installation.topics.commands, one, numbers))

    await asyncio.gather(*(one_after_the_other() for _ in range(_AT_ONCE)))
    # An operator's retry is refused where no command can be as large; some of these would not fit into a request.
    small = [
        place for place, one in written.taken.items() if len(one.batch.records[0].value or b"") <= _LARGEST_COMMAND
    ]
    async with RawSender.connected(installation.settings.kafka) as sender:
        for place in small[:: max(1, len(small) // _RETRIES)]:
            one, offset = written.taken[place], place[1]
            again = repeated(offset, one)
            written.note(again, await _write_one(sender, installation.topics.commands, again, numbers))
    return written


async def _write_one(sender: RawSender, topic: str, garbage: Garbage, numbers: Iterator[int]) -> Taken | Refused:
    try:
        if garbage.committed is None:
            return await sender.produce(topic, garbage.partition, garbage.bytes)
        return await _in_transaction(sender, topic, garbage, f"{topic}-{next(numbers)}")
    except BrokerHungUp as gone:
        raise AssertionError(f"the broker hung up: {garbage}") from gone


async def _in_transaction(sender: RawSender, topic: str, garbage: Garbage, id_: str) -> Taken | Refused:
    producer = await sender.begin(id_)
    if code := await sender.add_partition(id_, producer, topic, garbage.partition):
        return Refused(code, "the partition is not added")
    answer = await sender.produce(topic, garbage.partition, garbage.transactional(*producer).encode(), id_)
    await sender.end(id_, producer, commit=bool(garbage.committed))
    return answer


# --- what is true of the processes meanwhile ---


def memory_limits() -> dict[str, int]:
    """By role, in bytes: what a pod of it has in the chart."""
    roles = yaml.safe_load(_VALUES.read_text())["roles"]
    return {
        role: int(about["resources"]["limits"]["memory"].removesuffix("Mi")) * 2**20 for role, about in roles.items()
    }


class Processes:
    """The roles' processes: which they are, and the most memory that each had."""

    def __init__(self, installation: Installation) -> None:
        self._supervisor = installation.supervisor
        self.before = self._pids()
        self.most: Counter[str] = Counter()

    def _pids(self) -> dict[str, int | None]:
        return {role: self._supervisor.pid(role) for role in _ALL_ROLES}

    @asynccontextmanager
    async def watched(self) -> AsyncIterator[None]:
        watching = asyncio.create_task(self._watch())
        try:
            yield
        finally:
            watching.cancel()
            with suppress(asyncio.CancelledError):
                await watching

    async def _watch(self) -> None:
        while True:
            for role, pid in self._pids().items():
                if pid is not None and psutil.pid_exists(pid):
                    self.most[role] = max(self.most[role], psutil.Process(pid).memory_info().rss)
            await asyncio.sleep(0.1)

    def assert_as_before(self) -> None:
        assert self._pids() == self.before, "a role ended"
        limits = memory_limits()
        assert self.most.keys() == set(_ALL_ROLES)
        above = {role: f"{most:,} bytes" for role, most in self.most.items() if most > limits[role]}
        assert above == {}


async def all_ready(ports: dict[str, int]) -> bool:
    async with httpx.AsyncClient(timeout=5) as client:
        answers = [await client.get(f"http://127.0.0.1:{port}/health/ready") for port in ports.values()]
    return all(answer.status_code == 200 for answer in answers)


# --- each record's fate ---


class Patience:
    """The patience of a test. It ends when a count has not grown for a while."""

    def __init__(self) -> None:
        self._most = -1
        self._since = 0.0

    def ends(self, number: int) -> bool:
        if number > self._most:
            self._most, self._since = number, time.monotonic()
        return time.monotonic() - self._since > _PATIENCE_SECONDS


async def until_all_have_a_fate(installation: Installation, records: Sequence[Found]) -> dict[Place, str]:
    """Waits until all records have a fate. Returns the fates by place. Shows the first record that lacks one."""
    wanted = {record.place for record in records}
    patience = Patience()
    while True:
        rows = await asyncio.to_thread(
            installation.query,
            "SELECT partition, record_offset, kind FROM outcomes "
            "UNION ALL SELECT partition, record_offset, 'parked' FROM parked_commands",
        )
        fates = {(partition, offset): kind for partition, offset, kind in rows}
        if wanted <= fates.keys() or patience.ends(len(fates)):
            break
        await asyncio.sleep(0.5)
    without: dict[int, str] = {}
    for record in records:
        if record.place not in fates:
            without.setdefault(record.partition, f"{record.place}: {record.garbage or 'a good command'}")
    assert without == {}, "the first records without a fate, by partition"
    twice = [place for place, number in Counter((p, o) for p, o, _ in rows).items() if number > 1]
    assert twice == [], "more than one fate"
    assert fates.keys() == wanted, "a fate of no record"
    assert "parked" not in fates.values(), "our own code failed"
    return fates


async def published(installation: Installation, number: int) -> tuple[list[Json], list[Any]]:
    """Outcomes and dead letters, once there are so many."""
    patience = Patience()
    while True:
        outcomes, dead = await installation.outcomes(), await installation.read(installation.topics.dead_letters)
        found = len(outcomes) + len(dead)
        if found >= number or patience.ends(found):
            return outcomes, dead
        await asyncio.sleep(0.5)


def judged(installation: Installation, record: Found, fate: str, oracle: Oracle) -> Judged:
    """Returns the expected result of a record. If aiokafka reads it differently from Kafka's client, `fate` decides."""
    said, dead = record.said, Judged(dead=True)
    if said is None or said.key is None or partition_of(said.key, PARTITIONS) != record.partition:
        return dead
    if fate == "dead" and not record.plain:
        return dead
    micros = round(installation.clock.of_record(record.time).timestamp() * 1_000_000)
    return oracle.read(Read(said.key, said.value, micros))


async def assert_as_the_oracle_says(
    installation: Installation, records: Sequence[Found], fates: dict[Place, str]
) -> None:
    oracle, dead, wrong = Oracle(), [], []
    events: defaultdict[str, list[Json]] = defaultdict(list)
    outcomes: defaultdict[str, list[Json]] = defaultdict(list)
    for record in records:
        word = judged(installation, record, fates[record.place], oracle)
        if word.dead != (fates[record.place] == "dead"):
            wrong.append(f"{fates[record.place]}, which is wrong: {record}")
        if word.outcome is None:
            dead.append(record)
        else:
            outcomes[word.outcome["subject"]].append(_comparable(word.outcome))
            events[word.outcome["subject"]] += map(_envelope, word.events)
    assert wrong == []
    found_outcomes, found_dead = await published(installation, len(records))
    assert_dead_letters(installation, dead, found_dead)
    by_order = _by_order(found_outcomes)
    assert {order: [_comparable(o) for o in all_of] for order, all_of in by_order.items()} == dict(outcomes)
    assert _by_order(await installation.events()) == {order: of for order, of in events.items() if of}


def assert_dead_letters(installation: Installation, records: Sequence[Found], letters: Sequence[Any]) -> None:
    expected = {record.place: record for record in records}
    found = {}
    for letter in letters:
        headers = dict(letter.headers)  # ours come last
        place = int(headers["source-partition"]), int(headers["source-offset"])
        assert place not in found, f"{place} died twice"
        found[place] = letter
        assert headers["error"], place
        assert headers["source-topic"].decode() == installation.topics.commands
    assert found.keys() == expected.keys()
    for place, letter in found.items():
        if expected[place].plain:
            assert_whole(expected[place], letter)


def assert_whole(record: Found, letter: Any) -> None:
    """Key, value and headers as they came; of a large value its beginning, and how large it was."""
    said, headers = record.said, dict(letter.headers)
    assert said is not None
    if len(said.key or b"") + sum(len(name) + len(value or b"") for name, value in said.headers) > _KEPT:
        return
    assert letter.key == said.key, record
    if len(said.value or b"") <= _LARGEST_COMMAND:
        assert letter.value == said.value, record
    else:
        assert said.value is not None
        assert letter.value == said.value[:_KEPT], record
        assert int(headers["value-bytes"]) == len(said.value)
        assert headers["value-sha256"].decode() == hashlib.sha256(said.value).hexdigest()
    own = [(name.encode(), value) for name, value in letter.headers]
    assert own[: len(said.headers)] == list(said.headers), record


async def resolution(installation: Installation, *arguments: str) -> Any:
    """A command of the command line, in this process. Raises what it raises."""
    environment = installation.settings.as_environment()
    result = await asyncio.to_thread(lambda: CliRunner().invoke(cli.app, arguments, env=environment))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


async def assert_ledger_finds_nothing(installation: Installation) -> None:
    result = await resolution(installation, "ledger", "--json")
    assert json.loads(result.stdout.splitlines()[-1])["differences"] == []
    assert result.exit_code == 0


async def assert_large_ones_are_kept(
    installation: Installation, records: Sequence[Found], fates: dict[Place, str]
) -> None:
    """Whole, in the store, where an operator gets them."""
    large = [r for r in records if r.plain and r.said and len(r.said.value or b"") > _LARGEST_COMMAND]
    assert large
    for record in large[:: max(1, len(large) // 5)]:
        assert fates[record.place] == "dead"
        result = await resolution(installation, "dead", "show", "--raw", "{}/{}".format(*record.place))
        assert result.stdout_bytes == record.said.value


# --- the tests ---


@pytest.mark.timeout(900)
async def test_each_record_that_the_broker_takes_has_its_fate_and_good_commands_go_on(
    installation: Installation, seed: int, every_step: bool
):
    ports = {role: free_port() for role in _ALL_ROLES}
    installation.supervisor = Supervisor(installation.settings, ports)
    await installation.run(*_ALL_ROLES)
    processes = Processes(installation)
    known = [*([flood()] if every_step else []), *catalogue()]
    for garbage in known:
        assert garbage.bytes  # made now: some take a second, in which nobody else here would do anything
    async with processes.watched():
        async with good_commands(installation) as good:
            written = await write(installation, chain(known, drawn(seed)), 60_000 + 10_000 if every_step else 2_000)
        async with RawSender.connected(installation.settings.kafka) as reader:
            records = await read_topic(reader, installation.topics.commands, written.taken)
        fates = await until_all_have_a_fate(installation, records)
        await assert_ledger_finds_nothing(installation)
        await assert_as_the_oracle_says(installation, records, fates)
        await assert_large_ones_are_kept(installation, records, fates)
        if every_step:
            verified = await resolution(installation, "verify", "--from-commands", "--json")
            assert verified.exit_code == 0, verified.output[-2_000:]
        await until(lambda: all_ready(ports))
    processes.assert_as_before()
    assert good.outcomes.keys() == set(range(PARTITIONS))
    most = {role: f"{most >> 20} MB" for role, most in processes.most.items()}
    print(f"{len(records)} records, {Counter(fates.values())}, refused {written.refused}, {good}, {most}")


async def test_a_transaction_that_was_aborted_last_holds_up_nobody(
    installation: Installation, caplog: pytest.LogCaptureFixture
):
    """It leaves offsets without a record at the partition's end: the client passes them, and has nothing to give."""
    record = RawRecord(b"k", b"garbage")
    async with installation.here("commands"), RawSender.connected(installation.settings.kafka) as sender:
        for partition in range(4):
            garbage = Garbage("aborted", partition, RawBatch((record,)), committed=False)
            await _write_one(sender, installation.topics.commands, garbage, count())
        await asyncio.sleep(2)
    assert [record.message for record in caplog.records if record.name == "services.kafka.consumer"] == []
