"""Helpers of a training: an assistant that fits, features at one scale, scans that are not the workspace's own."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, cast

import pytest
import torch
from glialite_distill.guidance import (
    Guidance,
    assistant_on,
    feature_loss,
    ramp,
    refuse_leaks,
    weights_digest,
    with_features,
)
from glialite_distill.patches import TrainingData
from glialite_distill.student import Student, StudentSpec
from glialite_distill.student_file import StudentFile
from glialite_runtime.decode import DecisionRule
from glialite_runtime.errors import ConfigError
from torch import nn

SPEC = StudentSpec("tiny", (8, 16), 1)


def student(seed: int = 0) -> StudentFile:
    torch.manual_seed(seed)
    return StudentFile(SPEC, Student(SPEC).state_dict(), (2.0, 2.0, 2.0), DecisionRule(), {})


@dataclass(frozen=True)
class Split:
    train: tuple[str, ...] = ("c1",)
    validation: tuple[str, ...] = ("c0",)


@dataclass(frozen=True)
class Data:
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0)
    held_out: tuple[str, ...] = ("c9",)
    splits: tuple[Split, ...] = (Split(),)


@dataclass(frozen=True)
class Scans:
    cases: tuple[str, ...]
    key: str = "scans"


def identity(guidance: Guidance) -> dict[str, Any]:
    return guidance.identity(cast("TrainingData", Data()), 0)


def test_a_training_without_helpers_says_so() -> None:
    """Both are named, and none."""
    assert identity(Guidance()) == {"assistant": None, "unlabelled": None}


def test_other_weights_are_another_assistant() -> None:
    """The digest follows the weights and nothing else."""
    one, same, other = student(), student(), student(1)
    assert weights_digest(one.state) == weights_digest(same.state) != weights_digest(other.state)
    assert identity(Guidance(one))["assistant"] == weights_digest(one.state)


def test_an_assistant_of_another_voxel_size_is_refused() -> None:
    """Its probabilities would belong to other anatomy."""
    with pytest.raises(ConfigError, match=r"assistant works at .*1\.0.* trained at this voxel size"):
        identity(Guidance(replace(student(), spacing_mm=(1.0, 1.0, 1.0))))


@pytest.mark.parametrize("case", ["c0", "c9"])
def test_an_assistant_that_saw_what_is_kept_back_is_refused(case: str) -> None:
    """What validates or is held out would reach the student through it; training cases of the fold may."""
    file = student()
    with pytest.raises(ConfigError, match=f"assistant was trained on {case}"):
        identity(Guidance(replace(file, provenance={"train_cases": ["c1", case]})))
    assert identity(Guidance(replace(file, provenance={"train_cases": ["c1"]})))["assistant"]


def test_a_leak_through_an_earlier_student_is_refused() -> None:
    """What the assistant's own parent, or its scans without labels, taught it counts; another scan of a patient too."""
    for provenance in (
        {"train_cases": ["c1"], "earlier_cases": {"trained": ["c9"], "validated": []}},
        {"train_cases": ["c1"], "unlabelled_cases": ["c9"]},
    ):
        with pytest.raises(ConfigError, match="assistant was trained on c9"):
            identity(Guidance(replace(student(), provenance=provenance)))
    inherited = {"train_cases": ["c1"], "earlier_cases": {"trained": ["c1"], "validated": ["c0"]}}
    assert identity(Guidance(replace(student(), provenance=inherited)))["assistant"]
    follow_up = cast("TrainingData", Data(held_out=("BraTS-SSA-00002-001",)))
    with pytest.raises(ConfigError, match="parent was trained on BraTS-SSA-00002-001"):
        refuse_leaks(
            "the parent", replace(student(), provenance={"train_cases": ["BraTS-SSA-00002-000"]}), follow_up, 0
        )


@pytest.mark.parametrize("case", ["c0", "c1", "c9"])
def test_scans_that_the_workspace_knows_are_not_unlabelled(case: str) -> None:
    """Training, validation and held-out cases are refused by name."""
    with pytest.raises(ConfigError, match=case):
        identity(Guidance(unlabelled=cast("Any", Scans((case, "new")))))
    assert identity(Guidance(unlabelled=cast("Any", Scans(("new",)))))["unlabelled"] == "scans"


def test_the_assistant_is_never_trained() -> None:
    """Evaluation mode, no gradients; none without a file."""
    network = assistant_on(Guidance(student()), torch.device("cpu"))
    assert network is not None
    assert not network.training
    assert not any(p.requires_grad for p in network.parameters())
    assert assistant_on(Guidance(), torch.device("cpu")) is None


def test_features_are_those_of_the_deepest_stage() -> None:
    """A quarter of the resolution for two halvings; the logits are the network's own, and no hook is left."""
    network = Student(SPEC).eval()
    image = torch.randn(1, 4, 16, 8, 8)
    logits, features = with_features(network, image)
    assert features.shape == (1, 16, 4, 2, 2)
    assert torch.equal(logits, network(image))
    assert not network.encoder[-1]._forward_hooks


def test_feature_loss_by_hand() -> None:
    """Equal directions cost 0 whatever their length, opposite ones 2, a right angle 1."""
    same = nn.Identity()
    one = torch.tensor([1.0, 0.0])[None, :, None, None, None]
    for wanted, loss in (((5.0, 0.0), 0.0), ((-1.0, 0.0), 2.0), ((0.0, 3.0), 1.0)):
        other = torch.tensor(wanted)[None, :, None, None, None]
        assert feature_loss(same, one, other).item() == pytest.approx(loss, abs=1e-6)


def test_features_of_another_scale_are_brought_to_the_assistants() -> None:
    """A constant field stays constant on the finer grid."""
    assert feature_loss(nn.Identity(), torch.ones(1, 3, 2, 2, 2), torch.ones(1, 3, 4, 4, 4)).item() == pytest.approx(
        0, abs=1e-6
    )


def test_the_ramp_by_hand() -> None:
    """exp(−5) at the start, exp(−5/4) at a quarter of the training, 1 from its middle on."""
    values = [ramp(i, 100) for i in (0, 25, 50, 99)]
    assert values == pytest.approx([math.exp(-5), math.exp(-1.25), 1, 1])
