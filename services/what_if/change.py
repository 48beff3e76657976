"""The change that a what-if is about: other terms, and the orders that would have had them."""

from datetime import datetime

import msgspec
from msgspec import UNSET

from services.orders.events import OrderRegistered
from services.orders.policy import HELP_PAGE, Terms


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """Other terms for some orders. What is None stays as it was."""

    response_hours: int | None = None
    very_late_after_hours: int | None = None
    longest_extension_days: int | None = None
    largest_refund_percent: int | None = None
    terms_name: str | None = None
    """Only orders under the terms of this name."""
    since: datetime | None = None
    """Only orders registered at this business time or later."""
    until: datetime | None = None
    """Only orders registered before this business time."""

    @property
    def terms(self) -> dict[str, int]:
        """The terms that are other ones, by name."""
        given = {name: getattr(self, name) for name in msgspec.structs.asdict(HELP_PAGE) if name != "name"}
        return {name: value for name, value in given.items() if value is not None}

    def covers(self, order: OrderRegistered) -> bool:
        """Whether the order would have had the other terms."""
        return (
            (self.terms_name is None or self.terms_name == _terms_of(order).name)
            and (self.since is None or order.timestamp >= self.since)
            and (self.until is None or order.timestamp < self.until)
        )

    def applied(self, order: OrderRegistered) -> OrderRegistered:
        """Returns the registration under the other terms."""
        terms = msgspec.structs.replace(_terms_of(order), **self.terms)
        return msgspec.structs.replace(order, terms=UNSET if terms == HELP_PAGE else terms)


def _terms_of(order: OrderRegistered) -> Terms:
    return order.terms if isinstance(order.terms, Terms) else HELP_PAGE
