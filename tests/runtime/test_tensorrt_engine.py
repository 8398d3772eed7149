"""The TensorRT engine behind the protocol of all engines: any shape, a golden crop within bounds, words, no crash."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from glialite_runtime import tensorrt_engine
from glialite_runtime.bundle import Bundle, Graph, golden_file
from glialite_runtime.engine import OnnxEngine, open_engine
from glialite_runtime.errors import (
    BackendUnavailableError,
    BundleError,
    BundleIntegrityError,
    CheckFailedError,
    InputError,
)
from glialite_runtime.tensorrt_engine import TensorRtEngine, default_cache, golden_difference, open_tensorrt_engine

from ..conftest import threshold_manifest
from .fake_tensorrt import GRAPH, FakeCuda, FakeTensorRt

GRAPHS = tuple(Graph(f"gpu-{kind}.onnx", "gpu", kind, "volume", 4, 17) for kind in ("fp16", "int8"))
IMAGE = np.random.default_rng(0).normal(size=(4, 6, 9, 11)).astype(np.float32)


@pytest.fixture
def libraries(monkeypatch: pytest.MonkeyPatch) -> tuple[FakeTensorRt, FakeCuda]:
    """Put stand-ins where TensorRT and the CUDA bindings would be."""
    trt, cuda = FakeTensorRt(), FakeCuda()
    bindings = ModuleType("cuda.bindings")
    bindings.runtime = cuda  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tensorrt", trt)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "cuda", ModuleType("cuda"))
    monkeypatch.setitem(sys.modules, "cuda.bindings", bindings)
    return trt, cuda


@pytest.fixture
def bundle() -> Bundle:
    """Return a GPU bundle whose network is arithmetic."""
    image = IMAGE[:, :4, :8, :8].astype(np.float16)
    logits = OnnxEngine(GRAPHS[0], GRAPH).logits(image.astype(np.float32))
    name, content = golden_file(image, logits)
    manifest = replace(
        threshold_manifest(),
        graphs=GRAPHS,
        provenance={"golden": {"tolerance": {graph.file: 0.01 for graph in GRAPHS}}},
    )
    return Bundle(manifest, {"gpu-fp16.onnx": GRAPH, "gpu-int8.onnx": GRAPH, name: content}, "0")


Libraries = tuple[FakeTensorRt, FakeCuda]


def test_logits_are_those_of_the_graph(libraries: Libraries, bundle: Bundle, tmp_path: Path) -> None:
    """Padded to the divisor, copied in, computed, copied out, cut back: as onnxruntime has it."""
    engine = open_tensorrt_engine(bundle, cache=tmp_path)
    np.testing.assert_array_equal(engine.logits(IMAGE), OnnxEngine(GRAPHS[0], GRAPH).logits(IMAGE))
    assert (engine.precision, engine.divisor, engine.golden_crop) == ("fp16", 4, "within 0.01")


def test_memory_on_the_gpu_is_given_back(libraries: Libraries, bundle: Bundle, tmp_path: Path) -> None:
    """After each case no buffer is left, and the stream was waited for."""
    engine = open_tensorrt_engine(bundle, cache=tmp_path)
    engine.logits(IMAGE)
    assert not libraries[1].buffers
    assert libraries[1].streams_waited == 2


def test_image_in_any_memory_order_is_read_right(libraries: Libraries, bundle: Bundle, tmp_path: Path) -> None:
    """A transposed view, as `volume` makes them, means the same as its copy."""
    engine = open_tensorrt_engine(bundle, cache=tmp_path)
    view = np.asfortranarray(IMAGE[:, :4, :8, :8])
    np.testing.assert_array_equal(engine.logits(view), engine.logits(np.ascontiguousarray(view)))


def test_every_command_opens_a_gpu_bundle(
    libraries: Libraries, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`open_engine` sees that there is no graph for CPUs."""
    monkeypatch.setattr(tensorrt_engine, "default_cache", lambda: tmp_path)
    assert isinstance(open_engine(bundle), TensorRtEngine)


def test_int8_runs_when_it_is_asked_for(libraries: Libraries, bundle: Bundle, tmp_path: Path) -> None:
    """FP16 is the rule."""
    assert open_tensorrt_engine(bundle, "int8", tmp_path).precision == "int8"


def test_case_that_is_too_large_is_refused_with_what_to_do(
    libraries: Libraries, bundle: Bundle, tmp_path: Path
) -> None:
    """Nothing is sent to the GPU; the message says how large it may be."""
    engine = open_tensorrt_engine(bundle, cache=tmp_path)
    waited = libraries[1].streams_waited
    with pytest.raises(InputError, match=r"at most \(128, 128, 128\); crop the scan"):
        engine.logits(np.zeros((4, 4, 4, 129), np.float32))
    assert libraries[1].streams_waited == waited


def test_gpu_without_memory_is_said_and_nothing_leaks(libraries: Libraries, bundle: Bundle, tmp_path: Path) -> None:
    """The first buffer fits, the second one does not."""
    engine = open_tensorrt_engine(bundle, cache=tmp_path)
    libraries[1].free_bytes = 4 * 4 * 8 * 12 * 12 - 1
    with pytest.raises(BackendUnavailableError, match="out of memory"):
        engine.logits(IMAGE)
    assert not libraries[1].buffers


def test_gpu_without_memory_for_the_engine_is_said(libraries: Libraries, bundle: Bundle, tmp_path: Path) -> None:
    """TensorRT gives no context then."""
    libraries[0].refuse_context = True
    with pytest.raises(BackendUnavailableError, match="NVIDIA L4 has too little free memory"):
        open_tensorrt_engine(bundle, cache=tmp_path)


def test_no_driver_is_said(libraries: Libraries, bundle: Bundle, tmp_path: Path) -> None:
    """The computer has the libraries and no GPU."""
    libraries[1].has_driver = False
    with pytest.raises(BackendUnavailableError, match="driver is insufficient"):
        open_tensorrt_engine(bundle, cache=tmp_path)


@pytest.mark.parametrize("missing", ["tensorrt", "cuda.bindings"])
def test_missing_library_names_the_extra(
    libraries: Libraries, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    """Exit code 5, with the command that installs it."""
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(BackendUnavailableError, match=r"glialite\[tensorrt\].*--extra-index-url") as caught:
        open_tensorrt_engine(bundle, cache=tmp_path)
    assert caught.value.exit_code == 5
    assert missing in str(caught.value)


def test_golden_crop_that_comes_out_differently_is_refused(
    libraries: Libraries, bundle: Bundle, tmp_path: Path
) -> None:
    """A GPU's bits are its own, but not its masks."""
    image, logits = bundle.golden()
    name, content = golden_file(image.astype(np.float16), logits * np.float32(1.02))
    other = replace(bundle, files={**bundle.files, name: content})
    with pytest.raises(CheckFailedError, match="comes out differently on this GPU"):
        open_tensorrt_engine(other, cache=tmp_path)


def test_bundle_for_cpus_is_refused(libraries: Libraries, bundle: Bundle, tmp_path: Path) -> None:
    """It holds no graph for GPUs; the message says how to make one."""
    with pytest.raises(BundleError, match="--target gpu"):
        open_tensorrt_engine(replace(bundle, manifest=threshold_manifest()), cache=tmp_path)


@pytest.mark.parametrize("provenance", [{}, {"golden": {"tolerance": {"gpu-fp16.onnx": "much"}}}, {"golden": 1}])
def test_bundle_without_a_tolerance_is_refused(
    libraries: Libraries, bundle: Bundle, tmp_path: Path, provenance: dict[str, object]
) -> None:
    """Without it nothing can be said about this GPU."""
    with pytest.raises(BundleIntegrityError, match="how far the golden crop"):
        open_tensorrt_engine(replace(bundle, manifest=replace(bundle.manifest, provenance=provenance)), cache=tmp_path)
    assert not list(tmp_path.iterdir())


def test_engine_of_another_output_is_refused(
    libraries: Libraries, bundle: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Logits of another shape than the image's would be read from the wrong place."""
    engine = open_tensorrt_engine(bundle, cache=tmp_path)
    monkeypatch.setattr(
        engine,
        "_context",
        SimpleNamespace(set_input_shape=lambda *_: True, get_tensor_shape=lambda _: (1, 2, 8, 12, 12)),
    )
    with pytest.raises(BundleIntegrityError, match="logits of shape"):
        engine.logits(IMAGE)
    assert not libraries[1].buffers


def test_golden_difference_by_hand() -> None:
    """3 and 4 against 3 and 5: root mean square sqrt(1/2) over sqrt(25/2)."""
    one, other = np.array([3.0, 4.0], np.float32), np.array([3.0, 5.0], np.float32)
    assert golden_difference(one, other) == pytest.approx(0.2)
    assert golden_difference(one, one) == 0
    assert golden_difference(np.zeros(2, np.float32), one) > 1
    assert golden_difference(one, np.array([3.0, np.nan], np.float32)) == np.inf
    assert golden_difference(one, one[:1]) == np.inf


def test_engines_are_kept_in_the_users_own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Loading an engine executes it, so it never comes out of a bundle."""
    monkeypatch.setattr(tensorrt_engine.Path, "home", lambda: tmp_path)
    assert default_cache().is_relative_to(tmp_path)
