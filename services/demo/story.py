"""The story: a marketplace's orders over a few days, each with a tale that shows some rules.

A step says who does what when, and beside it what has to come of it. Between them the tales show every command, every
event and every reason for a rejection. Rules in brackets are those of the Resolution Center (docs).
"""

from datetime import datetime, timedelta

from resolution_contracts import (
    Accept,
    CancellationReason,
    CancellationRequest,
    CancelOrder,
    Code,
    Decline,
    DeliveryExtensionRequest,
    EraseOrderTexts,
    ExpireDispute,
    Money,
    OfferPartialRefund,
    OpenDispute,
    OrderUpdateRequest,
    RecordCancellation,
    RecordCompletion,
    RecordDelivery,
    RecordRefundProcessed,
    RecordRequirementsSubmitted,
    RecordRevisionRequested,
    RefundReason,
    RegisterOrder,
    Withdraw,
)

from .script import Moment, Person, RunsOut, Step, Tale, dead, happens, money, new_id, refused, taken, taken_again

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


def story(start: datetime) -> list[Tale]:
    """The tales of a story that begins at a business time. Requests that have to run out come first in their day."""
    return [
        poster(start),
        haiku(start),
        brochure(start),
        logo(start),
        website(start),
        mascot(),
        podcast(start),
        app(start),
        ebook(start),
        song(start),
        flyer(start),
        menu(start),
        video(start),
        mistyped(),
    ]


# --- nobody answers ---


def poster(start: datetime) -> Tale:
    news = new_id()
    return Tale(
        "poster",
        "Aiko draws a poster for Ben, 45,000 JPY",
        "Ben asks for news and gets no answer: after 48 hours the system accepts (R3), openly as such (D8, D17).",
        (
            registers(DAY_1, BEN, AIKO, money(45_000, "JPY"), start + 9 * DAYS),
            Step(DAY_1, BEN, "asks how the poster is coming along", asks_news(BEN),
                 taken(happens("DisputeOpened", kind="order_update", opened_by="client")), news),
            RunsOut(RUN_OUT, news, "Aiko has not answered Ben for 48 hours.", (
                happens("AutoAccepted", kind="order_update"),
            )),
            Step(DAY_3, AIKO, "answers at last",
                 Accept(actor=AIKO.id, dispute_id=news, message="Nearly done!"),
                 refused(Code.DISPUTE_SETTLED, settled_as="auto_accepted")),
            Step(DAY_3, SHOP, "records the delivery", RecordDelivery(), taken(happens("OrderDelivered"))),
            Step(DAY_3, SHOP, "records that Ben is content", RecordCompletion(), taken(happens("OrderCompleted"))),
        ),
    )  # fmt: skip


def haiku(start: datetime) -> Tale:
    offer = new_id()
    return Tale(
        "haiku",
        "Aiko translates a haiku for Mia, 999 JPY",
        "Yen have no cents, and 60% of 999 is 599 (R8, D9). Mia ignores the offer, so she gets it (R3).",
        (
            registers(DAY_1, MIA, AIKO, money(999, "JPY"), start + 5 * DAYS),
            Step(DAY_1, AIKO, "offers 600 yen back", offers(AIKO, money(600, "JPY")),
                 refused(Code.REFUND_OVER_LIMIT, limit=money(599, "JPY"))),
            Step(DAY_1, AIKO, "offers 599 yen back", offers(AIKO, money(599, "JPY")),
                 taken(happens("DisputeOpened", kind="partial_refund", amount=money(599, "JPY"))), offer),
            RunsOut(RUN_OUT, offer, "Mia has not answered Aiko for 48 hours.", (
                happens("AutoAccepted", kind="partial_refund"),
                happens("PartialRefundGranted", refund_id=offer, amount=money(599, "JPY")),
            )),
            Step(DAY_3, BANK, "pays the 599 yen", RecordRefundProcessed(refund_id=offer),
                 taken(happens("RefundProcessed", refund_id=offer))),
        ),
    )  # fmt: skip


def brochure(start: datetime) -> Tale:
    request = new_id()
    price = money(300, "EUR")
    return Tale(
        "brochure",
        "Sam writes a brochure for Chloe, 300.00 EUR",
        "Chloe asks to cancel. Sam ignores it, so after 48 hours the order is canceled (R1, R3).",
        (
            registers(DAY_1, CHLOE, SAM, price, start + 6 * DAYS),
            Step(DAY_1, CHLOE, "asks to cancel: the trade fair is off",
                 asks_cancellation(CHLOE, "The trade fair is off.", CancellationReason.REQUIREMENTS_CHANGED),
                 taken(happens("DisputeOpened", kind="cancellation", opened_by="client")), request),
            RunsOut(RUN_OUT, request, "Sam has not answered Chloe for 48 hours.", (
                happens("AutoAccepted", kind="cancellation"),
                happens("OrderCanceled", initiated_by="client", grounds="auto_accepted", affects_metrics=True,
                        refund_due=price),
            )),
            Step(DAY_3, SHOP, "records a completion that comes too late", RecordCompletion(),
                 refused(Code.ORDER_CLOSED)),
        ),
    )  # fmt: skip


# --- refunds ---


def logo(start: datetime) -> Tale:
    first, second, cancellation = new_id(), new_id(), new_id()
    price = money(200, "USD")
    return Tale(
        "logo",
        "Tom draws a logo for Mia, 200.00 USD",
        "A partial refund is offered, declined, offered again, accepted and paid; one is the most (R8, R9). "
        "Canceled later, 40% is left to pay back (D10).",
        (
            registers(DAY_1, MIA, TOM, price, start + 8 * DAYS),
            Step(DAY_1, TOM, "offers 122.00 USD back, 61%", offers(TOM, money(122, "USD")),
                 refused(Code.REFUND_OVER_LIMIT, limit=money(120, "USD"))),
            Step(DAY_1, TOM, "offers 50 euros instead", offers(TOM, money(50, "EUR")),
                 refused(Code.CURRENCY_MISMATCH)),
            Step(DAY_1, MIA, "offers herself a refund", offers(MIA, money(50, "USD")), refused(Code.NOT_ALLOWED)),
            Step(DAY_1, TOM, "offers 50.00 USD back, 25%", offers(TOM, money(50, "USD"), RefundReason.SCOPE_REDUCED),
                 taken(happens("DisputeOpened", kind="partial_refund", amount=money(50, "USD"))), first),
            Step(DAY_1, MIA, "declines: too little", Decline(actor=MIA.id, dispute_id=first, message="Too little."),
                 taken(happens("Declined", by="client"))),
            Step(DAY_1, TOM, "offers 120.00 USD back, 60%", offers(TOM, money(120, "USD")),
                 taken(happens("DisputeOpened", kind="partial_refund", amount=money(120, "USD"))), second),
            Step(DAY_1, MIA, "accepts", Accept(actor=MIA.id, dispute_id=second),
                 taken(happens("Accepted", by="client"),
                       happens("PartialRefundGranted", refund_id=second, amount=money(120, "USD")))),
            Step(DAY_1, BANK, "pays it", RecordRefundProcessed(refund_id=second),
                 taken(happens("RefundProcessed", refund_id=second))),
            Step(DAY_1, BANK, "records the payment a second time", RecordRefundProcessed(refund_id=second), taken()),
            Step(DAY_1, TOM, "offers 10.00 USD more", offers(TOM, money(10, "USD")),
                 refused(Code.REFUND_ALREADY_GRANTED)),
            Step(DAY_2, MIA, "asks to cancel the rest",
                 asks_cancellation(MIA, "Let us part as friends.", CancellationReason.NOT_AS_EXPECTED),
                 taken(happens("DisputeOpened", kind="cancellation")), cancellation),
            Step(DAY_2, TOM, "accepts", Accept(actor=TOM.id, dispute_id=cancellation, message="Fair enough."),
                 taken(happens("Accepted", by="freelancer"),
                       happens("OrderCanceled", grounds="agreement", affects_metrics=True,
                               refund_due=money(80, "USD")))),
            Step(DAY_2, MIA, "asks how the logo is coming along", asks_news(MIA), refused(Code.ORDER_CLOSED)),
        ),
    )  # fmt: skip


# --- time ---


def website(start: datetime) -> Tale:
    extension = new_id()
    return Tale(
        "website",
        "Noor builds a website for Lena, 1,500.00 EUR",
        "Nothing to extend before the requirements are there (D13); 5 days are, 61 are not (R7); delivered, "
        "revised, delivered again, completed.",
        (
            registers(DAY_1, LENA, NOOR, money(1500, "EUR"), None),
            Step(DAY_1, LENA, "asks for news already", asks_news(LENA), refused(Code.NOT_ALLOWED)),
            Step(DAY_1, SHOP, "records that Lena sent what Noor needs",
                 RecordRequirementsSubmitted(expected_delivery_at=start + 10 * DAYS),
                 taken(happens("RequirementsSubmitted", expected_delivery_at=start + 10 * DAYS))),
            Step(DAY_1, NOOR, "asks for 61 more days", asks_days(NOOR, 61), refused(Code.INVALID)),
            Step(DAY_1, NOOR, "asks for 5 more days", asks_days(NOOR, 5),
                 taken(happens("DisputeOpened", kind="delivery_extension", days=5)), extension),
            Step(DAY_1, NOOR, "accepts her own request", Accept(actor=NOOR.id, dispute_id=extension),
                 refused(Code.NOT_ALLOWED)),
            Step(DAY_1, LENA, "accepts", Accept(actor=LENA.id, dispute_id=extension),
                 taken(happens("Accepted", by="client"),
                       happens("DeliveryDateExtended", days=5, expected_delivery_at=start + 15 * DAYS))),
            Step(DAY_2, SHOP, "records the delivery", RecordDelivery(), taken(happens("OrderDelivered"))),
            Step(DAY_2, NOOR, "asks for 3 more days all the same", asks_days(NOOR, 3), refused(Code.NOT_ALLOWED)),
            Step(DAY_2, SHOP, "records that Lena wants a revision", RecordRevisionRequested(),
                 taken(happens("RevisionRequested"))),
            Step(DAY_2, SHOP, "records the second delivery", RecordDelivery(), taken(happens("OrderDelivered"))),
            Step(DAY_2, SHOP, "records a third one", RecordDelivery(), refused(Code.INVALID_TRANSITION)),
            Step(DAY_2, SHOP, "records that Lena is content", RecordCompletion(), taken(happens("OrderCompleted"))),
        ),
    )  # fmt: skip


def mascot() -> Tale:
    price = money(90, "EUR")
    return Tale(
        "mascot",
        "Sam invents a mascot for Lena, 90.00 EUR",
        "While the order waits for requirements, the client may cancel at once; it counts against nobody (R5, D15).",
        (
            registers(DAY_1, LENA, SAM, price, None),
            Step(DAY_1, LENA, "cancels, without asking", CancelOrder(actor=LENA.id, comment="Ordered twice."),
                 taken(happens("OrderCanceled", initiated_by="client", grounds="awaiting_requirements",
                               affects_metrics=False, refund_due=price))),
        ),
    )  # fmt: skip


def podcast(start: datetime) -> Tale:
    price = money(400, "USD")
    due = start + 20 * HOURS
    return Tale(
        "podcast",
        "Sam edits a podcast for Ben, 400.00 USD, due within 20 hours",
        "24 hours past its date the order is very late, and Ben may cancel, whatever request is open (R5, D5, D6).",
        (
            registers(DAY_1, BEN, SAM, price, due),
            Step(DAY_1, BEN, "cancels, without asking", CancelOrder(actor=BEN.id, comment="Changed my mind."),
                 refused(Code.APPROVAL_NEEDED, possible_from=due + 24 * HOURS)),
            Step(DAY_2, SAM, "is late and asks for 60 more days", asks_days(SAM, 60),
                 taken(happens("DisputeOpened", kind="delivery_extension", days=60))),
            Step(DAY_3, BEN, "cancels, for it is very late", CancelOrder(actor=BEN.id, comment="Too late."),
                 taken(happens("DisputeClosed", kind="delivery_extension", because="order_canceled"),
                       happens("OrderCanceled", initiated_by="client", grounds="very_late", affects_metrics=True,
                               refund_due=price))),
        ),
    )  # fmt: skip


# --- one dispute at a time ---


def app(start: datetime) -> Tale:
    cancellation, extension = new_id(), new_id()
    return Tale(
        "app",
        "Noor writes an app for Chloe, 2,400.00 USD",
        "Both open a dispute at once: one opens (R11). Only its requester withdraws it (R2, D7).",
        (
            registers(DAY_2, CHLOE, NOOR, money(2400, "USD"), start + 20 * DAYS),
            Step(DAY_2, CHLOE, "asks to cancel", asks_cancellation(CHLOE, "I have no budget left."),
                 taken(happens("DisputeOpened", kind="cancellation")), cancellation, at_once=True),
            Step(DAY_2, NOOR, "asks for 7 more days in the same moment", asks_days(NOOR, 7),
                 refused(Code.DISPUTE_OPEN, dispute_id=cancellation, kind="cancellation")),
            Step(DAY_2, MIA, "accepts, in an order that is not hers", Accept(actor=MIA.id, dispute_id=cancellation),
                 refused(Code.NOT_A_PARTY)),
            Step(DAY_2, NOOR, "withdraws it, though it is Chloe's", Withdraw(actor=NOOR.id, dispute_id=cancellation),
                 refused(Code.NOT_ALLOWED)),
            Step(DAY_2, CHLOE, "withdraws it", Withdraw(actor=CHLOE.id, dispute_id=cancellation),
                 taken(happens("Withdrawn", kind="cancellation", by="client"))),
            Step(DAY_2, NOOR, "asks for 7 more days again", asks_days(NOOR, 7),
                 taken(happens("DisputeOpened", kind="delivery_extension", days=7)), extension),
            Step(DAY_2, CHLOE, "declines", Decline(actor=CHLOE.id, dispute_id=extension, message="It is urgent."),
                 taken(happens("Declined", by="client"))),
        ),
    )  # fmt: skip


def flyer(start: datetime) -> Tale:
    request = new_id()
    return Tale(
        "flyer",
        "Tom designs a flyer for Ben, 75.00 EUR",
        "Delivery leaves a cancellation request open, completion closes it, and nothing happens at 48 hours (D11).",
        (
            registers(DAY_2, BEN, TOM, money(75, "EUR"), start + 2 * DAYS),
            Step(DAY_2, BEN, "asks to cancel",
                 asks_cancellation(BEN, "No answer so far.", CancellationReason.FREELANCER_UNRESPONSIVE),
                 taken(happens("DisputeOpened", kind="cancellation")), request),
            Step(DAY_2, SHOP, "records the delivery", RecordDelivery(), taken(happens("OrderDelivered"))),
            Step(DAY_2, SHOP, "records that Ben is content", RecordCompletion(),
                 taken(happens("DisputeClosed", kind="cancellation", because="order_completed"),
                       happens("OrderCompleted"))),
            Step(DAY_2, TOM, "accepts the cancellation", Accept(actor=TOM.id, dispute_id=request),
                 refused(Code.DISPUTE_SETTLED, settled_as="closed")),
        ),
    )  # fmt: skip


def menu(start: datetime) -> Tale:
    return Tale(
        "menu",
        "Aiko sets a menu for Lena, 12,000 JPY",
        "Canceled elsewhere, by the order service: an open refund offer closes, and is not accepted (D11, D15).",
        (
            registers(DAY_2, LENA, AIKO, money(12_000, "JPY"), start + 3 * DAYS),
            Step(DAY_2, AIKO, "offers 2,000 yen back",
                 offers(AIKO, money(2000, "JPY"), RefundReason.MINOR_DISSATISFACTION),
                 taken(happens("DisputeOpened", kind="partial_refund"))),
            Step(DAY_2, SHOP, "cancels: the card was stolen", RecordCancellation(comment="The card was stolen."),
                 taken(happens("DisputeClosed", kind="partial_refund", because="order_canceled"),
                       happens("OrderCanceled", initiated_by="order_service", grounds="external",
                               affects_metrics=False, refund_due=None))),
        ),
    )  # fmt: skip


# --- what goes wrong between services ---


def video(start: datetime) -> Tale:
    price, due = money(640, "USD"), start + 12 * DAYS
    news = new_id()
    opened = happens("DisputeOpened", kind="order_update", message="Is the first cut ready?")
    return Tale(
        "video",
        "Tom cuts a video for Mia, 640.00 USD",
        "Senders repeat themselves, mix up ids, guess, and send garbage. A repeat gets the first answer (D19).",
        (
            registers(DAY_2, MIA, TOM, price, due),
            Step(DAY_2, SHOP, "registers the same facts again", registration(MIA, TOM, price, due), taken()),
            Step(DAY_2, SHOP, "registers it at another price", registration(MIA, TOM, money(1, "USD"), due),
                 refused(Code.ORDER_EXISTS)),
            Step(DAY_2, MIA, "asks whether the first cut is ready", asks_news(MIA, "Is the first cut ready?"),
                 taken(opened), news),
            Step(DAY_2, MIA, "asks it again: her browser repeats the command",
                 asks_news(MIA, "Is the first cut ready?"), taken_again(opened), news),
            Step(DAY_2, MIA, "asks something else under the same command id", asks_news(MIA, "And the second?"),
                 refused(Code.COMMAND_ID_REUSED), news),
            Step(DAY_2, NOBODY, "publishes half a JSON object under this order's key", b'{"specversion": "1.0", "id',
                 dead("not JSON")),
            Step(DAY_2, NOBODY, "plays the timer, long before the deadline", ExpireDispute(dispute_id=news),
                 refused(Code.NOT_DUE)),
            Step(DAY_2, TOM, "answers a dispute that never was", Accept(actor=TOM.id, dispute_id=new_id()),
                 refused(Code.DISPUTE_UNKNOWN)),
            Step(DAY_2, TOM, "answers: here is the first cut",
                 Accept(actor=TOM.id, dispute_id=news, message="Here is the first cut."),
                 taken(happens("Accepted", by="freelancer", message="Here is the first cut."))),
            Step(DAY_2, BANK, "pays a refund that nobody granted", RecordRefundProcessed(refund_id=news),
                 refused(Code.REFUND_UNKNOWN)),
            Step(DAY_2, CARE, "erases what was written on the order, as Mia asked", EraseOrderTexts(),
                 taken(happens("OrderTextsErased"))),
        ),
    )  # fmt: skip


def mistyped() -> Tale:
    return Tale(
        "lgoo",
        "An order that there is not",
        "Somebody mistyped an id.",
        (Step(DAY_2, SHOP, "records the delivery of the lgoo", RecordDelivery(), refused(Code.ORDER_UNKNOWN)),),
    )


# --- the commands role is down ---


def ebook(start: datetime) -> Tale:
    request = new_id()
    return Tale(
        "ebook",
        "Noor formats an e-book for Lena, 250.00 EUR",
        "Lena declines in time while the commands role is down. It is read late, and counts all the same (D1, D4).",
        (
            registers(DAY_2, LENA, NOOR, money(250, "EUR"), start + 14 * DAYS),
            Step(DAY_2, NOOR, "asks to cancel: she is ill",
                 asks_cancellation(NOOR, "I am ill.", CancellationReason.UNABLE_TO_COMPLETE),
                 taken(happens("DisputeOpened", kind="cancellation", opened_by="freelancer")), request),
            Step(OUTAGE, LENA, "declines, in time", Decline(actor=LENA.id, dispute_id=request, message="I can wait."),
                 taken(happens("Declined", by="client"))),
            Step(EPILOGUE, SHOP, "records the delivery, for the order goes on", RecordDelivery(),
                 taken(happens("OrderDelivered"))),
        ),
    )  # fmt: skip


def song(start: datetime) -> Tale:
    request = new_id()
    price = money(180, "USD")
    return Tale(
        "song",
        "Sam records a song for Mia, 180.00 USD",
        "Mia declines a little too late, while the commands role is down. It does not count (D2, D3).",
        (
            registers(DAY_2, MIA, SAM, price, start + 14 * DAYS),
            Step(DAY_2, SAM, "asks to cancel: the studio is closed",
                 asks_cancellation(SAM, "The studio is closed.", CancellationReason.UNABLE_TO_COMPLETE),
                 taken(happens("DisputeOpened", kind="cancellation", opened_by="freelancer")), request),
            RunsOut(RECOVERY, request, "Mia had not answered Sam when 48 hours were over.", (
                happens("AutoAccepted", kind="cancellation"),
                happens("OrderCanceled", initiated_by="freelancer", grounds="auto_accepted", affects_metrics=True,
                        refund_due=price),
            )),
            Step(OVERDUE, MIA, "declines, too late", Decline(actor=MIA.id, dispute_id=request),
                 refused(Code.DISPUTE_SETTLED, settled_as="auto_accepted")),
            Step(EPILOGUE, MIA, "asks for news of the song", asks_news(MIA), refused(Code.ORDER_CLOSED)),
        ),
    )  # fmt: skip


# --- commands in few words ---


def registers(when: Moment, client: Person, freelancer: Person, price: Money, due: datetime | None) -> Step:
    does = "registers the order" if due else "registers the order, which waits for requirements"
    expected = happens("OrderRegistered", client_id=client.id, freelancer_id=freelancer.id, price=price)
    return Step(when, SHOP, does, registration(client, freelancer, price, due), taken(expected))


def registration(client: Person, freelancer: Person, price: Money, due: datetime | None) -> RegisterOrder:
    return RegisterOrder(
        client_id=client.id,
        freelancer_id=freelancer.id,
        price=price,
        expected_delivery_at=due,
        awaiting_requirements=due is None,
    )


def asks_news(who: Person, message: str = "How is it coming along?") -> OpenDispute:
    return OpenDispute(actor=who.id, request=OrderUpdateRequest(kind="order_update", message=message))


def asks_days(who: Person, days: int) -> OpenDispute:
    # model_construct, because 61 days are more than the schema lets through.
    request = DeliveryExtensionRequest.model_construct(kind="delivery_extension", days=days, note="I need more time.")
    return OpenDispute.model_construct(actor=who.id, request=request)


def asks_cancellation(who: Person, comment: str, reason: CancellationReason | None = None) -> OpenDispute:
    return OpenDispute(actor=who.id, request=CancellationRequest(kind="cancellation", comment=comment, reason=reason))


def offers(who: Person, amount: Money, reason: RefundReason = RefundReason.DELAY_COMPENSATION) -> OfferPartialRefund:
    return OfferPartialRefund(actor=who.id, amount=amount, explanation="It is not what you paid for.", reason=reason)
