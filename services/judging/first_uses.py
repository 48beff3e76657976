"""Which command ids were used on an order before, and what came of them. A UUID in capital letters is the same one.

Ids are kept as they were sent. Nearly all senders write small letters, which a dict and an index find at once. So only
an id with capital letters leaves a second trace, and only orders that have one are looked up.
"""

from collections.abc import Iterable

FirstUses = dict[tuple[str, str], tuple[bytes, bytes]]
"""By order id and command id: the digest of the data it first came with, and the outcome it got; both empty where that
was retired."""

_ANY_CASE = "*"


def has_capitals(command_id: str) -> bool:
    """Whether the same id could be written in smaller letters."""
    return command_id != command_id.lower()


def remember(uses: FirstUses, order_id: str, command_id: str, use: tuple[bytes, bytes]) -> None:
    """Notes a first use."""
    uses[order_id, command_id] = use
    if has_capitals(command_id):
        uses.setdefault((order_id, _ANY_CASE + command_id.lower()), use)


def first_use(
    known: Iterable[FirstUses], order_id: str, command_id: str, *, as_written: bool = False
) -> tuple[bytes, bytes] | None:
    """What is known of an id's first use. `as_written`: as earlier versions compared.

    In their histories both spellings may be there, each for a command of its own. So the same spelling comes first.
    """
    small = command_id.lower()
    spellings = (command_id,) if as_written else (command_id, small, _ANY_CASE + small)
    for spelling in spellings:
        use = (order_id, spelling)
        for uses in known:
            if use in uses:
                return uses[use]
    return None
