"""Refusals in the reader's language: an error's English sentence is found again in the string table.

Whatever refuses says so in English, in one place; the table's `refused.…` hold the same sentence with its values in
braces. So a sentence that was stored, in a journal or a list, can be shown in any language later. A value that is a
sentence of the table, too, is translated with it. What is said to whoever installs or programs stays English
(`tests/runtime/page/test_refusals_known.py` lists it, and finds what was reworded here or there alone).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from string import Formatter
from typing import Final

from glialite_runtime.errors import BackendUnavailableError, BatchError, ConfigError, InputError, OutputError
from glialite_runtime.page.words import REVIEWED, Words, keys_of, words_in
from glialite_runtime.sequences import SEQUENCES

__all__ = ["refusal", "refused_in"]

_SEQUENCE: Final = "|".join(SEQUENCES)
_OF_SEQUENCES: Final = frozenset({"sequence", "first", "second", "other"})
_TOLD: Final = (ConfigError, InputError, OutputError, BackendUnavailableError, BatchError)
_DEEPEST: Final = 3  # sentences in sentences: why the watcher waits, why a folder holds nothing, why a file is not read
_NEXT: Final = re.compile(rf"; (?=(?:{_SEQUENCE}) |this model needs )")  # the gate names every problem at once


def refusal(sentence: str, words: Words) -> str:
    """Return an error's English sentence in another language, with the English one behind it until it is reviewed.

    A sentence that the table does not know stays English.
    """
    if words.language == "en":
        return sentence
    parts = [_said(part, words) for part in _NEXT.split(sentence)]
    if None in parts:
        return sentence
    translated = "; ".join(part for part in parts if part is not None)
    if words.language in REVIEWED:
        return translated
    return f"{translated} ({words.say('unreviewed_sentence', sentence=sentence)})"


@contextmanager
def refused_in(language: str) -> Iterator[None]:
    """Raise an error that comes from inside, of a kind that an operator meets, with its sentence in a language."""
    try:
        yield
    except _TOLD as error:
        raise type(error)(refusal(str(error), words_in(language))) from error


def _said(sentence: str, words: Words, deeper: int = _DEEPEST) -> str | None:
    """Return a sentence of the table in another language, and so the sentences in it; None for any other."""
    for key, pattern in _patterns():
        if found := pattern.fullmatch(sentence):
            values = found.groupdict()
            if deeper:
                values = {name: _said(value, words, deeper - 1) or value for name, value in values.items()}
            return words.fill(key, values)
    return None


@cache
def _patterns() -> list[tuple[str, re.Pattern[str]]]:
    """Return each refusal's key and its English sentence as a pattern, those with the most words of their own first."""
    english = {key: Words("en").template(key) for key in keys_of("refused.")}
    ordered = sorted(english, key=lambda key: -sum(len(text) for text, *_ in Formatter().parse(english[key])))
    return [(key, _pattern(english[key])) for key in ordered]


def _pattern(template: str) -> re.Pattern[str]:
    """Return a pattern that takes the first place where a value can end, so that no name makes it try many."""
    parts: list[str] = []
    pieces = [(re.escape(text), name) for text, name, _, _ in Formatter().parse(template)]
    for at, (text, name) in enumerate(pieces):
        before = pieces[at - 1][1] if at else None
        value = "" if before is None else _value(before, again=before in [n for _, n in pieces[: at - 1]])
        last = at == len(pieces) - 1 and name is None
        parts.append(f"{value}{text}" if last else f"(?>{value}{text})")
        if at == len(pieces) - 1 and name is not None:
            parts.append(_value(name, again=name in [n for _, n in pieces[:at]]))
    return re.compile("".join(parts), re.DOTALL)


def _value(name: str, *, again: bool) -> str:
    if again:
        return f"(?P={name})"
    return f"(?P<{name}>{_SEQUENCE if name in _OF_SEQUENCES else '.*?'})"
