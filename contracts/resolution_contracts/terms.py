"""The terms of an order (D20): they come with its registration, and never change."""

from typing import Annotated

from pydantic import ConfigDict, Field, StringConstraints

from .values import Message

TermsName = Annotated[str, StringConstraints(pattern=r"\A[A-Za-z0-9._-]{1,64}\z")]


class Terms(Message):
    """What a party may do on an order, and how long. What is missing is as on the help page."""

    response_hours: Annotated[int, Field(ge=1, le=720)] = 48
    """How long the other party has to answer a request: elapsed hours in UTC (R1)."""
    very_late_after_hours: Annotated[int, Field(ge=0, le=720)] = 24
    """How long after the expected delivery the client may cancel without approval (R5)."""
    longest_extension_days: Annotated[int, Field(ge=0, le=365)] = 60
    """The longest delivery extension (R7). 0: none."""
    largest_refund_percent: Annotated[int, Field(ge=0, le=100)] = 60
    """The largest partial refund, in percent of the original price (R8). 0: none."""
    name: TermsName | None = None
    """What the marketplace calls these terms. Decides nothing."""


class OrderTerms(Terms):
    """The complete terms of an order in an event. Readers ignore fields they do not know."""

    model_config = ConfigDict(extra="ignore")
