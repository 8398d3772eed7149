"""Write a trained student as a native 3-D ONNX graph with its normalisation folded into the convolutions."""

from __future__ import annotations

import io
import warnings
from typing import Final

import onnx
import torch
from glialite_distill.student import Student
from glialite_runtime.errors import ExportError
from glialite_runtime.sequences import REGIONS, SEQUENCES
from torch import nn

from glialite_export.graph import OPSET, checked, fold_batchnorm, inline_constants, strip

__all__ = ["INPUT", "OUTPUT", "export_network", "export_student"]

INPUT: Final = "image"
OUTPUT: Final = "logits"


def export_student(student: Student) -> onnx.ModelProto:
    """Return the student as an FP32 graph: `image` (1, 4, depth, height, width) to `logits` (1, 3, …).

    See `export_network`; the edges that the graph accepts are multiples of `student.spec.divisor`.
    """
    model = export_network(student, len(SEQUENCES), student.spec.divisor)
    channels = model.graph.output[0].type.tensor_type.shape.dim[1].dim_value
    if channels != len(REGIONS):
        raise ExportError(f"the student writes {channels} channels; {len(REGIONS)} were needed ({', '.join(REGIONS)})")
    return model


def export_network(network: nn.Module, channels: int, divisor: int) -> onnx.ModelProto:
    """Export a 3-D network with one input and one output to ONNX.

    Parameters
    ----------
    network : nn.Module
        Maps (1, channels, z, y, x) float32 to the same with other channels; in eval mode.
    channels : int
        Channels of the input.
    divisor : int
        Edges of the input are multiples of this.

    Returns
    -------
    onnx.ModelProto
        Batch 1, symbolic edges `depth`, `height`, `width`; BatchNorm folded, no external data, no paths inside.

    Raises
    ------
    ExportError
        The network is in training mode, or PyTorch's exporter or onnx's checker refuses it.
    """
    if network.training:
        raise ExportError("the network is in training mode, its BatchNorm would not be fixed; call .eval() first")
    edges = {2: "depth", 3: "height", 4: "width"}
    buffer = io.BytesIO()
    example = torch.zeros(1, channels, *(max(2 * divisor, 8),) * 3)
    try:
        with warnings.catch_warnings(), torch.no_grad():
            # The TorchScript exporter is marked as deprecated, but takes 1 s where its successor takes 10 s,
            # and writes plain `depth`, `height`, `width` where that one writes formulas.
            warnings.simplefilter("ignore")
            torch.onnx.export(
                network,
                (example,),
                buffer,  # type: ignore[arg-type]  # the TorchScript exporter writes to streams too
                opset_version=OPSET,
                input_names=[INPUT],
                output_names=[OUTPUT],
                dynamic_axes={INPUT: edges, OUTPUT: edges},
                dynamo=False,
            )
    except (RuntimeError, torch.onnx.OnnxExporterError) as error:
        raise ExportError(f"PyTorch cannot export the network {type(network).__name__}: {error}") from error
    model, _ = inline_constants(onnx.load_from_string(buffer.getvalue()))
    model, _ = fold_batchnorm(model)
    return checked(strip(model))
