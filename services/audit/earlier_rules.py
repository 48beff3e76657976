"""History is judged by the rules that it was made by, an earlier version's too.

Which rules these were is not stored. An outcome shows it if only one version can have given it.
"""

import re
from collections import defaultdict
from collections.abc import Iterable

import msgspec

from services.judging.decode import Received
from services.orders import Rejected

_find_code = re.compile(rb'"code":"(\w+)"').search
_UNKNOWN = ("dispute_unknown", "refund_unknown")


def code_of(message: bytes) -> str:
    """The code of an outcome's message; empty where the command was accepted."""
    found = _find_code(message)
    return found[1].decode() if found else ""


def judged_before(received: Received, code: str, spelled_twice: bool) -> bool:
    """Whether a first use of a command id was judged by an earlier version, or may as well have been.

    `code`: of its outcome. `spelled_twice`: whether its id was used first in small and in capital letters, too.
    """
    return spelled_twice or code in _UNKNOWN or isinstance(received.command, Rejected) != (code == "invalid")


def spelled_twice(uses: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Of order ids and command ids used first, those that differ in letter case only; in small letters."""
    spellings: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for order_id, command_id in uses:
        spellings[order_id, command_id.lower()].add(command_id)
    return {use for use, ids in spellings.items() if len(ids) > 1}


def same_but_for_sentences(expected: bytes | None, found: bytes | None) -> bool:
    """Whether an outcome says what it should. What it tells people may be worded anew in any version."""
    if expected is None or found is None or not (_find_code(expected) and _find_code(found)):
        return expected == found
    try:
        outcome, said = msgspec.json.decode(expected), msgspec.json.decode(found)["data"]
        outcome["data"]["message"] = said["message"]
        if outcome["data"]["code"] == "invalid":
            outcome["data"]["details"] = said["details"]
    except (msgspec.MsgspecError, RecursionError, KeyError, TypeError):
        return False
    return bool(msgspec.json.encode(outcome) == found)
