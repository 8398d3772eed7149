"""``edge-export`` on the command line: results, exit codes, and what is not built yet."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from glialite_export import build as build_module
from glialite_export.cli import app
from glialite_runtime.command import run
from onnx import ModelProto

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def bundle(student_file: Path, workspace: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a bundle that the command built."""
    out = tmp_path_factory.mktemp("cli") / "bundle"
    assert run(app, ["build", "--student", str(student_file), "--workspace", str(workspace), "--out", str(out)]) == 0
    return out


def arguments(student: Path, workspace: Path, out: Path, *more: str) -> list[str]:
    return ["build", "--student", str(student), "--workspace", str(workspace), "--out", str(out), *more]


def test_build_prints_json_for_machines(bundle: Path, student_file: Path, workspace: Path, capsys: Capture) -> None:
    """Results go to stdout as one JSON document, here for a build that was there already."""
    assert run(app, arguments(student_file, workspace, bundle, "--json")) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["bytes"] < 5_000_000
    assert [hop["hop"] for hop in result["parity"]] == ["torch to onnx-3d", "onnx-3d to lowered", "lowered to int8"]


def test_dry_run_forecasts_and_writes_nothing(
    student_file: Path, workspace: Path, tmp_path: Path, capsys: Capture
) -> None:
    """Time, disk and memory come out; no file does."""
    assert run(app, arguments(student_file, workspace, tmp_path / "bundle", "--dry-run", "--json")) == 0
    forecast = json.loads(capsys.readouterr().out)
    assert min(forecast["seconds"], forecast["disk_mb"], forecast["memory_mb"]) > 0
    assert forecast["already_built"] is False
    assert not list(tmp_path.iterdir())


def test_dry_run_knows_a_finished_build(bundle: Path, student_file: Path, workspace: Path, capsys: Capture) -> None:
    """A build that is there costs nothing."""
    assert run(app, arguments(student_file, workspace, bundle, "--dry-run", "--json")) == 0
    forecast = json.loads(capsys.readouterr().out)
    assert (forecast["already_built"], forecast["seconds"]) == (True, 0)


def test_verify_passes_an_untouched_bundle(bundle: Path, capsys: Capture) -> None:
    """Every byte, and the golden crop."""
    assert run(app, ["verify", str(bundle), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["bit_identical"] is True


def test_verify_refuses_a_changed_byte(bundle: Path, tmp_path: Path) -> None:
    """A flipped bit in the graph is a bad bundle: exit code 4."""
    for file in bundle.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    graph = tmp_path / "cpu-int8.onnx"
    content = bytearray(graph.read_bytes())
    content[len(content) // 2] ^= 1
    graph.write_bytes(content)
    assert run(app, ["verify", str(tmp_path)]) == 4


def test_verify_of_a_golden_crop_that_comes_out_differently(
    bundle: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A processor that computes something else fails the check: exit code 6."""
    from glialite_runtime import verify

    class Off:
        def logits(self, image: object) -> object:
            return image[:3] + 1e-6  # type: ignore[index]

    monkeypatch.setattr(verify, "open_engine", lambda *args: Off())
    assert run(app, ["verify", str(bundle)]) == 6
    assert "golden crop" in capsys.readouterr().err


def test_broken_parity_ends_with_6_and_its_report(
    student_file: Path, workspace: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The report of what did not hold is on stdout for machines, the sentence on stderr."""
    honest = build_module.lower

    def broken(model: ModelProto, divisor: int) -> ModelProto:
        lowered = honest(model, divisor)
        tensor = next(t for t in lowered.graph.initializer if t.name == "bias")
        tensor.raw_data = bytes(len(tensor.raw_data))
        return lowered

    monkeypatch.setattr(build_module, "lower", broken)
    assert run(app, arguments(student_file, workspace, tmp_path / "bundle", "--json")) == 6
    captured = capsys.readouterr()
    assert json.loads(captured.out)["report"]["hop"] == "onnx-3d to lowered"
    assert "relative_difference" in captured.err
    assert not list(tmp_path.iterdir())


def test_what_is_not_built_yet_says_so(capsys: Capture) -> None:
    """A promised command ends with exit code 5 and a sentence."""
    assert run(app, ["package", "--out", "dist"]) == 5
    assert "not built yet" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "code"),
    [(["--target", "tpu"], 2), (["--ranges", "guess"], 2), (["--student", "missing.pt"], 2), (["--workspace", "."], 2)],
)
def test_usage_errors(student_file: Path, workspace: Path, tmp_path: Path, change: list[str], code: int) -> None:
    """What does not make sense is refused before any work."""
    assert run(app, arguments(student_file, workspace, tmp_path / "bundle", *change)) == code
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["build", "verify", "package"])
def test_help_has_an_example(command: str, capsys: Capture) -> None:
    """Every command shows how it is used."""
    assert run(app, [command, "--help"]) == 0
    assert f"edge-export {command} " in capsys.readouterr().out.split("Example")[1]
