"""How often the gate calls grey values unusual that are not, and what it says of such that are.

Ranges come from the training cases of a workspace, as `edge-export build` takes them. A fault is one change of the grey
values of all sequences; said is at least one of them.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from glialite_calibration.cases import spread
from glialite_calibration.intensity import intensity_ranges
from glialite_distill.workspace import Workspace
from glialite_runtime.cases import find_case, find_cases
from glialite_runtime.intensity import unlike_training
from glialite_runtime.nifti import load_nibabel
from glialite_runtime.sample import Sample, sample_volume
from glialite_runtime.volume import load_volume

from bench.reliability.ledger import write_section

Values = npt.NDArray[np.floating[Any]]

FAULTS: Final[Mapping[str, Callable[[Values], Values]]] = {
    "nothing": lambda v: v,
    "grey values inverted": lambda v: v.max() - v + 1,
    "bright 40 % cut off": lambda v: np.minimum(v, np.percentile(v, 60)),
    "a narrow window (middle 40 %)": lambda v: np.clip(v, *np.percentile(v, [30, 70])),
    "0.3 % of the voxels eight times too bright": lambda v: np.where(np.arange(v.size) % 333 == 0, 8 * v.max(), v),
    "squared": lambda v: (v - v.min() + 1) ** 2,
    "logarithm": lambda v: np.log1p(20 * (v - v.min()) / (np.median(v) - v.min() + 1e-6)) + 1,
    "noise in place of an image": lambda v: 1 + np.random.default_rng(0).random(v.size),
}
"""What is wrong -> how the brain's voxels of one sequence are changed."""


def samples(phantoms: Path, real: Path) -> Iterator[tuple[bool, Sample]]:
    """Yield (whether it is real, the gate's sample of it) of each case."""
    for case in find_cases(phantoms):
        yield False, sample_volume(load_volume(case))
    for folder in sorted(path for path in real.iterdir() if path.is_dir()):
        if (folder / "brainmask.nii.gz").is_file():
            yield True, _masked(folder)
        elif folder.name.startswith(("BraTS", "TCGA")):
            yield True, sample_volume(load_volume(find_case(folder)))


def _masked(folder: Path) -> Sample:
    """Return a sample of T1c and FLAIR that are normalised already, their background set to 0."""
    load = load_nibabel().load
    names = ("T1c_subtrMeanDivStd", "Flair_subtrMeanDivStd", "brainmask")
    t1c, t2f, mask = (np.asarray(load(folder / f"{n}.nii.gz").dataobj[2::4, 2::4, 2::4], np.float32) for n in names)
    channels = np.stack([t1c, t2f]) * (mask > 0.5)
    return Sample(("t1c", "t2f"), channels, (4, 4, 4), (4.0, 4.0, 4.0))


def changed(sample: Sample, fault: Callable[[Values], Values]) -> Sample:
    """Return a sample with every sequence's grey values changed."""
    channels = sample.channels.copy()
    for channel in channels:
        channel[sample.brain] = fault(channel[sample.brain].astype(np.float64))
    return Sample(sample.sequences, channels, sample.steps, sample.spacing_mm)


def main() -> None:
    """Print the table, and write it into the document."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True, help="Whose training cases give the ranges.")
    parser.add_argument("--cases", type=Path, required=True, help="Phantoms that nobody trained on.")
    parser.add_argument("--real", type=Path, default=Path("../shared/data"))
    given = parser.parse_args()
    workspace = Workspace.open(given.workspace)
    chosen = spread(workspace.cases, 100)
    learnt = intensity_ranges((workspace.load(case)[0] for case in chosen), workspace.spacing_mm)
    if learnt is None:
        raise SystemExit(f"{given.workspace} holds too few cases")
    found = list(samples(given.cases, given.real))
    lines = ["| what is wrong | said, phantoms | said, real patients |", "| --- | --- | --- |"]
    for name, fault in FAULTS.items():
        said = [(real, bool(unlike_training(changed(sample, fault), learnt))) for real, sample in found]
        cells = [
            f"{sum(s for r, s in said if r == real)} of {sum(r == real for r, _ in said)}" for real in (False, True)
        ]
        lines.append(f"| {name} | {cells[0]} | {cells[1]} |")
    text = "\n".join(lines) + f"\n\nRanges of {len(chosen)} training cases."
    print(text)
    write_section("grey values", text)


if __name__ == "__main__":
    main()
