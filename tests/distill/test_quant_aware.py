"""Quantisation-aware training: rounding by hand, its gradients, and that it is the arithmetic of the INT8 graph."""

from __future__ import annotations

import copy
from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from glialite_calibration.ranges import Range
from glialite_distill import quant_aware
from glialite_distill.quant_aware import FakeQuantStudent, round_activation, round_weight
from glialite_distill.student import Student, StudentSpec
from glialite_export.int8 import observed_tensors, quantize
from glialite_export.lower import lower
from glialite_export.onnx_export import export_student
from torch import nn

SPEC = StudentSpec("tiny", (8, 8, 16), (2, 3, 2))
LOGITS = Range(-1.0, 1.0)  # those of an untrained student
STEP = 2 / 255


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    """Nets this small lose more to two waiting threads than they win."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise(seed: int, count: int = 1) -> torch.Tensor:
    return torch.randn(count, 4, 16, 24, 16, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def student() -> Student:
    """Return an untrained student whose BatchNorm layers have seen data and have weights of their own."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = Student(SPEC)
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm3d):
                nn.init.uniform_(layer.weight, 0.5, 2.0)
                nn.init.uniform_(layer.bias, -0.3, 0.5)
    for seed in range(20):
        network(noise(seed, 2))
    return network.eval()


def badly_scaled(student: Student) -> Student:
    """Return the same FP32 function in other weights: one channel a stage times 60, and its reader divided by it."""
    network = copy.deepcopy(student)
    with torch.no_grad():
        for stage in (*network.encoder, *network.decoder):
            (_, norm, _), (reader, *_), *_ = stage
            norm.weight[3] *= 60
            norm.bias[3] *= 60
            reader.weight[:, 3] /= 60
    return network


def int8_logits(network: Student, ranges: list[Range], image: torch.Tensor) -> torch.Tensor:
    """Return what the exported INT8 graph makes of an image, in the layout of the student."""
    lowered = lower(export_student(network), SPEC.divisor)
    model = quantize(lowered, dict(zip(observed_tensors(lowered), [*ranges, LOGITS], strict=True)))
    return run(model, image)


def run(model: onnx.ModelProto, image: torch.Tensor) -> torch.Tensor:
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    planes = np.ascontiguousarray(image[0].numpy().swapaxes(0, 1))
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: planes})[0]).transpose(0, 1)[None]


def spans(rounded: FakeQuantStudent) -> list[Range]:
    """Return the running ranges in the order of the graph, each with 0 inside."""
    return [Range(min(float(low), 0.0), max(float(high), 0.0)) for low, high in rounded.ranges.values()]


def gap(network: Student, images: torch.Tensor) -> float:
    """Return the mean difference between INT8 and FP32 logits, ranges being those of the images themselves."""
    rounded = FakeQuantStudent(network)
    rounded(images)
    with torch.no_grad():
        expected = network(images[:1]).clamp(LOGITS.low, LOGITS.high)
    return float((int8_logits(network, spans(rounded), images[:1]) - expected).abs().mean())


def test_a_weight_channel_has_steps_of_a_63rd_of_its_largest() -> None:
    """A channel up to 0.63 has steps of 0.01, one up to 6.3 steps of 0.1."""
    rows = torch.tensor([[0.63, 0.014, -0.006, 0.004], [6.3, 0.14, -0.06, 0.04]])
    rounded = round_weight(rows.view(2, 4, 1, 1, 1)).view(2, 4)
    torch.testing.assert_close(rounded, torch.tensor([[0.63, 0.01, -0.01, 0.0], [6.3, 0.1, -0.1, 0.0]]))


def test_a_transposed_convolution_has_steps_for_each_place_of_its_kernel() -> None:
    """Of the weight (in 2, out 1, 1, 1, 2), the first place reaches 0.63 and the second 6.3."""
    weight = torch.tensor([[0.63, 0.04], [0.014, 6.3]]).view(2, 1, 1, 1, 2)
    rounded = round_weight(weight, transposed=True).view(2, 2)
    torch.testing.assert_close(rounded, torch.tensor([[0.63, 0.0], [0.01, 6.3]]))


def test_weight_gradients_pass_straight_through() -> None:
    """Every weight gets the gradient of its rounded value; a channel of zeros stays zero without NaN."""
    weight = torch.stack([torch.linspace(-1, 1, 8), torch.zeros(8)]).view(2, 8, 1, 1, 1).requires_grad_()
    rounded = round_weight(weight)
    (rounded.flatten() * torch.arange(16.0)).sum().backward()
    assert weight.grad is not None
    torch.testing.assert_close(weight.grad.flatten(), torch.arange(16.0))
    assert torch.equal(rounded[1], torch.zeros(8, 1, 1, 1))


def test_activations_go_to_the_nearest_of_256_levels() -> None:
    """A range of 0 to 2.55 has steps of 0.01; gradients are 1 inside and 0 outside."""
    values = torch.tensor([-1.0, 0.0, 1.234, 1.236, 2.55, 3.0], requires_grad=True)
    rounded = round_activation(values, torch.tensor(0.0), torch.tensor(2.55))
    torch.testing.assert_close(rounded, torch.tensor([0.0, 0.0, 1.23, 1.24, 2.55, 2.55]))
    rounded.sum().backward()
    assert values.grad is not None
    assert values.grad.tolist() == [0, 1, 1, 1, 1, 0]


def test_zero_stays_zero_on_a_grid_with_negative_values() -> None:
    """Padding and background are exact, whatever the range; also where it is empty."""
    for low, high in ((-1.0, 2.0), (-0.37, 1.0), (0.0, 0.0)):
        assert round_activation(torch.zeros(1), torch.tensor(low), torch.tensor(high)).item() == 0


def test_without_rounding_it_is_the_student_in_evaluation_mode(
    student: Student, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Folding BatchNorm changes nothing, and every layer is where the student has it."""
    monkeypatch.setattr(quant_aware, "round_weight", lambda weight, **_: weight)
    monkeypatch.setattr(quant_aware, "round_activation", lambda values, *_: values)
    with torch.no_grad():
        torch.testing.assert_close(FakeQuantStudent(student)(noise(30)), student(noise(30)), rtol=1e-4, atol=1e-4)


def test_ranges_are_running_means_of_the_extremes(student: Student) -> None:
    """The first batch gives the range, a later one counts a twentieth, and none does in evaluation mode."""
    rounded, (one, other, third) = FakeQuantStudent(student), (noise(seed) for seed in (1, 2, 3))
    for image in (one, other):
        rounded(image)
    rounded.eval()(third)
    expected = 0.95 * torch.stack(one.aminmax()) + 0.05 * torch.stack(other.aminmax())
    torch.testing.assert_close(rounded.ranges["image"], expected)


def test_concatenated_tensors_share_the_wider_range(student: Student, monkeypatch: pytest.MonkeyPatch) -> None:
    """The skip is rounded over the range of the upsampled tensor where that is wider, and the other way round."""
    rounded = FakeQuantStudent(student)
    rounded(noise(1))
    used = []
    plain = round_activation

    def spy(values: torch.Tensor, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
        used.append(float(high))
        return plain(values, low, high)

    monkeypatch.setattr(quant_aware, "round_activation", spy)
    names = list(rounded.ranges)
    for skip, up in (("encoder.0.1", "up.1"), ("encoder.1.2", "up.0")):
        for wider in (skip, up):
            rounded.ranges[wider] = torch.tensor([0.0, 99.0])
            used.clear()
            rounded.eval()(noise(1))
            assert [name for name, high in zip(names, used, strict=True) if high == 99] == [skip, up]
            rounded.ranges[wider] = torch.tensor([0.0, 1.0])


def test_it_computes_what_the_exported_graph_computes(student: Student) -> None:
    """Given the same ranges, logits differ by two steps of the output at most, on average far less than from FP32.

    What is left starts with the one activation in a thousand that a bias rounded to 32 bits tips over a level.
    """
    rounded = FakeQuantStudent(student)
    for seed in range(4):
        rounded(noise(seed))
    image = noise(40)
    got = int8_logits(student, spans(rounded), image)
    with torch.no_grad():
        expected, exact = (
            round_activation(network(image), torch.tensor(LOGITS.low), torch.tensor(LOGITS.high))
            for network in (rounded.eval(), student)
        )
    assert (got - expected).abs().max() < 2.5 * STEP
    assert (got - expected).abs().mean() < 0.6 * (got - exact).abs().mean()


def test_training_changes_weights_but_no_batch_norm_statistics(student: Student) -> None:
    """A step moves every parameter; running means and variances stay as they were folded."""
    network = copy.deepcopy(student)
    rounded = FakeQuantStudent(network).train()
    optimizer = torch.optim.SGD(rounded.parameters(), 0.1)
    rounded(noise(1)).square().mean().backward()
    optimizer.step()
    before = dict(student.named_parameters())
    assert all(not torch.equal(value, before[name]) for name, value in network.named_parameters())
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), student.buffers(), strict=True))


def test_fine_tuning_brings_a_badly_scaled_student_closer_to_itself(student: Student) -> None:
    """The mean difference between its INT8 and its FP32 logits falls, though it was the same FP32 function."""
    network = badly_scaled(student)
    images = noise(50, 2)
    with torch.no_grad():
        target = student(images)
        torch.testing.assert_close(network(images), target, rtol=1e-3, atol=1e-3)
    before = gap(network, images)
    rounded = FakeQuantStudent(network)
    optimizer = torch.optim.Adam(rounded.parameters(), 2e-3)
    for _ in range(60):
        optimizer.zero_grad()
        (rounded(images) - target).square().mean().backward()
        optimizer.step()
    assert gap(network, images) < 0.6 * before
