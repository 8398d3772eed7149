"""The sentences of the report that picture and structured report carry, in English: no number travels without them."""

from __future__ import annotations

from typing import Any, Final

from glialite_runtime.page.warnings import warnings_of
from glialite_runtime.page.words import Words, words_in

__all__ = ["WORDS", "quality_statements", "volume_statement", "warnings"]

WORDS: Final[Words] = words_in("en")  # the codes' meanings and the picture's letters are English too


def warnings(document: dict[str, Any]) -> list[str]:
    """Return what has to be said first."""
    return warnings_of(document, WORDS)


def volume_statement(region: str, document: dict[str, Any]) -> str:
    """Return a region's name, volume and interval, or why it has none."""
    name, volume = WORDS.say(f"region.{region}"), document["volumes_ml"][region]
    if volume is None:
        return f"{name}: {WORDS.say('without_t1c')}"
    interval = document["volume_intervals_ml"].get(region)
    if interval is None:
        return f"{name}: {WORDS.ml(volume)}"
    limits = WORDS.say("range_ml", low=WORDS.number(interval["low"]), high=WORDS.number(interval["high"]))
    return f"{name}: {WORDS.ml(volume)}. {WORDS.say('range', percent=round(100 * interval['rate']))}: {limits}"


def quality_statements(document: dict[str, Any]) -> list[str]:
    """Return what the gate found, and what was missing."""
    said = [f"{WORDS.say('quality')}: {WORDS.say('verdict.' + document['quality']['verdict'])}"]
    said += [WORDS.note(found) for found in document["quality"]["findings"]]
    if document["volumes_ml"]["TC"] is None:
        said.append(WORDS.say("missing_t1c"))
    return said
