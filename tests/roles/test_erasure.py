"""What was written on an order, and what is confidential, is found nowhere once it is erased; history still holds."""

import asyncio
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg.sql import SQL, Identifier
from resolution_contracts import Accept, EraseOrderTexts, OpenDispute, OrderUpdateRequest
from typer.testing import CliRunner, Result

from services import cli
from services.orders.texts import texts
from services.sealing.seal import encode_event
from services.settings import Settings, SettingsError
from tests.audit.test_verify import findings
from tests.support.commands import CLIENT, FREELANCER, ask_cancellation, offer_refund, register
from tests.support.installation import Installation, until

MASTER, OLDER = "11" * 32, "22" * 32
SECRET = "The basement floods each spring"
REASON = "minor_dissatisfaction"


async def resolution(installation: Installation, *arguments: str) -> Result:
    environment = installation.settings.as_environment() | {"COLUMNS": "200", "NO_COLOR": "1"}
    return await asyncio.to_thread(CliRunner().invoke, cli.app, list(arguments), env=environment)


async def done(installation: Installation, *arguments: str) -> str:
    result = await resolution(installation, *arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def ask(text: str) -> OpenDispute:
    return OpenDispute(actor=CLIENT, request=OrderUpdateRequest(kind="order_update", message=text))


async def told_secrets(installation: Installation, *roles: str) -> None:
    """`order-1` is settled, `order-2` has an open offer, `order-3` an open request to cancel; all wrote the secret."""
    installation.settings = replace(installation.settings, master_key=MASTER)
    installation.supervisor = type(installation.supervisor)(installation.settings)
    await installation.run(*(roles or ("commands", "relay", "timer", "projections")))
    for number in (1, 2, 3):
        await installation.send(f"order-{number}", register())
    asked = await installation.send("order-1", ask(SECRET))
    answer = Accept(actor=FREELANCER, dispute_id=asked["causationid"], message=SECRET)
    await installation.send("order-1", answer)
    await installation.send("order-2", offer_refund().model_copy(update={"explanation": SECRET}))
    comment = ask_cancellation().request.model_copy(update={"comment": SECRET})
    await installation.send("order-3", ask_cancellation().model_copy(update={"request": comment}))
    await installation.publish_raw(b"order-1", SECRET.encode())
    await installation.until_published()
    if not roles:
        await installation.until_projected()


def as_stored_before_there_were_keys(installation: Installation, order_id: str) -> None:
    """Puts the order's events as version 1 stored them: plain."""
    with installation.store() as store:
        for event in store.history(order_id):
            installation.query(
                "UPDATE order_events SET topic = %s, state = %s WHERE originator_id = %s AND originator_version = %s",
                (type(event).__name__, encode_event(event), order_id, event.originator_version),
            )
    installation.query("DELETE FROM order_keys WHERE order_id = %s", (order_id,))


def places(installation: Installation, *wanted: str) -> set[str]:
    """Returns the tables with rows that contain one of these strings, as text or as bytes."""
    found = set()
    with psycopg.connect(installation.settings.database) as connection:
        for schema, table in connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') "
            "AND tablename NOT LIKE 'outcomes\\_%'"  # the months, which are in `outcomes`
        ).fetchall():
            for (row,) in connection.execute(SQL("SELECT t::text FROM {} AS t").format(Identifier(schema, table))):
                if any(text in row or text.encode().hex() in row for text in wanted):
                    found.add(f"{schema}.{table}")
    return found


def files_with(directory: Path, text: str) -> list[Path]:
    return [file for file in directory.rglob("*") if file.is_file() and text in file.read_text()]


async def test_an_erasure_leaves_no_text_in_any_table_export_or_replay(installation: Installation, tmp_path: Path):
    await told_secrets(installation)
    await installation.stop("commands")
    as_stored_before_there_were_keys(installation, "order-1")
    await installation.run("commands")
    assert places(installation, SECRET, REASON) == {"public.order_events", "public.outcomes"}
    await done(installation, "export", "--to", str(tmp_path / "export"), "--format", "jsonl")
    assert len(files_with(tmp_path / "export", SECRET)) == 2
    for number, event in ((1, 4), (2, 3), (3, 3)):
        said = await done(installation, "erase", f"order-{number}")
        assert said.startswith(f"order-{number}: the texts were erased by event {event}.")
    await installation.until_projected()
    assert places(installation, SECRET, REASON) == set()

    await done(installation, "export", "--to", str(tmp_path / "export"), "--format", "jsonl")
    now = (await done(installation, "replay", "--all", "--as-of", installation.clock.now().isoformat(), "--to",
                      str(tmp_path / "now"), "--json"))  # fmt: skip
    assert SECRET not in now
    for directory in (tmp_path / "export", tmp_path / "now"):
        assert files_with(directory, SECRET) == files_with(directory, REASON) == []
    assert files_with(tmp_path / "export", "[erased]")
    for number in (1, 2, 3):
        told = await done(installation, "replay", f"order-{number}", "--json")
        assert SECRET not in told
        assert REASON not in told
        assert "[erased]" in json.dumps(installation.page(f"order-{number}"))
        assert "OrderTextsErased" in [
            event["type"].split(".")[2] for event in await installation.events(f"order-{number}")
        ]

    assert (await findings(installation))["differences"] == []
    assert (await findings(installation, "--from-commands"))["differences"] == []
    assert "no texts to erase" in await done(installation, "erase", "order-2")


async def test_an_order_goes_on_after_an_erasure_the_same_from_memory_and_from_the_store(installation: Installation):
    await told_secrets(installation)
    await installation.send("order-1", EraseOrderTexts())
    asked = (await installation.events("order-3"))[-1]["data"]["dispute_id"]
    await installation.send("order-3", EraseOrderTexts())
    await installation.stop("commands")
    await installation.publish("order-3", Accept(actor=FREELANCER, dispute_id=asked))
    await installation.publish("order-1", ask("What about now?"))
    await installation.run("commands")
    await installation.until_published()
    canceled = (await installation.events("order-3"))[-1]
    assert (canceled["type"].split(".")[2], canceled["data"]["comment"]) == ("OrderCanceled", "[erased]")
    assert (await installation.events("order-1"))[-1]["data"]["message"] == "What about now?"
    with installation.store() as store:
        assert [found for event in store.history("order-1") if (found := texts(event))] == [
            {"message": "[erased]"},
            {"message": "[erased]"},
            {"message": "What about now?"},
        ]
    assert installation.query(
        "SELECT number, wrapped IS NULL FROM order_keys WHERE order_id = 'order-1' ORDER BY 1"
    ) == [
        (1, True),
        (2, False),
    ]
    await installation.until_projected()
    assert (await findings(installation))["differences"] == []


async def test_without_its_master_key_nothing_starts_and_nothing_is_read(installation: Installation):
    await told_secrets(installation)
    await installation.stop()
    installation.query("DELETE FROM outcomes WHERE kind = 'dead'")
    assert places(installation, SECRET, REASON) == set(), "the database alone gives no text"
    installation.settings = replace(installation.settings, master_key=OLDER)
    result = await resolution(installation, "replay", "order-1")
    assert "this database has keys that the master key" in str(result.exception)
    installation.supervisor = type(installation.supervisor)(installation.settings)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await installation.run("commands")


async def test_a_new_master_key_takes_over(installation: Installation, tmp_path: Path):
    await told_secrets(installation, "commands", "relay")
    await installation.stop()
    file = tmp_path / "keys"
    file.write_text(f"{OLDER}\n{MASTER}\n")
    installation.settings = replace(installation.settings, master_key=None, master_key_file=file)
    assert "3 keys were wrapped again" in await done(installation, "rewrap-keys")
    assert "0 keys were wrapped again" in await done(installation, "rewrap-keys")
    file.write_text(OLDER)
    installation.settings = replace(installation.settings, master_key_file=file)
    assert SECRET in await done(installation, "replay", "order-1")


async def test_what_cannot_be_erased_is_refused_with_a_sentence(installation: Installation):
    await installation.run("commands", "relay")
    unknown = await resolution(installation, "erase", "order-9")
    assert "nobody registered" in str(unknown.exception) or "order-9" in str(unknown.exception)
    await installation.send("order-1", register())
    installation.query("UPDATE order_events SET topic = 'FromALaterVersion'")
    await installation.stop("commands")
    await installation.publish("order-1", ask(SECRET))
    await installation.run("commands")
    await until(lambda: installation.query("SELECT count(*) FROM parked_commands") == [(1,)])
    parked = await resolution(installation, "erase", "order-1")
    assert "order-1 is parked" in str(parked.exception)


@pytest.mark.parametrize(
    "tamper",
    [
        "UPDATE order_events SET state = set_byte(state, length(state) - 10, 65 + (get_byte(state, length(state) - 10) = 65)::int) "
        "WHERE topic = 'DisputeOpened.v2'",
        "DELETE FROM order_keys",
        "UPDATE order_keys SET wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1)",
    ],
    ids=["a text", "a key deleted", "a key changed"],
)
async def test_what_is_sealed_cannot_be_changed_unseen(installation: Installation, tamper: str):
    await told_secrets(installation, "commands", "relay")
    await installation.stop()
    installation.query(tamper)
    result = await resolution(installation, "replay", "order-2")
    assert result.exit_code == 1
    assert SECRET not in str(result.exception)
    verified = await resolution(installation, "verify", "--json")
    assert verified.exit_code == 1


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"RESOLUTION_MASTER_KEY": "abc"}, "RESOLUTION_MASTER_KEY cannot be used: a master key is 64 hexadecimal"),
        ({"RESOLUTION_MASTER_KEY_FILE": "/nowhere"}, "RESOLUTION_MASTER_KEY_FILE is /nowhere, which is no file"),
        ({"RESOLUTION_MASTER_KEY": MASTER, "RESOLUTION_MASTER_KEY_FILE": __file__}, "are both given; leave one out"),
        ({"RESOLUTION_MASTER_KEY_FILE": __file__}, "RESOLUTION_MASTER_KEY_FILE cannot be used: a master key is 64"),
    ],
)
def test_a_master_key_that_is_none_is_refused(environment: dict[str, Any], said: str):
    with pytest.raises(SettingsError, match=said):
        Settings.from_environment(environment)
    assert MASTER not in repr(Settings(master_key=MASTER))
