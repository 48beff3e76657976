"""Which command ids were used on an order before, and what came of them. A UUID in capital letters is the same one.

Ids are kept as they were sent. Nearly all senders write small letters, which a dict and an index find at once. So only
an id with capital letters leaves a second trace, and only orders that have one are looked up.
"""

from collections.abc import Iterable
from enum import Enum

import msgspec


class FirstUse(msgspec.Struct, frozen=True, gc=False):
    """What a command id first came with, and what came of it."""

    digest: bytes
    """SHA-256 of the command's data."""
    message: bytes
    """The envelope of its outcome."""


class Retired(Enum):
    """Stands for a first use whose outcome was retired: its data and its outcome are not known any more."""

    RETIRED = "retired"


RETIRED = Retired.RETIRED
FirstUses = dict[tuple[str, str], FirstUse | Retired]
"""By order id and command id."""

_ANY_CASE = "*"


def has_capitals(command_id: str) -> bool:
    """Whether the same id could be written in smaller letters."""
    return command_id != command_id.lower()


def remember(uses: FirstUses, order_id: str, command_id: str, use: FirstUse | Retired) -> None:
    """Notes a first use."""
    uses[order_id, command_id] = use
    if has_capitals(command_id):
        uses.setdefault((order_id, _ANY_CASE + command_id.lower()), use)


def first_use(
    known: Iterable[FirstUses], order_id: str, command_id: str, *, as_written: bool = False
) -> FirstUse | Retired | None:
    """Returns an id's first use, or None if it was not used. `as_written`: compares spellings, as earlier versions did.

    Their histories may have both spellings, each for a command of its own. So the same spelling comes first.
    """
    small = command_id.lower()
    spellings = (command_id,) if as_written else (command_id, small, _ANY_CASE + small)
    for spelling in spellings:
        use = (order_id, spelling)
        for uses in known:
            if use in uses:
                return uses[use]
    return None
