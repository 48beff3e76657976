"""`resolution dead`: what is no command, looked at, sent again, or given up on."""

import asyncio
import json
from datetime import datetime
from typing import Any

import psycopg
import pytest
from resolution_contracts import Accept, CommandEnvelope
from typer.testing import CliRunner

from services import cli
from services.commands.dead_letters import NotRetried
from services.commands.skip_records import NotSkipped
from services.http import operator_view
from services.judging import decode
from services.judging.partitioner import partition_of
from tests.roles.test_parking import judging_here
from tests.support.commands import FREELANCER, ask_cancellation, register
from tests.support.installation import PARTITIONS, Installation, until
from tests.support.judgement_day import assert_as_the_oracle_says

ACCEPT = "resolution.command.Accept.v1"
REGISTER = "resolution.command.RegisterOrder.v1"
PLACE = partition_of(b"order-7", PARTITIONS)


async def resolution(installation: Installation, *arguments: str, code: int = 0) -> str:
    """In a thread: some commands have an event loop of their own."""
    environment = installation.settings.as_environment()
    result = await asyncio.to_thread(CliRunner().invoke, cli.app, arguments, env=environment)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == code, result.output
    return result.output


async def unhandled(installation: Installation, *options: str) -> list[dict[str, Any]]:
    listed = await resolution(installation, "dead", "list", "--json", *options)
    return [json.loads(line) for line in listed.splitlines()]


async def an_accept_that_an_earlier_version_could_not_read(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> datetime:
    """Returns the business time at which it was buried. The service reads it from now on."""
    opened = await installation.send("order-7", register()) and await installation.publish(
        "order-7", ask_cancellation()
    )
    with monkeypatch.context() as earlier:
        earlier.delitem(decode._NAMES, ACCEPT)
        accept = CommandEnvelope.of("order-7", Accept(actor=FREELANCER, dispute_id=opened), source="/tests")
        sent = await installation.publish_raw(accept.key, accept.to_json())
        await installation.until_published()
    return installation.clock.of_record(sent.timestamp)


@pytest.mark.parametrize("keep", [True, False])
async def test_a_retry_keeps_its_first_time_only_if_the_operator_says_so(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, keep: bool
):
    async with judging_here(installation):
        first = await an_accept_that_an_earlier_version_could_not_read(installation, monkeypatch)
        [letter] = await unhandled(installation)
        assert (letter["key"], letter["error"]) == ("order-7", "type is not a command that this service knows")
        await asyncio.sleep(0.1)
        await resolution(installation, "dead", "retry", letter["place"], *["--keep-time"] * keep)
        accepted = await until(lambda: settled(installation))
        assert (datetime.fromisoformat(accepted["time"]) == first) is keep
    assert await unhandled(installation) == []
    assert [e["handled"] for e in await unhandled(installation, "--all")] == ["retried"]
    said = await resolution(installation, "verify", "--from-commands")
    assert "Nothing differs" in said
    assert "1 dead letters that were discarded" in said


async def test_a_dead_letter_at_offset_0_keeps_its_first_time(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
):
    async with judging_here(installation):
        with monkeypatch.context() as earlier:
            earlier.delitem(decode._NAMES, REGISTER)
            envelope = CommandEnvelope.of("order-7", register(), source="/tests")
            sent = await installation.publish_raw(envelope.key, envelope.to_json())
            await installation.until_published()
        await asyncio.sleep(0.1)
        await resolution(installation, "dead", "retry", f"{PLACE}/0", "--keep-time")
        [event] = await until(lambda: installation.events("order-7"))
    assert datetime.fromisoformat(event["time"]) == installation.clock.of_record(sent.timestamp)
    assert "Nothing differs" in await resolution(installation, "verify", "--from-commands")


async def settled(installation: Installation) -> dict[str, Any] | None:
    found = [e for e in await installation.events("order-7") if e["type"].endswith(".Accepted.v1")]
    return found[0] if found else None


async def test_nobody_chooses_a_time_by_sending_the_header(installation: Installation):
    await installation.run("commands", "relay")
    await installation.publish_raw(b"order-7", b"garbage", partition=PLACE)
    await asyncio.sleep(0.2)
    envelope = CommandEnvelope.of("order-7", register(), source="/tests")
    for header in (b"0", b"17", b"-1", b"x", b"", b"9" * 30):
        sent = await installation.publish_raw(envelope.key, envelope.to_json(), headers=[("retry-of", header)])
    await installation.until_published()
    [event] = await installation.events("order-7")
    assert datetime.fromisoformat(event["time"]) > installation.clock.of_record(sent.timestamp - 1000)
    [dead] = await installation.read(installation.topics.dead_letters)
    assert datetime.fromisoformat(event["time"]) > installation.clock.of_record(
        int(dict(dead.headers)["source-timestamp"])
    )
    await assert_as_the_oracle_says(installation)


async def test_what_is_handled_is_listed_no_more_and_filters_choose(installation: Installation):
    await installation.run("commands", "relay")
    for key, value in ((b"order-1", b"garbage"), (b"order-2", b"[]"), (None, b"{}")):
        await installation.publish_raw(key, value)
    await installation.until_published()
    assert len(await unhandled(installation)) == 3
    assert [letter["key"] for letter in await unhandled(installation, "--key", "order-2")] == ["order-2"]
    [garbage] = await unhandled(installation, "--error", "not JSON")
    assert "value: garbage" in await resolution(installation, "dead", "show", garbage["place"])
    await resolution(installation, "dead", "discard", "--key", "order-1", "--reason", "a test")
    await resolution(installation, "dead", "retry", "--key", "order-2")
    await installation.until_published()
    handled = {letter["place"]: letter["handled"] for letter in await unhandled(installation, "--all")}
    assert sorted(str(how) for how in handled.values()) == ["None", "None", "discarded: a test", "retried"]
    # What was sent again is as unreadable as before, and dies again, at a place of its own.
    assert [letter["key"] for letter in await unhandled(installation, "--key", "order-2")] == ["order-2"]
    left = [letter["place"] for letter in await unhandled(installation)]
    with psycopg.connect(installation.settings.database) as connection:
        shown = operator_view.look(connection, installation.clock.now())
    assert shown["dead"] == 2
    assert sorted(f"{letter['partition']}/{letter['offset']}" for letter in shown["dead_letters"]) == sorted(left)


async def test_what_cannot_be_done_is_refused_with_a_sentence(installation: Installation):
    await installation.run("commands", "relay")
    elsewhere = (PLACE + 1) % PARTITIONS
    await installation.publish_raw(b"order-7", b"garbage", partition=elsewhere)
    await installation.until_published()
    with pytest.raises(NotRetried, match="not in the partition of its key"):
        await resolution(installation, "dead", "retry", f"{elsewhere}/0", "--keep-time")
    for wrong in (["retry"], ["retry", "7"], ["retry", "7/99"], ["retry", "7/0", "--key", "x"], ["show", "1/99"]):
        await resolution(installation, "dead", *wrong, code=2)
    await resolution(installation, "dead", "discard", f"{elsewhere}/0", "--reason", " ", code=2)
    with pytest.raises(NotSkipped, match=rf"There is no partition 99: .* has {PARTITIONS}"):
        await resolution(installation, "dead", "skip", "99/0", "--reason", "x")
    assert len(await installation.read(installation.topics.commands)) == 1


async def test_of_topics_that_were_renewed_only_the_newest_can_be_skipped(installation: Installation):
    await installation.run("commands", "relay")
    await installation.send("order-7", register())
    installation.query("UPDATE positions SET base = 100 WHERE consumer = 'commands'")
    with pytest.raises(NotSkipped, match=rf"{PLACE}/99 was in an earlier topic. .* begins at {PLACE}/100"):
        await resolution(installation, "dead", "skip", f"{PLACE}/99", "--reason", "x")
    with pytest.raises(NotSkipped, match=f"The record at {PLACE}/100 can be read"):
        await resolution(installation, "dead", "skip", f"{PLACE}/100", "--reason", "x")
