"""Says in a sentence why servers refuse what a command needs, and what to do."""

import psycopg
from aiokafka.errors import KafkaError
from eventsourcing.persistence import PersistenceError

from services.kafka.refusals import refusal_of_broker


def is_of_server(error: Exception) -> bool:
    """Whether PostgreSQL or Kafka, or a client of theirs, caused the error."""
    return isinstance(error, psycopg.Error | PersistenceError | KafkaError)


def explain(error: Exception) -> object:
    """Returns a sentence for an error of a server, or the error itself if it says enough."""
    return refusal_of_broker(error) or error
