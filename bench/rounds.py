"""Rounds: what is compared takes turns, because other programs use the machine meanwhile."""

import statistics
from collections.abc import Sequence
from typing import Any

Result = dict[str, Any]

ROUNDS = 3


def medians(rounds: Sequence[Result]) -> Result:
    """Returns the median of each figure, also of figures within figures, and the rounds themselves."""
    return _medians(rounds) | {"rounds": list(rounds)}


def _medians(rounds: Sequence[Result]) -> Result:
    found: Result = {}
    for name, value in rounds[0].items():
        of_all = [one[name] for one in rounds]
        if isinstance(value, dict):
            found[name] = _medians(of_all)
        elif isinstance(value, int | float):
            found[name] = statistics.median(of_all)
    return found
