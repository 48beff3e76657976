"""What a machine can hold of the documents: width, links, file names, commands, options and variables that exist.

A document says something is there by naming it: in a link, or in backticks. So each name is looked up.
"""

import json
import re
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import typer
from resolution_contracts import COMMANDS, Code

from services.cli import app
from services.orders import Order, events
from services.orders.decide import decide
from services.orders.evolve import evolve_all
from tests.contract.test_stored_events import CORPUS, decoded
from tests.support.controls import T, command_id

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
WIDTH = 100
DOCUMENTS = sorted(
    [
        *ROOT.glob("*.md"),
        *DOCS.rglob("*.md"),
        *(ROOT / "contracts").glob("*.md"),
        *(ROOT / "deploy").rglob("*.md"),
        *(ROOT / "examples").rglob("*.md"),
    ]
)
WIDE = {
    ROOT / "CHANGELOG.md",
    DOCS / "messages.md",  # made from the models
}
"""Documents whose lines may be longer."""

CODE = ("services", "projections", "contracts/resolution_contracts", "deploy", "bench", "examples")
PATHS = {path.name for path in ROOT.iterdir() if not path.name.startswith(".venv") and path.name != "build"}
NOT_OURS = re.compile(r"[<>{}$…*|\\ ]|^/|//|\.\.\.")
"""In a file name: what only stands for one, or is an address or somebody else's."""


class Document(NamedTuple):
    """A document's lines of text, with their numbers from 1, and its blocks of code."""

    text: list[tuple[int, str]]
    code: list[tuple[str, str]]
    """Language and content of each block."""


@cache
def read(path: Path) -> Document:
    text: list[tuple[int, str]] = []
    blocks: list[tuple[str, str]] = []
    block: list[str] | None = None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if line.lstrip().startswith("```"):
            if block is None:
                blocks.append((line.strip().removeprefix("```"), ""))
                block = []
            else:
                blocks[-1] = (blocks[-1][0], "\n".join(block))
                block = None
        elif block is None:
            text.append((number, line))
        else:
            block.append(line)
    assert block is None, f"{path}: a block of code does not end"
    return Document(text, blocks)


@cache
def anchors(path: Path) -> frozenset[str]:
    """What GitHub makes of the headings."""
    found: list[str] = []
    for _, line in read(path).text:
        if heading := re.fullmatch(r"#+ (.+)", line):
            plain = re.sub(r"\[([^]]*)\]\([^)]*\)", r"\1", heading[1]).strip().lower()
            slug = re.sub(r"[^\w\- ]", "", plain).replace(" ", "-")
            found.append(slug if slug not in found else f"{slug}-{found.count(slug)}")
    return frozenset(found)


def in_backticks(document: Document) -> Iterator[str]:
    """Code within sentences, also where it goes on in the next line."""
    for part in re.split(r"\n\s*\n", "\n".join(line for _, line in document.text)):
        yield from (" ".join(span.split()) for span in re.findall(r"`([^`]+)`", part))


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


by_name = pytest.mark.parametrize("path", DOCUMENTS, ids=name)


# --- width ---


@pytest.mark.parametrize("path", [path for path in DOCUMENTS if path not in WIDE], ids=name)
def test_lines_of_text_are_not_wider_than_a_page(path: Path):
    link = re.compile(r"\s*([-*] |\d+\. )?!?\[[^]]*\]\([^)]*\)[.,;:]?")
    wide = [number for number, line in read(path).text if len(line) > WIDTH and not link.fullmatch(line)]
    assert wide == [], f"lines of more than {WIDTH} columns"


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 80


# --- links and file names ---


@by_name
def test_every_link_leads_somewhere(path: Path):
    broken = []
    for number, line in read(path).text:
        for target in re.findall(r"\]\(([^)\s]+)\)", line):
            file, _, anchor = target.partition("#")
            where = (path.parent / file).resolve() if file else path
            if re.match(r"[a-z]+:", target):
                continue
            if not where.exists() or (anchor and where.suffix == ".md" and anchor not in anchors(where)):
                broken.append(f"line {number}: {target}")
    assert broken == []


@by_name
def test_every_file_that_is_named_exists(path: Path):
    missing = [
        span for span in in_backticks(read(path)) if is_file_name(span) and not exists(span.rstrip("/"), path.parent)
    ]
    assert missing == []


def is_file_name(span: str) -> bool:
    """Whether it looks like a path of this repository, or like a test."""
    if re.fullmatch(r"[\w/]*test_\w+\.py(::\w+)?", span):
        return True
    return "/" in span and not NOT_OURS.search(span) and span.split("/")[0] in PATHS


@by_name
def test_every_test_that_is_named_exists(path: Path):
    """Also one whose name a document cuts off with an ellipsis."""
    named = [found[1] for span in in_backticks(read(path)) if (found := re.search(r"::(test_\w+)(_?…)?$", span))]
    assert [test for test in named if not any(known.startswith(test) for known in known_tests())] == []


@cache
def known_tests() -> frozenset[str]:
    files = (ROOT / "tests").rglob("test_*.py")
    return frozenset(test for file in files for test in re.findall(r"def (test_\w+)\(", file.read_text()))


def exists(span: str, beside: Path) -> bool:
    file, _, test = span.partition("::")
    for folder in (ROOT, beside, ROOT / "tests"):
        if (folder / file).exists():
            return not test or f"def {test}(" in (folder / file).read_text()
    return False


def test_every_document_is_in_the_index():
    listed = {
        (DOCS / target.partition("#")[0]).resolve()
        for _, line in read(DOCS / "README.md").text
        for target in re.findall(r"\]\(([^)\s]+)\)", line)
    }
    assert [name(path) for path in DOCS.glob("*.md") if path.name != "README.md" and path not in listed] == []


def test_every_document_that_code_names_exists():
    broken = []
    for file in code_files():
        for document, anchor in re.findall(r"\b(docs/[\w-]+\.md)(?:#([\w-]+))?", file.read_text()):
            where = ROOT / document
            if not where.exists() or (anchor and anchor not in anchors(where)):
                broken.append(f"{name(file)}: {document}#{anchor}")
    assert broken == []


def test_every_file_that_code_or_a_document_names_alone_exists():
    """A name without a folder, in backticks, such as that of a neighbour."""
    known = {file.name for folder in (*CODE, "docs", "tests", "contracts") for file in (ROOT / folder).rglob("*")}
    known |= PATHS | {"open_refunds.py"}  # which the page about read models writes
    files = (*code_files(), *(document for document in DOCUMENTS if document != DOCS / "architecture.md"))
    missing = [
        f"{name(file)}: {named}"
        for file in files
        for named in re.findall(r"`(\w+\.(?:py|sql|html|js|css|yml|lock))`", file.read_text())
        if named not in known
    ]
    assert missing == []


def code_files() -> Iterator[Path]:
    yield from (ROOT / "Makefile", ROOT / "docker-compose.yml")
    for folder in CODE:
        for file in (ROOT / folder).rglob("*"):
            if file.suffix in {".py", ".sql", ".yml", ".yaml", ".html", ".conf", ".md"} and file.is_file():
                yield file


# --- commands ---


@cache
def commands() -> Mapping[str, frozenset[str]]:
    """Each command of `resolution`, such as `dead list`, with its options. The program itself has no name."""
    found: dict[str, frozenset[str]] = {}

    def walk(command: Any, called: str) -> None:
        options = (name for one in command.params for name in (*one.opts, *one.secondary_opts))
        found[called] = frozenset(option for option in options if option.startswith("--"))
        for name in command.list_commands(None) if hasattr(command, "list_commands") else ():
            walk(command.get_command(None, name), f"{called} {name}".strip())

    walk(typer.main.get_command(app), "")
    return found


def said_of_the_program(path: Path) -> Iterator[str]:
    """What follows `resolution`, wherever a document says how to call it."""
    document = read(path)
    lines = [line for language, block in document.code if language in ("", "sh") for line in block.splitlines()]
    for said in (*in_backticks(document), *lines):
        for call in re.split(r"[;#]|&&|\|\s", said):
            if found := re.fullmatch(r"\s*(?:\S*/bin/)?resolution ([a-z-].*)", call):
                yield found[1]


def mistaken(call: str) -> str | None:
    """What is wrong with a call such as `dead list --all`, also with `parked list|show`."""
    words = call.split()
    first, rest = words[0], words[1:]
    if first.startswith("--"):
        first, rest = "", words
    if first not in commands():
        return f"there is no `resolution {first}`"
    names = [first]
    if any(known.startswith(f"{first} ") for known in commands()) and rest and not rest[0].startswith("-"):
        names = [f"{first} {inner}" for inner in rest[0].split("|")]
    for called in names:
        if called not in commands():
            return f"there is no `resolution {called}`"
        wrong = set(re.findall(r"--[a-z][a-z-]*", call)) - commands()[called] - {"--help"}
        if wrong:
            return f"`resolution {called}` has no {', '.join(sorted(wrong))}"
    return None


@by_name
def test_every_command_that_is_named_exists_with_its_options(path: Path):
    assert [wrong for call in said_of_the_program(path) if (wrong := mistaken(call))] == []


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        ("dead list --all --json", None),
        ("dead list|show", None),
        ("order order-7 --as ann", None),
        ("--version", None),
        ("ordr", "there is no `resolution ordr`"),
        ("dead lst", "there is no `resolution dead lst`"),
        ("parked list|retire", "there is no `resolution parked retire`"),
        ("order order-7 --at 3", "`resolution order` has no --at"),
    ],
)
def test_a_mistaken_command_is_noticed(call: str, wrong: str | None):
    assert mistaken(call) == wrong


@by_name
def test_every_target_of_make_that_is_named_exists(path: Path):
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    document = read(path)
    lines = (line for _, block in document.code for line in block.splitlines())
    said = [found[1] for code in (*in_backticks(document), *lines) if (found := re.match(r"make ([a-z]+)\b", code))]
    assert set(said) <= targets


def test_the_reference_of_the_command_line_has_every_command_and_option():
    page = (DOCS / "command-line.md").read_text()
    described = {
        heading.removeprefix("resolution").strip(): set(re.findall(r"`(--[a-z-]+)`", section.partition("\n## ")[0]))
        for heading, section in re.findall(
            r"^##+ `(resolution[^`]*)`\n(.*?)(?=^### |\Z)", page, re.MULTILINE | re.DOTALL
        )
    }
    assert described.keys() == {called for called in commands() if called not in ("parked", "dead", "checkpoints")}
    for called, options in described.items():
        assert options == commands()[called], f"options of `resolution {called}`"


def test_the_page_of_settings_has_every_variable():
    in_code = {
        variable
        for folder in ("services", "projections")
        for file in (ROOT / folder).rglob("*.py")
        for variable in re.findall(r"RESOLUTION_[A-Z_]*[A-Z]\b", file.read_text())
    }
    assert set(re.findall(r"RESOLUTION_[A-Z_]+", (DOCS / "settings.md").read_text())) == in_code


# --- examples ---


@pytest.mark.parametrize("path", [ROOT / "README.md", DOCS / "tutorial.md"], ids=name)
def test_the_commands_of_the_examples_are_judged_as_the_tutorial_says(path: Path):
    lines = [json.loads(line) for _, block in read(path).code for line in block.splitlines() if line.startswith("{")]
    orders: dict[str, Order] = {}
    for line in lines:
        order = orders.setdefault(line["subject"], Order(id=line["subject"]))
        command = COMMANDS[line["type"]].model_validate_json(json.dumps(line["data"]))
        decision = decide(order, command, command_id(len(lines)), T)
        evolve_all(order, decision.events)
        too_much = line["subject"] == "order-8" and line["type"] == "OfferPartialRefund"
        assert (decision.rejection and decision.rejection.code) == (Code.REFUND_OVER_LIMIT if too_much else None)
    assert orders["order-7"].open_dispute is not None


def test_the_read_model_of_the_documentation_works():
    [example] = [block for language, block in read(DOCS / "projections.md").code if language == "python"]
    module: dict[str, Any] = {"__name__": "projections.open_refunds", "__package__": "projections"}
    exec(compile(example, "docs/projections.md", "exec"), module)
    model = module["OpenRefunds"]()
    opened: Iterable[events.Event] = decoded(CORPUS[-1])
    documents, _ = model.fold(opened)
    assert documents
    assert all(model.row(document) == (None,) for document in documents.values()), "no dispute of the corpus is open"
