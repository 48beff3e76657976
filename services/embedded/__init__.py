"""Embedded servers: real PostgreSQL and real Apache Kafka for people who have only Python.

Processes that use the same folder share its servers. The last process to leave stops them. The packages they need are
an extra of the distribution, and are imported only when a server is needed.
"""

from .errors import ServerError
from .servers import Servers, default_data_dir, embedded

__all__ = ["ServerError", "Servers", "default_data_dir", "embedded"]
