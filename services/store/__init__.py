"""Everything PostgreSQL: the event store, the outcomes, the Kafka positions, the schema."""

from .application import OrderStore
from .migrate import migrate
from .months import MonthBegan, Months
from .parking import ParkedCommand, Parking, ParkingChanged
from .recorder import Batch, OutcomeRow

__all__ = [
    "Batch",
    "MonthBegan",
    "Months",
    "OrderStore",
    "OutcomeRow",
    "ParkedCommand",
    "Parking",
    "ParkingChanged",
    "migrate",
]
