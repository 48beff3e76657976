"""`resolution export`, and the queries of docs/analytics.md, which run as written."""

import json
import re
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest
from resolution_contracts import Command
from typer.testing import CliRunner

from services import cli
from services.eventstore.application import OrderStore
from services.export import incremental
from services.export.staging import Staging, alone, finish_killed
from services.orders.events import Event
from tests.support.controls import (
    CLIENT,
    DAYS,
    HOURS,
    T,
    accept,
    cancel,
    cancellation,
    command_id,
    decline,
    expire,
    extension,
    opened,
    order_update,
    refund_offer,
    registered,
    registered_awaiting,
    usd,
)
from tests.support.decisions import carry_out
from tests.support.installation import Installation

ROOT = Path(__file__).parents[2]
Step = tuple[timedelta, Command]

DAY_ONE: dict[str, list[Step]] = {
    "agreed": [(0 * HOURS, registered()), (HOURS, opened(cancellation())), (3 * HOURS, accept())],
    "ran-out": [(0 * HOURS, registered()), (HOURS, opened(cancellation())), (49 * HOURS, expire())],
    "refunded": [(0 * HOURS, registered()), (HOURS, refund_offer(25_00)), (5 * HOURS, accept(by=CLIENT))],
    "declined": [(0 * HOURS, registered()), (HOURS, opened(extension())), (2 * HOURS, decline(by=CLIENT))],
    "canceled": [(0 * HOURS, registered_awaiting()), (HOURS, cancel())],
    "open": [(0 * HOURS, registered()), (HOURS, opened(order_update()))],
}
EXPRESS: dict[str, list[Step]] = {
    "express": [
        (0 * HOURS, registered(terms={"response_hours": 24, "name": "express"})),
        (HOURS, opened(extension())),
        (25 * HOURS, expire()),
    ]
}
DEAR = registered().model_copy(update={"price": usd(10**40)})  # earlier versions took amounts of any size
LATER: dict[str, list[Step]] = {
    "open": [(30 * DAYS, accept(message="Here it is."))],  # too late: it was accepted at its deadline
    "dear": [(30 * DAYS, DEAR), (31 * DAYS, refund_offer(1)), (32 * DAYS, accept(by=CLIENT))],
}


def play(installation: Installation, stories: dict[str, list[Step]], skip: int = 0) -> None:
    with installation.store() as store:
        for order_id, steps in stories.items():
            order = store.order(order_id)
            events: list[Event] = []
            for number, (after, command) in enumerate(steps, skip):
                decision = carry_out(order, command, command_id(number), T + after)
                assert decision.rejection is None or order_id == "open"
                events += decision.events
            store.append(events)


def export(installation: Installation, to: Path, *options: str, code: int = 0) -> str:
    environment = installation.settings.as_environment()
    result = CliRunner().invoke(cli.app, ["export", "--to", str(to), *options], env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


def ask(directory: Path, sql: str) -> list[tuple[Any, ...]]:
    with duckdb.connect() as connection:
        connection.execute(f"SET file_search_path = '{directory}'; SET TimeZone = 'UTC'")
        return connection.execute(sql).fetchall()


def queries() -> dict[str, str]:
    """Those of docs/analytics.md, by the first word of the sentence above each."""
    text = (ROOT / "docs" / "analytics.md").read_text()
    return {
        m[1]: m[2]
        for m in re.finditer(r"^([A-Z]\w+)[^\n]*(?:\n[^\n]+)*?\n\n```sql\n(.*?)```", text, re.MULTILINE | re.DOTALL)
    }


async def test_the_queries_of_the_documentation_answer_as_written(installation: Installation, tmp_path: Path):
    play(installation, DAY_ONE | EXPRESS)
    export(installation, tmp_path)
    asked = queries()
    assert ask(tmp_path, asked.pop("Auto")) == [
        ("cancellation", 2, 0.5),
        ("delivery_extension", 2, 0.5),
        ("partial_refund", 1, 0.0),
    ]
    assert ask(tmp_path, asked.pop("Time")) == [
        ("cancellation", 2.0, 2.0),
        ("delivery_extension", 1.0, 1.0),
        ("partial_refund", 4.0, 4.0),
    ]
    assert ask(tmp_path, asked.pop("Refunds")) == [("2026-03", "USD", 1, 2500)]
    assert ask(tmp_path, asked.pop("Cancellations")) == [
        ("agreement", 1, 1),
        ("auto_accepted", 1, 1),
        ("awaiting_requirements", 1, 0),
    ]
    assert ask(tmp_path, asked.pop("Orders")) == [("canceled", 3, 2, 0), ("in progress", 4, 4, 1)]
    assert ask(tmp_path, asked.pop("Terms")) == [("express", 24, 1, 1, 1.0), (None, 48, 6, 4, 0.25)]
    assert not asked


async def test_the_next_export_adds_what_is_new_and_no_event_is_there_twice(installation: Installation, tmp_path: Path):
    play(installation, DAY_ONE)
    assert "19 events added, 6 orders" in export(installation, tmp_path)
    assert "0 events added, 0 orders" in export(installation, tmp_path)
    play(installation, LATER)
    assert "2 orders" in export(installation, tmp_path)
    positions = ask(tmp_path, "SELECT position FROM read_parquet('*/**/*.parquet', union_by_name=true) ORDER BY 1")
    assert positions == installation.query("SELECT notification_id FROM order_events ORDER BY 1")
    assert ask(
        tmp_path, "SELECT order_id, auto_accepted, open_dispute FROM 'orders.parquet' WHERE order_id = 'open'"
    ) == [("open", 1, None)]
    assert ask(tmp_path, "SELECT count(*), count(DISTINCT order_id) FROM 'orders.parquet'") == [(7, 7)]
    assert ask(tmp_path, "SELECT price_amount, refund_amount FROM 'orders.parquet' WHERE order_id = 'dear'") == [
        (None, 1)
    ]


class Killed(BaseException):
    """As by SIGKILL: nothing is tidied up."""


class Killer:
    """Lets a file be renamed `left` times more. The next one kills."""

    left = 100

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._replace = Path.replace
        monkeypatch.setattr(Path, "replace", lambda file, target: self.replace(file, target))

    def replace(self, file: Path, target: Path) -> Path:
        self.left -= 1
        if self.left < 0:
            raise Killed
        return self._replace(file, target)


@pytest.fixture
def killer(monkeypatch: pytest.MonkeyPatch) -> Killer:
    return Killer(monkeypatch)


def test_no_pattern_finds_files_before_all_are_written_and_a_killed_run_is_finished(tmp_path: Path, killer: Killer):
    names = ["A/date=1/part.parquet", "A/date=2/part.parquet", "orders.parquet", "state.json"]
    for survived in range(2 * len(names) + 1):
        killer.left, directory = survived, tmp_path / str(survived)
        directory.mkdir()
        staging = Staging(directory)
        with suppress(Killed):
            for name in names:
                with staging.file(name) as file:
                    file.write_text(name)
            staging.publish(last="state.json")
        visible = {str(file.relative_to(directory)) for file in directory.rglob("*.*") if file.is_file()}
        visible = {name for name in visible if name.endswith((".parquet", ".json"))}
        assert len(visible) == max(0, survived - len(names))
        assert ("state.json" in visible) is (survived == 2 * len(names))
        killer.left = 100
        finish_killed(directory, lambda: None, last="state.json")
        if survived >= len(names):
            assert {name for name in names if (directory / name).read_text() == name} == set(names)
            assert {entry.name for entry in directory.iterdir()} == {"A", "orders.parquet", "state.json"}


async def test_readers_see_an_export_completely_or_not_at_all_wherever_it_is_killed(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killer: Killer
):
    play(installation, DAY_ONE)
    monkeypatch.setattr(incremental, "_AT_ONCE", 5)
    killed = 0
    with OrderStore(installation.settings.database, installation.settings.master_keys) as store:
        for survived in range(0, 72, 3):
            killer.left, directory = survived, tmp_path / str(survived % 2)
            try:
                incremental.export(store, directory, "parquet", 0, lambda done, of: None)
            except Killed:
                killed += 1
            assert_complete(directory)
    assert killed > 5
    for directory in (tmp_path / "0", tmp_path / "1"):
        assert [row for (row,) in positions(directory)] == list(range(1, 20))
        assert {entry.name for entry in directory.iterdir() if entry.name.startswith(".")} == set()


def assert_complete(directory: Path) -> None:
    """What DuckDB finds under any name is what `state.json` says, or all of that while files get their names."""
    state = directory / "state.json"
    complete = json.loads(state.read_text())["position"] if state.exists() else 0
    seen = [row for (row,) in positions(directory)]
    if not any(directory.glob(".unfinished-*/complete")):
        assert seen == list(range(1, complete + 1))
        summed = ask(directory, "SELECT sum(events) FROM 'orders.parquet'") if complete else [(0,)]
        assert summed == [(complete,)]
    assert [row for row in seen if row <= complete] == list(range(1, complete + 1))


def positions(directory: Path) -> list[tuple[Any, ...]]:
    files = ask(directory, f"SELECT file FROM glob('{directory}/**/*.parquet') WHERE file NOT LIKE '%orders.parquet'")
    if not files:
        return []
    names = [name for (name,) in files]
    return ask(directory, f"SELECT position FROM read_parquet({names}, union_by_name=true) ORDER BY 1")


async def test_two_exports_at_once_do_not_write_to_one_directory(installation: Installation, tmp_path: Path):
    play(installation, DAY_ONE)
    with alone(tmp_path), pytest.raises(incremental.ExportError, match="Another export"):
        export(installation, tmp_path)
    assert "19 events added" in export(installation, tmp_path)


async def test_what_an_earlier_version_left_half_written_is_deleted(installation: Installation, tmp_path: Path):
    play(installation, DAY_ONE)
    export(installation, tmp_path)
    state = json.loads((tmp_path / "state.json").read_text())
    (tmp_path / "state.json").write_text(json.dumps(state | {"position": 0, "summarized": 0}))
    (tmp_path / "history.json").unlink()
    (tmp_path / "orders.parquet").unlink()
    half = [tmp_path / "Accepted" / ".part-000000000001-000000000019.parquet", tmp_path / ".orders.parquet"]
    for file in half:
        file.write_bytes(b"PAR1")
    assert "19 events added" in export(installation, tmp_path)
    assert not any(file.exists() for file in half)
    assert_complete(tmp_path)


async def test_json_lines_are_the_public_envelopes_and_nothing_confidential_leaves(
    installation: Installation, tmp_path: Path
):
    play(installation, DAY_ONE)
    export(installation, tmp_path / "l", "--format", "jsonl", "--after", "3")
    export(installation, tmp_path / "p")
    lines = [
        json.loads(line) for file in (tmp_path / "l").rglob("part-*.jsonl") for line in file.read_text().splitlines()
    ]
    assert len(lines) == 16
    assert {line["specversion"] for line in lines} == {"1.0"}
    for file in tmp_path.rglob("*.*"):
        assert file.is_dir() or b"minor_dissatisfaction" not in file.read_bytes(), file
    columns = ask(tmp_path / "p", "SELECT column_name FROM (DESCRIBE SELECT * FROM 'DisputeOpened/**/*.parquet')")
    assert ("amount_currency",) in columns
    assert ("refund_reason",) not in columns


async def test_a_directory_of_others_another_format_and_another_database_are_refused(
    installation: Installation, tmp_path: Path
):
    (tmp_path / "notes").mkdir()
    (tmp_path / "notes" / "mine.txt").touch()
    with pytest.raises(incremental.ExportError, match="files that are not an export's"):
        export(installation, tmp_path / "notes")
    play(installation, DAY_ONE)
    export(installation, tmp_path / "x")
    with pytest.raises(incremental.ExportError, match="--format parquet"):
        export(installation, tmp_path / "x", "--format", "jsonl")
    installation.query("DELETE FROM order_events WHERE notification_id > 5")
    with pytest.raises(incremental.ExportError, match="another database"):
        export(installation, tmp_path / "x")


async def test_a_database_that_fell_back_and_grew_past_the_position_is_noticed(
    installation: Installation, tmp_path: Path
):
    play(installation, DAY_ONE)
    assert "19 events added" in export(installation, tmp_path)
    installation.query("DELETE FROM order_events WHERE notification_id > 12")
    play(installation, {f"other-{n}": [(0 * HOURS, registered())] for n in range(10)})
    assert installation.query("SELECT max(notification_id) FROM order_events") == [(22,)]
    with pytest.raises(incremental.ExportError, match="was restored since"):
        export(installation, tmp_path)


async def test_a_directory_of_an_earlier_version_is_gone_on_with(installation: Installation, tmp_path: Path):
    play(installation, DAY_ONE)
    export(installation, tmp_path)
    assert json.loads((tmp_path / "state.json").read_text()).keys() == {
        "format", "first", "position", "writing", "summarized",
    }  # fmt: skip
    (tmp_path / "history.json").unlink()  # an earlier version wrote none
    play(installation, LATER)
    assert "2 orders" in export(installation, tmp_path)
    assert (tmp_path / "history.json").exists()


# --- the terms of orders ---

TERMS = ("response_hours", "very_late_after_hours", "longest_extension_days", "largest_refund_percent", "name")
HELP_PAGE = (48, 24, 60, 60, None)
EXPRESS_TERMS = (24, 24, 60, 60, "express")


def terms_in(directory: Path, files: str) -> dict[str, tuple[Any, ...]]:
    """The terms of each order, as a table has them."""
    names = ", ".join(f"terms_{name}" for name in TERMS)
    return {order: tuple(terms) for order, *terms in ask(directory, f"SELECT order_id, {names} FROM '{files}'")}


def assert_terms(directory: Path, *stories: dict[str, list[Step]]) -> None:
    """Every order has its complete terms, in its registration and in its summary."""
    orders = {order: EXPRESS_TERMS if order in EXPRESS else HELP_PAGE for story in stories for order in story}
    assert terms_in(directory, "OrderRegistered/**/*.parquet") == orders
    assert terms_in(directory, "orders.parquet") == orders


def as_the_last_release_wrote(*files: Path) -> None:
    """Takes the terms out of Parquet files."""
    for file in files:
        with pq.ParquetFile(file) as source:
            table = source.read()
        terms = [name for name in table.column_names if name.startswith("terms_")]
        assert terms, f"{file} has no terms"
        pq.write_table(table.drop_columns(terms), file, compression="zstd")


@pytest.mark.parametrize("later", [{}, EXPRESS], ids=["nothing new", "an order with terms of its own"])
async def test_the_next_export_to_a_directory_of_the_last_release_adds_the_terms(
    installation: Installation, tmp_path: Path, later: dict[str, list[Step]]
):
    play(installation, DAY_ONE)
    export(installation, tmp_path)
    as_the_last_release_wrote(tmp_path / "orders.parquet", *(tmp_path / "OrderRegistered").rglob("*.parquet"))
    play(installation, later)
    events = installation.query("SELECT count(*) FROM order_events")[0][0] - 19
    assert f"{events} events added, {len(DAY_ONE | later)} orders" in export(installation, tmp_path)
    assert_terms(tmp_path, DAY_ONE, later)
    assert_complete(tmp_path)
    assert "0 events added, 0 orders" in export(installation, tmp_path)


async def test_terms_that_the_last_release_left_out_of_the_summaries_come_back(
    installation: Installation, tmp_path: Path
):
    play(installation, DAY_ONE | EXPRESS)
    export(installation, tmp_path)
    as_the_last_release_wrote(tmp_path / "orders.parquet")  # it exported between two exports of this version
    export(installation, tmp_path)
    assert_terms(tmp_path, DAY_ONE, EXPRESS)


async def test_an_export_that_is_killed_while_it_adds_the_terms_is_continued(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killer: Killer
):
    play(installation, DAY_ONE)
    monkeypatch.setattr(incremental, "_AT_ONCE", 5)
    export(installation, tmp_path)
    registrations = sorted((tmp_path / "OrderRegistered").rglob("*.parquet"))
    assert len(registrations) > 2
    as_the_last_release_wrote(tmp_path / "orders.parquet", *registrations)
    play(installation, EXPRESS)
    killed = 0
    with OrderStore(installation.settings.database, installation.settings.master_keys) as store:
        for survived in range(1, 50, 3):
            killer.left = survived
            try:
                incremental.export(store, tmp_path, "parquet", 0, lambda done, of: None)
            except Killed:
                killed += 1
            assert_complete(tmp_path)
    assert killed > 2
    assert_terms(tmp_path, DAY_ONE, EXPRESS)


async def test_summaries_in_json_lines_have_the_terms_and_envelopes_are_as_on_kafka(
    installation: Installation, tmp_path: Path
):
    play(installation, DAY_ONE)
    export(installation, tmp_path, "--format", "jsonl")
    summaries = tmp_path / "orders.jsonl"
    assert '"terms_response_hours":48' in summaries.read_text()
    summaries.write_text(re.sub(r',"terms_\w+":(\d+|null)', "", summaries.read_text()))  # as the last release wrote it
    assert "terms" not in summaries.read_text()
    play(installation, EXPRESS)
    export(installation, tmp_path, "--format", "jsonl")
    rows = [json.loads(line) for line in summaries.read_text().splitlines()]
    assert {row["order_id"]: row["terms_response_hours"] for row in rows} == {
        **dict.fromkeys(DAY_ONE, 48),
        "express": 24,
    }
    lines = [line for file in (tmp_path / "OrderRegistered").rglob("*.jsonl") for line in file.read_text().splitlines()]
    terms = {event["subject"]: event["data"].get("terms") for event in map(json.loads, lines)}
    assert terms.pop("express") == dict(zip(TERMS, EXPRESS_TERMS, strict=True))
    assert terms == dict.fromkeys(DAY_ONE)
