"""A process that gets nowhere says so, and is started again where that may help."""

import logging
from time import monotonic

import pytest

from services.telemetry import health
from services.telemetry.health import Guard, Health, assigned, progress, stopped, trouble
from tests.support.commands import ask_update, register
from tests.support.installation import Installation, until


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> Health:
    """Of a process in which nothing has run yet."""
    for name in ("_progress_at", "_troubles", "_assigned", "_stopped"):
        monkeypatch.setattr(health, name, {})
    found = Health()
    found.started = True
    found.server("postgresql")
    return found


def passed(loop: str, seconds_ago: float) -> None:
    progress(loop)
    health._progress_at[loop] = monotonic() - seconds_ago


def test_a_loop_that_has_not_got_through_is_not_ready_after_half_a_minute_and_not_alive_after_90_seconds(fresh: Health):
    passed("relay", 29)
    assert (fresh.not_ready(), fresh.not_alive()) == ("", "")
    passed("relay", 31)
    assert fresh.not_ready() == "relay has made no progress for 31 s"
    assert fresh.not_alive() == ""
    passed("relay", 91)
    assert fresh.not_alive() == "relay has made no progress for 91 s"


def test_a_loop_that_waits_for_a_server_is_not_ready_but_alive(fresh: Health):
    passed("commands", 91)
    trouble("commands", "the stored positions cannot be read", waits=True)
    assert fresh.not_ready() == "commands has made no progress for 91 s (the stored positions cannot be read)"
    assert fresh.not_alive() == ""
    trouble("commands", "a batch failed")
    assert fresh.not_alive() == "commands has made no progress for 91 s (a batch failed)"


def test_a_loop_that_never_got_through_counts_from_its_first_trouble(fresh: Health):
    trouble("commands", "polling fails")
    health._progress_at["commands"] -= 91
    assert "polling fails" in fresh.not_alive()


def test_work_that_nobody_does_is_not_ready_and_then_not_alive(fresh: Health):
    fresh.unmoved("commands/3", 31, restart=True)
    assert fresh.not_ready() == "no work was done on commands/3 for 31 s"
    fresh.unmoved("commands/3", 91, restart=True)
    assert fresh.not_alive() == "no work was done on commands/3 for 91 s"
    fresh.unmoved("commands/3", 91, restart=False)
    assert fresh.not_alive() == ""


def test_a_partition_that_cannot_be_read_is_said_but_does_not_end_the_process(fresh: Health):
    assigned("commands", [3])
    stopped("commands", 3, "commands/3 cannot be read")
    fresh.unmoved("commands/3", 91, restart=True)
    assert fresh.not_ready() == "commands/3 cannot be read"
    assert fresh.not_alive() == ""
    assigned("commands", [4])
    assert "cannot be read" not in fresh.not_ready(), "another process has it now"


def test_a_guard_says_it_every_half_minute_and_ends_the_process_at_last(
    fresh: Health, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
):
    ended: list[str] = []
    guard = Guard(fresh, ended.append)
    now = monotonic()
    health._progress_at["relay"] = now
    with caplog.at_level(logging.ERROR):
        for second in range(0, 115, 5):
            monkeypatch.setattr(health, "monotonic", lambda second=second: now + second)
            fresh._beat = now + second
            guard.look()
    assert [record.message for record in caplog.records] == [
        f"no progress: relay has made no progress for {second} s" for second in (35, 65, 95)
    ]
    assert ended == ["relay has made no progress for 110 s"]


@pytest.mark.long
@pytest.mark.timeout(400)
async def test_a_role_that_waits_for_a_lock_for_ever_ends_itself_and_goes_on_once_it_is_free(
    installation: Installation,
):
    await installation.run("commands", "relay")
    await installation.send("order-1", register())
    before = installation.supervisor.pid("commands")
    with installation.holding("positions"):
        await installation.publish("order-1", ask_update())
        await until(lambda: installation.supervisor.pid("commands") not in (None, before), 200)
    await installation.until_published()
