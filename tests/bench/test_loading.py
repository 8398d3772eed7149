"""The measurement of loading times: what it takes for a patch, and that every way reads the same case."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from glialite_distill import recipes
from glialite_distill.prepare import Request, prepare

from tests.conftest import load_bench
from tests.distill.conftest import TINY, write_cohort


@pytest.fixture(scope="module")
def loading() -> ModuleType:
    return load_bench("loading")


def test_the_patch_lies_in_the_middle(loading: ModuleType) -> None:
    """Of 10 voxels and a patch of 4 the third to sixth; an axis shorter than the patch is read whole."""
    image = np.zeros((4, 10, 5, 3))
    at = loading.patch_of(image.shape, (4, 4, 4))
    assert [(s.start, s.stop) for s in at[1:]] == [(3, 7), (0, 4), (0, 4)]
    assert image[at].shape == (4, 4, 4, 3)


def test_every_format_holds_the_same_case(loading: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NumPy's files and nnU-Net's give equal arrays, and both what preparing the scans anew gives."""
    monkeypatch.setattr(recipes, "PLANS", {**recipes.PLANS, "tiny": TINY})
    workspace = prepare(Request((write_cohort(tmp_path / "c", 2),), tmp_path / "w", plan="tiny", folds=2))
    case = workspace.cases[0]
    runs, _ = loading.scans(workspace, case)
    more, _ = loading.prepared(workspace, case, tmp_path)
    plain, compressed = more[".npy, whole case"](), more["nnU-Net's .b2nd, whole case"]()
    patches = more[".npy, a patch"](), more["nnU-Net's .b2nd, a patch"]()
    for one, other in ((plain, compressed), patches):
        assert all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))
    (anew, _), _ = runs["the same, our reader, then crop and z-score"]()
    np.testing.assert_allclose(plain[0], anew, atol=2e-5)
