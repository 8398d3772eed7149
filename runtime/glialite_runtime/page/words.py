"""The one string table: everything that the page says, in every language."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from types import MappingProxyType
from typing import Any, Final

from glialite_runtime.errors import ConfigError

__all__ = ["LANGUAGES", "REVIEWED", "Words", "keys_of", "words_in"]

LANGUAGES: Final[Mapping[str, str]] = MappingProxyType(
    {"en": "English", "fr": "français", "pt": "português", "sw": "Kiswahili"}
)
"""Code of a language -> its own name."""

REVIEWED: Final = frozenset({"en"})
"""Languages whose words a medical reader of the language has looked at; pages in others say that nobody has."""

_DECIMAL_COMMA: Final = frozenset({"fr", "pt"})


@cache
def _table() -> dict[str, dict[str, str]]:
    table: dict[str, dict[str, str]] = json.loads(files(__package__).joinpath("strings.json").read_bytes())
    return table


@dataclass(frozen=True, slots=True)
class Words:
    """The words and numbers of one language.

    Attributes
    ----------
    language : str
        A key of `LANGUAGES`.
    """

    language: str

    def say(self, key: str, **values: str | int) -> str:
        """Return the sentence of a key, as plain text, with its values in it."""
        return self.template(key).format(**values)

    def template(self, key: str) -> str:
        """Return the sentence of a key with its values still in braces."""
        return _table()[key][self.language]

    def number(self, value: float, digits: int = 1, *, signed: bool = False) -> str:
        """Return a number as it is written in the language; with `signed`, + or − before it."""
        text = f"{value:+.{digits}f}" if signed else f"{value:.{digits}f}"
        if float(text) == 0:
            text = text.lstrip("+-")
        return text.replace("-", "−").replace(".", "," if self.language in _DECIMAL_COMMA else ".")

    def ml(self, value: float) -> str:
        """Return a volume with its unit."""
        return self.say("ml", value=self.number(value))

    def note(self, found: Mapping[str, Any]) -> str:
        """Return a note of the quality gate (`key`, `values`, `text`); its English text when the key is not known."""
        if f"note.{found['key']}" not in _table():
            return str(found["text"])
        return self.fill(f"note.{found['key']}", found["values"])

    def fill(self, key: str, values: Mapping[str, str | int | float]) -> str:
        """Return the sentence of a key; decimals and the names of sequences in it as the language has them."""
        return self.say(key, **{name: self._value(value) for name, value in values.items()})

    def _value(self, value: str | int | float) -> str:
        if isinstance(value, float):
            return self.number(value, 0 if value.is_integer() else 1)
        names = (_table().get(f"sequence.{name}") for name in str(value).split(", "))
        return ", ".join(n[self.language] if n else v for n, v in zip(names, str(value).split(", "), strict=True))


def keys_of(group: str) -> list[str]:
    """Return the keys that begin alike."""
    return [key for key in _table() if key.startswith(group)]


def words_in(language: str) -> Words:
    """Return the words of a language.

    Raises
    ------
    ConfigError
        There is no such language.
    """
    if language not in LANGUAGES:
        raise ConfigError(f"there is no report in {language!r}; choose one of {', '.join(LANGUAGES)}")
    return Words(language)
