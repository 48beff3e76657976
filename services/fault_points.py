"""Named points at which a test makes a process fail. They do nothing unless RESOLUTION_FAULT is set.

RESOLUTION_FAULT is `POINT PASSAGE ACTION MARK`. When the process passes POINT for the PASSAGE-th time, it creates the
file MARK and sends itself a signal: SIGKILL if ACTION is `kill`, SIGSTOP if it is `stop`. If MARK exists, nothing
happens, so that the process that is started in its place keeps running.
"""

import os
import signal
from pathlib import Path

_ACTIONS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP}

POINTS = {
    "commands": ("polled", "judged", "inserting", "inserted", "committed", "reporting", "reported"),
    "relay": ("read", "begun", "added", "delivered", "committed"),
    "timer": ("polled", "recorded", "sending", "asked", "noted"),
    "projections": ("read", "applied", "committed"),
    "checkpoints": ("covered", "begun", "sent", "committed", "noted"),
}
"""The steps of each role, in their order. The argument of `point` is `role.step`."""


class _Fault:
    def __init__(self, plan: str) -> None:
        self._name, passage, action, mark = plan.split(" ", 3)
        self._left = int(passage)
        self._signal = _ACTIONS[action]
        self._mark = Path(mark)

    def __call__(self, name: str) -> None:
        if name != self._name or self._mark.exists():
            return
        self._left -= 1
        if self._left <= 0:
            self._mark.touch()
            os.kill(os.getpid(), self._signal)


_fault: _Fault | None = None
"""None in production."""


def arm(plan: str | None) -> None:
    """Makes this process fail as RESOLUTION_FAULT says, or not at all."""
    global _fault
    _fault = _Fault(plan) if plan else None


def point(name: str) -> None:
    """A step of a role, at which the process may be made to fail."""
    if _fault is not None:
        _fault(name)
