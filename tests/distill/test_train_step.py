"""One iteration: what scans without labels add, who is trained, and in which precision."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from glialite_distill import student as students
from glialite_distill import train_options, train_state
from glialite_distill.augment import Augmentation
from glialite_distill.guidance import Guidance
from glialite_distill.history import LOSSES
from glialite_distill.patches import Batch
from glialite_distill.student import Student, StudentSpec
from glialite_distill.train_options import TrainOptions
from glialite_distill.train_state import TrainState, start_or_resume
from glialite_distill.train_step import StepInput, seen_patches, train_step

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def _tiny_student() -> Iterator[None]:
    """Add a student of a few thousand weights."""
    known = {**students.STUDENTS, "tiny": StudentSpec("tiny", (8, 16), 1)}
    with pytest.MonkeyPatch.context() as patch:
        for module in (train_options, train_state):
            patch.setattr(module, "STUDENTS", known)
        yield


def options(**changes: object) -> TrainOptions:
    return replace(TrainOptions(iterations=4, patch=(16, 16, 16)), **{"student": "tiny", **changes})


def fresh(chosen: TrainOptions) -> TrainState:
    return start_or_resume(chosen, Path("nowhere"), CPU, {}, None, Guidance())


def batch_of(seed: int, sure: bool = True) -> Batch:
    """Return two patches of noise with a tumour in one corner."""
    random = torch.Generator().manual_seed(seed)
    labels = torch.zeros(2, 20, 20, 20, dtype=torch.uint8)
    labels[:, :8, :8, :8] = 3
    soft = (labels > 0)[:, None].expand(2, 3, 20, 20, 20).float() * 0.8
    image = torch.randn(2, 4, 20, 20, 20, generator=random)
    return Batch(image, labels, soft, torch.zeros_like(soft), torch.full((2,), sure))


def added(chosen: TrainOptions, unlabelled: Batch | None) -> float:
    """Return the loss that scans without labels add in the first iteration."""
    state = fresh(chosen)
    train_step(state, StepInput(batch_of(0), unlabelled), chosen)
    return state.sums[LOSSES.index("unlabelled")]


def test_scans_add_what_teachers_and_the_averaged_student_say() -> None:
    """Each of the two parts alone adds something, both add up, and neither is nothing."""
    teachers = added(options(consistency=0.0), batch_of(1))
    average = added(options(), batch_of(1, sure=False))
    assert teachers > 0 < average
    assert added(options(), batch_of(1)) == pytest.approx(teachers + average, rel=1e-5)
    assert added(options(consistency=0.0), batch_of(1, sure=False)) == added(options(), None) == 0


def test_the_labels_of_scans_are_not_used() -> None:
    """Other labels, the same step: they only say where patches lie."""
    other = replace(batch_of(1), labels=torch.zeros(2, 20, 20, 20, dtype=torch.uint8))
    assert added(options(), batch_of(1)) == added(options(), other)


def test_the_averaged_student_gets_no_gradient() -> None:
    """It moves with the student alone."""
    state, chosen = fresh(options()), options()
    train_step(state, StepInput(batch_of(0), batch_of(1)), chosen)
    assert all(p.grad is None for p in state.average.parameters())
    assert all(p.grad is not None for p in state.network.parameters())


def test_what_is_dropped_is_dropped_from_the_student_alone() -> None:
    """The whole patch, which an assistant sees, keeps its four sequences; the rest is the same."""
    chosen = options(augmentation=Augmentation(dropout=1.0))
    whole, seen = seen_patches(batch_of(0), chosen, 3)
    kept = seen.image.flatten(2).any(2)
    assert whole.image.flatten(2).any(2).all()
    assert not kept.all(1).any()
    assert torch.equal(seen.image[kept], whole.image[kept])


def seen_by(network: Student) -> list[torch.Tensor]:
    """Return a list that gets every image that the network is shown."""
    images: list[torch.Tensor] = []
    network.register_forward_pre_hook(lambda _, given: images.append(given[0]))
    return images


def test_the_averaged_student_sees_another_view_with_all_sequences() -> None:
    """The same place, other intensities; the student's view lacks sequences, the other one none."""
    chosen = options(augmentation=replace(Augmentation(), intensity=1.0, dropout=1.0))
    state = fresh(chosen)
    student, average = seen_by(state.network), seen_by(state.average)
    train_step(state, StepInput(batch_of(0), batch_of(1)), chosen)
    kept = student[1].flatten(2).any(2)
    assert not kept.all(1).any()
    assert average[0].flatten(2).any(2).all()
    assert torch.equal((student[1] != 0)[kept], (average[0] != 0)[kept])
    assert not torch.isclose(student[1][kept], average[0][kept]).all()


def test_the_assistant_sees_what_is_dropped() -> None:
    """The student's own patch, bit for bit, with the sequences that the student lacks."""
    chosen = options(augmentation=Augmentation(dropout=1.0))
    state, assistant = fresh(chosen), fresh(chosen).network.eval()
    student, other = seen_by(state.network), seen_by(assistant)
    train_step(state, StepInput(batch_of(0), None, assistant), chosen)
    kept = student[0].flatten(2).any(2)
    assert not kept.all()
    assert other[0].flatten(2).any(2).all()
    assert torch.equal(student[0][kept], other[0][kept])


def test_a_processor_without_bfloat16_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing asks for autocast, and the gradient scaler does nothing."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", dict)
    monkeypatch.setattr(torch, "autocast", lambda *_: pytest.fail("mixed precision where it is slow"))
    state = fresh(options())
    train_step(state, StepInput(batch_of(0), batch_of(1)), options())
    assert not state.scaler.is_enabled()


def test_late_iterations_train_the_network_as_it_is_used() -> None:
    """From `fixed_from` on no batch changes a BatchNorm statistic; weights go on changing."""
    chosen = options(fixed_norm=0.5)
    state = fresh(chosen)
    assert chosen.fixed_from == 2
    seen = []
    for number in range(4):
        train_step(state, StepInput(batch_of(number)), chosen)
        norm, head = state.network.stem[1], state.network.head.weight
        seen.append((norm.running_mean.clone(), head.detach().clone()))
    assert not torch.equal(seen[0][0], seen[1][0])
    assert torch.equal(seen[1][0], seen[2][0])
    assert torch.equal(seen[2][0], seen[3][0])
    assert not torch.equal(seen[2][1], seen[3][1])
