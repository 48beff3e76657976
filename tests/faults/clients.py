"""Makes the calls of the Kafka and the PostgreSQL client raise what they can raise, at random moments.

A test starts roles with `run_failing_role`, which wraps the methods of the clients in their processes. Each call raises
before it has taken effect, or after, which its caller cannot tell. What the server would raise, PostgreSQL itself
is asked to raise, and a connection that is said to be lost is lost: so the client is afterwards as it would be.

RESOLUTION_CLIENT_FAULTS is `SEED FOLDER`. What was raised is noted in FOLDER/raised, a line each. Nothing is raised any
more once FOLDER/over exists.
"""

import asyncio
import os
import random
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psycopg
from aiokafka import AIOKafkaConsumer, AIOKafkaProducer, errors
from aiokafka.client import AIOKafkaClient
from psycopg import sql

from services.runtime.role_process import run_role

VARIABLE = "RESOLUTION_CLIENT_FAULTS"

# --- what can be raised ---

_CONNECTION = [
    errors.KafkaConnectionError, errors.NodeNotReadyError, errors.RequestTimedOutError, errors.CorrelationIdError,
]  # fmt: skip
"""Errors of any request: no connection, no answer in time, or the answer to another request."""

_METADATA = [
    errors.KafkaTimeoutError, errors.UnknownTopicOrPartitionError, errors.LeaderNotAvailableError,
    errors.NotLeaderForPartitionError, errors.TopicAuthorizationFailedError, errors.StaleMetadata,
]  # fmt: skip
"""Errors of requests for metadata of partitions."""

_GROUP = [
    errors.GroupAuthorizationFailedError, errors.GroupCoordinatorNotAvailableError, errors.NotCoordinatorForGroupError,
    errors.UnknownMemberIdError, errors.IllegalGenerationError, errors.RebalanceInProgressError,
    errors.InconsistentGroupProtocolError,
]  # fmt: skip

_TRANSACTION = [
    errors.ProducerFenced, errors.InvalidTxnState, errors.InvalidProducerIdMapping, errors.OutOfOrderSequenceNumber,
    errors.ConcurrentTransactions, errors.CoordinatorLoadInProgressError, errors.TransactionalIdAuthorizationFailed,
]  # fmt: skip

_APPEND = [
    errors.NotEnoughReplicasError, errors.NotEnoughReplicasAfterAppendError, errors.MessageSizeTooLargeError,
    errors.ClusterAuthorizationFailedError, errors.DuplicateSequenceNumber, errors.UnknownError,
]  # fmt: skip
"""Errors of requests that write records."""

KAFKA: dict[tuple[type, str], list[type[Exception]]] = {
    (AIOKafkaClient, "send"): _CONNECTION,
    (AIOKafkaConsumer, "start"): [errors.KafkaConnectionError, errors.UnrecognizedBrokerVersion, OSError],
    (AIOKafkaConsumer, "getmany"): [
        *_GROUP, errors.TopicAuthorizationFailedError, errors.CorruptRecordException, errors.OffsetOutOfRangeError,
        errors.KafkaError, errors.UnsupportedCodecError, UnicodeDecodeError, MemoryError,
    ],
    (AIOKafkaConsumer, "position"): [errors.IllegalStateError, *_GROUP, *_METADATA],
    (AIOKafkaConsumer, "beginning_offsets"): [*_METADATA, *_CONNECTION, asyncio.TimeoutError],
    (AIOKafkaConsumer, "end_offsets"): [*_METADATA, *_CONNECTION, asyncio.TimeoutError],
    (AIOKafkaConsumer, "seek"): [errors.IllegalStateError],
    (AIOKafkaConsumer, "commit"): [errors.CommitFailedError, errors.IllegalStateError, *_GROUP, *_CONNECTION],
    (AIOKafkaConsumer, "stop"): _CONNECTION,
    (AIOKafkaProducer, "start"): [errors.KafkaConnectionError, *_TRANSACTION, OSError],
    (AIOKafkaProducer, "partitions_for"): _METADATA,
    (AIOKafkaProducer, "send"): [*_METADATA, *_APPEND, errors.ProducerClosed, asyncio.TimeoutError],
    (AIOKafkaProducer, "send_batch"): [*_METADATA, *_APPEND, *_TRANSACTION, errors.ProducerClosed],
    (AIOKafkaProducer, "begin_transaction"): [errors.IllegalOperation, errors.ProducerFenced],
    (AIOKafkaProducer, "commit_transaction"): [*_TRANSACTION, *_CONNECTION, errors.KafkaError, asyncio.TimeoutError],
    (AIOKafkaProducer, "abort_transaction"): [*_TRANSACTION, *_CONNECTION, errors.KafkaError],
    (AIOKafkaProducer, "stop"): _CONNECTION,
}  # fmt: skip
"""The errors that each method can raise, from aiokafka's code and from the answers of brokers."""

_STATES = [
    "40001", "40P01", "57014", "53100", "53200", "55P03", "58030", "XX000", "XX001", "25006", "42501", "08006",
]  # fmt: skip
"""PostgreSQL's word for: serialization failure, deadlock, canceled, disk full, out of memory, lock not available, I/O
error, internal error, data corrupted, read-only (a standby), no right, connection failure."""

_LOST = "server closed the connection unexpectedly"


def _kafka_error(kind: type[Exception]) -> Exception:
    if kind is UnicodeDecodeError:
        return UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte")
    return kind("raised by a test")


# --- when ---

_BEGIN_SECONDS = (1, 2, 4, 6)
"""How long a process is left alone. A short time makes it fail at start, a long one during its work."""

_BEGIN_CALLS = (1, 5, 5, 5)
"""A process is also left alone until it has made this many different calls, so that most begin their work."""

_PAUSE_SECONDS = 1
"""The longest time until the next call fails in the same process."""

_PATIENCE_SECONDS = 0.3
"""How long to wait for a call that was chosen to fail. A call that does not come by then comes only at start."""


class Faults:
    """Decides which calls fail, and records them. Every call that a role makes fails at some time."""

    def __init__(self, role: str, plan: str) -> None:
        by, _, folder = plan.partition(" ")
        self._role = role
        self._dice = random.Random(f"{by} {self._role} {os.getpid()}")
        self._folder = Path(folder)
        self._seen: dict[str, None] = {}
        self._choose_at = time.monotonic() + self._dice.choice(_BEGIN_SECONDS)
        self._begin_calls = self._dice.choice(_BEGIN_CALLS)
        self._chosen, self._left = "", 0

    def due(self, call: str) -> bool:
        """Whether this call has to fail."""
        self._seen[call] = None
        if (now := time.monotonic()) >= self._choose_at and len(self._seen) >= self._begin_calls:
            self._chosen, self._left = self._rarest(), self._dice.randint(1, 4)
            self._choose_at = now + _PATIENCE_SECONDS
        if call != self._chosen:
            return False
        self._left -= 1
        if self._left > 0:
            return False
        self._chosen, self._choose_at = "", now + self._dice.uniform(0, _PAUSE_SECONDS)
        return not (self._folder / "over").exists()

    def _rarest(self) -> str:
        """Returns the call, among those seen, that has failed least often in the role's processes."""
        file = self._folder / "raised"
        lines = [line.split() for line in file.read_text().splitlines()] if file.exists() else []
        raised = Counter(line[1] for line in lines if line[0] == self._role)
        return min(self._seen.copy(), key=lambda call: (raised[call], self._dice.random()))

    def choose(self, among: Sequence[Any]) -> Any:
        return self._dice.choice(among)

    def note(self, call: str, when: str, error: object) -> None:
        with (self._folder / "raised").open("a") as file:
            file.write(f"{self._role} {call} {when} {error}\n")


# --- Kafka ---


def _wrap_kafka(faults: Faults, owner: type, name: str, kinds: Sequence[type[Exception]]) -> None:
    method, call = getattr(owner, name), f"{owner.__name__}.{name}"

    def fail() -> tuple[str, Exception] | None:
        if not faults.due(call):
            return None
        when, error = faults.choose(["before", "after"]), _kafka_error(faults.choose(kinds))
        faults.note(call, when, type(error).__name__)
        return when, error

    @wraps(method)
    async def wrapped(self: Any, *args: Any, **options: Any) -> Any:
        if (failure := fail()) is None:
            return await method(self, *args, **options)
        if failure[0] == "after":
            await method(self, *args, **options)
        raise failure[1]

    @wraps(method)
    def plain(self: Any, *args: Any, **options: Any) -> Any:
        if (failure := fail()) is None:
            return method(self, *args, **options)
        if failure[0] == "after":
            method(self, *args, **options)
        raise failure[1]

    setattr(owner, name, wrapped if asyncio.iscoroutinefunction(method) else plain)


def _wrap_delivery(faults: Faults) -> None:
    """Makes the future of a sent record fail, whether or not the broker has the record."""
    method = AIOKafkaProducer.send_batch

    @wraps(method)
    async def wrapped(self: Any, *args: Any, **options: Any) -> Any:
        delivered = await method(self, *args, **options)
        if not faults.due("delivery"):
            return delivered
        error = _kafka_error(faults.choose([*_APPEND, *_TRANSACTION, *_CONNECTION]))
        faults.note("delivery", "after", type(error).__name__)

        async def fail() -> None:
            with suppress(errors.KafkaError):
                await delivered
            raise error

        return asyncio.ensure_future(fail())

    _replace(AIOKafkaProducer, send_batch=wrapped)


# --- PostgreSQL ---


def _raising(state: str) -> sql.SQL:
    return sql.SQL(f"DO $$ BEGIN RAISE EXCEPTION 'raised by a test' USING ERRCODE = '{state}'; END $$")


def _end_own_session() -> sql.SQL:
    return sql.SQL("SELECT pg_terminate_backend(pg_backend_pid())")


def _cut(connection: Any) -> None:
    """Closes the connection so that libpq notices at the next call."""
    with suppress(OSError, psycopg.Error), socket.socket(fileno=os.dup(connection.pgconn.socket)) as wire:
        wire.shutdown(socket.SHUT_RDWR)


def _lose(connection: Any) -> psycopg.OperationalError:
    """Closes the connection so that libpq has noticed already."""
    connection.pgconn.finish()
    return psycopg.OperationalError(_LOST)


_ways = [*_STATES, "57P01", "cut before", "cut after"]


class _Failing:
    """How a call on a connection fails: with an error from the server, or with a lost connection."""

    def __init__(self, faults: Faults, call: str) -> None:
        self.way: str = faults.choose(_ways)
        faults.note(call, "after" if self.way == "cut after" else "before", self.way)

    @property
    def instead(self) -> sql.SQL | None:
        """Returns the SQL to run instead of the call, if the server has to raise the error."""
        if self.way == "57P01":
            return _end_own_session()
        return _raising(self.way) if self.way in _STATES else None


def _refused(faults: Faults, call: str) -> str:
    faults.note(call, when := faults.choose(["before", "after"]), "OperationalError")
    return str(when)


class _Sync:
    """Wraps the calls of psycopg's synchronous classes."""

    execute = staticmethod(psycopg.Cursor.execute)
    executemany = staticmethod(psycopg.Cursor.executemany)
    copy = staticmethod(psycopg.Cursor.copy)
    commit = staticmethod(psycopg.Connection.commit)
    end = staticmethod(psycopg.Transaction.__exit__)
    connect = staticmethod(psycopg.Connection.connect.__func__)  # type: ignore[attr-defined]

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    def around(self, call: str, cursor: Any, do: Callable[[], Any]) -> Any:
        if cursor.connection.pgconn.pipeline_status or not self._faults.due(call):
            return do()
        failing = _Failing(self._faults, call)
        if failing.way == "cut before":
            _cut(cursor.connection)
        if (instead := failing.instead) is not None:
            self.execute(cursor, instead)
        found = do()
        if failing.way == "cut after":
            raise _lose(cursor.connection)
        return found

    def install(self) -> None:
        def execute(cursor: Any, *args: Any, **options: Any) -> Any:
            return self.around("Cursor.execute", cursor, lambda: self.execute(cursor, *args, **options))

        def executemany(cursor: Any, *args: Any, **options: Any) -> Any:
            return self.around("Cursor.executemany", cursor, lambda: self.executemany(cursor, *args, **options))

        @contextmanager
        def copy(cursor: Any, *args: Any, **options: Any) -> Iterator[Any]:
            self.around("Cursor.copy", cursor, lambda: None)
            with self.copy(cursor, *args, **options) as copying:
                yield copying
            self.around("Cursor.copied", cursor, lambda: None)

        def commit(connection: Any) -> None:
            self.around("Connection.commit", connection.cursor(), lambda: self.commit(connection))

        def end(transaction: Any, kind: Any, *about: Any) -> Any:
            if kind is not None:
                return self.end(transaction, kind, *about)
            try:
                cursor = transaction.connection.cursor()
                return self.around("Transaction.end", cursor, lambda: self.end(transaction, None, None, None))
            except psycopg.Error as error:
                self.end(transaction, type(error), error, None)  # what PostgreSQL does where a commit fails
                raise

        _replace(psycopg.Transaction, __exit__=end)
        _replace(psycopg.Cursor, execute=execute, executemany=executemany, copy=copy)
        _replace(
            psycopg.Connection,
            commit=commit,
            connect=classmethod(lambda cls, *args, **options: self._connect(cls, *args, **options)),
        )
        psycopg.connect = psycopg.Connection.connect

    def _connect(self, cls: Any, *args: Any, **options: Any) -> Any:
        if not self._faults.due("Connection.connect"):
            return self.connect(cls, *args, **options)
        if _refused(self._faults, "Connection.connect") == "after":
            self.connect(cls, *args, **options).close()
        raise psycopg.OperationalError("connection refused")


class _Async:
    """Wraps the calls of psycopg's asynchronous classes."""

    execute = staticmethod(psycopg.AsyncCursor.execute)
    executemany = staticmethod(psycopg.AsyncCursor.executemany)
    commit = staticmethod(psycopg.AsyncConnection.commit)
    end = staticmethod(psycopg.AsyncTransaction.__aexit__)
    notifies = staticmethod(psycopg.AsyncConnection.notifies)
    connect = staticmethod(psycopg.AsyncConnection.connect.__func__)  # type: ignore[attr-defined]

    def __init__(self, faults: Faults) -> None:
        self._faults = faults

    async def around(self, call: str, cursor: Any, do: Callable[[], Any]) -> Any:
        if cursor.connection.pgconn.pipeline_status or not self._faults.due(call):
            return await do()
        failing = _Failing(self._faults, call)
        if failing.way == "cut before":
            _cut(cursor.connection)
        if (instead := failing.instead) is not None:
            await self.execute(cursor, instead)
        found = await do()
        if failing.way == "cut after":
            raise _lose(cursor.connection)
        return found

    def install(self) -> None:
        async def execute(cursor: Any, *args: Any, **options: Any) -> Any:
            return await self.around("AsyncCursor.execute", cursor, lambda: self.execute(cursor, *args, **options))

        async def executemany(cursor: Any, *args: Any, **options: Any) -> Any:
            do = self.executemany
            return await self.around("AsyncCursor.executemany", cursor, lambda: do(cursor, *args, **options))

        async def commit(connection: Any) -> None:
            await self.around("AsyncConnection.commit", connection.cursor(), lambda: self.commit(connection))

        async def notifies(connection: Any, *args: Any, **options: Any) -> AsyncIterator[Any]:
            async for notify in self.notifies(connection, *args, **options):
                if self._faults.due("AsyncConnection.notifies"):
                    self._faults.note("AsyncConnection.notifies", "before", "cut before")
                    _cut(connection)
                yield notify

        async def end(transaction: Any, kind: Any, *about: Any) -> Any:
            if kind is not None:
                return await self.end(transaction, kind, *about)
            try:
                cursor, do = transaction.connection.cursor(), self.end
                return await self.around("AsyncTransaction.end", cursor, lambda: do(transaction, None, None, None))
            except psycopg.Error as error:
                await self.end(transaction, type(error), error, None)
                raise

        _replace(psycopg.AsyncTransaction, __aexit__=end)
        _replace(psycopg.AsyncCursor, execute=execute, executemany=executemany)
        _replace(
            psycopg.AsyncConnection,
            commit=commit,
            notifies=notifies,
            connect=classmethod(lambda cls, *args, **options: self._connect(cls, *args, **options)),
        )

    async def _connect(self, cls: Any, *args: Any, **options: Any) -> Any:
        if not self._faults.due("AsyncConnection.connect"):
            return await self.connect(cls, *args, **options)
        if _refused(self._faults, "AsyncConnection.connect") == "after":
            await (await self.connect(cls, *args, **options)).close()
        raise psycopg.OperationalError("connection refused")


def _replace(owner: type, **methods: Any) -> None:
    for name, method in methods.items():
        setattr(owner, name, method)


def run_failing_role(role: str, parent: Connection) -> None:
    """A role's process whose clients fail."""
    faults = Faults(role, os.environ[VARIABLE])
    for (owner, name), kinds in KAFKA.items():
        _wrap_kafka(faults, owner, name, kinds)
    _wrap_delivery(faults)
    _Sync(faults).install()
    _Async(faults).install()
    run_role(role, parent)
