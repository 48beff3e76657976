"""Judges the commands of a parked order again, or discards the first of them, for an operator.

The commands are judged in their order, at their own business times, so the result is the same as without the failure.
The service may run meanwhile.
"""

from collections.abc import Callable, Sequence
from datetime import datetime

import msgspec

from services.eventstore.append import Batch
from services.eventstore.application import OrderStore
from services.eventstore.parking import ParkingChanged
from services.failures import Failure
from services.judging import outcomes
from services.judging.decode import Received
from services.judging.judge import judge, read
from services.judging.outcomes import ParkedCommand
from services.judging.record import Record


class NotParked(Failure):
    """The order has no parked command."""


class ParkedOrders:
    """The parked orders of one database."""

    def __init__(self, store: OrderStore, topic: str, business_time: Callable[[int], datetime]) -> None:
        """`topic`: the commands topic. `business_time` converts a record's timestamp, in milliseconds."""
        self._store = store
        self._topic = topic
        self._business_time = business_time

    def retry(self, order_id: str) -> str:
        """Judges the order's commands again.

        Returns "", or where our code failed again: that command and the later ones then stay parked. Raises NotParked,
        psycopg.Error and the library's PersistenceError.
        """
        return self._settle(order_id, discard=None)

    def discard(self, order_id: str, reason: str) -> str:
        """Makes the order's first parked command a dead letter, and retries the others.

        Returns and raises as `retry` does.
        """
        return self._settle(order_id, discard=reason)

    def _settle(self, order_id: str, discard: str | None) -> str:
        commands = self._store.parked(order_id)
        if not commands:
            raise NotParked(f"No command of order {order_id} is parked.")
        while commands:  # the commands role may have parked more meanwhile
            try:
                failed = self._try(order_id, commands, discard)
            except ParkingChanged:
                failed = ""
            else:
                discard = None
            if failed:
                return failed
            commands = self._store.parked(order_id)
        return ""

    def _try(self, order_id: str, commands: Sequence[ParkedCommand], discard: str | None) -> str:
        version = self._store.parking().version
        records = [self._record(command) for command in commands]
        discarded = [] if discard is None else [outcomes.dead(records.pop(0), f"discarded by an operator: {discard}")]
        readings = read(records, self._business_time, None)
        uses = {(r.order_id, r.command_id) for _, r in readings if isinstance(r, Received)}
        known = self._store.first_uses(uses) if uses else {}
        judged = judge(readings, self._store.orders([order_id]), [known], set())
        still_parked = {(command.partition, command.record_offset) for command in judged.parked}
        freed = [record for c in commands if (record := (c.partition, c.record_offset)) not in still_parked]
        batch = Batch({}, discarded + judged.outcomes, version, judged.parked, freed)
        self._store.append(judged.events, batch)
        return next((command.why for command in judged.parked), "")

    def _record(self, parked: ParkedCommand) -> Record:
        headers = msgspec.json.decode(parked.headers, type=list[tuple[str, bytes | None]])
        return Record(
            self._topic,
            parked.partition,
            parked.record_offset,
            parked.record_time,
            parked.key,
            parked.value,
            headers,
        )
