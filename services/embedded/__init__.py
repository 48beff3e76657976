"""Embedded servers: real PostgreSQL and real Apache Kafka for people who have only Python.

Processes that use the same folder share its servers; the last one to leave stops them. What they are made of is
an extra of the distribution, and is imported when a server is needed.
"""

from .errors import ServerError
from .servers import Servers, default_data_dir, embedded

__all__ = ["ServerError", "Servers", "default_data_dir", "embedded"]
