"""What one call of the command writes, and which calls make no sense."""

from __future__ import annotations

from pathlib import Path

import pytest
from glialite_distill.score_report import Evaluation, evaluate_predictions
from glialite_distill.scores import Settings
from glialite_runtime.errors import ConfigError

from tests.distill.test_label_maps import blob, write

PLAIN = Settings()


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Return a folder with a reference `t` and predictions `p` and `q` of two cases."""
    for name in ("t", "p", "q"):
        for number, case in enumerate(("BraTS-SSA-00001-000", "TCGA-DU-0001")):
            labels = blob((8, 8, 8))
            labels[number:, 4:] = 0
            if name == "q":
                labels[:2] = 0
            write(tmp_path / name / f"{case}.nii.gz", labels)
    return tmp_path


def test_a_report_has_tables_charts_and_pictures(folders: Path) -> None:
    """Every picture that the page names is there; sites, sizes and both models are in it."""
    report = folders / "report"
    report.mkdir()
    (report / "worst-09-old-case.png").write_bytes(b"of an earlier evaluation")
    predictions = (str(folders / "p"), f"worse={folders / 'q'}")
    asked = Evaluation(folders / "t", predictions, Settings("brats-2024"), folders / "s.csv", report, None)
    value, text = evaluate_predictions(asked)
    assert list(value) == ["ET", "TC", "WT"]
    assert list(value["WT"]) == ["p", "worse"]
    assert "Whole tumour" in text
    page = (report / "table.md").read_text()
    pictures = [line.split("(")[1].rstrip(")") for line in page.splitlines() if line.startswith("![")]
    assert len(pictures) == 2 + 4
    assert sorted(pictures) == sorted(p.name for p in report.glob("*.png"))
    assert all((report / name).stat().st_size > 1000 for name in pictures)
    assert "brats-2024, constants of SSA" in page
    for words in ("Models side by side", "BraTS-SSA", "TCGA-DU", "Bland-Altman", "Worst cases"):
        assert words in page
    assert (folders / "s.csv").read_text().startswith("model,case,Labels,")


def test_run_lengths_need_no_reference(folders: Path) -> None:
    """All predictions are written; nothing is scored."""
    value, _ = evaluate_predictions(Evaluation(None, (str(folders / "p"),), PLAIN, None, None, folders / "s.csv"))
    assert value["cases"] == ["BraTS-SSA-00001-000", "TCGA-DU-0001"]
    assert len((folders / "s.csv").read_text().splitlines()) == 7


@pytest.mark.parametrize(
    ("reference", "predictions", "csv", "rle", "message"),
    [
        (None, ("p",), None, None, "need --reference"),
        (None, ("p",), "s.csv", "r.csv", "need --reference"),
        ("t", ("p",), None, None, "need --csv"),
        ("t", ("p", "q"), "s.csv", "r.csv", "one folder of predictions, not 2"),
    ],
)
def test_options_that_do_not_fit_are_refused(
    reference: str | None, predictions: tuple[str, ...], csv: str | None, rle: str | None, message: str, folders: Path
) -> None:
    """Before anything is read or written."""

    def path(name: str | None) -> Path | None:
        return folders / name if name else None

    asked = Evaluation(path(reference), tuple(str(folders / p) for p in predictions), PLAIN, path(csv), None, path(rle))
    with pytest.raises(ConfigError, match=message):
        evaluate_predictions(asked)
    assert not list(folders.glob("*.csv"))
