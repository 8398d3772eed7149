"""The string table: every key in every language, the same values in it, numbers as the language writes them."""

from __future__ import annotations

import re
from importlib.resources import files
from json import loads
from string import Formatter

import glialite_runtime
import pytest
from glialite_runtime import clinic, page
from glialite_runtime.errors import ConfigError
from glialite_runtime.notes import SENTENCES, note
from glialite_runtime.page.words import LANGUAGES, REVIEWED, Words, words_in

TABLE = loads(files(page).joinpath("strings.json").read_text("utf-8"))


def values_in(sentence: str) -> set[str]:
    return {name for _, name, _, _ in Formatter().parse(sentence) if name is not None}


@pytest.mark.parametrize("key", TABLE)
def test_a_key_has_words_with_the_same_values_in_every_language(key: str) -> None:
    """Nothing falls back to English, and no number is lost in translation."""
    assert set(TABLE[key]) == set(LANGUAGES)
    assert all(sentence.strip() == sentence != "" for sentence in TABLE[key].values())
    assert len({frozenset(values_in(sentence)) for sentence in TABLE[key].values()}) == 1


def test_sentences_are_translated() -> None:
    """A sentence of more than three words that is the same in two languages was forgotten."""
    for key, words in TABLE.items():
        if len(words["en"].split()) > 3 and not key.startswith("ml"):
            assert len(set(words.values())) == len(LANGUAGES), key


@pytest.mark.parametrize("key", SENTENCES)
def test_every_note_of_the_gate_is_in_the_table(key: str) -> None:
    """Its English is the gate's own, word for word."""
    assert TABLE[f"note.{key}"]["en"] == SENTENCES[key]


def test_every_key_that_the_page_asks_for_is_there_and_none_is_left_over() -> None:
    """Words spelt out in the code, and groups of keys (`side.…`) whose end is put together."""
    modules = [*files(page).iterdir(), *files(clinic).iterdir(), files(glialite_runtime) / "cli.py"]
    code = "".join(f.read_text("utf-8") for f in modules if f.name.endswith((".py", ".html")))
    spelt = set(re.findall(r"""["']([a-z0-9_]+(?:\.[a-zA-Z0-9_]+)*)["']""", code))
    groups = set(re.findall(r"""["']([a-z]+\.)(?:["'{])""", code)) - {"serve."}  # each of these is spelt out
    unused = {k for k in TABLE if k not in spelt and not any(k.startswith(group) for group in groups)}
    assert unused == set()
    asked = {word for word in spelt if word.startswith("serve.")}
    assert asked <= set(TABLE), "the page asks for words that are not there"


def test_notes_are_translated_with_their_values() -> None:
    """The name of a sequence becomes the page's word for it, decimals the language's."""
    found = note("registration.shift", sequence="t1c", mm=7.5, other="t2w")
    said = Words("fr").note({"key": found.key, "values": found.values, "text": found.text})
    assert said.startswith("T1 avec contraste semble décalée de 7,5 mm par rapport à T2")


def test_a_note_without_translation_stays_english() -> None:
    """A newer gate with an older table still says what it found."""
    assert Words("sw").note({"key": "from.tomorrow", "values": {}, "text": "Something new."}) == "Something new."


@pytest.mark.parametrize(
    ("language", "value", "digits", "signed", "text"),
    [
        ("en", 1234.56, 1, False, "1234.6"),
        ("fr", 0.25, 2, False, "0,25"),
        ("pt", -3.14, 1, True, "−3,1"),
        ("sw", 3.0, 1, True, "+3.0"),
        ("en", -0.01, 1, True, "0.0"),
    ],
)
def test_numbers(language: str, value: float, digits: int, signed: bool, text: str) -> None:
    """Comma or point; a true minus; no sign before what rounds to zero."""
    assert Words(language).number(value, digits, signed=signed) == text


def test_an_unknown_language_is_refused() -> None:
    """The message lists those that there are."""
    with pytest.raises(ConfigError, match="en, fr, pt, sw"):
        words_in("de")


def test_only_english_counts_as_reviewed() -> None:
    """A translation leaves this list when a medical reader of the language has signed it off, not before."""
    assert frozenset({"en"}) == REVIEWED
