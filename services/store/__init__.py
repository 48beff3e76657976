"""Everything PostgreSQL: the event store, the outcomes, the Kafka positions, the schema."""

from .application import OrderStore
from .migrate import migrate
from .recorder import Batch, OutcomeRow

__all__ = ["Batch", "OrderStore", "OutcomeRow", "migrate"]
