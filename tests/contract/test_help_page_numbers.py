"""The help page's numbers are the defaults of an order's terms, and nothing else reckons with them or states them (D20).

Sources, templates and schemas are searched for 48 hours, 24 hours, 60 days and 60 percent. Where a test finds one, take
it from the order's terms (`Order.terms`), or from `HELP_PAGE` in `services/orders/policy.py`.
"""

import json
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from services.orders.policy import HELP_PAGE

ROOT = Path(__file__).parents[2]
FOLDERS = ("services", "projections", "contracts/resolution_contracts", "contracts/schemas", "examples")
SUFFIXES = {".py", ".sql", ".html", ".js", ".json", ".md"}
DEFAULTS = ROOT / "contracts/resolution_contracts/terms.py"
"""The module that has the numbers."""

_ANY = r"(?:48|24|60|61)\b"
PATTERNS = {
    "hours in words": r"\b(?:48|24)[\s-]*(?:h|hours?)\b",
    "days in words": r"\b60(?:\s+more)?[\s-]+days?\b",
    "percent in words": r"\b60(?:%|\s+percent\b)",
    "a duration": r"\bhours\s*=\s*(?:48|24)\b|\bdays\s*=\s*(?:2|60)\b",
    "a product": r"\b(?:48|24)\s*\*\s*(?:_?HOURS?\b|3_?600|60\b)|\b60\s*\*\s*_?DAYS?\b|\b172_?800",
    "a share of the price": r"\b60\s*\*[^\n]*//?\s*100|\*\s*60\s*//?\s*100|\b0\.60?\b|\bshare\([^)\n]*\b60\b",
    "a range or a limit": r"\brange\(1, 61\)|\b(?:min|max)\([^)\n]*\b(?:days|percent|hours)\b[^)\n]*\b(?:48|24|60)\)",
    "a bound": rf"\b(?:le|lt|ge|gt|max|min|maximum|exclusiveMaximum|minimum)[\"']?\s*[:=]\s*[\"']?{_ANY}",
    "a variable or field": rf"(?:hours|days|percent)[\"']?(?:\s*:\s*[\w |]+)?\s*(?:[<>=!]=*|:)\s*{_ANY}",
}


class Found(NamedTuple):
    """A number of the help page."""

    file: str
    text: str
    """The line that has it."""
    pattern: str

    def __str__(self) -> str:
        return f"{self.file}: {self.text} ({self.pattern})"


EXCUSED = {
    ("services/kafka/topics.py", "_DAY_MS = 24 * 60 * 60 * 1000"): "a day in milliseconds",
    ("services/kafka/topic_settings.py", "_DAY_MS = 24 * 60 * 60 * 1000"): "a day in milliseconds",
    ("services/demo/story.py", "response_hours=24, very_late_after_hours=6"): "terms that one order of the story has",
    ("services/demo/stage.py", "Fraction(2 * 24 * 3600, seconds_for_two_days)"): "the speed of the demo's clock",
    ("services/demo/narrate.py", "{2 * 24 * 3600 / float(time_scale):.0f} s."): "the speed of the demo's clock",
}
"""Numbers that have nothing to do with an order's terms: a file, a part of the line, and what the number is."""


def search(file: str, text: str) -> Iterator[Found]:
    for name, pattern in PATTERNS.items():
        for match in re.finditer(pattern, text, re.IGNORECASE):
            start, end = text.rfind("\n", 0, match.start()) + 1, text.find("\n", match.end())
            yield Found(file, text[start : None if end < 0 else end].strip(), name)


def content(file: Path) -> str:
    """A schema is read without its defaults, which may have the numbers."""
    text = file.read_text()
    return text if file.suffix != ".json" else json.dumps(without_defaults(json.loads(text)), indent=2)


def without_defaults(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {name: without_defaults(value) for name, value in schema.items() if name != "default"}
    return [without_defaults(value) for value in schema] if isinstance(schema, list) else schema


@cache
def everything_found() -> list[Found]:
    files = (file for folder in FOLDERS for file in sorted((ROOT / folder).rglob("*")) if file != DEFAULTS)
    return [
        found
        for file in files
        if file.suffix in SUFFIXES
        for found in search(str(file.relative_to(ROOT)), content(file))
    ]


def is_excused(found: Found) -> bool:
    return any(found.file == file and part in found.text for file, part in EXCUSED)


def test_no_source_template_or_schema_has_a_number_of_the_help_page():
    assert [str(found) for found in everything_found() if not is_excused(found)] == []


def test_every_excuse_is_still_needed():
    all_found = everything_found()
    needed = {
        (file, part) for file, part in EXCUSED for found in all_found if found.file == file and part in found.text
    }
    assert set(EXCUSED) - needed == set()


def test_the_help_page_has_the_numbers_that_are_searched_for():
    assert (HELP_PAGE.response_hours, HELP_PAGE.very_late_after_hours) == (48, 24)
    assert (HELP_PAGE.longest_extension_days, HELP_PAGE.largest_refund_percent) == (60, 60)


@pytest.mark.parametrize(
    "line",
    [
        "<p>The other party has 48 hours to accept or decline.</p>",
        "Nobody answered within the 48-hour window.",
        "very late: 24 hours past its date",
        "Nobody answered for 48\n    hours.",
        "asks for 60 more days",
        "A partial refund is at most 60% of the price.",
        "at most 60 percent",
        "respond_by = now + timedelta(hours=48)",
        "LONGEST = timedelta(days=60)",
        "due + 24 * HOURS",
        "48 * 3600",
        "seconds > 172_800",
        "limit = 60 * price // 100",
        "days: Annotated[int, Field(ge=1, le=60)]",
        '  "maximum": 60,',
        '  "exclusiveMaximum": 61',
        '{"days": {"min": 1, "max": 60}}',
        '<input type="number" min="1" max="60">',
        "if request.days > 60:",
        "response_hours: int = 48",
        "LARGEST_REFUND_PERCENT = 60",
        "if (hours === 24)",
        "policy.share(price.amount, 60)",
        "price * 60 / 100",
        "price * 0.60",
        "if days not in range(1, 61):",
        "min(days, 60)",
        "timedelta(days=2)",
    ],
)
def test_a_number_of_the_help_page_is_noticed(line: str):
    assert list(search("somewhere.py", line))


@pytest.mark.parametrize(
    "line",
    [
        "_PATIENCE_SECONDS = 60",
        "timedelta(seconds=60)",
        "timedelta(days=1)",
        "minutes // 60 % 24",
        "at most 48 characters, of 60 columns",
        '  "maximum": 720,',
        "a page of 24 orders",
        "0x60, 160%, 148 hours, 60 seconds, 24 Hertz",
    ],
)
def test_another_number_is_not(line: str):
    assert [str(found) for found in search("somewhere.py", line)] == []


def test_a_schema_may_have_them_as_defaults_only():
    schema = {"response_hours": {"default": 48, "maximum": 720}, "days": {"maximum": 60}}
    found = search("schema.json", json.dumps(without_defaults(schema), indent=2))
    assert [(one.text, one.pattern) for one in found] == [('"maximum": 60', "a bound")]
