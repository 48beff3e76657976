"""What the pages say to somebody who sent a form, without servers."""

import re
from html import unescape
from uuid import uuid4

import httpx
import pytest

from services.http import pages
from services.orders import Order
from services.orders.decide import auto_acceptance
from services.orders.evolve import evolve_all
from tests.http.without_servers import OneOrder, pages_of
from tests.support.controls import (
    CLIENT,
    FREELANCER,
    HOURS,
    ORDER,
    T,
    cancel,
    decline,
    opened,
    order_update,
    registered,
    registered_awaiting,
)

UPDATE = {"command": "OpenDispute", "form": "OpenDispute-order_update", "kind": "order_update"}
EXTENSION = {"command": "OpenDispute", "form": "OpenDispute-delivery_extension", "kind": "delivery_extension"}
CANCELLATION = {"command": "OpenDispute", "form": "OpenDispute-cancellation", "kind": "cancellation"}
REFUND = {"command": "OfferPartialRefund", "form": "OfferPartialRefund-partial_refund", "kind": "partial_refund"}
REFUND |= {"currency": "USD", "explanation": "Sorry.", "reason": "other"}
CANCEL = {"command": "CancelOrder", "form": "CancelOrder-"}
HOSTILE = "ann\u202eevil"


def alerts(page: httpx.Response) -> list[str]:
    """What the page says is wrong, as a person reads it."""
    found = re.findall(r'role="alert"[^>]*>(.*?)</p>', page.text, re.DOTALL)
    return [unescape(re.sub(r"<.*?>", "", alert)).strip() for alert in found]


@pytest.mark.parametrize(
    ("user", "form", "sentences"),
    [
        (CLIENT, UPDATE | {"message": "  "}, ["“What do you want to know?” is empty. Fill it in."]),
        (
            CLIENT,
            UPDATE | {"message": "x" * 2600},
            ["“What do you want to know?”: Write at most 2,500 characters, not 2,600."],
        ),
        (
            FREELANCER,
            EXTENSION | {"days": "61", "note": ""},
            [
                "“Days to add to the delivery date”: Enter a whole number from 1 to 60. You entered “61”.",
                "“Note to the client” is empty. Fill it in.",
            ],
        ),
        (
            FREELANCER,
            EXTENSION | {"days": "²", "note": "Please."},
            ["“Days to add to the delivery date”: Enter a whole number from 1 to 60. You entered “²”."],
        ),
        (
            FREELANCER,
            EXTENSION | {"note": "Please."},
            ["“Days to add to the delivery date” is empty. Enter a whole number from 1 to 60."],
        ),
        (
            FREELANCER,
            CANCELLATION | {"reason": "<b>", "comment": "Sorry."},
            ["“Reason”: Choose one from the list. You entered “<b>”."],
        ),
        (
            FREELANCER,
            CANCELLATION | {"comment": "Sorry."},
            ["“Reason” is empty. Choose one from the list."],
        ),
        (
            FREELANCER,
            REFUND | {"amount": "60.01"},
            [
                "“Amount”: A partial refund is at most 60% of the original price: offer $60.00 or less. "
                "You entered “60.01”."
            ],
        ),
        (FREELANCER, REFUND | {"amount": "0"}, ["“Amount”: Enter more than zero. You entered “0”."]),
        (
            FREELANCER,
            REFUND | {"amount": "ten"},
            [
                "“Amount”: Enter an amount with at most 2 decimals after a point and without other separators, "
                "such as 1250.00. You entered “ten”."
            ],
        ),
    ],
)
async def test_a_refused_field_says_its_label_its_limit_and_what_was_entered(user, form, sentences):
    async with pages_of(OneOrder(), user) as browser:
        page = await browser.post("/orders/order-1", data=form)
        assert page.status_code == 422
        assert alerts(page) == sentences
        assert page.text.count('aria-invalid="true"') == len(sentences)
        assert "data-refused" in page.text


async def test_a_line_break_counts_once_though_browsers_send_two_characters():
    gateway = OneOrder()
    async with pages_of(gateway, CLIENT) as browser:
        message = "\n".join(["x" * 49] * 50)  # 2,499 characters
        page = await browser.post("/orders/order-1", data=UPDATE | {"message": message.replace("\n", "\r\n")})
        assert page.status_code == 200
        assert gateway.events[-1].message == message


async def test_what_is_said_to_be_done_was_done_by_the_viewer():
    gateway = OneOrder()
    async with pages_of(gateway, CLIENT) as browser:
        for done in ("?done=CancelOrder", "?after=1&sent=00000000-0000-0000-0000-000000000000"):
            assert "canceled" not in (await browser.get(f"/orders/order-1{done}")).text
        page = await browser.post("/orders/order-1", data=UPDATE | {"message": "How is it going?"})
        assert "Your request was sent." in page.text
        asked = page.url.raw_path.decode()
    declined = gateway.judge(decline(dispute=gateway.events[-1].dispute_id))
    async with pages_of(gateway, CLIENT) as browser:
        assert "You declined" not in (await browser.get(f"/orders/order-1?sent={declined}")).text
    async with pages_of(gateway, FREELANCER) as browser:
        assert "You declined the request." in (await browser.get(f"/orders/order-1?sent={declined}")).text
        assert "Your request was sent" not in (await browser.get(asked)).text
    refused = gateway.judge(cancel())
    async with pages_of(gateway, CLIENT) as browser:
        assert "The order is canceled." not in (await browser.get(f"/orders/order-1?sent={refused}")).text


async def test_what_was_accepted_is_said_while_the_read_model_lags():
    gateway = OneOrder()
    gateway.judge(registered_awaiting())
    async with pages_of(gateway, CLIENT) as browser:
        gateway.lags = True
        page = await browser.post("/orders/order-1", data=CANCEL | {"comment": "Plans changed."})
        assert page.status_code == 200
        assert "The order is canceled." in page.text
        assert "This page does not show the change yet." in page.text


async def test_a_form_of_an_action_that_is_over_keeps_what_was_written():
    gateway = OneOrder()
    async with pages_of(gateway, CLIENT) as browser:
        gateway.judge(opened(order_update()))
        page = await browser.post("/orders/order-1", data=UPDATE | {"message": "Once more?"})
        assert page.status_code == 422
        assert "must end before another request" in alerts(page)[0]
        assert "Once more?" in page.text


async def test_after_a_restart_the_pages_lead_to_the_login_and_a_form_is_kept():
    gateway = OneOrder()
    async with pages_of(gateway, CLIENT) as browser:
        browser.cookies.clear()
        browser.headers["Cookie"] = "resolution_token=of.another.process"
        page = await browser.get("/orders/order-1")
        assert page.url.path == "/login"
        page = await browser.post("/orders/order-1", data=UPDATE | {"message": "How is it going?"})
        assert page.status_code == 401
        assert 'href="/login"' in page.text
        assert "How is it going?" in page.text


@pytest.mark.parametrize("order_id", [".", "..", "..."])
async def test_every_order_id_has_an_address(order_id):
    gateway = OneOrder(order_id)
    async with pages_of(gateway, CLIENT) as browser:
        page = await browser.get("/")
        [address] = re.findall(r'href="(/orders/[^"]*)"', page.text)
        page = await browser.get(address)
        assert page.url.path == address
        assert f"Order <bdi>{order_id}</bdi>" in page.text
        assert f'action="{address}"' in page.text
        sent = await browser.post(address, data=UPDATE | {"message": "How is it going?"})
        assert sent.url.path == address
        api = await browser.get(f"/api{address}", headers={"Accept": "application/json"})
        assert api.json()["order_id"] == order_id


async def test_ids_of_people_do_not_turn_the_words_around_them():
    gateway = OneOrder()
    gateway.judge(registered(client_id=HOSTILE))
    gateway.judge(opened(order_update(), by=HOSTILE))
    for user in (HOSTILE, FREELANCER):
        async with pages_of(gateway, user) as browser:
            for path in ("/", "/orders/order-1"):
                page = await browser.get(path)
                assert HOSTILE in page.text
                shown = page.text.replace(f'name="viewer" value="{HOSTILE}"', "")
                assert shown.count(HOSTILE) == shown.count(f"<bdi>{HOSTILE}</bdi>")


async def test_what_is_no_form_is_refused_like_one():
    async with pages_of(OneOrder(), CLIENT) as browser:
        browser.cookies.clear()
        headers = {"Content-Type": "multipart/form-data; boundary=x"}
        page = await browser.post("/orders/order-1", content=b"--x\r\ngarbage", headers=headers)
        assert page.status_code == 401


def test_the_open_dispute_says_who_asked_for_what_and_who_has_to_answer():
    def said(kind, opened_by, viewer, **request):
        return pages._waiting({"kind": kind, "opened_by": opened_by, "request": request}, viewer)

    assert said("order_update", "client", "client") == (
        "You asked for an order update. Waiting for the freelancer's answer."
    )
    assert said("order_update", "client", "freelancer") == (
        "The client asked for an order update, and is waiting for your answer."
    )
    assert said("cancellation", "freelancer", None) == (
        "The freelancer asked to cancel the order. Waiting for the client's answer."
    )
    assert said("delivery_extension", "freelancer", "freelancer", days=1) == (
        "You asked to extend the delivery date by 1 day. Waiting for the client's answer."
    )
    assert said("partial_refund", "freelancer", "client", amount={"amount": 2500, "currency": "USD"}) == (
        "The freelancer offered a partial refund of $25.00, and is waiting for your answer."
    )


async def test_the_page_shows_these_sentences():
    gateway = OneOrder()
    async with pages_of(gateway, CLIENT) as browser:
        page = await browser.post("/orders/order-1", data=UPDATE | {"message": "How is it going?"})
    assert "You asked for an order update. Waiting for the freelancer&#39;s answer." in page.text


async def test_instants_in_refusals_are_written_for_people():
    async with pages_of(OneOrder(), CLIENT) as browser:
        page = await browser.post("/orders/order-1", data=CANCEL | {"comment": "Too slow."})
    [alert] = alerts(page)
    assert "You can cancel it without the freelancer's approval from " in alert
    assert re.search(r" from \d{4}-\d\d-\d\d \d\d:\d\d UTC on\.", alert)
    assert ".000000Z" not in alert


async def test_no_form_asks_for_an_amount_that_it_could_not_take():
    gateway = OneOrder()
    gateway.judge(registered(price={"amount": 10000, "currency": "ZZZ"}))
    async with pages_of(gateway, FREELANCER) as browser:
        page = await browser.get("/orders/order-1")
    assert 'name="amount"' not in page.text
    assert "The order&#39;s currency, ZZZ, is not one of ISO 4217" in page.text


@pytest.mark.parametrize("user", [FREELANCER, "eve"])
async def test_a_form_acts_as_nobody_else_than_the_person_for_whom_it_was_made(user):
    """Tabs share a login: who logs in in one of them is logged in in all."""
    gateway = OneOrder()
    async with pages_of(gateway, CLIENT) as browser:
        page = await browser.get("/orders/order-1")
        forms = page.text.count('action="/orders/order-1"')
        assert forms > 0
        assert page.text.count(f'name="viewer" value="{CLIENT}"') == forms
        before = len(gateway.events)
        await browser.post("/login", data={"user": user})
        page = await browser.post("/orders/order-1", data=UPDATE | {"viewer": CLIENT, "message": "How is it going?"})
        assert page.status_code == 403
        assert f"This page was opened as <bdi>{CLIENT}</bdi>; you are now logged in as <bdi>{user}</bdi>." in page.text
        assert "How is it going?</textarea>" in page.text
        assert len(gateway.events) == before
        await browser.post("/login", data={"user": CLIENT})
        page = await browser.post("/orders/order-1", data=UPDATE | {"viewer": CLIENT, "message": "How is it going?"})
        assert "Your request was sent." in page.text


async def test_refusals_on_the_order_page_do_not_send_to_the_order_page():
    gateway = OneOrder()
    gateway.judge(registered())
    gateway.judge(opened(order_update()))
    dispute = gateway.events[-1].dispute_id
    gateway.judge(decline(dispute=dispute))
    answer = {"command": "Accept", "form": "Accept-order_update", "message": "Done."}
    async with pages_of(gateway, FREELANCER) as browser:
        page = await browser.post("/orders/order-1", data=answer | {"dispute_id": dispute})
        assert alerts(page) == [
            "This dispute is already settled (declined), so nothing was changed. This page shows what is possible now."
        ]
        page = await browser.post("/orders/order-1", data=answer | {"dispute_id": str(uuid4())})
        assert alerts(page) == [
            "This order has no such dispute. This page shows its disputes, and what is possible now."
        ]


async def test_D20_the_page_speaks_of_the_orders_own_terms():
    gateway = OneOrder()
    terms = {"response_hours": 24, "longest_extension_days": 5, "largest_refund_percent": 30}
    gateway.judge(registered(terms=terms))
    async with pages_of(gateway, FREELANCER) as browser:
        page = (await browser.get("/orders/order-1")).text
        assert "<dt>Time to answer</dt><dd>24 hours</dd>" in page
        assert "has 24 hours to accept or decline." in page
        assert "Days to add to the delivery date, 1 to 5" in page
        assert "Amount in USD, up to $30.00" in page
        wrong = await browser.post("/orders/order-1", data=EXTENSION | {"days": "6", "note": "Please."})
        assert alerts(wrong) == [
            "“Days to add to the delivery date”: Enter a whole number from 1 to 5. You entered “6”."
        ]
        wrong = await browser.post("/orders/order-1", data=REFUND | {"amount": "30.01"})
        assert alerts(wrong) == [
            "“Amount”: A partial refund is at most 30% of the original price: offer $30.00 or less. "
            "You entered “30.01”."
        ]
        sent = await browser.post("/orders/order-1", data=EXTENSION | {"days": "5", "note": "Please."})
        assert "Your request was sent. The other party has 24 hours to answer." in sent.text
    order = evolve_all(Order(id=ORDER), gateway.events)
    gateway.events += auto_acceptance(order, T + 25 * HOURS)
    async with pages_of(gateway, CLIENT) as browser:
        assert "Nobody answered within 24 hours, so" in (await browser.get("/orders/order-1")).text


async def test_D20_what_the_terms_rule_out_is_said_and_cannot_be_sent():
    gateway = OneOrder()
    gateway.judge(registered(terms={"longest_extension_days": 0, "largest_refund_percent": 0, "response_hours": 1}))
    async with pages_of(gateway, FREELANCER) as browser:
        page = (await browser.get("/orders/order-1")).text
        assert "has 1 hour to accept or decline." in page
        assert "This order&#39;s terms allow no delivery extension." in page
        assert "This order&#39;s terms allow no partial refund." in page
        for form in (EXTENSION | {"days": "1", "note": "Please."}, REFUND | {"amount": "1"}):
            assert (await browser.post("/orders/order-1", data=form)).status_code == 422
        for odd in ({"command": "Accept", "form": "Accept-", "days": "1", "dispute_id": "x"}, EXTENSION | {"days": ""}):
            assert (await browser.post("/orders/order-1", data=odd)).status_code == 422
    assert [type(event).__name__ for event in gateway.events] == ["OrderRegistered"]
