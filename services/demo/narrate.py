"""Prints the story: each thing that happens as a JSON object for programs, or as lines of text for people."""

import json
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from resolution_contracts.values import format_instant
from rich.console import Console  # noqa: TID251  # a type
from rich.rule import Rule
from rich.text import Text

from services.clock import Clock
from services.orders.money import plain_text

from .script import Json, event_name

_MORNING = timedelta(hours=9)
_MARGIN = 23
"""The width of the columns with the story's time and the order."""

_WIDEST = 110
_LONGEST_CHECK = 33
_MOST_DIFFERENCES = 5


@dataclass(frozen=True)
class StoryTime:
    """Business time as the story counts it, from day 1 at 09:00."""

    clock: Clock
    start: datetime
    """The business time of day 1, 09:00."""

    def text(self, instant: datetime) -> str:
        """Formats an instant, such as `day 1 14:03`."""
        minutes = (instant - self.start + _MORNING) // timedelta(minutes=1)
        return f"day {minutes // 1440 + 1} {minutes // 60 % 24:02}:{minutes % 60:02}"


class Narrator:
    """Prints what happens as JSON lines for programs."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._time: StoryTime | None = None

    def live(self) -> AbstractContextManager[Any]:
        """Returns a context that is open while the story is played."""
        return nullcontext()

    def opens(self, clock: Clock, start: datetime) -> None:
        """Prints that the story begins."""
        self._time = StoryTime(clock, start)
        self.tell("opens", start=format_instant(start), time_scale=str(clock.scale))

    def note(self, text: str) -> None:
        """Prints a note about the demo itself."""
        self.tell("note", text=text)

    def tell_at(self, kind: str, at: datetime, **facts: Any) -> None:
        """Prints something that happened at a business time."""
        self.tell(kind, time=format_instant(at), story_time=self._story_time(at), **facts)

    def tell(self, kind: str, **facts: Any) -> None:
        """Prints something that happened. `kind` says what, and `facts` are its details."""
        print(json.dumps({"kind": kind} | facts), file=self._console.file, flush=True)

    def _story_time(self, instant: datetime) -> str:
        assert self._time is not None
        return self._time.text(instant)


class ConsoleNarrator(Narrator):
    """Prints text for people, with a method for each kind. On a terminal it has colours, and a running clock below."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        plain = console.options.ascii_only
        self._arrow, self._tick, self._cross = ("->", "ok", "X") if plain else ("→", "✓", "✗")

    def live(self) -> AbstractContextManager[Any]:
        """Returns a context that shows the running clock below the story while it is open."""
        return self._console.status(_Now(self)) if self._console.is_terminal else nullcontext()

    @property
    def now(self) -> str:
        """The text of the last line: the story's time now."""
        return self._time.text(self._time.clock.now()) if self._time else "setting up"

    def tell(self, kind: str, **facts: Any) -> None:
        """Calls the method for this kind."""
        getattr(self, f"_{kind}")(**facts)

    def _note(self, text: str) -> None:
        self._print(Text(text, style="dim"))

    def _opens(self, start: str, time_scale: str) -> None:
        self._note(
            f"Business time runs {time_scale} times as fast as real time: two days pass in "
            f"{2 * 24 * 3600 / float(time_scale):.0f} s. The story's day 1 09:00 is {start[:16]} UTC in the data."
        )

    def _chapter(self, title: str) -> None:
        self._console.print()
        self._console.print(Rule(Text(title, style="bold"), align="left", style="dim"), width=self._width)

    def _order(self, order: str, title: str, purpose: str) -> None:
        self._print(Text())
        self._print(Text.assemble((order, "bold cyan"), "  ", (title, "bold")))
        self._print(Text(purpose, style="italic dim"))

    def _wait(self, why: str, until: str, seconds: float) -> None:
        self._print(Text())
        self._note(f"{why}: until {self._story_time(datetime.fromisoformat(until))}, {seconds:.1f} s")

    def _published(self, **facts: Any) -> None:
        self._line(facts, _sentence(facts), Text("on Kafka, unread for now", style="magenta"))

    def _step(self, **facts: Any) -> None:
        self._line(facts, _sentence(facts), _became(facts))
        self._not_as_told(facts["difference"])

    def _auto_accepted(self, **facts: Any) -> None:
        late = Text(f", {facts['late_ms']} ms after the deadline", style="dim")
        became = Text.assemble(("by the system: ", "blue"), _named(facts["events"], "blue"), late)
        self._line(facts, Text(facts["told"]), became)
        self._not_as_told(facts["difference"])

    def _check(self, name: str, passed: bool, detail: str, differences: Sequence[str]) -> None:
        sign = (self._tick, "green") if passed else (self._cross, "bold red")
        self._print(Text.assemble(sign, f"  {name:<{_LONGEST_CHECK}}  ", (detail, "dim")))
        for difference in differences[:_MOST_DIFFERENCES]:
            self._print(Text(f"  {name}: {difference}", style="red"))
        if more := differences[_MOST_DIFFERENCES:]:
            self._print(Text(f"  {name}: and {len(more)} more", style="red"))

    def _trouble(self, text: str) -> None:
        self._print(Text(text, style="bold red"))

    def _result(self, passed: bool, seconds: float) -> None:
        self._print(Text())
        if passed:
            self._print(Text(f"{self._tick} All checks passed, after {seconds:.0f} s.", style="bold green"))
        else:
            self._print(Text(f"{self._cross} The demo failed, after {seconds:.0f} s.", style="bold red"))

    def _line(self, facts: Json, sentence: Text, became: Text) -> None:
        became = Text.assemble((f"{self._arrow} ", "dim"), became)
        space = max(self._width - _MARGIN, 20)
        between = " " if sentence.cell_len + became.cell_len < space else "\n"
        margin = Text.assemble((f"{facts['story_time']:<13}", "dim"), (f"{facts['order']:<10}", "cyan"))
        for line in Text.assemble(sentence, between, became).wrap(self._console, space):
            line.rstrip()
            self._console.print(Text.assemble(margin, line), soft_wrap=True)
            margin = Text(" " * _MARGIN)

    def _not_as_told(self, difference: str | None) -> None:
        if difference:
            self._trouble(f"  {self._cross} differs from the story: {difference}")

    def _print(self, text: Text) -> None:
        for line in text.wrap(self._console, self._width):
            line.rstrip()
            self._console.print(line, soft_wrap=True)

    @property
    def _width(self) -> int:
        return min(self._console.width, _WIDEST)


class _Now:
    """The line with the clock. The console renders it again at each refresh."""

    def __init__(self, narrator: ConsoleNarrator) -> None:
        self._narrator = narrator

    def __rich__(self) -> Text:
        return Text(self._narrator.now, style="dim")


def _sentence(facts: Json) -> Text:
    return Text.assemble((facts["who"], "bold"), f" {facts['does']}.")


def _became(facts: Json) -> Text:
    again = "the first answer again: " if facts["duplicate"] else ""
    match facts["outcome"]:
        case "dead":
            return Text(f"dead letter: {facts['message']}", style="yellow")
        case "rejected":
            return Text(f"{again}rejected, {facts['code']}: {facts['message']}", style="yellow")
    if not facts["events"]:
        return Text(f"{again}accepted, changes nothing", style="green")
    return Text.assemble((f"{again}accepted: ", "green"), _named(facts["events"], "green"))


def _named(events: Sequence[Json], style: str) -> Text:
    return Text(", ".join(event_name(event) + _detail(event["data"]) for event in events), style=style)


def _detail(data: Json) -> str:
    """Returns the details of an event's data that are worth printing: grounds, days, money."""
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
