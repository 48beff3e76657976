"""The options that say which terms a what-if is about."""

from datetime import datetime
from typing import Annotated

import typer
from resolution_contracts.terms import Terms

from .instants import instant

_LIMITS = Terms.model_json_schema()["properties"]


def _option(name: str, what: str) -> object:
    return typer.Option(min=_LIMITS[name]["minimum"], max=_LIMITS[name]["maximum"], metavar="N", help=what)


ResponseHours = Annotated[int | None, _option("response_hours", "Hours to answer a request.")]
VeryLateAfterHours = Annotated[
    int | None, _option("very_late_after_hours", "Hours after the expected delivery until an order is very late.")
]
LongestExtensionDays = Annotated[int | None, _option("longest_extension_days", "Days of the longest extension.")]
LargestRefundPercent = Annotated[
    int | None, _option("largest_refund_percent", "Percent of the price of the largest partial refund.")
]
TermsName = Annotated[
    str | None, typer.Option(metavar="NAME", help="Only orders that were registered under the terms of this name.")
]
Since = Annotated[
    datetime | None,
    typer.Option(parser=instant, metavar="INSTANT", help="Only orders registered at this instant (UTC) or later."),
]
Until = Annotated[
    datetime | None,
    typer.Option(parser=instant, metavar="INSTANT", help="Only orders registered before this instant (UTC)."),
]
