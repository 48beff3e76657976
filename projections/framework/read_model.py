"""The base class of read models. `docs/projections.md` shows how to write one."""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar, Generic, LiteralString, TypeVar, cast

import msgspec
from psycopg import Cursor
from psycopg.rows import DictRow

from services.orders.events import Event

Document = TypeVar("Document")
Fact = tuple[Any, ...]
Handler = Callable[[Any, Any], Fact | None]
"""Takes an order's document and its next event, changes the document, and may return a fact for `tally`."""


_BYTEWISE: LiteralString = (
    "SELECT compare_bytewise(ARRAY(SELECT c.oid FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = relnamespace "
    "WHERE nspname = current_schema() AND relkind = 'r')::regclass[])"
)


class ReadModel(Generic[Document]):
    """Keeps a document for each order, in a PostgreSQL schema with the read model's name. Events change documents.

    There is a handler for each event. Read models have nothing that an erasure would have to delete: handlers see texts
    and confidential fields as erased. The table `orders` has the documents as JSON, and `columns` for searching. To
    count over many orders, handlers return facts, which `tally` adds to further `tables`.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Increase this with every change of the tables or their content. Until a rebuild, the rows are those of the
    version before. A golden file checks this (`tests/store/test_golden_rows.py`)."""
    document: ClassVar[type]
    handlers: ClassVar[Mapping[type[Event], Handler]]
    columns: ClassVar[Mapping[str, str]] = {}
    """Names and SQL types of further columns of the table `orders`."""
    tables: ClassVar[str] = ""
    """SQL for further tables and indexes. Names have no schema, because a rebuild makes them in another one first."""
    compared: ClassVar[tuple[str, ...]] = ("orders",)
    """The tables whose rows must be the same after a rebuild."""

    def __init__(self) -> None:
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(self.document).decode
        self._encode = msgspec.json.Encoder(order="deterministic").encode
        names = ["order_id", *self.columns, "document"]
        types = ["text", *self.columns.values(), "bytea"]
        values = ", ".join(f"%s::{kind}[]" for kind in types)
        updates = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
        # Each read model has its own statement texts, because PostgreSQL plans a prepared statement again whenever the
        # schema changes.
        tag = f"-- {self.name}"
        self._select = f"SELECT order_id, document FROM orders WHERE order_id = ANY(%s) {tag}"  # noqa: S608 (our names)
        self._upsert = (
            f"INSERT INTO orders ({', '.join(names)}) SELECT * FROM unnest({values}) "  # noqa: S608
            f"ON CONFLICT (order_id) DO UPDATE SET {updates} {tag}"
        )

    def blank(self, order_id: str) -> Document:
        """Returns the document of an order before its first event."""
        return cast("Document", self.document(order_id))

    def row(self, document: Document) -> Fact:
        """Returns the values of `columns`."""
        return ()

    def before(self, document: Document, event: Event) -> None:
        """Changes the document for any event. Called before the event's handler."""

    def tally(self, cursor: Cursor[DictRow], facts: Sequence[Fact]) -> None:
        """Adds the facts that the handlers returned to further tables."""

    def pass_time(self, cursor: Cursor[DictRow], now: datetime) -> None:
        """Deletes rows that time alone ends, without an event. Only a replay as of `now` calls this."""

    def create(self, cursor: Cursor[DictRow]) -> None:
        """Creates missing tables in the first schema of the search path."""
        columns = "".join(f"{name} {kind}, " for name, kind in self.columns.items())
        # The JSON is stored as bytes, because jsonb refuses characters that documents may contain.
        cursor.execute(
            f"CREATE TABLE IF NOT EXISTS orders (order_id text PRIMARY KEY, {columns}document bytea NOT NULL)".encode()
        )
        if self.tables:
            cursor.execute(self.tables.encode())
        # Also for existing tables, so that tables of an earlier version sort bytewise, too.
        cursor.execute(_BYTEWISE)

    def apply(self, cursor: Cursor[DictRow], events: Sequence[Event]) -> None:
        """Applies events, in the order of the store. Commits nothing."""
        order_ids = list({event.originator_id for event in events})
        cursor.execute(self._select.encode(), (order_ids,), binary=True)
        known = {row["order_id"]: self._decode(row["document"]) for row in cursor}
        documents, facts = self.fold(events, known)
        cursor.execute(self._upsert.encode(), [list(column) for column in zip(*self.rows(documents), strict=True)])
        if facts:
            self.tally(cursor, facts)

    def fold(
        self, events: Sequence[Event], known: Mapping[str, Document] | None = None
    ) -> tuple[dict[str, Document], list[Fact]]:
        """Applies events to the known documents, or to blank ones. Returns the documents and the handlers' facts."""
        documents = dict(known or {})
        facts = []
        for event in events:
            document = documents.get(event.originator_id)
            if document is None:
                document = documents[event.originator_id] = self.blank(event.originator_id)
            self.before(document, event)
            handler = self.handlers.get(type(event))
            if handler is not None and (fact := handler(document, event)) is not None:
                facts.append(fact)
        return documents, facts

    def rows(self, documents: Mapping[str, Document]) -> list[tuple[Any, ...]]:
        """Returns rows for the table `orders`: order id, columns, and the document as bytes."""
        return [(order_id, *self.row(document), self._encode(document)) for order_id, document in documents.items()]
