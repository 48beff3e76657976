"""The instant from which business time runs: the first start, kept in the database."""

from datetime import UTC, datetime
from fractions import Fraction

from services.clock import Clock

from .database import ANSWER_WITHIN_SECONDS, connect, fetch_value

_ORIGIN = "SELECT origin FROM clock"


def read_clock(database_url: str, given: datetime | None, scale: Fraction) -> Clock:
    """The installation's clock. Notes the origin on the first start; one given by the environment wins.

    Once it is noted this only reads, so that those who may not write can ask for the time. Raises psycopg.Error.
    """
    now = given or datetime.now(UTC)
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)
    with connect(database_url, answer_within=ANSWER_WITHIN_SECONDS) as connection:
        if (noted := fetch_value(connection, _ORIGIN)) is None:
            connection.execute("INSERT INTO clock (origin) VALUES (%s) ON CONFLICT DO NOTHING", (now,))
            noted = fetch_value(connection, _ORIGIN)
    return Clock(now if given else noted.astimezone(UTC), scale)
