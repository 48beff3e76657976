"""The checkpoints role: publishes signed hashes of the stored events.

A role that starts reads the last checkpoint on the topic, and goes on after it. The fixed transactional id fences any
older role before that, so no other role can publish a checkpoint any more. A fenced role that does not know it yet
signs the same number again, but the broker refuses it.
"""

import asyncio
import logging
import time
from contextlib import closing
from datetime import UTC, datetime
from typing import Any

import psycopg
from aiokafka import TopicPartition

from services.eventstore.checkpoint_chain import Checkpoint, Signer, line, parse, salt_hash
from services.eventstore.checkpoint_notes import checkpoint_notes, note_published, require_noted
from services.eventstore.database import ANSWER_WITHIN_SECONDS, connect
from services.eventstore.read_events import copy_events, newest_event
from services.fault_points import point
from services.kafka.read_topics import all_values, last_value
from services.kafka.topics import Topics
from services.kafka.transactions import TransactionalProducer
from services.settings import Settings
from services.shards.identity import shard_identity
from services.telemetry.health import progress

from .checkpoint_file import CheckpointFile, CheckpointFileError, LinesMissing
from .signing_keys import read_private_key, read_public_key

log = logging.getLogger(__name__)

_MAX_PAUSE_SECONDS = 1.0


class CheckpointsRole:
    """Signs with the key file that `settings` names. It must name one."""

    def __init__(self, settings: Settings, topics: Topics) -> None:
        self._settings = settings
        self._topic = topics.checkpoints
        file = settings.checkpoint_file
        self._file = CheckpointFile(file.with_name(file.name + settings.shard.suffix)) if file else None
        self._due = 0.0
        self._producer = TransactionalProducer(settings.cluster, topics.checkpoints)

    async def run(self, ready: asyncio.Event) -> None:
        """Publishes checkpoints for ever. After an exception, a new role goes on after the last published one."""
        async with self._producer:  # fences any older role, and ends the transaction that it left open
            await self._producer.abort_left_open(TopicPartition(self._topic, 0))
            value = await last_value(self._settings.cluster, self._topic)
            last = None if value is None else parse(value)
            url, options = self._settings.database, {"autocommit": True, "answer_within": ANSWER_WITHIN_SECONDS}
            with await asyncio.to_thread(connect, url, **options) as connection:
                signer = await asyncio.to_thread(self._signer, connection, last)
                await self._note_unknown(connection, signer, last)
                await self._copy(last)
                ready.set()
                while True:
                    progress("checkpoints")
                    last = await self._next(connection, signer, last)

    async def _next(
        self, connection: psycopg.Connection[Any], signer: Signer, last: Checkpoint | None
    ) -> Checkpoint | None:
        """Publishes the next checkpoint if one is due, and returns it. Otherwise pauses, and returns `last`."""
        covered = signer.covered(last)
        waiting = await asyncio.to_thread(_uncovered, connection, covered)
        announces = last is not None and last.next_key != signer.announced and signer.announced is not None
        if not (
            waiting >= self._settings.checkpoint_events or announces or (waiting and time.monotonic() >= self._due)
        ):
            await asyncio.sleep(min(_MAX_PAUSE_SECONDS, self._settings.checkpoint_seconds))
            return last
        up_to = covered + min(waiting, self._settings.checkpoint_events)
        checkpoint = await asyncio.to_thread(_sign, connection, signer, last, up_to)
        point("checkpoints.covered")
        async with self._producer.transaction():
            point("checkpoints.begun")
            await self._producer.send_and_wait(self._topic, line(checkpoint), partition=0)
            point("checkpoints.sent")
        point("checkpoints.committed")
        self._due = time.monotonic() + self._settings.checkpoint_seconds
        await asyncio.to_thread(_note, connection, signer, checkpoint)
        await self._copy(checkpoint)
        point("checkpoints.noted")
        return checkpoint

    def _signer(self, connection: psycopg.Connection[Any], last: Checkpoint | None) -> Signer:
        """Returns what signs. Raises RuntimeError if database and topic do not belong together, and KeyFileError."""
        assert self._settings.checkpoint_key_file is not None
        key = read_private_key(self._settings.checkpoint_key_file)
        next_file = self._settings.checkpoint_next_key_file
        notes = checkpoint_notes(connection)
        if notes is None or (last is not None and last.salt != salt_hash(notes.salt)):
            raise RuntimeError(
                f"the checkpoints on {self._topic} are of another database, or the salt of this one was changed. "
                "Restore it, or use another RESOLUTION_TOPIC_PREFIX."
            )
        if notes.published > (0 if last is None else last.number):
            raise RuntimeError(
                f"checkpoint {notes.published} was published, but {self._topic} no longer has it: going on would make "
                "a second chain. Restore the topic, or see docs/auditors.md for how to begin anew on purpose."
            )
        first = shard_identity(connection).last_split.event_id + 1
        signer = Signer(key, read_public_key(next_file) if next_file else None, notes.salt, first)
        if last is not None and last.key != signer.key_id and not _announces(last, signer):
            log.warning(
                "checkpoint %d is signed by key %s and does not announce key %s, which signs from here on: auditors "
                "have to be given its public key",
                last.number,
                last.key,
                signer.key_id,
            )
        return signer

    async def _note_unknown(self, connection: psycopg.Connection[Any], signer: Signer, last: Checkpoint | None) -> None:
        """Compares and notes published checkpoints that the database does not know, because it may have been restored.

        Raises RuntimeError if the events of a checkpoint now have other numbers.
        """
        notes = await asyncio.to_thread(checkpoint_notes, connection)
        if last is None or notes is None:
            return
        if last.number <= notes.published:
            await asyncio.to_thread(note_published, connection, last.number, last.last)
            return
        await asyncio.to_thread(_uncovered, connection, last.last)
        async for value in all_values(self._settings.cluster, self._topic):
            checkpoint = parse(value)
            if checkpoint.number > notes.published:
                await asyncio.to_thread(_note, connection, signer, checkpoint)

    async def _copy(self, last: Checkpoint | None) -> None:
        """Appends the last checkpoint to the file. Only logs an error if it cannot."""
        if last is None:
            return
        try:
            await self._append(line(last))
        except (CheckpointFileError, LinesMissing, OSError) as error:
            # The file is only a copy. It catches up when it can be written again.
            log.error("checkpoint %d is not in the file: %s", last.number, error)

    async def _append(self, last: bytes) -> None:
        if self._file is None:
            return
        try:
            await asyncio.to_thread(self._file.append, last)
        except LinesMissing:
            async for value in all_values(self._settings.cluster, self._topic):
                await asyncio.to_thread(self._file.append, value)


def _sign(connection: psycopg.Connection[Any], signer: Signer, last: Checkpoint | None, up_to: int) -> Checkpoint:
    """Signs the events up to number `up_to`. Raises CheckpointLost if the database was restored meanwhile."""
    with connection.transaction():
        require_noted(connection, 0 if last is None else last.number)
        with closing(copy_events(connection, signer.covered(last) + 1, up_to)) as rows:
            return signer.sign(last, rows, datetime.now(UTC))


def _note(connection: psycopg.Connection[Any], signer: Signer, checkpoint: Checkpoint) -> None:
    """Notes in the database that the checkpoint after the last noted one was published.

    Compares its events again, because the database may have been restored since they were read. Raises RuntimeError if
    they are not those that were signed, and CheckpointLost.
    """
    with connection.transaction():
        require_noted(connection, checkpoint.number - 1)
        with closing(copy_events(connection, checkpoint.first, checkpoint.last)) as rows:
            if signer.hashes.of_rows(rows) != checkpoint.events:
                raise RuntimeError(
                    f"checkpoint {checkpoint.number} does not fit events {checkpoint.first} to {checkpoint.last}: the "
                    "database was restored and has numbered them anew, or they were changed. Nothing is signed. "
                    "docs/backup.md says how to begin another chain."
                )
        note_published(connection, checkpoint.number, checkpoint.last)


def _uncovered(connection: psycopg.Connection[Any], covered: int) -> int:
    """Returns how many events no checkpoint covers. Raises RuntimeError if the store lacks covered events."""
    newest = newest_event(connection)
    if newest < covered:
        raise RuntimeError(
            f"a checkpoint covers event {covered}, but the store ends at {newest}: events were deleted, or the "
            "database was restored to an earlier state. Then the role goes on by itself, once the commands role has "
            "judged the commands again."
        )
    return newest - covered


def _announces(last: Checkpoint, signer: Signer) -> bool:
    return last.next_key is not None and last.next_key == signer.public_key
