"""Worker processes of a verification."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def ignoring_ctrl_c() -> Iterator[None]:
    """Processes that start in this block ignore Ctrl-C.

    A terminal sends Ctrl-C to all processes. Only this process acts on it, and ends the others.
    """
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set signal handlers
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
