"""Computes the open disputes from the published events, as far as the timer has read."""

from collections.abc import Iterable, Mapping
from datetime import datetime

from services.orders.events import Accepted, AutoAccepted, Declined, DisputeClosed, DisputeOpened, Event, Withdrawn

_SETTLED = (Accepted, AutoAccepted, Declined, DisputeClosed, Withdrawn)

OpenDispute = tuple[str, str, datetime]
"""Order id, dispute id, deadline."""
Change = tuple[int, int, str, str, datetime | None]
"""Partition, offset, order id, dispute id, deadline; None instead of the deadline if the dispute was settled."""


class Disputes:
    """Follows events, and keeps those that the timer has not read yet for later."""

    def __init__(self, timer: Mapping[int, int], known: Iterable[OpenDispute], later: Iterable[Change]) -> None:
        """`timer`: the timer's next offset, by partition. `known` and `later`: where an earlier object stopped."""
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
        """Follows the next event, which was published at this partition and offset."""
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
