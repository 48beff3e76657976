"""An installation whose roles show what they do."""

from collections.abc import Iterator
from contextlib import contextmanager
from urllib.parse import urlsplit

import psycopg
import pytest

from services.runtime.roles import ROLES
from services.runtime.supervisor import Supervisor
from tests.observability.prometheus import free_port
from tests.support.installation import Installation


@pytest.fixture
def ports(installation: Installation) -> dict[str, int]:
    """By role, where it shows metrics and health; the installation's roles are started so from here on."""
    ports = {role: free_port() for role in ROLES}
    installation.supervisor = Supervisor(installation.settings, ports)
    installation.metrics_ports = ports
    return ports


@contextmanager
def refusing(installation: Installation) -> Iterator[None]:
    """The installation's database takes no connections, and has ended the ones that there were."""
    url = urlsplit(installation.settings.database)
    name, server = url.path[1:], url._replace(path="/postgres").geturl()
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS false')
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = %s", (name,))
        try:
            yield
        finally:
            connection.execute(f'ALTER DATABASE "{name}" ALLOW_CONNECTIONS true')
