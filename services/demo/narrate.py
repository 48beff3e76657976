"""How the story is told: on a terminal or in a pipe, or as JSON lines."""

import json
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Protocol

from resolution_contracts.values import format_instant
from rich.console import Console  # noqa: TID251  # a type
from rich.rule import Rule
from rich.text import Text

from services.clock import Clock
from services.orders.money import plain_text

from .checks import Check
from .script import Json, RunsOut, Step, Tale, event_name

_MORNING = timedelta(hours=9)
_MARGIN = 23
"""Columns left of what is told: the story's time and the order."""

_WIDEST = 110
_MOST_DIFFERENCES = 5


@dataclass(frozen=True)
class StoryTime:
    """Business time as the story tells it: it begins on day 1 at 09:00, and `start` is when that is."""

    clock: Clock
    start: datetime

    def text(self, instant: datetime) -> str:
        """`day 1 14:03`"""
        minutes = (instant - self.start + _MORNING) // timedelta(minutes=1)
        return f"day {minutes // 1440 + 1} {minutes // 60 % 24:02}:{minutes % 60:02}"


@dataclass(frozen=True)
class Told:
    """What became of a step: its outcome, its events, and what is else than expected, if anything."""

    tale: Tale
    step: Step
    at: datetime
    outcome: Json
    events: Sequence[Json]
    difference: str | None


@dataclass(frozen=True)
class Elapsed:
    """What the timer made of a dispute that nobody answered; `late` is real time between deadline and event."""

    tale: Tale
    step: RunsOut
    events: Sequence[Json]
    late: timedelta
    difference: str | None

    @property
    def late_ms(self) -> int:
        return self.late // timedelta(milliseconds=1)


class Teller(Protocol):
    """Tells what happens, as it happens."""

    def live(self) -> AbstractContextManager[None]:
        """Open while the story is told."""

    def note(self, text: str) -> None:
        """Something about the demo itself."""

    def opens(self, time: StoryTime) -> None:
        """The story begins."""

    def chapter(self, title: str) -> None: ...

    def tale(self, tale: Tale) -> None:
        """An order appears for the first time."""

    def waits(self, why: str, until: datetime, seconds: float) -> None:
        """Nothing happens until a business time."""

    def published(self, tale: Tale, step: Step, at: datetime) -> None:
        """A command is on Kafka, and nobody reads it for now."""

    def told(self, told: Told) -> None: ...

    def elapsed(self, elapsed: Elapsed) -> None: ...

    def checked(self, checks: Sequence[Check]) -> None:
        """The verification is over."""

    def trouble(self, text: str) -> None:
        """The demo failed."""

    def ends(self, *, passed: bool, seconds: float) -> None: ...


class ConsoleTeller:
    """For people. Without colour in a pipe; on a terminal a last line has the running clock."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._time: StoryTime | None = None
        plain = console.options.ascii_only
        self._arrow, self._tick, self._cross = ("->", "ok", "X") if plain else ("→", "✓", "✗")

    @contextmanager
    def live(self) -> Iterator[None]:
        """Keeps the clock running below the story while this is open."""
        if not self._console.is_terminal:
            yield
            return
        with self._console.status(_Now(self)):
            yield

    @property
    def now(self) -> str:
        """What the last line says: the story's time at this moment."""
        return self._time.text(self._time.clock.now()) if self._time else "setting up"

    def note(self, text: str) -> None:
        self._print(Text(text, style="dim"))

    def opens(self, time: StoryTime) -> None:
        self._time = time
        seconds = float(48 * 3600 / time.clock.scale)
        self.note(
            f"Business time runs {time.clock.scale} times as fast as real time: 48 hours pass in {seconds:.0f} s. "
            f"The story's day 1 09:00 is {format_instant(time.start)[:16]} UTC in the data."
        )

    def chapter(self, title: str) -> None:
        self._console.print()
        self._console.print(Rule(Text(title, style="bold"), align="left", style="dim"), width=self._width)

    def tale(self, tale: Tale) -> None:
        self._print(Text())
        self._print(Text.assemble((tale.order, "bold cyan"), "  ", (tale.title, "bold")))
        self._print(Text(tale.purpose, style="italic dim"))

    def waits(self, why: str, until: datetime, seconds: float) -> None:
        assert self._time is not None
        self._print(Text())
        self._print(Text(f"{why}: until {self._time.text(until)}, {seconds:.1f} s", style="dim"))

    def published(self, tale: Tale, step: Step, at: datetime) -> None:
        self._line(at, tale, _sentence(step), Text("on Kafka, unread for now", style="magenta"))

    def told(self, told: Told) -> None:
        self._line(told.at, told.tale, _sentence(told.step), _became(told.outcome, told.events))
        self._not_as_told(told.difference)

    def elapsed(self, elapsed: Elapsed) -> None:
        deadline = datetime.fromisoformat(elapsed.events[0]["data"]["deadline"])
        late = Text(f", {elapsed.late_ms} ms after the deadline", style="dim")
        became = Text.assemble(("by the system: ", "blue"), _named(elapsed.events, "blue"), late)
        self._line(deadline, elapsed.tale, Text(elapsed.step.told), became)
        self._not_as_told(elapsed.difference)

    def checked(self, checks: Sequence[Check]) -> None:
        self.chapter("Verification: Kafka and PostgreSQL against the story")
        longest = max(len(check.name) for check in checks)
        for check in checks:
            sign = (self._tick, "green") if check.passed else (self._cross, "bold red")
            self._print(Text.assemble(sign, f"  {check.name:<{longest}}  ", (check.detail, "dim")))
        for check in checks:
            for difference in check.differences[:_MOST_DIFFERENCES]:
                self._print(Text(f"  {check.name}: {difference}", style="red"))
            if more := check.differences[_MOST_DIFFERENCES:]:
                self._print(Text(f"  {check.name}: and {len(more)} more", style="red"))

    def trouble(self, text: str) -> None:
        self._print(Text(text, style="bold red"))

    def ends(self, *, passed: bool, seconds: float) -> None:
        self._print(Text())
        if passed:
            self._print(Text(f"{self._tick} All of it came out as told, in {seconds:.0f} s.", style="bold green"))
        else:
            self._print(Text(f"{self._cross} The demo failed, after {seconds:.0f} s.", style="bold red"))

    def _line(self, at: datetime, tale: Tale, sentence: Text, became: Text) -> None:
        assert self._time is not None
        became = Text.assemble((f"{self._arrow} ", "dim"), became)
        space = max(self._width - _MARGIN, 20)
        between = " " if sentence.cell_len + became.cell_len < space else "\n"
        margin = Text.assemble((f"{self._time.text(at):<13}", "dim"), (f"{tale.order:<10}", "cyan"))
        for line in Text.assemble(sentence, between, became).wrap(self._console, space):
            line.rstrip()
            self._console.print(Text.assemble(margin, line), soft_wrap=True)
            margin = Text(" " * _MARGIN)

    def _not_as_told(self, difference: str | None) -> None:
        if difference:
            self._print(Text(f"  {self._cross} not as the story has it: {difference}", style="bold red"))

    def _print(self, text: Text) -> None:
        for line in text.wrap(self._console, self._width):
            line.rstrip()
            self._console.print(line, soft_wrap=True)

    @property
    def _width(self) -> int:
        return min(self._console.width, _WIDEST)


class _Now:
    """The clock's line, made anew whenever the console refreshes it."""

    def __init__(self, teller: ConsoleTeller) -> None:
        self._teller = teller

    def __rich__(self) -> Text:
        return Text(self._teller.now, style="dim")


def _sentence(step: Step) -> Text:
    return Text.assemble((step.who.name, "bold"), f" {step.does}.")


def _became(outcome: Json, events: Sequence[Json]) -> Text:
    if "dead" in outcome:
        return Text(f"dead letter: {outcome['dead']}", style="yellow")
    data = outcome["data"]
    again = "the first answer again: " if data.get("duplicate") else ""
    if "code" in data:
        return Text(f"{again}rejected, {data['code']}: {data['message']}", style="yellow")
    if not events:
        return Text(f"{again}accepted, changes nothing", style="green")
    return Text.assemble((f"{again}accepted: ", "green"), _named(events, "green"))


def _named(events: Sequence[Json], style: str) -> Text:
    return Text(", ".join(event_name(event) + _detail(event["data"]) for event in events), style=style)


def _detail(data: Json) -> str:
    """What of an event's data is worth a word: grounds, money, days."""
    words = []
    if "grounds" in data:
        words.append(data["grounds"].replace("_", " "))
    if "days" in data:
        words.append(f"{data['days']} days")
    if due := data.get("refund_due"):
        words.append(f"{plain_text(due)} to pay back")
    if amount := data.get("amount"):
        words.append(plain_text(amount))
    return f" ({', '.join(words)})" if words else ""


class JsonTeller:
    """For programs: one JSON object per line."""

    def __init__(self, console: Console) -> None:
        self._file = console.file
        self._time: StoryTime | None = None

    @contextmanager
    def live(self) -> Iterator[None]:
        yield

    def note(self, text: str) -> None:
        self._tell("note", text=text)

    def opens(self, time: StoryTime) -> None:
        self._time = time
        self._tell("opens", start=format_instant(time.start), time_scale=str(time.clock.scale))

    def chapter(self, title: str) -> None:
        self._tell("chapter", title=title)

    def tale(self, tale: Tale) -> None:
        self._tell("order", order=tale.order, title=tale.title, purpose=tale.purpose)

    def waits(self, why: str, until: datetime, seconds: float) -> None:
        self._tell("wait", why=why, until=format_instant(until), seconds=round(seconds, 3))

    def published(self, tale: Tale, step: Step, at: datetime) -> None:
        self._tell("published", **self._when(at), **_step(tale, step))

    def told(self, told: Told) -> None:
        data = told.outcome.get("data", {})
        self._tell(
            "step",
            **self._when(told.at),
            **_step(told.tale, told.step),
            outcome="dead" if "dead" in told.outcome else "rejected" if "code" in data else "accepted",
            duplicate=data.get("duplicate", False),
            code=data.get("code"),
            message=data.get("message") or told.outcome.get("dead"),
            events=told.events,
            as_told=told.difference is None,
            difference=told.difference,
        )

    def elapsed(self, elapsed: Elapsed) -> None:
        deadline = datetime.fromisoformat(elapsed.events[0]["data"]["deadline"])
        self._tell(
            "auto_accepted",
            **self._when(deadline),
            order=elapsed.tale.order,
            dispute_id=elapsed.step.dispute_id,
            late_ms=elapsed.late_ms,
            events=elapsed.events,
            as_told=elapsed.difference is None,
            difference=elapsed.difference,
        )

    def checked(self, checks: Sequence[Check]) -> None:
        for check in checks:
            self._tell(
                "check", name=check.name, passed=check.passed, detail=check.detail, differences=check.differences
            )

    def trouble(self, text: str) -> None:
        self._tell("trouble", text=text)

    def ends(self, *, passed: bool, seconds: float) -> None:
        self._tell("result", passed=passed, seconds=round(seconds, 1))

    def _when(self, at: datetime) -> Json:
        assert self._time is not None
        return {"time": format_instant(at), "story_time": self._time.text(at)}

    def _tell(self, kind: str, **what: Any) -> None:
        print(json.dumps({"kind": kind} | what), file=self._file, flush=True)


def _step(tale: Tale, step: Step) -> Json:
    known = {"order": tale.order, "who": step.who.name, "does": step.does}
    return known | {"command": step.command or None, "command_id": step.id if step.command else None}
