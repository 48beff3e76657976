"""What the first release wrote, and how it wrote: its database, its topics, and the statements of its roles.

`database.sql` is a dump of a database at `0001_first.sql` that the first release's roles filled on real servers, by
pg_dump as statements. `records.jsonl` has a line for each record of its topics at that moment (bytes in Base64), and then
for each append by which its commands role went on. Commands carry times of their own, so that the deadlines of most
disputes are over. None of it is made again: it is what was stored then.
"""

import base64
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg.rows import dict_row

Json = dict[str, Any]
FOLDER = Path(__file__).parent

_OUTCOME_TYPES = (
    "int8", "int4", "int8", "text", "text", "text", "bytea", "text", "int8", "bytea", "bytea", "bytea",
)  # fmt: skip


def lines(kind: str) -> Iterator[Json]:
    """Those of `records.jsonl`: `commands`, `events`, `outcomes`, `dead_letters`, or `append`."""
    for text in (FOLDER / "records.jsonl").read_text().splitlines():
        for name, found in json.loads(text).items():
            if name == kind:
                yield found


def decoded(text: str | None) -> bytes | None:
    return None if text is None else base64.b64decode(text)


class FirstRelease:
    """Its roles' statements, word for word, on one connection."""

    def __init__(self, url: str) -> None:
        self._connection = psycopg.connect(url, autocommit=True, row_factory=dict_row)

    def append(self, append: Json) -> None:
        """The commands role records what became of one record."""
        with self._connection.transaction(), self._connection.cursor() as cursor:
            cursor.execute(
                "SELECT advance_positions('commands', %s::int[], %s::bigint[], %s::bigint[])",
                ([append["partition"]], [append["offset"]], [append["offset"] + 1]),
            )
            row = cursor.execute("SELECT * FROM begin_append()").fetchone()
            assert row is not None
            event_id, outcome_id = row["last_event_id"], row["last_outcome_id"]
            with cursor.copy(
                "COPY order_events (originator_id, originator_version, topic, state, notification_id) "
                "FROM STDIN (FORMAT BINARY)"
            ) as copy:
                copy.set_types(("text", "int8", "text", "bytea", "int8"))
                for order_id, version, topic, state in append["events"]:
                    event_id += 1
                    copy.write_row((order_id, version, topic, decoded(state), event_id))
            with cursor.copy(
                "COPY outcomes (outcome_id, partition, record_offset, kind, order_id, command_id, digest, source, "
                "last_event_id, key, message, headers) FROM STDIN (FORMAT BINARY)"
            ) as copy:
                copy.set_types(_OUTCOME_TYPES)
                names = ("partition", "offset", "kind", "order_id", "command_id")
                values = [append[name] for name in names]
                key, message, headers = (decoded(append[name]) for name in ("key", "message", "headers"))
                digest, source = decoded(append["digest"]), append["source"]
                copy.write_row((outcome_id + 1, *values, digest, source, event_id, key, message, headers))

    def read(self, order_id: str) -> None:
        """What else its roles ask for and write: an order, ids used before, positions, what to publish, deadlines."""
        for statement, parameters in (
            (
                "SELECT originator_id, originator_version, topic, state FROM order_events "
                "WHERE originator_id = ANY(%s) ORDER BY originator_id, originator_version",
                ([order_id],),
            ),
            (
                "SELECT o.order_id, o.command_id, o.digest, o.message "
                "FROM unnest(%s::text[], %s::text[]) AS asked (order_id, command_id) "
                "JOIN outcomes AS o USING (order_id, command_id) WHERE o.kind IN ('accepted', 'rejected')",
                ([order_id], ["x"]),
            ),
            (
                "INSERT INTO positions SELECT %s, * FROM unnest(%s::int[], %s::bigint[]) ON CONFLICT DO NOTHING",
                ("commands", [0], [0]),
            ),
            (
                "SELECT partition, next_offset FROM positions WHERE consumer = %s AND partition = ANY(%s)",
                ("timer", [0]),
            ),
            (
                "SELECT outcome_id, partition, last_event_id, order_id, message, key, headers FROM outcomes "
                "WHERE outcome_id > %s ORDER BY outcome_id LIMIT %s",
                (0, 2000),
            ),
            (
                "SELECT originator_id, originator_version, topic, state FROM order_events "
                "WHERE notification_id > %s AND notification_id <= %s ORDER BY notification_id",
                (0, 9),
            ),
            (
                "INSERT INTO deadlines (order_id, dispute_id, due_at, ask_at) "
                "SELECT * FROM unnest(%s::text[], %s::text[], %s::timestamptz[], %s::timestamptz[]) "
                "ON CONFLICT DO NOTHING",
                ([], [], [], []),
            ),
            (
                "SELECT order_id, dispute_id, due_at, ask_at, attempts FROM deadlines "
                "WHERE ask_at <= %s ORDER BY ask_at LIMIT %s",
                ("2026-01-31T00:00:00Z", 5000),
            ),
            ("SELECT min(ask_at) FROM deadlines", ()),
            (
                "UPDATE deadlines SET attempts = a.attempts, ask_at = a.ask_at "
                "FROM unnest(%s::text[], %s::text[], %s::int[], %s::timestamptz[]) "
                "AS a (order_id, dispute_id, attempts, ask_at) "
                "WHERE deadlines.order_id = a.order_id AND deadlines.dispute_id = a.dispute_id",
                ([], [], [], []),
            ),
            ("SELECT origin FROM clock", ()),
        ):
            self._connection.execute(statement, parameters, prepare=True)  # type: ignore[call-overload]

    def close(self) -> None:
        self._connection.close()
