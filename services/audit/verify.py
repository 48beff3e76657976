"""`resolution verify`: judges all commands again, and compares the result with what is stored and published.

A verification reads only. The service may run meanwhile. So that no new record looks like a difference, the ends are
read in this order: the timer's deadlines, the relay's position, the topics, the store. Then everything on a topic must
be in the store, and everything that the relay had published must be on its topic.
"""

import asyncio
import gc
import multiprocessing
import queue
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import msgspec

from projections import READ_MODELS
from services.clock import Clock
from services.eventstore.database import connect
from services.eventstore.positions import commands_bases
from services.eventstore.read_events import digest_of_last_events
from services.failures import Failure
from services.kafka.read_topics import extents
from services.kafka.relay_position import published
from services.kafka.topics import Topics, count_partitions
from services.retention.months import months_kept, read_retired
from services.settings import Settings
from services.shards.identity import shard_identity

from .findings import Findings
from .stored_history import TimerState, store_end, timer_state
from .verify_history import History, Limits, Progress
from .verify_read_models import verify_read_models
from .verify_snapshots import verify_snapshots
from .worker_processes import ignoring_ctrl_c

_WORKERS = 2
_IMPORTED_ONCE = ["services.audit.verify", "services.cli"]
"""Modules that the fork server imports once. Without it, each worker would spend a second on importing them."""
_LIVE_OBJECTS = 500_000
"""The garbage collector's first threshold. Above a chunk and what was read ahead for it, all of which is freed soon."""
_READ_MODELS = [["order_page"], ["inbox", "metrics", "overview", "reminders"]]
"""The read models of each worker. The order page takes as long as the others together."""


class VerificationFailed(Failure):
    """The verification cannot go on. The text says why."""


class _Message(msgspec.Struct):
    """What a worker reports: how far it is, at last its findings, or why it stopped."""

    worker: int
    """The worker's index."""
    progress: bytes | None = None
    """Its `Progress`, encoded: the worker changes its own while the queue still holds the message."""
    findings: dict[str, Any] | None = None
    """Its findings, as `Findings.as_dict` returns them, once it has ended."""
    replayed: int = 0
    """How many more events it has replayed."""
    failure: str = ""
    """Why it stopped. Empty if nothing failed."""


def verify_history(
    settings: Settings, clock: Clock, resume: Path | None, progress: Callable[[str, int, int], None]
) -> Findings:
    """Verifies a shard: its history, deadlines, read models and snapshots. Calls `progress(what, done, total)`.

    `resume`: a file that says how far an earlier verification came. This one continues there and updates it.
    Raises VerificationFailed, TopicError, KafkaError and psycopg.Error.
    """
    forkserver.set_forkserver_preload(_IMPORTED_ONCE)
    with ignoring_ctrl_c():
        forkserver.ensure_running()  # the fork server imports while the ends are measured
    with months_kept(settings.database):
        return _verify_history(settings, clock, resume, progress)


def _verify_history(
    settings: Settings, clock: Clock, resume: Path | None, progress: Callable[[str, int, int], None]
) -> Findings:
    topics = Topics(settings.topic_prefix, settings.shard)
    limits, timer = asyncio.run(_measure(settings, topics))
    states = _states(resume, settings.shard.partitions(len(limits.ends[topics.commands])))
    _require_same_history(settings, resume, states)
    findings = Findings()

    def note(message: _Message) -> None:
        if message.progress is not None:
            states[message.worker] = msgspec.json.decode(message.progress, type=Progress)
            if resume is not None:
                _save(resume, states)
            progress("history", min(state.outcome_id for state in states), limits.outcome_id)

    jobs = [(_verify_partitions, settings, clock, limits, state) for state in states]
    for result in _in_processes(jobs, note):
        findings.add(result)
    _compare_deadlines(states, timer, findings)

    replayed = 0

    def count(message: _Message) -> None:
        nonlocal replayed
        replayed += message.replayed
        progress("read models", replayed, limits.event_id * len(_READ_MODELS))

    assert sorted(name for names in _READ_MODELS for name in names) == sorted(READ_MODELS)
    for result in _in_processes([(_verify_read_models, settings, names) for names in _READ_MODELS], count):
        findings.add(result)
    verify_snapshots(settings.database, findings, partial(progress, "snapshots"))
    return findings


async def _measure(settings: Settings, topics: Topics) -> tuple[Limits, TimerState]:
    partitions = await count_partitions(settings.cluster, topics)
    with connect(settings.database, autocommit=True) as connection:
        timer = timer_state(connection)
        position = await published(settings.cluster, topics)
        begins, ends = await extents(
            settings.cluster, (topics.commands, topics.events, topics.outcomes, topics.dead_letters), partitions
        )
        end, bases, split = store_end(connection), commands_bases(connection), shard_identity(connection).last_split
        retired = read_retired(connection)
    begins[topics.commands] = {n: first + bases.get(n, 0) for n, first in begins[topics.commands].items()}
    # Records from the stored position on are not judged yet.
    ends[topics.commands] = {n: max(end.judged.get(n, 0), first) for n, first in begins[topics.commands].items()}
    limits = Limits(
        end.outcome_id,
        end.event_id,
        position.outcome_id,
        begins,
        ends,
        timer.positions,
        end.parked,
        bases,
        split,
        retired,
    )
    return limits, timer


def _states(resume: Path | None, partitions: Sequence[int]) -> list[Progress]:
    fresh = [Progress(list(partitions[worker::_WORKERS])) for worker in range(min(_WORKERS, len(partitions)))]
    if resume is None or not resume.exists():
        return fresh
    try:
        saved = msgspec.json.decode(resume.read_bytes(), type=list[Progress])
    except msgspec.MsgspecError:
        raise VerificationFailed(f"{resume} is not a file that `--resume` has written. Name another file.") from None
    if [state.partitions for state in saved] != [state.partitions for state in fresh]:
        raise VerificationFailed(f"{resume} belongs to another shard or installation. Name another file.")
    return saved


def _require_same_history(settings: Settings, resume: Path | None, states: Sequence[Progress]) -> None:
    """Raises VerificationFailed if the last events verified earlier are not those of the store."""
    with connect(settings.database, autocommit=True) as connection:
        for state in states:
            if state.history and state.history != digest_of_last_events(connection, state.event_id):
                raise VerificationFailed(
                    f"{resume} says that events up to {state.event_id} were verified, but the store has others: it "
                    "was restored, fell back to an earlier state, or was changed. Verify all, with another file."
                )


def _save(resume: Path, states: Sequence[Progress]) -> None:
    new = resume.with_name(f".{resume.name}")
    new.write_bytes(msgspec.json.encode(states))
    new.replace(resume)


def _compare_deadlines(states: Sequence[Progress], timer: TimerState, findings: Findings) -> None:
    """Reports open disputes without a deadline, and deadlines of other disputes."""
    disputes = {(order_id, dispute_id): at for state in states for order_id, dispute_id, at in state.open}
    findings.deadlines += len(disputes)
    for (order_id, dispute_id), at in disputes.items():
        if (deadline := timer.deadlines.get((order_id, dispute_id))) is None:
            findings.differs(f"order {order_id}: the open dispute {dispute_id} has no deadline")
        elif deadline != at:
            findings.differs(f"order {order_id}: the deadline of {dispute_id} is not the one that it was opened with")
    for order_id, dispute_id in timer.deadlines.keys() - disputes.keys():
        findings.differs(f"order {order_id}: there is a deadline for {dispute_id}, which is not an open dispute")


# --- workers ---


def _verify_partitions(
    report: Callable[..., None], settings: Settings, clock: Clock, limits: Limits, state: Progress
) -> Findings:
    topics = Topics(settings.topic_prefix, settings.shard)
    history = History(settings.database, settings.master_keys, topics, clock.of_record, limits, state)
    return asyncio.run(history.run(settings.cluster, lambda progress: report(progress=msgspec.json.encode(progress))))


def _verify_read_models(report: Callable[..., None], settings: Settings, names: Sequence[str]) -> Findings:
    findings = Findings()
    verify_read_models(settings.database, names, findings, lambda replayed: report(replayed=replayed))
    return findings


def _in_processes(jobs: Sequence[tuple[Any, ...]], note: Callable[[_Message], None]) -> list[dict[str, Any]]:
    """Runs each job, a function and its arguments, in its own process. Returns their findings in the jobs' order.

    Passes all other messages to `note`. Raises VerificationFailed if a job fails or its process is killed.
    """
    context = multiprocessing.get_context("forkserver")
    messages: multiprocessing.Queue[_Message] = context.Queue()
    processes: list[BaseProcess] = [
        context.Process(target=_work, args=(messages, worker, *job), daemon=True) for worker, job in enumerate(jobs)
    ]
    for process in processes:
        process.start()
    try:
        results: dict[int, dict[str, Any]] = {}
        while len(results) < len(jobs):
            message = _next(messages, processes)
            if message.failure:
                raise VerificationFailed(message.failure)
            if message.findings is not None:
                results[message.worker] = message.findings
            else:
                note(message)
        return [results[worker] for worker in range(len(jobs))]
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _next(messages: "multiprocessing.Queue[_Message]", processes: Sequence[BaseProcess]) -> _Message:
    while True:
        try:
            return messages.get(timeout=1)
        except queue.Empty:
            if any(process.exitcode for process in processes):
                raise VerificationFailed(
                    "A process of the verification was killed. Start the verification again."
                ) from None


def _work(messages: "multiprocessing.Queue[_Message]", worker: int, job: Callable[..., Findings], *args: Any) -> None:
    def report(**fields: Any) -> None:
        messages.put(_Message(worker, **fields))

    gc.set_threshold(_LIVE_OBJECTS, 20, 50)  # records and events hold no cycles
    try:
        findings = job(report, *args)
    except Exception as failure:
        report(failure=f"{type(failure).__name__}: {failure}")
    else:
        report(findings=findings.as_dict())
    messages.close()
    messages.join_thread()
