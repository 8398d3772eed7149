"""The proof on emulated processors: it can fail, and it says what it needs. `make proof-cpu` is the proof itself."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from glialite_runtime.bundle import read_bundle
from glialite_runtime.command import run

from tests.conftest import load_bench


@pytest.fixture(scope="module")
def proof() -> ModuleType:
    return load_bench("proof_cpu")


def rows(proof: ModuleType) -> list[dict[str, str]]:
    names = (*proof.PROVED, *proof.INFORMATION)
    return [
        {"processor": name, "threads": "1", "kernels": "k", "seconds": "1", **dict.fromkeys(names, "aaaaaaaaaa")}
        for name in ("this one", "Haswell")
    ]


def test_one_other_hash_is_named_and_marked(proof: ModuleType, make_bundle: Callable[..., Path]) -> None:
    """Which column differs, and in the table where."""
    found = rows(proof)
    assert proof.differing(found, proof.PROVED) == []
    found[1]["label map"] = "bbbbbbbbbb"
    assert proof.differing(found, proof.PROVED) == ["label map"]
    table = proof.markdown(found, read_bundle(make_bundle()), "an emulator")
    assert [line.count("bbbbbbbb **differs**") for line in table.splitlines() if line.startswith("| ")][-2:] == [0, 1]


@pytest.mark.parametrize(("column", "code"), [("label map", 6), ("8-bit weights", 0), (None, 6)])
def test_the_exit_code_says_whether_processors_agree(
    proof: ModuleType, make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, column: str | None, code: int
) -> None:
    """6 when something differs that must not, and when the control does not differ, which would prove nothing."""
    bundle = make_bundle()

    def measure(inputs: object, processor: str | None, threads: int) -> dict[str, str]:
        found = rows(proof)[0]
        if processor == "Haswell" and column:
            found[column] = "bbbbbbbbbb"
        return found

    monkeypatch.setattr(proof, "emulator_path", lambda: "/bin/echo")
    monkeypatch.setattr(proof, "measure", measure)
    monkeypatch.setattr(proof, "prepare", lambda folder, given: (None, read_bundle(bundle)))
    assert run(proof.main, []) == code


def test_a_missing_emulator_is_exit_code_5_with_the_package(
    proof: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """The sentence says what to install, before any work is done."""
    monkeypatch.setenv("PATH", str(tmp_path))
    assert run(proof.main, []) == 5
    assert "apt-get install qemu-user" in capsys.readouterr().err
