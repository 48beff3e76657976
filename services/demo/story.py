"""The story: a marketplace's orders over a few days, each with a tale that shows some rules.

A step says who does what, and what the expected result is. Together the tales show every command, every event and every
rejection code. Numbers in parentheses, such as R3 and D8, name rules (docs/rules.md). All orders but one have the help
page's terms.
"""

from datetime import datetime, timedelta
from typing import Any

from resolution_contracts import Code, Money, OrderTerms

from services.orders.policy import HELP_PAGE

from .script import Expected, Happens, Moment, Person, Said, Step, Tale, happens, money, new_id, on, runs_out, sends

MIA, BEN = Person("mia", "Mia"), Person("ben", "Ben")
CHLOE, LENA = Person("chloe", "Chloe"), Person("lena", "Lena")
TOM, AIKO = Person("tom", "Tom"), Person("aiko", "Aiko")
NOOR, SAM = Person("noor", "Noor"), Person("sam", "Sam")
SHOP = Person("", "The order service", "/orders-service")
BANK = Person("", "The payment service", "/payments-service")
CARE = Person("", "Customer care", "/customer-care")
NOBODY = Person("", "A broken script", "/broken-script")

DAY_1, DAY_2, RUN_OUT, DAY_3 = Moment.DAY_1, Moment.DAY_2, Moment.RUN_OUT, Moment.DAY_3
OUTAGE, OVERDUE, RECOVERY, EPILOGUE = Moment.OUTAGE, Moment.OVERDUE, Moment.RECOVERY, Moment.EPILOGUE
HOURS, DAYS = timedelta(hours=1), timedelta(days=1)

WINDOW = f"{HELP_PAGE.response_hours} hours"
MOST_DAYS = HELP_PAGE.longest_extension_days
EXPRESS = OrderTerms(
    response_hours=24, very_late_after_hours=6, longest_extension_days=3, largest_refund_percent=25, name="express"
)


def story(start: datetime) -> list[Tale]:
    """Returns the tales of a story that begins at this business time. Each day starts with requests that run out.

    The order with terms of its own is the last one, so that its time to answer is over at the end of the second day.
    """
    first_day = [poster(start), haiku(start), brochure(start), logo(start), website(start), mascot(), podcast(start)]
    second_day = [app(start), ebook(start), song(start), flyer(start), menu(start), video(start), mistyped()]
    return [*first_day, *second_day, banner(start)]


# fmt: off

# --- nobody answers ---


def poster(start: datetime) -> Tale:
    news = new_id()
    return Tale(
        "poster", "Aiko draws a poster for Ben, 45,000 JPY",
        f"Ben asks for news and gets no answer: after {WINDOW} the system accepts (R3), openly as such (D8, D17).",
        on(DAY_1,
           registers(BEN, AIKO, money(45_000, "JPY"), start + 9 * DAYS),
           BEN.does("asks how the poster is coming along", asks_news(), opens("order_update", opened_by="client"),
                    id=news)),
        on(RUN_OUT,
           runs_out(news, f"Aiko has not answered Ben for {WINDOW}.", happens("AutoAccepted", kind="order_update"))),
        on(DAY_3,
           AIKO.does("answers at last", accepts(news, "Nearly done!"), settled("auto_accepted")),
           SHOP.does("records the delivery", delivers(), happens("OrderDelivered")),
           SHOP.does("records that Ben is content", completes(), happens("OrderCompleted"))))


def haiku(start: datetime) -> Tale:
    offer, most = new_id(), money(599, "JPY")
    return Tale(
        "haiku", "Aiko translates a haiku for Mia, 999 JPY",
        "Yen have no cents, and the largest refund of 999 is 599 (R8, D9). Mia ignores the offer, so she gets it (R3).",
        on(DAY_1,
           registers(MIA, AIKO, money(999, "JPY"), start + 5 * DAYS),
           AIKO.does("offers 600 yen back", offers(money(600, "JPY")), refused(Code.REFUND_OVER_LIMIT, limit=most)),
           AIKO.does("offers 599 yen back", offers(most), opens("partial_refund", amount=most), id=offer)),
        on(RUN_OUT,
           runs_out(offer, f"Mia has not answered Aiko for {WINDOW}.", happens("AutoAccepted", kind="partial_refund"),
                    happens("PartialRefundGranted", refund_id=offer, amount=most))),
        on(DAY_3,
           BANK.does("pays the 599 yen", pays(refund_id=offer), happens("RefundProcessed", refund_id=offer))))


def brochure(start: datetime) -> Tale:
    request, price = new_id(), money(300, "EUR")
    return Tale(
        "brochure", "Sam writes a brochure for Chloe, 300.00 EUR",
        f"Chloe asks to cancel. Sam ignores it, so after {WINDOW} the order is canceled (R1, R3).",
        on(DAY_1,
           registers(CHLOE, SAM, price, start + 6 * DAYS),
           CHLOE.does("asks to cancel: the trade fair is off",
                      asks_cancellation("The trade fair is off.", "requirements_changed"),
                      opens("cancellation", opened_by="client"), id=request)),
        on(RUN_OUT,
           runs_out(request, f"Sam has not answered Chloe for {WINDOW}.", happens("AutoAccepted", kind="cancellation"),
                    canceled("client", "auto_accepted", price))),
        on(DAY_3,
           SHOP.does("records a completion that comes too late", completes(), refused(Code.ORDER_CLOSED))))


# --- refunds ---


def logo(start: datetime) -> Tale:
    first, second, cancellation = new_id(), new_id(), new_id()
    return Tale(
        "logo", "Tom draws a logo for Mia, 200.00 USD",
        "A partial refund is offered, declined, offered again, accepted and paid; one is the most (R8, R9). "
        "Canceled later, 40% is left to pay back (D10).",
        on(DAY_1,
           registers(MIA, TOM, usd(200), start + 8 * DAYS),
           TOM.does("offers 122.00 USD back, 61%", offers(usd(122)), refused(Code.REFUND_OVER_LIMIT, limit=usd(120))),
           TOM.does("offers 50 euros instead", offers(money(50, "EUR")), refused(Code.CURRENCY_MISMATCH)),
           MIA.does("offers herself a refund", offers(usd(50)), refused(Code.NOT_ALLOWED)),
           TOM.does("offers 50.00 USD back, 25%", offers(usd(50), "scope_reduced"),
                    opens("partial_refund", amount=usd(50)), id=first),
           MIA.does("declines: too little", declines(first, "Too little."), happens("Declined", by="client")),
           TOM.does("offers 120.00 USD back, the most allowed", offers(usd(120)),
                    opens("partial_refund", amount=usd(120)), id=second),
           MIA.does("accepts", accepts(second), happens("Accepted", by="client"),
                    happens("PartialRefundGranted", refund_id=second, amount=usd(120))),
           BANK.does("pays it", pays(refund_id=second), happens("RefundProcessed", refund_id=second)),
           BANK.does("records the payment a second time", pays(refund_id=second)),
           TOM.does("offers 10.00 USD more", offers(usd(10)), refused(Code.REFUND_ALREADY_GRANTED))),
        on(DAY_2,
           MIA.does("asks to cancel the rest",
                    asks_cancellation("Let us part as friends.", "not_as_expected"),
                    opens("cancellation"), id=cancellation),
           TOM.does("accepts", accepts(cancellation, "Fair enough."), happens("Accepted", by="freelancer"),
                    canceled("client", "agreement", usd(80))),
           MIA.does("asks how the logo is coming along", asks_news(), refused(Code.ORDER_CLOSED))))


# --- time ---


def website(start: datetime) -> Tale:
    extension, due = new_id(), start + 10 * DAYS
    return Tale(
        "website", "Noor builds a website for Lena, 1,500.00 EUR",
        f"Nothing to extend before the requirements are there (D13); 5 days are, {MOST_DAYS + 1} are not (R7); "
        "delivered, revised, delivered again, completed.",
        on(DAY_1,
           registers(LENA, NOOR, money(1500, "EUR"), None),
           LENA.does("asks for news already", asks_news(), refused(Code.NOT_ALLOWED)),
           SHOP.does("records that Lena sent what Noor needs", submits_requirements(expected_delivery_at=due),
                     happens("RequirementsSubmitted", expected_delivery_at=due)),
           NOOR.does(f"asks for {MOST_DAYS + 1} more days", asks_days(MOST_DAYS + 1), refused(Code.INVALID)),
           NOOR.does("asks for 5 more days", asks_days(5), opens("delivery_extension", days=5), id=extension),
           NOOR.does("accepts her own request", accepts(extension), refused(Code.NOT_ALLOWED)),
           LENA.does("accepts", accepts(extension), happens("Accepted", by="client"),
                     happens("DeliveryDateExtended", days=5, expected_delivery_at=due + 5 * DAYS))),
        on(DAY_2,
           SHOP.does("records the delivery", delivers(), happens("OrderDelivered")),
           NOOR.does("asks for 3 more days all the same", asks_days(3), refused(Code.NOT_ALLOWED)),
           SHOP.does("records that Lena wants a revision", wants_revision(), happens("RevisionRequested")),
           SHOP.does("records the second delivery", delivers(), happens("OrderDelivered")),
           SHOP.does("records a third one", delivers(), refused(Code.INVALID_TRANSITION)),
           SHOP.does("records that Lena is content", completes(), happens("OrderCompleted"))))


def mascot() -> Tale:
    price = money(90, "EUR")
    return Tale(
        "mascot", "Sam invents a mascot for Lena, 90.00 EUR",
        "While the order waits for requirements, the client may cancel at once; it counts against nobody (R5, D15).",
        on(DAY_1,
           registers(LENA, SAM, price, None),
           LENA.does("cancels, without asking", cancels(comment="Ordered twice."),
                     canceled("client", "awaiting_requirements", price, counts=False))))


def podcast(start: datetime) -> Tale:
    due = start + 20 * HOURS
    return Tale(
        "podcast", "Sam edits a podcast for Ben, 400.00 USD, due within 20 hours",
        f"{HELP_PAGE.very_late_after_hours} hours past its date the order is very late, and Ben may cancel, whatever "
        "request is open (R5, D5, D6).",
        on(DAY_1,
           registers(BEN, SAM, usd(400), due),
           BEN.does("cancels, without asking", cancels(comment="Changed my mind."),
                    refused(Code.APPROVAL_NEEDED, possible_from=due + HELP_PAGE.very_late_after))),
        on(DAY_2,
           SAM.does(f"is late and asks for {MOST_DAYS} more days", asks_days(MOST_DAYS),
                    opens("delivery_extension", days=MOST_DAYS))),
        on(DAY_3,
           BEN.does("cancels, for it is very late", cancels(comment="Too late."),
                    closes("delivery_extension", "order_canceled"),
                    canceled("client", "very_late", usd(400)))))


# --- terms of its own ---


def banner(start: datetime) -> Tale:
    extension, price, due = new_id(), usd(80), start + 4 * DAYS
    return Tale(
        "banner", "Tom paints a banner for Chloe, 80.00 USD, under express terms",
        f"The order has terms of its own, which count (D20): {EXPRESS.response_hours} hours to answer, very late after "
        f"{EXPRESS.very_late_after_hours} hours, at most {EXPRESS.longest_extension_days} more days, and at most "
        f"{EXPRESS.largest_refund_percent}% back.",
        on(DAY_1,
           registers(CHLOE, TOM, price, due, EXPRESS),
           SHOP.does("registers it again, under the help page's terms", registration(CHLOE, TOM, price, due),
                     refused(Code.ORDER_EXISTS)),
           CHLOE.does("cancels, without asking", cancels(comment="I found one."),
                      refused(Code.APPROVAL_NEEDED, possible_from=due + EXPRESS.very_late_after_hours * HOURS)),
           TOM.does("offers 40% back", offers_percent(40), refused(Code.REFUND_OVER_LIMIT, limit=usd(20))),
           TOM.does("asks for 4 more days", asks_days(4),
                    refused(Code.INVALID, errors=[{"path": "request.days", "reason": "should be at most 3"}])),
           TOM.does("asks for 3 more days", asks_days(3), opens("delivery_extension", days=3), id=extension)),
        on(DAY_2,
           runs_out(extension, f"Chloe has not answered Tom for {EXPRESS.response_hours} hours.",
                    happens("AutoAccepted", kind="delivery_extension"),
                    happens("DeliveryDateExtended", days=3, expected_delivery_at=due + 3 * DAYS))))


# --- one dispute at a time ---


def app(start: datetime) -> Tale:
    cancellation, extension = new_id(), new_id()
    return Tale(
        "app", "Noor writes an app for Chloe, 2,400.00 USD",
        "Both open a dispute at once: one opens (R11). Only its requester withdraws it (R2, D7).",
        on(DAY_2,
           registers(CHLOE, NOOR, usd(2400), start + 20 * DAYS),
           CHLOE.does("asks to cancel", asks_cancellation("I have no budget left."), opens("cancellation"),
                      id=cancellation, at_once=True),
           NOOR.does("asks for 7 more days in the same moment", asks_days(7),
                     refused(Code.DISPUTE_OPEN, dispute_id=cancellation, kind="cancellation")),
           MIA.does("accepts, in an order that is not hers", accepts(cancellation), refused(Code.NOT_A_PARTY)),
           NOOR.does("withdraws it, though it is Chloe's", withdraws(cancellation), refused(Code.NOT_ALLOWED)),
           CHLOE.does("withdraws it", withdraws(cancellation), happens("Withdrawn", kind="cancellation", by="client")),
           NOOR.does("asks for 7 more days again", asks_days(7), opens("delivery_extension", days=7), id=extension),
           CHLOE.does("declines", declines(extension, "It is urgent."), happens("Declined", by="client"))))


def flyer(start: datetime) -> Tale:
    request = new_id()
    return Tale(
        "flyer", "Tom designs a flyer for Ben, 75.00 EUR",
        "Delivery leaves a cancellation request open, completion closes it, and nothing happens at its deadline (D11).",
        on(DAY_2,
           registers(BEN, TOM, money(75, "EUR"), start + 2 * DAYS),
           BEN.does("asks to cancel",
                    asks_cancellation("No answer so far.", "freelancer_unresponsive"),
                    opens("cancellation"), id=request),
           SHOP.does("records the delivery", delivers(), happens("OrderDelivered")),
           SHOP.does("records that Ben is content", completes(), closes("cancellation", "order_completed"),
                     happens("OrderCompleted")),
           TOM.does("accepts the cancellation", accepts(request), settled("closed"))))


def menu(start: datetime) -> Tale:
    offer = money(2000, "JPY")
    return Tale(
        "menu", "Aiko sets a menu for Lena, 12,000 JPY",
        "Canceled elsewhere, by the order service: an open refund offer closes, and is not accepted (D11, D15).",
        on(DAY_2,
           registers(LENA, AIKO, money(12_000, "JPY"), start + 3 * DAYS),
           AIKO.does("offers 2,000 yen back", offers(offer, "minor_dissatisfaction"),
                     opens("partial_refund")),
           SHOP.does("cancels: the card was stolen", cancels_order(comment="The card was stolen."),
                     closes("partial_refund", "order_canceled"),
                     canceled("order_service", "external", None, counts=False))))


# --- what goes wrong between services ---


def video(start: datetime) -> Tale:
    price, due, news = usd(640), start + 12 * DAYS, new_id()
    opened = happens("DisputeOpened", kind="order_update", message="Is the first cut ready?")
    return Tale(
        "video", "Tom cuts a video for Mia, 640.00 USD",
        "Senders repeat themselves, mix up ids, guess, and send garbage. A repeat gets the first answer (D19).",
        on(DAY_2,
           registers(MIA, TOM, price, due),
           SHOP.does("registers the same facts again", registration(MIA, TOM, price, due)),
           SHOP.does("registers it at another price", registration(MIA, TOM, usd(1), due), refused(Code.ORDER_EXISTS)),
           MIA.does("asks whether the first cut is ready", asks_news("Is the first cut ready?"), opened, id=news),
           MIA.does("asks it again: her browser repeats the command", asks_news("Is the first cut ready?"),
                    Expected((opened,), again=True), id=news),
           MIA.does("asks something else under the same command id", asks_news("And the second?"),
                    refused(Code.COMMAND_ID_REUSED), id=news),
           NOBODY.does("publishes half a JSON object under this order's key", b'{"specversion": "1.0", "id',
                       Expected(dead="not JSON")),
           NOBODY.does("plays the timer, long before the deadline", expires(news),
                       refused(Code.NOT_DUE)),
           TOM.does("answers a dispute that never was", accepts(new_id()), refused(Code.DISPUTE_UNKNOWN)),
           TOM.does("answers: here is the first cut", accepts(news, "Here is the first cut."),
                    happens("Accepted", by="freelancer", message="Here is the first cut.")),
           BANK.does("pays a refund that nobody granted", pays(refund_id=news), refused(Code.REFUND_UNKNOWN)),
           CARE.does("erases what was written on the order, as Mia asked", erases(),
                     happens("OrderTextsErased"))))


def mistyped() -> Tale:
    return Tale(
        "lgoo", "An order that there is not", "Somebody mistyped an id.",
        on(DAY_2, SHOP.does("records the delivery of the lgoo", delivers(), refused(Code.ORDER_UNKNOWN))))


# --- the commands role is down ---


def ebook(start: datetime) -> Tale:
    request = new_id()
    return Tale(
        "ebook", "Noor formats an e-book for Lena, 250.00 EUR",
        "Lena declines in time while the commands role is down. It is read late, and counts all the same (D1, D4).",
        on(DAY_2,
           registers(LENA, NOOR, money(250, "EUR"), start + 14 * DAYS),
           NOOR.does("asks to cancel: she is ill",
                     asks_cancellation("I am ill.", "unable_to_complete"),
                     opens("cancellation", opened_by="freelancer"), id=request)),
        on(OUTAGE,
           LENA.does("declines, in time", declines(request, "I can wait."), happens("Declined", by="client"))),
        on(EPILOGUE,
           SHOP.does("records the delivery, for the order goes on", delivers(), happens("OrderDelivered"))))


def song(start: datetime) -> Tale:
    request = new_id()
    return Tale(
        "song", "Sam records a song for Mia, 180.00 USD",
        "Mia declines a little too late, while the commands role is down. It does not count (D2, D3).",
        on(DAY_2,
           registers(MIA, SAM, usd(180), start + 14 * DAYS),
           SAM.does("asks to cancel: the studio is closed",
                    asks_cancellation("The studio is closed.", "unable_to_complete"),
                    opens("cancellation", opened_by="freelancer"), id=request)),
        on(RECOVERY,
           runs_out(request, f"Mia had not answered Sam when {WINDOW} were over.",
                    happens("AutoAccepted", kind="cancellation"), canceled("freelancer", "auto_accepted", usd(180)))),
        on(OVERDUE,
           MIA.does("declines, too late", declines(request), settled("auto_accepted"))),
        on(EPILOGUE,
           MIA.does("asks for news of the song", asks_news(), refused(Code.ORDER_CLOSED))))


# fmt: on

# --- commands, in few words ---

opens_dispute, offers_refund = sends("OpenDispute"), sends("OfferPartialRefund")
cancels, cancels_order = sends("CancelOrder"), sends("RecordCancellation")
submits_requirements, delivers = sends("RecordRequirementsSubmitted"), sends("RecordDelivery")
wants_revision, completes = sends("RecordRevisionRequested"), sends("RecordCompletion")
pays, erases = sends("RecordRefundProcessed"), sends("EraseOrderTexts")


def accepts(dispute: str, message: str | None = None) -> Said:
    return Said("Accept", {"dispute_id": dispute, "message": message})


def declines(dispute: str, message: str | None = None) -> Said:
    return Said("Decline", {"dispute_id": dispute, "message": message})


def withdraws(dispute: str) -> Said:
    return Said("Withdraw", {"dispute_id": dispute})


def expires(dispute: str) -> Said:
    return Said("ExpireDispute", {"dispute_id": dispute})


def registers(
    client: Person, freelancer: Person, price: Money, due: datetime | None, terms: OrderTerms | None = None
) -> Step:
    does = "registers the order" if due else "registers the order, which waits for requirements"
    facts = happens("OrderRegistered", client_id=client.id, freelancer_id=freelancer.id, price=price, terms=terms)
    return SHOP.does(does, registration(client, freelancer, price, due, terms), facts)


def registration(
    client: Person, freelancer: Person, price: Money, due: datetime | None, terms: OrderTerms | None = None
) -> Said:
    return sends("RegisterOrder", version=1 if terms is None else 2)(
        client_id=client.id,
        freelancer_id=freelancer.id,
        price=price,
        expected_delivery_at=due,
        awaiting_requirements=due is None,
        terms=terms,
    )


def asks_news(message: str = "How is it coming along?") -> Said:
    return opens_dispute(request={"kind": "order_update", "message": message})


def asks_days(days: int) -> Said:
    return opens_dispute(request={"kind": "delivery_extension", "days": days, "note": "I need more time."})


def asks_cancellation(comment: str, reason: str | None = None) -> Said:
    request = {"kind": "cancellation", "comment": comment}
    return opens_dispute(request=request | {"reason": reason} if reason else request)


def offers(amount: Money, reason: str = "delay_compensation") -> Said:
    return offers_refund(amount=amount, explanation="It is not what you paid for.", reason=reason)


def offers_percent(percent: int) -> Said:
    offer = sends("OfferPartialRefund", version=2)
    return offer(percent=percent, explanation="It is not what you paid for.", reason="delay_compensation")


def usd(units: int) -> Money:
    return money(units, "USD")


# --- what has to come of them ---


def refused(code: Code, **details: Any) -> Expected:
    return Expected(code=code, details=details)


def settled(how: str) -> Expected:
    return refused(Code.DISPUTE_SETTLED, settled_as=how)


def opens(kind: str, **data: Any) -> Happens:
    return happens("DisputeOpened", kind=kind, **data)


def closes(kind: str, because: str) -> Happens:
    return happens("DisputeClosed", kind=kind, because=because)


def canceled(by: str, grounds: str, refund_due: Money | None, *, counts: bool = True) -> Happens:
    return happens("OrderCanceled", initiated_by=by, grounds=grounds, affects_metrics=counts, refund_due=refund_due)
