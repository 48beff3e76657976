"""Everything PostgreSQL: the event store, the outcomes, the Kafka positions, the schema."""

from .application import OrderStore
from .migrate import migrate
from .parking import ParkedCommand, Parking, ParkingChanged
from .recorder import Batch, OutcomeRow

__all__ = ["Batch", "OrderStore", "OutcomeRow", "ParkedCommand", "Parking", "ParkingChanged", "migrate"]
