"""The event-sourced application: the eventsourcing library's class with our recorder and mapper."""

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

_CACHED_KEYS = 40_000
_MAX_CONNECTIONS = 4


class OrderStore(Application[str]):
    """Orders in PostgreSQL. `events`, `repository`, `recorder` and `notification_log` are the library's."""

    name = "order"

    def __init__(self, database_url: str, masters: MasterKeys, *, answer_within: float | None = None) -> None:
        """Connects to a database that has been migrated. `masters`: the master keys that wrap order keys.

        `answer_within`: how many seconds each statement may take; see `services.eventstore.database.connect`.
        """
        self._pool = pool(
            database_url,
            min_size=0,
            max_size=_MAX_CONNECTIONS,
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
                # The library requires these, but our pool replaces the one that it makes from them.
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
        """Seals the events' texts, and appends the events and the batch. An erasure takes effect with the commit.

        Raises MasterKeyError, and what `OrderRecorder.insert_events` raises. Not thread-safe.
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
        """Returns the cached order keys, with the newest key of each order that these events need one for."""
        order_ids = {event.originator_id for event in events if type(event) in CHANGE_KEYS}
        if order_ids and not self._registered:
            with self._recorder.datastore.transaction(commit=True) as cursor:
                self.masters.register(cursor.connection)
            self._registered = True
        if len(self._newest_keys) > _CACHED_KEYS:
            self.forget_keys()
        if missing := order_ids - self._newest_keys.keys():
            self._newest_keys |= dict.fromkeys(missing, OrderKey()) | self._keys_of(missing).newest()
        return self._newest_keys

    def forget_keys(self) -> None:
        """Forgets cached order keys, because another process may have changed them, or the database was restored."""
        self._newest_keys = {}
        self._registered = False

    def _keys_of(self, order_ids: Collection[str]) -> OrderKeys:
        if not order_ids:
            return OrderKeys()
        with self._recorder.datastore.get_connection() as connection:
            return load_keys(connection, order_ids, self.masters)

    def read(self, stored: Sequence[Stored]) -> list[Event]:
        """Decodes events with their texts. Raises MapperDeserialisationError for one that this version cannot read."""
        with self._recorder.datastore.get_connection() as connection:
            return read_with_texts(connection, self.masters, stored)

    def history(self, order_id: str, up_to: int | None = None) -> list[Event]:
        """Returns an order's events, in their sequence, up to sequence `up_to`. Raises what `read` raises."""
        return self.read(self._recorder.select_events(order_id, lte=up_to))

    def order(self, order_id: str) -> Order:
        """Returns an order, computed from all its events. An order that nobody registered has version 0."""
        return evolve_all(Order(id=order_id), self.history(order_id))

    def orders(self, order_ids: Collection[str]) -> dict[str, Order | Exception]:
        """Loads orders with one query, including those that nobody registered. Writes snapshots of long orders.

        For an order that cannot be loaded, the value is the exception.
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
        except Exception:  # snapshots only make the next load faster
            log.warning("no snapshots could be written of %d long orders", len(orders), exc_info=True)

    def parking(self) -> Parking:
        """Returns the orders that are parked now."""
        with self._recorder.datastore.get_connection() as connection:
            return read_parking(connection)

    def months(self) -> Months:
        """Returns the months of the table `outcomes`. Begins the current month if need be."""
        with self._recorder.datastore.transaction(commit=True) as cursor:
            return begun_months(cursor.connection)

    def with_earlier_commands(self, order_ids: Collection[str], month: date) -> set[str]:
        """Returns those of these orders that have commands judged before `month`."""
        with self._recorder.datastore.get_connection() as connection:
            return outcomes.with_earlier_commands(connection, order_ids, month)

    def with_ids_in_capitals(self, order_ids: Collection[str]) -> set[str]:
        """Returns those of these orders that have command ids with capital letters."""
        with self._recorder.datastore.get_connection() as connection:
            return outcomes.with_ids_in_capitals(connection, order_ids)

    def parked(self, order_id: str) -> list[ParkedCommand]:
        """Returns an order's parked commands, in the order of their records."""
        with self._recorder.datastore.get_connection() as connection:
            return parked_commands(connection, order_id)

    def outcomes(self, order_id: str, *, repeats: bool = False) -> list[StoredOutcome]:
        """Returns the outcomes of an order's commands, in the order of judging.

        With `repeats`, also the outcomes of commands whose id had been used before.
        """
        with self._recorder.datastore.get_connection() as connection:
            return outcomes.outcomes_of_order(connection, order_id, repeats=repeats)

    def first_uses(self, command_ids: Collection[tuple[str, str]]) -> FirstUses:
        """Returns the first uses of those command ids, given as order id and command id, that were used before."""
        with self._recorder.datastore.get_connection() as connection:
            return outcomes.first_uses(connection, command_ids)

    def dead_letters(self, offsets: Collection[tuple[int, int]]) -> dict[tuple[int, int], DeadLetter]:
        """Returns the dead letters among these records, by partition and offset."""
        with self._recorder.datastore.get_connection() as connection:
            letters = dead_letters(connection, offsets)
        return {(letter.partition, letter.record_offset): letter for letter in letters}

    @property
    def _recorder(self) -> OrderRecorder:
        return cast("OrderRecorder", self.recorder)

    def construct_factory(self, env: Environment) -> InfrastructureFactory[Any]:
        """Makes the library's factory, with our connection pool."""
        # The library's pool takes only five connection parameters, and makes session settings, which a pooler would
        # pass on to other clients. Our pool has to be set before the recorder is made, because the recorder connects.
        factory = super().construct_factory(env)
        datastore = cast("PostgresFactory", factory).datastore
        datastore.pool = cast("Any", self._pool)
        with datastore.get_connection() as connection:
            datastore.schema = cast("Connection[Any]", connection).home
        return factory
