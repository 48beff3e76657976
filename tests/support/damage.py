"""Damages what the broker has on its disk."""

from pathlib import Path

import psutil
import pytest

from tests.support.installation import Installation


def damage(installation: Installation, partition: int) -> None:
    """Changes the last byte of the last record of a partition of the commands topic; a second time mends it."""
    file = _data_folder(installation) / f"{installation.topics.commands}-{partition}" / f"{0:020}.log"
    with file.open("r+b") as segment:
        segment.seek(-1, 2)
        byte = segment.read(1)
        segment.seek(-1, 2)
        segment.write(bytes([byte[0] ^ 0xFF]))


def _data_folder(installation: Installation) -> Path:
    """Of the embedded broker, which is the process that listens where the clients connect to."""
    port = int(installation.settings.kafka.rpartition(":")[2])
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            folder = Path(psutil.Process(connection.pid).cwd()) / "data"
            if folder.is_dir():
                return folder
    pytest.skip("the broker's files are not on this machine")
