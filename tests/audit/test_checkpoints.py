"""Checkpoints reveal every change of stored events, of the file, and of signatures."""

import asyncio
import base64
import hashlib
import json
import os
import signal
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from msgspec import structs
from resolution_contracts import RefundReason

from services import fault_points
from services.audit.verify_checkpoints import CannotVerify, verify_checkpoints
from services.checkpoints.role import CheckpointsRole
from services.checkpoints.signing_keys import KeyFileError, own_key, read_private_key, read_public_key, write_key_pair
from services.embedded import Servers
from services.eventstore.checkpoint_chain import Checkpoint, StoreHasGap, line, line_hash
from services.eventstore.database import connect
from services.eventstore.read_events import copy_events
from services.settings import Settings, SettingsError
from tests.faults.test_processes_die import fail_at
from tests.roles.test_erasure import as_stored_before_there_were_keys
from tests.support.backups import copy_of
from tests.support.checkpoints import (
    assert_chain_holds,
    chain,
    cover,
    export,
    store_events,
    until_covered,
    verify,
    with_key,
    writing,
)
from tests.support.commands import offer_refund, register
from tests.support.installation import Installation, until


@pytest.fixture
async def covered(installation: Installation, tmp_path: Path) -> tuple[Installation, Path, Path]:
    """23 events in five checkpoints; the exported file, and the public key's."""
    public = with_key(installation, tmp_path / "key")
    store_events(installation, 23)
    await cover(installation)
    return installation, await export(installation, tmp_path / "chain.jsonl"), public


# --- what is written ---


async def test_a_checkpoint_is_what_its_description_says(covered: tuple[Installation, Path, Path]):
    """Computed again from the description in docs/auditors.md alone."""
    installation, file, public = covered
    [(salt,)] = installation.query("SELECT salt FROM checkpoints")
    rows = installation.query("SELECT * FROM order_events ORDER BY notification_id")
    previous, covered_up_to = "0" * 64, 0
    for number, text in enumerate(file.read_text().splitlines(), 1):
        checkpoint = json.loads(text)
        assert (checkpoint["number"], checkpoint["previous"]) == (number, previous)
        assert checkpoint["first"] == covered_up_to + 1
        encoded = b"".join(map(_row, rows[checkpoint["first"] - 1 : checkpoint["last"]]))
        assert checkpoint["events"] == hashlib.sha256(salt + encoded).hexdigest()
        assert checkpoint["salt"] == hashlib.sha256(salt).hexdigest()
        assert len(base64.b64decode(checkpoint["tags"])) == 4 * (checkpoint["last"] + 1 - checkpoint["first"])
        signature = bytes.fromhex(checkpoint.pop("signature"))
        statement = json.dumps(checkpoint, separators=(",", ":")).encode()
        load_pem_public_key(public.read_bytes()).verify(signature, statement)  # type: ignore[union-attr, call-arg]
        previous, covered_up_to = hashlib.sha256(text.encode()).hexdigest(), checkpoint["last"]
    assert covered_up_to == len(rows) == 23


def _row(row: tuple[str, int, str, bytes, int]) -> bytes:
    order_id, version, topic, state, number = row
    columns = [order_id.encode(), struct.pack(">q", version), topic.encode(), state, struct.pack(">q", number)]
    return struct.pack(">h", 5) + b"".join(struct.pack(">i", len(column)) + column for column in columns)


async def test_nothing_changed_is_nothing_found_and_later_events_are_counted(
    covered: tuple[Installation, Path, Path],
):
    installation, file, public = covered
    store_events(installation, 4)
    found = await verify(installation, file, public)
    assert found["differences"] == []
    assert (found["checkpoints"], found["events"], found["uncovered"]) == (5, 23, 4)
    assert (found["last_checkpoint"], found["last_event"]) == (5, 23)


async def test_D16_hashes_of_an_event_with_a_confidential_field_do_not_give_it_away(
    installation: Installation, tmp_path: Path
):
    """Whoever knows the public events and the topic tries each reason there is."""
    with_key(installation, tmp_path / "key")
    await installation.run("commands")
    await installation.publish("order-1", register())
    await installation.publish("order-1", offer_refund())
    await until(lambda: installation.query("SELECT count(*) FROM order_events") == [(2,)])
    as_stored_before_there_were_keys(installation, "order-1")  # when the reason was not sealed
    published = b"".join(map(line, await cover(installation)))
    with connect(installation.settings.database, autocommit=True) as connection:
        [_, offer] = map(bytes, copy_events(connection, 1, 2))
    [(reason,)] = {(r,) for r in RefundReason if str(r).encode() in offer}
    for guess in RefundReason:
        guessed = offer.replace(str(reason).encode(), str(guess).encode())
        for part in (guessed, guessed[:-12]):
            digest = hashlib.sha256(part).digest()
            assert digest.hex().encode() not in published
            assert base64.b64encode(digest[:4])[:5] not in published
    assert str(reason).encode() not in published


# --- what is done to the events ---


TAMPERING = {
    "a bit flipped": (
        "UPDATE order_events SET state = set_bit(state, 3, 1 - get_bit(state, 3)) WHERE notification_id = 7",
        ["checkpoint 2 does not fit events 6 to 10: event 7 edited"],
    ),
    "another column": (
        "UPDATE order_events SET originator_version = 99 WHERE notification_id = 23",
        ["checkpoint 5 does not fit events 21 to 23: event 23 edited"],
    ),
    "bytes moved between columns": (
        "UPDATE order_events SET originator_id = originator_id || left(topic, 1), topic = substr(topic, 2) "
        "WHERE notification_id = 1",
        ["checkpoint 1 does not fit events 1 to 5: event 1 edited"],
    ),
    "deleted": (
        "DELETE FROM order_events WHERE notification_id IN (12, 13)",
        ["checkpoint 3 does not fit events 11 to 15: events 12 to 13 deleted"],
    ),
    "the last ones deleted": (
        "DELETE FROM order_events WHERE notification_id > 20",
        ["checkpoint 5 does not fit events 21 to 23: events 21 to 23 deleted"],
    ),
    "inserted in front": (
        "INSERT INTO order_events VALUES ('order-9', 1, 'OrderDelivered', '{}', 0)",
        ["inserted, since events are numbered from 1: event 0"],
    ),
    "inserted beside": (
        "DROP INDEX order_events_notification_id_idx; "
        "INSERT INTO order_events VALUES ('order-9', 1, 'OrderDelivered', '{}', 8)",
        ["checkpoint 2 does not fit events 6 to 10: event 8 inserted"],
    ),
    "swapped": (
        "UPDATE order_events SET notification_id = -1 WHERE notification_id = 6; "
        "UPDATE order_events SET notification_id = 6 WHERE notification_id = 9; "
        "UPDATE order_events SET notification_id = 9 WHERE notification_id = -1",
        ["checkpoint 2 does not fit events 6 to 10: events 6, 9 put in another order"],
    ),
    "swapped between two checkpoints": (
        "UPDATE order_events SET notification_id = -1 WHERE notification_id = 5; "
        "UPDATE order_events SET notification_id = 5 WHERE notification_id = 16; "
        "UPDATE order_events SET notification_id = 16 WHERE notification_id = -1",
        [
            "checkpoint 1 does not fit events 1 to 5: event 5 put in another order",
            "checkpoint 4 does not fit events 16 to 20: event 16 put in another order",
        ],
    ),
    "deleted, and the later ones numbered anew": (
        "DROP INDEX order_events_notification_id_idx; DELETE FROM order_events WHERE notification_id = 19; "
        "UPDATE order_events SET notification_id = notification_id - 1 WHERE notification_id > 19",
        [
            "checkpoint 4 does not fit events 16 to 20: event 19 deleted; events 19 to 20 put in another order",
            "checkpoint 5 does not fit events 21 to 23: events 21 to 22 put in another order",
        ],
    ),
    "the salt": (
        "UPDATE checkpoints SET salt = sha256(salt)",
        ["5 checkpoints were made with another salt than the database has"],
    ),
    "the salt deleted": ("DELETE FROM checkpoints", ["the database has lost the salt of the checkpoints"]),
}


async def test_whatever_is_done_to_stored_events_is_named(covered: tuple[Installation, Path, Path]):
    installation, file, public = covered
    for what, (sql, expected) in TAMPERING.items():
        with copy_of(installation) as tampered:
            for statement in sql.split("; "):
                tampered.query(statement)
            assert_said(what, (await verify(tampered, file, public))["differences"], expected)


def assert_said(what: str, said: list[str], expected: list[str]) -> None:
    """As many sentences as expected, each with this beginning."""
    assert len(said) == len(expected), (what, said)
    assert all(sentence.startswith(start) for sentence, start in zip(said, expected, strict=True)), (what, said)


async def test_a_store_of_many_runs_is_compared_by_several_processes(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    public = with_key(installation, tmp_path / "key", checkpoint_events=20)
    store_events(installation, 400)
    await cover(installation)
    file = await export(installation, tmp_path / "chain.jsonl")
    monkeypatch.setattr("services.audit.verify_checkpoints._RUN_EVENTS", 50)
    installation.query("DELETE FROM order_events WHERE notification_id IN (33, 333)")
    found = await verify(installation, file, public)
    assert found["events"] == 400
    assert [sentence.rpartition(": ")[2] for sentence in found["differences"]] == [
        "event 33 deleted", "event 333 deleted",
    ]  # fmt: skip


# --- what is done to the file ---


def _forge(lines: list[bytes]) -> list[bytes]:
    """A checkpoint that says the same, signed by somebody else in the name of the key."""
    [forged] = [structs.replace(_checkpoint(lines[2]), signature="")]
    statement = json.loads(line(forged))
    del statement["signature"]
    signature = Ed25519PrivateKey.generate().sign(json.dumps(statement, separators=(",", ":")).encode())
    lines[2] = line(structs.replace(forged, signature=signature.hex()))
    return lines


def _unknown_key(lines: list[bytes]) -> list[bytes]:
    lines[2] = line(structs.replace(_checkpoint(lines[2]), key="0123456789abcdef"))
    return lines


def _edit(lines: list[bytes]) -> list[bytes]:
    lines[2] = line(structs.replace(_checkpoint(lines[2]), at="2020-01-01T00:00:00.000000Z"))
    return lines


def _checkpoint(text: bytes) -> Checkpoint:
    return Checkpoint(**json.loads(text))


GAP = "checkpoint 3 missing: nothing here proves events 11 to 15"
FILES: dict[str, tuple[Callable[[list[bytes]], list[bytes]], list[str]]] = {
    "the first removed": (lambda lines: lines[1:], ["checkpoint 1 missing: nothing here proves events 1 to 5"]),
    "one removed": (lambda lines: lines[:2] + lines[3:], [GAP]),
    "the last ones removed": (
        lambda lines: lines[:3],
        ["checkpoints 4 to 5 missing at the end: the database says that 5 were published"],
    ),
    "cut off in a line": (
        lambda lines: [*lines[:4], lines[4][:200]],
        ["line 5 is not a checkpoint", "checkpoint 5 missing at the end"],
    ),
    "empty": (
        lambda lines: [],
        ["the file has no checkpoint that can be trusted", "checkpoints 1 to 5 missing at the end"],
    ),
    "twice": (lambda lines: [*lines[:3], lines[2], *lines[3:]], ["checkpoint 3 comes again"]),
    "in another order": (
        lambda lines: [lines[0], lines[2], lines[1], *lines[3:]],
        ["checkpoint 2 missing: nothing here proves events 6 to 10", "checkpoint 2 comes again, or too late"],
    ),
    "a forged signature": (_forge, ["checkpoint 3 in line 3 was not signed by key", GAP]),
    "an unknown key": (_unknown_key, ["checkpoint 3 in line 3 is signed by key 0123456789abcdef", GAP]),
    "edited": (_edit, ["checkpoint 3 in line 3 was not signed by key", GAP]),
    "written otherwise": (
        lambda lines: [*lines[:2], lines[2].replace(b'{"format"', b'{ "format"'), *lines[3:]],
        ["line 3 is not a checkpoint", GAP],
    ),
}


async def test_whatever_is_done_to_the_file_is_named(covered: tuple[Installation, Path, Path]):
    installation, file, public = covered
    lines = file.read_bytes().splitlines()
    for what, (change, expected) in FILES.items():
        file.write_bytes(b"".join(text + b"\n" for text in change(list(lines))))
        assert_said(what, (await verify(installation, file, public))["differences"], expected)


async def test_another_history_signed_by_the_right_key_does_not_follow(
    covered: tuple[Installation, Path, Path], tmp_path: Path
):
    """Somebody with the key writes a second checkpoint with the same number. The next published checkpoint reveals it."""
    installation, file, public = covered
    lines = file.read_bytes().splitlines()
    other = structs.replace(_checkpoint(lines[2]), at="2020-01-01T00:00:00.000000Z")
    statement = {name: value for name, value in structs.asdict(other).items() if name != "signature"}
    key = read_private_key(tmp_path / "key" / "checkpoint.key")
    signature = key.sign(json.dumps(statement, separators=(",", ":")).encode())
    lines[2] = line(structs.replace(other, signature=signature.hex()))
    file.write_bytes(b"".join(text + b"\n" for text in lines))
    [said] = (await verify(installation, file, public))["differences"]
    assert said.startswith("checkpoint 4 does not follow from the one before it")


# --- keys ---


async def test_an_auditor_who_trusts_the_first_key_follows_announced_ones(installation: Installation, tmp_path: Path):
    first = with_key(installation, tmp_path / "first")
    second_private, second = write_key_pair(tmp_path / "second")
    store_events(installation, 5)
    await cover(installation)
    installation.settings = replace(installation.settings, checkpoint_next_key_file=second)
    async with writing(installation):  # announced at once, without an event
        await until(lambda: installation.query("SELECT published FROM checkpoints") == [(2,)])
    installation.settings = replace(
        installation.settings, checkpoint_key_file=second_private, checkpoint_next_key_file=None
    )
    store_events(installation, 5)
    await cover(installation)
    file = await export(installation, tmp_path / "chain.jsonl")
    assert (await verify(installation, file, first))["differences"] == []
    said = (await verify(installation, file, second))["differences"]
    assert said[0].startswith("checkpoint 1 in line 1 is signed by key")

    # The key that was replaced, stolen later, signs nothing that counts.
    installation.settings = replace(installation.settings, checkpoint_key_file=tmp_path / "first" / "checkpoint.key")
    store_events(installation, 5)
    await cover(installation)
    await export(installation, file)
    [said, _] = (await verify(installation, file, first, second))["differences"]
    assert "which another replaced in checkpoint 3" in said


async def test_a_key_that_nobody_announced_is_said_and_has_to_be_given(
    installation: Installation, tmp_path: Path, caplog: pytest.LogCaptureFixture
):
    first = with_key(installation, tmp_path / "first")
    store_events(installation, 5)
    await cover(installation)
    second = with_key(installation, tmp_path / "second")
    store_events(installation, 5)
    await cover(installation)
    assert "have to be given its public key" in caplog.text
    file = await export(installation, tmp_path / "chain.jsonl")
    assert (await verify(installation, file, first, second))["differences"] == []
    assert "which no checkpoint before announces" in (await verify(installation, file, first))["differences"][0]


def test_a_key_is_not_replaced_and_files_that_are_none_are_refused(tmp_path: Path):
    private, public = write_key_pair(tmp_path)
    assert private.stat().st_mode & 0o077 == 0
    with pytest.raises(KeyFileError, match="it is not replaced"):
        write_key_pair(tmp_path)
    with pytest.raises(KeyFileError, match="no public key"):
        read_public_key(private)
    with pytest.raises(KeyFileError, match="no private key"):
        read_private_key(public)


# --- the role ---


async def test_of_two_roles_the_newer_one_writes_and_the_chain_does_not_fork(
    installation: Installation, tmp_path: Path
):
    """The older one still believes in its tail, and has signed the number that the newer one publishes."""
    public = with_key(installation, tmp_path / "key", checkpoint_file=tmp_path / "copy.jsonl")
    store_events(installation, 7)
    first = Installation(installation.settings)
    second = Installation(installation.settings)
    mark = tmp_path / "stopped"
    first.supervisor.environment["RESOLUTION_FAULT"] = f"checkpoints.covered 3 stop {mark}"
    try:
        await first.run("checkpoints")
        await until_covered(installation)
        store_events(installation, 4)
        await until(mark.exists)
        sleeper = first.supervisor.pid("checkpoints")
        assert sleeper is not None
        await second.run("checkpoints")
        await until_covered(installation)
        os.kill(sleeper, signal.SIGCONT)
        for _ in range(20):  # both write by turns, since each is started again
            store_events(installation, 3)
            await asyncio.sleep(0.1)
        await until_covered(installation)
    finally:
        await asyncio.gather(first.stop(), second.stop())
    await assert_chain_holds(installation, public)
    file = await export(installation, tmp_path / "chain.jsonl")
    async with writing(installation):  # brings the copy up to date, whoever was killed or fenced before doing so
        await until(lambda: (tmp_path / "copy.jsonl").read_bytes() == file.read_bytes())


async def test_killed_at_each_of_its_steps_it_goes_on_where_the_topic_ends(installation: Installation, tmp_path: Path):
    copy = tmp_path / "copy.jsonl"
    public = with_key(installation, tmp_path / "key", checkpoint_file=copy)
    served = Installation(installation.settings)
    await served.run("checkpoints")
    try:
        for step in fault_points.POINTS["checkpoints"]:
            store_events(installation, 12)
            await fail_at(served, "checkpoints", step, 2, "kill", tmp_path)
        store_events(installation, 3)
        await assert_chain_holds(installation, public)
        file = await export(installation, tmp_path / "chain.jsonl")
        await until(lambda: copy.read_bytes() == file.read_bytes())
    finally:
        await served.stop()


async def test_the_copy_in_a_file_is_completed_after_a_crash(installation: Installation, tmp_path: Path):
    copy = tmp_path / "copy.jsonl"
    with_key(installation, tmp_path / "key", checkpoint_file=copy)
    store_events(installation, 23)
    async with writing(installation):
        await until_covered(installation)
        whole = (await export(installation, tmp_path / "chain.jsonl")).read_bytes()
        await until(lambda: copy.exists() and copy.read_bytes() == whole)
    for left in (b"", whole[: len(whole) // 2], whole[:-1]):
        copy.write_bytes(left)
        async with writing(installation):
            await until(lambda: copy.read_bytes() == whole)


async def test_a_store_with_a_hole_is_not_signed(installation: Installation, tmp_path: Path):
    with_key(installation, tmp_path / "key")
    store_events(installation, 8)
    installation.query("DELETE FROM order_events WHERE notification_id = 7")
    role = asyncio.create_task(cover(installation))
    await until(lambda: role.done() or installation.query("SELECT published FROM checkpoints") == [(1,)])
    role.cancel()
    assert [checkpoint.last for checkpoint in await chain(installation)] == [5]
    with pytest.raises(StoreHasGap, match="Event 7 is missing"):
        await CheckpointsRole(installation.settings, installation.topics).run(asyncio.Event())


@pytest.mark.parametrize(
    ("sql", "said"),
    [
        ("DELETE FROM order_events WHERE notification_id > 3", "the store ends at 3"),
        ("UPDATE checkpoints SET salt = sha256(salt)", "of another database"),
        ("UPDATE checkpoints SET published = 6", "checkpoint 6 was published, but .* no longer has it"),
    ],
)
async def test_another_database_or_an_earlier_state_of_it_is_refused(
    covered: tuple[Installation, Path, Path], sql: str, said: str
):
    installation, _, _ = covered
    installation.query(sql)
    with pytest.raises(RuntimeError, match=said):
        await CheckpointsRole(installation.settings, installation.topics).run(asyncio.Event())


async def test_checkpoints_that_a_restored_database_does_not_know_have_to_fit(covered: tuple[Installation, Path, Path]):
    """After a restore the same events come out again, but where partitions mix otherwise, under other numbers."""
    installation, _, public = covered
    installation.query("UPDATE checkpoints SET published = 2")
    store_events(installation, 3)
    await cover(installation)
    await assert_chain_holds(installation, public)
    installation.query("UPDATE checkpoints SET published = 2")
    for number, other in ((17, -1), (18, 17), (-1, 18)):
        installation.query("UPDATE order_events SET notification_id = %s WHERE notification_id = %s", (other, number))
    with pytest.raises(RuntimeError, match="checkpoint 4 does not fit events 16 to 20"):
        await CheckpointsRole(installation.settings, installation.topics).run(asyncio.Event())


async def test_without_a_key_the_role_says_so_and_is_ready(installation: Installation):
    await installation.run("checkpoints")
    store_events(installation, 5)
    await asyncio.sleep(1)
    assert await chain(installation) == []


def test_embedded_servers_have_a_key_of_their_own(tmp_path: Path):
    key = own_key(tmp_path / "checkpoints")
    assert own_key(tmp_path / "checkpoints") == key
    assert read_private_key(key).public_key() == read_public_key(tmp_path / "checkpoints" / "checkpoint.pub")


@pytest.mark.parametrize(
    "variable",
    ["CHECKPOINT_KEY_FILE=/no/such", "CHECKPOINT_EVENTS=0", "CHECKPOINT_SECONDS=soon", "CHECKPOINT_SECONDS=-1"],
)
def test_settings_that_cannot_be_used_are_named(variable: str):
    name, _, value = variable.partition("=")
    with pytest.raises(SettingsError, match=f"RESOLUTION_{name}"):
        Settings.from_environment({f"RESOLUTION_{name}": value})


async def test_it_says_what_it_cannot_verify_with(covered: tuple[Installation, Path, Path], servers: Servers):
    installation, file, public = covered
    key = read_public_key(public)
    assert servers.database is not None
    with pytest.raises(CannotVerify, match="not the service's database"):
        verify_checkpoints([servers.database], 0, file, [key], 1, lambda done, of: None)
    with pytest.raises(CannotVerify, match="cannot be read"):
        verify_checkpoints([installation.settings.database], 0, file / "no", [key], 1, lambda done, of: None)
    with pytest.raises(psycopg.Error):
        verify_checkpoints(["postgresql://127.0.0.1:1/none"], 0, file, [key], 1, lambda done, of: None)
    assert line_hash(b"") == hashlib.sha256(b"").hexdigest()
