"""Phantom patients and cohorts of them, at 2 mm except where 1 mm is the point."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import nibabel
import numpy as np
import pytest
from glialite_distill.anatomy import draw_body, tissues
from glialite_distill.phantom import COHORT_FILE, make_phantom, settings_for, write_cohort
from glialite_distill.phantom_contrast import draw_values, extras
from glialite_distill.phantom_fields import Grid, band_field, smooth_field, stream
from glialite_distill.phantom_patient import _scanned, case_affine
from glialite_distill.phantom_scanner import _moved, _resampled, draw_scanner
from glialite_runtime.errors import ConfigError, OutputError
from glialite_runtime.sequences import SEQUENCES

NAMES = ["BraTS-PHA-0310001-000", "BraTS-PHA-0310002-000", "BraTS-PHA-0310003-000", "BraTS-PHA-0310003-001"]
REQUEST = {"seed": 31, "spacing_mm": 2.0, "style": "both"}


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three patients, the third scanned twice."""
    out = tmp_path_factory.mktemp("phantoms")
    assert write_cohort(out, patients=3, **REQUEST) == NAMES
    return out


def read(case: Path, kind: str) -> np.ndarray:
    return np.asanyarray(nibabel.load(case / f"{case.name}-{kind}.nii.gz").dataobj)


def record(cohort: Path) -> dict:
    return json.loads((cohort / COHORT_FILE).read_text())["cases"]


def contents(case: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(case.iterdir())}


def test_a_case_folder_is_a_brats_case_of_2_mm(cohort: Path) -> None:
    """Five files of 120×120×78 voxels, int16 images and uint8 labels, LPS, honest spacing, nothing else."""
    case = cohort / NAMES[0]
    assert sorted(path.name for path in case.iterdir()) == sorted(
        f"{case.name}-{kind}.nii.gz" for kind in (*SEQUENCES, "seg")
    )
    for kind in (*SEQUENCES, "seg"):
        image = nibabel.load(case / f"{case.name}-{kind}.nii.gz")
        assert image.shape == (120, 120, 78)
        assert image.get_data_dtype() == (np.uint8 if kind == "seg" else np.int16)
        assert nibabel.aff2axcodes(image.affine) == ("L", "P", "S")
        assert image.header.get_zooms() == (2.0, 2.0, 2.0)
        assert int(image.header["qform_code"]) + int(image.header["sform_code"]) > 0


def test_every_grid_lies_in_the_same_place() -> None:
    """The outer corner of the field of view is at the same point whatever the voxel size."""
    corners = [case_affine(spacing) @ np.array([-0.5, -0.5, -0.5, 1.0]) for spacing in (1, 1.5, 2)]
    np.testing.assert_allclose(corners, [corners[0]] * 3)
    for spacing in (1, 1.5, 2):
        grid = Grid.whole(spacing)
        assert grid.x[0] - spacing / 2 == pytest.approx(-0.5)
        assert grid.spacing_mm == spacing
    assert Grid.whole(1.5).shape == (104, 160, 160)


def test_one_patient_at_1_5_mm_and_at_2_mm() -> None:
    """Brain and tumour have the same volumes and lie at the same place."""
    found = []
    for spacing in (1.5, 2):
        phantom = make_phantom(5, settings_for("wide", "gli", spacing_mm=spacing))
        assert phantom.images.shape[1:] == Grid.whole(spacing).shape
        middle = nibabel.affines.apply_affine(phantom.affine, np.argwhere(phantom.labels > 0)[:, ::-1].mean(0))
        brain_ml = float((phantom.images[0] > 0).sum()) * spacing**3 / 1000
        found.append((*phantom.meta["volumes_ml"].values(), brain_ml, *middle))
    assert found[0][0] > 5
    np.testing.assert_allclose(found[0][:4], found[1][:4], rtol=0.05, atol=0.5)
    np.testing.assert_allclose(found[0][4:], found[1][4:], atol=0.5)


def test_a_voxel_that_no_grid_is_made_for_is_refused() -> None:
    """Below 1 mm the anatomy has nothing to show, above 2 mm the tumour would not be the same."""
    with pytest.raises(ConfigError, match="spacing must be 1 to 2 mm"):
        settings_for("wide", "gli", spacing_mm=0.5)


def test_sequences_share_one_mask_and_the_background_is_exactly_zero(cohort: Path) -> None:
    """All four sequences are above zero in the same voxels, labels lie inside them, and the border of the case is 0."""
    for name in NAMES:
        brain = read(cohort / name, "t1n") > 0
        labels = read(cohort / name, "seg")
        for kind in SEQUENCES:
            image = read(cohort / name, kind)
            assert image.min() == 0
            assert np.array_equal(image > 0, brain)
        assert not labels[~brain].any()
        assert set(np.unique(labels)) <= {0, 1, 2, 3}
        assert 0.9e6 < 8 * brain.sum() < 2.1e6  # mm³


def test_the_record_says_what_each_case_is(cohort: Path) -> None:
    """The record gives style, seed, tumour and volumes, and the volumes are those of the label map."""
    cases = record(cohort)
    assert list(cases) == NAMES
    for name, case in cases.items():
        assert case["style"] in ("gli", "ssa")
        assert case["patient"] == name[:-4]
        labels = read(cohort / name, "seg")
        assert case["volumes_ml"]["WT"] == pytest.approx((labels > 0).sum() * 0.008, abs=1e-3)
        assert case["volumes_ml"]["ET"] == pytest.approx((labels == 3).sum() * 0.008, abs=1e-3)
        assert case["has_tumour"] == bool(labels.any())


def test_the_second_scan_shows_the_same_brain_with_a_larger_tumour(cohort: Path) -> None:
    """Masks overlap almost fully and the whole tumour has grown."""
    first, second = (read(cohort / name, "t1n") > 0 for name in NAMES[2:])
    assert 2 * (first & second).sum() / (first.sum() + second.sum()) > 0.96
    cases = record(cohort)
    assert cases[NAMES[3]]["volumes_ml"]["WT"] > 1.15 * cases[NAMES[2]]["volumes_ml"]["WT"] > 0
    assert cases[NAMES[3]]["seed"] == cases[NAMES[2]]["seed"]


def test_tumours_look_as_they_are_labelled(cohort: Path) -> None:
    """Oedema is brighter than brain in FLAIR, enhancing tumour in T1c, averaged over the patients."""
    oedema, enhancing = [], []
    for name in NAMES:
        flair, t1c = (read(cohort / name, kind).astype(float) for kind in ("t2f", "t1c"))
        labels = read(cohort / name, "seg")
        healthy = (t1c > 0) & (labels == 0)
        if (labels == 2).any():
            oedema.append(flair[labels == 2].mean() / flair[healthy].mean())
        if (labels == 3).any():
            enhancing.append(t1c[labels == 3].mean() / t1c[healthy].mean())
    assert np.mean(oedema) > 1.25
    assert np.mean(enhancing) > 1.15


def test_a_patient_is_the_same_at_1_mm_and_at_2_mm(cohort: Path) -> None:
    """The full case has 155×240×240 voxels; volumes agree within 15 %, and the tumour lies in the same place."""
    name = NAMES[2]
    case, small = record(cohort)[name], read(cohort / name, "seg").T[:77] > 0
    full = make_phantom(case["seed"], settings_for(style=case["style"]))
    assert full.images.shape == (4, 155, 240, 240)
    assert full.images.dtype == np.int16
    for region in ("WT", "TC"):
        assert full.meta["volumes_ml"][region] == pytest.approx(case["volumes_ml"][region], rel=0.15)
    coarse = full.labels[:154].reshape(77, 2, 120, 2, 120, 2).astype(bool).mean((1, 3, 5)) > 0.5
    assert 2 * (coarse & small).sum() / (coarse.sum() + small.sum()) > 0.85


def test_another_seed_is_another_patient() -> None:
    """Two seeds share nothing but the field of view; the world is recorded."""
    settings = settings_for("shifted", "ssa", spacing_mm=2)
    one, other = (make_phantom(seed, settings) for seed in (5, 6))
    assert one.images.shape == other.images.shape == (4, 78, 120, 120)
    assert ((one.images[0] > 0) != (other.images[0] > 0)).mean() > 0.005
    assert one.meta["body"] != other.meta["body"]
    assert one.meta["world"] == "shifted"


def test_a_cohort_does_not_depend_on_its_size_or_the_workers(cohort: Path, tmp_path: Path) -> None:
    """A cohort of one patient, made in worker processes, has the same bytes as the first of three."""
    seen = []
    write_cohort(tmp_path, patients=1, workers=2, progress=lambda *step: seen.append(step), **REQUEST)
    assert contents(tmp_path / NAMES[0]) == contents(cohort / NAMES[0])
    assert seen == [(1, 1)]


def test_a_broken_cohort_is_completed_and_the_rest_is_left_alone(cohort: Path, tmp_path: Path) -> None:
    """Only the case that lacks a file is made again, with the same bytes."""
    out = tmp_path / "copy"
    shutil.copytree(cohort, out)
    before = contents(out / NAMES[1])
    (out / NAMES[1] / f"{NAMES[1]}-t2f.nii.gz").unlink()
    kept = (out / NAMES[0]).stat().st_mtime_ns
    seen = []
    write_cohort(out, patients=3, progress=lambda *step: seen.append(step), **REQUEST)
    assert contents(out / NAMES[1]) == before
    assert (out / NAMES[0]).stat().st_mtime_ns == kept
    assert seen == [(4, 4)]


def wait_for(condition: Callable[[], object], seconds: float) -> bool:
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    return bool(condition())


def processes_of(session: int) -> list[int]:
    """Return the processes of a session, less those that ended and wait to be reaped."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, _, _, sid = stat.read_text().rpartition(")")[2].split()[:4]
        except OSError:
            continue
        if int(sid) == session and state != "Z":
            found.append(int(stat.parent.name))
    return found


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("stop", [signal.SIGKILL, signal.SIGINT])
def test_a_stopped_command_leaves_no_worker_behind(tmp_path: Path, stop: signal.Signals) -> None:
    """Two workers that went on would write into the folder while the same command, run again, does too."""
    words = ("phantoms", "--out", tmp_path, "--patients", "400", "--seed", "31", "--small", "--workers", "2")
    program = Path(sys.executable).with_name("distill")
    command = ["env", "--default-signal=INT", str(program), *map(str, words)]  # a background job ignores interrupts
    with subprocess.Popen(command, start_new_session=True, stderr=subprocess.DEVNULL) as running:
        try:
            assert wait_for(lambda: any(tmp_path.glob("BraTS*")), 60)
            assert len(processes_of(running.pid)) >= 3
            os.kill(running.pid, stop)
            assert wait_for(lambda: not processes_of(running.pid), 30)
        finally:
            os.killpg(running.pid, signal.SIGKILL) if processes_of(running.pid) else None
    assert len(list(tmp_path.glob("BraTS*"))) < 100


def test_another_request_for_the_same_folder_is_refused(cohort: Path) -> None:
    """A cohort is never mixed from two seeds: the message names what differs."""
    with pytest.raises(ConfigError, match="seed 31"):
        write_cohort(cohort, patients=3, **(REQUEST | {"seed": 32}))


@pytest.mark.parametrize(
    ("change", "words"),
    [({"patients": 0}, "patients"), ({"style": "mri"}, "mri"), ({"world": "flat"}, "flat"), ({"seed": -1}, "seed")],
)
def test_senseless_arguments_are_refused(tmp_path: Path, change: dict, words: str) -> None:
    """Each names the argument or its value, and nothing is written."""
    with pytest.raises(ConfigError, match=words):
        write_cohort(tmp_path / "out", **({"patients": 1, **REQUEST} | change))
    assert not (tmp_path / "out").exists()


def test_a_full_disk_leaves_no_half_case(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the third file cannot be written there is an OutputError and no case folder, whole or partial."""
    write, calls = Path.write_bytes, []

    def failing(path: Path, data: bytes) -> int:
        calls.append(path)
        if len(calls) == 3 + 1:  # the record comes first
            raise OSError(28, "No space left on device")
        return write(path, data)

    monkeypatch.setattr(Path, "write_bytes", failing)
    with pytest.raises(OutputError, match="No space left"):
        write_cohort(tmp_path, patients=1, **REQUEST)
    assert [path.name for path in tmp_path.iterdir()] == [COHORT_FILE]


def test_a_smooth_field_is_the_same_on_every_grid() -> None:
    """A crop of the 1 mm grid and the 2 mm grid agree where their voxels coincide."""
    fine = Grid.whole(1).crop((slice(20, 40), slice(50, 80), slice(60, 100)))
    coarse = Grid.whole(2)
    a = smooth_field(stream(1, "x"), fine, 10.0)
    b = smooth_field(stream(1, "x"), coarse, 10.0)
    halves = (a[0::2] + a[1::2])[:, 0::2, 0::2] / 2  # 2 mm centres lie midway between 1 mm centres
    assert np.abs(halves - b[10:20, 25:40, 30:50]).max() < 0.25
    assert smooth_field(stream(1, "x"), coarse, 10.0).std() == pytest.approx(1.0, abs=0.1)


def test_a_band_field_keeps_unit_variance() -> None:
    """Adding scales does not make a field stronger."""
    assert band_field(stream(2, "x"), Grid.whole(2), (12.0, 6.0), 0.7).std() == pytest.approx(1.0, abs=0.1)


def test_a_wide_world_moves_sequences_off_t1c_and_leaves_the_default_world_alone() -> None:
    """T1c stays where the labels are; the others are a little off, which no other world does."""
    wide = settings_for("wide", "gli", spacing_mm=2).scanner
    assert draw_scanner(5, "t1c", wide).off is None
    off = np.array(draw_scanner(5, "t2w", wide).off)
    assert 0 < np.abs(off[:, 3]).max() < 3
    for world in ("default", "other", "shifted"):
        assert draw_scanner(5, "t2w", settings_for(world, "gli", spacing_mm=2).scanner).off is None


def test_a_sequence_comes_from_where_its_offset_says() -> None:
    """An offset of one voxel along x shows what lies one voxel further."""
    grid = Grid.whole(2).crop((slice(30, 42), slice(40, 52), slice(40, 52)))
    image = np.random.default_rng(0).random(grid.shape, np.float32)
    off = np.hstack([np.eye(3), [[0], [0], [grid.spacing_mm]]])
    np.testing.assert_allclose(_moved(image, off, grid)[..., :-1], image[..., 1:], atol=1e-5)


def test_a_scan_that_ends_within_the_brain_lacks_a_third_at_most() -> None:
    """What is cut off is one side of a plane, 5 to 33 % of the brain."""
    grid = Grid.whole(2)
    brain = np.zeros(grid.shape, bool)
    brain[10:70, 20:100, 30:90] = True
    for seed in range(5):
        lost = 1 - (brain & _scanned(seed, brain, grid)).sum() / brain.sum()
        assert 0.04 < lost < 0.35


# grey values of each sequence at voxels (39, 60, 34 46 58 70 82), mL of WT, TC, ET; images of version 2, labels of 6
PINNED = {
    ("default", "ssa", 1189033389): (
        (810, 829, 739, 1006, 928, 181, 184, 173, 188, 167),
        (1838, 1289, 1502, 1264, 2034, 625, 537, 586, 626, 624),
        (107.736, 59.44, 0.0),
    ),
    ("default", "gli", 1596810411): (
        (112, 156, 111, 136, 124, 792, 1015, 967, 734, 1324),
        (1087, 679, 1114, 1658, 1403, 366, 420, 356, 629, 613),
        (35.056, 7.408, 7.072),
    ),
    ("other", "gli", 3498784924): (
        (1089, 1094, 1069, 1154, 1156, 705, 736, 699, 722, 684),
        (539, 383, 360, 321, 491, 599, 540, 591, 577, 564),
        (34.4, 7.4, 1.648),
    ),
    ("other", "ssa", 3470468189): (
        (155, 229, 230, 228, 143, 885, 1428, 1229, 1284, 887),
        (3179, 1278, 1258, 1147, 2039, 387, 520, 629, 582, 565),
        (0.0, 0.0, 0.0),
    ),
}


@pytest.mark.parametrize("patient", PINNED)
def test_the_worlds_that_judge_give_the_patients_they_always_gave(patient: tuple[str, str, int]) -> None:
    """Same seed, same patient in `default` and `other`: measurements on them stay comparable."""
    world, style, seed = patient
    t1, t2, volumes = PINNED[patient]
    phantom = make_phantom(seed, settings_for(world, style, spacing_mm=2))
    seen = phantom.images[:, 39, 60, 34:94:12].ravel()
    np.testing.assert_allclose(seen, (*t1, *t2), atol=2)  # processors round differently
    np.testing.assert_allclose(list(phantom.meta["volumes_ml"].values()), volumes, atol=0.05)


@pytest.mark.parametrize("style", ["gli", "ssa"])
def test_core_and_oedema_differ_in_one_sequence_at_least(style: str) -> None:
    """In a wide world a good part of the cores is about as bright as oedema in FLAIR, but no core is just the same."""
    alike = 0
    for seed in range(200):
        values = draw_values(seed, settings_for("wide", style))
        gaps = [abs(np.log(values[s]["solid"] / values[s]["oedema"])) for s in ("t1n", "t2w", "t2f")]
        assert max(gaps) >= 0.08
        alike += gaps[2] < 0.2
    assert 60 < alike < 160


def test_within_a_rim_core_may_look_just_like_oedema() -> None:
    """In almost half of the tumours with a rim no sequence tells core and oedema apart; in those without one does."""
    alike = 0
    for seed in range(200):
        values = draw_values(seed, settings_for("wide"), rimmed=True)
        gaps = [abs(np.log(v[t] / v["oedema"])) for v in values.values() for t in ("solid", "fluid")]
        alike += max(gaps) < 0.25
    assert 65 < alike < 115


def test_splines_darken_the_border_and_overshoot_edges() -> None:
    """The middle of an even brain stays, its border falls, and beside an edge within it values swing beyond."""
    grid = Grid.whole(2).crop((slice(20, 50), slice(30, 60), slice(30, 60)))
    inside = np.zeros(grid.shape, bool)
    inside[3:-3, 3:-3, 3:-3] = True
    image = np.ones(grid.shape, np.float32)
    image[:, :, 15:] = 2
    seen = _resampled(image, inside, 0.5, grid)
    assert seen[15, 15, 9] == pytest.approx(1, abs=0.01)
    assert seen[15, 15, 3] < 0.85
    assert seen[15, 15, 14] < 0.95
    assert seen[15, 15, 15] > 2.05


def test_what_a_skull_stripper_left_lies_at_the_surface() -> None:
    """Muscle and fat are there in patches, not deeper than they are thick."""
    settings = settings_for("wide", spacing_mm=2)
    grid = Grid.whole(2)
    anatomy = tissues(draw_body(3, settings.anatomy), grid)
    remnant = extras(3, anatomy, grid, 2.5).remnant
    assert (remnant[(anatomy.surface_depth > 0) & (anatomy.surface_depth < 2)] > 0.5).mean() > 0.01
    assert remnant[anatomy.surface_depth > 6].max() < 0.1
    assert extras(3, anatomy, grid).remnant is None


def test_a_patient_of_the_wide_world_has_one_mask_and_nothing_below_zero() -> None:
    """Whatever splines overshoot, all four sequences are above zero in the same voxels, and labels lie inside."""
    phantom = make_phantom(8, settings_for("wide", "ssa", spacing_mm=2))
    brain = phantom.images[0] > 0
    assert phantom.images.min() == 0
    assert brain.any()
    assert all(np.array_equal(image > 0, brain) for image in phantom.images)
    assert not phantom.labels[~brain].any()
