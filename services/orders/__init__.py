"""The domain: an order, its disputes, and the rules. Free of Kafka, SQL and clocks."""

from .order import Order
from .rejections import Rejected

__all__ = ["Order", "Rejected"]
