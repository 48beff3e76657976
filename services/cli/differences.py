"""How the command line tells what differs."""

from services.audit.findings import Differences

from .terminal import say

_MOST_SHOWN = 100


def tell_differences(found: Differences, otherwise: str) -> None:
    """The first ones, and how many there are; `otherwise` where there are none."""
    for difference in found.differences[:_MOST_SHOWN]:
        say(f"  {difference}")
    more = found.different - min(_MOST_SHOWN, len(found.differences))
    if more:
        say(f"  and {more:,} more (--json has the first 10,000)")
    say(f"{found.different:,} differences." if found.different else otherwise)
