"""The instant from which business time runs: the first start, kept in the database."""

from datetime import UTC, datetime

from services.clock import Clock
from services.settings import Settings

from .database import ANSWER_WITHIN_SECONDS, connect


def clock_of(settings: Settings) -> Clock:
    """The installation's clock. Notes the origin on the first start; one given by the environment wins.

    Once it is noted this only reads, so that those who may not write can ask for the time. Raises psycopg.Error.
    """
    given = settings.time_origin or datetime.now(UTC)
    given = given.replace(microsecond=given.microsecond // 1000 * 1000)
    with connect(settings.database, answer_within=ANSWER_WITHIN_SECONDS) as connection:
        row = connection.execute("SELECT origin FROM clock").fetchone()
        if row is None:
            connection.execute("INSERT INTO clock (origin) VALUES (%s) ON CONFLICT DO NOTHING", (given,))
            row = connection.execute("SELECT origin FROM clock").fetchone()
    assert row is not None
    origin: datetime = given if settings.time_origin else row[0].astimezone(UTC)
    return Clock(origin, settings.time_scale)
