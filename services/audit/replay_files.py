"""The read models as they stood at an instant, as files: JSON lines, one file for each table.

Files are an export, so confidential fields are left out (D16). What is counted over many orders takes PostgreSQL, so
the tables are built there first, in schemas that are gone when the files are written.
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
"""No user can choose it."""
SUMMARY = "replay.json"
"""Written last: with it a directory is complete."""


def write_files(database_url: str, directory: Path, as_of: datetime, progress: Callable[[int, int], None]) -> Replayed:
    """Writes READ_MODEL/TABLE.jsonl for each table, sorted by key, into a new or empty directory.

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
    """Documents are JSON as bytes."""
    if isinstance(value, bytes):
        return without_confidential(msgspec.json.decode(value))
    return format_instant(value.astimezone(UTC)) if isinstance(value, datetime) else value
