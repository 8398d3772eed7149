"""From a student to a bundle: guards, resuming, and a gate that refuses broken graphs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from glialite_calibration import intensity
from glialite_calibration.ranges import METHODS
from glialite_distill.student import Student
from glialite_export import build as build_module
from glialite_export import int8_choice, parity
from glialite_export.build import build
from glialite_export.plan import Request, finished, plan_build
from glialite_runtime.bundle import Bundle, read_bundle
from glialite_runtime.decode import decode
from glialite_runtime.engine import open_engine
from glialite_runtime.errors import CalibrationError, ConfigError, ParityError
from glialite_runtime.metrics import dice_per_region
from glialite_runtime.sequences import SEQUENCES
from glialite_runtime.verify import selftest
from onnx import numpy_helper

from .conftest import CASES, HELD_OUT, SPEC, toy_case, write_student


@pytest.fixture(scope="module")
def built(student_file: Path, workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle that was built from the toy student."""
    out = tmp_path_factory.mktemp("built") / "bundle"
    build(plan_build(Request(student_file, workspace, out)))
    return out


@pytest.fixture
def bundle(built: Path) -> Bundle:
    """Return the built bundle, read and checked."""
    return read_bundle(built)


def test_bundle_segments_a_case_that_nobody_trained_on(bundle: Bundle) -> None:
    """The clinic's engine finds the toy tumour with it."""
    image, truth = toy_case(99, (33, 29, 38))
    labels = decode(open_engine(bundle, 1).logits(image), bundle.manifest.decision, 8.0)
    assert min(dice_per_region(labels, truth)) > 0.75


def test_golden_crop_comes_out_bit_for_bit(bundle: Bundle) -> None:
    """The self-test that every clinic runs passes here, with one thread and with two."""
    assert selftest(bundle, 1)["bit_identical"]
    assert selftest(bundle, 2)["bit_identical"]


def test_bundle_tells_where_it_came_from(bundle: Bundle) -> None:
    """Cohort, soft labels, members, seed, student, cases, and each hop's figures."""
    made = bundle.manifest.provenance
    assert (made["cohort_hash"], made["soft_label_key"], made["members"]) == (
        "c0ffee",
        "5eed",
        ["baseline", "grokking"],
    )
    assert made["student"]["widths"] == list(SPEC.widths)
    assert made["calibration"]["cases"] == [CASES[0], CASES[2]]
    assert made["calibration"]["selection_cases"] == [CASES[1]]
    assert made["parity_cases"] == list(CASES[3:5])
    assert [hop["hop"] for hop in made["parity"]] == [parity.TO_ONNX, parity.TO_LOWERED, parity.TO_INT8]
    assert all(row["held"] for hop in made["parity"] for row in hop["limits"])
    assert "synthetic patients only" in bundle.manifest.trained_on
    assert set(bundle.files) >= {"cpu-int8.onnx", "golden.npz", "MODEL_CARD.md", "NOTICE.txt"}


def test_bundle_of_few_cases_says_nothing_of_grey_values(bundle: Bundle) -> None:
    """A narrow range would call normal scans unusual."""
    assert bundle.manifest.intensity is None


def test_grey_values_are_those_of_training_cases(
    student_file: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With cases enough, every sequence has its range; no validation or held-out case is among them."""
    plan = plan_build(Request(student_file, workspace, tmp_path / "bundle"))
    assert plan.intensity_cases == CASES[:3]
    monkeypatch.setattr(build_module, "MIN_CASES", 3)
    monkeypatch.setattr(intensity, "MIN_CASES", 3)
    found = build_module._intensity(plan, lambda items, _: items)
    assert found is not None
    assert tuple(found) == SEQUENCES


def test_bundle_tells_how_its_ranges_were_chosen(bundle: Bundle) -> None:
    """Every method's score, and every layer's cost; the card shows both."""
    made = bundle.manifest.provenance["calibration"]
    assert (made["asked"], set(made["methods"])) == ("auto", set(METHODS))
    assert made["method"] in METHODS
    assert {"image", "stem.0", "head"} <= set(made["sensitivity"])
    card = bundle.files["MODEL_CARD.md"].decode()
    assert f"Activation ranges: {made['method']}. Training cases that gave the ranges: 2" in card
    assert "| layer | weights | activations |" in card


def test_bundle_holds_no_path(bundle: Bundle, workspace: Path) -> None:
    """Where it was made is nobody's business."""
    assert not any(str(workspace.parent).encode() in content for content in bundle.files.values())


def test_same_inputs_are_not_built_twice(
    built: Path, student_file: Path, workspace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A finished build is recognised by its key and left as it is."""
    before = (built / "bundle.json").stat().st_mtime_ns
    monkeypatch.setattr(build_module, "export_student", lambda student: pytest.fail("built again"))
    build(plan_build(Request(student_file, workspace, built)))
    assert (built / "bundle.json").stat().st_mtime_ns == before


def test_other_settings_and_damage_are_built_again(built: Path, student_file: Path, workspace: Path) -> None:
    """Another method is another build; a damaged bundle is none."""
    assert finished(plan_build(Request(student_file, workspace, built))) is not None
    assert finished(plan_build(Request(student_file, workspace, built, method="min-max"))) is None
    card = built / "MODEL_CARD.md"
    content = card.read_bytes()
    card.write_bytes(content + b"!")
    assert finished(plan_build(Request(student_file, workspace, built))) is None
    card.write_bytes(content)


def _weights(change: Callable[[np.ndarray], np.ndarray], model: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Return the model with the first constant called `name`… changed."""
    broken = onnx.ModelProto()
    broken.CopyFrom(model)
    tensor = next(tensor for tensor in broken.graph.initializer if tensor.name.startswith(name))
    tensor.CopyFrom(numpy_helper.from_array(change(numpy_helper.to_array(tensor).copy()), tensor.name))
    return broken


BROKEN = {
    "a weight of the 3-D graph": ("export_student", "head.weight", lambda a: a * 1.01, parity.TO_ONNX),
    "a weight of the lowered graph": ("lower", "weight", lambda a: a * 1.01, parity.TO_LOWERED),
    "zeroed INT8 scales": ("quantize", "weight_scales", lambda a: a * 0, parity.TO_INT8),
    "shuffled INT8 weights": ("quantize", "weight_levels", lambda a: a[::-1].copy(), parity.TO_INT8),
}
"""Which step is broken how, and the hop whose gate must see it."""


@pytest.mark.parametrize("name", BROKEN)
def test_broken_graph_is_refused(
    name: str, student_file: Path, workspace: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whichever hop breaks the graph, the gate behind it names it, and nothing is written."""
    step, tensor, change, hop = BROKEN[name]
    module = int8_choice if step == "quantize" else build_module
    honest = getattr(module, step)
    monkeypatch.setattr(module, step, lambda *args: _weights(change, honest(*args), tensor))
    with pytest.raises(ParityError, match=hop) as caught:
        build(plan_build(Request(student_file, workspace, tmp_path / "bundle")))
    assert caught.value.report["hop"] == hop
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("method", "tried", "way_out"),
    [("auto", set(METHODS), "written; fine-tune"), ("mse", {"mse"}, "written; use --ranges auto, or fine-tune")],
)
def test_refusal_of_int8_says_what_was_tried_and_what_is_left(
    method: str,
    tried: set[str],
    way_out: str,
    student_file: Path,
    workspace: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The error carries chosen method, every tried method's score and every layer's cost, and names the way out."""
    honest = int8_choice.quantize
    monkeypatch.setattr(
        int8_choice, "quantize", lambda *args: _weights(lambda a: a[::-1].copy(), honest(*args), "weight_levels")
    )
    with pytest.raises(ParityError, match=rf"{way_out}.*--init student\.pt --quantisation-aware") as caught:
        build(plan_build(Request(student_file, workspace, tmp_path / "bundle", method=method)))
    record = json.loads(json.dumps(caught.value.report))["calibration"]
    assert set(record["methods"]) == tried
    assert record["method"] in tried
    assert {"stem.0", "head"} <= set(record["sensitivity"])
    assert not list(tmp_path.iterdir())


def test_held_out_case_never_calibrates(student: Student, workspace: Path, tmp_path: Path) -> None:
    """A student file that names a held-out case as its own is refused."""
    for key in ("train_cases", "validation_cases"):
        write_student(tmp_path / "leaky.pt", student, **{key: [CASES[0], HELD_OUT]})
        with pytest.raises(CalibrationError, match=f"{HELD_OUT} is held out"):
            plan_build(Request(tmp_path / "leaky.pt", workspace, tmp_path / "bundle"))


def test_student_of_another_cohort_is_refused(student: Student, workspace: Path, tmp_path: Path) -> None:
    """Its own cohort's held-out cases would be unknown here."""
    write_student(tmp_path / "foreign.pt", student, cohort_hash="dec0de")
    with pytest.raises(ConfigError, match="another cohort"):
        plan_build(Request(tmp_path / "foreign.pt", workspace, tmp_path / "bundle"))


def test_parity_cases_differ_from_range_cases_without_validation_cases(
    student: Student, workspace: Path, tmp_path: Path
) -> None:
    """Without a validation fold the gate takes training cases that gave no ranges, if there are any."""
    write_student(tmp_path / "all.pt", student, train_cases=list(CASES[:5]), validation_cases=[])
    plan = plan_build(Request(tmp_path / "all.pt", workspace, tmp_path / "bundle", range_cases=2))
    assert (len(plan.range_cases), len(plan.selection_cases)) == (2, 2)
    assert set(plan.parity_cases) == set(CASES[:5]) - set(plan.range_cases) - set(plan.selection_cases)
    everything = plan_build(Request(tmp_path / "all.pt", workspace, tmp_path / "bundle", range_cases=5))
    assert everything.parity_cases == everything.range_cases


def test_selection_cases_show_other_patients_than_range_cases(
    student: Student, workspace: Path, tmp_path: Path
) -> None:
    """A range that fits only the patients that gave it must not look good; a single patient has to do for both."""
    write_student(tmp_path / "all.pt", student, train_cases=list(CASES[:5]))
    plan = plan_build(Request(tmp_path / "all.pt", workspace, tmp_path / "bundle"))
    assert not {case[:-4] for case in plan.selection_cases} & {case[:-4] for case in plan.range_cases}
    write_student(tmp_path / "one.pt", student, train_cases=[CASES[0]])
    alone = plan_build(Request(tmp_path / "one.pt", workspace, tmp_path / "bundle"))
    assert alone.selection_cases == alone.range_cases == (CASES[0],)
