"""Small trainings: three cases with a bright tumour, a student of a few thousand weights, one finished training."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from glialite_distill import student as students
from glialite_distill import train as training
from glialite_distill import train_options, train_state
from glialite_distill.student import StudentSpec
from glialite_distill.train import RunSettings, TrainOptions, train

SHAPE = (20, 24, 18)


@dataclass(frozen=True)
class Split:
    train: tuple[str, ...]
    validation: tuple[str, ...]


def ball(number: int) -> npt.NDArray[np.uint8]:
    """Return labels: a ball of oedema with an enhancing middle, at a place that depends on the number."""
    centre = np.array([9, 8 + 2 * number, 9])
    distance = np.linalg.norm(np.moveaxis(np.indices(SHAPE), 0, -1) - centre, axis=-1)
    return np.where(distance < 2.5, 3, np.where(distance < 5, 2, 0)).astype(np.uint8)


@dataclass
class Data:
    """Three small cases in which the tumour is bright; `loads` counts."""

    cases: tuple[str, ...] = ("c0", "c1", "c2")
    held_out: tuple[str, ...] = ("c9",)
    cohort_hash: str = "cohort" * 4
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0)
    splits: tuple[Split, ...] = (Split(("c1", "c2"), ("c0",)),)
    loads: int = 0

    def load(self, case: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        self.loads += 1
        labels = ball(int(case[1:]))
        image = np.random.default_rng(int(case[1:])).normal(0, 0.3, (4, *SHAPE)).astype(np.float32)
        image[3] += 3 * (labels > 0)
        image[1] += 4 * (labels == 3)
        return image, labels


@dataclass
class Soft:
    """Soft labels of some cases: the truth, or what a test says."""

    cases: tuple[str, ...] = ("c1",)
    key: str = "soft" * 4
    members: tuple[str, ...] = ("baseline",)
    value: Callable[[npt.NDArray[np.uint8]], npt.NDArray[np.bool_]] = field(default=lambda labels: labels > 0)

    def load(self, case: str) -> npt.NDArray[np.float32]:
        return np.stack([self.value(ball(int(case[1:])))] * 3).astype(np.float32)

    def disagreement(self, case: str) -> npt.NDArray[np.float32]:
        return np.zeros((3, *SHAPE), np.float32)


@pytest.fixture(scope="package", autouse=True)
def _one_thread() -> Iterator[None]:
    """Nets this small lose more to two waiting threads than they win."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="package", autouse=True)
def _tiny_student() -> Iterator[None]:
    """Add a student of a few thousand weights."""
    known = {**students.STUDENTS, "tiny": StudentSpec("tiny", (8, 16), 1)}
    with pytest.MonkeyPatch.context() as patch:
        for module in (train_options, train_state, training):
            patch.setattr(module, "STUDENTS", known)
        yield


OPTIONS = TrainOptions(iterations=8, patch=(16, 16, 16), validations=3)


def options(**changes: object) -> TrainOptions:
    return replace(OPTIONS, **{"student": "tiny", **changes})


def settings(folder: Path, **changes: object) -> RunSettings:
    return replace(RunSettings(folder / "run", folder / "cache"), **changes)


@pytest.fixture(scope="package")
def whole(_tiny_student: None, _one_thread: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a training that ran through."""
    folder = tmp_path_factory.mktemp("whole")
    train(Data(), Soft(), options(), settings(folder))
    return folder / "run"
