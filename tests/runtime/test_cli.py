"""The command as the clinic types it: exit codes, sentences, nothing written on refusal."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
from glialite_runtime.cases import Case
from glialite_runtime.cli import app
from glialite_runtime.clinic.instance import only_one
from glialite_runtime.command import run
from glialite_runtime.report import ReportOptions
from glialite_runtime.workflow import Model, Result

from tests.conftest import save, toy, write_case

MakeBundle = Callable[..., Path]


def call(*arguments: object) -> int:
    return run(app, [str(a) for a in arguments])


def test_segment_prints_volumes_and_where_the_page_is(
    case_folder: Path, tmp_path: Path, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line for people, on stdout; a second run says that it is done already."""
    arguments = ("segment", case_folder, "--out", tmp_path / "out", "--bundle", make_bundle())
    assert call(*arguments) == 0
    assert "P01: WT" in capsys.readouterr().out
    assert call(*arguments) == 0
    assert "already done" in capsys.readouterr().out


def test_four_loose_files_are_a_case(
    case_folder: Path, tmp_path: Path, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """With --json the report comes on stdout, and nothing else."""
    files = [x for s in ("t1n", "t1c", "t2w", "t2f") for x in (f"--{s}", case_folder / f"P01-{s}.nii.gz")]
    code = call("segment", *files, "--out", tmp_path / "out", "--bundle", make_bundle(), "--case", "Q7", "--json")
    assert code == 0
    assert json.loads(capsys.readouterr().out)["case"] == "Q7"
    assert (tmp_path / "out" / "Q7" / "Q7-manifest.json").exists()


@pytest.mark.parametrize(
    "subject", ["missing", "4-D", "shifted", "nan", "empty", "truncated", "no nifti", "shape", "bomb"]
)
def test_bad_input_is_one_sentence_exit_code_3_and_nothing_written(
    case_folder: Path,
    tmp_path: Path,
    make_bundle: MakeBundle,
    capsys: pytest.CaptureFixture[str],
    subject: str,
) -> None:
    """Every kind of bad file that a clinic meets."""
    case, path = toy(), case_folder / "P01-t2f.nii.gz"
    image = case.images["t2f"]
    match subject:
        case "missing":
            path.unlink()
        case "4-D":
            save(path, np.stack([image, image], axis=3), case.affine)
        case "shifted":
            save(path, image, case.affine + np.eye(4, k=3) * 4)
        case "nan":
            save(path, np.where(image > 500, np.nan, image).astype(np.float32), case.affine)
        case "empty":
            save(path, image * 0, case.affine)
        case "truncated":
            path.write_bytes(path.read_bytes()[:-2000])
        case "no nifti":
            path.write_bytes(b"\x1f\x8bnot really")
        case "shape":
            save(path, image[1:], case.affine)
        case "bomb":
            path.write_bytes(gzip.compress(gzip.decompress(path.read_bytes()) + bytes(1 << 28), compresslevel=1))
    assert call("segment", case_folder, "--out", tmp_path / "out", "--bundle", make_bundle()) == 3
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert "Traceback" not in error
    assert not (tmp_path / "out").exists()


def test_usage_errors_are_exit_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Neither folder nor files; an unknown option; a language that is not one."""
    assert call("segment", "--out", tmp_path) == 2
    assert call("segment", "--bogus") == 2
    assert call("segment", tmp_path, "--out", tmp_path, "--language", "xx") == 2
    assert call("segment", tmp_path, "--out", tmp_path, "--channel-order", "t1n,t1n") == 2
    assert "Traceback" not in capsys.readouterr().err


def test_a_bad_bundle_is_exit_code_4(case_folder: Path, tmp_path: Path) -> None:
    """So is one that is not there."""
    assert call("segment", case_folder, "--out", tmp_path / "out", "--bundle", tmp_path / "absent") == 4
    assert not (tmp_path / "out").exists()


def test_batch_writes_the_good_cases_and_lists_the_bad(
    tmp_path: Path, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 8; run again, the finished case is skipped."""
    for name in ("A", "B"):
        write_case(tmp_path / "in" / name, toy())
    (tmp_path / "in" / "B" / "B-t1c.nii.gz").write_bytes(b"broken")
    arguments = ("batch", tmp_path / "in", "--out", tmp_path / "out", "--bundle", make_bundle())
    assert call(*arguments) == 8
    first = capsys.readouterr()
    assert "A: WT" in first.out
    assert "1 of 2 cases were not segmented" in first.err
    assert (tmp_path / "out" / "A" / "A-manifest.json").exists()
    assert not (tmp_path / "out" / "B").exists()
    assert call(*arguments) == 8
    assert "already done" in capsys.readouterr().out


def test_batch_takes_zips_and_loose_files_and_one_bad_folder_stops_nobody(
    tmp_path: Path, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two files for one sequence are that case's fault; results inside the folder are no case; no scratch is left."""
    cases = tmp_path / "in"
    write_case(cases / "A", toy())
    (cases / "A" / "A-post-t1.nii.gz").write_bytes(b"")
    for path in write_case(tmp_path / "B", toy()).glob("B-t??.nii.gz"):
        path.rename(cases / path.name)
    shutil.make_archive(str(cases / "C"), "zip", write_case(tmp_path / "C", toy()))
    arguments = ("batch", cases, "--out", cases / "out", "--bundle", make_bundle())
    for _ in range(2):
        assert call(*arguments) == 8
        said = capsys.readouterr()
        assert "B: WT" in said.out
        assert "C: WT" in said.out
        assert "1 of 3 cases were not segmented" in said.err
        assert "look like t1c" in said.err
    assert sorted(p.name for p in (cases / "out").iterdir()) == ["B", "C", "audit.jsonl"]


@pytest.mark.parametrize("verb", ["segment", "batch", "watch"])
def test_raw_and_the_language_reach_every_case(
    case_folder: Path, tmp_path: Path, make_bundle: MakeBundle, monkeypatch: pytest.MonkeyPatch, verb: str
) -> None:
    """The same two options whichever way a case comes in."""
    wanted = []

    def work(case: Case, model: Model, out: Path, options: ReportOptions | None = None) -> Result:
        wanted.append(options)
        return Result({}, case.name)

    monkeypatch.setattr("glialite_runtime.workflow.segment_case", work)
    (tmp_path / "in").mkdir()
    case_folder.rename(tmp_path / "in" / "P01")
    where = {
        "segment": (tmp_path / "in" / "P01", "--out", tmp_path / "out"),
        "batch": (tmp_path / "in", "--out", tmp_path / "out"),
        "watch": (tmp_path / "in", tmp_path / "out", "--once"),
    }
    assert call(verb, *where[verb], "--bundle", make_bundle(), "--raw", "--language", "pt") == 0
    assert wanted == [ReportOptions("pt", raw=True)]


@pytest.mark.parametrize("verb", ["segment", "batch", "watch"])
def test_refusals_are_said_in_the_language_that_is_asked_for(
    case_folder: Path, tmp_path: Path, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    """On stderr, in the list of a batch, by the watcher; with the same exit codes."""
    (tmp_path / "in").mkdir()
    case_folder.rename(tmp_path / "in" / "P01")
    (tmp_path / "in" / "P01" / "P01-t2f.nii.gz").write_bytes(b"broken")
    where = {
        "segment": (tmp_path / "in" / "P01", "--out", tmp_path / "out"),
        "batch": (tmp_path / "in", "--out", tmp_path / "out"),
        "watch": (tmp_path / "in", tmp_path / "out", "--once"),
    }
    code = call(verb, *where[verb], "--bundle", make_bundle(), "--language", "sw")
    assert code == (3 if verb == "segment" else 8)
    said = capsys.readouterr()
    assert "P01-t2f.nii.gz si picha ya NIfTI ya faili moja" in said.err + said.out
    assert "is not a single-file NIfTI image" in said.err + said.out


@pytest.mark.parametrize("verb", ["segment", "batch", "watch", "serve"])
def test_what_is_wrong_with_the_command_is_said_in_the_language(
    case_folder: Path, tmp_path: Path, make_bundle: MakeBundle, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Options and folders, too, with the exit codes of English; serve's folder is in use."""
    (tmp_path / "file").write_bytes(b"")
    where: dict[str, tuple[object, ...]] = {
        "segment": (case_folder, "--out", tmp_path / "out", "--brain-mask", "mask.nii"),
        "batch": (case_folder.parent, "--out", tmp_path / "file"),
        "watch": (tmp_path / "absent", tmp_path / "out"),
        "serve": ("--no-browser", "--out", tmp_path / "out"),
    }
    with only_one(tmp_path / "out") if verb == "serve" else nullcontext():
        code = call(verb, *where[verb], "--bundle", make_bundle(), "--language", "fr")
    assert code == (7 if verb == "batch" else 2)
    said = {
        "segment": "--brain-mask va avec --raw",
        "batch": "est un fichier, et il faut un dossier pour les résultats",
        "watch": "indiquer celui où les cas arrivent",
        "serve": "travaille déjà dans",
    }
    assert said[verb] in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["segment", "batch", "watch", "serve"])
def test_a_language_that_there_is_not_is_exit_code_2(
    case_folder: Path, tmp_path: Path, verb: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is opened or written."""
    where = {
        "segment": (case_folder, "--out", tmp_path / "out"),
        "batch": (tmp_path, "--out", tmp_path / "out"),
        "watch": (case_folder, tmp_path / "out"),
        "serve": ("--no-browser",),
    }
    assert call(verb, *where[verb], "--bundle", tmp_path / "absent", "--language", "xx") == 2
    assert "en, fr, pt, sw" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_watch_once_says_what_failed_and_why(
    case_folder: Path, tmp_path: Path, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """Exit code 8; with --json a line an event; a second start has nothing to do and remembers."""
    inbox = tmp_path / "in"
    inbox.mkdir()
    case_folder.rename(inbox / "P01")
    write_case(inbox / "P02", toy())
    (inbox / "P02" / "P02-t1c.nii.gz").write_bytes(b"broken")
    arguments = ("watch", inbox, tmp_path / "out", "--bundle", make_bundle(), "--once", "--json")
    assert call(*arguments) == 8
    events = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [(e["event"], e["case"]) for e in events] == [("done", "P01"), ("failed", "P02")]
    assert "P02-t1c.nii.gz" in events[1]["sentence"]
    assert call(*arguments) == 8
    assert capsys.readouterr().out == ""
    assert call("watch", inbox, inbox / "out", "--bundle", make_bundle()) == 2


def test_inspect_selftest_and_verify(
    case_folder: Path, tmp_path: Path, make_bundle: MakeBundle, capsys: pytest.CaptureFixture[str]
) -> None:
    """The small commands answer in JSON, too."""
    bundle = make_bundle()
    assert call("inspect", case_folder / "P01-t1c.nii.gz", "--json") == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["axes"], facts["sequence_by_name"], facts["voxel_mm"]) == ("LPS", "t1c", [2, 2, 2])
    assert call("inspect", bundle, "--json") == 0
    assert json.loads(capsys.readouterr().out)["name"] == "threshold"
    assert call("selftest", "--bundle", bundle) == 0
    assert "bit for bit" in capsys.readouterr().out
    call("segment", case_folder, "--out", tmp_path / "out", "--bundle", bundle)
    assert call("verify", tmp_path / "out" / "P01" / "P01-report.json") == 0
    assert call("verify", tmp_path / "out" / "P01" / "P01-seg.nii.gz") == 3


def test_help_has_examples(capsys: pytest.CaptureFixture[str]) -> None:
    """Every verb that works explains itself."""
    for verb in ("segment", "batch", "watch", "serve", "inspect", "selftest", "verify"):
        assert call(verb, "--help") == 0
        assert "Example" in capsys.readouterr().out


def test_a_missing_library_is_exit_code_5_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A training command on a clinic's base install says which extra it needs."""

    def command(args: list[str]) -> None:
        raise ModuleNotFoundError("No module named 'torch'", name="torch")

    assert run(command, []) == 5
    assert "needs torch" in capsys.readouterr().err
