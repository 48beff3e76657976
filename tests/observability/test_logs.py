"""Logs: a JSON object a line, with what it is about in fields, and nothing confidential (D16)."""

import asyncio
import json
import logging
import sys
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path

import psycopg
import pytest

from services.runtime.supervisor import Supervisor
from services.settings import Settings, SettingsError
from services.telemetry import logs
from services.telemetry.logs import LogFormat
from tests.support.commands import ask_update, offer_refund, register
from tests.support.installation import Installation, until

MARKER = "marker-3f9d1c"


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """What was said on stderr since it was asked last; the test's own logging is put back."""
    root = logging.getLogger()
    handlers, level, kafka = list(root.handlers), root.level, logging.getLogger("aiokafka").level
    root.handlers[:] = []  # so that none is closed
    yield lambda: capsys.readouterr().err
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.getLogger("aiokafka").setLevel(kafka)


def test_a_line_is_a_json_object(said: Callable[[], str]):
    logs.configure("json", "commands")
    logging.getLogger("services.x").warning(
        "order %s\nis parked", "order-1", extra={"order_id": "order-1", "offset": 7}
    )
    found = json.loads(said())
    assert datetime.fromisoformat(found.pop("time")).utcoffset() is not None
    assert found == {
        "level": "WARNING", "role": "commands", "logger": "services.x", "message": "order order-1\nis parked",
        "order_id": "order-1", "offset": 7,
    }  # fmt: skip


def test_an_exception_is_text_in_its_line(said: Callable[[], str]):
    logs.configure("json", "commands")
    try:
        raise ZeroDivisionError("by zero")
    except ZeroDivisionError:
        logging.getLogger("x").exception("failed")
    [line] = said().splitlines()
    assert json.loads(line)["exc_info"].endswith("ZeroDivisionError: by zero")


def test_the_kafka_clients_repeats_and_cancelled_requests_are_left_out(said: Callable[[], str]):
    logs.configure("json", "commands")
    for _ in range(3):
        logging.getLogger("aiokafka.cluster").error("Topic %s is not available", "x")
        logging.getLogger("services.x").error("ours")
    logging.getLogger("aiokafka.cluster").error("Topic %s is not available", "y")
    for error in (asyncio.InvalidStateError(), ZeroDivisionError()):
        try:
            raise error
        except Exception:
            logging.getLogger("aiokafka.conn").exception("Unexpected exception in AIOKafkaConnection")
    found = [json.loads(line) for line in said().splitlines()]
    assert [line["message"] for line in found].count("ours") == 3
    kafka = [line for line in found if line["logger"].startswith("aiokafka")]
    assert [line["message"][:7] for line in kafka] == ["Topic x", "Topic y", "Unexpec"]
    assert "ZeroDivisionError" in kafka[-1]["exc_info"]


@pytest.mark.parametrize("format_", ["json", "text"])
def test_D16_rows_that_postgresql_quotes_are_left_out(
    installation: Installation, said: Callable[[], str], format_: LogFormat
):
    logs.configure(format_, "commands")
    with pytest.raises(psycopg.Error, match=MARKER) as failed:
        installation.query("INSERT INTO read_models VALUES (%s, NULL)", (MARKER,))
    logging.getLogger("x").error("failed: %s", failed.value, exc_info=failed.value)
    text = said()
    assert "null value in column" in text
    assert MARKER not in text


def test_a_terminal_gets_text_and_everything_else_json(said: Callable[[], str], monkeypatch: pytest.MonkeyPatch):
    logs.configure(None, "timer")
    logging.getLogger("x").info("one")
    assert json.loads(said())["message"] == "one"
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    logs.configure(None, "timer")
    logging.getLogger("x").info("two")
    assert said().endswith("timer INFO two\n")


def test_another_format_is_refused():
    assert Settings.from_environment({"RESOLUTION_LOG_FORMAT": "text"}).log_format == "text"
    with pytest.raises(SettingsError, match="say json or text"):
        Settings.from_environment({"RESOLUTION_LOG_FORMAT": "xml"})


async def test_D16_what_roles_say_while_things_go_wrong_is_json_and_tells_no_reason(
    installation: Installation, tmp_path: Path
):
    installation.supervisor = Supervisor(installation.settings, log_file=tmp_path / "roles.log")
    await installation.run("commands", "relay", "timer", "projections")
    await installation.send("order-1", register())
    await installation.send("order-1", offer_refund())
    await installation.stop("commands")
    installation.query("UPDATE order_events SET topic = 'FromALaterVersion' WHERE originator_version = 2")
    await installation.run("commands")
    await installation.publish("order-1", ask_update())
    await until(lambda: installation.query("SELECT count(*) FROM parked_commands") == [(1,)])
    installation.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() "
                       "AND datname = current_database()")  # fmt: skip
    await asyncio.sleep(1)
    await installation.stop()
    said = [json.loads(text) for text in (tmp_path / "roles.log").read_text().splitlines() if text.startswith("{")]
    [parked] = [found for found in said if "is parked" in found["message"]]
    assert (parked["role"], parked["order_id"], parked["level"]) == ("commands", "order-1", "ERROR")
    assert {"command_id", "partition", "offset", "time", "logger"} <= parked.keys()
    assert "minor_dissatisfaction" not in json.dumps(said)
