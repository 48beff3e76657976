"""The event-sourced application: the library's, on our recorder and mapper."""

import logging
from collections.abc import Collection, Sequence
from datetime import date
from typing import Any, cast

from eventsourcing.application import Application
from eventsourcing.persistence import InfrastructureFactory
from eventsourcing.postgres import PostgresFactory
from eventsourcing.utils import Environment
from psycopg.rows import dict_row

from services.judging.dead_letters import DeadLetter
from services.judging.first_uses import FirstUses
from services.judging.outcomes import ParkedCommand
from services.orders import Order
from services.orders.events import Event
from services.orders.evolve import evolve_all
from services.retention.months import Months, begun_months
from services.sealing.master_keys import MasterKeys
from services.sealing.order_keys import OrderKey, OrderKeys, load_keys

from . import outcomes
from .append import Batch, OrderRecorder
from .database import Connection, pool
from .dead_letters import dead_letters
from .event_codec import CHANGE_KEYS, OrderMapper, Sealing, Stored
from .load_orders import load_orders
from .outcomes import StoredOutcome
from .parking import Parking, parked_commands, read_parking
from .read_events import read_with_texts
from .snapshots import write_snapshots

log = logging.getLogger(__name__)

_REMEMBERED_KEYS = 40_000
_MOST_CONNECTIONS = 4


class OrderStore(Application[str]):
    """Orders in PostgreSQL. `events`, `repository`, `recorder` and `notification_log` are the library's."""

    name = "order"

    def __init__(self, database_url: str, masters: MasterKeys, *, answer_within: float | None = None) -> None:
        """Connects. The schema has to be there (`migrate`). `masters` wrap the orders' keys.

        `answer_within`: the seconds for each statement, for a role; see `services.eventstore.database.connect`.
        """
        self._pool = pool(
            database_url,
            min_size=0,
            max_size=_MOST_CONNECTIONS,
            answer_within=answer_within,
            autocommit=True,
            row_factory=dict_row,
        )
        super().__init__(
            {
                "PERSISTENCE_MODULE": "eventsourcing.postgres",
                "APPLICATION_RECORDER_TOPIC": "services.eventstore.append:OrderRecorder",
                "MAPPER_TOPIC": "services.eventstore.event_codec:OrderMapper",
                "ORIGINATOR_ID_TYPE": "text",
                "CREATE_TABLE": "no",
                # Needed, but of no use: our pool takes the place of the one that is made of them.
                "POSTGRES_DBNAME": "-",
                "POSTGRES_HOST": "-",
                "POSTGRES_USER": "-",
                "POSTGRES_PASSWORD": "-",
            }
        )
        self.masters = masters
        self._newest_keys: dict[str, OrderKey] = {}
        self._registered = False
        cast("OrderMapper", self.mapper).keys = self._keys_of

    def append(self, events: Sequence[Event], batch: Batch | None = None) -> None:
        """Appends events, their texts sealed, with what belongs to them; what they erase is gone with the commit.

        Raises as `OrderRecorder.insert_events` does, and MasterKeyError. Not for two threads at a time.
        """
        sealing = Sealing(self._keys_to_write(events), self.masters)
        stored = [sealing.stored(event) for event in events]
        batch = batch or Batch()
        batch.sealing = sealing
        try:
            self._recorder.insert_events(stored, batch=batch)
        except BaseException:
            self.forget_keys()
            raise

    def _keys_to_write(self, events: Sequence[Event]) -> dict[str, OrderKey]:
        """The newest keys of these events' orders; those used last are remembered."""
        order_ids = {event.originator_id for event in events if type(event) in CHANGE_KEYS}
        if order_ids and not self._registered:
            with self._recorder.datastore.transaction(commit=True) as cursor:
                self.masters.register(cursor.connection)
            self._registered = True
        if len(self._newest_keys) > _REMEMBERED_KEYS:
            self.forget_keys()
        if missing := order_ids - self._newest_keys.keys():
            self._newest_keys |= dict.fromkeys(missing, OrderKey()) | self._keys_of(missing).newest()
        return self._newest_keys

    def forget_keys(self) -> None:
        """Others may have changed them, or the database has fallen back to before they were made."""
        self._newest_keys = {}
        self._registered = False

    def _keys_of(self, order_ids: Collection[str]) -> OrderKeys:
        if not order_ids:
            return OrderKeys()
        with self._recorder.datastore.get_connection() as connection:
            return load_keys(connection, order_ids, self.masters)

    def read(self, stored: Sequence[Stored]) -> list[Event]:
        """Events with their texts. Raises MapperDeserialisationError for one that this version cannot read."""
        with self._recorder.datastore.get_connection() as connection:
            return read_with_texts(connection, self.masters, stored)

    def history(self, order_id: str, up_to: int | None = None) -> list[Event]:
        """An order's events, up to the one numbered `up_to`. Raises as `read` does."""
        return self.read(self._recorder.select_events(order_id, lte=up_to))

    def order(self, order_id: str) -> Order:
        """An order as all its events left it; an order that nobody registered has version 0."""
        return evolve_all(Order(id=order_id), self.history(order_id))

    def orders(self, order_ids: Collection[str]) -> dict[str, Order | Exception]:
        """Many at once, in one query; those that nobody registered are there too.

        In the place of an order whose history this version cannot read or follow stands the reason. Long ones get a
        snapshot for the next time.
        """
        with self._recorder.datastore.get_connection() as connection:
            loaded = load_orders(connection, self.masters, order_ids)
        if loaded.due:
            self._write_snapshots(loaded.due)
        return loaded.orders

    def _write_snapshots(self, orders: Sequence[Order]) -> None:
        try:
            with self._recorder.datastore.get_connection() as connection:
                write_snapshots(connection, orders)
        except Exception:  # they would only have made the next load shorter
            log.warning("no snapshots could be written of %d long orders", len(orders), exc_info=True)

    def parking(self) -> Parking:
        """Which orders are parked now."""
        with self._recorder.datastore.get_connection() as connection:
            return read_parking(connection)

    def months(self) -> Months:
        """The months of the outcomes, as of now; a new one is begun."""
        with self._recorder.datastore.transaction(commit=True) as cursor:
            return begun_months(cursor.connection)

    def with_earlier_commands(self, order_ids: Collection[str], month: date) -> set[str]:
        """Which of these orders have commands that were judged before a month."""
        with self._recorder.datastore.get_connection() as connection:
            return outcomes.with_earlier_commands(connection, order_ids, month)

    def with_ids_in_capitals(self, order_ids: Collection[str]) -> set[str]:
        """Which of these orders have commands whose ids have capital letters."""
        with self._recorder.datastore.get_connection() as connection:
            return outcomes.with_ids_in_capitals(connection, order_ids)

    def parked(self, order_id: str) -> list[ParkedCommand]:
        """An order's parked commands, in the order of the log."""
        with self._recorder.datastore.get_connection() as connection:
            return parked_commands(connection, order_id)

    def outcomes(self, order_id: str, *, repeats: bool = False) -> list[StoredOutcome]:
        """What became of an order's commands, in the order of judging; with `repeats`, also of those sent again."""
        with self._recorder.datastore.get_connection() as connection:
            return outcomes.outcomes_of_order(connection, order_id, repeats=repeats)

    def first_uses(self, command_ids: Collection[tuple[str, str]]) -> FirstUses:
        """Which of these commands (order id, command id) were used before, and with what."""
        with self._recorder.datastore.get_connection() as connection:
            return outcomes.first_uses(connection, command_ids)

    def dead_letters(self, places: Collection[tuple[int, int]]) -> dict[tuple[int, int], DeadLetter]:
        """What became of the records at these places (partition, offset), where they are dead letters."""
        with self._recorder.datastore.get_connection() as connection:
            found = dead_letters(connection, places)
        return {(letter.partition, letter.record_offset): letter for letter in found}

    @property
    def _recorder(self) -> OrderRecorder:
        return cast("OrderRecorder", self.recorder)

    def construct_factory(self, env: Environment) -> InfrastructureFactory[Any]:
        """Makes the library's factory with connections of our own."""
        # The library's pool knows five parameters of a connection, and makes settings that a pooler gives to others.
        # Ours has to be there before the recorder is made, which connects.
        factory = super().construct_factory(env)
        datastore = cast("PostgresFactory", factory).datastore
        datastore.pool = cast("Any", self._pool)
        with datastore.get_connection() as connection:
            datastore.schema = cast("Connection[Any]", connection).home
        return factory
