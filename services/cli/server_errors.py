"""Says in a sentence why servers refuse what a command needs, and what to do."""

import os

import psycopg
from aiokafka.errors import KafkaConnectionError, KafkaError
from eventsourcing.persistence import PersistenceError
from psycopg import errors
from psycopg.conninfo import conninfo_to_dict

from services.eventstore.database import refusal_of_server
from services.kafka.refusals import refusal_of_broker

_ROLES = 'docs/deployment.md ("Database users") says which user may do what'


def is_of_server(error: Exception) -> bool:
    """Whether PostgreSQL or Kafka, or a client of theirs, caused the error."""
    return isinstance(error, psycopg.Error | PersistenceError | KafkaError)


def explain(error: Exception) -> object:
    """Returns a sentence for an error of a server, or the error itself if it says enough.

    The eventsourcing library wraps psycopg's errors. Reads the settings from the environment, as the command did.
    """
    cause = error.__cause__ if isinstance(error.__cause__, psycopg.Error) else error
    if why := refusal_of_server(cause) or refusal_of_broker(error):
        return why
    match cause:
        case errors.InsufficientPrivilege():
            return f"{_user()} lacks a right: {_first_line(cause)}. Connect as another user; {_ROLES}."
        case errors.ReadOnlySqlTransaction():
            return (
                f"PostgreSQL lets {_user()} only read: {_first_line(cause)}. If the server is a standby, name the "
                f"primary in RESOLUTION_DATABASE_URL. Otherwise connect as another user; {_ROLES}."
            )
        case KafkaConnectionError() if servers := os.environ.get("RESOLUTION_KAFKA_SERVERS"):
            return f"Kafka does not answer at {servers}. Start it, or correct RESOLUTION_KAFKA_SERVERS."
        case _:
            return error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0]


def _user() -> str:
    urls = os.environ.get("RESOLUTION_DATABASE_URL", "").split()
    names = dict.fromkeys(str(conninfo_to_dict(url).get("user") or os.environ.get("PGUSER") or "") for url in urls)
    known = ", ".join(filter(None, names))
    return f"the database user {known}" if known else "the database user"
