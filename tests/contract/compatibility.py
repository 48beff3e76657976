"""The gate: a released version of a message may only gain optional fields, and a command may allow more numbers."""

from collections.abc import Iterator, Mapping
from typing import Any

_PROSE = {"description", "title", "$id"}


def broken(released: Mapping[str, Any], current: Mapping[str, Any]) -> list[str]:
    """What a program written against the released schemas would trip over, a sentence each."""
    found: list[str] = []
    for file, schema in released.items():
        if file not in current:
            found.append(f"{file} is gone")
        else:
            widened = _widened(schema, current[file]) if file.startswith("commands/") else schema
            found += [f"{file}: {what}" for what in _compare(widened, current[file], "")]
    return found


def _widened(old: Any, new: Any) -> Any:
    """The old schema with the new one's limits where these allow more. Senders of less notice nothing."""
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        return [_widened(one, other) for one, other in zip(old, new, strict=True)]
    if not isinstance(old, dict) or not isinstance(new, dict):
        return old
    limits = {}
    if new.get("maximum", 0) > old.get("maximum", float("inf")):
        limits["maximum"] = new["maximum"]
    if new.get("minimum", 0) < old.get("minimum", float("-inf")):
        limits["minimum"] = new["minimum"]
    return {name: _widened(value, new.get(name)) for name, value in old.items()} | limits


def _compare(old: Any, new: Any, path: str) -> Iterator[str]:
    if isinstance(old, dict) and isinstance(new, dict):
        yield from _compare_objects(old, new, path)
    elif isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        for number, (one, other) in enumerate(zip(old, new, strict=True)):
            yield from _compare(one, other, f"{path}{number}.")
    elif old != new:
        yield f"{path.rstrip('.')} changed from {old!r} to {new!r}"


def _compare_objects(old: dict[str, Any], new: dict[str, Any], path: str) -> Iterator[str]:
    may_gain = path.endswith(("properties.", "$defs."))
    for name in old.keys() - _PROSE - {"required"}:
        if name not in new:
            yield f"{path}{name} is gone"
        else:
            yield from _compare(old[name], new[name], f"{path}{name}.")
    for name in new.keys() - old.keys() - _PROSE - {"required"}:
        if not may_gain and name != "$defs":
            yield f"{path}{name} is new: {new[name]!r}"
    was, is_ = set(old.get("required", ())), set(new.get("required", ()))
    yield from (f"{path}{name} is required now" for name in sorted(is_ - was))
    yield from (f"{path}{name} is optional now" for name in sorted(was - is_ & old.get("properties", {}).keys()))
