"""The state of an order, as snapshots keep it: the same for one version, whatever else changes in the code."""

import json
from pathlib import Path

from services.eventstore.snapshots import STATE_VERSION, encode_state
from services.orders import Order
from services.orders.evolve import evolve
from tests.contract.test_stored_events import CORPUS, histories
from tests.support.golden import assert_golden


def test_states_of_this_version_are_what_they_always_were():
    states = {}
    for file in CORPUS:
        for order_id, history in histories(file).items():
            order = Order(id=order_id)
            for event in history:
                evolve(order, event)
                if order.open_dispute is None:
                    states[f"{file.stem} {order_id} {order.version}"] = json.loads(encode_state(order))
    assert_golden(Path(__file__).parent / "golden", "states", STATE_VERSION, json.dumps(states, indent=1) + "\n")
