"""Refusals in the reader's language: an error's English sentence is found again in the string table.

Whatever refuses a scan says so in English, in one place; the table's `refused.…` hold the same sentence with its values
in braces. So a sentence that was stored, in a journal or a list, can be shown in any language later.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from string import Formatter
from typing import Final

from glialite_runtime.errors import InputError
from glialite_runtime.page.words import REVIEWED, Words, keys_of, words_in
from glialite_runtime.sequences import SEQUENCES

__all__ = ["refusal", "refused_in"]

_SEQUENCE: Final = "|".join(SEQUENCES)
_OF_SEQUENCES: Final = frozenset({"sequence", "first", "second", "other"})
_NEXT: Final = re.compile(rf"; (?=(?:{_SEQUENCE}) |this model needs )")  # the gate names every problem at once


def refusal(sentence: str, words: Words) -> str:
    """Return an error's English sentence in another language, with the English one behind it until it is reviewed.

    A sentence that the table does not know stays English.
    """
    parts = [_said(part, words) for part in _NEXT.split(sentence)]
    if words.language == "en" or None in parts:
        return sentence
    translated = "; ".join(part for part in parts if part is not None)
    if words.language in REVIEWED:
        return translated
    return f"{translated} ({words.say('unreviewed_sentence', sentence=sentence)})"


@contextmanager
def refused_in(language: str) -> Iterator[None]:
    """Raise an `InputError` that comes from inside with its sentence in a language."""
    try:
        yield
    except InputError as error:
        raise type(error)(refusal(str(error), words_in(language))) from error


def _said(sentence: str, words: Words) -> str | None:
    for key, pattern in _patterns():
        if found := pattern.fullmatch(sentence):
            return words.fill(key, found.groupdict())
    return None


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """Return each refusal's key and its English sentence as a pattern, those with the most words of their own first."""
    english = {key: Words("en").template(key) for key in keys_of("refused.")}
    ordered = sorted(english, key=lambda key: -sum(len(text) for text, *_ in Formatter().parse(english[key])))
    return [(key, _pattern(english[key])) for key in ordered]


def _pattern(template: str) -> re.Pattern[str]:
    parts, seen = [], set()
    for text, name, _, _ in Formatter().parse(template):
        parts.append(re.escape(text))
        if name in seen:
            parts.append(f"(?P={name})")
        elif name is not None:
            parts.append(f"(?P<{name}>{_SEQUENCE if name in _OF_SEQUENCES else '.+?'})")
            seen.add(name)
    return re.compile("".join(parts), re.DOTALL)
