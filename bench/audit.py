"""Measures how long a verification of everything takes, and a what-if beside it."""

import time
from typing import Any

from projections import READ_MODELS
from projections.framework.projector import Projector
from services.audit.verify import verify_history
from services.eventstore.application import OrderStore
from services.runtime.installation import clock_of
from services.settings import Settings
from services.what_if.change import Change
from services.what_if.comparison import Comparison
from services.what_if.history import compare_shard


def verify(settings: Settings) -> dict[str, Any]:
    """Returns events and commands per second, start included, of everything and of history without read models."""
    with OrderStore(settings.database, settings.master_keys) as store:
        for model in READ_MODELS.values():
            projector = Projector(store, model())
            projector.prepare()
            while projector.catch_up(5000):
                pass
    began = time.perf_counter()
    history_until = began

    def progress(what: str, done: int, of: int) -> None:
        nonlocal history_until
        if what == "history":
            history_until = time.perf_counter()

    found = verify_history(settings, clock_of(settings), None, progress)
    seconds = time.perf_counter() - began
    # The timer did not run, so open disputes have no deadlines. Nothing else may differ.
    different = [difference for difference in found.differences if "has no deadline" not in difference]
    assert not different, different[:5]
    return {
        "commands_per_second": found.outcomes / seconds,
        "history_commands_per_second": found.outcomes / (history_until - began),
        "per_second": found.events / seconds,
        "history_per_second": found.events / (history_until - began),
        "events": found.events,
        "outcomes": found.outcomes,
        "seconds": seconds,
    }


def what_if(settings: Settings) -> float:
    """Returns how many seconds it takes to judge history again with 72 hours to answer."""
    began = time.perf_counter()
    comparison = Comparison(Change(response_hours=72))
    compare_shard(settings, clock_of(settings), comparison, lambda done, of: None)
    assert comparison.orders > 0
    return time.perf_counter() - began
