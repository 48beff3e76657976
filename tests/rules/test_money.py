"""Amounts for people: as many decimals as ISO 4217 gives a currency, in what is shown and in what is entered."""

import pytest
from iso4217 import raw_table

from services.orders.money import decimal_text, money_text, plain_text, read_money


@pytest.mark.parametrize(
    ("amount", "currency", "page", "terminal", "entered"),
    [
        (12_500_00, "USD", "$12,500.00", "12,500.00 USD", "12500.00"),
        (12_500_00, "RSD", "RSD12,500.00", "12,500.00 RSD", "12500.00"),
        (12_500_000, "IQD", "IQD12,500.000", "12,500.000 IQD", "12500.000"),
        (12_500, "JPY", "¥12,500", "12,500 JPY", "12500"),
        (12_500_0000, "CLF", "CLF12,500.0000", "12,500.0000 CLF", "12500.0000"),
        (5, "USD", "$0.05", "0.05 USD", "0.05"),
        (10**40 + 1, "USD", f"${10**38:,}.01", f"{10**38:,}.01 USD", f"{10**38}.01"),
    ],
)
def test_an_amount_has_the_decimals_of_iso_4217(amount, currency, page, terminal, entered):
    money = {"amount": amount, "currency": currency}
    assert (money_text(money), plain_text(money), decimal_text(money)) == (page, terminal, entered)
    if amount < 2**63:
        assert read_money(entered, currency) == money


def test_what_is_shown_can_be_entered_in_every_currency():
    for currency, about in raw_table.items():
        if about["CcyMnrUnts"] in (None, "N.A."):
            continue
        money = {"amount": 123_456_789, "currency": currency}
        assert read_money(decimal_text(money), currency) == money
        assert read_money("100", currency)["amount"] == 100 * 10 ** int(about["CcyMnrUnts"])


@pytest.mark.parametrize("currency", ["ABC", "XAU", "XXX"])
def test_a_currency_without_minor_units_is_shown_in_what_was_stored_and_not_entered(currency):
    money = {"amount": 12_500, "currency": currency}
    assert money_text(money) == plain_text(money) == f"12,500 {currency} minor units"
    with pytest.raises(ValueError, match="currency"):
        read_money("125", currency)


@pytest.mark.parametrize(
    "entered",
    [
        "",
        ".",
        "-1",
        "1,000",
        "1e3",
        "9e999999",
        "NaN",
        "sNaN",
        "²",
        "٣",
        "1" * 5000,
        "1 0",
        "1,5",
        "1.234,50",
        "1\u00a0000",
        "1.2345",
        "1.0000",
    ],
)
def test_what_is_no_number_is_refused_with_an_example(entered):
    with pytest.raises(ValueError, match=r"at most 3 decimals after a point .*, such as 1250\.000\."):
        read_money(entered, "BHD")


@pytest.mark.parametrize(
    ("entered", "currency", "why"),
    [
        ("1.001", "USD", "at most 2 decimals"),
        ("1.000", "USD", "at most 2 decimals after a point and without other separators, such as 1250.00."),
        ("1.5", "JPY", "a whole amount and without other separators, such as 1250."),
        ("1.000", "JPY", "a whole amount"),
        ("92233720368547758.08", "USD", "too large"),
    ],
)
def test_what_the_currency_has_no_room_for_is_refused(entered, currency, why):
    with pytest.raises(ValueError, match=why):
        read_money(entered, currency)


@pytest.mark.parametrize(("entered", "amount"), [(" 25 ", 2500), ("25.", 2500), (".5", 50), ("25.5", 2550), ("0", 0)])
def test_a_number_may_be_written_in_several_ways(entered, amount):
    assert read_money(entered, "USD") == {"amount": amount, "currency": "USD"}
