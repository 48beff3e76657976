"""The disputes that are open by what was published, as far as the timer has read."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from services.orders.events import Accepted, AutoAccepted, Declined, DisputeClosed, DisputeOpened, Event, Withdrawn

_SETTLED = (Accepted, AutoAccepted, Declined, DisputeClosed, Withdrawn)

OpenDispute = tuple[str, str, datetime]
"""Order id, dispute id, when it ends."""
Change = tuple[int, int, str, str, datetime | None]
"""Partition, offset, order id, dispute id, when it ends; None where it was settled."""


class Disputes:
    """Follows events. `timer`: by partition, the offset up to which it has read. What comes behind is kept for later.

    `known` and `later` are what another one had when it stopped.
    """

    def __init__(self, timer: Mapping[int, int], known: Iterable[OpenDispute], later: Iterable[Change]) -> None:
        self._timer = timer
        self._open = {(order_id, dispute_id): ends_at for order_id, dispute_id, ends_at in known}
        self.later: list[Change] = []
        for change in later:
            self._note(*change)

    @property
    def open(self) -> list[OpenDispute]:
        """The disputes that are open after the events so far, each with its deadline."""
        return [(*key, ends_at) for key, ends_at in self._open.items()]

    def follow(self, partition: int, offset: int, event: Event) -> None:
        """Takes the next event, as it was published there."""
        if isinstance(event, DisputeOpened):
            self._note(partition, offset, event.originator_id, event.dispute_id, event.respond_by)
        elif isinstance(event, _SETTLED):
            self._note(partition, offset, event.originator_id, event.dispute_id, None)

    def _note(self, partition: int, offset: int, order_id: str, dispute_id: str, ends_at: datetime | None) -> None:
        if offset >= self._timer.get(partition, 0):
            self.later.append((partition, offset, order_id, dispute_id, ends_at))
        elif ends_at is None:
            self._open.pop((order_id, dispute_id), None)
        else:
            self._open[order_id, dispute_id] = ends_at
