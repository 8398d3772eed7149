"""TensorRT engines: built by the documented calls, kept for the GPU and version that they fit, refused in words."""

from __future__ import annotations

from pathlib import Path

import pytest
from glialite_runtime.errors import BackendUnavailableError, BundleIntegrityError
from glialite_runtime.tensorrt_build import Profile, build_engine, cached_engine, engine_file, profile_for

from .fake_tensorrt import GRAPH, FakeTensorRt

PROFILE = Profile((16, 16, 16), (80, 96, 80), (128, 128, 128))
Capture = pytest.CaptureFixture[str]


@pytest.fixture
def trt() -> FakeTensorRt:
    """Return a fresh stand-in."""
    return FakeTensorRt()


def test_network_is_strongly_typed_and_bounded(trt: FakeTensorRt, tmp_path: Path) -> None:
    """The types of the graph decide, and the profile spans the volumes from smallest to largest."""
    assert build_engine(trt, b"graph", PROFILE, tmp_path / "timings")
    assert trt.flags == [1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)]
    assert trt.shapes == {"image": ((1, 4, 16, 16, 16), (1, 4, 80, 96, 80), (1, 4, 128, 128, 128))}
    assert trt.calls == ["parse", "build"]


def test_timings_are_kept_for_the_next_build(trt: FakeTensorRt, tmp_path: Path) -> None:
    """The first build measures, the second one is given what it measured."""
    for _ in range(2):
        build_engine(trt, b"graph", PROFILE, tmp_path / "timings")
    assert trt.timings_given == [b"", b"measured"]
    assert [path.name for path in tmp_path.iterdir()] == ["timings"]


def test_timings_of_another_gpu_are_put_aside(trt: FakeTensorRt, tmp_path: Path) -> None:
    """TensorRT refuses them; the build starts from none."""
    (tmp_path / "timings").write_bytes(b"of another GPU")
    trt.refuse_timings = True
    build_engine(trt, b"graph", PROFILE, tmp_path / "timings")
    assert trt.timings_given == [b"of another GPU", b""]
    assert (tmp_path / "timings").read_bytes() == b"measured"


def test_graph_that_cannot_be_parsed_says_why(trt: FakeTensorRt, tmp_path: Path) -> None:
    """The parser's own words are in the message; nothing is left behind."""
    trt.refuse_parsing = True
    with pytest.raises(BundleIntegrityError, match="zero point must be 0"):
        build_engine(trt, b"graph", PROFILE, tmp_path / "timings")
    assert not list(tmp_path.iterdir())


def test_engine_that_cannot_be_built_says_why(trt: FakeTensorRt, tmp_path: Path, capsys: Capture) -> None:
    """TensorRT's last error is in the message, and not on stdout."""
    trt.refuse_building = True
    with pytest.raises(BackendUnavailableError, match="Could not find any implementation"):
        cached_engine(trt, b"graph", PROFILE, "NVIDIA L4", tmp_path)
    assert not list(tmp_path.iterdir())
    assert capsys.readouterr().out == ""


def test_tensorrt_that_does_not_start_says_why(trt: FakeTensorRt, tmp_path: Path) -> None:
    """The bindings raise a bare TypeError; the message has TensorRT's own words instead."""
    trt.refuse_starting = True
    for attempt in (
        lambda: build_engine(trt, b"graph", PROFILE, tmp_path / "timings"),
        lambda: cached_engine(trt, b"graph", PROFILE, "NVIDIA L4", tmp_path),
    ):
        with pytest.raises(BackendUnavailableError, match="CUDA initialization failure"):
            attempt()


def test_engine_is_built_once(trt: FakeTensorRt, tmp_path: Path) -> None:
    """The second time it is loaded."""
    cached_engine(trt, GRAPH, PROFILE, "NVIDIA L4", tmp_path)
    cached_engine(trt, GRAPH, PROFILE, "NVIDIA L4", tmp_path)
    assert trt.calls == ["parse", "build", "load", "load"]


@pytest.mark.parametrize("content", [b"", b"half an eng", b'["10.3.0", "00"]'])
def test_engine_that_cannot_be_loaded_is_built_again(trt: FakeTensorRt, tmp_path: Path, content: bytes) -> None:
    """Damage and other versions cost a build, not the case."""
    path = engine_file(tmp_path, GRAPH, PROFILE, trt.__version__, "NVIDIA L4")
    path.write_bytes(content)
    assert cached_engine(trt, GRAPH, PROFILE, "NVIDIA L4", tmp_path) is not None
    assert trt.calls == ["parse", "build", "load"]
    assert path.read_bytes() != content


def test_engine_file_depends_on_all_that_it_fits(tmp_path: Path) -> None:
    """Another graph, profile, version or GPU is another file; the name is one that every system takes."""
    usual = (b"graph", PROFILE, "11.4.0.106", "NVIDIA L4")
    others = [
        (b"other", *usual[1:]),
        (usual[0], Profile((8, 8, 8), (80, 96, 80), (128, 128, 128)), *usual[2:]),
        (*usual[:2], "10.3.0", usual[3]),
        (*usual[:3], "Tesla T4/../x"),
    ]
    files = {engine_file(tmp_path, *arguments) for arguments in (usual, *others)}
    assert len(files) == 5
    assert all(
        file.parent == tmp_path and set(file.name) <= set("abcdefghijklmnopqrstuvwxyz0123456789.-") for file in files
    )


@pytest.mark.parametrize(
    ("spacing_mm", "divisor", "largest"),
    [
        ((1.0, 1.0, 1.0), 16, (256, 256, 256)),
        ((2.0, 2.0, 2.0), 16, (128, 128, 128)),
        ((5.0, 1.0, 1.0), 16, (48, 256, 256)),
    ],
)
def test_profile_covers_a_head_at_the_models_voxel_size(
    spacing_mm: tuple[float, float, float], divisor: int, largest: tuple[int, int, int]
) -> None:
    """256 mm at most, the divisor at least, multiples of it in between."""
    profile = profile_for(spacing_mm, divisor)
    assert profile.largest == largest
    assert profile.smallest == (divisor,) * 3
    assert all(
        a <= b <= c and b % divisor == 0
        for a, b, c in zip(profile.smallest, profile.usual, profile.largest, strict=True)
    )


@pytest.mark.tensorrt
def test_a_real_engine_is_built(tmp_path: Path) -> None:
    """With TensorRT and a GPU, the graph becomes an engine."""
    trt = pytest.importorskip("tensorrt", reason="TensorRT is not installed: NVIDIA's own index has it")
    runtime = pytest.importorskip("cuda.bindings.runtime", reason="NVIDIA's CUDA bindings are not installed")
    error, properties = runtime.cudaGetDeviceProperties(0)
    if error != runtime.cudaError_t.cudaSuccess:
        pytest.skip("there is no GPU")
    assert cached_engine(trt, GRAPH, PROFILE, properties.name.decode(), tmp_path) is not None
