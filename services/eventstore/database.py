"""Connections to PostgreSQL, locks, and helpers for queries. The service makes every connection here.

The URL says where the database is. This module sets what the URL leaves out: how soon a vanished server is noticed, and
the settings that our SQL depends on. An ordinary database needs no settings.

Behind a pooler (PgBouncer) the next client gets the session's settings, prepared statements and notifications. So
nothing is set, prepared or listened to there.
"""

import re
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from typing import Any, LiteralString, NamedTuple, Self, TypeVar, cast

import psycopg
from psycopg import errors
from psycopg.abc import Params, PQGen
from psycopg.conninfo import conninfo_to_dict
from psycopg.rows import args_row, tuple_row
from psycopg.sql import SQL, Composed, Identifier
from psycopg_pool import ConnectionPool

ANSWER_WITHIN_SECONDS = 20.0
"""The bound of sessions whose statements are all short. Whatever takes longer hangs, or waits for a lock."""

_CANCEL_WITHIN_SECONDS = 2.0
_CONNECTED_WITHIN_SECONDS = 10.0
_CONNECT_SECONDS, _NEXT_HOST_SECONDS = 5, 3
"""How long an attempt to connect lasts: with a URL of one host, and of several, where the next one is tried then."""
_VANISHED = {
    "tcp_user_timeout": 5000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""A server whose packets stop is given up after 5 to 12 seconds. Each one that the URL sets stays as it is there."""
_UTF8 = {"client_encoding": "utf8"}
_IDLE_IN_TRANSACTION = "5s"
_WAIT_INTERVAL_SECONDS = 0.1  # psycopg's own: how soon it notices Ctrl-C

_REFUSALS = re.compile(
    r'database "[^\n]*" does not exist|role "[^\n]*" does not exist|no such (?:database|user): [^\n]*'
    r"|[^\n:]* authentication failed[^\n]*|no password supplied|permission denied for database[^\n]*"
    r'|role "[^\n]*" is not permitted to log in|no pg_hba\.conf entry [^\n]*|certificate verify failed'
    r"|server certificate for [^\n]*does not match[^\n]*|server does not support SSL[^\n]*"
)
"""What PostgreSQL, PgBouncer and libpq say. Of a failed connection psycopg knows the text only, and no code."""

_T = TypeVar("_T")
_Row = TypeVar("_Row")
Sql = LiteralString | bytes | SQL | Composed


class UnfitDatabase(psycopg.NotSupportedError):
    """A database that the service cannot work with as it is set up: a sentence that says what to do."""


class _Found(NamedTuple):
    """What a new connection finds."""

    pid: int
    """The process that answers: another one than the server named when connecting if there is a pooler between."""
    home: str
    """The schema of the service's tables. `public` before there are any."""
    first: str | None
    """The schema that unqualified names mean first, and in which tables are made."""
    date_style: str
    strings: str
    isolation: str
    idle: str


_LOOK: LiteralString = """
SELECT pg_backend_pid(),
    coalesce((SELECT nspname::text FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE pg_class.oid = to_regclass('schema_migrations')), 'public'),
    current_schema()::text, current_setting('DateStyle'), current_setting('standard_conforming_strings'),
    current_setting('default_transaction_isolation'), current_setting('idle_session_timeout', true)
"""


class Connection(psycopg.Connection[_Row]):
    """A connection for threads. Made by `connect`, or by a pool that has it as its class."""

    pooled = False
    """Whether a pooler is between this and the server."""
    home = "public"
    """The schema of the service's tables."""
    answer_within: float | None = None
    """After so many seconds without an answer the connection is closed. None waits as long as the server lives."""

    @classmethod
    def connect(  # type: ignore[override]  # psycopg's parameters, as keywords
        cls, conninfo: str = "", *, answer_within: float | None = None, autocommit: bool = False, **options: Any
    ) -> Self:
        """Raises UnfitDatabase and psycopg.Error."""
        found = super().connect(conninfo, autocommit=True, **_parameters(conninfo, options))
        _note_host(conninfo, found.info)
        try:
            found.answer_within = ANSWER_WITHIN_SECONDS
            cursor = found.cursor(row_factory=args_row(_Found))
            cursor.execute(_LOOK)
            settings = _fit(found, cast("_Found", cursor.fetchone()), short=answer_within is not None)
            if settings:
                cursor.execute(_SET, (list(settings), list(settings.values())))
            found.autocommit = autocommit
            found.answer_within = answer_within
        except BaseException:
            found.close()
            raise
        return found

    def wait(self, gen: PQGen[_T], interval: float = _WAIT_INTERVAL_SECONDS, timeout: float | None = None) -> _T:
        """psycopg's; raises OperationalError where the server does not answer in time."""
        if timeout is not None or self.answer_within is None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.answer_within)
        except errors._WaitTimeout:
            with suppress(psycopg.Error):
                self.cancel_safe(timeout=_CANCEL_WITHIN_SECONDS)
            self.close()
            raise psycopg.OperationalError(_silent(self.answer_within)) from None


class AsyncConnection(psycopg.AsyncConnection[_Row]):
    """The same for coroutines. Made by `connect_async`."""

    pooled = False
    home = "public"
    answer_within: float | None = None

    @classmethod
    async def connect(  # type: ignore[override]
        cls, conninfo: str = "", *, answer_within: float | None = None, autocommit: bool = False, **options: Any
    ) -> Self:
        """Raises UnfitDatabase and psycopg.Error."""
        found = await super().connect(conninfo, autocommit=True, **_parameters(conninfo, options))
        _note_host(conninfo, found.info)
        try:
            found.answer_within = ANSWER_WITHIN_SECONDS
            cursor = found.cursor(row_factory=args_row(_Found))
            await cursor.execute(_LOOK)
            settings = _fit(found, cast("_Found", await cursor.fetchone()), short=answer_within is not None)
            if settings:
                await cursor.execute(_SET, (list(settings), list(settings.values())))
            await found.set_autocommit(autocommit)
            found.answer_within = answer_within
        except BaseException:
            await found.close()
            raise
        return found

    async def wait(self, gen: PQGen[_T], interval: float = _WAIT_INTERVAL_SECONDS, timeout: float | None = None) -> _T:
        """psycopg's; raises OperationalError where the server does not answer in time."""
        if timeout is not None or self.answer_within is None:
            return await super().wait(gen, interval, timeout)
        try:
            return await super().wait(gen, interval, self.answer_within)
        except errors._WaitTimeout:
            with suppress(psycopg.Error):
                await self.cancel_safe(timeout=_CANCEL_WITHIN_SECONDS)
            await self.close()
            raise psycopg.OperationalError(_silent(self.answer_within)) from None


def connect(url: str, *, answer_within: float | None = None, **options: Any) -> Connection[Any]:
    """A connection for one thread. `options` are psycopg's. Raises UnfitDatabase and psycopg.Error.

    `answer_within`: for a session whose statements are all short, the seconds within which the server has to answer;
    after that the connection is closed, and psycopg.OperationalError is raised. The server ends such a session too
    where its process hangs in the middle of a transaction, and others wait for what it holds.
    """
    return Connection.connect(url, answer_within=answer_within, **options)


@contextmanager
def connect_read_only(url: str) -> Iterator[Connection[Any]]:
    """A connection whose queries all see one moment of the database, and cannot write. Raises psycopg.Error."""
    with connect(url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield connection
        connection.rollback()


async def connect_async(url: str, *, answer_within: float | None = None, **options: Any) -> AsyncConnection[Any]:
    """The same for coroutines."""
    return await AsyncConnection.connect(url, answer_within=answer_within, **options)


class Pool(ConnectionPool[Connection[Any]]):
    """Connections for many threads."""

    def putconn(self, conn: Connection[Any]) -> None:
        """Takes one back. Where it was lost, the others are lost too, and each would be found out by itself."""
        lost = conn.closed
        super().putconn(conn)
        if lost:
            self.drain()


def pool(url: str, *, min_size: int, max_size: int, answer_within: float | None = None, **options: Any) -> Pool:
    """A pool that is not opened yet. See `connect`."""
    return Pool(
        url,
        connection_class=Connection[Any],
        kwargs={"answer_within": answer_within, **options},
        min_size=min_size,
        max_size=max_size,
        open=False,
        timeout=_CONNECTED_WITHIN_SECONDS,
        # An attempt doubles its pauses until it is given up; whoever asks next makes a new one.
        reconnect_timeout=_CONNECTED_WITHIN_SECONDS,
    )


def refusal_of_server(error: Exception) -> str | None:
    """Why a connection was refused, if it will be refused again until somebody changes something."""
    if not isinstance(error, psycopg.OperationalError) or not (found := _REFUSALS.search(str(error))):
        return None
    return found[0].removeprefix("FATAL:").strip()


def fetch_row(connection: psycopg.Connection[Any], query: Sql, parameters: Params | None = None) -> tuple[Any, ...]:
    """Returns the row of a query that always has one. Raises psycopg.Error."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(query, parameters).fetchone()
    assert row is not None
    return row


async def fetch_row_async(
    connection: psycopg.AsyncConnection[Any], query: Sql, parameters: Params | None = None
) -> tuple[Any, ...]:
    """`fetch_row` for coroutines."""
    async with connection.cursor(row_factory=tuple_row) as cursor:
        row = await (await cursor.execute(query, parameters)).fetchone()
    assert row is not None
    return row


def fetch_value(connection: psycopg.Connection[Any], query: Sql, parameters: Params | None = None) -> Any:
    """Returns the first column of the first row, or None if there is no row. Raises psycopg.Error."""
    with connection.cursor(row_factory=tuple_row) as cursor:
        row = cursor.execute(query, parameters).fetchone()
    return None if row is None else row[0]


CopiedRow = bytes | bytearray | memoryview
"""A row that PostgreSQL copied out in binary: the number of columns (2 bytes), then for each its length (4 bytes) and
its value. Integers are big-endian. The format has one form, and is the same in all versions of PostgreSQL."""

_COPY_HEADER_BYTES, _COPY_TRAILER = 19, b"\xff\xff"


def copied_rows(connection: psycopg.Connection[Any], query: Sql) -> Generator[CopiedRow]:
    """Streams the rows of a `COPY ... TO STDOUT (FORMAT BINARY)` from the server. Raises psycopg.Error.

    The connection is busy until the last one was taken, or the generator is closed.
    """
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        start = _COPY_HEADER_BYTES
        for chunk in copy:
            row: CopiedRow = chunk[start:]
            start = 0
            if row and row != _COPY_TRAILER:  # the header may come by itself
                yield row


_LOCK_APPENDS: LiteralString = "SELECT pg_advisory_xact_lock(hashtextextended('order_events', 0))"
"""The lock that the functions `begin_append` and `append_month` of the migrations take."""


def lock_appends(connection: psycopg.Connection[Any]) -> None:
    """Keeps everybody else from appending until the transaction ends. Raises psycopg.Error."""
    connection.execute(_LOCK_APPENDS)


async def lock_appends_async(connection: psycopg.AsyncConnection[Any]) -> None:
    """`lock_appends` for coroutines."""
    await connection.execute(_LOCK_APPENDS)


def set_search_path(cursor: psycopg.Cursor[Any], *schemas: str) -> None:
    """Makes unqualified names mean these schemas' tables first, then the service's own, until the transaction ends."""
    home = cast("Connection[Any]", cursor.connection).home
    names = SQL(", ").join(map(Identifier, [*schemas, home]))
    cursor.execute(SQL("SET LOCAL search_path TO {}").format(names))


def hold_lock(cursor: psycopg.Cursor[Any], lock: LiteralString, parameters: tuple[Any, ...] = ()) -> bool:
    """Takes an advisory lock until the transaction ends, however long that is. Returns whether the lock was free.

    `lock` is a query that locks for the transaction: behind a pooler no other kind stays with its session. A
    transaction that does nothing else has no snapshot and no number, so vacuum does not wait for it. Raises
    psycopg.Error.
    """
    cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    with psycopg.ClientCursor(cursor.connection, row_factory=tuple_row) as rows:
        row = rows.execute(lock, parameters).fetchone()
    return row is not None and row[0] is not False


@contextmanager
def lock_held(url: str, lock: LiteralString, parameters: tuple[Any, ...] = ()) -> Iterator[bool]:
    """Holds a lock as `hold_lock` does, on a connection of its own, until the block ends."""
    with connect(url) as connection:
        yield hold_lock(connection.cursor(), lock, parameters)


_SET: LiteralString = "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS s (name, value)"


def _parameters(url: str, options: dict[str, Any]) -> dict[str, Any]:
    given = conninfo_to_dict(url)
    defaults = _VANISHED | {"connect_timeout": _NEXT_HOST_SECONDS if "," in url else _CONNECT_SECONDS}
    unset = {name: value for name, value in defaults.items() if name not in given}
    return unset | _hosts(url, given) | options | _UTF8


_HOSTS = ("host", "hostaddr", "port")
_answered: dict[str, tuple[str, str]] = {}
"""By URL with several hosts, the host and the port that answered last: one that vanished costs seconds each time."""


def _hosts(url: str, given: dict[str, Any]) -> dict[str, str]:
    """The hosts of a URL that has several, the one that answered last first. The others follow in their order."""
    lists = {name: str(given[name]).split(",") for name in _HOSTS if given.get(name)}
    count = len(lists.get("host", []))
    if url not in _answered or any(len(one) != count for one in lists.values()):
        return {}
    pairs = list(zip(lists["host"], lists.get("port", [""] * count), strict=True))
    first = pairs.index(_answered[url]) if _answered[url] in pairs else 0
    return {name: ",".join(one[first:] + one[:first]) for name, one in lists.items()}


def _note_host(url: str, info: psycopg.ConnectionInfo) -> None:
    if "," in url:
        _answered[url] = info.host, str(info.port) if "port" in conninfo_to_dict(url) else ""


def _fit(connection: Connection[Any] | AsyncConnection[Any], found: _Found, *, short: bool) -> dict[str, str]:
    """Notes what was found; returns the settings that have to be made. Raises UnfitDatabase."""
    connection.pooled = found.pid != connection.info.backend_pid
    connection.home = found.home
    settings = _needed(found)
    if "search_path" in connection.info.options:  # of the URL
        connection.home = found.first or found.home
        settings.pop("search_path", None)
    if not connection.pooled:
        if found.idle not in (None, "0"):
            settings["idle_session_timeout"] = "0"
        return settings | ({"idle_in_transaction_session_timeout": _IDLE_IN_TRANSACTION} if short else {})
    connection.prepare_threshold = None
    if settings:
        raise UnfitDatabase(_refusal(connection.info, settings))
    return {}


def _needed(found: _Found) -> dict[str, str]:
    """What our SQL depends on and this database has otherwise."""
    settings: dict[str, str] = {}
    if not found.date_style.startswith("ISO"):
        settings["DateStyle"] = "ISO"
    if found.strings != "on":
        settings["standard_conforming_strings"] = "on"
    if found.isolation != "read committed":
        settings["default_transaction_isolation"] = "read committed"
    if found.first != found.home:
        settings["search_path"] = Identifier(found.home).as_string()
    return settings


def _refusal(info: psycopg.ConnectionInfo, settings: dict[str, str]) -> str:
    whose = SQL("ALTER ROLE {} IN DATABASE {} SET").format(Identifier(info.user), Identifier(info.dbname)).as_string()
    statements = " ".join(f"{whose} {name} = {value};" for name, value in settings.items())
    return (
        f"The database {info.dbname} is behind a pooler, where a session cannot have settings of its own, and those of "
        f"the database are not the ones that the service needs. Run this, and then reconnect the pooler: {statements}"
    )


def _silent(seconds: float) -> str:
    return f"the database did not answer within {seconds:.0f} s"
