"""What an enhanced multi-frame file says of its frames, in the words of classic files.

A legacy converted one is made of classic files: what has no place in a functional group, such as TR and TE, stands in
sequences of "unassigned converted attributes", shared or of each frame, in the words of classic files already.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from glialite_runtime.dicom.elements import number, numbers, text, words
from glialite_runtime.errors import InputError

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

__all__ = ["TAGS", "classic_values", "frame_values", "mixture"]

TAGS: Final = (
    "AcquisitionContrast", "ComplexImageComponent", "EchoPulseSequence", "EchoPlanarPulseSequence", "InversionRecovery",
    "NumberOfFrames", "PerFrameFunctionalGroupsSequence", "PhaseContrast", "SharedFunctionalGroupsSequence",
    "SteadyStatePulseSequence", "TimeOfFlightContrast",
)  # fmt: skip
"""Keywords at the head of a file that only enhanced ones have."""

_MAX_ELEMENTS: Final = 1000
_MAX_FRAMES: Final = 2048
_UNASSIGNED: Final = ("UnassignedSharedConvertedAttributesSequence", "UnassignedPerFrameConvertedAttributesSequence")
_SCANNING: Final = {
    ("EchoPulseSequence", "SPIN"): ("SE",),
    ("EchoPulseSequence", "GRADIENT"): ("GR",),
    ("EchoPulseSequence", "BOTH"): ("SE", "GR"),
    ("InversionRecovery", "YES"): ("IR",),
    ("EchoPlanarPulseSequence", "YES"): ("EP",),
}
_VARIANTS: Final = {"Spoiling": "SP", "SteadyStatePulseSequence": "SS"}
_VESSELS: Final = {("TimeOfFlightContrast", "YES"), ("PhaseContrast", "YES"), ("AcquisitionContrast", "TOF")}
_TELL_APART: Final = {
    "EchoTime": "echo times",
    "InversionTime": "inversion times",
    "PixelSpacing": "pixel sizes",
    "DiffusionBValue": "diffusion weightings",
    "FrameType": "kinds of image",
    "ComplexImageComponent": "kinds of image",
}


def frame_values(dataset: Dataset) -> list[dict[str, Any]]:
    """Return keyword -> value for each frame of a multi-frame file, shared values included; empty for other files.

    Raises
    ------
    InputError
        More frames or elements than are accepted.
    """
    per_frame = dataset.get("PerFrameFunctionalGroupsSequence") or []
    shared = [_flat(item) for item in (dataset.get("SharedFunctionalGroupsSequence") or [])[:1]]
    if len(per_frame) > _MAX_FRAMES:
        raise InputError(f"more than {_MAX_FRAMES} frames are described in one file")
    return [{key: value for part in (*shared, _flat(item)) for key, value in part.items()} for item in per_frame]


def _flat(item: Dataset) -> dict[str, Any]:
    _refuse_too_many(item)
    groups = [element for element in item if element.VR == "SQ" and len(element.value)]
    found: dict[str, Any] = {}
    for group in sorted(groups, key=lambda group: group.keyword not in _UNASSIGNED):  # what is assigned counts more
        _refuse_too_many(group.value[0])
        found |= {inner.keyword: inner.value for inner in group.value[0] if inner.keyword}
    if "EffectiveEchoTime" in found:
        found["EchoTime"] = found["EffectiveEchoTime"]
    if "InversionTimes" in found:
        found["InversionTime"] = found["InversionTimes"]
    return found


def _refuse_too_many(item: Dataset) -> None:
    if len(item) > _MAX_ELEMENTS:  # each is parsed when it is looked at
        raise InputError(f"more than {_MAX_ELEMENTS} elements describe one frame")


def classic_values(values: Mapping[str, Any], frames: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return keyword -> value of what a classic file would say in place of an enhanced one; empty without frames.

    Parameters
    ----------
    values : mapping
        Keyword -> value at the head of the file; where it has none, None.
    frames : sequence of mapping
        Of `frame_values`.

    Source: DICOM PS3.3 C.8.13 (Enhanced MR Image) against C.8.3.1 (MR Image), C.7.6.4b (Enhanced Contrast/Bolus),
    C.7.6.16.2.25 and 26 (Unassigned Shared and Per-Frame Converted Attributes).
    """
    if not frames:
        return {}
    first = frames[0]

    def said(keyword: str) -> str:
        return text(first.get(keyword) or values.get(keyword)).upper()

    scanning = [word for (key, value), found in _SCANNING.items() if said(key) == value for word in found]
    variants = [word for key, word in _VARIANTS.items() if said(key) not in ("", "NONE")]
    kind = words(values.get("ImageType"))
    kind = words(first.get("FrameType")) if kind[:1] in ((), ("MIXED",)) else kind
    component = said("ComplexImageComponent")
    weights = [number(frame.get("DiffusionBValue")) or 0 for frame in frames]
    vessels = any(said(key) == value for key, value in _VESSELS)
    begun = min(filter(None, (text(frame.get("FrameAcquisitionDateTime")) for frame in frames)), default=None)
    return {
        "AcquisitionDateTime": values.get("AcquisitionDateTime") or begun,
        "EchoTime": values.get("EchoTime") or first.get("EchoTime"),
        "InversionTime": values.get("InversionTime") or first.get("InversionTime"),
        "ScanningSequence": words(values.get("ScanningSequence")) or scanning,
        "SequenceVariant": words(values.get("SequenceVariant")) or variants,
        "ImageType": [*kind, *([component] if component not in ("", "MAGNITUDE", "MIXED") else [])],
        "DiffusionBValue": max([*weights, float(said("AcquisitionContrast") == "DIFFUSION")]),
        "AngioFlag": "Y" if vessels else values.get("AngioFlag"),
        "BodyPartExamined": text(values.get("BodyPartExamined")) or _meaning(first.get("AnatomicRegionSequence")),
        "AcquisitionDate": values.get("AcquisitionDate") or text(values.get("AcquisitionDateTime") or begun)[:8],
        **_contrast_agent(values, frames),
    }


def _meaning(codes: Any) -> str:
    return text(codes[0].get("CodeMeaning")) if codes else ""


def _contrast_agent(values: Mapping[str, Any], frames: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the agent that a file names; nothing where its frames say that it was not given yet."""
    agents = values.get("ContrastBolusAgentSequence")
    given = {text(frame.get("ContrastBolusAgentAdministered")).upper() for frame in frames}
    if not agents or given == {"NO"}:
        return {"ContrastBolusAgentSequence": None}
    profile = agents[0].get("ContrastAdministrationProfileSequence")
    return {
        "ContrastBolusAgent": text(values.get("ContrastBolusAgent")) or _meaning(agents),
        "ContrastBolusStartTime": profile[0].get("ContrastBolusStartTime") if profile else None,
    }


def mixture(frames: Sequence[Mapping[str, Any]]) -> str | None:
    """Return why the frames of one file are not one volume: what they differ in; None when they are alike."""
    for keyword, what in _TELL_APART.items():
        if len({_rounded(frame.get(keyword)) for frame in frames}) > 1:
            return f"holds several {what} in one file; export it as one file a slice"
    return None


def _rounded(value: Any) -> object:
    """Return a value as scanners round it: a tenth of a millisecond, a hundredth of a millimetre."""
    found = numbers(value, 2) or numbers(value, 1)
    return tuple(round(n, 2 if len(found) == 2 else 1) for n in found) if found else words(value)
