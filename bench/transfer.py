"""What transfer brings: few African-like patients, many others, both, and both with finetuning; all else equal.

    python bench/transfer.py --work bench/work/transfer

Two cohorts of phantoms at 2 mm: `ssa` (low-field, few) and `gli` (clean, many). Every arm trains MedNeXt-B for the same
number of optimizer steps; the finetuned ones spend the last fifth of theirs on SSA-like cases. Patients that nobody
trained on judge. Everything is resumed where it stopped; `--repeats 3` adds two more runs of every arm.
"""

from __future__ import annotations

import argparse
import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from glialite_distill.cohort import read_labels
from glialite_distill.members import find_members
from glialite_distill.phantom import write_cohort
from glialite_distill.predict_options import PredictOptions
from glialite_distill.predictions import predict_folder
from glialite_distill.prepare import Request, prepare
from glialite_distill.teachers import RunOptions, run_teachers
from glialite_distill.workspace import Workspace
from glialite_runtime.command import bar, log_to_stderr
from glialite_runtime.files import write_bytes, write_json
from glialite_runtime.metrics import dice_per_region
from glialite_runtime.sequences import REGIONS

RESULT, PAGE_FILE = Path("bench/results/transfer.json"), Path("docs/transfer.md")
RECIPE = "mednext-b"
DATA = ("ssa", "gli", "both", "before")  # what a run from scratch sees; "before" is "both", stopped for finetuning
REPEATS = 3  # that the folds are laid out for


@dataclass(frozen=True, slots=True)
class Size:
    """How much of everything: patients by cohort and use, epochs and their optimizer steps."""

    ssa: int = 12
    gli: int = 40
    validation: int = 4
    unseen: int = 16
    epochs: int = 40
    finetune_epochs: int = 8
    iterations: int = 8


SIZES = {"full": Size(), "smoke": Size(3, 3, 1, 1, 2, 1, 1)}

ARMS = {
    "SSA-like only": (RECIPE, "ssa"),
    "GLI-like only": (RECIPE, "gli"),
    "both": (RECIPE, "both"),
    "both, then last decoder block and heads": ("mednext-b-finetune", "before"),
    "both, then the same from fresh weights": ("mednext-b-finetune-reinit", "before"),
    "both, then layer-wise rates": ("mednext-b-layerwise", "before"),
}
SITES = {"SSA": ("ssa", 1), "GLI": ("gli", 2)}

PAGE = """# Transfer: what few African-like patients gain from many others

```
python bench/transfer.py
```

**Synthetic patients, small networks, minutes of training: this shows that every path works and how they compare here,
not what they bring on real scans.** Phantoms at 2 mm ([phantoms](phantoms.md)): {ssa} SSA-like patients (low-field,
thick slices, flat contrast) and {gli} GLI-like ones to learn from, {unseen} of each that nobody trained on to judge.
Every arm takes {steps} optimizer steps of MedNeXt-B (narrow, `small` plan); the finetuned ones take the last {finetune}
of them on SSA-like cases alone. Mean Dice{spread}.

{table}

`mednext-b-finetune` trains the last decoder block and every deep-supervision head with the recipe's own
hyper-parameters, `mednext-b-finetune-reinit` the same from fresh weights, `mednext-b-layerwise` the whole network at
1e-6 (stem, first encoder stage) to 1e-4 (decoder) with AdamW, warm-up and cosine. Every run has initial weights and
batches of its own.
"""


def cases_of(work: Path, site: str, patients: int, seed: int, use: str) -> Path:
    """Return a folder of phantoms that are named after a site; made where they are missing."""
    made, named = work / f"{use}-{site}-phantoms", work / f"{use}-{site}"
    write_cohort(made, patients=patients, seed=seed, style=SITES[site][0], spacing_mm=2, workers=2)
    for folder in sorted(path for path in made.iterdir() if path.name.startswith("BraTS-")):
        name = folder.name.replace("PHA", site)
        for file in folder.iterdir():
            target = named / name / file.name.replace(folder.name, name)
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.is_file():
                shutil.copyfile(file, target)
    return named


def splits_of(cohorts: dict[str, Path], validation: int) -> list[dict[str, list[str]]]:
    """Return one split for each of `DATA`, `REPEATS` times; all validate on the same SSA-like patients."""
    names = {site: sorted(path.name for path in folder.iterdir()) for site, folder in cohorts.items()}
    patients = sorted({name.rpartition("-")[0] for name in names["SSA"]})[:validation]
    held = [name for name in names["SSA"] if name.rpartition("-")[0] in patients]
    ssa = [name for name in names["SSA"] if name not in held]
    train = {"ssa": ssa, "gli": names["GLI"], "both": ssa + names["GLI"], "before": ssa + names["GLI"]}
    return [{"train": train[data], "val": held} for _ in range(REPEATS) for data in DATA]


def fold_of(data: str, repeat: int) -> int:
    """Return the fold that an arm's data and repeat have."""
    return repeat * len(DATA) + DATA.index(data)


def train(workspace: Workspace, size: Size, repeat: int) -> None:
    """Train the arms of one repeat that are not finished."""
    for data in DATA:
        epochs = size.epochs - (size.finetune_epochs if data == "before" else 0)
        run_teachers(workspace, (RECIPE,), (fold_of(data, repeat),), RunOptions(epochs, size.iterations, device="cpu"))
    tuned = tuple(recipe for recipe, data in ARMS.values() if data == "before")
    options = RunOptions(size.finetune_epochs, size.iterations, device="cpu")
    run_teachers(workspace, tuned, (fold_of("before", repeat),), options)


def dice_of(workspace: Workspace, arm: str, repeat: int, cases: Path, out: Path) -> list[float]:
    """Return the mean Dice of WT, TC and ET of an arm over a folder; cases without the region count for no region."""
    recipe, data = ARMS[arm]
    member = find_members(workspace, (recipe,), (fold_of(data, repeat),))
    names = predict_folder(workspace, member, PredictOptions(cases, out, device="cpu"), bar)
    rows = []
    for name in names:
        found, truth = (read_labels(folder / name / f"{name}-seg.nii.gz", "brats2023")[1] for folder in (out, cases))
        rows.append(dice_per_region(found, truth))
    return [float(value) for value in np.nanmean(rows, axis=0)]


def table_of(results: dict[str, Any]) -> str:
    """Return the results as Markdown: a row an arm, mean over the repeats, the lowest and highest mean behind it."""
    columns = [f"{site}-like {region}" for site in SITES for region in (*REGIONS, "mean")]
    lines = [f"| trained on | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for arm, found in results.items():
        cells = []
        for site in SITES:
            runs = np.array(found[site])
            cells += [f"{value:.3f}" for value in runs.mean(axis=0)]
            means = runs.mean(axis=1)
            spread = f" ({means.min():.3f} to {means.max():.3f})" if len(means) > 1 else ""
            cells.append(f"**{means.mean():.3f}**{spread}")
        lines.append(f"| {arm} | {' | '.join(cells)} |")
    return "\n".join(lines)


def page_of(results: dict[str, Any], size: Size, repeats: int) -> str:
    """Return docs/transfer.md."""
    spread = ", one run an arm: differences of a few hundredths are chance"
    if repeats > 1:
        spread = f" of {repeats} runs an arm, in brackets the lowest and the highest run"
    return PAGE.format(
        ssa=size.ssa - size.validation, gli=size.gli, unseen=size.unseen, steps=size.epochs * size.iterations,
        finetune=size.finetune_epochs * size.iterations, spread=spread, table=table_of(results),
    )  # fmt: skip


def main() -> None:
    """Make, train, judge, write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("bench/work/transfer"))
    parser.add_argument("--repeats", type=int, choices=range(1, REPEATS + 1), default=1)
    parser.add_argument("--size", choices=SIZES, default="full", help="smoke tries every step and keeps to --work")
    given = parser.parse_args()
    log_to_stderr()
    size, work = SIZES[given.size], given.work / given.size
    cohorts = {s: cases_of(work, s, getattr(size, SITES[s][0]), SITES[s][1], "train") for s in SITES}
    unseen = {s: cases_of(work, s, size.unseen, 1000 + SITES[s][1], "unseen") for s in SITES}
    write_json(work / "splits.json", splits_of(cohorts, size.validation))
    request = Request(tuple(cohorts.values()), work / "workspace", plan="small", splits=work / "splits.json", workers=2)
    workspace = prepare(request, bar)
    for repeat in range(given.repeats):
        train(workspace, size, repeat)
    results: dict[str, dict[str, list[list[float]]]] = {}
    for number, arm in enumerate(ARMS):
        results[arm] = {
            site: [
                dice_of(workspace, arm, repeat, cases, work / "predictions" / f"{number}-{repeat}-{site}")
                for repeat in range(given.repeats)
            ]
            for site, cases in unseen.items()
        }
    result, page = (RESULT, PAGE_FILE) if given.size == "full" else (work / RESULT.name, work / PAGE_FILE.name)
    write_json(result, {"size": given.size, "repeats": given.repeats, "regions": REGIONS, "dice": results})
    write_bytes(page, page_of(results, size, given.repeats).encode())
    print(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
