"""TensorRT's rules: a good graph breaks none, and a graph that is broken in one way breaks that rule."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from glialite_calibration.ranges import Range
from glialite_export.fp16 import observed_tensors, to_fp16
from glialite_export.gpu_int8 import quantize_symmetric
from glialite_export.tensorrt_rules import RULES, check
from onnx import helper, numpy_helper

Change = Callable[[onnx.ModelProto], None]


@pytest.fixture(scope="module")
def int8(native: onnx.ModelProto) -> onnx.ModelProto:
    """Return the student in symmetric INT8; each tensor has a range of its own."""
    return quantize_symmetric(native, {name: Range(-4.0, 4.0 + n) for n, name in enumerate(observed_tensors(native))})


@pytest.fixture(scope="module")
def fp16(native: onnx.ModelProto) -> onnx.ModelProto:
    """Return the student in FP16."""
    return to_fp16(native, dict.fromkeys(observed_tensors(native), Range(-4.0, 4.0)))


def test_what_we_write_breaks_no_rule(int8: onnx.ModelProto, fp16: onnx.ModelProto) -> None:
    """Both graphs of a GPU bundle pass."""
    assert check(int8) == check(fp16) == ()


def node(model: onnx.ModelProto, kind: str, place: int = 0) -> onnx.NodeProto:
    """Return the n-th node of a kind."""
    return [node for node in model.graph.node if node.op_type == kind][place]


def activation_dq(model: onnx.ModelProto) -> onnx.NodeProto:
    """Return the node that dequantises the image."""
    written = {name for n in model.graph.node for name in n.output}
    return next(n for n in model.graph.node if n.op_type == "DequantizeLinear" and n.input[0] in written)


def constant(model: onnx.ModelProto, value: np.ndarray, name: str = "planted") -> str:
    """Add a constant and return its name."""
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def change_constant(model: onnx.ModelProto, name: str, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Replace a constant by what `change` makes of it."""
    tensor = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    tensor.CopyFrom(numpy_helper.from_array(np.asarray(change(numpy_helper.to_array(tensor).copy())), name))


def old_opset(model: onnx.ModelProto) -> None:
    model.opset_import[0].version = 12


def foreign_domain(model: onnx.ModelProto) -> None:
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))


def unknown_operator(model: onnx.ModelProto) -> None:
    node(model, "Relu").op_type = "Softsign"


def half_ends(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.FLOAT16


def free_batch(model: onnx.ModelProto) -> None:
    model.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"


def float32_bias_among_float16(model: onnx.ModelProto) -> None:
    change_constant(model, node(model, "Conv").input[2], lambda array: array.astype(np.float32))


def float16_weights_among_float32(model: onnx.ModelProto) -> None:
    change_constant(model, node(model, "ConvTranspose").input[1], lambda array: array.astype(np.float16))


def computed_weights(model: onnx.ModelProto) -> None:
    target = node(model, "ConvTranspose")
    model.graph.node.insert(0, helper.make_node("Relu", [target.input[1]], ["computed"], "computing"))
    target.input[1] = "computed"


def shifted_zero_point(model: onnx.ModelProto) -> None:
    change_constant(model, node(model, "QuantizeLinear").input[2], lambda array: array + np.int8(1))


def too_many_zero_points(model: onnx.ModelProto) -> None:
    node(model, "QuantizeLinear").input[2] = constant(model, np.zeros(2, np.int8))


def unsigned(model: onnx.ModelProto) -> None:
    change_constant(model, node(model, "QuantizeLinear").input[2], lambda array: array.astype(np.uint8))


def no_zero_point(model: onnx.ModelProto) -> None:
    del node(model, "QuantizeLinear").input[2]


def weight_of_minus_128(model: onnx.ModelProto) -> None:
    change_constant(model, node(model, "DequantizeLinear").input[0], lambda array: np.full_like(array, -128))


def scale_of_zero(model: onnx.ModelProto) -> None:
    change_constant(model, node(model, "QuantizeLinear").input[1], lambda array: array * 0)


def infinite_scale(model: onnx.ModelProto) -> None:
    change_constant(model, node(model, "DequantizeLinear").input[1], lambda array: array * np.float32(np.inf))


def computed_scale(model: onnx.ModelProto) -> None:
    target = node(model, "QuantizeLinear")
    model.graph.node.insert(0, helper.make_node("Relu", [target.input[1]], ["computed"], "computing"))
    target.input[1] = "computed"


def activation_with_a_scale_a_channel(model: onnx.ModelProto) -> None:
    node(model, "QuantizeLinear").input[1] = constant(model, np.ones(4, np.float32))


def weights_along_the_input_channels(model: onnx.ModelProto) -> None:
    node(model, "DequantizeLinear").attribute[0].i = 1


def one_scale_too_few(model: onnx.ModelProto) -> None:
    change_constant(model, node(model, "DequantizeLinear").input[1], lambda array: array[:-1])


def lonely_quantise(model: onnx.ModelProto) -> None:
    target = activation_dq(model)
    target.op_type, target.input[:] = "Relu", target.input[:1]


def partner_with_another_scale(model: onnx.ModelProto) -> None:
    activation_dq(model).input[1] = constant(model, np.float32(0.5))


def lonely_dequantise(model: onnx.ModelProto) -> None:
    node(model, "QuantizeLinear").op_type = "Identity"


def float_weights(model: onnx.ModelProto) -> None:
    target = node(model, "Conv")
    target.input[1] = constant(model, np.ones((8, 4, 2, 2, 2), np.float32))


def float_image(model: onnx.ModelProto) -> None:
    node(model, "Conv").input[0] = "image"


def no_kernel_shape(model: onnx.ModelProto) -> None:
    target = node(model, "Conv")
    target.attribute.remove(next(item for item in target.attribute if item.name == "kernel_shape"))


def integer_bias(model: onnx.ModelProto) -> None:
    change_constant(model, node(model, "Conv").input[2], lambda array: array.astype(np.int32))


def quantised_bias(model: onnx.ModelProto) -> None:
    target = node(model, "Conv")
    grid = [constant(model, np.float32(0.1), "bias_scale"), constant(model, np.int32(0), "bias_zero_point")]
    stored = constant(model, np.zeros(8, np.int32), "bias_levels")
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", [stored, *grid], ["bias_dq"], "bias_dq"))
    target.input[2] = "bias_dq"


def quantised_transposed(model: onnx.ModelProto) -> None:
    node(model, "ConvTranspose").input[0] = activation_dq(model).output[0]


def grouped(model: onnx.ModelProto) -> None:
    next(item for item in node(model, "Conv").attribute if item.name == "group").i = 2


def joined_on_two_scales(model: onnx.ModelProto) -> None:
    node(model, "Concat").input[1] = activation_dq(model).output[0]


def half_quantised_join(model: onnx.ModelProto) -> None:
    node(model, "Concat").input[1] = "image"


INT8_BREAKS: dict[Change, str] = {
    old_opset: "opset",
    foreign_domain: "opset",
    unknown_operator: "operator",
    half_ends: "ends",
    free_batch: "ends",
    float16_weights_among_float32: "typed",
    computed_weights: "constant-weight",
    shifted_zero_point: "symmetric",
    too_many_zero_points: "symmetric",
    unsigned: "int8",
    no_zero_point: "int8",
    weight_of_minus_128: "weight-range",
    scale_of_zero: "scale",
    infinite_scale: "scale",
    computed_scale: "scale",
    activation_with_a_scale_a_channel: "granularity",
    weights_along_the_input_channels: "granularity",
    one_scale_too_few: "granularity",
    lonely_quantise: "pair",
    partner_with_another_scale: "pair",
    lonely_dequantise: "pair",
    float_weights: "both-inputs",
    float_image: "both-inputs",
    no_kernel_shape: "kernel-shape",
    integer_bias: "bias",
    quantised_bias: "bias",
    quantised_transposed: "transposed",
    grouped: "grouped",
    joined_on_two_scales: "joined",
    half_quantised_join: "joined",
}
FP16_BREAKS: dict[Change, str] = {half_ends: "ends", float32_bias_among_float16: "typed", old_opset: "opset"}


def broken(model: onnx.ModelProto, change: Change) -> onnx.ModelProto:
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    change(copy)
    return copy


@pytest.mark.parametrize("change", INT8_BREAKS, ids=lambda change: change.__name__)
def test_graph_that_is_broken_in_one_way_breaks_that_rule(int8: onnx.ModelProto, change: Change) -> None:
    """Each way to go wrong is found under its own rule, at a place that has a name, with something to do."""
    findings = check(broken(int8, change))
    found = [finding for finding in findings if finding.rule == INT8_BREAKS[change]]
    assert found, findings
    assert all(finding.node and len(finding.remedy) > 20 for finding in found)


@pytest.mark.parametrize("change", FP16_BREAKS, ids=lambda change: change.__name__)
def test_fp16_graph_that_is_broken_in_one_way_breaks_that_rule(fp16: onnx.ModelProto, change: Change) -> None:
    """The rules of types hold for both graphs."""
    assert FP16_BREAKS[change] in {finding.rule for finding in check(broken(fp16, change))}


def test_every_rule_can_be_broken() -> None:
    """No rule is there that no graph in these tests trips."""
    assert set(INT8_BREAKS.values()) == set(RULES)


def test_the_graph_of_the_cpu_is_none_for_tensorrt(quantise: Callable[..., onnx.ModelProto]) -> None:
    """Its unsigned activations, shifted grids and integer biases are found."""
    assert {"int8", "symmetric", "bias", "operator"} <= {finding.rule for finding in check(quantise())}


def test_instance_normalisation_is_found() -> None:
    """The published trap: it has no good INT8 form."""
    image, out = (helper.make_tensor_value_info(name, 1, [1, 2, 4, 4, 4]) for name in ("image", "logits"))
    scale, shift = (numpy_helper.from_array(np.ones(2, np.float32), name) for name in "sb")
    layer = helper.make_node("InstanceNormalization", ["image", "s", "b"], ["logits"], "norm")
    graph = helper.make_graph([layer], "g", [image], [out], [scale, shift])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)])
    assert [(finding.node, finding.rule) for finding in check(model)] == [("norm", "operator")]
