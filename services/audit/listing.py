"""Lists numbers in few words, for the sentences of findings."""

from collections.abc import Iterable, Iterator

_MOST = 8


def ranges(noun: str, numbers: Iterable[int]) -> str:
    """Returns ascending numbers in few words: `event 7`, `events 7, 9 to 12`, or `no event`."""
    runs = list(_runs(numbers))
    if not runs:
        return f"no {noun}"
    words = [f"{first:,}" if first == last else f"{first:,} to {last:,}" for first, last in runs[:_MOST]]
    if len(runs) > _MOST:
        words.append(f"{sum(last + 1 - first for first, last in runs[_MOST:]):,} more")
    plural = "" if runs[0][0] == runs[-1][1] else "s"
    return f"{noun}{plural} {', '.join(words)}"


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    run: tuple[int, int] | None = None
    for number in numbers:
        if run is not None and number == run[1] + 1:
            run = run[0], number
            continue
        if run is not None:
            yield run
        run = number, number
    if run is not None:
        yield run
