"""Build a TensorRT engine out of a bundle's graph, once for each GPU, and keep it.

An engine fits one GPU and one version of TensorRT only, so it is built where it runs and never travels in a bundle; a
cache in the user's own folder keeps it. Loading an engine executes it: the cache is for engines made here, and nothing
that came from elsewhere belongs into it.

Source: NVIDIA, TensorRT documentation, "Python API Documentation": builder, parser, optimisation profile, timing cache.
"""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glialite_runtime.errors import BackendUnavailableError, BundleIntegrityError
from glialite_runtime.files import sha256_bytes, write_bytes
from glialite_runtime.sequences import SEQUENCES

__all__ = ["INPUT", "OUTPUT", "Profile", "build_engine", "cached_engine", "engine_file", "profile_for"]

INPUT: Final = "image"
OUTPUT: Final = "logits"

_LARGEST_MM: Final = 256.0
"""Edge of the largest volume that an engine takes: the field of view of a head scan."""

_USUAL_MM: Final = (144.0, 176.0, 144.0)
"""Extents (z, y, x) that an engine is tuned for: a BraTS case cropped to the brain."""

logger = logging.getLogger(__name__)

Edges = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Profile:
    """The volumes that an engine takes: smallest, usual and largest edges (z, y, x), in voxels."""

    smallest: Edges
    usual: Edges
    largest: Edges


def profile_for(spacing_mm: tuple[float, float, float], divisor: int) -> Profile:
    """Return the volumes that a network at a voxel size must take; every edge is a multiple of `divisor`."""

    def edges(extents_mm: tuple[float, float, float]) -> Edges:
        z, y, x = (
            divisor * max(1, round(mm / spacing / divisor)) for mm, spacing in zip(extents_mm, spacing_mm, strict=True)
        )
        return z, y, x

    return Profile((divisor,) * 3, edges(_USUAL_MM), edges((_LARGEST_MM,) * 3))


def engine_file(cache: Path, graph: bytes, profile: Profile, version: str, gpu: str) -> Path:
    """Return where the engine of a graph lies: named by graph and profile, TensorRT's version, and GPU."""
    key = sha256_bytes(graph + repr(profile).encode())[:16]
    return cache / f"{key}-{_machine(version, gpu)}.engine"


def _machine(version: str, gpu: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", f"tensorrt-{version}-{gpu}".lower()).strip("-")


def cached_engine(trt: Any, graph: bytes, profile: Profile, gpu: str, cache: Path) -> Any:
    """Return the engine of a graph, ready to run; built now when the cache does not hold one that can be loaded.

    Parameters
    ----------
    trt : module
        tensorrt.
    graph : bytes
        ONNX file.
    profile : Profile
        Volumes that it must take.
    gpu : str
        Name of the GPU.
    cache : Path
        Folder for engines and timings, created when missing.

    Returns
    -------
    tensorrt.ICudaEngine

    Raises
    ------
    BundleIntegrityError
        TensorRT cannot read the graph.
    BackendUnavailableError
        TensorRT cannot start, build the engine, or load what it built.
    OutputError
        The cache cannot be written.
    """
    path = engine_file(cache, graph, profile, trt.__version__, gpu)
    runtime = _started(trt.Runtime, _messages(trt))
    engine = runtime.deserialize_cuda_engine(path.read_bytes()) if path.is_file() else None
    if engine is None:  # a driver or a library that changed makes an old engine useless
        logger.info("building a TensorRT engine for %s; this takes minutes, once", gpu)
        content = build_engine(trt, graph, profile, cache / f"{_machine(trt.__version__, gpu)}.timings")
        write_bytes(path, content)
        engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise BackendUnavailableError(f"TensorRT {trt.__version__} cannot load the engine that it built for {gpu}")
    return engine


def build_engine(trt: Any, graph: bytes, profile: Profile, timings: Path) -> bytes:
    """Build a strongly typed engine: the types in the graph are the types that it computes in.

    Parameters
    ----------
    trt : module
        tensorrt.
    graph : bytes
        ONNX file.
    profile : Profile
        Volumes that it must take.
    timings : Path
        What earlier builds on this GPU measured; read when it is there, and written.

    Returns
    -------
    bytes
        The serialised engine.

    Raises
    ------
    BundleIntegrityError
        TensorRT cannot read the graph; the message says why.
    BackendUnavailableError
        TensorRT cannot start, or not build the engine on this GPU.
    OutputError
        The timings cannot be written.
    """
    messages = _messages(trt)
    builder = _started(trt.Builder, messages)
    # TensorRT 11 types every network strongly and ignores the flag; 10 needs it.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, messages)
    if not parser.parse(graph):
        reasons = "; ".join(parser.get_error(place).desc() for place in range(parser.num_errors))
        raise BundleIntegrityError(f"TensorRT {trt.__version__} cannot read the bundle's graph: {reasons}")
    config = builder.create_builder_config()
    shapes = builder.create_optimization_profile()
    channels = (1, len(SEQUENCES))
    shapes.set_shape(INPUT, *((*channels, *edges) for edges in (profile.smallest, profile.usual, profile.largest)))
    config.add_optimization_profile(shapes)
    known = config.create_timing_cache(timings.read_bytes() if timings.is_file() else b"")
    if not config.set_timing_cache(known, ignore_mismatch=False):
        config.set_timing_cache(config.create_timing_cache(b""), ignore_mismatch=False)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BackendUnavailableError(
            f"TensorRT {trt.__version__} cannot build an engine on this GPU: {messages.last or 'no reason was given'}; "
            "use the CPU bundle here"
        )
    write_bytes(timings, bytes(config.get_timing_cache().serialize()))
    return bytes(engine)


def _started(factory: Any, messages: Any) -> Any:
    """Return what a factory of TensorRT makes; its bindings raise a bare `TypeError` where the driver is too old."""
    try:
        return factory(messages)
    except TypeError as error:
        raise BackendUnavailableError(
            f"TensorRT cannot start on this computer: {messages.last or error}; update the GPU's driver, or use the "
            "CPU bundle"
        ) from error


def _messages(trt: Any) -> Any:
    """Return a logger for TensorRT that passes on to `logging`; its own one prints to stdout."""
    levels = {
        trt.ILogger.Severity.INTERNAL_ERROR: logging.ERROR,
        trt.ILogger.Severity.ERROR: logging.ERROR,
        trt.ILogger.Severity.WARNING: logging.WARNING,
    }

    class Messages(trt.ILogger):  # the base class exists only where TensorRT does
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: Any, msg: str) -> None:
            level = levels.get(severity, logging.DEBUG)
            logger.log(level, "%s", msg)
            if level == logging.ERROR:
                self.last = msg

    return Messages()
