"""Prints the report of a what-if: a table, the days as bars, some orders, and what it cannot know."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, timedelta

from resolution_contracts.values import format_instant

from services.orders.money import plain_text
from services.what_if.change import Change
from services.what_if.report import LIMITS, Report
from services.what_if.tally import Tally

from .terminal import Terminal, say, short, styled, table

_BAR = 30
_MOST_ROWS = 31


def print_report(console: Terminal, report: Report) -> None:
    """Prints the report."""
    different = len(report.differences)
    say(
        f"{_orders(report.orders)}{_which(report.change)}, with {_terms(report.change)}: {different:,} would have come "
        f"out differently, {report.only_other_times:,} more the same at other times."
    )
    rows = list(_rows(report.before, report.after))
    if rows:
        say("")
        table(("", "before", "after", "change"), rows)
    if report.commands:
        say("", "Commands that would have become something else:")
        table(
            ("command", "before", "after", "how many"),
            [
                (name, before or "accepted", after or "accepted", f"{count:,}")
                for (name, before, after), count in report.commands.most_common()
            ],
        )
    _print_days(console, report.days)
    if report.examples:
        say("", "For example:")
        for example in report.examples:
            say(f"  {example.order_id}, {short(format_instant(example.at))}: {example.before} -> {example.after}")
        say("", f"To see one: resolution replay --what-if{_arguments(report.change)} -- {report.examples[0].order_id}")
    say("", "What this cannot know:", *(f"- {sentence}" for sentence in LIMITS))
    if report.unknown:
        say(f"- The content of {report.unknown:,} refused commands has expired. They stay refused.")
    if report.retired:
        say(f"- {report.retired:,} events have retired outcomes. What was refused beside them is not known any more.")
    if report.parked or report.waiting:
        say(
            f"- {report.parked:,} commands are parked, and some {report.waiting:,} are not judged yet. Until they are, "
            "no deadline runs out on their orders."
        )


def _orders(count: int) -> str:
    return f"{count:,} order{'' if count == 1 else 's'}"


def _which(change: Change) -> str:
    parts = []
    if change.terms_name is not None:
        parts.append(f" of the terms {change.terms_name}")
    if change.since is not None:
        parts.append(f" registered from {short(format_instant(change.since))} on")
    if change.until is not None:
        parts.append(f" registered before {short(format_instant(change.until))}")
    return ",".join(parts)


def _terms(change: Change) -> str:
    given = [f"{name.replace('_', ' ')} {value}" for name, value in change.terms.items()]
    return ", ".join(given) or "the terms that they had"


def _arguments(change: Change) -> str:
    return "".join(f" --{name.replace('_', '-')} {value}" for name, value in change.terms.items())


def _rows(before: Tally, after: Tally) -> Iterator[tuple[str, str, str, str]]:
    """Yields a line of the table for each count and amount that there is."""
    yield from _counts("disputes, {}", before.disputes, after.disputes)
    yield from _counts("settled: {}", before.settled, after.settled)
    yield from _counts("{}", *({"answers that came too late": t.answers_too_late} for t in (before, after)))
    yield from _counts("{}", *({"days of extensions": t.extension_days} for t in (before, after)))
    yield from _counts("refunds in {}", before.refunds, after.refunds)
    yield from _amounts("refunded", before.refunded, after.refunded)
    yield from _counts("canceled: {}", before.cancellations, after.cancellations)
    yield from _amounts("due after cancellations", before.refund_due, after.refund_due)


def _counts(label: str, before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[tuple[str, str, str, str]]:
    for name in sorted(before.keys() | after.keys()):
        was, is_ = before.get(name, 0), after.get(name, 0)
        if was or is_:
            change = f"{is_ - was:+,}" if is_ != was else ""
            yield label.format(name.replace("_", " ")), f"{was:,}", f"{is_:,}", change


def _amounts(label: str, before: Mapping[str, int], after: Mapping[str, int]) -> Iterator[tuple[str, str, str, str]]:
    for currency in sorted(before.keys() | after.keys()):
        was, is_ = before.get(currency, 0), after.get(currency, 0)
        texts = [plain_text({"amount": amount, "currency": currency}) for amount in (was, is_, abs(is_ - was))]
        change = f"{'+' if is_ > was else '-'}{texts[2]}" if is_ != was else ""
        yield label, texts[0], texts[1], change


def _print_days(console: Terminal, days: Sequence[tuple[date, int, int]]) -> None:
    """Prints two bars for each day, or for each week or month if there are too many days."""
    if not days:
        return
    what, rows = _grouped(days)
    most = max(max(before, after) for _, before, after in rows)
    say("", f"Accepted automatically, by {what} (UTC): before above, after below")
    for label, before, after in rows:
        for text, count, color in ((label, before, "dim"), ("", after, "green")):
            bar = "█" * round(_BAR * count / most) or ("▏" if count else "")
            console.print(styled(f"  {text:<10}  ", (f"{bar:<{_BAR}}", color), f"  {count:,}"), soft_wrap=True)


def _grouped(days: Sequence[tuple[date, int, int]]) -> tuple[str, list[tuple[str, int, int]]]:
    for what, first_of in (("day", lambda day: day), ("week", _monday), ("month", lambda day: day.replace(day=1))):
        sums: dict[date, tuple[int, int]] = {}
        for day, before, after in days:
            was, is_ = sums.get(first_of(day), (0, 0))
            sums[first_of(day)] = was + before, is_ + after
        if len(sums) <= _MOST_ROWS or what == "month":
            break
    return what, [(day.isoformat(), was, is_) for day, (was, is_) in sums.items()]


def _monday(day: date) -> date:
    return day - timedelta(days=day.weekday())
