"""Golden files: the result of replaying stored events of released versions. A new version gets a new file."""

from pathlib import Path

import pytest


def assert_golden(folder: Path, name: str, version: object, content: str) -> None:
    """Compares with the golden file of this name and version. If there is none yet, writes it and fails."""
    file = folder / f"{name}.v{version}.json"
    if not file.exists():
        folder.mkdir(exist_ok=True)
        file.write_text(content)
        pytest.fail(f"{file.name} was missing and is written now. Check what is in it and commit it.")
    assert content == file.read_text(), f"This changes {name}: raise its version, then run the test for its new file."
    assert [*folder.glob(f"{name}.v*.json")] == [file], f"Delete the golden files of earlier versions of {name}."
