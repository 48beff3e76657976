"""Fixtures shared by all tests. Servers start when the first test that needs them runs."""

import logging
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest
from xdist.scheduler import LoadScopeScheduling

from services.embedded import Servers
from services.runtime.role_names import ROLE_NAMES
from services.runtime.role_process import start_fork_server
from tests.support.installation import Installation, drop_template
from tests.support.servers_for_tests import servers as start_servers

pytest.register_assert_rewrite("tests.support.judgement_day")

_ONE_AFTER_THE_OTHER = ("tests/security/", "tests/cluster/")


def _seeds(text: str) -> list[int]:
    """Parses a range of seeds: `20` is the first twenty, `11-20` is ten of them."""
    first, _, last = text.rpartition("-")
    return list(range(int(first or 1), int(last) + 1))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--seeds", type=_seeds, help="the long form of the fault tests: every step, with 20 seeds, or 11-20"
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "seed" in metafunc.fixturenames:
        metafunc.parametrize("seed", metafunc.config.getoption("--seeds") or [1])


class _ByFile(LoadScopeScheduling):
    """Runs each file in one worker, and each folder whose files share their own servers."""

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return next((folder for folder in _ONE_AFTER_THE_OTHER if file.startswith(folder)), file)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> LoadScopeScheduling:
    return _ByFile(config, log)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--seeds"):
        long = [item for item in items if item.get_closest_marker("long")]
        config.hook.pytest_deselected(items=long)
        items[:] = [item for item in items if item not in long]


@pytest.fixture
def every_step(pytestconfig: pytest.Config) -> bool:
    """Whether fault tests run all steps instead of a sample."""
    return bool(pytestconfig.getoption("--seeds"))


@pytest.fixture(scope="session")
def servers() -> Iterator[Servers]:
    start_fork_server(ROLE_NAMES)
    with start_servers() as found:
        yield found
        assert found.database is not None
        drop_template(found.database)


@pytest.fixture
async def installation(servers: Servers) -> AsyncIterator[Installation]:
    """An installation with its own database and topics. No role runs yet."""
    logging.getLogger("aiokafka").setLevel(logging.ERROR)
    async with Installation.fresh(servers) as fresh:
        yield fresh
