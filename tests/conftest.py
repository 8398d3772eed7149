"""Fixtures that all tests share: a case with a known tumour, a bundle whose network is arithmetic, the real scans."""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
from glialite_runtime.bundle import Graph, Manifest, golden_file, write_bundle
from glialite_runtime.decode import DecisionRule
from glialite_runtime.sequences import SEQUENCES

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as every command does: see glialite_runtime.command

LPS = np.diag([-1.0, -1.0, 1.0, 1.0]) + np.array([[0, 0, 0, 0.0], [0, 0, 0, 239], [0, 0, 0, 0], [0, 0, 0, 0]])

BIAS = (-6.0, -8.0, -14.0)
"""Of the threshold network: WT above 1.5 SD in FLAIR, TC above 2 and ET above 3.5 SD in T1c."""

REAL_DATA = Path(os.environ.get("GLIALITE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))


def load_bench(name: str) -> ModuleType:
    """Return a script of bench/ as a module."""
    spec = importlib.util.spec_from_file_location(name, Path(__file__).parents[1] / "bench" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Return the folder of real scans, or skip where it is absent."""
    if not REAL_DATA.is_dir():
        pytest.skip("real scans are absent: set GLIALITE_TEST_DATA to their folder")
    return REAL_DATA


@dataclass(frozen=True)
class Toy:
    """A ball of brain with a ball of tumour in it: oedema 2, core 1, enhancing 3; arrays (x, y, z)."""

    images: dict[str, npt.NDArray[np.int16]]
    labels: npt.NDArray[np.uint8]
    affine: npt.NDArray[np.float64]


def toy(shape: tuple[int, int, int] = (60, 64, 48), seed: int = 0) -> Toy:
    """Return a toy case; the affine says 2 mm, axes LPS."""
    rng = np.random.default_rng(seed)
    at = np.indices(shape).astype(float)
    centre = np.array(shape)[:, None, None, None] / 2
    brain = np.sqrt((((at - centre) / (centre * 0.8)) ** 2).sum(0)) < 1
    distance = np.sqrt(((at - centre * np.array([1.3, 0.9, 1.1])[:, None, None, None]) ** 2).sum(0))
    labels = np.zeros(shape, np.uint8)
    labels[distance < 9] = 2
    labels[distance < 6] = 3
    labels[distance < 3] = 1
    values = {
        "t1n": (300, 290, 240, 280),
        "t1c": (300, 295, 450, 600),
        "t2w": (300, 520, 480, 380),
        "t2f": (300, 700, 600, 560),
    }
    images = {}
    for sequence, levels in values.items():
        image = np.choose(labels, [levels[0], levels[2], levels[1], levels[3]]) + rng.normal(0, 12, shape)
        images[sequence] = np.where(brain, np.maximum(image, 1), 0).astype(np.int16)
    affine = np.diag([-2.0, -2.0, 2.0, 1.0])
    affine[:3, 3] = [100, 120, -70]
    return Toy(images, labels * brain, affine)


def save(path: Path, data: npt.NDArray[np.generic], affine: npt.NDArray[np.float64]) -> Path:
    """Write an array (x, y, z) as NIfTI with qform and sform."""
    image = nib.Nifti1Image(data, affine)
    image.set_qform(affine, 1)
    image.set_sform(affine, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return path


def write_case(folder: Path, case: Toy) -> Path:
    """Write a toy as a BraTS case folder named after `folder`."""
    for sequence, image in case.images.items():
        save(folder / f"{folder.name}-{sequence}.nii.gz", image, case.affine)
    save(folder / f"{folder.name}-seg.nii.gz", case.labels, case.affine)
    return folder


@pytest.fixture
def case_folder(tmp_path: Path) -> Path:
    """Return a fresh case folder with a toy case in it."""
    return write_case(tmp_path / "P01", toy())


def threshold_graph() -> bytes:
    """Return a lowered graph whose logits are linear in the sequences: bright FLAIR is WT, bright T1c is ET."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    weights = np.zeros((3, 4, 1, 1), np.float32)
    weights[0, SEQUENCES.index("t2f")] = 4
    weights[1:, SEQUENCES.index("t1c")] = 4
    bias = np.array(BIAS, np.float32)
    graph = helper.make_graph(
        [helper.make_node("Conv", ["image", "w", "b"], ["logits"])],
        "threshold",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["depth", 4, "height", "width"])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["depth", 3, "height", "width"])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(bias, "b")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)
    onnx.checker.check_model(model)
    content: bytes = model.SerializeToString()
    return content


def threshold_manifest(spacing_mm: float = 2.0, minimum_mm3: float = 0) -> Manifest:
    """Return the manifest of the threshold bundle."""
    return Manifest(
        name="threshold",
        created="2026-01-01T00:00:00+00:00",
        software="test",
        accepted_sequences=(SEQUENCES,),
        spacing_mm=(spacing_mm, spacing_mm, spacing_mm),
        decision=DecisionRule(minimum_mm3=(minimum_mm3,) * 3),
        graphs=(Graph("cpu-int8.onnx", "cpu", "fp32", "depth-as-batch", 4, 17),),
        provenance={},
        trained_on="Not trained: two thresholds.",
        intended_use="Tests only.",
    )


@pytest.fixture
def make_bundle(tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the threshold bundle, as a folder or a zip."""

    def make(name: str = "bundle", spacing_mm: float = 2.0, minimum_mm3: float = 0) -> Path:
        rng = np.random.default_rng(0)
        image = rng.normal(size=(4, 8, 8, 8)).astype(np.float16)
        weights = np.array([[0, 0, 0, 4], [0, 4, 0, 0], [0, 4, 0, 0]], np.float32)
        logits = np.einsum("rc,czyx->rzyx", weights, image.astype(np.float32))
        logits += np.array(BIAS, np.float32)[:, None, None, None]
        golden, content = golden_file(image, _network_logits(image.astype(np.float32), logits))
        files = {"cpu-int8.onnx": threshold_graph(), golden: content, "MODEL_CARD.md": b"# threshold\n"}
        write_bundle(tmp_path / name, threshold_manifest(spacing_mm, minimum_mm3), files)
        return tmp_path / name

    return make


def _network_logits(image: npt.NDArray[np.float32], expected: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return what onnxruntime gives for the threshold graph, after a look that it is what arithmetic says."""
    from glialite_runtime.engine import OnnxEngine

    got = OnnxEngine(threshold_manifest().graphs[0], threshold_graph()).logits(image)
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-4)
    return got
