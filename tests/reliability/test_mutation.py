"""How a damaged input that went through the command is judged, and the phantom's study that is damaged."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from bench.reliability import mutation
from bench.reliability.command import Ending
from bench.reliability.damage import BYTES
from bench.reliability.study import written_study

DONE, REFUSED = Ending(0, "", 1.0, 300), Ending(3, "error: it is damaged", 1.0, 300)


def left(out: Path, verdict: str | None = "good", *, manifest: bool = True) -> Path:
    (out / "study").mkdir(parents=True)
    if verdict is not None:
        (out / "study" / "study-report.json").write_text(json.dumps({"quality": {"verdict": verdict}}))
    if manifest:
        (out / "study" / "study-manifest.json").write_text("{}")
    return out


def test_results_must_fit_the_exit_code(tmp_path: Path) -> None:
    """Done: finished, with a verdict. Refused: nothing. Any other code is none of the two."""
    judge = mutation._wrong_results
    assert judge(DONE, left(tmp_path / "a"), "study") == ""
    assert judge(REFUSED, tmp_path / "nothing", "study") == ""
    assert "verdict 'none'" in judge(DONE, left(tmp_path / "b", "none"), "study")
    assert "exit code 0" in judge(DONE, left(tmp_path / "c", manifest=False), "study")
    assert "exit code 3" in judge(REFUSED, left(tmp_path / "d"), "study")
    assert "exit code 7" in judge(Ending(7, "error: full", 1.0, 300), tmp_path / "nothing", "study")


def test_every_trial_damages_one_file_of_a_copy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The study itself stays whole; few trials meet all series; what the command took is kept."""
    base = tmp_path / "study"
    base.mkdir()
    for name in (f"{series}-{index:03}.dcm" for series in ("t1c", "t1n", "t2f", "t2w") for index in range(13)):
        (base / name).write_bytes(name.encode() * 100)
    met: list[str] = []

    def command(*words: str, prefix: tuple[str, ...]) -> Ending:
        assert (words[0], words[-1], prefix[0]) == ("segment", "--yes", "timeout")
        changed = [p.name for p in Path(words[1]).iterdir() if p.read_bytes() != (base / p.name).read_bytes()]
        met.extend(changed)
        return REFUSED

    monkeypatch.setattr(mutation, "glialite", command)
    trials = [mutation.by_command(base, BYTES, tmp_path, number, ("--yes",)) for number in range(0, 70, 7)]
    assert {(t["outcome"], t["fault"], t["peak_mb"]) for t in trials} == {("command: refused", "", 300)}
    assert len(met) == len(set(met)) == 10
    assert len({name[:3] for name in met}) == 4


def test_a_phantom_becomes_a_study_of_four_sequences(tmp_path: Path) -> None:
    """Each recognised without a doubt, at its true size; made once, and nothing half-made is left."""
    pytest.importorskip("pydicom", reason="pydicom is not installed (extra: dicom)")
    from glialite_runtime.dicom.study import read_study

    (tmp_path / "cases" / "P1").mkdir(parents=True)
    for sequence in ("t1n", "t1c", "t2w", "t2f"):
        voxels = np.arange(24 * 20 * 28, dtype=np.int16).reshape(24, 20, 28)
        nib.save(nib.Nifti1Image(voxels, np.diag([8.0, 8, 8, 1])), tmp_path / "cases" / "P1" / f"P1-{sequence}.nii.gz")
    made = written_study(tmp_path / "cases", tmp_path / "work")
    assert [p.name for p in (tmp_path / "work").iterdir()] == ["study"]
    assert Counter(p.name[:3] for p in made.iterdir()) == {"t1n": 14, "t1c": 14, "t2w": 14, "t2f": 14}
    study = read_study(made)
    assert (list(study.chosen), study.left_out, study.doubtful) == (["t1n", "t1c", "t2w", "t2f"], (), False)
    series = study.chosen["t1n"].series
    assert (series.spacing_mm, series.coverage_mm) == (16.0, 224.0)
    assert written_study(tmp_path / "absent", tmp_path / "work") == made
