"""Writes the read models as of an instant to files: JSON lines, one file for each table.

The files are an export, so they have no confidential fields (D16). Read models that aggregate over orders need
PostgreSQL, so the tables are first built in temporary schemas, which are dropped at the end.
"""

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from psycopg.rows import DictRow

from projections.framework.as_of import AsOfError, ReadModelsAsOf, Replayed
from services.export.staging import Staging, is_of_staging
from services.orders.instants import format_instant
from services.orders.public_events import without_confidential

_PREFIX = "_files"
"""The prefix of these schemas. Users cannot choose it."""
SUMMARY = "replay.json"
"""The file that is written last: a directory that has it is complete."""


def write_files(database_url: str, directory: Path, as_of: datetime, progress: Callable[[int, int], None]) -> Replayed:
    """Writes READ_MODEL/TABLE.jsonl for each table, sorted by key, to a new or empty directory.

    Raises AsOfError, OSError, psycopg.Error and the library's MapperDeserialisationError.
    """
    directory.mkdir(parents=True, exist_ok=True)
    if not all(map(is_of_staging, directory.iterdir())):
        raise AsOfError(f"{directory} has files already. Write to a directory that is new or empty.")
    staging = Staging(directory)
    staging.discard()
    with ReadModelsAsOf.hold(database_url, _PREFIX) as read_models:
        try:
            replayed = read_models.fill(as_of, progress)
            for name, table, rows in read_models.tables():
                with staging.file(f"{name}/{table}.jsonl") as file:
                    _write(file, rows)
        finally:
            read_models.drop()
    staging.replace(SUMMARY, msgspec.json.encode(replayed) + b"\n")
    staging.publish(last=SUMMARY)
    return replayed


def _write(file: Path, rows: Iterable[DictRow]) -> None:
    with file.open("wb") as out:
        out.writelines(msgspec.json.encode({name: _cell(value) for name, value in row.items()}) + b"\n" for row in rows)


def _cell(value: Any) -> Any:
    """Returns a column's value for JSON. Bytes are a JSON document."""
    if isinstance(value, bytes):
        return without_confidential(msgspec.json.decode(value))
    return format_instant(value.astimezone(UTC)) if isinstance(value, datetime) else value
