"""Logs to stderr: a JSON object on each line, or text for a person at a terminal.

`RESOLUTION_LOG_FORMAT` is `json` or `text`. Without it, a terminal gets text, and everything else JSON. Pass what a
line is about as `extra` (`order_id`, `command_id`, `partition`, `offset`, ...): each becomes a field of the line.
"""

import logging
import re
import sys
import time
from asyncio import InvalidStateError
from datetime import UTC, datetime
from types import TracebackType
from typing import Literal

from pythonjsonlogger.json import JsonFormatter

from .printable import printable

LogFormat = Literal["json", "text"]

_FIELDS = {"levelname": "level", "name": "logger"}
_SECONDS_WITHOUT_REPEATS = 10.0
_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]

# In these lines PostgreSQL quotes rows and parameters, which may be confidential (D16).
_quoted = re.compile(r"^(DETAIL|CONTEXT|LINE \d+): .*(\n(?!\S+Error|\S+Exception|Traceback|\s+File ).*)*", re.MULTILINE)


def configure(format_: LogFormat | None, role: str) -> None:
    """Configures logging for the whole process. Each line has the `role`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.addFilter(_KafkaNoise())
    handler.setFormatter(_formatter(format_ or ("text" if sys.stderr.isatty() else "json"), role))
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)
    logging.getLogger("aiokafka").setLevel(logging.WARNING)


def _formatter(format_: LogFormat, role: str) -> logging.Formatter:
    if format_ == "text":
        return _Text(f"%(asctime)s {role} %(levelname)s %(message)s")
    return _Json("%(levelname)s %(name)s %(message)s", rename_fields=_FIELDS, static_fields={"role": role})


class _KafkaNoise(logging.Filter):
    """Drops what the Kafka client logs again within 10 s, and what it logs because a request was cancelled.

    When an answer comes for a request whose task was cancelled (by Ctrl-C), aiokafka's connection sets the result of a
    cancelled future. It logs that InvalidStateError with a traceback and closes the connection, which nobody needs.
    """

    def __init__(self) -> None:
        super().__init__()
        self._logged: dict[tuple[str, str], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Returns whether to log the record."""
        if not record.name.startswith("aiokafka"):
            return True
        if record.name == "aiokafka.conn" and record.exc_info and isinstance(record.exc_info[1], InvalidStateError):
            return False
        now, line = time.monotonic(), (record.name, record.getMessage())
        self._logged = {known: at for known, at in self._logged.items() if now - at < _SECONDS_WITHOUT_REPEATS}
        is_new = line not in self._logged
        self._logged.setdefault(line, now)
        return is_new


class _Text(logging.Formatter):
    """Indents a record's lines after the first, so that none of them looks like another record."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n    ".join(map(printable, without_rows(super().format(record)).split("\n")))


class _Json(JsonFormatter):
    """Writes `time` (RFC 3339, UTC), `level`, `role`, `logger`, `message`, the fields of `extra`, and `exc_info`."""

    def format(self, record: logging.LogRecord) -> str:
        record.time = datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds")[:-6] + "Z"
        return super().format(record)

    def process_log_record(self, log_data: dict[str, object]) -> dict[str, object]:
        log_data.pop("color_message", None)  # uvicorn's, for terminals
        for name in ("message", "exc_info"):
            if isinstance(text := log_data.get(name), str):
                log_data[name] = without_rows(text)
        first = {name: log_data.pop(name) for name in ("time", "level", "role", "logger") if name in log_data}
        return super().process_log_record(first | log_data)


def without_rows(text: str) -> str:
    """Returns the text of PostgreSQL's errors without the rows that they quote."""
    return _quoted.sub(r"\1: (left out)", text)
