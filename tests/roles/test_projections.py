"""Read models apply every event once, whatever dies. A failing event stops one of them visibly and loses nothing."""

import asyncio
from datetime import timedelta

import psycopg
import pytest

from projections import READ_MODELS, metrics, order_page
from projections.framework.projector import Projector
from projections.metrics import Metrics
from projections.order_page import NotAParty, OrderPages
from services.eventstore.append import Batch
from tests.support.commands import CLIENT, FREELANCER, ask_cancellation, offer_refund, register
from tests.support.installation import Installation, until
from tests.support.judgement_day import assert_read_models_are_as_replayed


async def test_two_projectors_apply_each_event_once(installation: Installation):
    await installation.run("commands", "relay")
    for number in range(30):
        await installation.publish(f"order-{number}", register())
        await installation.publish(f"order-{number}", offer_refund())
    await installation.until_published()
    with installation.store() as one, installation.store() as two:
        projectors = [Projector(one, OrderPages()), Projector(two, OrderPages())]
        for projector in projectors:
            projector.prepare()
        results = await asyncio.gather(
            *(asyncio.to_thread(projector.catch_up) for projector in projectors), return_exceptions=True
        )
    assert 60 in results
    assert all(result in (0, 60) or isinstance(result, Exception) for result in results)
    assert installation.query("SELECT count(*), min(version), max(version) FROM order_page.orders") == [(30, 2, 2)]


async def test_two_projectors_that_see_different_ends_apply_each_event_once(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
):
    """What one has read is not counted by the other meanwhile, though they do not read as far."""
    await installation.run("commands")
    for number in range(20):
        await installation.publish(f"order-{number}", register())
    await until(lambda: installation.query("SELECT count(*) FROM order_events") == [(20,)])
    with installation.store() as one, installation.store() as two:
        slow, quick = Projector(one, Metrics()), Projector(two, Metrics())
        quick.prepare()
        meanwhile: list[int] = []

        def step(name: str) -> None:
            if not meanwhile and name == "projections.read":
                meanwhile.append(0)
                meanwhile.append(quick.catch_up(15))

        monkeypatch.setattr("projections.framework.projector.point", step)
        assert slow.catch_up() == 20
    with psycopg.connect(installation.settings.database) as connection:
        assert metrics.look(connection, CLIENT)["client"]["orders"] == 20
    assert meanwhile == [0, 0]  # it did not wait either


async def test_an_event_that_this_version_does_not_know_stops_the_page_until_it_does(installation: Installation):
    await installation.run("commands", "projections")
    await installation.publish("order-1", register())
    await until(lambda: installation.page("order-1"))
    installation.query(
        "INSERT INTO order_events VALUES ('order-1', 2, 'SomethingNew', '{}', 2); SELECT pg_notify('order_events', '')"
    )
    with installation.store() as store:
        from eventsourcing.persistence import MapperDeserialisationError

        def stands_still() -> bool:
            try:
                Projector(store, OrderPages()).catch_up()
            except MapperDeserialisationError as error:
                return "SomethingNew" in str(error)
            return False  # for the role had it in hand

        await until(stands_still)
    page = installation.page("order-1")
    assert page is not None
    assert page["version"] == 1
    known = installation.query("SELECT state FROM order_events WHERE originator_version = 1")[0][0]
    fixed = bytes(known).replace(b'"sequence":1', b'"sequence":2')
    installation.query(
        "UPDATE order_events SET topic = 'OrderDelivered', state = %s WHERE originator_version = 2", (fixed,)
    )
    await until(lambda: (installation.page("order-1") or {}).get("status") == "delivered", 60)


async def test_a_read_model_that_fails_stands_still_alone_and_follows_once_it_works(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
):
    def fails(*_: object) -> None:
        raise ArithmeticError("cannot count")

    def positions() -> dict[str, int]:
        return dict(installation.query("SELECT * FROM projection_tracking WHERE application_name <> '__migration__'"))

    await installation.run("commands")
    with monkeypatch.context() as broken:
        broken.setattr(Metrics, "tally", fails)
        async with installation.here("projections"):
            for number in range(3):
                await installation.publish(f"order-{number}", register())
                await until(lambda number=number: installation.page(f"order-{number}"))
            assert positions() == {name: 0 if name == "metrics" else 3 for name in READ_MODELS}
            assert "read model metrics stands still; trying again in 0.5 s" in caplog.messages
            broken.undo()
            await installation.publish("order-3", register())
            await until(lambda: positions() == dict.fromkeys(READ_MODELS, 4))
    assert_read_models_are_as_replayed(installation)


async def test_D3_the_page_changes_at_the_deadline_before_the_event_is_stored(installation: Installation):
    await installation.run("commands", "projections")
    await installation.publish("order-1", register())
    dispute_id = await installation.publish("order-1", ask_cancellation())
    await until(lambda: (installation.page("order-1") or {}).get("open_dispute"))
    deadline = installation.clock.now() + timedelta(hours=48)
    with installation.store() as store, store.factory.datastore.get_connection() as connection:  # type: ignore[attr-defined]
        row = connection.execute("SELECT document FROM order_page.orders").fetchone()["document"]
    before = order_page.view(order_page._decode(row), [], FREELANCER, deadline - timedelta(minutes=5))
    after = order_page.view(order_page._decode(row), [], FREELANCER, deadline)
    assert before["open_dispute"]["dispute_id"] == dispute_id
    assert after["open_dispute"] is None
    assert after["status"] == "canceled"
    assert after["disputes"][-1]["settled_as"] == "auto_accepted"
    assert after["available_actions"] == {"freelancer": []}


async def test_a_stranger_does_not_see_the_page(installation: Installation):
    await installation.run("commands", "projections")
    await installation.publish("order-1", register())
    await until(lambda: installation.page("order-1", CLIENT))
    with pytest.raises(NotAParty):
        installation.page("order-1", "somebody")


async def test_a_page_follows_an_append_within_the_same_second(installation: Installation):
    """By notification, not by the look from time to time."""
    await installation.run("projections")
    from services.orders import Order
    from tests.support.decisions import carry_out

    with installation.store() as store:
        for number in range(5):
            order = Order(id=f"order-{number}")
            store.append(carry_out(order, register(), "c", installation.clock.now()).events, Batch())
            await until(lambda number=number: installation.page(f"order-{number}"), 0.9)
