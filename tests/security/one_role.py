"""One role in this process, without a supervisor: `python -m tests.security.one_role ROLE`. Prints what the role sends."""

import sys
import threading
from multiprocessing import Pipe
from multiprocessing.connection import Connection

from services.runtime.role_process import run_role


def _print_messages(connection: Connection) -> None:
    while True:
        print(connection.recv(), flush=True)


if __name__ == "__main__":
    ours, theirs = Pipe()
    threading.Thread(target=_print_messages, args=(ours,), daemon=True).start()
    run_role(sys.argv[1], theirs)
