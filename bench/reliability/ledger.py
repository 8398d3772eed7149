"""What a proof has done so far: one JSON line a trial, so that it can stop at any time and go on where it was."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from glialite_runtime.bundle import default_bundle

__all__ = ["WORK", "Ledger", "arguments", "run_slice", "small_case", "write_section"]

WORK = Path("bench/work/reliability")
DOCUMENT = Path("docs/reliability.md")


class Ledger:
    """The trials of one proof, in order; trial number n is always the same trial."""

    def __init__(self, name: str, folder: Path = WORK) -> None:
        self.path = folder / f"{name}.jsonl"
        self.trials: list[dict[str, Any]] = []
        if self.path.is_file():
            lines = self.path.read_text().splitlines()
            self.trials = [json.loads(line) for line in lines if line.endswith("}")]

    def add(self, trial: dict[str, Any]) -> None:
        """Append a trial."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as stream:
            stream.write(json.dumps(trial) + "\n")
        self.trials.append(trial)


def small_case(cases: Path, folder: Path, step: int = 2) -> Path:
    """Return a case folder with every `step`-th voxel of a phantom of 2 mm (2: 60 × 60 × 39), made once."""
    import nibabel as nib
    import numpy as np
    from glialite_runtime.cases import find_cases

    made = folder / f"small{step}"
    if not made.is_dir():
        case = find_cases(cases)[0]
        made.mkdir(parents=True)
        for sequence, path in case.paths.items():
            image = nib.load(path)
            data = np.asarray(image.dataobj)[::step, ::step, ::step].astype(np.int16)
            nib.save(nib.Nifti1Image(data, image.affine), made / f"{made.name}-{sequence}.nii.gz")
    return made


def arguments(description: str, count: int, seconds: float = 140) -> argparse.ArgumentParser:
    """Return the parser that all proofs share."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--count", type=int, default=count, help="Trials in all, those of earlier slices included.")
    parser.add_argument("--seconds", type=float, default=seconds, help="Stop after so long; run again to go on.")
    parser.add_argument("--bundle", type=_folder, default=default_bundle(), help="Default: the one that ships.")
    parser.add_argument("--cases", type=_folder, default="demo/unseen", help="Phantoms of 2 mm.")
    return parser


def _folder(text: str) -> Path:
    """Return a folder that is there: without it every trial would count as a fault of the program."""
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {text}")
    return Path(text)


def run_slice(ledger: Ledger, count: int, seconds: float, trial: Callable[[int], dict[str, Any]]) -> bool:
    """Run trials until there are `count` of them or the time is up; return whether all are done."""
    until = time.monotonic() + seconds
    while len(ledger.trials) < count and time.monotonic() < until:
        ledger.add(trial(len(ledger.trials)))
    print(f"{ledger.path.stem}: {len(ledger.trials)} of {count}")
    return len(ledger.trials) >= count


def write_section(name: str, text: str, document: Path = DOCUMENT) -> None:
    """Replace what stands between the marks of a proof in the document."""
    start, end = f"<!-- {name} -->", f"<!-- end {name} -->"
    page = document.read_text()
    if start not in page or end not in page:
        raise SystemExit(f"{document} has no place for {name}: it needs {start} and {end}")
    head, rest = page.split(start, 1)
    document.write_text(f"{head}{start}\n{text.strip()}\n{end}{rest.split(end, 1)[1]}")
