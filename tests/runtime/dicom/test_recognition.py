"""Sequences by how they were acquired: published protocols of several vendors and field strengths, and what is none."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from glialite_runtime.dicom.headers import Grid, Identity, Plane, Protocol
from glialite_runtime.dicom.recognition import Recognition, recognise
from glialite_runtime.dicom.series import Frame, Series

WHO = Identity("P", "", "", "", "", "1.2", None)
MR = Protocol(
    modality="MR", sop_class_uid="1.2.840.10008.5.1.4.1.1.4", description="", body_part="", agent="", injected=None,
    image_type=("ORIGINAL", "PRIMARY", "M"), scanning=("SE",), variant=("SK",), tr_ms=500.0, te_ms=10.0, ti_ms=None,
    flip_deg=90.0, thickness_mm=5.0, diffusion=False, angiography=False, colour=False,
)  # fmt: skip


def series(slices: int = 30, spacing_mm: float = 5.0, at: str | None = "10:00", **protocol: object) -> Series:
    plane = Plane((0.0, 0.0, 0.0), (1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
    frames = tuple(Frame(Path(f"{n}"), f"1.{n}", 1, plane) for n in range(slices))
    how = replace(MR, **protocol)  # type: ignore[arg-type]
    acquired = datetime.fromisoformat(f"2026-03-01 {at}") if at else None
    return Series("1", "1", "1.3", WHO, how, acquired, Grid(256, 256, 0.9, 0.9), frames, spacing_mm, None)


def one(*study: Series) -> Recognition:
    return recognise(study)[0]


def sequences(study: Sequence[Series]) -> list[str | None]:
    return [found.sequence for found in recognise(study)]


@pytest.mark.parametrize(
    ("sequence", "tr", "te", "ti", "scanning", "variant", "flip"),
    [
        ("t1n", 500, 12, None, "SE", "SK", 90),  # spin echo, 0.3 to 1.5 T
        ("t1n", 2300, 2.98, 900, "GR IR", "SK SP MP", 9),  # MPRAGE
        ("t1n", 8.2, 3.2, 450, "GR", "SS SP SK", 12),  # BRAVO
        ("t1n", 8.1, 3.7, None, "GR", "MP", 8),  # TFE
        ("t1n", 250, 2.5, None, "GR", "SP OSP", 70),  # 2-D FLASH
        ("t1n", 2500, 12, 860, "SE IR", "SK", 90),  # T1 FLAIR
        ("t1n", 1500, 6.3, 300, "SE IR", "NONE", 90),  # 64 mT
        ("t1n", 700, 11, None, "SE", "SK SP", 120),  # SPACE
        ("t2w", 4000, 100, None, "SE", "SK", 150),
        ("t2w", 2500, 380, None, "SE", "SK", 120),  # 3-D
        ("t2w", 2000, 209, None, "SE", "NONE", 90),  # 64 mT
        ("t2w", 5000, 102, None, "RM", "SK", 142),  # PROPELLER
        ("t2f", 9000, 120, 2500, "SE IR", "SK", 150),
        ("t2f", 5000, 395, 1800, "SE IR", "SK SP MP", 120),  # 3-D at 3 T
        ("t2f", 4800, 386.8, 1650, "IR", "SK", 90),
        ("t2f", 4000, 167, 1400, "SE IR", "NONE", 90),  # 64 mT
        ("t2f", 8000, 110, None, "IR", "SK", 90),  # TI not stored
    ],
)
def test_protocols(
    sequence: str, tr: float, te: float, ti: float | None, scanning: str, variant: str, flip: float
) -> None:
    """TR, TE, TI and kind of echo decide without any description."""
    how = {"scanning": tuple(scanning.split()), "variant": tuple(variant.split()), "flip_deg": flip}
    found = one(series(tr_ms=tr, te_ms=te, ti_ms=ti, **how))
    assert (found.sequence, found.doubtful) == (sequence, False), found.reason
    assert f"TR {tr:g}" in found.reason


@pytest.mark.parametrize(
    ("words", "protocol"),
    [
        ("no MR image", {"modality": "CT"}),
        ("no MR image", {"sop_class_uid": "1.2.840.10008.5.1.4.1.1.7", "modality": "OT"}),
        ("colour", {"colour": True}),
        ("localiser", {"image_type": ("ORIGINAL", "PRIMARY", "LOCALIZER")}),
        ("computed", {"image_type": ("DERIVED", "SECONDARY", "MPR")}),
        ("computed", {"image_type": ("ORIGINAL", "PRIMARY", "P", "ND")}),
        ("echo-planar", {"scanning": ("EP", "SE"), "tr_ms": 4000.0, "te_ms": 90.0}),
        ("diffusion", {"diffusion": True, "tr_ms": 4000.0, "te_ms": 90.0}),
        ("vessel", {"angiography": True, "scanning": ("GR",)}),
        ("another part", {"body_part": "CSPINE"}),
        ("T2\\*", {"scanning": ("GR",), "tr_ms": 600.0, "te_ms": 20.0}),
        ("balanced", {"scanning": ("GR",), "variant": ("SS", "SK"), "tr_ms": 5.0, "te_ms": 2.0}),
        ("proton density", {"scanning": ("GR",), "tr_ms": 30.0, "te_ms": 5.0, "flip_deg": 3.0}),
        ("proton-density", {"tr_ms": 4000.0, "te_ms": 20.0}),
        ("STIR", {"tr_ms": 4000.0, "te_ms": 60.0, "ti_ms": 150.0, "scanning": ("SE", "IR")}),
        ("another kind", {"tr_ms": 7500.0, "te_ms": 317.0, "ti_ms": 3000.0, "scanning": ("SE", "IR")}),
        ("neither", {"tr_ms": 1400.0, "te_ms": 45.0}),
        ("no repetition or echo time", {"tr_ms": None}),
    ],
)
def test_what_is_none_of_the_four(words: str, protocol: dict[str, object]) -> None:
    """Each is left out for its own reason, whatever its description claims."""
    found = one(series(description="t1 mprage", **protocol))
    assert found.sequence is None
    assert re.search(words, found.reason), found.reason


@pytest.mark.parametrize(
    ("words", "shape"), [("9 slices only", {"slices": 9}), ("covers 60 mm", {"slices": 20, "spacing_mm": 3.0})]
)
def test_a_part_of_a_brain_is_left_out(words: str, shape: dict[str, float]) -> None:
    """A localiser that does not say so, a slab."""
    found = one(series(**shape))  # type: ignore[arg-type]
    assert found.sequence is None
    assert words in found.reason


def test_a_series_with_a_problem_is_left_out_for_it() -> None:
    """A missing slice is the reason given."""
    assert one(replace(series(), problem="lacks 1 of its slices")).reason == "lacks 1 of its slices"


def test_the_agent_makes_it_t1c() -> None:
    """A contrast agent in the header, not a word in the description."""
    found = one(series(agent="Dotarem", at="10:30"))
    assert (found.sequence, found.doubtful) == ("t1c", False)
    assert "'Dotarem'" in found.reason


def test_before_and_after_the_injection() -> None:
    """An unmarked T1 before the marked one is without contrast; one after it is with contrast, and doubtful."""
    found = recognise([series(at="10:00"), series(at="10:30", agent="Gd"), series(at="10:40")])
    assert [(f.sequence, f.doubtful) for f in found] == [("t1n", False), ("t1c", False), ("t1c", True)]
    assert "before contrast was given at 10:30" in found[0].reason


def test_an_agent_entered_too_early() -> None:
    """A tag that stands in every series, but with the time of injection: what came before is without contrast."""
    injected = datetime(2026, 3, 1, 10, 20)
    study = [series(at=at, agent="Gd", injected=injected) for at in ("10:00", "10:30")]
    assert sequences(study) == ["t1n", "t1c"]


def test_a_contrast_perfusion_tells_the_time_of_injection() -> None:
    """A dynamic series with the agent's name: the unmarked T1 after it is with contrast, and doubtful."""
    perfusion = series(at="10:20", agent="Gd", scanning=("EP",))
    found = recognise([series(at="10:00"), perfusion, series(at="10:30")])
    assert [(f.sequence, f.doubtful) for f in found] == [("t1n", False), (None, False), ("t1c", True)]


@pytest.mark.parametrize(
    ("description", "sequence"),
    [
        ("AX T1 +C", "t1c"),
        ("t1_se_tra_gd", "t1c"),
        ("T1 POST", "t1c"),
        ("T1 KM", "t1c"),
        ("sT1W_3D_CE", "t1c"),
        ("t1 pre gd", "t1n"),
        ("T1 without contrast", "t1n"),
        ("T1_no_contrast", "t1n"),
    ],
)
def test_a_description_breaks_the_tie(description: str, sequence: str) -> None:
    """Two T1 without any tag: what the description says is taken, marked as doubtful, and quoted."""
    found = one(series(description=description), series(at="10:30"))
    assert (found.sequence, found.doubtful) == (sequence, True)
    assert repr(description) in found.reason


def test_two_t1_that_nothing_tells_apart() -> None:
    """Neither tag nor word: both are withheld; the order of acquisition alone is no proof."""
    found = recognise([series(at="10:00"), series(at="10:30")])
    assert [f.sequence for f in found] == [None, None]
    assert "say which is which" in found[0].reason


@pytest.mark.parametrize(
    ("sequence", "protocol"),
    [
        ("t2w", {"tr_ms": 4000.0, "te_ms": 100.0, "description": "T1 SE"}),
        ("t2f", {"tr_ms": 9000.0, "te_ms": 120.0, "ti_ms": 2500.0, "scanning": ("IR",), "description": "T1"}),
        ("t1c", {"agent": "Gd", "description": "T1 native"}),
        ("t1n", {"description": "T2 TSE"}),
    ],
)
def test_a_description_that_disagrees_is_said(sequence: str, protocol: dict[str, object]) -> None:
    """The parameters win; the contradiction is quoted and makes the choice doubtful."""
    found = one(series(**protocol))
    assert (found.sequence, found.doubtful) == (sequence, True)
    assert f"its description says otherwise: {protocol['description']!r}" in found.reason


def test_flair_without_inversion_time() -> None:
    """No inversion in the header at all: the description decides between T2 and FLAIR, and that is doubtful."""
    found = one(series(tr_ms=8000.0, te_ms=110.0, description="AX T2 FLAIR"))
    assert (found.sequence, found.doubtful) == ("t2f", True)


@pytest.mark.parametrize("description", ["T1 FLAIR", "T2 FLAIR", "t2_tirm_dark-fluid", "t1_mprage", "Ax T2", ""])
def test_usual_names_raise_no_doubt(description: str) -> None:
    """Names that fit the parameters."""
    kinds = {
        "T1 FLAIR": {"tr_ms": 2500.0, "te_ms": 12.0, "ti_ms": 860.0},
        "T2 FLAIR": {"tr_ms": 9000.0, "te_ms": 120.0, "ti_ms": 2500.0},
        "t2_tirm_dark-fluid": {"tr_ms": 9000.0, "te_ms": 120.0, "ti_ms": 2500.0},
        "Ax T2": {"tr_ms": 4000.0, "te_ms": 100.0},
    }
    assert not one(series(description=description, **kinds.get(description, {}))).doubtful
