"""What a series shows, by how it was acquired; its description only breaks a tie, and is quoted where it disagrees."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from glialite_runtime.dicom.headers import Protocol
from glialite_runtime.dicom.series import Series

__all__ = ["Recognition", "recognise"]

_MR_IMAGES: Final = tuple(f"1.2.840.10008.5.1.4.1.1.4{kind}" for kind in ("", ".1", ".4"))
"""Classic, enhanced, and legacy converted enhanced MR image."""

_NO_MAGNITUDE: Final = {"P", "PHASE", "PHASE MAP", "R", "REAL", "I", "IMAGINARY", "P_IR", "R_IR", "I_IR", "P_FFE",
                        "R_FFE", "I_FFE", "P_SE", "R_SE", "I_SE", "ADC", "FA", "TRACEW", "MIP", "MPR"}  # fmt: skip
_OTHER_PARTS: Final = re.compile("SPINE|NECK|CHEST|ABDOMEN|PELVIS|KNEE|HIP|SHOULDER|ANKLE|WRIST|BREAST|HEART|ORBIT")
_MIN_SLICES: Final = 10
_MIN_COVERAGE_MM: Final = 90.0  # less is a slab, not a brain
_MIN_WIDTH_MM: Final = 150.0
_WORDS: Final = {
    "t2f": re.compile(r"flair|dark.?fluid", re.IGNORECASE),
    "t1": re.compile(r"(?<![a-z0-9])t1(?!\d)|mp-?rage|bravo|spgr", re.IGNORECASE),
    "t2w": re.compile(r"(?<![a-z0-9])t2(?![\d*])", re.IGNORECASE),
}
_WITHOUT_CONTRAST: Final = re.compile(
    r"(?<![a-z])(pre|nativ|native|sans|without|unenhanced|w/?o|non?[ _-]?(gd|gad\w*|contrast|c|ce))(?![a-z])",
    re.IGNORECASE,
)
_WITH_CONTRAST: Final = re.compile(
    r"(?<![a-z])(gd|gad\w*|post|ce|cm|km|inj\w*|contrast\w*|enhanced(?! conversion)|t1c|t1ce)(?![a-z])"
    r"|\+ ?[cg]|[ _]c\+",
    re.IGNORECASE,
)
"""Words for a contrast agent; "(enhanced conversion)" is what highdicom adds to what it converted."""


@dataclass(frozen=True, slots=True)
class Recognition:
    """What one series was taken for.

    Attributes
    ----------
    series : Series
        The series.
    sequence : str or None
        One of `SEQUENCES`; None when it is none of them, or nobody can tell.
    reason : str
        In words, for the operator.
    doubtful : bool
        The headers alone do not decide, or the description contradicts them.
    """

    series: Series
    sequence: str | None
    reason: str
    doubtful: bool = False


def recognise(study: Sequence[Series]) -> tuple[Recognition, ...]:
    """Return what each series of a study shows; the order stays.

    The others are needed because a T1 without a contrast tag may have been acquired after the injection that another
    series tells of.

    Source: ranges of TR, TE and TI by which T1, T2, FLAIR, STIR and proton density differ at 0.06 to 3 T; DICOM PS3.3
    C.8.3.1 (MR Image) and C.7.6.4 (Contrast/Bolus) for the tags.
    """
    given = [s.protocol.injected or s.acquired for s in study if s.protocol.agent]
    injected = min((moment for moment in given if moment is not None), default=None)
    t1s = [s for s in study if _unfit(s) is None and _kind(s.protocol)[0] == "t1"]
    told = len(t1s) == 1 or any(s.protocol.agent or _says_contrast(s.protocol) == "t1c" for s in t1s)
    return tuple(_recognition(series, injected, told=told) for series in study)


def _recognition(series: Series, injected: datetime | None, *, told: bool) -> Recognition:
    unfit = _unfit(series)
    if unfit is not None:
        return Recognition(series, None, unfit)
    kind, reason = _kind(series.protocol)
    if kind is None:
        return Recognition(series, None, reason)
    said = _described(series.protocol.description)
    doubtful = False
    if kind == "t2w" and said == "t2f":
        kind, reason, doubtful = "t2f", f"{reason}, or FLAIR without its inversion time; its description decides", True
    elif said is not None and said != kind:
        reason, doubtful = f"{reason}; its description says otherwise: {series.protocol.description!r}", True
    if kind != "t1":
        return Recognition(series, kind, reason, doubtful)
    sequence, why, unsure = _contrast(series, injected, told=told)
    return Recognition(series, sequence, f"{reason}; {why}", doubtful or unsure)


def _described(description: str) -> str | None:
    """Return what a description names, when it names one thing: FLAIR before T1 and T2 ("T2 FLAIR", not "T1 FLAIR")."""
    found = [kind for kind, words in _WORDS.items() if words.search(description)]
    if found == ["t2f", "t2w"]:
        return "t2f"
    if found == ["t2f", "t1"]:
        return "t1"
    return found[0] if len(found) == 1 else None


def _unfit(series: Series) -> str | None:
    """Return why a series cannot be any of the sequences, whatever its contrast; None when it can."""
    how, grid = series.protocol, series.grid
    elsewhere = _OTHER_PARTS.search(how.body_part) and not re.search("BRAIN|HEAD", how.body_part)
    derived = "DERIVED" in how.image_type[:1] or _NO_MAGNITUDE & set(how.image_type[2:])
    width = min(grid.rows * grid.row_mm, grid.columns * grid.column_mm) if grid else 0.0
    kind = f"is no MR image (modality {how.modality or 'unknown'})"
    rules = (
        (how.modality != "MR" or how.sop_class_uid not in _MR_IMAGES, kind),
        (how.colour, "is a colour picture"),
        ("LOCALIZER" in how.image_type, "is a localiser"),
        (derived, f"is computed from other images ({' '.join(how.image_type)}); the original series is needed"),
        (how.diffusion or "EP" in how.scanning, "is echo-planar or diffusion-weighted"),
        (how.angiography or "TOF" in how.variant, "is a vessel image"),
        (elsewhere, f"shows another part of the body ({how.body_part})"),
        (series.problem, series.problem or ""),
        (len(series.frames) < _MIN_SLICES, f"has {len(series.frames)} slices only (a localiser or a part of a series)"),
        (
            series.coverage_mm < _MIN_COVERAGE_MM or width < _MIN_WIDTH_MM,
            f"covers {series.coverage_mm:.0f} mm across its slices and {width:.0f} mm in them, not a whole brain",
        ),
    )
    return next((reason for broken, reason in rules if broken), None)


def _kind(how: Protocol) -> tuple[str | None, str]:
    """Return "t1", "t2w" or "t2f", and why; None for another contrast or for headers that do not say enough."""
    tr, te, ti = how.tr_ms, how.te_ms, how.ti_ms
    times = ", ".join(f"{n} {v:g}" for n, v in (("TR", tr), ("TE", te), ("TI", ti)) if v is not None) + " ms"
    if not tr or not te:
        return None, "has no repetition or echo time in its header, so its contrast is unknown"
    if "GR" in how.scanning and "SE" not in how.scanning:
        return _gradient_kind(how, tr, te, times)
    if ti is None and "IR" not in how.scanning:
        return _spin_echo_kind(tr, te, times)
    return _inversion_kind(tr, te, ti, times)


def _inversion_kind(tr: float, te: float, ti: float | None, times: str) -> tuple[str | None, str]:
    if te >= 60 and tr >= 3000 and (ti is None or 1100 <= ti <= 2900):
        return "t2f", f"inversion recovery, long echo ({times}): FLAIR"
    if ti is not None and ti < 350 and tr > 2500:
        return None, f"is fat-suppressed by a short inversion time ({times}: STIR)"
    if te <= 40 and tr <= 4000 and ti is not None and 250 <= ti <= 1300:
        return "t1", f"inversion recovery, short echo ({times}): T1"
    return None, f"is an inversion recovery of another kind ({times})"


def _spin_echo_kind(tr: float, te: float, times: str) -> tuple[str | None, str]:
    if te <= 30 and tr <= 1100:
        return "t1", f"spin echo, short TR and TE ({times}): T1"
    if te >= 60 and tr >= 1800:
        return "t2w", f"spin echo, long TR and TE ({times}): T2"
    if te < 60 and tr >= 1500:
        return None, f"is proton-density-weighted ({times})"
    return None, f"has a contrast that is neither T1, T2 nor FLAIR ({times})"


def _gradient_kind(how: Protocol, tr: float, te: float, times: str) -> tuple[str | None, str]:
    if te >= 10:
        return None, f"is a gradient echo with a long echo ({times}: T2* or susceptibility)"
    if how.ti_ms is not None and not 250 <= how.ti_ms <= 1400:
        return None, f"is a gradient echo with an inversion that does not give T1 ({times})"
    if how.ti_ms is None and "SP" not in how.variant and {"SS", "TRS"} & set(how.variant):
        return None, f"is a balanced or unspoiled gradient echo ({times}), which mixes T1 and T2"
    if tr > 4000 or (how.ti_ms is None and how.flip_deg is not None and how.flip_deg < 8):
        return None, f"is a gradient echo weighted to proton density ({times})"
    return "t1", f"gradient echo, short echo ({times}): T1"


def _says_contrast(how: Protocol) -> str | None:
    """Return `t1n` or `t1c` where a description says with or without contrast ("T1 pre Gd" is without)."""
    if _WITHOUT_CONTRAST.search(how.description):
        return "t1n"
    return "t1c" if _WITH_CONTRAST.search(how.description) else None


def _contrast(series: Series, injected: datetime | None, *, told: bool) -> tuple[str | None, str, bool]:
    """Return whether a T1 is `t1c`, `t1n` or unknown (None), why, and whether that is doubtful.

    `injected` is when the study's first contrast was given; `told` is whether any T1 is marked, or there is only one.
    """
    how, when, says = series.protocol, series.acquired, _says_contrast(series.protocol)
    quoted = f"; its description says otherwise: {how.description!r}"
    if how.agent and how.injected and when and when < how.injected:
        why = f"acquired at {when:%H:%M}, before its contrast agent was given at {how.injected:%H:%M}"
        return "t1n", why + quoted * (says == "t1c"), says == "t1c"
    if how.agent:
        return "t1c", f"contrast agent {how.agent!r} in the header" + quoted * (says == "t1n"), says == "t1n"
    if injected is not None and when is not None:
        return _by_time(how, when, injected)
    if says is not None:
        return says, f"no contrast agent in its header; its description decides: {how.description!r}", True
    why = "no contrast agent in its header"
    if not told:
        return None, f"{why}, nor anything else that tells it from another T1; say which is which with t1n= t1c=", True
    return "t1n", why, injected is not None


def _by_time(how: Protocol, when: datetime, injected: datetime) -> tuple[str | None, str, bool]:
    says = _says_contrast(how)
    quoted = f"; its description says otherwise: {how.description!r}"
    if when < injected:
        why = f"no contrast agent, acquired at {when:%H:%M} before contrast was given at {injected:%H:%M}"
        return "t1n", why + quoted * (says == "t1c"), says == "t1c"
    why = f"acquired at {when:%H:%M}, after contrast was given at {injected:%H:%M}, but no agent in its header"
    return (None if says == "t1n" else "t1c"), why + quoted * (says == "t1n"), True
