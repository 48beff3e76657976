"""Formats and parses amounts of money for people, with the number of decimals that ISO 4217 gives a currency.

Babel's own data has the decimals that people usually write. That is 0 for Serbian dinars, which have 100 minor units.
"""

import re
from collections.abc import Mapping
from decimal import Decimal, localcontext
from typing import Any

from babel.numbers import format_currency
from iso4217 import Currency
from resolution_contracts.values import LARGEST_AMOUNT

_DIGITS = {currency.code: currency.exponent for currency in Currency if currency.exponent is not None}
_MAX_DIGITS = 5000  # orders of earlier versions have prices of any length that Python reads
_read_number = re.compile(r"([0-9]{0,25})(?:\.([0-9]{0,25}))?").fullmatch


def money_text(money: Mapping[str, Any]) -> str:
    """Returns an amount such as `$1,250.00` or `RSD1,250.00`, in minor units if ISO 4217 has no such currency."""
    digits = _DIGITS.get(money["currency"])
    if digits is None:
        return _minor_units_text(money)
    pattern = f"¤{_pattern(digits)}"
    with localcontext(prec=_MAX_DIGITS):
        return format_currency(_major(money, digits), money["currency"], pattern, "en_US", currency_digits=False)


def plain_text(money: Mapping[str, Any]) -> str:
    """Returns an amount such as `1,250.00 USD`, in minor units if ISO 4217 has no such currency."""
    digits = _DIGITS.get(money["currency"])
    if digits is None:
        return _minor_units_text(money)
    return f"{_major(money, digits):,.{digits}f} {money['currency']}"


def decimal_text(money: Mapping[str, Any]) -> str:
    """Returns the number alone, as in a form: `1250.00`. In minor units if ISO 4217 has no such currency."""
    digits = _DIGITS.get(money["currency"], 0)
    return f"{_major(money, digits):.{digits}f}"


def is_of_iso_4217(currency: str) -> bool:
    """Whether ISO 4217 has the currency. Otherwise its decimals are unknown, and people cannot enter amounts."""
    return currency in _DIGITS


def not_of_iso_4217(currency: str) -> str:
    """Returns a sentence that says why no amount can be entered."""
    return f"The order's currency, {currency}, is not one of ISO 4217, so an amount cannot be entered here."


def read_money(entered: str, currency: str) -> dict[str, Any]:
    """Returns an amount that a person entered, in minor units. Raises ValueError with a sentence for that person."""
    digits = _DIGITS.get(currency)
    if digits is None:
        raise ValueError(not_of_iso_4217(currency))
    number = _read_number(entered.strip())
    units, decimals = (number[1], number[2] or "") if number else ("", "")
    if not units + decimals or len(decimals) > digits:  # zeros count: "1.000" is a thousand for many people
        example = decimal_text({"amount": 1250 * 10**digits, "currency": currency})
        what = f"an amount with at most {digits} decimals after a point" if digits else "a whole amount"
        raise ValueError(f"Enter {what} and without other separators, such as {example}.")
    amount = int(units + decimals.ljust(digits, "0"))
    if amount > LARGEST_AMOUNT:
        raise ValueError("The amount is too large; enter a smaller one.")
    return {"amount": amount, "currency": currency}


def _major(money: Mapping[str, Any], digits: int) -> Decimal:
    major, minor = divmod(money["amount"], 10**digits)
    return Decimal(f"{major}.{minor:0{digits}}") if digits else Decimal(major)


def _pattern(digits: int) -> str:
    return "#,##0." + "0" * digits if digits else "#,##0"


def _minor_units_text(money: Mapping[str, Any]) -> str:
    return f"{money['amount']:,} {money['currency']} minor units"
