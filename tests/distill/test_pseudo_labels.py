"""Pseudo-labels: confidence by hand, kept where it passes, resumable, never of the workspace's own patients."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np
import pytest
import torch
from glialite_distill.members import find_members
from glialite_distill.pseudo_labels import PseudoLabels, confidence, make_pseudo_labels
from glialite_distill.soft_labels import average_and_disagreement
from glialite_distill.windows import Window
from glialite_distill.workspace import Workspace
from glialite_runtime.errors import BatchError, ConfigError, InputError

from tests.distill.conftest import write_cohort

T = TypeVar("T")
NAMES = ("BraTS-SSA-00051-000", "BraTS-SSA-00052-000")


@pytest.fixture(scope="module")
def scans(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return two scans of patients that the workspace does not know."""
    return write_cohort(tmp_path_factory.mktemp("scans"), 2, first=51)


@pytest.fixture
def workspace(trained: Workspace, tmp_path: Path) -> Workspace:
    """Return a copy of the trained workspace that a test may change."""
    shutil.copytree(trained.root, tmp_path / "w", symlinks=True)
    return Workspace.open(tmp_path / "w")


def make(workspace: Workspace, scans: Path, **options: object) -> PseudoLabels:
    members = find_members(workspace, ("baseline",))
    return make_pseudo_labels(workspace, members, scans, Window(workspace.patch_size), "cpu", **options)


def regions(values: list[float]) -> np.ndarray:
    return np.array([values] * 3, np.float32)[:, None, None]


def test_confidence_by_hand() -> None:
    """Two voxels outlined at .9 and .6, one at .3 not: 2 · 1.5 / (1.8 + 2); doubts of .1 take .2 off the 1.5."""
    probabilities = regions([0.9, 0.6, 0.3])
    assert confidence(probabilities, 0 * probabilities) == pytest.approx(2 * 1.5 / 3.8)
    assert confidence(probabilities, regions([0.1, 0.1, 0.5])) == pytest.approx(2 * 1.3 / 3.8)


def test_certainty_has_the_confidence_1_and_nothing_found_has_0() -> None:
    """A scan without any outline is not evidence of a brain without a tumour."""
    assert confidence(regions([1.0, 0.0]), regions([0.0, 0.0])) == 1
    assert confidence(regions([0.4, 0.0]), regions([0.0, 0.0])) == 0


def test_regions_that_are_not_outlined_do_not_count() -> None:
    """Certain of the whole tumour and without a core: 1."""
    probabilities = np.zeros((3, 1, 1, 2), np.float32)
    probabilities[0, ..., 0] = 1
    assert confidence(probabilities, 0 * probabilities) == 1


def test_the_threshold_decides_what_counts_as_labelled(workspace: Workspace, scans: Path) -> None:
    """All at 0, none just above the best; images are there either way, and the key follows what is kept."""
    make(workspace, scans)
    everything = PseudoLabels.open(workspace, 0.0)
    assert everything.cases == everything.soft.cases == NAMES
    nothing = PseudoLabels.open(workspace, 1.0)
    assert (nothing.cases, nothing.soft.cases) == (NAMES, ())
    assert nothing.key != everything.key
    image, outlines = nothing.load(NAMES[0])
    assert image.shape[1:] == outlines.shape == everything.soft.load(NAMES[0]).shape[1:]
    assert not outlines.any()
    wanted = everything.soft.load(NAMES[0])[0] > 0.5
    assert (everything.load(NAMES[0])[1][wanted] > 0).all()


def test_images_are_prepared_and_labelled_as_training_cases_are(workspace: Workspace, scans: Path) -> None:
    """z-scored at the workspace's voxel size; the confidence is that of what the teachers say."""
    found = make(workspace, scans)
    image, _ = found.load(NAMES[1])
    brain = image[0] != 0
    assert image[:, brain].mean() == pytest.approx(0, abs=0.01)
    assert image[:, brain].std() == pytest.approx(1, abs=0.01)
    from glialite_distill.ensemble import teachers_of
    from glialite_distill.member_weights import equal_weights

    members = find_members(workspace, ("baseline",))
    teachers = teachers_of(workspace, members, equal_weights(("baseline",)), torch.device("cpu"))
    said = average_and_disagreement(teachers(), image, Window(workspace.patch_size), torch.device("cpu"))
    assert found.confidences[NAMES[1]] == pytest.approx(confidence(*said), abs=0.01)


def test_an_interrupted_labelling_does_not_open_and_continues(workspace: Workspace, scans: Path) -> None:
    """Killed after the first scan: what is done stays."""

    def one(items: Iterable[T], *, label: str, length: int | None = None) -> Iterator[T]:
        for number, item in enumerate(items):
            if number == 1:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        make(workspace, scans, progress=one)
    with pytest.raises(ConfigError, match="1 of 2 scans"):
        PseudoLabels.open(workspace)
    before = {p: p.stat().st_mtime_ns for p in (workspace.root / "unlabelled").iterdir()}
    assert make(workspace, scans).cases == NAMES
    assert {p: p.stat().st_mtime_ns for p in before} == before


def test_other_scans_are_not_mixed_in(workspace: Workspace, scans: Path, tmp_path: Path) -> None:
    """Nor other teachers; the message says what to do."""
    make(workspace, scans)
    with pytest.raises(ConfigError, match="delete it"):
        make(workspace, write_cohort(tmp_path / "others", 1, first=60))
    members = find_members(workspace, ("mednext-b",))
    with pytest.raises(ConfigError, match="delete it"):
        make_pseudo_labels(workspace, members, scans, Window(workspace.patch_size), "cpu")


def test_the_workspaces_own_patients_are_refused(workspace: Workspace, cohort: Path) -> None:
    """Their labels are known, and held-out ones must not be seen."""
    with pytest.raises(ConfigError, match=r"BraTS-SSA-00001-000.*patients of the workspace"):
        make(workspace, cohort)


def test_a_scan_that_cannot_be_used_is_named_and_left_out(workspace: Workspace, tmp_path: Path) -> None:
    """Three sequences are too few; the other scan is done all the same, and stays usable."""
    folder = write_cohort(tmp_path / "scans", 2, first=51)
    next((folder / NAMES[0]).glob("*t1c*")).unlink()
    with pytest.raises(BatchError, match=f"1 of 2 scans cannot be used(.|\n)*{NAMES[0]}.*t1c"):
        make(workspace, folder)
    assert PseudoLabels.open(workspace, 0.0).cases == NAMES[1:]


def test_damaged_files_and_foolish_thresholds_are_refused(workspace: Workspace, scans: Path) -> None:
    """Never a wrong array."""
    found = make(workspace, scans)
    with pytest.raises(ConfigError, match="not in 0 to 1"):
        PseudoLabels.open(workspace, 80)
    path = found.folder / f"{NAMES[0]}-image.npy"
    path.write_bytes(path.read_bytes()[:99])
    with pytest.raises(InputError, match="damaged"):
        found.load(NAMES[0])


def test_without_scans_the_message_says_what_to_run(trained: Workspace) -> None:
    """`distill train --unlabelled` before `distill pseudo-labels`."""
    with pytest.raises(ConfigError, match="run distill pseudo-labels"):
        PseudoLabels.open(trained)


def test_records_say_what_was_found(workspace: Workspace, scans: Path) -> None:
    """Confidence between 0 and 1, and no problem."""
    found = make(workspace, scans)
    for name in NAMES:
        record = json.loads((found.folder / f"{name}-record.json").read_text())
        assert record["problem"] is None
        assert 0 <= record["confidence"] <= 1
