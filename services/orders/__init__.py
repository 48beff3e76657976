"""The rules: the state of an order, and what a command does to it. Uses no Kafka, no SQL and no clock.

Input: an order's state, a command, its id and its business time. Output: the events that follow, and a rejection if the
rules refuse the command.
`decide.py` judges, `evolve.py` applies events, `policy.py` has the numbers of the rules.
"""

from .rejections import Rejected
from .state import Order

__all__ = ["Order", "Rejected"]
