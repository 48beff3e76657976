"""The contract as files: current, compatible with what was released, and true of what is on Kafka."""

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from jsonschema.exceptions import ValidationError
from resolution_contracts import Accept, CommandEnvelope
from resolution_contracts.page import page
from resolution_contracts.schemas import asyncapi, schemas

from tests.contract.compatibility import broken

ROOT = Path(__file__).parents[2]
SCHEMAS = ROOT / "contracts" / "schemas"
RELEASED: dict[str, Any] = json.loads((ROOT / "contracts" / "released.json").read_text())

Json = dict[str, Any]


def test_the_files_are_what_the_models_say():
    written = {str(f.relative_to(SCHEMAS)): json.loads(f.read_text()) for f in SCHEMAS.rglob("*.json")}
    assert written == {**schemas(), "asyncapi.json": asyncapi()}, "run `make schemas`"
    assert (ROOT / "docs" / "messages.md").read_text() == page(), "run `make schemas`"


def test_every_schema_is_one_and_every_reference_leads_somewhere():
    for schema in schemas().values():
        Draft202012Validator.check_schema(schema)
    document = asyncapi()

    def references(part: Any) -> list[str]:
        if isinstance(part, dict):
            own = [part["$ref"]] if "$ref" in part else []
            return own + [r for value in part.values() for r in references(value)]
        return [r for item in part for r in references(item)] if isinstance(part, list) else []

    found = references(document)
    assert len(found) > 60
    for reference in found:
        if reference.startswith("./"):
            assert (SCHEMAS / reference).exists()
        else:
            here: Any = document
            for step in reference.removeprefix("#/").split("/"):
                here = here[step]


def test_a_command_as_the_models_write_it_fits_its_schema_and_a_wrong_one_does_not():
    schema = schemas()["commands/Accept.v1.json"]
    command = json.loads(CommandEnvelope.of("order-7", Accept(actor="a", dispute_id="d"), source="/x").to_json())
    Draft202012Validator(schema).validate(command)
    for wrong in ({"subject": "order 7"}, {"id": "7"}, {"data": {"actor": "a", "dispute_id": "d", "more": 1}}):
        with pytest.raises(ValidationError):
            Draft202012Validator(schema).validate(command | wrong)


def test_what_was_released_is_still_understood():
    assert broken(RELEASED, schemas()) == []


@pytest.mark.parametrize(
    ("file", "change", "said"),
    [
        ("commands/Accept.v1.json", lambda data: data["properties"].pop("message"), "message is gone"),
        ("commands/Accept.v1.json", lambda data: data["required"].append("message"), "message is required now"),
        (
            "commands/Accept.v1.json",
            lambda data: data["properties"]["actor"].update(maxLength=10),
            "properties.actor.maxLength changed",
        ),
        (
            "commands/Accept.v1.json",
            lambda data: (data["properties"].update(why={"type": "string"}), data["required"].append("why")),
            "why is required now",
        ),
        (
            "commands/OfferPartialRefund.v2.json",
            lambda data: data["properties"]["percent"]["anyOf"][0].update(maximum=59),
            "anyOf.0.maximum changed",
        ),
        ("events/Accepted.v1.json", lambda data: data["required"].remove("by"), "by is optional now"),
        ("events/Accepted.v1.json", lambda data: data["properties"]["by"].clear(), "properties.by.$ref is gone"),
    ],
)
def test_an_incompatible_change_is_found(file: str, change: Any, said: str):
    changed = deepcopy(schemas())
    change(changed[file]["properties"]["data"])
    [found] = broken(RELEASED, changed)
    assert found.startswith(file)
    assert said in found


def test_a_message_that_is_gone_is_found_and_an_optional_field_is_no_break():
    changed = deepcopy(schemas())
    del changed["events/Withdrawn.v1.json"]
    changed["commands/Accept.v1.json"]["properties"]["data"]["properties"]["hint"] = {"type": "string"}
    assert broken(RELEASED, changed) == ["events/Withdrawn.v1.json is gone"]
