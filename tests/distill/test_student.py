"""The student network: its shape, its size, and that it holds only what the clinic graph can take."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from glialite_distill.student import STUDENTS, Student, StudentSpec
from glialite_runtime.errors import ConfigError
from torch import nn

TEACHER_PARAMETERS = 30.8e6  # nnU-Net 3d_fullres on four sequences
TEACHER_MACS = 528e9  # for one patch of 128×160×112
PATCH = (128, 160, 112)

TINY = StudentSpec("tiny", (8, 16, 24), 1)


def macs(network: nn.Module, patch: tuple[int, int, int]) -> int:
    """Return the multiply-adds of all convolutions for one patch, counted from their shapes."""
    total = 0

    def count(layer: Any, inputs: tuple[torch.Tensor], output: torch.Tensor) -> None:
        nonlocal total
        places = inputs[0] if isinstance(layer, nn.ConvTranspose3d) else output
        total += layer.weight.numel() * places[0, 0].numel()

    for module in network.modules():
        if isinstance(module, nn.Conv3d | nn.ConvTranspose3d):
            module.register_forward_hook(count)
    network(torch.empty(1, 4, *patch, device="meta"))
    return total


def test_the_multiply_adds_are_counted_right() -> None:
    """A 3×3×3 convolution from 2 to 5 channels on 4 voxels costs 27 · 2 · 5 · 4."""
    with torch.device("meta"):
        layer = nn.Conv3d(2, 5, 3, padding=1)
    network = nn.Sequential(nn.Conv3d(4, 2, 1, device="meta"), layer)
    assert macs(network, (1, 2, 2)) == 4 * 2 * 4 + 27 * 2 * 5 * 4


@pytest.mark.parametrize("shape", [(8, 8, 8), (16, 8, 24)])
def test_a_logit_a_region_and_voxel_comes_out(shape: tuple[int, int, int]) -> None:
    """The output has the input's voxels and one channel a region."""
    assert Student(TINY).eval()(torch.zeros(2, 4, *shape)).shape == (2, 3, *shape)


@pytest.mark.parametrize(("name", "divisor"), [("S", 16), ("M", 16)])
def test_the_divisor_is_two_to_the_number_of_stages(name: str, divisor: int) -> None:
    """The stem halves once and each further stage once more."""
    assert STUDENTS[name].divisor == divisor
    assert StudentSpec("x", (8, 16)).divisor == 4


def test_stages_may_have_different_numbers_of_convolutions() -> None:
    """One at half resolution, where they are dear; the transposed convolutions and the head are not counted."""
    student = Student(StudentSpec("x", (8, 16, 24), (1, 2, 3)))
    assert [len(stage) for stage in student.encoder] == [1, 2, 3]
    assert [len(stage) for stage in student.decoder] == [2, 1]


@pytest.mark.parametrize(("widths", "convolutions"), [((), 2), ((8, 0), 2), ((8, 16), (1,)), ((8, 16), (1, 0))])
def test_an_impossible_shape_is_refused(widths: tuple[int, ...], convolutions: int | tuple[int, ...]) -> None:
    """Such as a stage without a number of convolutions, in a student file that somebody edited."""
    with pytest.raises(ConfigError, match="convolutions"):
        StudentSpec("x", widths, convolutions)


def test_edges_that_are_no_multiple_of_the_divisor_do_not_pass() -> None:
    """An edge of 12 cannot be halved three times: an error, not a result of another shape."""
    with pytest.raises(RuntimeError):
        Student(TINY).eval()(torch.zeros(1, 4, 8, 12, 8))


@pytest.mark.parametrize("name", STUDENTS)
def test_widths_suit_the_kernels(name: str) -> None:
    """Every width is a multiple of 8, and a student is called what the command line calls it."""
    assert STUDENTS[name].name == name
    assert all(width % 8 == 0 for width in STUDENTS[name].widths)


def test_the_small_student_is_compact() -> None:
    """S has at most 10 % of a teacher's parameters and 8 % of its multiply-adds."""
    with torch.device("meta"):
        network = Student(STUDENTS["S"]).eval()
    assert sum(p.numel() for p in network.parameters()) <= 0.10 * TEACHER_PARAMETERS
    assert macs(network, PATCH) <= 0.08 * TEACHER_MACS


def test_only_layers_that_fuse_are_used() -> None:
    """Convolutions with BatchNorm and ReLU, nothing else: no LeakyReLU, no InstanceNorm, no dropout."""
    leaves = {type(m) for m in Student(TINY).modules() if not list(m.children())}
    assert leaves == {nn.Conv3d, nn.ConvTranspose3d, nn.BatchNorm3d, nn.ReLU}


def test_every_parameter_is_used() -> None:
    """Each one gets a gradient from the output."""
    torch.manual_seed(0)
    network = Student(TINY).train()
    network(torch.randn(2, 4, 16, 16, 16)).square().mean().backward()
    assert [name for name, p in network.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_regions_see_all_four_sequences() -> None:
    """A change of any one sequence changes every region's logits."""
    torch.manual_seed(0)
    network, image = Student(TINY).eval(), torch.randn(1, 4, 8, 8, 8)
    before = network(image)
    for channel in range(4):
        changed = image.clone()
        changed[:, channel] += 1
        assert (network(changed) - before).abs().amax((0, 2, 3, 4)).min() > 0
