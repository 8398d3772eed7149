"""Values of DICOM elements as plain text, numbers and times; what makes no sense becomes nothing, never an error."""

from __future__ import annotations

import re
from datetime import datetime
from typing import Any

__all__ = ["moment", "number", "numbers", "text", "whole", "words"]


def text(value: Any) -> str:
    """Return a value as one printable line of at most 128 characters; empty for None."""
    return "".join(c for c in str(value if value is not None else "") if c.isprintable()).strip(" \0")[:128]


def words(value: Any) -> tuple[str, ...]:
    """Return the words of a value of several, upper-case, at most 16."""
    parts = value if isinstance(value, (list, tuple)) or hasattr(value, "append") else [value]
    return tuple(word for part in list(parts)[:16] if (word := text(part).upper()))


def number(value: Any) -> float | None:
    """Return the first number of a value; None where it is none, or not finite."""
    found = numbers(value, 1)
    return found[0] if found else None


def numbers(value: Any, count: int) -> list[float] | None:
    """Return the first `count` numbers of a value; None where there are fewer, or one is not finite."""
    parts = list(value) if hasattr(value, "__iter__") and not isinstance(value, (str, bytes)) else [value]
    try:
        found = [float(part) for part in parts[:count]]
    except (TypeError, ValueError):
        return None
    return found if len(found) == count and all(abs(n) < 1e6 for n in found) else None


def whole(value: Any) -> int:
    """Return a value as a whole number of at least 0; 0 where it is none."""
    found = number(value)
    return int(found) if found is not None and found >= 0 else 0


def moment(date: Any, time: Any = None) -> datetime | None:
    """Return the moment that a DA and a TM value, or one DT value, tell to the second.

    A date alone (no `time` given) is its midnight; None where either is absent or damaged.
    """
    digits = text(date) if time is None else text(date)[:8].ljust(8) + text(time).replace(":", "")
    found = re.match(r"(\d{8})(\d{6})?", digits)
    if found is None or (time is not None and not found[2]):
        return None
    try:
        return datetime.strptime(found[0], "%Y%m%d%H%M%S" if found[2] else "%Y%m%d")
    except ValueError:
        return None
