"""Opens the socket that a process listens on."""

import socket

from services.environment import SettingsError


def listen(host: str, port: int, variable: str) -> socket.socket:
    """Returns a socket that listens. Raises SettingsError, which names the variable that the port comes from."""
    try:
        return socket.create_server((host, port), reuse_port=False)
    except (OSError, OverflowError) as error:
        # Python adds "(while attempting to bind on address ...)".
        why = str(error.strerror).partition(" (")[0] if isinstance(error, OSError) else "there is no such port"
        raise SettingsError(
            f"Cannot listen on {host}:{port} ({why}). Set {variable} to another port, or end the program that uses it."
        ) from None
