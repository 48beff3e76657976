"""What is installed: pinned by version and by hash, the same in the image as in development."""

import re
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LOCKS = ("requirements.lock", "deploy/requirements.lock", "deploy/build.lock", "tests/deploy/helm.lock")


def pins(lock: str) -> dict[str, tuple[str, frozenset[str]]]:
    """By package: the version, and the hashes of its files."""
    text = (ROOT / lock).read_text().replace("\\\n", " ")
    found = {}
    for line in text.splitlines():
        pin = re.match(r"([a-z0-9-]+)==([^ ;]+)", line)
        assert pin, f"{lock}: {line[:80]!r} is not pinned"
        found[pin[1]] = (pin[2], frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})", line)))
    return found


def named(requirements: list[str]) -> set[str]:
    names = {re.split(r"[\[<>=~!; ]", requirement)[0].lower() for requirement in requirements}
    return names - {"resolution-center", "resolution-contracts"}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_has_a_version_and_hashes(lock: str):
    found = pins(lock)
    assert found
    assert [name for name, (_, hashes) in found.items() if not hashes] == []


def test_the_image_has_what_was_tested():
    tested = pins("requirements.lock")
    assert {name: pin for name, pin in pins("deploy/requirements.lock").items() if tested.get(name) != pin} == {}


def test_locks_have_what_is_asked_for():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    assert named(project["dependencies"]) <= pins("deploy/requirements.lock").keys(), "make lock"
    assert named([*extras["embedded"], *extras["dev"]]) <= pins("requirements.lock").keys(), "make lock"
    assert not named(extras["embedded"]) & pins("deploy/requirements.lock").keys()


def test_nothing_is_installed_without_its_hash():
    for file in ("Makefile", "deploy/Dockerfile"):
        installs = [line for line in (ROOT / file).read_text().splitlines() if re.search(r"pip.* install\b", line)]
        assert installs
        for line in installs:
            # Ours are built from this folder, and with nothing but what was installed so.
            assert "--require-hashes" in line or "--no-deps" in line, line
            assert "--require-hashes" in line or re.search(r"-e contracts -e \.$|wheels/\*\.whl", line), line
