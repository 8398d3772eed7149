"""The self-test: golden crop, a whole case timed, and what happens where the golden crop differs."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from glialite_runtime import trial
from glialite_runtime.bundle import golden_file, read_bundle, write_bundle
from glialite_runtime.cli import app
from glialite_runtime.command import run
from glialite_runtime.errors import CheckFailedError
from glialite_runtime.verify import selftest
from glialite_runtime.volume import load_volume

MakeBundle = Callable[..., Path]


def call(*arguments: object) -> int:
    return run(app, [str(a) for a in arguments])


@pytest.fixture
def foreign_bundle(make_bundle: MakeBundle, tmp_path: Path) -> Path:
    """Return a bundle that is whole, but whose golden crop was made by another arithmetic."""
    bundle = read_bundle(make_bundle())
    image, logits = bundle.golden()
    logits[1, 2, 3, 4] = np.nextafter(logits[1, 2, 3, 4], np.float32(9))
    name, content = golden_file(image.astype(np.float16), logits)
    write_bundle(tmp_path / "foreign", replace(bundle.manifest, name="foreign"), {**bundle.files, name: content})
    return tmp_path / "foreign"


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make the synthetic case small: these tests are about what is said of it."""
    monkeypatch.setattr(trial, "_SHAPE", (60, 64, 48))
    monkeypatch.setattr(trial, "_RADII", (22, 24, 18))


@pytest.mark.usefixtures("small")
def test_the_selftest_says_what_a_case_takes_here(make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]) -> None:
    """Bit for bit, seconds, memory, processor, versions: for people and, with --json, for machines."""
    bundle = make_bundle()
    assert call("selftest", "--bundle", bundle) == 0
    text = capsys.readouterr().out
    assert "bit for bit" in text
    assert "MB of memory" in text
    assert call("selftest", "--bundle", bundle, "--json", "--threads", 1) == 0
    facts = json.loads(capsys.readouterr().out)
    assert facts["golden_crop"] == "bit for bit"
    assert 0 < facts["seconds"] < 60
    assert 30 < facts["peak_memory_mb"] < 20_000
    assert facts["threads"] == 1
    assert facts["processor"]
    assert set(facts["stages_s"]) >= {"read", "preprocess", "network", "postprocess"}


@pytest.mark.usefixtures("small")
def test_a_golden_crop_that_differs_by_one_bit_is_exit_code_6(
    foreign_bundle: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The measurement is printed all the same; the sentence says what is done instead."""
    assert call("selftest", "--bundle", foreign_bundle, "--json") == 6
    said = capsys.readouterr()
    assert json.loads(said.out)["golden_crop"] == "differs"
    assert "dequantised, in FP32, instead, and every report says so" in said.err
    with pytest.raises(CheckFailedError, match="foreign"):
        selftest(read_bundle(foreign_bundle))


def test_a_case_is_segmented_all_the_same_and_its_report_says_so(
    case_folder: Path, foreign_bundle: Path, make_bundle: MakeBundle, tmp_path: Path
) -> None:
    """JSON and page of such a computer carry the warning; where all is well the page is silent."""
    pages = []
    for name, bundle in (("differs", foreign_bundle), ("bit for bit", make_bundle())):
        assert call("segment", case_folder, "--out", tmp_path / name, "--bundle", bundle) == 0
        report = json.loads((tmp_path / name / "P01" / "P01-report.json").read_text())
        assert report["bundle"]["golden_crop"] == name
        assert report["bundle"]["precision"] == "fp32"
        pages.append((tmp_path / name / "P01" / "P01-report.html").read_text())
    assert "self-check of the model did not come out" in pages[0]
    assert "self-check" not in pages[1]


def test_the_synthetic_case_is_as_large_as_a_scan(tmp_path: Path) -> None:
    """BraTS geometry, a brain of an adult's volume, and the same voxels each time."""
    case = trial.write_synthetic_case(tmp_path)
    volume = load_volume(case)
    assert volume.channels[0].shape == (155, 240, 240)
    assert volume.spacing_mm == (1, 1, 1)
    assert 1400 < np.count_nonzero(volume.channels[0]) / 1000 < 1800
    first = case.paths["t1c"].read_bytes()
    assert trial.write_synthetic_case(tmp_path).paths["t1c"].read_bytes() == first
