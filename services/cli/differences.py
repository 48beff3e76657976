"""Prints the differences that a verification found."""

from services.audit.findings import Differences

from .terminal import say

_MAX_SHOWN = 100


def print_differences(found: Differences, otherwise: str) -> None:
    """Prints the first differences and their number, or `otherwise` if there are none."""
    for difference in found.differences[:_MAX_SHOWN]:
        say(f"  {difference}")
    more = found.different - min(_MAX_SHOWN, len(found.differences))
    if more:
        say(f"  and {more:,} more (--json has the first 10,000)")
    say(f"{found.different:,} differences." if found.different else otherwise)
