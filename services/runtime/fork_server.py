"""What the fork server imports: multiprocessing starts it, and forks each role's process from it.

Import nothing from here. The import makes the process that does it a fork server.
"""

import gc
import os

from . import roles  # noqa: F401  # the roles are forked with it

# Signals to the terminal's or the service manager's process group reach `serve` alone, which then stops the roles.
os.setsid()
# What `serve` prints is for programs. It ends with `serve`, and roles have nothing to add to it.
os.dup2(2, 1)
# Memory that no collection touches stays shared with the roles.
gc.collect()
gc.freeze()
