"""Run a GPU bundle with TensorRT, behind the same protocol as the CPU's engine.

Buffers on the GPU come from NVIDIA's own CUDA bindings, so that no torch is needed.

Which graph: FP16 unless INT8 is asked for. On a GPU the network takes a small part of a case's time either way, so the
more exact graph is the better choice; INT8 halves the memory of weights and activations.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from glialite_runtime.bundle import Bundle, Graph
from glialite_runtime.errors import (
    BackendUnavailableError,
    BundleError,
    BundleIntegrityError,
    CheckFailedError,
    InputError,
)
from glialite_runtime.sequences import REGIONS
from glialite_runtime.tensorrt_build import INPUT, OUTPUT, Profile, cached_engine, profile_for
from glialite_runtime.uncertainty import bands_of

__all__ = ["TensorRtEngine", "default_cache", "golden_difference", "golden_tolerance", "open_tensorrt_engine"]

Array = npt.NDArray[np.float32]


class TensorRtEngine:
    """A graph in TensorRT on the first GPU. May be used by several threads; they take turns.

    Parameters
    ----------
    graph : Graph
        Layout "volume", precision and divisor.
    model : bytes
        The ONNX file.
    profile : Profile
        Volumes that the engine takes.
    cache : Path
        Folder that keeps the built engine.

    Raises
    ------
    BackendUnavailableError
        TensorRT, the CUDA bindings, a driver or a GPU is missing, or no engine can be built.
    BundleIntegrityError
        TensorRT cannot read the graph.
    OutputError
        The cache cannot be written.
    """

    def __init__(self, graph: Graph, model: bytes, profile: Profile, cache: Path) -> None:
        trt, self._cuda = _libraries()
        gpu = self._done(self._cuda.cudaGetDeviceProperties(0)).name.decode()
        self._engine = cached_engine(trt, model, profile, gpu, cache)
        self._context = self._engine.create_execution_context()
        if self._context is None:
            raise BackendUnavailableError(
                f"{gpu} has too little free memory for {graph.file}; close what uses it, or use the CPU bundle"
            )
        self._stream = self._done(self._cuda.cudaStreamCreate())
        self._turn = threading.Lock()
        self._graph = graph
        self._largest = profile.largest
        self.precision = graph.precision
        self.divisor = graph.divisor
        self.golden_crop = "not run"
        self.kernels = "TensorRT"

    def logits(self, image: Array) -> Array:
        """Return logits (3, z, y, x) of an image (4, z, y, x), padded with zeros to the divisor and cut back.

        Raises
        ------
        InputError
            The case is larger than what the engine was built for.
        BackendUnavailableError
            The GPU fails, or has too little memory left.
        """
        z, y, x = image.shape[1:]
        if any(n > most for n, most in zip((z, y, x), self._largest, strict=True)):
            raise InputError(
                f"the case has {(z, y, x)} voxels (z, y, x) at the model's voxel size, this engine takes at most "
                f"{self._largest}; crop the scan to the head, or use the CPU bundle"
            )
        padded = np.ascontiguousarray(np.pad(image, [(0, 0), *((0, -n % self.divisor) for n in (z, y, x))])[None])
        out = np.empty((1, len(REGIONS), *padded.shape[2:]), np.float32)
        with self._turn, self._buffer(padded.nbytes) as given, self._buffer(out.nbytes) as result:
            self._run(padded, given, out, result)
        return out[0, :, :z, :y, :x]

    def above(self, image: Array, thresholds: Sequence[float]) -> npt.NDArray[np.bool_]:
        """Return where each region's logit is above its threshold, bool (3, z, y, x)."""
        return self.logits(image) > np.array(thresholds, np.float32).reshape(-1, 1, 1, 1)

    def bands(self, image: Array, thresholds: Sequence[float], margin: float) -> npt.NDArray[np.uint8]:
        """Return how each region's logit lies to its threshold, uint8 (3, z, y, x); see `uncertainty.bands_of`."""
        return bands_of(self.logits(image), thresholds, margin)

    def _run(self, image: Array, given: int, out: Array, result: int) -> None:
        """Copy in, compute, copy out; `given` and `result` are addresses on the GPU."""
        kinds = self._cuda.cudaMemcpyKind
        self._context.set_input_shape(INPUT, image.shape)
        if tuple(self._context.get_tensor_shape(OUTPUT)) != out.shape:
            raise BundleIntegrityError(
                f"{self._graph.file} gives logits of shape {tuple(self._context.get_tensor_shape(OUTPUT))}, "
                f"not {out.shape}"
            )
        self._context.set_tensor_address(INPUT, given)
        self._context.set_tensor_address(OUTPUT, result)
        copy = self._cuda.cudaMemcpyAsync
        self._done(copy(given, image.ctypes.data, image.nbytes, kinds.cudaMemcpyHostToDevice, self._stream))
        started = self._context.execute_async_v3(int(self._stream))
        self._done(copy(out.ctypes.data, result, out.nbytes, kinds.cudaMemcpyDeviceToHost, self._stream))
        self._done(self._cuda.cudaStreamSynchronize(self._stream))
        if not started:
            raise BackendUnavailableError(f"TensorRT could not run {self._graph.file}; use the CPU bundle")

    @contextmanager
    def _buffer(self, size: int) -> Iterator[int]:
        """Yield the address of `size` bytes on the GPU, and free them."""
        address = self._done(self._cuda.cudaMalloc(size))
        try:
            yield int(address)
        finally:
            self._cuda.cudaFree(address)

    def _done(self, answer: tuple[Any, ...]) -> Any:
        """Return what a CUDA call gave, without its error code."""
        error, *values = answer
        if error != self._cuda.cudaError_t.cudaSuccess:
            reason = self._cuda.cudaGetErrorString(error)[1].decode()
            raise BackendUnavailableError(
                f"the GPU cannot be used ({reason}); check its driver and free memory, or use the CPU bundle"
            )
        return values[0] if values else None


def _libraries() -> tuple[Any, Any]:
    try:
        import tensorrt  # noqa: PLC0415 - an extra
        from cuda.bindings import runtime  # noqa: PLC0415
    except ImportError as error:
        raise BackendUnavailableError(
            f"GPU bundles need {error.name or 'TensorRT'}, which is not installed: "
            "pip install 'glialite[tensorrt]' --extra-index-url https://pypi.nvidia.com, or use the CPU bundle"
        ) from error
    return tensorrt, runtime


def default_cache() -> Path:
    """Return the user's folder for engines."""
    return Path.home() / ".cache" / "glialite" / "tensorrt"


def open_tensorrt_engine(bundle: Bundle, precision: str = "fp16", cache: Path | None = None) -> TensorRtEngine:
    """Return the engine for a GPU bundle; the first time on a GPU, building it takes minutes.

    Parameters
    ----------
    bundle : Bundle
        Holds GPU graphs.
    precision : str
        "fp16" or "int8".
    cache : Path, optional
        Folder for built engines; `default_cache()` without it.

    Raises
    ------
    BundleError
        The bundle holds no such graph, or does not say how far its golden crop may be off.
    BackendUnavailableError
        TensorRT, the CUDA bindings, a driver or a GPU is missing.
    CheckFailedError
        The golden crop comes out differently by more than the bundle allows.
    """
    graph = next((g for g in bundle.manifest.graphs if (g.target, g.precision) == ("gpu", precision)), None)
    if graph is None:
        raise BundleError(
            f"the bundle {bundle.manifest.name} holds no {precision} graph for GPUs; "
            "make one: edge-export build --target gpu"
        )
    tolerance = golden_tolerance(bundle, graph)
    profile = profile_for(bundle.manifest.spacing_mm, graph.divisor)
    engine = TensorRtEngine(graph, bundle.files[graph.file], profile, cache or default_cache())
    image, expected = bundle.golden()
    difference = golden_difference(expected, engine.logits(image))
    if not difference <= tolerance:
        raise CheckFailedError(
            f"the golden crop of {bundle.manifest.name} comes out differently on this GPU (relative difference "
            f"{difference:.3g}, at most {tolerance:.3g} is allowed); do not use it here, use the CPU bundle"
        )
    engine.golden_crop = f"within {tolerance:.2g}"
    return engine


def golden_difference(expected: Array, logits: Array) -> float:
    """Return the root mean square of the difference over that of `expected`; infinity for other shapes and NaN.

    Parameters
    ----------
    expected, logits : float32 arrays of one shape
        The golden crop's logits as the bundle has them (from FP32), and as they came out here.
    """
    if logits.shape != expected.shape or not np.isfinite(logits).all():
        return float("inf")
    scale = max(float(np.abs(expected).max()), float(np.finfo(np.float32).tiny))
    one, other = (array.astype(np.float64) / scale for array in (expected, logits))
    return float(np.sqrt(np.mean(np.square(one - other)) / max(float(np.mean(np.square(one))), 1e-30)))


def golden_tolerance(bundle: Bundle, graph: Graph) -> float:
    """Return how far the golden crop of a GPU graph may be off (see `golden_difference`), as the bundle says.

    Raises
    ------
    BundleIntegrityError
        The bundle does not say it.
    """
    try:
        return float(bundle.manifest.provenance["golden"]["tolerance"][graph.file])
    except (KeyError, TypeError, ValueError) as error:
        raise BundleIntegrityError(
            f"the bundle {bundle.manifest.name} does not say how far the golden crop of {graph.file} may be off"
        ) from error
