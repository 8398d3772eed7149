"""Notes have a key, values and a sentence that belong together."""

from __future__ import annotations

import json
import re
from dataclasses import asdict

import pytest
from glialite_runtime.notes import NOT_FOR, SENTENCES, note


def test_a_note_is_its_sentence_filled_in() -> None:
    """The values stand where the braces are, and the note can be written as JSON."""
    found = note("geometry.thick", mm=5.5)
    assert found.text.startswith("The slices are 5.5 mm thick")
    assert json.loads(json.dumps(asdict(found)))["values"] == {"mm": 5.5}


def test_a_forgotten_value_is_an_error() -> None:
    """No sentence goes out with a hole in it."""
    with pytest.raises(KeyError):
        note("registration.shift", sequence="t1n")


def test_every_report_can_say_what_the_model_is_not_for() -> None:
    """Operated patients and children cannot be recognised, so they are named."""
    assert {"scope.operated", "scope.children"} <= {n.key for n in NOT_FOR}


@pytest.mark.parametrize("key", sorted(SENTENCES))
def test_every_sentence_is_one(key: str) -> None:
    """It begins with a capital or a value and ends with a full stop."""
    assert re.fullmatch(r"[A-Z{].*\.", SENTENCES[key])
