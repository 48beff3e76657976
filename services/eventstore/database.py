"""Connections to PostgreSQL, locks, and helpers for queries. The service makes every connection here.

The URL says where the database is. This module sets what the URL leaves out: timeouts that notice a vanished server,
and the session settings that our SQL depends on. A database with PostgreSQL's defaults needs none of the latter.

A pooler (PgBouncer) passes a session with its settings, prepared statements and notifications on to the next client.
So behind a pooler this module sets, prepares and listens to nothing.
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
"""How long a statement may take in a session whose statements are all short. Longer means that it hangs."""

_CANCEL_WITHIN_SECONDS = 2.0
_CONNECTED_WITHIN_SECONDS = 10.0
_CONNECT_SECONDS, _NEXT_HOST_SECONDS = 5, 3
"""How long to try to connect: to the only host of a URL, and to each host of a URL with several."""
_VANISHED_SERVER = {
    "tcp_user_timeout": 5000,
    "keepalives_idle": 5,
    "keepalives_interval": 2,
    "keepalives_count": 3,
}
"""Gives up a server after 5 to 12 seconds without packets. What the URL sets takes precedence."""
_UTF8 = {"client_encoding": "utf8"}
_MAX_IDLE_IN_TRANSACTION = "5s"
_WAIT_INTERVAL_SECONDS = 0.1  # psycopg's own: how soon it notices Ctrl-C

_REFUSALS = re.compile(
    r'database "[^\n]*" does not exist|role "[^\n]*" does not exist|no such (?:database|user): [^\n]*'
    r"|[^\n:]* authentication failed[^\n]*|no password supplied|permission denied for database[^\n]*"
    r'|role "[^\n]*" is not permitted to log in|no pg_hba\.conf entry [^\n]*|pg_hba\.conf rejects [^\n]*'
    r'|database "[^\n]*" is not currently accepting connections|invalid port number: [^\n]*|certificate verify failed'
    r"|server certificate for [^\n]*does not match[^\n]*|server does not support SSL[^\n]*"
)
"""How PostgreSQL, PgBouncer and libpq refuse a connection for good, in English.

psycopg gives only the text: it has no SQLSTATE of a refused connection, and does not wrap libpq's PQsetErrorVerbosity,
which would put it into the text. Texts in other languages are unknown: another attempt may succeed."""

_ANSWERED = re.compile(r"(?:^|: )\w+:  ([^\n]+)", re.MULTILINE)
"""What a server answered, in any language. libpq writes two spaces after the severity that a server names (`FATAL:  `),
and never in a text of its own."""

_T = TypeVar("_T")
_Row = TypeVar("_Row")
Sql = LiteralString | bytes | SQL | Composed


class UnfitDatabase(psycopg.NotSupportedError):
    """The service cannot work with the database as it is set up. The text says what to do."""


class _SessionState(NamedTuple):
    """What a new connection reads from its session."""

    pid: int
    """The server process that answers. Behind a pooler it is not the one that was named when connecting."""
    home: str
    """The schema of the service's tables, or `public` if there are none yet."""
    first: str | None
    """The schema in which unqualified names are looked up first, and in which tables are created."""
    date_style: str
    """The setting `DateStyle`."""
    strings: str
    """The setting `standard_conforming_strings`."""
    isolation: str
    """The setting `default_transaction_isolation`."""
    idle: str
    """The setting `idle_session_timeout`."""


_READ_SESSION_STATE: LiteralString = """
SELECT pg_backend_pid(),
    coalesce((SELECT nspname::text FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
        WHERE pg_class.oid = to_regclass('schema_migrations')), 'public'),
    current_schema()::text, current_setting('DateStyle'), current_setting('standard_conforming_strings'),
    current_setting('default_transaction_isolation'), current_setting('idle_session_timeout', true)
"""


class Connection(psycopg.Connection[_Row]):
    """A connection for threads. Made by `connect` or by `pool`."""

    pooled = False
    """Whether a pooler is between this connection and the server."""
    home = "public"
    """The schema of the service's tables."""
    answer_within: float | None = None
    """The connection is closed after so many seconds without an answer. None waits as long as the server lives."""

    @classmethod
    def connect(  # type: ignore[override]  # psycopg's parameters, as keywords
        cls, conninfo: str = "", *, answer_within: float | None = None, autocommit: bool = False, **options: Any
    ) -> Self:
        """Connects and makes the session settings. Raises UnfitDatabase and psycopg.Error."""
        connection = super().connect(conninfo, autocommit=True, **_parameters(conninfo, options))
        _note_host(conninfo, connection.info)
        try:
            connection.answer_within = ANSWER_WITHIN_SECONDS
            cursor = connection.cursor(row_factory=args_row(_SessionState))
            cursor.execute(_READ_SESSION_STATE)
            state = cast("_SessionState", cursor.fetchone())
            settings = _adjust(connection, state, short=answer_within is not None)
            if settings:
                cursor.execute(_SET, (list(settings), list(settings.values())))
            connection.autocommit = autocommit
            connection.answer_within = answer_within
        except BaseException:
            connection.close()
            raise
        return connection

    def wait(self, gen: PQGen[_T], interval: float = _WAIT_INTERVAL_SECONDS, timeout: float | None = None) -> _T:
        """Overrides psycopg's method: closes the connection and raises OperationalError if no answer comes in time."""
        if timeout is not None or self.answer_within is None:
            return super().wait(gen, interval, timeout)
        try:
            return super().wait(gen, interval, self.answer_within)
        except errors._WaitTimeout:
            with suppress(psycopg.Error):
                self.cancel_safe(timeout=_CANCEL_WITHIN_SECONDS)
            self.close()
            raise psycopg.OperationalError(_no_answer(self.answer_within)) from None


class AsyncConnection(psycopg.AsyncConnection[_Row]):
    """`Connection` for coroutines. Made by `connect_async`."""

    pooled = False
    home = "public"
    answer_within: float | None = None

    @classmethod
    async def connect(  # type: ignore[override]
        cls, conninfo: str = "", *, answer_within: float | None = None, autocommit: bool = False, **options: Any
    ) -> Self:
        """Connects and makes the session settings. Raises UnfitDatabase and psycopg.Error."""
        connection = await super().connect(conninfo, autocommit=True, **_parameters(conninfo, options))
        _note_host(conninfo, connection.info)
        try:
            connection.answer_within = ANSWER_WITHIN_SECONDS
            cursor = connection.cursor(row_factory=args_row(_SessionState))
            await cursor.execute(_READ_SESSION_STATE)
            state = cast("_SessionState", await cursor.fetchone())
            settings = _adjust(connection, state, short=answer_within is not None)
            if settings:
                await cursor.execute(_SET, (list(settings), list(settings.values())))
            await connection.set_autocommit(autocommit)
            connection.answer_within = answer_within
        except BaseException:
            await connection.close()
            raise
        return connection

    async def wait(self, gen: PQGen[_T], interval: float = _WAIT_INTERVAL_SECONDS, timeout: float | None = None) -> _T:
        """Overrides psycopg's method: closes the connection and raises OperationalError if no answer comes in time."""
        if timeout is not None or self.answer_within is None:
            return await super().wait(gen, interval, timeout)
        try:
            return await super().wait(gen, interval, self.answer_within)
        except errors._WaitTimeout:
            with suppress(psycopg.Error):
                await self.cancel_safe(timeout=_CANCEL_WITHIN_SECONDS)
            await self.close()
            raise psycopg.OperationalError(_no_answer(self.answer_within)) from None


def connect(url: str, *, answer_within: float | None = None, **options: Any) -> Connection[Any]:
    """Connects. `options` are psycopg's. Raises UnfitDatabase and psycopg.Error.

    Give `answer_within` for a session whose statements are all short: if the server does not answer within so many
    seconds, the connection is closed and psycopg.OperationalError is raised. The server also ends such a session if it
    is idle in a transaction for 5 s, so that a hung process does not keep its locks.
    """
    return Connection.connect(url, answer_within=answer_within, **options)


@contextmanager
def connect_read_only(url: str) -> Iterator[Connection[Any]]:
    """Connects for a block whose queries cannot write and all see the same snapshot. Raises psycopg.Error."""
    with connect(url) as connection:
        connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
        yield connection
        connection.rollback()


async def connect_async(url: str, *, answer_within: float | None = None, **options: Any) -> AsyncConnection[Any]:
    """`connect` for coroutines."""
    return await AsyncConnection.connect(url, answer_within=answer_within, **options)


class Pool(ConnectionPool[Connection[Any]]):
    """A pool of connections for many threads."""

    def putconn(self, conn: Connection[Any]) -> None:
        """Takes a connection back. If it is closed, discards the idle ones too, which were probably lost with it."""
        lost = conn.closed
        super().putconn(conn)
        if lost:
            self.drain()


def pool(url: str, *, min_size: int, max_size: int, answer_within: float | None = None, **options: Any) -> Pool:
    """Returns a pool that is not opened yet. See `connect`."""
    return Pool(
        url,
        connection_class=Connection[Any],
        kwargs={"answer_within": answer_within, **options},
        min_size=min_size,
        max_size=max_size,
        open=False,
        timeout=_CONNECTED_WITHIN_SECONDS,
        # The pool doubles its pauses between attempts to reconnect. After this time the next caller starts over.
        reconnect_timeout=_CONNECTED_WITHIN_SECONDS,
    )


def refusal_of_server(error: Exception) -> str | None:
    """Returns a sentence that says why the server refuses a connection, or None if waiting may help."""
    if not isinstance(error, psycopg.OperationalError) or not (refusal := _REFUSALS.search(str(error))):
        return None
    why = refusal[0].removeprefix("FATAL:").strip()
    return (
        f"PostgreSQL refuses the connection: {why}. Waiting does not help: correct "
        "RESOLUTION_DATABASE_URL, or create what is missing on the server."
    )


def answer_of_server(error: Exception) -> str | None:
    """Returns what a server answered to an attempt to connect, or None if no server answered."""
    if not isinstance(error, psycopg.OperationalError) or error.sqlstate:  # with a code, it is not about connecting
        return None
    return answer[1] if (answer := _ANSWERED.search(str(error))) else None


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
"""A row from COPY in binary format: the number of columns (2 bytes), then each column's length (4 bytes) and value.
Integers are big-endian. All versions of PostgreSQL write the same bytes."""

_COPY_HEADER_BYTES, _COPY_TRAILER = 19, b"\xff\xff"


def copied_rows(connection: psycopg.Connection[Any], query: Sql) -> Generator[CopiedRow]:
    """Streams the rows of a `COPY ... TO STDOUT (FORMAT BINARY)` from the server. Raises psycopg.Error.

    The connection is busy until the generator ends or is closed.
    """
    with connection.cursor() as cursor, cursor.copy(query) as copy:
        start = _COPY_HEADER_BYTES
        for chunk in copy:
            row: CopiedRow = chunk[start:]
            start = 0
            if row and row != _COPY_TRAILER:  # the header may come without a row
                yield row


_LOCK_APPENDS: LiteralString = "SELECT pg_advisory_xact_lock(hashtextextended('order_events', 0))"
"""The lock that appenders take, in the SQL functions `begin_append` and `append_month`."""


def lock_appends(connection: psycopg.Connection[Any]) -> None:
    """Keeps all others from appending until the transaction ends. Raises psycopg.Error."""
    connection.execute(_LOCK_APPENDS)


async def lock_appends_async(connection: psycopg.AsyncConnection[Any]) -> None:
    """`lock_appends` for coroutines."""
    await connection.execute(_LOCK_APPENDS)


def set_search_path(cursor: psycopg.Cursor[Any], *schemas: str) -> None:
    """Until the transaction ends, looks unqualified names up in these schemas first, then in the service's own."""
    home = cast("Connection[Any]", cursor.connection).home
    names = SQL(", ").join(map(Identifier, [*schemas, home]))
    cursor.execute(SQL("SET LOCAL search_path TO {}").format(names))


def hold_lock(cursor: psycopg.Cursor[Any], lock: LiteralString, parameters: tuple[Any, ...] = ()) -> bool:
    """Takes an advisory lock until the transaction ends. Returns whether it got the lock. Raises psycopg.Error.

    `lock` is a query that takes a transaction-level lock, because session-level locks do not work behind a pooler. The
    transaction may stay open for long: as long as it does nothing else, it does not hold up vacuum.
    """
    cursor.execute("SET LOCAL idle_in_transaction_session_timeout = 0")
    with psycopg.ClientCursor(cursor.connection, row_factory=tuple_row) as rows:
        row = rows.execute(lock, parameters).fetchone()
    return row is not None and row[0] is not False


@contextmanager
def lock_held(url: str, lock: LiteralString, parameters: tuple[Any, ...] = ()) -> Iterator[bool]:
    """Holds a lock on a connection of its own until the block ends. Yields what `hold_lock` returns."""
    with connect(url) as connection:
        yield hold_lock(connection.cursor(), lock, parameters)


_SET: LiteralString = "SELECT set_config(name, value, false) FROM unnest(%s::text[], %s::text[]) AS s (name, value)"


def _parameters(url: str, options: dict[str, Any]) -> dict[str, Any]:
    given = conninfo_to_dict(url)
    defaults = _VANISHED_SERVER | {"connect_timeout": _NEXT_HOST_SECONDS if "," in url else _CONNECT_SECONDS}
    unset = {name: value for name, value in defaults.items() if name not in given}
    return unset | _hosts(url, given) | options | _UTF8


_HOSTS = ("host", "hostaddr", "port")
_answered: dict[str, tuple[str, str]] = {}
"""For each URL with several hosts: the host and port that answered last. Trying a vanished host first takes seconds."""


def _hosts(url: str, given: dict[str, Any]) -> dict[str, str]:
    """Returns the parameters that put the host that answered last first. Returns none if the URL has one host."""
    lists = {name: str(given[name]).split(",") for name in _HOSTS if given.get(name)}
    count = len(lists.get("host", []))
    if url not in _answered or any(len(values) != count for values in lists.values()):
        return {}
    pairs = list(zip(lists["host"], lists.get("port", [""] * count), strict=True))
    first = pairs.index(_answered[url]) if _answered[url] in pairs else 0
    return {name: ",".join(values[first:] + values[:first]) for name, values in lists.items()}


def _note_host(url: str, info: psycopg.ConnectionInfo) -> None:
    if "," in url:
        _answered[url] = info.host, str(info.port) if "port" in conninfo_to_dict(url) else ""


def _adjust(connection: Connection[Any] | AsyncConnection[Any], state: _SessionState, *, short: bool) -> dict[str, str]:
    """Sets the connection's attributes, and returns the settings to make in the session. Raises UnfitDatabase."""
    connection.pooled = state.pid != connection.info.backend_pid
    connection.home = state.home
    settings = _settings_to_make(state)
    if "search_path" in connection.info.options:  # of the URL
        connection.home = state.first or state.home
        settings.pop("search_path", None)
    if not connection.pooled:
        if state.idle not in (None, "0"):
            settings["idle_session_timeout"] = "0"
        return settings | ({"idle_in_transaction_session_timeout": _MAX_IDLE_IN_TRANSACTION} if short else {})
    connection.prepare_threshold = None
    if settings:
        raise UnfitDatabase(_unfit_behind_pooler(connection.info, settings))
    return {}


def _settings_to_make(state: _SessionState) -> dict[str, str]:
    """Returns the settings that our SQL depends on and that differ in this session."""
    settings: dict[str, str] = {}
    if not state.date_style.startswith("ISO"):
        settings["DateStyle"] = "ISO"
    if state.strings != "on":
        settings["standard_conforming_strings"] = "on"
    if state.isolation != "read committed":
        settings["default_transaction_isolation"] = "read committed"
    if state.first != state.home:
        settings["search_path"] = Identifier(state.home).as_string()
    return settings


def _unfit_behind_pooler(info: psycopg.ConnectionInfo, settings: dict[str, str]) -> str:
    whose = SQL("ALTER ROLE {} IN DATABASE {} SET").format(Identifier(info.user), Identifier(info.dbname)).as_string()
    statements = " ".join(f"{whose} {name} = {value};" for name, value in settings.items())
    return (
        f"The database {info.dbname} is behind a pooler, where a session cannot have settings of its own, and the "
        f"database's settings are not those that the service needs. Run this, then reconnect the pooler: {statements}"
    )


def _no_answer(seconds: float) -> str:
    return f"the database did not answer within {seconds:.0f} s"
