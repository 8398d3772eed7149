"""The compiled kernels: a graph's layers by name, the same bits as onnxruntime on every kind of kernel."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import cache

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from glialite_calibration.ranges import activation_ranges, collect
from glialite_distill.student import Student, StudentSpec
from glialite_export.int8 import OutputGrid, observed_tensors, quantize, with_outputs
from glialite_export.layers import layers_of, with_layers
from glialite_export.lower import lower
from glialite_export.onnx_export import export_student
from glialite_runtime import int8_network
from glialite_runtime.bundle import Graph
from glialite_runtime.engine import OnnxEngine
from glialite_runtime.errors import BundleIntegrityError
from glialite_runtime.int8_engine import Int8Engine, kernel_kinds
from glialite_runtime.int8_network import LAYERS_NOTE, Int8Sum, read_network
from glialite_runtime.uncertainty import bands_of

GRAPH = Graph("x", "cpu", "int8", "depth-as-batch", 8, 17)
KINDS = tuple(kernel_kinds())

pytestmark = pytest.mark.skipif(not KINDS, reason="no C compiler was at hand when GliaLite was installed")


@cache
def graph_of(widths: tuple[int, ...], convolutions: int | tuple[int, ...], wide: bool = False) -> onnx.ModelProto:
    """Return an untrained student's INT8 graph; `wide` gives every layer 13-bit weights."""
    torch.manual_seed(0)
    spec = StudentSpec("x", widths, convolutions)
    student = Student(spec).eval()
    with torch.no_grad():  # louder, so that something reaches the output through all layers
        for parameter in student.parameters():
            parameter.mul_(2 if parameter.ndim > 1 else 1)
    lowered = lower(export_student(student), spec.divisor)
    tensors = observed_tensors(lowered)
    noise = np.random.default_rng(0).standard_normal((32, 4, 32, 32)).astype(np.float32)
    histograms = collect(with_outputs(lowered, tensors).SerializeToString(), tensors, [noise])
    layers = [node.output[0] for node in lowered.graph.node if node.op_type == "Conv"] if wide else ()
    ranges = activation_ranges(histograms, "min-max")
    return with_layers(quantize(lowered, ranges, OutputGrid((0.0, -0.2, 0.3)), layers))


def engines(graph: onnx.ModelProto, divisor: int, kind: str, threads: int = 1) -> tuple[Int8Engine, OnnxEngine]:
    described = Graph("x", "cpu", "int8", "depth-as-batch", divisor, 17)
    model = graph.SerializeToString()
    network = read_network(model)
    assert network is not None
    return Int8Engine(described, network, threads, kind), OnnxEngine(described, model, 1)


def noise(shape: tuple[int, int, int]) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((4, *shape)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("widths", "convolutions"),
    [((8, 16, 24), 1), ((16, 8), 2), ((8, 32, 40), (3, 1, 1)), ((24, 48, 96, 128), (1, 2, 2, 2))],
)
def test_every_kernel_gives_the_bits_of_onnxruntime(
    widths: tuple[int, ...], convolutions: int | tuple[int, ...], kind: str
) -> None:
    """Groups of 1 to 4 vectors, rows that tiles do not divide, edges that the divisor does not."""
    compiled, reference = engines(graph_of(widths, convolutions), 2 ** len(widths), kind)
    image = noise((33, 38, 45))
    expected = reference.logits(image)
    assert len(np.unique(expected)) > 60
    np.testing.assert_array_equal(compiled.logits(image), expected)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_of_13_bit_weights_do_too(kind: str) -> None:
    """Every layer in two limbs, the stem, the raised ones and the head included."""
    graph = graph_of((8, 16, 24), (1, 2, 1), wide=True)
    network = read_network(graph.SerializeToString())
    assert network is not None
    assert (
        sum(isinstance(layer, Int8Sum) for layer in network.layers)
        == sum(not isinstance(layer, Int8Sum) for layer in network.layers) / 2
    )
    compiled, reference = engines(graph, 8, kind)
    image = noise((24, 32, 40))
    np.testing.assert_array_equal(compiled.logits(image), reference.logits(image))


@pytest.mark.parametrize("zero_points", [(0, 128, 0), (134, 128, 127), (7, 128, 128), (255, 0, 1)])
@pytest.mark.parametrize("halvings", [0, 1, 2, 12])
def test_sums_of_limbs_are_onnxruntimes_for_every_pair_of_bytes(
    zero_points: tuple[int, int, int], halvings: int
) -> None:
    """All 65 536 pairs; halves, on grids a power of two apart, are common, and go to the even level."""
    step = np.float32(0.37)
    grids = [
        (step, np.uint8(zero_points[0])),
        (np.float32(step * 0.5**halvings), np.uint8(zero_points[1])),
        (step, np.uint8(zero_points[2])),
    ]
    first, second = (
        pair.astype(np.uint8).ravel() for pair in np.meshgrid(np.arange(256), np.arange(256), indexing="ij")
    )
    names = [name for n in "abc" for name in (f"{n}_scale", f"{n}_zero_point")]
    values = dict(zip(names, (value for grid in grids for value in grid), strict=True))
    inputs = ["a", *names[:2], "b", *names[2:]]
    node = onnx.helper.make_node("QLinearAdd", inputs, ["c"], domain="com.microsoft")
    tensors = [onnx.helper.make_tensor_value_info(n, onnx.TensorProto.UINT8, [65536]) for n in "abc"]
    constants = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in values.items()]
    graph = onnx.helper.make_graph([node], "g", tensors[:2], tensors[2:], constants)
    sets = [onnx.helper.make_opsetid("", 17), onnx.helper.make_opsetid("com.microsoft", 1)]
    model = onnx.helper.make_model(graph, opset_imports=sets, ir_version=8)
    expected = onnxruntime.InferenceSession(model.SerializeToString()).run(None, {"a": first, "b": second})[0]
    entry = {"sources": ["a", "b"], "target": "c", "grids": [names[:2], names[2:4], names[4:]]}
    np.testing.assert_array_equal(int8_network._sum(entry, values).table[first, second], expected)


@pytest.mark.parametrize("threads", [2, 3, 5])
def test_the_number_of_threads_does_not_matter(threads: int) -> None:
    """Planes are shared out among threads, also fewer planes than threads."""
    graph = graph_of((8, 16, 24), (1, 2, 1))
    one, more = (engines(graph, 8, KINDS[0], n)[0] for n in (1, threads))
    image = noise((24, 32, 40))
    np.testing.assert_array_equal(more.logits(image), one.logits(image))
    np.testing.assert_array_equal(more.above(image, (0.0, 0.0, 0.0)), one.logits(image) > 0)


def test_thresholds_on_levels_are_those_on_logits() -> None:
    """At a level's own logit, between two levels, beyond both ends; on an image that the divisor does not divide."""
    compiled, _ = engines(graph_of((8, 16, 24), 1), 8, KINDS[0])
    image = noise((14, 15, 17))
    logits = compiled.logits(image)
    middle = [float(np.median(region)) for region in logits]
    for shift in (-100, -0.01, 0, 0.01, 100):
        thresholds = [value + shift for value in middle]
        expected = logits > np.array(thresholds, np.float32).reshape(3, 1, 1, 1)
        np.testing.assert_array_equal(compiled.above(image, thresholds), expected)
        np.testing.assert_array_equal(compiled.bands(image, thresholds, 0.005), bands_of(logits, thresholds, 0.005))


def test_the_same_engine_may_run_in_two_threads() -> None:
    """As in a batch: nothing of one case is kept in the engine."""
    from concurrent.futures import ThreadPoolExecutor

    compiled, _ = engines(graph_of((8, 16, 24), 1), 8, KINDS[0], 2)
    images = [noise((16, 16, 8 * n)) for n in range(1, 7)]
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(compiled.logits, images))
    for image, logits in zip(images, together, strict=True):
        np.testing.assert_array_equal(logits, compiled.logits(image))


def replaced(old: str, new: str) -> onnx.ModelProto:
    """Return a graph with an operator of another kind in one place."""
    model = onnx.ModelProto()
    model.CopyFrom(graph_of((8, 16), 1))
    del model.metadata_props[:]
    next(node for node in model.graph.node if node.op_type == old).op_type = new
    return model


@pytest.mark.parametrize(
    ("old", "new"),
    [("DepthToSpace", "SpaceToDepth"), ("Slice", "Identity"), ("Concat", "Sum"), ("Pad", "Identity"),
     ("QuantizeLinear", "Relu"), ("Add", "Mul"), ("Reshape", "Identity")],
)  # fmt: skip
def test_a_graph_of_other_layers_is_left_to_onnxruntime(old: str, new: str) -> None:
    """No note is better than a wrong one."""
    changed = replaced(old, new)
    assert layers_of(changed) is None
    assert with_layers(changed) is changed
    assert read_network(changed.SerializeToString()) is None


def _without_weight(note: dict) -> None:
    note["layers"][1]["weight"] = "gone"


def _other_bias(note: dict) -> None:
    note["layers"][1]["bias"] = note["layers"][1]["weight_scale"]


def _no_layers(note: dict) -> None:
    note["layers"] = "all"


def _other_output(note: dict) -> None:
    note["output"] = None


@pytest.mark.parametrize("spoil", [_without_weight, _other_bias, _no_layers, _other_output])
def test_a_note_that_does_not_fit_is_refused(spoil: Callable[[dict], None]) -> None:
    """Whatever is wrong with it, the answer is that the bundle is damaged."""
    model = onnx.ModelProto()
    model.CopyFrom(graph_of((8, 16), 1))
    (entry,) = model.metadata_props
    assert entry.key == LAYERS_NOTE
    note = json.loads(entry.value)
    spoil(note)
    entry.value = json.dumps(note)
    with pytest.raises(BundleIntegrityError, match="copy the bundle again"):
        read_network(model.SerializeToString())


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"layers": []}'])
def test_a_note_that_is_no_note_is_refused(text: str) -> None:
    """JSON or not."""
    model = onnx.ModelProto()
    model.CopyFrom(graph_of((8, 16), 1))
    model.metadata_props[0].value = text
    with pytest.raises(BundleIntegrityError):
        read_network(model.SerializeToString())


def test_layers_that_do_not_fit_together_are_refused() -> None:
    """A note may be well formed and still name a volume with too few channels."""
    model = onnx.ModelProto()
    model.CopyFrom(graph_of((8, 16, 24), 1))
    note = json.loads(model.metadata_props[0].value)
    joined = next(layer for layer in note["layers"] if layer["source"] in note["joins"])
    joined["source"] = note["layers"][0]["target"]
    model.metadata_props[0].value = json.dumps(note)
    network = read_network(model.SerializeToString())
    assert network is not None
    with pytest.raises(BundleIntegrityError):
        Int8Engine(GRAPH, network).logits(noise((16, 16, 16)))
