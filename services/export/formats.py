"""The two formats of an export: Apache Parquet, and JSON lines."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from enum import StrEnum
from itertools import islice
from pathlib import Path
from types import UnionType
from typing import Any, get_args, get_type_hints

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq
from msgspec import UNSET

from services.orders.events import EVENTS, Event, Money, OrderRegistered
from services.orders.policy import HELP_PAGE, Terms
from services.orders.public_events import event_message, public_fields

from .summary import Summary, terms_columns

_ROWS_AT_ONCE = 50_000
_TIME = pa.timestamp("us", tz="UTC")
_AMOUNT = pa.decimal128(38, 0)  # an amount has no upper bound in the contract
_TOO_LARGE = 10**38
_RESPONSE_HOURS = "terms_response_hours"


class JsonLines:
    """Writes the public envelopes, as they are on Kafka: without the terms of an order if they are the help page's."""

    suffix = "jsonl"

    def write_events(self, file: Path, events: Sequence[tuple[int, Event]]) -> None:
        """Writes the public events of one name to a new file."""
        with file.open("wb") as out:
            out.writelines(event_message(event) + b"\n" for _, event in events)

    def write_summaries(self, file: Path, rows: Iterable[Summary]) -> None:
        """Writes the summaries of orders."""
        with file.open("wb") as out:
            out.writelines(msgspec.json.encode(row) + b"\n" for row in rows)

    def read_summaries(self, file: Path) -> Iterator[Summary]:
        """The summaries in a file, in its order."""
        with file.open("rb") as lines:
            for line in lines:
                yield msgspec.json.decode(line, type=Summary)

    def has_terms(self, summaries: Path) -> bool:
        """Whether a file of summaries has the terms of its orders. Earlier versions wrote none."""
        with summaries.open("rb") as lines:
            return all(_RESPONSE_HOURS in msgspec.json.decode(line) for line in islice(lines, 1))


class Parquet:
    """Writes a column for each public field. Money has two columns. An amount with more than 38 digits is null.

    The terms of an order have five columns, with the help page's terms where an event has none.
    """

    suffix = "parquet"

    def write_events(self, file: Path, events: Sequence[tuple[int, Event]]) -> None:
        """Writes events of one name, with their positions, to a new file."""
        schema = _SCHEMAS[type(events[0][1])]
        table = pa.Table.from_pylist([_event_row(position, event) for position, event in events], schema=schema)
        pq.write_table(table, file, compression="zstd")

    def write_summaries(self, file: Path, rows: Iterable[Summary]) -> None:
        """Writes the summaries of orders."""
        all_rows = iter(rows)
        with pq.ParquetWriter(file, _SUMMARY, compression="zstd") as writer:
            while group := list(islice(all_rows, _ROWS_AT_ONCE)):
                writer.write_table(pa.Table.from_pylist([_summary_row(row) for row in group], schema=_SUMMARY))

    def read_summaries(self, file: Path) -> Iterator[Summary]:
        """The summaries in a file, in its order."""
        with pq.ParquetFile(file) as source:
            for batch in source.iter_batches(_ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    yield msgspec.convert(row | {name: _int(row[name]) for name in _AMOUNTS}, Summary)

    def has_terms(self, file: Path) -> bool:
        """Whether a file of summaries or registrations has the terms of its orders. Earlier versions wrote none."""
        return _RESPONSE_HOURS in pq.read_schema(file).names

    def add_terms(self, registrations: Path, new: Path) -> None:
        """Writes the registrations that an earlier version exported to a new file, with the help page's terms.

        Earlier versions cannot read the registration of an order with other terms, so that none of them is there.
        """
        with pq.ParquetFile(registrations) as file:
            rows = [row | terms_columns(HELP_PAGE) for row in file.read().to_pylist()]
        pq.write_table(pa.Table.from_pylist(rows, schema=_SCHEMAS[OrderRegistered]), new, compression="zstd")


Format = Parquet | JsonLines
FORMATS: dict[str, type[Format]] = {"parquet": Parquet, "jsonl": JsonLines}

_ENVELOPE = [
    ("position", pa.int64()),
    ("order_id", pa.string()),
    ("sequence", pa.int64()),
    ("time", _TIME),
    ("command_id", pa.string()),
]


def _columns(name: str, hint: Any) -> Iterator[tuple[str, pa.DataType]]:
    kinds = set(get_args(hint) if isinstance(hint, UnionType) or get_args(hint) else [hint])
    if Money in kinds:
        yield from ((f"{name}_amount", _AMOUNT), (f"{name}_currency", pa.string()))
    elif Terms in kinds:
        for term, kind in get_type_hints(Terms).items():
            yield from _columns(f"{name}_{term}", kind)
    elif datetime in kinds:
        yield name, _TIME
    elif bool in kinds:
        yield name, pa.bool_()
    elif int in kinds:
        yield name, pa.int64()
    else:
        assert any(issubclass(kind, str | StrEnum) for kind in kinds if isinstance(kind, type)), (name, hint)
        yield name, pa.string()


def _schema(event_type: type[Event]) -> pa.Schema:
    hints = get_type_hints(event_type)
    data = [column for name in public_fields(event_type) for column in _columns(name, hints[name])]
    return pa.schema([*_ENVELOPE, *data])


_SCHEMAS = {event_type: _schema(event_type) for event_type in EVENTS.values()}


def _event_row(position: int, event: Event) -> dict[str, Any]:
    row: dict[str, Any] = {
        "position": position,
        "order_id": event.originator_id,
        "sequence": event.originator_version,
        "time": event.timestamp,
        "command_id": event.command_id,
    }
    for name in public_fields(type(event)):
        value = getattr(event, name)
        if isinstance(value, Money):
            row |= {f"{name}_amount": _amount(value.amount), f"{name}_currency": value.currency}
        elif name == "terms":
            row |= terms_columns(HELP_PAGE if value is UNSET else value)
        else:
            row[name] = None if value is UNSET else value
    return row


_AMOUNTS = ("price_amount", "refund_amount")
_SUMMARY = pa.schema(
    [
        (name, _AMOUNT) if name in _AMOUNTS else column
        for name, hint in get_type_hints(Summary).items()
        for column in _columns(name, hint)
    ]
)


def _summary_row(row: Summary) -> dict[str, Any]:
    return msgspec.structs.asdict(row) | {name: _amount(getattr(row, name)) for name in _AMOUNTS}


def _amount(value: int | None) -> int | None:
    return None if value is None or value >= _TOO_LARGE else value


def _int(value: Any) -> int | None:
    return None if value is None else int(value)
