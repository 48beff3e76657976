"""What `resolution replay` makes of states and of texts; no server."""

import io
import re
from typing import Any

import msgspec
import pytest
from resolution_contracts.values import DisputeKind, Role

from projections import READ_MODELS
from services.audit.replay import changes
from services.audit.replay_files import _cell
from services.cli.history import history
from services.cli.terminal import Terminal
from services.orders.events import DisputeOpened
from services.orders.public_events import confidential_fields
from tests.rules.logs import Service
from tests.rules.test_confidential import MARKER, assert_not_marked, every_event, marked_event
from tests.support.controls import FIRST, HOURS, ORDER, T, registered

Json = dict[str, Any]


@pytest.mark.parametrize(
    ("before", "after", "found"),
    [
        ({"a": 1}, {"a": 1}, {}),
        ({"a": 1}, {"a": 2}, {"a": {"before": 1, "after": 2}}),
        ({"a": None}, {"a": {"b": 1}}, {"a": {"before": None, "after": {"b": 1}}}),
        ({"a": {"b": 1, "c": 1}}, {"a": {"b": 1, "c": 2}}, {"a.c": {"before": 1, "after": 2}}),
        ({"a": {}}, {"a": {"b": "x"}}, {"a.b": {"before": None, "after": "x"}}),
        ({"a": {"b": "x"}}, {"a": {}}, {"a.b": {"before": "x", "after": None}}),
        ({"a": {"b": {"c": 1}}}, {"a": {"b": {"c": None}}}, {"a.b.c": {"before": 1, "after": None}}),
    ],
)
def test_what_differs_between_two_states(before: Json, after: Json, found: Json):
    assert changes(before, after) == found


def step(data: Json) -> Json:
    state = {"status": "delivered", "expected_delivery_at": None, "open_dispute": None, "refund": None}
    cause = {"decided_by": "command", "command": None, "command_id": FIRST}
    return {"sequence": 1, "event": "OrderDelivered", "time": "x", "data": data, "cause": cause, "changed": {}} | {
        "state": state
    }


def shown(data: Json, width: int = 80) -> str:
    out = io.StringIO()
    history(Terminal(file=out, width=width, force_terminal=True, color_system=None), ORDER, [step(data)])
    return out.getvalue()


def test_what_changed_is_coloured_on_a_terminal():
    out = io.StringIO()
    changed = {"status": {"before": "in progress", "after": "delivered"}}
    console = Terminal(file=out, width=80, force_terminal=True, color_system="standard")
    history(console, ORDER, [step({}) | {"changed": changed}])
    assert re.search(r"status: .*\x1b\[31min progress\x1b\[0m.* -> \x1b\[1;32mdelivered", out.getvalue())


@pytest.mark.parametrize("text", ["\x1b[2J", "\x9b2J", "\r#9  Accepted", "a\u202eb", "\b\b\b", "\x07"])
def test_a_text_of_a_user_moves_no_cursor_and_hides_nothing(text: str):
    out = shown({"comment": text})
    assert not any(c in out for c in text if not c.isprintable())
    assert "\\" in out


def test_a_text_that_looks_like_markup_is_shown_as_it_is():
    assert "[bold]No[/] [link=x]" in shown({"comment": "[bold]No[/] [link=x]"})


@pytest.mark.parametrize("width", [80, 120])
def test_long_texts_are_folded(width: int):
    out = shown({"comment": "word " * 400 + "x" * 2500}, width)
    assert all(len(line) <= width for line in out.splitlines())
    assert out.count("x") >= 2500


# --- files are an export (D16) ---


def refund_is_open() -> list[Any]:
    service = Service()
    service.send(registered(), FIRST)
    event = DisputeOpened(
        originator_id=ORDER, originator_version=2, timestamp=T, command_id=FIRST, dispute_id=FIRST,
        kind=DisputeKind.PARTIAL_REFUND, opened_by=Role.FREELANCER, respond_by=T + 48 * HOURS,
    )  # fmt: skip
    return [*service.events, msgspec.structs.replace(event, refund_reason=MARKER)]


@every_event
@pytest.mark.parametrize("name", READ_MODELS)
def test_D16_no_file_has_a_confidential_field_of_any_event(event_type: Any, name: str):
    model = READ_MODELS[name]()
    first = refund_is_open()[: 1 if event_type is DisputeOpened else 2]
    documents, _ = model.fold([*first, marked_event(event_type, len(first) + 1)])
    [row] = model.rows(documents)
    assert_not_marked([_cell(value) for value in row])
    if confidential_fields(event_type) and name == "order_page":
        assert MARKER.encode() in row[-1]  # the schemas have it: auditors see it
