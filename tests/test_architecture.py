"""The shape of the code: layers, a runtime without torch, what the wheel holds."""

from __future__ import annotations

import importlib
import pkgutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from glialite_runtime.int8_engine import kernel_kinds

ROOT = Path(__file__).parents[1]
PACKAGES = ("glialite_runtime", "glialite_calibration", "glialite_distill", "glialite_export")

SEGMENT = """
import sys
from glialite_runtime.cli import app
from glialite_runtime.command import run
code = run(app, sys.argv[1:])
heavy = {"torch", "nnunetv2", "monai", "matplotlib", "scipy.ndimage", "skimage", "onnx", "pandas"} & set(sys.modules)
print("HEAVY", sorted(heavy))
sys.exit(code)
"""


def test_a_full_segment_run_imports_no_training_library(case_folder: Path, tmp_path: Path, make_bundle) -> None:
    """From arguments to report: no torch, no nnU-Net, no matplotlib, no SciPy module, in the process."""
    arguments = ["segment", str(case_folder), "--out", str(tmp_path / "out"), "--bundle", str(make_bundle())]
    done = subprocess.run(
        [sys.executable, "-c", SEGMENT, *arguments], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert done.returncode == 0, done.stderr
    assert "HEAVY []" in done.stdout
    assert (tmp_path / "out" / "P01" / "P01-manifest.json").exists()


def test_help_imports_no_numpy(tmp_path: Path) -> None:
    """`--help` answers at once: nothing heavy is imported for it."""
    code = SEGMENT.replace('"torch",', '"torch", "numpy", "onnxruntime", "nibabel", "cc3d",')
    done = subprocess.run(
        [sys.executable, "-c", code, "--help"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert "HEAVY []" in done.stdout, done.stdout


def test_layers_hold() -> None:
    """Export over distill over calibration over runtime; no torch in the lower two."""
    command = [str(Path(sys.executable).parent / "lint-imports"), "--no-cache"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def modules() -> list[str]:
    names = []
    for package in PACKAGES:
        found = importlib.import_module(package)
        names += [f"{package}.{m.name}" for m in pkgutil.iter_modules(found.__path__) if not m.name.startswith("_")]
    return names


@pytest.mark.parametrize("name", modules())
def test_every_public_name_exists(name: str) -> None:
    """`__all__` is declared in every module and tells the truth."""
    module = importlib.import_module(name)
    assert hasattr(module, "__all__"), f"{name} declares no __all__"
    missing = [public for public in module.__all__ if not hasattr(module, public)]
    assert not missing


def test_the_base_install_is_the_runtime() -> None:
    """Without extras nothing is installed that trains or exports."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    names = {requirement.split(">")[0].split("=")[0] for requirement in project["dependencies"]}
    assert names == {"connected-components-3d", "isal", "nibabel", "numpy", "onnxruntime", "typer"}


def test_the_wheel_holds_the_four_packages_and_no_tests(tmp_path: Path) -> None:
    """One wheel with uniquely named packages: nobody else's `runtime` or `calibration` is overwritten."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("runtime", "calibration", "distill", "export", "pyproject.toml", "README.md", "LICENSE"):
        (source / name).symlink_to(ROOT / name)
    code = "import sys, setuptools.build_meta as b; print(b.build_wheel(sys.argv[1]))"
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], cwd=source, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (wheel,) = tmp_path.glob("*.whl")
    held = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in held}
    compiled = [name for name in held if name.startswith("glialite_runtime/_int8") and not name.endswith(".pyi")]
    for name in (
        "clinic/page.html",
        "default_bundle/cpu-int8.onnx",
        "default_bundle/bundle.json.sha256",
        "space/atlas-t1-2mm.nii.gz",
    ):
        assert f"glialite_runtime/{name}" in held
    assert bool(compiled) == bool(kernel_kinds()), "the compiled kernels travel with the wheel"
    assert {name for name in top if not name.endswith(".dist-info")} == set(PACKAGES)
