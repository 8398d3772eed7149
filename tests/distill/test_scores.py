"""Scoring label maps: rows, means, tables, and what is refused."""

from __future__ import annotations

import csv
import math
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from glialite_distill.label_maps import Model, read_pair
from glialite_distill.scores import COLUMNS, Score, Settings, score_folders, score_pair, summary, write_csv
from glialite_runtime.errors import ConfigError, InputError

from tests.conftest import save
from tests.distill.test_label_maps import write

PLAIN = Settings()


def row(*values: int) -> np.ndarray:
    """Return a label map of one line of voxels."""
    return np.array(values).reshape(-1, 1, 1)


def score_one(tmp_path: Path, truth: np.ndarray, prediction: np.ndarray, settings: Settings = PLAIN) -> list[Score]:
    """Write one case on both sides and score it."""
    write(tmp_path / "t" / "P1.nii.gz", truth)
    write(tmp_path / "p" / "P1" / "P1-seg.nii.gz", prediction)
    return score_folders(tmp_path / "t", [Model("p", tmp_path / "p")], settings)


def score(case: str, region: str, dice: float, model: str = "m", volumes: tuple[float, float] = (1, 1)) -> Score:
    """Return a score that holds a Dice alone."""
    return Score(model, case, region, *volumes, MappingProxyType({"Dice": dice}))


def test_dice_by_hand(tmp_path: Path) -> None:
    """Truth 3 3 1 2 against prediction 3 1 1 0: ET 2/3, TC 1, WT 6/7, in the order ET, TC, WT."""
    scores = score_one(tmp_path, row(3, 3, 1, 2, 0), row(3, 1, 1, 0, 0))
    assert [(s.case, s.region) for s in scores] == [("P1", "ET"), ("P1", "TC"), ("P1", "WT")]
    assert [s.values["Dice"] for s in scores] == pytest.approx([2 / 3, 1, 6 / 7])


def test_distances_and_volumes_by_hand(tmp_path: Path) -> None:
    """Lines of four voxels shifted by one: NSD 3/4 and 1, HD95 1 mm; three predicted of four true are −25 %."""
    wt = score_one(tmp_path, row(2, 2, 2, 2, 0), row(0, 2, 2, 2, 2))[2].values
    assert [wt[c] for c in ("HD95", "NSD @ 0.5", "NSD @ 1.0", "Volume_Error_mL")] == [1, 0.75, 1, 0]
    less = score_one(tmp_path / "less", row(2, 2, 2, 2), row(2, 2, 2, 0))[2]
    assert (less.reference_ml, less.predicted_ml) == (0.004, 0.003)
    assert (less.values["Volume_Error_mL"], less.values["Volume_Error_Percent"]) == pytest.approx((-0.001, -25))


def test_a_region_that_both_lack_has_no_score(tmp_path: Path) -> None:
    """Dice, HD95 and NSD are undefined; the volume error is 0 mL, in per cent undefined."""
    et = score_one(tmp_path, row(2, 2, 0), row(2, 0, 0))[0].values
    assert all(math.isnan(et[c]) for c in ("Dice", "HD95", "NSD @ 0.5", "NSD @ 1.0", "Volume_Error_Percent"))
    assert et["Volume_Error_mL"] == 0


@pytest.mark.parametrize("invented", [True, False])
def test_a_region_that_one_side_lacks_costs(invented: bool, tmp_path: Path) -> None:
    """Dice and NSD 0, HD95 the image's diagonal; a mean that left it out would flatter."""
    maps = (row(0, 0, 0), row(3, 0, 0)) if invented else (row(3, 0, 0), row(0, 0, 0))
    et = score_one(tmp_path, *maps)[0].values
    assert [et[c] for c in ("Dice", "NSD @ 0.5", "NSD @ 1.0")] == [0, 0, 0]
    assert et["HD95"] == pytest.approx(math.sqrt(9 + 1 + 1))
    percent = et["Volume_Error_Percent"]
    assert math.isnan(percent) if invented else percent == -100


def test_conventions_are_declared_for_each_side(tmp_path: Path) -> None:
    """An old truth (ET = 4) agrees with a new prediction (ET = 3)."""
    settings = Settings(conventions=("brats2021", "brats2023"))
    scores = score_one(tmp_path, row(4, 1, 2, 0), row(3, 1, 2, 0), settings)
    assert {s.values["Dice"] for s in scores} == {1.0}


def test_an_absent_region_is_left_out_of_the_mean() -> None:
    """The mean counts the cases that have a value; a region without any has none."""
    found = summary([score("a", "ET", math.nan), score("b", "ET", 0.5), score("c", "ET", 0.7)])
    assert found["ET"]["m"]["Dice"] == {"mean": pytest.approx(0.6), "sd": pytest.approx(0.1414, abs=1e-4), "cases": 2}
    assert found["WT"] == {"m": {}}


def test_all_problems_come_at_once(tmp_path: Path) -> None:
    """A missing case, a foreign label, another shape, a truncated file and NaN in one message, and no score."""
    for name in ("gone", "label", "shape", "torn", "nan", "fine"):
        write(tmp_path / "t" / f"{name}.nii.gz", row(1, 2, 3))
    prediction = tmp_path / "p"
    write(prediction / "fine.nii.gz", row(1, 2, 3))
    write(prediction / "label.nii.gz", row(1, 4, 3))
    write(prediction / "shape.nii.gz", row(1, 2, 3, 0))
    whole = write(prediction / "torn.nii.gz", row(1, 2, 3)).read_bytes()
    (prediction / "torn.nii.gz").write_bytes(whole[: len(whole) // 2])
    save(prediction / "nan.nii.gz", np.array([1, math.nan, 3], np.float32).reshape(-1, 1, 1), np.diag([-1.0, -1, 1, 1]))
    with pytest.raises(InputError) as caught:
        score_folders(tmp_path / "t", [Model("p", prediction)], Settings())
    message = str(caught.value)
    assert "5 problem(s)" in message
    for part in ("no label map for gone", "label value 4", "has the shape (4, 1, 1)", "truncated", "NaN"):
        assert part in message


@pytest.mark.parametrize(
    ("metric", "challenge", "message"), [("iou", "ssa", "unknown metric"), ("brats-2024", "men", "unknown challenge")]
)
def test_unknown_metrics_are_refused(metric: str, challenge: str, message: str) -> None:
    """Nothing is scored with another metric than the one asked for."""
    with pytest.raises(ConfigError, match=message):
        Settings(metric, challenge)


@pytest.mark.parametrize("metric", list(COLUMNS))
def test_the_table_has_the_metrics_columns(metric: str, tmp_path: Path) -> None:
    """A row a case and region; numbers come back as they were, an undefined one is an empty cell."""
    scores = score_one(tmp_path, row(2, 2, 0), row(2, 0, 0), Settings(metric))
    write_csv(tmp_path / "s.csv", scores, metric)
    with (tmp_path / "s.csv").open() as stream:
        found = list(csv.DictReader(stream))
    assert list(found[0]) == ["case", "Labels", *COLUMNS[metric]]
    assert [r["Labels"] for r in found] == ["ET", "TC", "WT"]
    for line, s in zip(found, scores, strict=True):
        for column in COLUMNS[metric]:
            value = s.values[column]
            assert line[column] == "" if math.isnan(value) else float(line[column]) == value


def test_several_models_share_a_table(tmp_path: Path) -> None:
    """The model comes first, models in the order given."""
    for folder, values in (("t", (1, 2)), ("good", (1, 2)), ("bad", (0, 2))):
        write(tmp_path / folder / "P1.nii.gz", row(*values))
    scores = score_folders(tmp_path / "t", [Model(n, tmp_path / n) for n in ("good", "bad")], Settings())
    write_csv(tmp_path / "s.csv", scores, "plain")
    with (tmp_path / "s.csv").open() as stream:
        found = [(r["model"], r["Labels"], r["Dice"]) for r in csv.DictReader(stream)]
    assert found[2] == ("good", "WT", "1.0")
    assert found[4] == ("bad", "TC", "0.0")


def test_the_challenges_whole_image_scores_come_out(real_data: Path) -> None:
    """On a real case plain Dice and HD95 are the official table's Legacy_Dice and Legacy_HD95 of 2023."""
    lesionwise, case = real_data / "lesionwise", "BraTS-SSA-00158-000"
    with (lesionwise / "golden_2023.csv").open() as stream:
        golden = {r["Labels"]: r for r in csv.DictReader(stream) if r["case"] == case}
    pair = read_pair(*(lesionwise / m / f"{case}.nii.gz" for m in ("model_a", "model_b")), ("brats2023",) * 2)
    for s in score_pair("b", case, pair, Settings()):
        expected = [float(golden[s.region][c]) for c in ("Legacy_Dice", "Legacy_HD95")]
        assert [s.values["Dice"], s.values["HD95"]] == pytest.approx(expected, abs=1e-6)
