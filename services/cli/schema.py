"""`resolution schema`: writes the contract as files."""

import json
from pathlib import Path
from typing import Annotated

import typer
from resolution_contracts.page import page
from resolution_contracts.schemas import asyncapi, schemas

from .terminal import say


def schema(
    directory: Annotated[Path, typer.Argument(help="The directory for the files. Created if missing.")] = Path(
        "schemas"
    ),
    page_file: Annotated[Path | None, typer.Option("--page", help="Also write a page for people, in Markdown.")] = None,
) -> None:
    """Write the JSON Schemas of all messages and the AsyncAPI 3 document."""
    documents = {**schemas(), "asyncapi.json": asyncapi()}
    for name, document in documents.items():
        file = directory / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    if page_file is not None:
        page_file.write_text(page())
    say(f"{len(documents)} files in {directory}. Start with asyncapi.json.")
