"""The ONNX reader: what onnx writes is read; anything else is refused without a crash."""

from __future__ import annotations

import contextlib

import numpy as np
import onnx
import pytest
from glialite_runtime.errors import BundleIntegrityError
from glialite_runtime.onnx_file import read_onnx
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper


def file(*tensors: TensorProto, **notes: str) -> bytes:
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"], name="n")], "g", [], [], list(tensors))
    model = helper.make_model(graph)
    for key, value in notes.items():
        model.metadata_props.add(key=key, value=value)
    return model.SerializeToString()


@pytest.mark.parametrize("kind", [np.float32, np.uint8, np.int8, np.int32, np.int64])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 300, 1)])
def test_constants_come_back(kind: type[np.generic], shape: tuple[int, ...]) -> None:
    """Of every kind that a quantised graph holds, scalars and empty ones too."""
    values = (np.arange(np.prod(shape)).reshape(shape) - 3).astype(kind)
    found = read_onnx(file(numpy_helper.from_array(values, "a"), numpy_helper.from_array(np.float32(2), "b")))
    assert found.constants["a"].dtype == kind
    np.testing.assert_array_equal(found.constants["a"], values)
    assert found.constants["b"] == 2


def test_notes_come_back() -> None:
    """Any text under any name."""
    assert read_onnx(file(one="größer", other="")).notes == {"one": "größer", "other": ""}


def test_constants_of_other_kinds_are_left_out() -> None:
    """Text and halves are not what our graphs are made of."""
    texts = helper.make_tensor("s", TensorProto.STRING, [1], [b"x"])
    assert read_onnx(file(texts, numpy_helper.from_array(np.float16([1]), "h"))).constants == {}


def test_a_constant_of_the_wrong_size_is_refused() -> None:
    """Dimensions that promise more, or fewer, bytes than there are."""
    for dims in ([4], [2], [1 << 62, 4], [-1]):
        tensor = numpy_helper.from_array(np.zeros(3, np.int8), "a")
        del tensor.dims[:]
        tensor.dims.extend(dims)
        with pytest.raises(BundleIntegrityError, match="copy the bundle again"):
            read_onnx(file(tensor))


def test_a_truncated_file_is_refused_or_lacks_its_end() -> None:
    """Cut anywhere: an error of ours, or fewer constants; never another exception."""
    whole = file(numpy_helper.from_array(np.arange(40, dtype=np.int32), "a"), note="text")
    for length in range(len(whole)):
        try:
            found = read_onnx(whole[:length])
        except BundleIntegrityError:
            continue
        assert "note" not in found.notes or found.notes["note"] != "text" or "a" in found.constants


@given(st.binary(max_size=200))
def test_noise_is_refused_or_holds_nothing_of_ours(content: bytes) -> None:
    """Any bytes at all."""
    with contextlib.suppress(BundleIntegrityError):
        read_onnx(content)


@given(st.data())
def test_flipped_bytes_never_crash(data: st.DataObject) -> None:
    """One byte of a real file is another one."""
    whole = bytearray(file(numpy_helper.from_array(np.arange(9, dtype=np.int8), "a"), note="text"))
    whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    with contextlib.suppress(BundleIntegrityError):
        read_onnx(bytes(whole))


def test_the_empty_file_holds_nothing() -> None:
    """As protocol buffers have it."""
    found = read_onnx(b"")
    assert (found.constants, found.notes) == ({}, {})
    assert onnx.ModelProto().SerializeToString() == b""
