"""``edge-export`` on the command line: results and exit codes."""

from __future__ import annotations

import json
import shutil
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


def test_package_says_what_it_made(tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Sizes, the glibc that is needed and the file that needs it, for people and for machines."""
    from glialite_export import executable

    made = executable.Package(
        tmp_path / "p", tmp_path / "p.tar.xz", 143_000_000, 39_000_000, "2.35", "libpython", 0.2, {}
    )
    asked = []
    monkeypatch.setattr(executable, "package", lambda *arguments: asked.append(arguments) or made)
    arguments = ["package", "--bundle", "b", "--out", "dist", "--trust", "release.pub"]
    assert run(app, arguments) == 0
    assert asked == [(Path("b"), Path("dist"), (Path("release.pub"),))]
    text = capsys.readouterr().out
    for piece in ("143 MB", "39 MB", "glibc 2.35 (libpython)", "0.2 s"):
        assert piece in text
    assert run(app, [*arguments, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["glibc"] == "2.35"


def test_keys_are_made_and_sign_a_bundle(bundle: Path, tmp_path: Path, capsys: Capture) -> None:
    """And a bundle that is signed is still whole."""
    copy = tmp_path / "bundle"
    shutil.copytree(bundle, copy)
    assert run(app, ["keygen", str(tmp_path / "release")]) == 0
    assert run(app, ["sign", str(copy), "--key", str(tmp_path / "release.key")]) == 0
    assert "is signed" in capsys.readouterr().out
    assert run(app, ["verify", str(copy)]) == 0
    assert run(app, ["keygen", str(tmp_path / "release")]) == 7
    assert run(app, ["sign", str(copy), "--key", str(tmp_path / "release.pub")]) == 2


@pytest.mark.parametrize(
    ("change", "code"),
    [(["--target", "tpu"], 2), (["--ranges", "guess"], 2), (["--student", "missing.pt"], 2), (["--workspace", "."], 2)],
)
def test_usage_errors(student_file: Path, workspace: Path, tmp_path: Path, change: list[str], code: int) -> None:
    """What does not make sense is refused before any work."""
    assert run(app, arguments(student_file, workspace, tmp_path / "bundle", *change)) == code
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("command", ["build", "verify", "package", "keygen", "sign"])
def test_help_has_an_example(command: str, capsys: Capture) -> None:
    """Every command shows how it is used."""
    assert run(app, [command, "--help"]) == 0
    assert f"edge-export {command} " in capsys.readouterr().out.split("Example")[1]


def test_what_was_fitted_is_given_by_name_and_not_for_a_gpu(
    student_file: Path, workspace: Path, tmp_path: Path, capsys: Capture
) -> None:
    """A file that is no evaluation is refused before anything is built; a GPU bundle carries none."""
    fit = tmp_path / "unseen.json"
    fit.write_text("{}")
    command = arguments(student_file, workspace, tmp_path / "b", "--dry-run", "--reliability", str(fit))
    assert run(app, command) == 2
    assert "unseen.json is no result of distill evaluate" in capsys.readouterr().err
    assert run(app, [*command, "--target", "gpu"]) == 2
    assert "--reliability is for clinic bundles" in capsys.readouterr().err
