"""Embedded servers: real PostgreSQL and real Apache Kafka for people who have only Python.

Processes that use the same folder share its servers; the last one to leave stops them.
"""

from .embedded import Servers, default_data_dir, embedded
from .errors import ServerError
from .jars import fetch

__all__ = ["ServerError", "Servers", "default_data_dir", "embedded", "fetch"]
