"""Amounts of money for people, with the decimals that ISO 4217 gives a currency.

Babel's own data has the decimals that people write. For Serbian dinars that is none, and yet there are 100 minor units.
"""

import re
from collections.abc import Mapping
from decimal import Decimal, localcontext
from typing import Any

from babel.numbers import format_currency
from iso4217 import Currency
from resolution_contracts.values import LARGEST_AMOUNT

_DIGITS = {currency.code: currency.exponent for currency in Currency if currency.exponent is not None}
_LONGEST = 5000  # digits; orders of earlier versions have prices of any length that Python reads
_read_number = re.compile(r"([0-9]{0,25})(?:\.([0-9]{0,25}))?").fullmatch


def money_text(money: Mapping[str, Any]) -> str:
    """`$1,250.00`, `RSD1,250.00`; in minor units if ISO 4217 has no such currency."""
    digits = _DIGITS.get(money["currency"])
    if digits is None:
        return _minor_units_text(money)
    pattern = f"¤{_pattern(digits)}"
    with localcontext(prec=_LONGEST):
        return format_currency(_major(money, digits), money["currency"], pattern, "en_US", currency_digits=False)


def plain_text(money: Mapping[str, Any]) -> str:
    """`1,250.00 USD`; in minor units if ISO 4217 has no such currency."""
    digits = _DIGITS.get(money["currency"])
    if digits is None:
        return _minor_units_text(money)
    return f"{_major(money, digits):,.{digits}f} {money['currency']}"


def decimal_text(money: Mapping[str, Any]) -> str:
    """The number alone, as a form has it: `1250.00`. In minor units if ISO 4217 has no such currency."""
    digits = _DIGITS.get(money["currency"], 0)
    return f"{_major(money, digits):.{digits}f}"


def is_of_iso_4217(currency: str) -> bool:
    """Whether its decimals are known, so that people can enter amounts."""
    return currency in _DIGITS


def not_of_iso_4217(currency: str) -> str:
    """A sentence for a person who would enter an amount."""
    return f"The order's currency, {currency}, is not one of ISO 4217, so an amount cannot be entered here."


def read_money(entered: str, currency: str) -> dict[str, Any]:
    """The amount that a person entered, in minor units. Raises ValueError with a sentence for that person."""
    digits = _DIGITS.get(currency)
    if digits is None:
        raise ValueError(not_of_iso_4217(currency))
    number = _read_number(entered.strip())
    if number is None or not any(number.groups()):
        example = decimal_text({"amount": 25 * 10**digits, "currency": currency})
        raise ValueError(f"Enter the amount as a number, such as {example}.")
    whole, decimals = number[1], (number[2] or "").rstrip("0")
    if len(decimals) > digits:
        raise ValueError(f"Enter an amount with at most {digits} decimals." if digits else "Enter a whole number.")
    amount = int(whole + decimals.ljust(digits, "0") or "0")
    if amount > LARGEST_AMOUNT:
        raise ValueError("The amount is too large; enter a smaller one.")
    return {"amount": amount, "currency": currency}


def _major(money: Mapping[str, Any], digits: int) -> Decimal:
    whole, minor = divmod(money["amount"], 10**digits)
    return Decimal(f"{whole}.{minor:0{digits}}") if digits else Decimal(whole)


def _pattern(digits: int) -> str:
    return "#,##0." + "0" * digits if digits else "#,##0"


def _minor_units_text(money: Mapping[str, Any]) -> str:
    return f"{money['amount']:,} {money['currency']} minor units"
