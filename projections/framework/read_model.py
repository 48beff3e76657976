"""What a read model is made of. `docs/projections.md` writes one on a page."""

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
    """A document for each order, made by one handler per event, in a PostgreSQL schema of the read model's name.

    Read models hold nothing that an erasure has to take away: what people wrote, and what is confidential, reaches no
    handler (it reads as erased). The table `orders` keeps the documents as JSON, with `columns` beside for what is
    searched. Whatever counts over many orders is returned by handlers as facts, which `tally` adds to further `tables`.
    """

    name: ClassVar[str]
    version: ClassVar[int]
    """Raised with every change of what the tables are or hold; until a rebuild, the rows are those of the version
    before. A golden file holds it (`tests/engine/test_golden_rows.py`)."""
    document: ClassVar[type]
    handlers: ClassVar[Mapping[type[Event], Handler]]
    columns: ClassVar[Mapping[str, str]] = {}
    """Name and SQL type of the columns beside the document."""
    tables: ClassVar[str] = ""
    """SQL for further tables and indexes. Names are unqualified: a rebuild makes them elsewhere first."""
    compared: ClassVar[tuple[str, ...]] = ("orders",)
    """The tables that a rebuild has to give again, row by row."""

    def __init__(self) -> None:
        self._decode: Callable[[bytes], Any] = msgspec.json.Decoder(self.document).decode
        self._encode = msgspec.json.Encoder(order="deterministic").encode
        names = ["order_id", *self.columns, "document"]
        types = ["text", *self.columns.values(), "bytea"]
        values = ", ".join(f"%s::{kind}[]" for kind in types)
        updates = ", ".join(f"{name} = excluded.{name}" for name in names[1:])
        # A text of its own, since PostgreSQL plans a prepared statement anew in another schema than it had before.
        own = f"-- {self.name}"
        self._select = f"SELECT order_id, document FROM orders WHERE order_id = ANY(%s) {own}"  # noqa: S608 (our names)
        self._upsert = (
            f"INSERT INTO orders ({', '.join(names)}) SELECT * FROM unnest({values}) "  # noqa: S608
            f"ON CONFLICT (order_id) DO UPDATE SET {updates} {own}"
        )

    def blank(self, order_id: str) -> Document:
        """The document of an order before its first event."""
        return cast("Document", self.document(order_id))

    def row(self, document: Document) -> Fact:
        """The values of `columns`."""
        return ()

    def before(self, document: Document, event: Event) -> None:
        """Runs before an event's handler; for what all events do."""

    def tally(self, cursor: Cursor[DictRow], facts: Sequence[Fact]) -> None:
        """Adds what the handlers returned to further tables."""

    def pass_time(self, cursor: Cursor[DictRow], now: datetime) -> None:
        """Takes out what is over at a business time without an event; only a replay as of then does it here."""

    def create(self, cursor: Cursor[DictRow]) -> None:
        """Makes the tables where they are missing, in the first schema of the search path."""
        columns = "".join(f"{name} {kind}, " for name, kind in self.columns.items())
        # JSON as bytes, because jsonb refuses what texts may hold.
        cursor.execute(
            f"CREATE TABLE IF NOT EXISTS orders (order_id text PRIMARY KEY, {columns}document bytea NOT NULL)".encode()
        )
        if self.tables:
            cursor.execute(self.tables.encode())
        # Here, so that tables which an earlier version made change too, and stay the work of the same code.
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
        """The documents as events leave them, from those known or from blank ones; and the facts they come with."""
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
        """The rows of the table `orders`: the order's id, the columns, the document as bytes."""
        return [(order_id, *self.row(document), self._encode(document)) for order_id, document in documents.items()]
