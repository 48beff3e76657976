"""The terms of an order: they come with its registration, and everything is reckoned from them (D20)."""

import json

import pytest

from services.orders.events import DeliveryDateExtended, DisputeOpened
from tests.rules.beside_oracle import decoded, read_by_oracle
from tests.rules.given_when_then import (
    accepted,
    at,
    auto_accepted,
    current,
    declined,
    delivery_date_extended,
    dispute_closed,
    dispute_opened,
    given,
    nothing,
    order_canceled,
    order_delivered,
    order_registered,
    partial_refund_granted,
    received,
    rejected,
    then,
    when,
)
from tests.rules.logs import Service, judged_every_way, log, names, outcome_of, page_of, service_after
from tests.rules.oracle import Oracle
from tests.support.controls import (
    CLIENT,
    COMMENT,
    DAYS,
    DUE,
    EXPLANATION,
    FIRST,
    FREELANCER,
    HOURS,
    MESSAGE,
    MS,
    NOTE,
    ORDER,
    SECOND,
    STRANGER,
    THIRD,
    T,
    accept,
    as_record,
    cancel,
    cancellation,
    command_id,
    completed,
    decline,
    delivered,
    expire,
    extension,
    in_envelope,
    opened,
    order_update,
    raw_record,
    refund_offer,
    registered,
    registered_awaiting,
    share_offer,
    untyped,
    usd,
    withdraw,
)

HELP_PAGE = {
    "response_hours": 48,
    "very_late_after_hours": 24,
    "longest_extension_days": 60,
    "largest_refund_percent": 60,
    "name": None,
}
GOLD = {
    "response_hours": 72,
    "very_late_after_hours": 6,
    "longest_extension_days": 45,
    "largest_refund_percent": 80,
    "name": "gold",
}


def terms(**own):
    """An order with these terms, and for the rest the help page's."""
    return registered(terms=own)


def usd_on_the_wire(amount):
    return {"amount": amount, "currency": "USD"}


def instant(time):
    return time.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def days_too_many(reason):
    return rejected("invalid", errors=[{"path": "request.days", "reason": reason}])


# --- what comes with a registration, and what is missing ---


@pytest.mark.parametrize(("field", "own"), GOLD.items())
def test_D20_what_is_missing_is_as_on_the_help_page(field, own):
    given()
    when(terms(**{field: own}))
    then(order_registered(terms=HELP_PAGE | {field: own}))


@pytest.mark.parametrize("missing", GOLD)
def test_D20_so_is_the_only_one_that_is_missing(missing):
    given()
    when(terms(**{field: own for field, own in GOLD.items() if field != missing}))
    then(order_registered(terms=GOLD | {missing: HELP_PAGE[missing]}))


@pytest.mark.parametrize(
    "command",
    [
        pytest.param(registered(), id="version 1"),
        pytest.param(registered(terms=None), id="null"),
        pytest.param(registered(terms={}), id="empty"),
        pytest.param(registered(terms={"name": None}), id="a name that is null"),
        pytest.param(registered(terms=HELP_PAGE), id="spelled out"),
        pytest.param(untyped("RegisterOrder", registered().model_dump(mode="json") | {"terms": None}, version=2)),
    ],
)
def test_D20_the_help_pages_terms_are_registered_as_ever(command):
    given()
    when(command)
    then(order_registered())
    [stored] = current().stored.events[ORDER]
    assert stored.topic == "OrderRegistered"
    assert b"terms" not in stored.state


def test_D20_other_terms_are_stored_as_the_second_version_of_the_event():
    given()
    when(registered(terms=GOLD))
    then(order_registered(terms=GOLD))
    [stored] = current().stored.events[ORDER]
    assert stored.topic == "OrderRegistered.v2"
    assert json.loads(stored.state)["terms"] == GOLD


@pytest.mark.parametrize("field", ["response_hours", "longest_extension_days"])
def test_D20_numbers_are_whole_however_they_are_written(field):
    given()
    when(received("RegisterOrder", 2, **registered().model_dump(mode="json"), terms={field: 36.0}))
    then(order_registered(terms=HELP_PAGE | {field: 36}))


@pytest.mark.parametrize("name", ["a", "x" * 64, "Gold-2.1_b", "0", "..", "-"])
def test_D20_a_name_decides_nothing(name):
    given(terms(name=name), opened(extension(60)), withdraw(by=FREELANCER))
    when(opened(extension(61)))
    then(days_too_many("should be at most 60"))
    when(refund_offer(60_01))
    then(rejected("refund_over_limit", limit=usd_on_the_wire(60_00)))
    when(opened(cancellation()))
    then(dispute_opened("cancellation", "client", command_id(4), comment=COMMENT, reason=None))
    when(cancel(), at=DUE + 24 * HOURS)
    then(
        auto_accepted(dispute=command_id(4)),
        order_canceled(grounds="auto_accepted", dispute=command_id(4)),
        rejected("order_closed"),
    )


def test_D20_the_order_page_shows_the_terms_and_those_of_the_help_page_too():
    for command, shown in ((registered(terms=GOLD), GOLD), (registered(), HELP_PAGE)):
        given(command)
        for viewer in (CLIENT, FREELANCER):
            assert page_of(current().history, viewer, T)["terms"] == shown


# --- registered again ---

SAME = [
    ({}, {}),
    ({}, {"terms": None}),
    ({}, {"terms": {}}),
    ({}, {"terms": HELP_PAGE}),
    ({"terms": HELP_PAGE}, {}),
    ({"terms": None}, {"terms": {"largest_refund_percent": 60}}),
    ({"terms": GOLD}, {"terms": dict(reversed(GOLD.items()))}),
    ({"terms": {"name": "gold"}}, {"terms": HELP_PAGE | {"name": "gold"}}),
    ({"terms": {"response_hours": 1}}, {"terms": {"response_hours": 1, "very_late_after_hours": 24, "name": None}}),
]
OTHER = [
    ({}, {"terms": {"response_hours": 49}}),
    ({}, {"terms": {"name": "gold"}}),
    ({"terms": {"name": "gold"}}, {}),
    ({"terms": {"name": "gold"}}, {"terms": {}}),
    ({"terms": {"name": "gold"}}, {"terms": {"name": "Gold"}}),
    ({"terms": GOLD}, {}),
    ({"terms": GOLD}, {"terms": None}),
    *(({"terms": GOLD}, {"terms": GOLD | {field: HELP_PAGE[field]}}) for field in GOLD),
    ({"terms": GOLD}, {"terms": GOLD, "price": usd(1)}),
]


@pytest.mark.parametrize(("first", "again"), SAME)
def test_D20_the_same_terms_again_change_nothing_in_whichever_version(first, again):
    given(registered(**first))
    when(registered(**again))
    then(nothing())


@pytest.mark.parametrize(("first", "again"), OTHER)
def test_D20_an_order_that_is_registered_again_with_other_terms_exists(first, again):
    given(registered(**first))
    when(registered(**again))
    then(rejected("order_exists"))
    assert "registered already" in current().message


def test_D20_terms_never_change():
    given(registered(terms=GOLD))
    when(registered(terms=GOLD | {"response_hours": 1}))
    then(rejected("order_exists"))
    when(opened(cancellation()))
    then(dispute_opened("cancellation", "client", respond_by=T + 72 * HOURS, comment=COMMENT, reason=None))


def test_D20_a_closed_order_too_may_be_registered_again():
    given(registered(terms=GOLD), completed())
    when(registered(terms=GOLD))
    then(nothing())
    when(registered())
    then(rejected("order_exists"))


def test_D19_D20_a_registration_repeated_as_another_version_is_a_repeat():
    service = Service()
    data = registered().model_dump(mode="json")
    first, again = (as_record(untyped("RegisterOrder", data, FIRST, version=version)) for version in (1, 2))
    assert names(service.judge([first]).events) == ["OrderRegistered"]
    judged = service.judge([again])
    assert (judged.events, outcome_of(judged.outcomes[0])["duplicate"]) == ([], True)


@pytest.mark.parametrize("now", [{"terms": GOLD}, {"terms": {}}])
def test_D19_D20_a_command_id_used_again_with_other_terms_is_not(now):
    service = Service()
    service.send(registered(), FIRST)
    names_of_events, outcome = service.send(registered(**now), FIRST)
    assert (names_of_events, outcome["code"]) == ([], "command_id_reused")


# --- terms that are none ---


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("response_hours", 0, "should be at least 1"),
        ("response_hours", -1, "should be at least 1"),
        ("response_hours", 721, "should be at most 720"),
        ("very_late_after_hours", -1, "should be at least 0"),
        ("very_late_after_hours", 721, "should be at most 720"),
        ("longest_extension_days", -1, "should be at least 0"),
        ("longest_extension_days", 366, "should be at most 365"),
        ("largest_refund_percent", -1, "should be at least 0"),
        ("largest_refund_percent", 101, "should be at most 100"),
        *((field, value, "should be a whole number") for field in list(GOLD)[:4] for value in (None, "48", True, 1.5, [])),
        *(
            ("name", name, "should be 1 to 64 letters, digits, dots, underscores and hyphens")
            for name in ("", " ", "a b", "x" * 65, "é", "gold\n", "a/b", "\u0663")
        ),
        ("name", 7, "should be a text"),
        ("hours", 48, "is not a field of this command: leave it out"),
    ],
)  # fmt: skip
def test_D20_each_term_has_its_bounds(field, value, reason):
    given()
    when(received("RegisterOrder", 2, **registered().model_dump(mode="json"), terms={field: value}))
    then(rejected("invalid", errors=[{"path": f"terms.{field}", "reason": reason}]))
    assert current().message == f"Correct the command's data: terms.{field} {reason}."
    when(delivered())
    then(rejected("order_unknown"))


@pytest.mark.parametrize(
    ("field", "bounds"),
    [
        ("response_hours", (1, 720)),
        ("very_late_after_hours", (0, 720)),
        ("longest_extension_days", (0, 365)),
        ("largest_refund_percent", (0, 100)),
    ],
)
def test_D20_the_bounds_themselves_are_terms(field, bounds):
    for bound in bounds:
        given()
        when(terms(**{field: bound}))
        then(order_registered(terms=HELP_PAGE | {field: bound}))


@pytest.mark.parametrize("value", [[], "gold", 48, True])
def test_D20_terms_are_an_object(value):
    given()
    when(received("RegisterOrder", 2, **registered().model_dump(mode="json"), terms=value))
    then(rejected("invalid", errors=[{"path": "terms", "reason": "should be an object"}]))


def test_D20_a_term_that_comes_twice_is_named():
    data = registered(terms={"response_hours": 72}).model_dump_json(exclude_none=True)
    envelope = untyped("RegisterOrder", {}, version=2).to_json()
    twice = data.replace('"response_hours":72', '"response_hours":48,"response_hours":72')
    command = decoded(raw_record(ORDER.encode(), envelope.replace(b'"data":{}', b'"data":' + twice.encode()))).command
    path, reason = "terms.response_hours", "is there more than once: send it once"
    assert command.details == {"errors": [{"path": path, "reason": reason}]}


def test_D20_the_first_version_has_no_terms():
    given()
    when(received("RegisterOrder", **registered().model_dump(mode="json"), terms=GOLD))
    reason = "is not a field of this command: leave it out"
    then(rejected("invalid", errors=[{"path": "terms", "reason": reason}]))


def test_D20_whatever_a_registration_needs_the_second_version_needs_too():
    given()
    when(received("RegisterOrder", 2, terms=GOLD))
    missing = [{"path": name, "reason": "is missing: add it"} for name in ("client_id", "freelancer_id", "price")]
    then(rejected("invalid", errors=missing))
    when(received("RegisterOrder", 2, **registered().model_dump(mode="json") | {"freelancer_id": CLIENT}, terms=GOLD))
    assert current().outcome[0] == "invalid"
    current().checked = True


# --- the time to answer (R1, R3, D2, D18) ---

HOURS_TO_ANSWER = pytest.mark.parametrize("hours", [1, 24, 47, 48, 49, 72, 720])
REQUESTS = [
    (opened(order_update()), "order_update", "client", {"message": MESSAGE}),
    (opened(cancellation()), "cancellation", "client", {"comment": COMMENT, "reason": None}),
    (opened(extension()), "delivery_extension", "freelancer", {"days": 5, "note": NOTE}),
    (refund_offer(), "partial_refund", "freelancer", {"amount": usd_on_the_wire(60_00), "explanation": EXPLANATION}),
    (share_offer(5), "partial_refund", "freelancer", {"amount": usd_on_the_wire(5_00), "explanation": EXPLANATION}),
]


@HOURS_TO_ANSWER
@pytest.mark.parametrize(("command", "kind", "by", "told"), REQUESTS)
def test_R1_D20_the_other_party_has_the_orders_own_time_to_answer(hours, command, kind, by, told):
    given(terms(response_hours=hours))
    when(command)
    then(dispute_opened(kind, by, respond_by=T + hours * HOURS, **told))


@HOURS_TO_ANSWER
def test_D2_D20_a_millisecond_before_the_orders_own_deadline_is_in_time(hours):
    given(terms(response_hours=hours), opened(cancellation()))
    when(expire(), at=T + hours * HOURS - MS)
    then(rejected("not_due"))
    when(decline())
    then(declined())


@HOURS_TO_ANSWER
@pytest.mark.parametrize("command", [accept(), decline(), withdraw()])
def test_D2_D20_at_the_orders_own_deadline_sharp_it_is_too_late(hours, command):
    given(terms(response_hours=hours), opened(cancellation()))
    when(command, at=T + hours * HOURS)
    then(
        auto_accepted(at=T + hours * HOURS),
        order_canceled(grounds="auto_accepted"),
        rejected("dispute_settled", settled_as="auto_accepted"),
    )


@HOURS_TO_ANSWER
def test_R3_D3_D20_whoever_comes_later_finds_it_accepted_as_of_the_orders_own_deadline(hours):
    given(terms(response_hours=hours), opened(extension(1)))
    when(delivered(), at=T + hours * HOURS + 5 * DAYS)
    deadline = T + hours * HOURS
    then(
        auto_accepted("delivery_extension", at=deadline),
        delivery_date_extended(1, DUE + DAYS),
        order_delivered(at=T + hours * HOURS + 5 * DAYS),
    )


def test_R2_D20_withdrawn_and_opened_again_it_has_the_orders_own_time_afresh():
    given(terms(response_hours=72), opened(cancellation()), at(T + 71 * HOURS, withdraw()))
    when(opened(cancellation()))
    deadline = T + 143 * HOURS
    then(dispute_opened("cancellation", "client", SECOND, respond_by=deadline, comment=COMMENT, reason=None))
    when(expire(FIRST), at=T + 72 * HOURS)
    then(nothing())
    when(decline(SECOND), at=deadline - MS)
    then(declined(dispute=SECOND))


def test_D18_D20_the_page_counts_down_to_the_orders_own_deadline():
    given(terms(response_hours=1), opened(cancellation()))
    page = page_of(current().history, FREELANCER, T + HOURS - 90_000 * MS)
    assert page["open_dispute"]["respond_by"] == "2026-03-02T10:00:00.000000Z"
    assert page["open_dispute"]["seconds_left"] == 90


def test_D20_not_due_names_the_orders_own_deadline():
    given(terms(response_hours=1), opened(cancellation()))
    when(expire())
    then(rejected("not_due"))
    assert "2026-03-02T10:00:00.000000Z" in current().message


# --- very late (R5, D5, D14) ---

HOURS_UNTIL_VERY_LATE = pytest.mark.parametrize("hours", [0, 1, 23, 24, 25, 72, 720])


@HOURS_UNTIL_VERY_LATE
def test_R5_D5_D20_an_order_is_very_late_after_its_own_hours(hours):
    very_late = DUE + hours * HOURS
    given(terms(very_late_after_hours=hours))
    when(cancel(), at=very_late - MS)
    then(rejected("approval_needed", possible_from=instant(very_late)))
    assert instant(very_late) in current().message
    when(cancel(), at=very_late)
    then(order_canceled(grounds="very_late", dispute=None))


@HOURS_UNTIL_VERY_LATE
def test_D5_D20_an_extension_moves_that_moment(hours):
    very_late = DUE + 2 * DAYS + hours * HOURS
    given(terms(very_late_after_hours=hours), opened(extension(2)), accept(by=CLIENT))
    when(cancel(), at=very_late - MS)
    then(rejected("approval_needed", possible_from=instant(very_late)))
    when(cancel(), at=very_late)
    then(order_canceled(grounds="very_late", dispute=None))


def test_D14_D20_the_right_ends_only_if_the_new_date_and_the_orders_own_hours_lie_ahead():
    given(terms(very_late_after_hours=0), at(DUE + DAYS, opened(extension(1))), accept(by=CLIENT))
    when(cancel())
    then(order_canceled(grounds="very_late", dispute=None))
    given(terms(very_late_after_hours=1), at(DUE + DAYS, opened(extension(1))), accept(by=CLIENT))
    when(cancel())
    then(rejected("approval_needed", possible_from=instant(DUE + DAYS + HOURS)))


def test_D6_D20_an_open_dispute_does_not_stand_in_the_way_of_that_right():
    given(terms(very_late_after_hours=0, response_hours=720), opened(extension(60)))
    when(cancel(), at=DUE)
    then(dispute_closed("order_canceled", "delivery_extension"), order_canceled(grounds="very_late", dispute=None))


@pytest.mark.parametrize("hours", [0, 720])
def test_R5_D20_where_lateness_does_not_matter_no_hours_do(hours):
    given(registered_awaiting(terms={"very_late_after_hours": hours}))
    when(cancel())
    then(order_canceled(grounds="awaiting_requirements", dispute=None, affects_metrics=False))
    given(terms(very_late_after_hours=hours), delivered())
    when(cancel(), at=DUE + 1000 * DAYS)
    then(rejected("approval_needed", possible_from=None))


# --- the longest extension (R7) ---


@pytest.mark.parametrize("most", [1, 45, 59, 60, 61, 90, 365])
def test_R7_D20_an_extension_is_as_long_as_the_orders_terms_allow(most):
    given(terms(longest_extension_days=most))
    when(opened(extension(most)))
    then(dispute_opened("delivery_extension", "freelancer", days=most, note=NOTE))
    when(accept(by=CLIENT))
    then(accepted("delivery_extension", by="client"), delivery_date_extended(most, DUE + most * DAYS))


@pytest.mark.parametrize("most", [1, 45, 59, 60, 61, 90, 364])
def test_R7_D20_a_day_more_is_invalid_and_the_sentence_names_the_orders_own_number(most):
    given(terms(longest_extension_days=most))
    when(opened(extension(most + 1)))
    then(days_too_many(f"should be at most {most}"))
    assert current().message == f"Correct the command's data: request.days should be at most {most}."


@pytest.mark.parametrize(("days", "reason"), [(0, "should be at least 1"), (366, "should be at most 365")])
def test_R7_D20_no_terms_allow_0_or_366_days(days, reason):
    request = {"kind": "delivery_extension", "days": days, "note": NOTE}
    given(terms(longest_extension_days=365))
    when(received("OpenDispute", actor=FREELANCER, request=request))
    then(days_too_many(reason))


@pytest.mark.parametrize("days", [1, 60, 365])
def test_R7_D20_with_0_days_no_extension_can_be_asked_for(days):
    given(terms(longest_extension_days=0))
    when(opened(extension(days)))
    then(days_too_many("cannot be asked for: this order's terms allow no delivery extension"))
    assert current().message.endswith(
        "request.days cannot be asked for: this order's terms allow no delivery extension."
    )


def test_R7_D20_accepted_extensions_add_up_to_more_than_the_longest():
    given(terms(longest_extension_days=90), opened(extension(90)), accept(by=CLIENT), opened(extension(90)))
    when(accept(SECOND, by=CLIENT))
    then(
        accepted("delivery_extension", "client", SECOND),
        delivery_date_extended(90, DUE + 180 * DAYS, dispute=SECOND),
    )


@pytest.mark.parametrize("user", [FREELANCER, CLIENT, STRANGER])
def test_D20_more_days_than_the_terms_allow_are_invalid_whoever_asks(user):
    given(terms(longest_extension_days=45))
    when(opened(extension(46), by=user))
    then(days_too_many("should be at most 45"))


@pytest.mark.parametrize(("user", "code"), [(CLIENT, "not_allowed"), (STRANGER, "not_a_party")])
def test_D20_as_many_as_they_allow_are_judged_on(user, code):
    given(terms(longest_extension_days=45))
    when(opened(extension(45), by=user))
    then(rejected(code))


@pytest.mark.parametrize("days", [1, 60, 61, 365])
def test_D20_an_unknown_order_has_no_terms(days):
    given()
    when(opened(extension(days)))
    then(rejected("order_unknown"))


@pytest.mark.parametrize(
    "history",
    [
        pytest.param([completed()], id="closed"),
        pytest.param([delivered()], id="delivered"),
        pytest.param([opened(order_update())], id="another dispute is open"),
    ],
)
def test_D20_too_many_days_are_invalid_before_anything_else_is_said_of_a_known_order(history):
    given(terms(longest_extension_days=45), *history)
    when(opened(extension(46)))
    then(days_too_many("should be at most 45"))
    when(opened(extension(45)))
    assert current().outcome[0] in ("order_closed", "not_allowed", "dispute_open")
    current().checked = True


@pytest.mark.parametrize("days", [46, 366])
def test_D20_D21_too_many_days_bring_out_what_is_due_first(days):
    given(terms(response_hours=1, longest_extension_days=45), opened(extension(45)))
    request = {"kind": "delivery_extension", "days": days, "note": NOTE}
    when(received("OpenDispute", actor=FREELANCER, request=request), at=T + HOURS)
    then(
        auto_accepted("delivery_extension", at=T + HOURS),
        delivery_date_extended(45, DUE + 45 * DAYS),
        days_too_many("should be at most 45" if days == 46 else "should be at most 365"),
    )


def test_R7_D20_delivery_dates_end_with_the_year_9998():
    """A thousand extensions of a year, from the last date that may be registered."""
    last = DUE.replace(year=8999, month=12, day=31)
    commands = [(T, command_id(1), registered(expected_delivery_at=last, terms={"longest_extension_days": 365}))]
    for number in range(2, 2004, 2):
        dispute = command_id(number)
        commands.append((T, dispute, opened(extension(365))))
        commands.append((T, command_id(number + 1), accept(dispute, by=CLIENT)))
    commands.append((T, command_id(9000), cancel()))
    records = log(*commands)
    service, oracle = service_after(records), Oracle()
    said = [read_by_oracle(oracle, record, T) for record in records]
    moved = [event for event in service.events if isinstance(event, DeliveryDateExtended)]
    dates = [instant(event.expected_delivery_at) for event in moved]
    assert (len(dates), dates[0], dates[-1]) == (1001, "9000-12-31T09:00:00.000000Z", "9999-01-01T00:00:00.000000Z")
    assert dates == [one.events[1]["data"]["expected_delivery_at"] for one in said if len(one.events) == 2]
    assert page_of(service.events, CLIENT, T)["expected_delivery_at"] == dates[-1]
    possible_from = {"possible_from": "9999-01-02T00:00:00.000000Z"}
    assert outcome_of(service.outcomes[-1])["details"] == said[-1].outcome["data"]["details"] == possible_from


# --- the largest refund (R8, D9) ---


@pytest.mark.parametrize(
    ("percent", "price", "most"),
    [
        (1, 100, 1),
        (1, 199, 1),
        (1, 200, 2),
        (45, 33_33, 14_99),
        (59, 100_00, 59_00),
        (61, 100_00, 61_00),
        (61, 3, 1),
        (99, 101, 99),
        (99, 100, 99),
        (99, 2, 1),
        (99, 2**63 - 1, 99 * (2**63 - 1) // 100),
        (33, 10**18 + 1, 33 * 10**16),
    ],
)
def test_R8_D9_D20_the_orders_own_percentage_is_inclusive_and_exact(percent, price, most):
    assert 100 * most <= percent * price < 100 * (most + 1)
    given(registered(price=usd(price), terms={"largest_refund_percent": percent}))
    when(refund_offer(most + 1))
    then(rejected("refund_over_limit", limit=usd_on_the_wire(most)))
    assert current().message.startswith(
        f"A partial refund is at most {percent}% of the original price: offer {most} USD"
    )
    when(refund_offer(most))
    then(offered(SECOND, most))
    when(accept(SECOND, by=CLIENT))
    then(accepted("partial_refund", "client", SECOND), partial_refund_granted(most, SECOND))


def offered(dispute=FIRST, amount=60_00):
    return dispute_opened(
        "partial_refund", "freelancer", dispute, amount=usd_on_the_wire(amount), explanation=EXPLANATION
    )


@pytest.mark.parametrize("price", [1, 2, 3333, 2**63 - 1])
def test_R8_D10_D20_100_percent_is_the_whole_price_and_leaves_nothing_to_pay_back(price):
    given(registered(price=usd(price), terms={"largest_refund_percent": 100}), refund_offer(price), accept(by=CLIENT))
    when(opened(cancellation()))
    then(dispute_opened("cancellation", "client", SECOND, comment=COMMENT, reason=None))
    when(accept(SECOND))
    then(accepted(dispute=SECOND), order_canceled(dispute=SECOND, refund_due=0))


def test_R8_D20_not_even_100_percent_is_more_than_the_price():
    given(terms(largest_refund_percent=100))
    when(refund_offer(100_01))
    then(rejected("refund_over_limit", limit=usd_on_the_wire(100_00)))


@pytest.mark.parametrize("offer", [refund_offer(1), refund_offer(60_00), share_offer(1), share_offer(100)])
def test_R8_D20_with_0_percent_no_refund_can_be_offered(offer):
    given(terms(largest_refund_percent=0))
    when(offer)
    then(rejected("refund_over_limit", limit=usd_on_the_wire(0)))
    assert current().message.startswith("This order's terms allow no partial refund.")


@pytest.mark.parametrize(("percent", "price"), [(60, 1), (99, 1), (1, 99)])
def test_D9_D20_a_price_may_be_too_small_for_the_orders_own_percentage(percent, price):
    given(registered(price=usd(price), terms={"largest_refund_percent": percent}))
    when(refund_offer(1))
    then(rejected("refund_over_limit", limit=usd_on_the_wire(0)))
    assert current().message.startswith("The price leaves no room for a refund.")
    when(share_offer(percent))
    then(rejected("not_allowed"))
    assert (
        current().message == f"{percent} percent of the price is less than one minor unit; offer a larger part of it."
    )


@pytest.mark.parametrize("percent", [1, 59, 60, 61, 99, 100])
def test_R8_D20_a_share_may_be_as_large_as_the_orders_terms_allow(percent):
    given(terms(largest_refund_percent=percent))
    when(share_offer(percent))
    then(offered(amount=percent * 100))


@pytest.mark.parametrize(
    ("percent", "price"), [(1, 100_00), (59, 100_00), (61, 100_00), (99, 100_00), (60, 3), (60, 1), (61, 2)]
)
def test_R8_D20_a_larger_share_is_over_the_limit_also_if_rounding_would_hide_it(percent, price):
    given(registered(price=usd(price), terms={"largest_refund_percent": percent}))
    when(share_offer(percent + 1))
    then(rejected("refund_over_limit", limit=usd_on_the_wire(percent * price // 100)))


def test_D20_a_share_that_is_too_large_is_no_schema_error_up_to_100():
    given()
    when(share_offer(100))
    then(rejected("order_unknown"))
    when(received("OfferPartialRefund", 2, actor=FREELANCER, percent=101, explanation=EXPLANATION, reason="other"))
    then(rejected("invalid", errors=[{"path": "percent", "reason": "should be at most 100"}]))


def test_R9_D20_after_a_granted_refund_nothing_is_said_of_the_limit():
    given(terms(largest_refund_percent=80), refund_offer(80_00), accept(by=CLIENT))
    for offer in (refund_offer(80_01), share_offer(81), share_offer(1)):
        when(offer)
        then(rejected("refund_already_granted"))


def test_D20_the_currency_is_judged_before_the_limit():
    given(terms(largest_refund_percent=0))
    when(refund_offer(1, currency="EUR"))
    then(rejected("currency_mismatch"))


# --- what the order page offers (R12) ---


def actions(user, now=T):
    [found] = page_of(current().history, user, now)["available_actions"].values()
    return {(action["command"], action["kind"]): action for action in found}


@pytest.mark.parametrize("days", [1, 45, 60, 365])
@pytest.mark.parametrize("percent", [1, 60, 100])
def test_R12_D20_the_page_offers_what_the_terms_allow(days, percent):
    given(terms(longest_extension_days=days, largest_refund_percent=percent))
    found = actions(FREELANCER)
    extended = found["OpenDispute", "delivery_extension"]
    refund = found["OfferPartialRefund", "partial_refund"]
    assert (extended["available"], extended["needs"]["days"]) == (True, {"min": 1, "max": days})
    assert (refund["available"], refund["needs"]["largest_refund"]) == (True, usd_on_the_wire(percent * 100))


@pytest.mark.parametrize("history", [[], [opened(order_update())], [delivered()]])
def test_R12_D20_what_the_terms_rule_out_is_not_available_and_the_page_says_why(history):
    given(terms(longest_extension_days=0, largest_refund_percent=0), *history)
    found = actions(FREELANCER)
    for action, why in (
        (("OpenDispute", "delivery_extension"), "This order's terms allow no delivery extension."),
        (("OfferPartialRefund", "partial_refund"), "This order's terms allow no partial refund."),
    ):
        assert (found[action]["available"], found[action]["why_not"]) == (False, why)
        assert found[action]["possible_from"] is None
    assert found["OpenDispute", "cancellation"]["available"] == (history != [opened(order_update())])


@pytest.mark.parametrize(("percent", "price"), [(60, 1), (1, 99)])
def test_R12_D9_D20_a_price_too_small_for_the_percentage_is_another_reason(percent, price):
    given(registered(price=usd(price), terms={"largest_refund_percent": percent}))
    refund = actions(FREELANCER)["OfferPartialRefund", "partial_refund"]
    assert (refund["available"], refund["why_not"]) == (False, "The price leaves no room for a refund.")


@HOURS_UNTIL_VERY_LATE
def test_R12_D5_D20_the_client_is_told_from_when_on_the_order_is_very_late(hours):
    given(terms(very_late_after_hours=hours))
    action = actions(CLIENT)["CancelOrder", None]
    assert (action["available"], action["possible_from"]) == (False, instant(DUE + hours * HOURS))
    assert not actions(CLIENT, DUE + hours * HOURS - MS)["CancelOrder", None]["available"]
    assert actions(CLIENT, DUE + hours * HOURS)["CancelOrder", None]["available"]


def test_R12_D20_an_answer_is_offered_until_the_orders_own_deadline():
    given(terms(response_hours=1), opened(order_update()))
    action = actions(FREELANCER, T + HOURS - MS)["Accept", "order_update"]
    assert action["needs"]["respond_by"] == instant(T + HOURS)
    assert ("Accept", "order_update") not in actions(FREELANCER, T + HOURS)


# --- however an order is loaded ---


def test_D20_an_order_has_the_same_terms_however_it_is_loaded():
    service = judged_every_way(
        log(
            (T, command_id(9), registered(terms=GOLD)),
            (T, FIRST, opened(extension(45))),
            (T + 48 * HOURS, command_id(10), decline(by=CLIENT)),
            (T + 48 * HOURS, SECOND, opened(extension(46))),
            (T + 48 * HOURS, THIRD, refund_offer(80_00)),
            (T + 120 * HOURS, command_id(11), decline(THIRD, by=CLIENT)),
            (DUE + 6 * HOURS - MS, command_id(12), cancel()),
            (DUE + 6 * HOURS, command_id(13), cancel()),
        )
    )
    assert names(service.events) == [
        "OrderRegistered",
        "DisputeOpened",
        "Declined",
        "DisputeOpened",
        "AutoAccepted",
        "PartialRefundGranted",
        "OrderCanceled",
    ]
    codes = [outcome_of(row).get("code") for row in service.outcomes]
    assert codes == [None, None, None, "invalid", None, "dispute_settled", "approval_needed", None]


def test_D20_each_order_has_its_own():
    service = Service()
    for number, hours in enumerate((None, 1, 720, 48)):
        command = registered() if hours is None else terms(response_hours=hours)
        service.send(command, command_id(1), order_id=f"order-{number}")
    records = [as_record(in_envelope(opened(order_update()), SECOND, f"order-{number}")) for number in range(4)]
    deadlines = [event.respond_by - T for event in service.judge(records).events if isinstance(event, DisputeOpened)]
    assert deadlines == [48 * HOURS, 1 * HOURS, 720 * HOURS, 48 * HOURS]
