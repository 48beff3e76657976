"""The rules: the state of an order, and what a command does to it. No Kafka, no SQL and no clock.

In: an order's state, a command, its id and its business time. Out: the events that follow, and a rejection, if any.
`decide.py` judges, `evolve.py` applies events, `policy.py` has the numbers of the rules.
"""

from .rejections import Rejected
from .state import Order

__all__ = ["Order", "Rejected"]
