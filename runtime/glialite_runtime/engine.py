"""Run a bundle's network: one protocol, and the choice of what runs it on this computer."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from glialite_runtime.bundle import Bundle, Graph
from glialite_runtime.errors import BackendUnavailableError, BundleIntegrityError
from glialite_runtime.int8_engine import Int8Engine, kernel_kinds
from glialite_runtime.int8_network import read_network
from glialite_runtime.sequences import REGIONS
from glialite_runtime.tensorrt_engine import open_tensorrt_engine
from glialite_runtime.uncertainty import bands_of

__all__ = ["DEQUANTISED", "Engine", "OnnxEngine", "golden_agrees", "open_engine"]

DEQUANTISED: Final = "int8 weights in FP32"
"""`Engine.precision` of an INT8 graph whose integer kernels are not used."""


class Engine(Protocol):
    """Something that turns a normalised case into logits."""

    @property
    def precision(self) -> str:
        """What it computes in, for reports: "int8", "fp16", "fp32" or `DEQUANTISED`."""

    @property
    def kernels(self) -> str:
        """Whose code computes, for reports: "GliaLite vnni", "onnxruntime 1.31.0"."""

    @property
    def divisor(self) -> int:
        """Edges that are multiples of this need no padding."""

    @property
    def golden_crop(self) -> str:
        """Whether the bundle's golden crop came out as it did where it was made, for reports."""

    def logits(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return logits (3, z, y, x) of an image (4, z, y, x); any shape is accepted."""

    def above(self, image: npt.NDArray[np.float32], thresholds: Sequence[float]) -> npt.NDArray[np.bool_]:
        """Return where each region's logit is above its threshold, bool (3, z, y, x); `logits` compared, but faster."""

    def bands(
        self, image: npt.NDArray[np.float32], thresholds: Sequence[float], margin: float
    ) -> npt.NDArray[np.uint8]:
        """Return how each region's logit lies to its threshold, uint8 (3, z, y, x); see `uncertainty.bands_of`."""


class OnnxEngine:
    """A graph in onnxruntime on the CPU. May be used by several threads at once.

    Parameters
    ----------
    graph : Graph
        Layout and divisor.
    model : bytes
        The ONNX file; weights inside.
    threads : int
        Threads of the network; 0 lets onnxruntime choose one a core.
    dequantised : bool
        Leave the graph as it is written, so that an INT8 graph computes in FP32 with the same weights: for a processor
        whose integer kernels do not give the bits that they should.

    Raises
    ------
    BackendUnavailableError
        onnxruntime cannot be imported.
    BundleIntegrityError
        onnxruntime cannot load the graph.
    """

    def __init__(self, graph: Graph, model: bytes, threads: int = 0, *, dequantised: bool = False) -> None:
        try:
            import onnxruntime  # noqa: PLC0415 - 0.2 s
        except ImportError as error:
            raise BackendUnavailableError(f"onnxruntime cannot be loaded ({error}); install it again") from error
        self._session = _session(onnxruntime, graph, model, threads, dequantised=dequantised)
        self._graph = graph
        self.golden_crop = "not run"
        self.kernels = f"onnxruntime {onnxruntime.__version__}"
        self.precision = DEQUANTISED if dequantised and graph.precision == "int8" else graph.precision
        self.divisor = graph.divisor

    def logits(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return logits (3, z, y, x) of an image (4, z, y, x), padded with zeros to the divisor and cut back.

        An image whose edges are multiples of the divisor, and whose memory is depth first (see `preprocess`), is not
        copied.
        """
        z, y, x = image.shape[1:]
        image = self._padded(image)
        if self._graph.layout == "volume":
            out = self._session.run(["logits"], {"image": np.ascontiguousarray(image[None])})[0][0]
        else:
            depth_first = np.ascontiguousarray(image.transpose(1, 0, 2, 3))
            out = self._session.run(["logits"], {"image": depth_first})[0].transpose(1, 0, 2, 3)
        if out.shape != (len(REGIONS), *image.shape[1:]):
            raise BundleIntegrityError(
                f"{self._graph.file} gave logits of shape {out.shape}, not {(len(REGIONS), *image.shape[1:])}"
            )
        logits: npt.NDArray[np.float32] = out[:, :z, :y, :x]
        return logits

    def above(self, image: npt.NDArray[np.float32], thresholds: Sequence[float]) -> npt.NDArray[np.bool_]:
        """Return where each region's logit is above its threshold, bool (3, z, y, x)."""
        limits = np.array(thresholds, np.float32).reshape(-1, 1, 1, 1)
        return self.logits(image) > limits

    def bands(
        self, image: npt.NDArray[np.float32], thresholds: Sequence[float], margin: float
    ) -> npt.NDArray[np.uint8]:
        """Return how each region's logit lies to its threshold, uint8 (3, z, y, x); see `uncertainty.bands_of`."""
        return bands_of(self.logits(image), thresholds, margin)

    def _padded(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        missing = [-n % self.divisor for n in image.shape[1:]]
        return np.pad(image, [(0, 0), *((0, n) for n in missing)]) if any(missing) else image


def _session(onnxruntime: Any, graph: Graph, model: bytes, threads: int, *, dequantised: bool) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    # A plan of one block for all activations is a third larger than what is alive at any time.
    options.enable_mem_pattern = False
    # Threads that wait by spinning take the processor from whatever else runs on an old computer.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    if dequantised:
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a dozen exception types without a common base but this
        raise BundleIntegrityError(f"onnxruntime cannot load {graph.file}: {str(error)[:300]}") from error


def golden_agrees(bundle: Bundle, engine: Engine) -> bool:
    """Return whether the bundle's golden crop comes out bit for bit as it did where the bundle was made."""
    image, expected = bundle.golden()
    return np.array_equal(engine.logits(image), expected)


def open_engine(bundle: Bundle, threads: int = 0, *, low_memory: bool = False) -> Engine:
    """Return the engine for a bundle.

    The compiled kernels where there are some for this processor and this bundle, else onnxruntime's. The golden crop is
    run first, which takes milliseconds: where it does not come out bit for bit, integer kernels are not trusted on this
    computer, and the same weights run dequantised in FP32 (`precision` says so).
    """
    if all(graph.target == "gpu" for graph in bundle.manifest.graphs):
        return open_tensorrt_engine(bundle)
    graph = bundle.graph("cpu")
    model = bundle.files[graph.file]
    for engine in _engines(graph, model, threads, low_memory=low_memory):
        if golden_agrees(bundle, engine):
            engine.golden_crop = "bit for bit"
            return engine
    dequantised = OnnxEngine(graph, model, threads, dequantised=True)
    dequantised.golden_crop = "differs"
    return dequantised


def _engines(graph: Graph, model: bytes, threads: int, *, low_memory: bool) -> Iterator[Int8Engine | OnnxEngine]:
    """Yield what may run a graph on the CPU, the fastest first. The compiled kernels need little memory anyway."""
    network = read_network(model) if graph.precision == "int8" else None
    if network is not None and next(iter(kernel_kinds()), "portable") != "portable":
        yield Int8Engine(graph, network, threads)
    elif low_memory:
        raise BackendUnavailableError(
            "--low-memory needs the compiled kernels, which are not there for this processor or this bundle; leave it "
            "out to work in onnxruntime, with about 450 MB"
        )
    yield OnnxEngine(graph, model, threads)
