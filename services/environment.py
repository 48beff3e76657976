"""What all modules that read environment variables share."""

from collections.abc import Mapping
from pathlib import Path

from services.failures import Misuse


class SettingsError(Misuse):
    """An environment variable cannot be used. The text names it, and says what it should be."""


def readable_file(env: Mapping[str, str], name: str) -> Path | None:
    """Returns the file that a variable names, or None if it is not set. Raises SettingsError if it can't be read."""
    text = env.get(name)
    if not text:
        return None
    try:
        with Path(text).open("rb"):
            return Path(text)
    except OSError as error:
        raise SettingsError(f"{name} is {text}, which is no file that can be read ({error.strerror}).") from None
