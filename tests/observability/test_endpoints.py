"""Each role serves its metrics and its health at the configured port."""

import asyncio

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from services.runtime.role_names import ROLE_NAMES
from services.runtime.roles import ROLES
from services.runtime.serve import metrics_ports
from services.settings import Settings, SettingsError
from services.telemetry.endpoint import endpoint
from services.telemetry.health import Health
from tests.observability.conftest import refusing
from tests.observability.prometheus import free_port
from tests.support.commands import CLIENT, ask_update, offer_refund, register
from tests.support.installation import Installation, until

Metrics = dict[str, dict[tuple[str, ...], float]]


async def ask(port: int, path: str) -> httpx.Response:
    async with httpx.AsyncClient(timeout=5) as client:
        return await client.get(f"http://127.0.0.1:{port}{path}")


async def metrics(port: int) -> Metrics:
    """By name, by the values of the labels in the order of their names."""
    found: Metrics = {}
    for family in text_string_to_metric_families((await ask(port, "/metrics")).text):
        for sample in family.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            found.setdefault(sample.name, {})[labels] = sample.value
    return found


async def ready(port: int) -> bool:
    return (await ask(port, "/health/ready")).status_code == 200


async def test_each_role_shows_what_it_did(installation: Installation, ports: dict[str, int]):
    await installation.run(*ROLES)
    first = await installation.send("order-1", register())
    await installation.send("order-1", offer_refund(), id=first["causationid"])  # the id again, with other data
    await installation.send("order-1", ask_update())
    await installation.send("order-1", ask_update())
    await installation.publish_raw(b"order-1", b"no command")
    async with httpx.AsyncClient() as browser:
        await browser.get(f"{installation.url}/api/orders/{CLIENT}")
    for port in ports.values():
        await until(lambda port=port: ready(port))
        assert (await ask(port, "/health/live")).json() == {"status": "ok"}
        assert (await ask(port, "/elsewhere")).status_code == 404
        await until(lambda port=port: shows(port, "resolution_dead_letters_unhandled", (), 1))
        await until(lambda port=port: shows(port, "resolution_deadlines_open", (), 1))
        # A look shows what Kafka says a moment after what the database says.
        await until(lambda port=port: shows(port, "resolution_consumer_lag_records", ("commands",), 0))
    assert (await metrics(ports["commands"]))["resolution_commands_total"] == {
        ("RegisterOrder", "accepted"): 1,
        ("OfferPartialRefund", "command_id_reused"): 1,
        ("OpenDispute", "accepted"): 1,
        ("OpenDispute", "dispute_open"): 1,
        ("", "dead_letter"): 1,
    }
    published = (await metrics(ports["relay"]))["resolution_published_records_total"]
    assert published == {("event",): 2, ("outcome",): 4, ("dead_letter",): 1}
    applied = (await metrics(ports["projections"]))["resolution_projection_applied_events_total"]
    assert applied[("order_page",)] == 2
    assert (await metrics(ports["http"]))["resolution_http_requests_total"] == {
        ("GET", "/api/orders/{order_id}", "401"): 1
    }


async def test_the_timer_tells_how_late_it_was(installation: Installation, ports: dict[str, int]):
    await installation.run(*ROLES, scale=86_400)  # 48 hours in 2 s
    await installation.send("order-1", register())
    await installation.send("order-1", ask_update())
    await until(lambda: shows(ports["timer"], "resolution_deadline_lateness_seconds_count", (), 1))
    found = await metrics(ports["timer"])
    assert found["resolution_deadline_lateness_seconds_sum"][()] < 2
    assert found["resolution_deadlines_asked_total"][()] >= 1


async def test_no_label_has_a_value_that_a_user_chose(installation: Installation, ports: dict[str, int]):
    await installation.run(*ROLES)
    await installation.send("marker-order", ask_update())
    async with httpx.AsyncClient() as browser:
        await browser.request("MARKER", f"{installation.url}/marker?marker=marker")
    await until(lambda: ready(ports["http"]))
    for port in ports.values():
        assert "marker" not in (await ask(port, "/metrics")).text.lower()


async def test_a_role_that_hangs_is_not_alive_any_more_and_says_since_when(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("services.telemetry.health._progress_at", {})  # other tests' loops are not this one's
    health, port = Health(), free_port()
    with endpoint("127.0.0.1", port, health):
        beating = asyncio.create_task(health.beat())
        await asyncio.sleep(0)
        assert (await ask(port, "/health/live")).status_code == 200
        beating.cancel()
        health._beat -= 60
        answer = await ask(port, "/health/live")
        assert answer.status_code == 503
        assert "the event loop has not run" in answer.json()["why"]


async def test_a_role_whose_server_is_away_is_alive_but_not_ready(installation: Installation, ports: dict[str, int]):
    await installation.run("http")
    await until(lambda: ready(ports["http"]))
    with refusing(installation):

        async def not_ready() -> bool:
            return not await ready(ports["http"])

        await until(not_ready)
        assert "postgresql" in (await ask(ports["http"], "/health/ready")).json()["why"]
        assert (await ask(ports["http"], "/health/live")).status_code == 200
    await until(lambda: ready(ports["http"]))


async def test_a_port_that_is_taken_is_said_so():
    port = free_port()
    with (
        endpoint("127.0.0.1", port, Health()),
        pytest.raises(SettingsError, match="Set RESOLUTION_METRICS_PORT"),
        endpoint("127.0.0.1", port, Health()),
    ):
        pass


def test_the_names_of_roles_are_those_of_the_roles_in_their_order():
    assert tuple(ROLES) == ROLE_NAMES


def test_a_role_alone_has_the_port_itself_and_several_count_from_it():
    known, settings = list(ROLES), Settings(metrics_port=9464)
    assert metrics_ports(settings, ["relay"], known) == {"relay": 9464}
    assert metrics_ports(settings, known, known) == {
        "commands": 9464, "timer": 9465, "relay": 9466, "projections": 9467, "http": 9468,
        "checkpoints": 9469,
    }  # fmt: skip
    assert metrics_ports(settings, ["http", "relay"], known) == {"http": 9468, "relay": 9466}
    assert metrics_ports(Settings(), known, known) == {}


@pytest.mark.parametrize("port", ["0", "none", "65535", "-1"])
def test_a_metrics_port_that_cannot_be_is_refused(port: str):
    with pytest.raises(SettingsError, match="RESOLUTION_METRICS_PORT"):
        Settings.from_environment({"RESOLUTION_METRICS_PORT": port})


async def shows(port: int, name: str, labels: tuple[str, ...], value: float) -> bool:
    return (await metrics(port)).get(name, {}).get(labels) == value
