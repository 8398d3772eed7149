"""Graph passes: what they change, and that they leave the rest alone."""

import numpy as np
import onnx
import pytest
from glialite_export.graph import GraphWriter, checked, constants, fold_batchnorm, inline_constants, strip
from glialite_runtime.errors import ExportError
from onnx import helper

from .conftest import run

SHAPE = (1, 4, "d", "h", "w")


def normalisation(writer: GraphWriter, source: str, channels: int, seed: int = 0) -> str:
    rng = np.random.default_rng(seed)
    values = [rng.normal(size=channels) for _ in range(3)] + [rng.uniform(0.5, 2, channels)]
    names = [writer.constant(value.astype(np.float32), "bn") for value in values]
    return writer.node("BatchNormalization", [source, *names], "bn", epsilon=1e-3)


def convolved(op: str, *, shared: bool = False, bias: bool = True, group: int = 1) -> onnx.ModelProto:
    writer = GraphWriter(["image", "logits"])
    shape = (6, 4 // group, 3, 3, 3) if op == "Conv" else (4, 6 // group, 2, 2, 2)
    rng = np.random.default_rng(3)
    inputs = ["image", writer.constant(rng.normal(size=shape).astype(np.float32), "weight")]
    if bias:
        inputs.append(writer.constant(rng.normal(size=6).astype(np.float32), "bias"))
    settings = {"group": group} | ({} if op == "Conv" else {"strides": [2, 2, 2]})
    result = writer.node(op, inputs, "conv", **settings)
    last = normalisation(writer, result, 6)
    if shared:
        last = writer.node("Add", [last, result], "add")
    writer.rename_output(last, "logits")
    return writer.model("net", {"image": SHAPE}, {"logits": (1, 6, "d2", "h2", "w2")})


@pytest.mark.parametrize("op", ["Conv", "ConvTranspose"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("group", [1, 2])
def test_batchnorm_folds_into_the_convolution_before_it(op: str, bias: bool, group: int) -> None:
    """The normalisation goes, and the graph gives the same numbers."""
    model = convolved(op, bias=bias, group=group)
    folded, removed = fold_batchnorm(model)
    assert removed == 1
    assert [node.op_type for node in checked(folded).graph.node] == [op]
    image = np.random.default_rng(0).normal(size=(1, 4, 5, 4, 6)).astype(np.float32)
    np.testing.assert_allclose(run(folded, image), run(model, image), rtol=1e-4, atol=1e-4)


def test_batchnorm_stays_when_the_convolution_is_read_elsewhere() -> None:
    """Folding would change what the other reader sees."""
    model = convolved("Conv", shared=True)
    folded, removed = fold_batchnorm(model)
    assert removed == 0
    assert [node.op_type for node in folded.graph.node] == ["Conv", "BatchNormalization", "Add"]


def test_batchnorm_on_the_input_stays() -> None:
    """There is no convolution before it to fold into."""
    writer = GraphWriter(["image", "logits"])
    writer.rename_output(normalisation(writer, "image", 4), "logits")
    assert fold_batchnorm(writer.model("net", {"image": SHAPE}, {"logits": SHAPE}))[1] == 0


def test_inline_constants_bypasses_identities_but_keeps_the_output_name() -> None:
    """Constant nodes become initializers; an identity goes unless the output would lose its name."""
    tensor = onnx.numpy_helper.from_array(np.float32(2))
    nodes = [
        helper.make_node("Constant", [], ["two"], value=tensor),
        helper.make_node("Identity", ["two"], ["also_two"]),
        helper.make_node("Mul", ["image", "also_two"], ["twice"]),
        helper.make_node("Identity", ["twice"], ["logits"]),
    ]
    values = [helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in ("image", "logits")]
    graph = helper.make_graph(nodes, "net", values[:1], values[1:])
    model, removed = inline_constants(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]))
    assert removed == 2
    assert [node.op_type for node in model.graph.node] == ["Mul", "Identity"]
    assert constants(model)["two"] == 2
    np.testing.assert_array_equal(run(checked(model), np.array([3], np.float32)), [6])


def test_passes_do_not_change_their_argument() -> None:
    """A pass returns a new model."""
    model = convolved("Conv")
    before = model.SerializeToString()
    for change in (fold_batchnorm, inline_constants, strip):
        change(model)
    assert model.SerializeToString() == before


def test_strip_removes_source_paths() -> None:
    """Doc strings and metadata, where exporters put file paths, do not reach the bundle."""
    model = convolved("Conv")
    model.graph.node[0].doc_string = "/home/somebody/secret.py(12): forward"
    model.metadata_props.add(key="path", value="/home/somebody")
    assert b"somebody" not in strip(model).SerializeToString()


def test_writer_stores_equal_constants_once_and_keeps_types_apart() -> None:
    """The same bytes of another type or shape are another constant."""
    writer = GraphWriter()
    zero = writer.constant(np.zeros(2, np.float32), "zero")
    assert writer.constant(np.zeros(2, np.float32), "other") == zero
    assert (
        len({zero, writer.constant(np.zeros(2, np.int32), "zero"), writer.constant(np.zeros((1, 2), "f4"), "z")}) == 3
    )


def test_malformed_graph_is_refused() -> None:
    """The checker of onnx stands before anything leaves the writer."""
    writer = GraphWriter(["image", "logits"])
    writer.rename_output(writer.node("Relu", ["nowhere"], "relu"), "logits")
    with pytest.raises(ExportError, match="nowhere"):
        writer.model("net", {"image": SHAPE}, {"logits": SHAPE})
