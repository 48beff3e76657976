"""Which command ids were used on an order before, and their outcomes. Letter case makes no difference in a UUID.

Ids are kept as their senders wrote them. Nearly all senders write small letters, so that a dict and an index find a
repeat directly. Only an id with capital letters gets a second entry, and only orders with such ids are looked up.
"""

from collections.abc import Iterable
from enum import Enum

import msgspec


class FirstUse(msgspec.Struct, frozen=True, gc=False):
    """The first command with a command id."""

    digest: bytes
    """The digest of the command (`Received.digest`)."""
    message: bytes
    """The envelope of the command's outcome."""


class Retired(Enum):
    """Stands for a first use whose outcome was retired: the digest and the outcome are gone."""

    RETIRED = "retired"


RETIRED = Retired.RETIRED
FirstUses = dict[tuple[str, str], FirstUse | Retired]
"""By order id and command id."""

_ANY_CASE = "*"


def has_capitals(command_id: str) -> bool:
    """Whether the id has capital letters."""
    return command_id != command_id.lower()


def remember(uses: FirstUses, order_id: str, command_id: str, use: FirstUse | Retired) -> None:
    """Adds a first use to `uses`. An id with capital letters gets a second entry, in small letters."""
    uses[order_id, command_id] = use
    if has_capitals(command_id):
        uses.setdefault((order_id, _ANY_CASE + command_id.lower()), use)


def first_use(
    known: Iterable[FirstUses], order_id: str, command_id: str, *, as_written: bool = False
) -> FirstUse | Retired | None:
    """Returns an id's first use, or None if nobody used it. With `as_written`, letter case matters.

    Letter case mattered in earlier versions, so an order may have two commands whose ids differ in nothing else. The
    use in the same spelling is preferred.
    """
    small = command_id.lower()
    spellings = (command_id,) if as_written else (command_id, small, _ANY_CASE + small)
    for spelling in spellings:
        use = (order_id, spelling)
        for uses in known:
            if use in uses:
                return uses[use]
    return None
