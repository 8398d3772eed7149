"""Run a bundle's network: one protocol, one implementation a library."""

from __future__ import annotations

from typing import Protocol

import numpy as np
import numpy.typing as npt

from glialite_runtime.bundle import Bundle, Graph
from glialite_runtime.errors import BackendUnavailableError, BundleIntegrityError
from glialite_runtime.sequences import REGIONS

__all__ = ["Engine", "OnnxEngine", "open_engine"]


class Engine(Protocol):
    """Something that turns a normalised case into logits."""

    def logits(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return logits (3, z, y, x) of an image (4, z, y, x); any shape is accepted."""


class OnnxEngine:
    """A graph in onnxruntime on the CPU.

    Parameters
    ----------
    graph : Graph
        Layout and divisor.
    model : bytes
        The ONNX file; weights inside.
    threads : int
        Threads of the network; 0 lets onnxruntime choose one a core.

    Raises
    ------
    BackendUnavailableError
        onnxruntime cannot be imported.
    BundleIntegrityError
        onnxruntime cannot load the graph.
    """

    def __init__(self, graph: Graph, model: bytes, threads: int = 0) -> None:
        try:
            import onnxruntime  # noqa: PLC0415 - 0.2 s
        except ImportError as error:
            raise BackendUnavailableError(f"onnxruntime cannot be loaded ({error}); install it again") from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # onnxruntime has a dozen exception types without a common base but this
            raise BundleIntegrityError(f"onnxruntime cannot load {graph.file}: {str(error)[:300]}") from error
        self._graph = graph

    def logits(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return logits (3, z, y, x) of an image (4, z, y, x), padded with zeros to the divisor and cut back."""
        channels, *shape = image.shape
        divisor = self._graph.divisor
        z, y, x = shape
        padded = [-(-n // divisor) * divisor for n in shape]
        if self._graph.layout == "depth-as-batch":
            batch = np.zeros((padded[0], channels, *padded[1:]), np.float32)
            batch[:z, :, :y, :x] = image.transpose(1, 0, 2, 3)
            out = self._session.run(["logits"], {"image": batch})[0].transpose(1, 0, 2, 3)
        else:
            whole = np.zeros((1, channels, *padded), np.float32)
            whole[0, :, :z, :y, :x] = image
            out = self._session.run(["logits"], {"image": whole})[0][0]
        if out.shape != (len(REGIONS), *padded):
            raise BundleIntegrityError(f"{self._graph.file} gave logits of shape {out.shape}, not {(3, *padded)}")
        logits: npt.NDArray[np.float32] = out[:, :z, :y, :x]
        return logits


def open_engine(bundle: Bundle, threads: int = 0) -> Engine:
    """Return the engine for a clinic bundle: its CPU graph."""
    graph = bundle.graph("cpu")
    return OnnxEngine(graph, bundle.files[graph.file], threads)
