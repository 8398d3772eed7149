"""What the gate may say about a scan: a stable key, values, and the English sentence that they make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

__all__ = ["NOT_FOR", "SENTENCES", "Note", "note"]

SENTENCES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "brain.small": "The brain measures {brain_ml} mL; adults have {low_ml} to {high_ml} mL.",
        "coverage.sequence": "{sequence} covers only {percent} % of the brain that the other sequences show.",
        "coverage.top": "The brain is cut off at the top of the image.",
        "coverage.bottom": "The brain is cut off at the bottom of the image.",
        "coverage.side": "The brain is cut off at a side of the image.",
        "geometry.thick": "The slices are {mm} mm thick; small parts of a tumour cannot be seen between them.",
        "geometry.oblique": "The image is tilted by {degrees} degrees against the axes of the body; "
        "the model has seen straight images only.",
        "geometry.forms": "The file of {sequence} states two positions of the head (qform and sform), "
        "{degrees} degrees and {mm} mm apart; the sform was used.",
        "registration.shift": "{sequence} seems to lie {mm} mm away from {other}; register the sequences again.",
        "registration.mirrored": "{sequence} seems to be mirrored left to right against {other}; "
        "do not trust the side of the findings.",
        "swapped.pair": "{first} and {second} look as if they were swapped; check which file is which.",
        "intensity.saturated": "{percent} % of the voxels of {sequence} have its largest value: bright parts are cut.",
        "intensity.unusual": "{sequence} has grey values unlike those of the scans that the model learnt from; "
        "check the outlines with care.",
        "space.atlas": "Raw scans were aligned and the brain was outlined automatically: the result is approximate, "
        "look at the outlines on the original images.",
        "space.given": "Raw scans were aligned automatically, with the brain mask that was given: the result is "
        "approximate, look at the outlines on the original images.",
        "space.stripped": "Skull-stripped scans were aligned automatically: the result is approximate, look at the "
        "outlines on the original images.",
        "space.coverage": "{sequence} shows only {percent} % of the brain: what it misses cannot be outlined well.",
        "scope.operated": "Not made for patients who were operated on: a cavity cannot be recognised as one.",
        "scope.children": "Not made for children: the model has seen adults only, and age cannot be recognised.",
        "scope.other": "Not made for anything but gliomas: other diseases are outlined too, or missed.",
    }
)
"""Key -> English sentence with its values in braces. Translations use the same keys and the same values."""


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that a reader of the report should know.

    Attributes
    ----------
    key : str
        What it is, a key of `SENTENCES`; never renamed.
    values : dict
        What stands in the braces: names of sequences and rounded numbers.
    text : str
        The English sentence.
    """

    key: str
    values: dict[str, str | int | float]
    text: str


def note(key: str, **values: str | int | float) -> Note:
    """Return the note of a key with its values."""
    return Note(key, values, SENTENCES[key].format(**values))


NOT_FOR: Final = (note("scope.operated"), note("scope.children"), note("scope.other"))
"""What no image tells the gate, so every report says it."""
