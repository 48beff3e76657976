"""Finds out which outcomes an earlier version gave, so that they are verified by that version's rules.

The version is not stored. An outcome shows it if only one version can have given that outcome.
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
    """Returns the code in a rejection's envelope, or "" if the command was accepted."""
    match = _find_code(message)
    return match[1].decode() if match else ""


def judged_before(received: Received, code: str, spelled_twice: bool) -> bool:
    """Whether an earlier version judged the first use of a command id, or may have judged it.

    `code` is the outcome's. `spelled_twice`: whether the order has another first use whose id differs in case only.
    """
    return spelled_twice or code in _UNKNOWN or isinstance(received.command, Rejected) != (code == "invalid")


def spelled_twice(uses: Iterable[tuple[str, str]]) -> set[tuple[str, str]]:
    """Returns the first uses (order id, command id) whose ids differ in letter case only, in small letters."""
    spellings: defaultdict[tuple[str, str], set[str]] = defaultdict(set)
    for order_id, command_id in uses:
        spellings[order_id, command_id.lower()].add(command_id)
    return {use for use, ids in spellings.items() if len(ids) > 1}


def same_but_for_sentences(expected: bytes | None, found: bytes | None) -> bool:
    """Whether an outcome is the expected one. Does not compare sentences for people, which any version may reword."""
    if expected is None or found is None or not (_find_code(expected) and _find_code(found)):
        return expected == found
    try:
        outcome, data = msgspec.json.decode(expected), msgspec.json.decode(found)["data"]
        outcome["data"]["message"] = data["message"]
        if outcome["data"]["code"] == "invalid":
            outcome["data"]["details"] = data["details"]
    except (msgspec.MsgspecError, RecursionError, KeyError, TypeError):
        return False
    return bool(msgspec.json.encode(outcome) == found)
