"""What those who read the environment share."""

from collections.abc import Mapping
from pathlib import Path


class SettingsError(Exception):
    """A variable that cannot be used: a sentence that names it and says what it should be."""


def readable_file(env: Mapping[str, str], name: str) -> Path | None:
    """The file that a variable names; None where it is not set. Raises SettingsError."""
    text = env.get(name)
    if not text:
        return None
    try:
        with Path(text).open("rb"):
            return Path(text)
    except OSError as error:
        raise SettingsError(f"{name} is {text}, which is no file that can be read ({error.strerror}).") from None
