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

__all__ = ["LANGUAGES", "REVIEWED", "Words", "words_in"]

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
        return _table()[key][self.language].format(**values)

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
        sentence = _table().get(f"note.{found['key']}")
        if sentence is None:
            return str(found["text"])
        values = {name: self._value(value) for name, value in found["values"].items()}
        return sentence[self.language].format(**values)

    def _value(self, value: str | int | float) -> str:
        if isinstance(value, float):
            return self.number(value, 0 if value.is_integer() else 1)
        sequence = _table().get(f"sequence.{value}")
        return sequence[self.language] if sequence else str(value)


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
