"""Tables and picture of an evaluation."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
from glialite_calibration.logit_counts import count_logits, total
from glialite_distill.evaluate_scores import SCOPES, CaseScore, Evaluation
from glialite_distill.evaluate_summary import HeldOutFit, reliability_json, subset_rows, summarise
from glialite_distill.evaluate_tables import markdown, write_reliability
from glialite_runtime.measure import VolumeInterval

NAN = math.nan
SCORES = (
    CaseScore("a|b", "c1", (0.8, 0.6, NAN), (30.0, 10.0, 0.0), (33.0, 8.0, 0.0)),
    CaseScore("a|b", "c1", (0.5, NAN, NAN), (30.0, 10.0, 0.0), (33.0, NAN, NAN), ("t2f",), withheld=True),
)
FIT = HeldOutFit(("x",), (2.0, 2.0, 2.0), (0.5, 0.5, 0.5), (VolumeInterval(0.9, 19, -1, 1),) * 3)


def counts_of(labels: np.ndarray) -> dict[str, object]:
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 3, (3, *labels.shape)).astype(np.float32)
    return dict.fromkeys(SCOPES, count_logits(logits, labels, np.ones_like(labels, bool)))


def result(fits: dict[str, HeldOutFit]) -> dict[str, object]:
    counts = {"a|b": counts_of(np.random.default_rng(1).integers(0, 4, (4, 8, 8)).astype(np.uint8))}
    found = Evaluation(SCORES, counts)
    return {
        "summary": summarise(found, fits),
        "subsets": subset_rows(SCORES),
        "reliability": reliability_json(counts, fits),
        "without_probabilities": ["FLAIR > 2 SD"],
    }


def test_every_table_is_there() -> None:
    """Accuracy, volumes, coverage, calibration error before and after, subsets; dashes where nothing is known."""
    text = markdown(result({"a|b": FIT}))
    assert "| a\\|b | 0.800 (0.800 to 0.800) | 0.600 (0.600 to 0.600) | – |" in text
    assert "True volume inside the 90% interval" in text
    assert "WT before temperature | WT after temperature" in text
    assert "| a\\|b | · · · t2f | 0.500 (0.500 to 0.500) | – | – |" in text


def test_tables_without_content_are_left_out() -> None:
    """Label maps alone have no probabilities, subsets or intervals."""
    value = result({}) | {"subsets": [], "reliability": {}}
    text = markdown(value)
    assert "Volume, predicted" in text
    assert all(word not in text for word in ("Calibration error", "by sequences", "True volume inside"))


def test_the_picture_shows_every_network(tmp_path: Path) -> None:
    """Also one about which no voxel was counted."""
    counts = {"n": counts_of(np.ones((2, 4, 4), np.uint8)), "none": dict.fromkeys(SCOPES, total([]))}
    write_reliability(tmp_path / "r.png", reliability_json(counts, {}))
    assert (tmp_path / "r.png").read_bytes().startswith(b"\x89PNG")
