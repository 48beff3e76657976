"""A version of a read model always has the same tables and rows, whatever else changes in the code."""

import json
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import Connection
from psycopg.sql import SQL, Identifier

from projections import READ_MODELS
from projections.framework.projector import Projector
from projections.framework.read_model import ReadModel
from tests.contract.test_stored_events import CORPUS, stored
from tests.support.golden import assert_golden
from tests.support.installation import Installation


@pytest.fixture
def filled(installation: Installation) -> Installation:
    """With sealed events of all kinds, under many terms, and every read model made from them."""
    with psycopg.connect(installation.settings.database) as connection, connection.cursor() as cursor:
        cursor.executemany(
            "INSERT INTO order_events (originator_id, originator_version, topic, state, notification_id) "
            "VALUES (%s, %s, %s, %s, %s)",
            [
                (e.originator_id, e.originator_version, e.topic, e.state, number)
                for number, e in enumerate((event for file in CORPUS[1:] for event in stored(file)), 1)
            ],
        )
    return installation


def _tables(connection: Connection[Any], model: ReadModel[Any]) -> dict[str, Any]:
    """Columns and indexes of all tables, and the rows of those that a rebuild has to give again."""
    columns = connection.execute(
        "SELECT table_name, column_name, data_type, collation_name, is_nullable FROM information_schema.columns "
        "WHERE table_schema = %s ORDER BY table_name, ordinal_position",
        (model.name,),
    ).fetchall()
    indexes = connection.execute(
        "SELECT indexdef FROM pg_indexes WHERE schemaname = %s ORDER BY indexname", (model.name,)
    ).fetchall()
    rows = {
        table: connection.execute(
            SQL(
                "SELECT to_jsonb(t) || CASE WHEN {} = 'orders' THEN jsonb_build_object('document', "
                "convert_from((to_jsonb(t) ->> 'document')::bytea, 'UTF8')::jsonb) ELSE '{{}}' END FROM {} AS t "
                "ORDER BY t::text"
            ).format(table, Identifier(model.name, table))
        ).fetchall()
        for table in model.compared
    }
    return {"columns": columns, "indexes": indexes, "rows": rows}


@pytest.mark.parametrize("name", READ_MODELS)
def test_rows_of_this_version_are_what_they_always_were(filled: Installation, name: str):
    model = READ_MODELS[name]()
    with filled.store() as store:
        projector = Projector(store, model)
        projector.prepare()
        while projector.catch_up():
            pass
    with psycopg.connect(filled.settings.database) as connection:
        content = json.dumps(_tables(connection, model), indent=1, sort_keys=True)
    assert_golden(Path(__file__).parent / "golden", name, model.version, content + "\n")
