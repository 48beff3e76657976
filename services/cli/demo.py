"""`resolution demo`: plays a marketplace's day."""

import asyncio
from typing import Annotated

import typer

from services.demo import run as run_demo
from services.runtime.installation import installation
from services.settings import Settings

from .options import AsJson
from .terminal import Terminal


def demo(
    as_json: AsJson = False,
    keep: Annotated[bool, typer.Option(help="Keep the demo's topics and database.")] = False,
) -> None:
    """Play a marketplace's day at a scaled clock through real Kafka and PostgreSQL, and verify it."""
    with installation(Settings.from_environment()) as settings:
        passed = asyncio.run(run_demo(settings, Terminal(), as_json=as_json, keep=keep))
    raise typer.Exit(0 if passed else 1)
