"""A student becomes a 3-D ONNX graph."""

import warnings

import numpy as np
import onnx
import pytest
import torch
from glialite_distill.student import STUDENTS, Student
from glialite_export.graph import edges_of
from glialite_export.onnx_export import export_network, export_student
from glialite_runtime.errors import ExportError
from torch import nn

from .conftest import run


def test_graph_equals_the_network(student: Student, native: onnx.ModelProto) -> None:
    """The graph gives the network's logits on a shape that it was not traced with."""
    image = torch.randn(1, 4, 12, 20, 8, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        expected = student(image).numpy()
    difference = np.abs(run(native, image.numpy()) - expected).max() / np.abs(expected).max()
    assert difference < 1e-5


def test_names_and_edges(native: onnx.ModelProto) -> None:
    """Input `image`, output `logits`, batch 1, symbolic edges."""
    assert {value.name: edges_of(value) for value in (native.graph.input[0], native.graph.output[0])} == {
        "image": (1, 4, "depth", "height", "width"),
        "logits": (1, 3, "depth", "height", "width"),
    }


def test_no_normalisation_identity_or_path_is_left(native: onnx.ModelProto) -> None:
    """BatchNorm is folded, and nothing in the file tells where it was made."""
    assert {node.op_type for node in native.graph.node} <= {"Conv", "ConvTranspose", "Relu", "Concat"}
    assert b".py" not in native.SerializeToString()


def test_export_is_deterministic(student: Student, native: onnx.ModelProto) -> None:
    """The same student gives the same bytes."""
    assert export_student(student).SerializeToString() == native.SerializeToString()


def test_export_is_silent(capfd: pytest.CaptureFixture[str], student: Student) -> None:
    """The exporter's deprecation notices do not reach the user."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        export_student(student)
    assert capfd.readouterr() == ("", "")


def test_training_mode_is_refused() -> None:
    """BatchNorm in training mode would export batch statistics."""
    with pytest.raises(ExportError, match="training mode"):
        export_student(Student(STUDENTS["S"]))


def test_network_that_cannot_be_exported_is_an_export_error() -> None:
    """PyTorch's own exception does not reach the user bare."""

    class Sorts(nn.Module):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return torch.linalg.eigvals(image).real

    with pytest.raises(ExportError, match="Sorts"):
        export_network(Sorts().eval(), 4, 1)
