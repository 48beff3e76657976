"""Drops the packets that arrive for a socket before TCP sees them, as a dead host or a broken cable does. Linux only.

Nothing is acknowledged, refused or closed, so TCP's own timers run on the other side. Needs no rights and no iptables.
"""

import ctypes
import socket
import struct
from contextlib import suppress
from typing import Any

_ATTACH_FILTER, _DETACH_FILTER = 26, 27  # Python's socket module doesn't name them
_TAKE_NOTHING = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
_FILTER = struct.pack("HP", 1, ctypes.addressof(_TAKE_NOTHING))


def drop(each: Any) -> None:
    """Drops packets from now on. A socket is connected or listening, or asyncio's wrapper of one."""
    with suppress(OSError):  # closed meanwhile
        each.setsockopt(socket.SOL_SOCKET, _ATTACH_FILTER, _FILTER)


def take(each: Any) -> None:
    """Accepts packets again, if they were dropped."""
    with suppress(OSError):
        each.setsockopt(socket.SOL_SOCKET, _DETACH_FILTER, 0)
