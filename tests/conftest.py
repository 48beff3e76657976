"""Fixtures shared by all tests. Servers start when the first test that needs them runs."""

import logging
from collections.abc import AsyncIterator, Iterator

import pytest

from services.servers import Servers
from tests.installation import Installation
from tests.servers_for_tests import servers as start_servers


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    with start_servers() as found:
        yield found


@pytest.fixture
async def installation(servers: Servers) -> AsyncIterator[Installation]:
    """A database and topics of this test's own; no role runs yet."""
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    async with Installation.fresh(servers) as fresh:
        yield fresh
