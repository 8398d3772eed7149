"""Results on disk: they come back as they were, and never for other inputs."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from glialite_calibration.logit_counts import count_logits
from glialite_distill.evaluate_scores import CaseResult, CaseScore
from glialite_distill.evaluate_store import StoredResults, case_identity, result_keys
from glialite_runtime.cases import Case, find_case

CASE = Case("c", {s: Path(s) for s in ("t1c", "t2w", "t2f")})
WHOLE = CaseScore("a", "c", (0.5, math.nan, 1.0), (3.0, 2.0, 1.0), (2.0, 1.0, 0.0), ("t1c", "t2w", "t2f"))
LESS = replace(WHOLE, dice=(0.25, math.nan, math.nan), predicted_ml=(1.0, math.nan, math.nan), withheld=True)
SCORES = (WHOLE, replace(LESS, sequences=("t2f",)), replace(LESS, sequences=("t1c", "t2f")))
SUBSETS = (("t2f",), ("t1c", "t2f"), ("t1n", "t1c"))


def result() -> CaseResult:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 4, (4, 5, 6)).astype(np.uint8)
    logits = rng.normal(0, 9, (3, 4, 5, 6)).astype(np.float32)
    return CaseResult(SCORES, {"brain": count_logits(logits, labels, np.ones_like(labels, bool))})


@pytest.fixture
def store(tmp_path: Path) -> StoredResults:
    """Return a store with the result of source a."""
    found = StoredResults(tmp_path / "kept", {("a", "c"): "k" * 64, ("b", "c"): "k" * 64, ("n", "c"): "x" * 64})
    found.save("a", CASE, result())
    return found


def test_a_result_comes_back(store: StoredResults) -> None:
    """Scores with their NaN, and every count; only subsets that the case has are asked for."""
    found = store.load("a", CASE, SUBSETS)
    assert found is not None
    assert repr(found.scores) == repr(SCORES)
    wanted = result().counts["brain"]
    assert list(found.counts) == ["brain"]
    for part in ("voxels", "positives", "sums"):
        np.testing.assert_array_equal(getattr(found.counts["brain"], part), getattr(wanted, part))


def test_the_same_model_under_another_name_is_known(store: StoredResults) -> None:
    """What decides is the key; the name in the table is the new one."""
    found = store.load("b", CASE, ())
    assert found is not None
    assert [score.source for score in found.scores] == ["b"]
    assert store.load("n", CASE, ()) is None


def test_fewer_subsets_are_read_and_more_are_not_known(store: StoredResults) -> None:
    """The scores that are not asked for stay out; one that is missing makes the case new."""
    found = store.load("a", CASE, SUBSETS[:1])
    assert found is not None
    assert repr(found.scores) == repr(SCORES[:2])
    assert store.load("a", CASE, (("t2w",),)) is None


def test_a_result_without_probabilities_comes_back(store: StoredResults) -> None:
    """No counts are no counts."""
    store.save("n", CASE, CaseResult(SCORES[:1], {}))
    found = store.load("n", CASE, ())
    assert found is not None
    assert not found.counts


@pytest.mark.parametrize("damage", [lambda b: b"", lambda b: b[: len(b) // 2], lambda b: b"PK" + b[2:99]])
def test_a_damaged_file_counts_as_none(store: StoredResults, damage) -> None:
    """It is computed again instead of ending in an error."""
    (path,) = store.folder.iterdir()
    path.write_bytes(damage(path.read_bytes()))
    assert store.load("a", CASE, ()) is None


def test_keys_follow_every_input(case_folder: Path) -> None:
    """Images, truth, its convention and the source each change the key; the time of a file does not."""
    case = find_case(case_folder)

    def key(value: str = "v", convention: str = "brats2023") -> str:
        return result_keys([case], {"s": lambda case: value}, convention)["s", case.name]

    seen = {key(), key("other"), key(convention="ssa-paper")}
    assert len(seen) == 3
    assert case.label is not None
    for path in (case.paths["t2f"], case.label):
        content = path.read_bytes()
        path.write_bytes(content + b"\0")
        assert key() not in seen
        path.write_bytes(content)
        assert key() in seen
    assert "P01" in case_identity(case)["name"]
