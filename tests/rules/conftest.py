"""A story per test, and how many examples the property tests try: HYPOTHESIS_PROFILE=quick, usual or thorough."""

import os
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, settings

pytest.register_assert_rewrite("tests.rules.given_when_then")

for _name, _examples in (("quick", 20), ("usual", 200), ("thorough", 5000)):
    settings.register_profile(
        _name,
        max_examples=_examples,
        stateful_step_count=40,
        deadline=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "usual"))


@pytest.fixture(autouse=True)
def _story_of_its_own() -> Iterator[None]:
    from tests.rules import given_when_then  # after its assertions were registered for rewriting

    yield
    given_when_then.forget()
