"""The challenges' constants, as published."""

from __future__ import annotations

import pytest
from glialite_distill.lesion_definitions import DEFINITIONS, definition_of
from glialite_runtime.errors import ConfigError


@pytest.mark.parametrize(
    ("metric", "challenge", "dilation", "ignored", "penalty_mm"),
    [
        ("brats-2023", "ssa", 3, (50, 50, 50), 374),
        ("brats-2023", "gli", 3, (50, 50, 50), 374),
        ("brats-2023", "ped", 3, (50, 50, 50), 374),
        ("brats-2023", "met", 1, (2, 2, 2), 374),
        ("brats-2024", "ssa", 3, (50, 50, 50), 374),
        ("brats-2024", "gli", 3, (10, 20, 20), 337),
        ("brats-2024", "ped", 5, (10, 10, 10), 374),
        ("brats-2024", "met", 1, (2, 2, 2), None),
    ],
)
def test_constants(
    metric: str, challenge: str, dilation: int, ignored: tuple[int, ...], penalty_mm: float | None
) -> None:
    """Dilation, sizes that do not count for ET, TC and WT, and the penalty of every challenge."""
    found = definition_of(metric, challenge)
    assert (found.dilation, found.penalty_mm) == (dilation, penalty_mm)
    assert tuple(found.ignored[region] for region in ("ET", "TC", "WT")) == ignored
    assert found.joins_prediction == (metric == "brats-2024")


def test_only_2024_joins_et_through_its_core() -> None:
    """Where the challenge does so, with the core's own dilation."""
    assert {c: d.netc_dilation for c, d in DEFINITIONS["brats-2024"].items()} == {
        "ssa": 3, "gli": 5, "ped": None, "met": 1,
    }  # fmt: skip
    assert {d.netc_dilation for d in DEFINITIONS["brats-2023"].values()} == {None}


@pytest.mark.parametrize(("metric", "challenge"), [("brats-2025", "ssa"), ("brats-2023", "men")])
def test_unknown_names_are_refused(metric: str, challenge: str) -> None:
    """The message lists what is known."""
    with pytest.raises(ConfigError, match="known: "):
        definition_of(metric, challenge)
