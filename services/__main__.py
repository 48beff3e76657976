"""`resolution`, or `python -m services`."""

import signal
import sys


def main() -> None:
    """Runs the command line. Exits with 130 on Ctrl-C."""
    # Loading the commands takes about a second. Then, and on the way out, Ctrl-C just ends the process.
    ends = signal.getsignal(signal.SIGINT) is not signal.SIG_IGN
    if ends:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    from .cli import main as run

    try:
        if ends:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        run()
    except KeyboardInterrupt:
        sys.exit(130)
    finally:
        if ends:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


if __name__ == "__main__":
    main()
