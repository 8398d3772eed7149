"""Run a bundle's network: one protocol, one implementation a library."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt

from glialite_runtime.bundle import Bundle, Graph
from glialite_runtime.errors import BackendUnavailableError, BundleError, BundleIntegrityError
from glialite_runtime.sequences import REGIONS
from glialite_runtime.slabs import Slab, available_bytes, plan_slabs, usable_cores
from glialite_runtime.tensorrt_engine import open_tensorrt_engine

__all__ = ["DEQUANTISED", "Engine", "OnnxEngine", "golden_agrees", "open_engine"]

DEQUANTISED: Final = "int8 weights in FP32"
"""`Engine.precision` of an INT8 graph whose integer kernels are not used."""

_BYTES_PER_VOXEL: Final = 64
"""Highest use of memory in a run of student S on a whole case, by voxel of its input, measured by `bench/speed.py`."""

_SLAB_VOXELS: Final = 0.9e6
"""Most voxels of a slab where memory is short."""


class Engine(Protocol):
    """Something that turns a normalised case into logits."""

    @property
    def precision(self) -> str:
        """What it computes in, for reports: "int8", "fp16", "fp32" or `DEQUANTISED`."""

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
    low_memory : bool
        Work in slabs, with the same result bit for bit. Without it, that is done where free memory does not suffice.

    Raises
    ------
    BackendUnavailableError
        onnxruntime cannot be imported.
    BundleIntegrityError
        onnxruntime cannot load the graph.
    BundleError
        `low_memory` is asked for, and the graph is not one that can work in slabs.
    """

    def __init__(
        self, graph: Graph, model: bytes, threads: int = 0, *, dequantised: bool = False, low_memory: bool = False
    ) -> None:
        try:
            import onnxruntime  # noqa: PLC0415 - 0.2 s
        except ImportError as error:
            raise BackendUnavailableError(f"onnxruntime cannot be loaded ({error}); install it again") from error
        workers = threads or usable_cores()
        self._session = _session(onnxruntime, graph, model, workers, dequantised=dequantised)
        # Half of what onnxruntime does between convolutions it does on one thread, whatever it is given. So slabs are
        # worked on side by side, on a thread each.
        self._side_by_side = graph.layout == "depth-slabs" and workers > 1 and not low_memory
        self._narrow = (
            _session(onnxruntime, graph, model, 1, dequantised=dequantised) if self._side_by_side else self._session
        )
        self._workers = workers
        if low_memory and graph.layout != "depth-slabs":
            raise BundleError(f"{graph.file} cannot work in slabs, which --low-memory needs; build the bundle again")
        self._nothing = {
            entry.name: np.zeros(
                (0, entry.shape[1], graph.divisor, graph.divisor), np.uint8 if "uint8" in entry.type else np.float32
            )
            for entry in (self._session.get_inputs() if graph.layout == "depth-slabs" else ())
        }
        self._graph = graph
        self._low_memory = low_memory
        self._bytes_per_voxel = _BYTES_PER_VOXEL * (4 if dequantised else 1)  # floats in place of bytes
        self.golden_crop = "not run"
        self.precision = DEQUANTISED if dequantised and graph.precision == "int8" else graph.precision
        self.divisor = graph.divisor

    def logits(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return logits (3, z, y, x) of an image (4, z, y, x), padded with zeros to the divisor and cut back.

        An image whose edges are multiples of the divisor, and whose memory is depth first (see `preprocess`), is not
        copied.
        """
        if self._graph.layout == "depth-slabs":
            table = self._table()
            levels = self._in_slabs(image)
            return np.stack([table[region][levels[region]] for region in range(len(REGIONS))])
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
        limits = np.array(thresholds, np.float32)[:, None]
        if self._graph.layout != "depth-slabs":
            return self.logits(image) > limits[..., None, None]
        # The logit rises with the level, so each threshold is a level: the first one whose logit is above it.
        first = np.count_nonzero(self._table() <= limits, axis=1)
        return self._in_slabs(image, first)

    def _padded(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        missing = [-n % self.divisor for n in image.shape[1:]]
        return np.pad(image, [(0, 0), *((0, n) for n in missing)]) if any(missing) else image

    def _table(self) -> npt.NDArray[np.float32]:
        """Return the logit of each level, (3, 256)."""
        levels = np.repeat(np.arange(256, dtype=np.uint8).reshape(-1, 1, 1, 1), len(REGIONS), axis=1)
        return self._stage(self._session, ("levels_in", "logits"), levels)[:, :, 0, 0].T

    def _in_slabs(
        self, image: npt.NDArray[np.float32], first: npt.NDArray[np.integer] | None = None
    ) -> npt.NDArray[Any]:
        """Return the output's levels, uint8 (3, z, y, x); with `first`, where they are at least `first` of the region.

        The outer stages take nearly all time and memory and see only a few planes around each: they run in slabs, a
        thread each, or one after the other where memory is short; no plane's result depends on where slabs end. What
        lies deeper sees far and is small: it runs whole.
        """
        shape = image.shape[1:]
        image = np.ascontiguousarray(self._padded(image).transpose(1, 0, 2, 3))
        plane = image.shape[2] * image.shape[3]
        tight = self._low_memory or available_bytes() < self._bytes_per_voxel * len(image) * plane
        workers = self._workers if self._side_by_side and not tight else 1
        session = self._session if workers == 1 else self._narrow
        stages = range(len(self._graph.halo))

        def slabs(stage: int) -> tuple[Slab, ...]:
            depth, halo = len(image) >> (stage + 1), self._graph.halo[stage]
            most = _SLAB_VOXELS / plane * 2**stage / 2 if tight else depth / workers + 2 * halo
            return plan_slabs(depth, halo, most)

        entry, below = "image", image
        features = []
        for stage in stages:
            work = partial(self._down, session, (entry, f"features.{stage}"), below)
            below = _each(work, slabs(stage), len(image) >> (stage + 1), workers)
            entry = f"features_in.{stage}"
            features.append(below)
        raised = self._stage(self._session, (entry, f"raised.{stages[-1]}"), below)
        for stage in reversed(stages[1:]):
            work = partial(self._up, session, (f"joined.{stage}", f"raised.{stage - 1}"), (raised, features.pop()))
            raised = _each(work, slabs(stage), len(image) >> stage, workers)
        out = np.empty((len(REGIONS), *shape), np.uint8 if first is None else np.bool_)

        def finish(slab: Slab) -> None:
            levels = self._up(session, ("joined.0", "levels"), (raised, features[0]), slab)
            target = out[:, 2 * slab.keep.start : 2 * slab.keep.stop]
            levels = levels[: target.shape[1], :, : shape[1], : shape[2]]
            for region in range(len(REGIONS)):
                if first is None:
                    target[region] = levels[:, region]
                else:
                    np.greater_equal(levels[:, region], first[region], out=target[region])

        _run(finish, slabs(0), workers)
        return out

    def _down(self, session: Any, ends: tuple[str, str], whole: npt.NDArray[Any], slab: Slab) -> npt.NDArray[Any]:
        return self._stage(session, ends, whole[2 * slab.read.start : 2 * slab.read.stop])[slab.inner]

    def _up(
        self, session: Any, ends: tuple[str, str], whole: tuple[npt.NDArray[Any], ...], slab: Slab
    ) -> npt.NDArray[Any]:
        joined = np.concatenate([part[slab.read] for part in whole], axis=1)
        return self._stage(session, ends, joined)[2 * slab.inner.start : 2 * slab.inner.stop]

    def _stage(self, session: Any, ends: tuple[str, str], given: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Run what lies between an input and an output, `ends`.

        onnxruntime goes through the whole graph in every run; on the other inputs, which are empty, that takes no time.
        """
        entry, result = ends
        found: npt.NDArray[Any] = session.run([result], {**self._nothing, entry: given})[0]
        return found


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


def _run(work: Callable[[Slab], None], slabs: Sequence[Slab], workers: int) -> None:
    """Work on every slab, `workers` at a time."""
    if workers == 1:
        for slab in slabs:
            work(slab)
        return
    with ThreadPoolExecutor(workers) as pool:
        list(pool.map(work, slabs))


def _each(
    work: Callable[[Slab], npt.NDArray[Any]], slabs: Sequence[Slab], depth: int, workers: int
) -> npt.NDArray[Any]:
    """Return the results of all slabs in one array, `depth` long; each is copied into it, then let go."""
    if len(slabs) == 1:
        return work(slabs[0])
    whole: list[npt.NDArray[Any]] = []
    first, scale = threading.Lock(), depth // slabs[-1].keep.stop

    def place(slab: Slab) -> None:
        part = work(slab)
        with first:
            if not whole:
                whole.append(np.empty((depth, *part.shape[1:]), part.dtype))
        whole[0][scale * slab.keep.start : scale * slab.keep.stop] = part

    _run(place, slabs, workers)
    return whole[0]


def golden_agrees(bundle: Bundle, engine: Engine) -> bool:
    """Return whether the bundle's golden crop comes out bit for bit as it did where the bundle was made."""
    image, expected = bundle.golden()
    return np.array_equal(engine.logits(image), expected)


def open_engine(bundle: Bundle, threads: int = 0, *, low_memory: bool = False) -> Engine:
    """Return the engine for a bundle.

    The golden crop is run first, which takes milliseconds: where it does not come out bit for bit, the integer kernels
    of this computer are not trusted, and the same weights run dequantised in FP32 (`precision` says so).
    """
    if all(graph.target == "gpu" for graph in bundle.manifest.graphs):
        return open_tensorrt_engine(bundle)
    graph = bundle.graph("cpu")
    engine = OnnxEngine(graph, bundle.files[graph.file], threads, low_memory=low_memory)
    if golden_agrees(bundle, engine):
        engine.golden_crop = "bit for bit"
        return engine
    engine = OnnxEngine(graph, bundle.files[graph.file], threads, dequantised=True, low_memory=low_memory)
    engine.golden_crop = "differs"
    return engine
