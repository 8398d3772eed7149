"""The packaged program: refusals before the long work, and the real thing under a clinic's conditions."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from glialite_distill.phantom import write_cohort
from glialite_export import executable
from glialite_export.cli import app
from glialite_export.executable import MAX_ARCHIVE_BYTES, MAX_FOLDER_BYTES, Package, package
from glialite_export.signing import make_keys, read_secret_key, sign_bundle
from glialite_runtime.command import run
from glialite_runtime.errors import (
    BackendUnavailableError,
    BundleError,
    CheckFailedError,
    ConfigError,
    ExportError,
    OutputError,
)

from bench.reliability.study import written_study

MakeBundle = Callable[..., Path]


@pytest.fixture
def gatherer(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend that everything that packaging needs is installed."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)


def test_what_is_missing_is_named(make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 5, with the extras to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "dcm2niix" else name)
    with pytest.raises(BackendUnavailableError, match=r"dcm2niix.*glialite\[package,dicom\]"):
        package(make_bundle(), tmp_path / "out")


@pytest.mark.usefixtures("gatherer")
def test_a_folder_of_somebody_else_is_not_replaced(
    make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only what this command made may be made again."""
    monkeypatch.setattr(executable, "__version__", "1")
    monkeypatch.setattr(executable.platform, "system", lambda: "Linux")
    monkeypatch.setattr(executable.platform, "machine", lambda: "x")
    thesis = tmp_path / "out" / "glialite-1-linux-x" / "thesis.tex"
    thesis.parent.mkdir(parents=True)
    thesis.write_text("years of work")
    with pytest.raises(OutputError, match="not made by this command"):
        package(make_bundle(), tmp_path / "out")
    assert thesis.exists()


@pytest.mark.usefixtures("gatherer")
def test_a_bundle_that_the_program_would_refuse_is_refused_now(make_bundle: MakeBundle, tmp_path: Path) -> None:
    """An unsigned bundle does not go into a program that trusts a key."""
    _, public = make_keys(tmp_path / "release")
    with pytest.raises(BundleError, match="only what release signed"):
        package(make_bundle(), tmp_path / "out", (public,))
    with pytest.raises(ConfigError, match="not a public key"):
        package(make_bundle(), tmp_path / "out", (tmp_path / "absent.pub",))
    assert not (tmp_path / "out").exists()


@pytest.mark.usefixtures("gatherer")
def test_a_failure_leaves_nothing(make_bundle: MakeBundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """PyInstaller's own words come through, and the work folder goes."""
    pytest.importorskip("dcm2niix")
    failed = subprocess.CompletedProcess([], 1, "", "no such hook")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: failed)
    with pytest.raises(ExportError, match="no such hook"):
        package(make_bundle(), tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_a_program_without_the_kernels_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would work, four times as slowly, and nobody would know why."""
    monkeypatch.setattr(executable, "_output", lambda *_: json.dumps({"kernels": "onnxruntime 1.31.0"}))
    with pytest.raises(CheckFailedError, match="lacks the compiled kernels"):
        executable._try(tmp_path)


def test_a_program_that_cannot_write_dicom_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A clinic would learn of it from its first study."""
    said = {"kernels": "GliaLite avx2", "dicom": "No module named 'sqlite3'"}
    monkeypatch.setattr(executable, "_output", lambda *_: json.dumps(said))
    with pytest.raises(CheckFailedError, match="cannot write DICOM results: No module named 'sqlite3'"):
        executable._try(tmp_path)


def test_only_python_s_libraries_and_ours_are_stripped(tmp_path: Path) -> None:
    """Stripping what was repaired for a wheel breaks it."""
    named = {"numpy": False, "_int8.abi3.so": True, "libopenblas.so": False}
    for name, stripped in named.items():
        assert executable._carries_debugging(executable.Held(name, tmp_path / name)) is stripped


@pytest.fixture(scope="module")
def release(student_file: Path, workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Package, Path]:
    """Return a program that trusts one key, and a bundle that the key signed."""
    for name in executable._NEEDED:
        pytest.importorskip(name)
    root = tmp_path_factory.mktemp("release")
    bundle = root / "bundle"
    assert run(app, ["build", "--student", str(student_file), "--workspace", str(workspace), "--out", str(bundle)]) == 0
    secret, public = make_keys(root / "release")
    sign_bundle(bundle, read_secret_key(secret))
    return package(bundle, root / "out", (public,)), bundle


@pytest.mark.slow
def test_the_program_is_small_and_its_archive_holds_it(release: tuple[Package, Path]) -> None:
    """Within the limits, without links, with licences, bill of materials and checksums that agree."""
    made, _ = release
    assert made.folder_bytes <= MAX_FOLDER_BYTES
    assert made.archive_bytes <= MAX_ARCHIVE_BYTES
    assert not [path for path in made.folder.rglob("*") if path.is_symlink()]
    parts = {part["name"]: part for part in json.loads((made.folder / "sbom.cdx.json").read_bytes())["components"]}
    assert {"numpy", "onnxruntime", "pydicom", "highdicom", "dcm2niix", "CPython", "glialite"} <= set(parts)
    assert not {"torch", "scipy", "requests", "urllib3", "pytest"} & set(parts)
    assert (made.folder / "licenses" / "numpy").is_dir()
    done = subprocess.run(["sha256sum", "--check", "--quiet", "SHA256SUMS"], cwd=made.folder, check=False)
    assert done.returncode == 0
    with tarfile.open(made.archive) as archive:
        assert f"{made.folder.name}/SHA256SUMS" in archive.getnames()


@pytest.mark.slow
def test_it_segments_under_a_clinic_s_conditions(
    release: tuple[Package, Path], case_folder: Path, tmp_path: Path
) -> None:
    """Moved elsewhere, read-only, an empty environment, no network, a user without a home, no Python on the path."""
    moved = tmp_path / "USB stick" / "glialite"
    shutil.copytree(release[0].folder, moved)
    for path in (moved, *moved.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    command = ["env", "-i", str(moved / "glialite"), "segment", str(case_folder), "--out", str(tmp_path / "results")]
    if os.geteuid() == 0:  # whom permissions do not stop: become somebody else
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *command]
        for folder in (p for p in (tmp_path, *tmp_path.parents) if p.is_relative_to(tempfile.gettempdir())):
            folder.chmod(folder.stat().st_mode | 0o111)
        tmp_path.chmod(0o777)
    if shutil.which("unshare") and subprocess.run(["unshare", "--net", "true"], check=False).returncode == 0:
        command = ["unshare", "--net", *command]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd="/")
    assert done.returncode == 0, done.stderr
    report = json.loads((tmp_path / "results" / "P01" / "P01-report.json").read_bytes())
    assert report["bundle"]["kernels"].startswith("GliaLite")


@pytest.mark.slow
def test_it_segments_a_dicom_study(release: tuple[Package, Path], tmp_path: Path) -> None:
    """Without an environment and a network: outline, pictures and report come as DICOM."""
    write_cohort(tmp_path / "cases", patients=1, seed=3, style="gli", spacing_mm=2)
    study = written_study(tmp_path / "cases", tmp_path)
    command = [str(release[0].folder / "glialite"), "segment", str(study), "--yes", "--out", str(tmp_path / "results")]
    done = subprocess.run(["unshare", "-rn", *command], capture_output=True, text=True, check=False, env={})
    assert done.returncode == 0, done.stderr
    assert "DICOM results" not in done.stderr
    assert {path.name for path in (tmp_path / "results").rglob("*.dcm")} == {
        "study-seg.dcm", "study-pictures.dcm", "study-report.dcm"
    }  # fmt: skip


@pytest.mark.slow
def test_it_uses_only_what_its_makers_signed(
    release: tuple[Package, Path], case_folder: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """An unsigned bundle given to it ends with exit code 4."""
    made, _ = release
    command = [str(made.folder / "glialite"), "segment", str(case_folder), "--out", str(tmp_path / "results")]
    done = subprocess.run(
        [*command, "--bundle", str(make_bundle())], capture_output=True, text=True, check=False, env={}
    )
    assert done.returncode == 4
    assert "only what release signed" in done.stderr
