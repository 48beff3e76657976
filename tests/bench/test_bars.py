"""Bars that hold, and bars that are missed."""

import pytest

from bench.bars import Bar, bars
from bench.rounds import medians


@pytest.mark.parametrize(
    ("bar", "says"),
    [
        (Bar("backlog", [1.2, 1.7, 1.4], 1.5, at_most=False), ("1.40 x (1.20 to 1.70)", "at least 1.5 x", "missed")),
        (Bar("backlog", [1.6, 1.7, 1.4], 1.5, at_most=False), ("1.60 x (1.40 to 1.70)", "at least 1.5 x", "holds")),
        (Bar("pages", [60.0, 40.0, 45.0], 50, "ms"), ("45.00 ms (40.00 to 60.00)", "at most 50 ms", "holds")),
        (Bar("store", [1.31], 1.3), ("1.31 x", "at most 1.3 x", "missed")),
    ],
)
def test_the_median_of_the_rounds_has_to_reach_the_bar(bar: Bar, says: tuple[str, ...]):
    assert bar.row() == (bar.measure, *says)


def test_figures_within_figures_have_a_median_each():
    rounds = [{"of": {"p50": number, "who": "us"}, "x": number} for number in (3.0, 1.0, 2.0)]
    assert medians(rounds) == {"of": {"p50": 2.0}, "x": 2.0, "rounds": rounds}


def test_deadlines_are_measured_by_the_backlog_of_the_same_run():
    deadlines = {"disputes": 100_000, "rounds": [{"seconds": seconds} for seconds in (9.0, 16.0, 10.0)]}
    assert bars({"deadlines": deadlines}) == []
    backlog = {"one": 10_000.0, "rounds": [{"x_library": 49.0, "x_ceiling": 0.7}]}
    verdicts = {bar.measure: bar.holds for bar in bars({"backlog": backlog, "deadlines": deadlines})}
    assert verdicts == {
        "backlog beside the plain library": False,
        "backlog beside the raw ceiling": True,
        "deadlines at once beside as many commands of the backlog": True,
    }
