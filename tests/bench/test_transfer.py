"""The transfer experiment: what its arms see, and its table. The experiment itself takes minutes."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import pytest
from glialite_distill.cohort import check_splits
from glialite_distill.recipes import RECIPES

from tests.conftest import load_bench


@pytest.fixture(scope="module")
def transfer() -> ModuleType:
    return load_bench("transfer")


def cohort(folder: Path, site: str, names: tuple[str, ...]) -> Path:
    for name in names:
        (folder / site / f"BraTS-{site}-{name}").mkdir(parents=True)
    return folder / site


def test_the_arms_differ_in_what_they_see_and_in_nothing_else(transfer: ModuleType, tmp_path: Path) -> None:
    """All validate on both scans of the same patient, whom none trains on; "before" is "both"; repeats are alike."""
    ssa = ("00001-000", "00001-001", "00002-000", "00003-000")
    cohorts = {"SSA": cohort(tmp_path, "SSA", ssa), "GLI": cohort(tmp_path, "GLI", ("00001-000", "00002-000"))}
    splits = transfer.splits_of(cohorts, 1)
    held, few = [f"BraTS-SSA-{n}" for n in ssa[:2]], [f"BraTS-SSA-{n}" for n in ssa[2:]]
    many = ["BraTS-GLI-00001-000", "BraTS-GLI-00002-000"]
    assert [split["train"] for split in splits[:4]] == [few, many, few + many, few + many]
    assert all(split["val"] == held for split in splits)
    assert splits == splits[:4] * transfer.REPEATS
    assert len(check_splits(splits, held + few + many)) == 4 * transfer.REPEATS
    assert [transfer.fold_of(data, 1) for data in transfer.DATA] == [4, 5, 6, 7]


def test_every_arm_is_a_recipe_that_starts_where_it_says(transfer: ModuleType) -> None:
    """Finetuned arms start from the recipe that the other arms train, and use SSA cases alone."""
    for recipe, data in transfer.ARMS.values():
        tuned = data == "before"
        assert RECIPES[recipe].warm_start == (transfer.RECIPE if tuned else None)
        assert RECIPES[recipe].site == ("SSA" if tuned else None)


def test_the_table_has_the_means_and_their_spread(transfer: ModuleType) -> None:
    """Hand-derived: two runs of mean .5 and .7."""
    two = {"both": {"SSA": [[0.4, 0.5, 0.6], [0.6, 0.7, 0.8]], "GLI": [[0.9, 0.9, 0.9], [0.9, 0.9, 0.9]]}}
    ssa = "0.500 | 0.600 | 0.700 | **0.600** (0.500 to 0.700)"
    gli = "0.900 | 0.900 | 0.900 | **0.900** (0.900 to 0.900)"
    assert transfer.table_of(two).splitlines()[-1] == f"| both | {ssa} | {gli} |"
    one = {"both": {site: runs[:1] for site, runs in two["both"].items()}}
    assert transfer.table_of(one).splitlines()[-1].startswith("| both | 0.400 | 0.500 | 0.600 | **0.500** | 0.900")
    assert "one run an arm" in transfer.page_of(one, transfer.SIZES["full"], 1)
