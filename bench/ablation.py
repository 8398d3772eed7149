"""What bought the student's accuracy: one thing changed at a time, everything else equal, several seeds.

    python bench/ablation.py --workspace W --cases UNSEEN [--unlabelled SCANS] [--estimate]

The workspace holds finished teachers of every fold; UNSEEN is a folder of labelled cases that nobody trained on, of
another world if it is to say anything. Within a seed all arms get the same batches, initial weights and iterations.
Whatever is finished is not done again. The results go to bench/results/ablation.json and docs/ablation.md.
"""

from __future__ import annotations

import argparse
import json
import math
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from glialite_distill.augment import Augmentation
from glialite_distill.device import pick_device
from glialite_distill.evaluate import NetworkSource, bundle_source, evaluate, student_source
from glialite_distill.guidance import Guidance
from glialite_distill.modality_dropout import SUBSETS
from glialite_distill.soft_label_store import SoftLabelStore
from glialite_distill.student_file import StudentFile, load_student
from glialite_distill.train import RunSettings, train
from glialite_distill.train_forecast import forecast
from glialite_distill.train_options import FINE_TUNING, TrainOptions
from glialite_distill.workspace import Workspace
from glialite_runtime import nifti
from glialite_runtime.cases import find_cases
from glialite_runtime.command import bar, log_to_stderr
from glialite_runtime.files import write_bytes, write_json
from glialite_runtime.sequences import REGIONS, SEQUENCES

RESULT, PAGE_FILE = Path("bench/results/ablation.json"), Path("docs/ablation.md")
REFERENCE = "truth and soft labels"


@dataclass(frozen=True, slots=True)
class Arm:
    """One way to train: options that differ, whose soft labels, and what helps.

    `threshold` is the confidence from which a scan without labels counts as labelled, where such scans are used;
    with `int8` and `subsets` the INT8 bundle, and the student with each smaller set of sequences, are judged as well.
    """

    changes: dict[str, Any] = field(default_factory=dict)
    in_fold: bool = False
    assistant: bool = False
    threshold: float | None = None
    continues: bool = False
    int8: bool = False
    subsets: bool = False


ARMS = {
    "truth alone": Arm({"soft_weight": 0.0}),
    "soft labels alone": Arm({"hard_weight": 0.0}),
    REFERENCE: Arm(int8=True, subsets=True),
    "… soft labels in-fold": Arm(in_fold=True),
    "… disputed voxels count less": Arm({"doubt": 1.0}),
    "… BatchNorm of the batch to the end": Arm({"fixed_norm": 0.0}),
    "… with sequences dropped": Arm({"augmentation": Augmentation(dropout=0.25)}, subsets=True),
    "… with assistant M": Arm(assistant=True),
    "… with assistant M and its features": Arm({"feature_weight": 0.5}, assistant=True),
    "… then 200 iterations more": Arm({"quantisation_aware": False}, continues=True, int8=True),
    "… then 200 quantisation-aware": Arm(continues=True, int8=True),
}
UNLABELLED = {
    "… with pseudo-labels": Arm({"consistency": 0.0}, threshold=0.8),
    "… with Mean Teacher": Arm(threshold=1.0),
}

PAGE = """# Ablation: what bought the student's accuracy

```
python bench/ablation.py --workspace W --cases UNSEEN
```

**Synthetic patients, minutes of training: this shows what helps here, not what helps on real scans.** Student
{student}, {iterations} iterations of {batch} patches of {patch} voxels, seeds: {seeds}. Within a seed all arms share
initial weights and batches; arms with an ellipsis are "{reference}" with one change. Judged on {cases} cases that
nobody trained on ([phantoms](phantoms.md)). Mean Dice over cases; "against" is the difference to "{reference}" of the
same seed: mean, lowest and highest. The last column is the mean Dice of WT over the 14 smaller sets of sequences.
{healthy} of the cases are brains without a tumour: a speck outlined in one of them costs {cost:.3f} of WT.{unlabelled}

{table}

**Not shown to help** (the difference is not above 0 in every seed): {useless}.
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """What all arms share."""

    workspace: Workspace
    cases: Path
    work: Path
    options: TrainOptions
    device: str

    def settings(self, name: str, seed: int) -> RunSettings:
        """Return where an arm's run of a seed lies."""
        folder = "".join(c if c.isalnum() else "-" for c in name).strip("-")
        return RunSettings(
            self.work / f"{folder}-{seed}", self.work / "cache", pick_device(self.device), report=_report
        )


@dataclass(frozen=True, slots=True)
class Run:
    """What `train` is called with for an arm and a seed."""

    name: str
    soft: SoftLabelStore | None
    options: TrainOptions
    settings: RunSettings
    initial: StudentFile | None
    guidance: Guidance


def _report(progress: Any) -> None:
    if progress.iteration % 100 == 0:
        print(f"  {progress.iteration} of {progress.iterations}, loss {progress.loss:.3f}", file=sys.stderr, flush=True)


def runs_of(bench: Bench, arms: dict[str, Arm], seed: int) -> Iterator[tuple[Run, Arm | None]]:
    """Yield the runs of a seed in an order in which each finds what it needs; the assistant's own has no arm."""
    stores = {in_fold: SoftLabelStore.open(bench.workspace, in_fold=in_fold) for in_fold in (False, True)}
    base = replace(bench.options, seed=seed)
    helper = Run("M", stores[False], replace(base, student="M"), bench.settings("M", seed), None, Guidance())
    if any(arm.assistant for arm in arms.values()):
        yield helper, None
    for name, arm in arms.items():
        options, initial, guidance = replace(base, **arm.changes), None, Guidance()
        if arm.continues:
            options = replace(FINE_TUNING, patch=base.patch, batch_size=base.batch_size, seed=seed, **arm.changes)
            initial = _finished(bench.settings(REFERENCE, seed))
        if arm.assistant:
            guidance = Guidance(_finished(helper.settings))
        if arm.threshold is not None:
            from glialite_distill.pseudo_labels import PseudoLabels

            guidance = Guidance(None, PseudoLabels.open(bench.workspace, arm.threshold))
        yield Run(name, stores[arm.in_fold], options, bench.settings(name, seed), initial, guidance), arm


def _finished(settings: RunSettings) -> StudentFile | None:
    path = settings.folder / "student.pt"
    return load_student(path) if path.is_file() else None


def estimate(bench: Bench, arms: dict[str, Arm], seeds: int) -> float:
    """Return the minutes that training will take, from a few iterations of each arm; evaluation comes on top."""
    total = 0.0
    for run, arm in runs_of(bench, arms, 0):
        known = (run.initial or not arm or not arm.continues) and (
            run.guidance.assistant or not arm or not arm.assistant
        )
        options = run.options if known else replace(run.options, quantisation_aware=False, feature_weight=0.0)
        seconds = forecast(bench.workspace, run.soft, options, run.settings, run.initial, run.guidance).seconds
        seconds *= 1 if known else 1.5  # an assistant's forward pass, or rounding: what could not be timed yet
        print(f"{run.name}: {seconds / 60:.1f} min", file=sys.stderr)
        total += seconds * seeds / 60
    return total


def dice_of(bench: Bench, source: NetworkSource, subsets: bool = False) -> dict[str, list[list[float | None]]]:
    """Return the Dice of every case by what it was segmented with: a row a case, None where nothing has the region."""
    found: dict[str, list[list[float | None]]] = {}
    for score in evaluate(find_cases(bench.cases), {"it": source}, subsets=SUBSETS[1:] if subsets else ()).scores:
        row = [None if math.isnan(d) else d for d in score.dice]
        found.setdefault("+".join(score.sequences), []).append(row)
    return found


def result_of(bench: Bench, run: Run, arm: Arm) -> dict[str, Any]:
    """Train what is not trained, judge what is not judged."""
    kept = run.settings.folder / "dice.json"
    file = train(bench.workspace, run.soft, run.options, run.settings, run.initial, run.guidance)
    if kept.is_file():
        return dict(json.loads(kept.read_text()))
    judged = dice_of(bench, student_source(file, run.settings.device), arm.subsets)
    found: dict[str, Any] = {"fp32": judged.pop("+".join(SEQUENCES)), "subsets": judged}
    if arm.int8:
        bundle, export = run.settings.folder / "bundle", Path(sys.executable).parent / "edge-export"
        given = ("--student", run.settings.folder / "student.pt", "--workspace", bench.workspace.root)
        subprocess.run([str(part) for part in (export, "build", *given, "--out", bundle)], check=True)
        found["int8"] = dice_of(bench, bundle_source(bundle))["+".join(SEQUENCES)]
    write_json(kept, found)
    return found


def soft_labels(workspace: Workspace, unlabelled: Path | None, device: str) -> None:
    """Make what is missing: soft labels out-of-fold and in-fold, pseudo-labels."""
    from glialite_distill.members import find_members
    from glialite_distill.pseudo_labels import make_pseudo_labels
    from glialite_distill.soft_labels import make_soft_labels, plan_soft_labels
    from glialite_distill.windows import Window

    for in_fold in (False, True):
        plan = plan_soft_labels(workspace, in_fold=in_fold)
        make_soft_labels(workspace, plan, device=device, progress=bar)
    if unlabelled:
        members = find_members(workspace, plan.members)
        make_pseudo_labels(workspace, members, unlabelled, Window(workspace.patch_size), device, bar)


def means(rows: list[list[float | None]]) -> np.ndarray:
    """Return the mean Dice of WT, TC, ET and of the three."""
    table = np.array(rows, float)
    by_region = np.array([np.nanmean(column) if np.isfinite(column).any() else np.nan for column in table.T])
    return np.append(by_region, np.nanmean(by_region))


def fewer_sequences(seeds: dict[str, Any]) -> str:
    """Return the mean Dice of WT over the smaller sets of sequences and the seeds, where they were judged."""
    values = [means(rows)[0] for found in seeds.values() for rows in found["subsets"].values()]
    return f"{np.mean(values):.3f}" if values else ""


def table_of(results: dict[str, dict[str, Any]]) -> tuple[str, list[str]]:
    """Return the results as Markdown, and the arms that are not shown to help."""
    head = f"| arm | {' | '.join(REGIONS)} | mean | lowest to highest | against | WT, 14 smaller sets |"
    lines = [head, "| --- |" + " --- |" * 7]
    useless = []
    reference = {seed: means(found["fp32"])[-1] for seed, found in results[REFERENCE].items()}
    for name, seeds in results.items():
        for kind in ("fp32", "int8"):
            runs = {seed: means(found[kind]) for seed, found in seeds.items() if kind in found}
            if not runs:
                continue
            table = np.array(list(runs.values()))
            against = [values[-1] - reference[seed] for seed, values in runs.items()]
            cells = [f"{value:.3f}" for value in table.mean(axis=0)]
            cells += [f"{table[:, -1].min():.3f} to {table[:, -1].max():.3f}"]
            cells += [f"{np.mean(against):+.3f} ({min(against):+.3f} to {max(against):+.3f})"]
            cells += [fewer_sequences(seeds) if kind == "fp32" else ""]
            lines.append(f"| {name}{' (INT8)' if kind == 'int8' else ''} | {' | '.join(cells)} |")
            if name != REFERENCE and kind == "fp32" and min(against) <= 0:
                useless.append(name.removeprefix("… "))
    return "\n".join(lines), useless


def main() -> None:
    """Make, train, judge, write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--cases", type=Path, required=True)
    parser.add_argument("--unlabelled", type=Path)
    parser.add_argument("--seeds", default="0,1,2", help="two processes may share them: 0 here, 1 there, then all")
    parser.add_argument("--iterations", type=int, default=800)
    parser.add_argument("--patch", default="48,64,48")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--estimate", action="store_true", help="say how long the trainings take, and stop")
    given = parser.parse_args()
    log_to_stderr()
    workspace = Workspace.open(given.workspace).for_students()
    seeds = [int(seed) for seed in given.seeds.split(",")]
    z, y, x = (int(n) for n in given.patch.split(","))
    options = TrainOptions(iterations=given.iterations, patch=(z, y, x), validations=1)
    bench = Bench(workspace, given.cases, given.workspace / "ablation", options, given.device)
    arms = ARMS | (UNLABELLED if given.unlabelled else {})
    soft_labels(workspace, given.unlabelled, given.device)
    if given.estimate:
        print(f"about {estimate(bench, arms, len(seeds)):.0f} minutes for {len(arms)} arms, {len(seeds)} seeds")
        return
    results: dict[str, dict[str, Any]] = {name: {} for name in arms}
    for seed in seeds:
        for run, arm in runs_of(bench, arms, seed):
            print(f"{run.name}, seed {seed}", file=sys.stderr)
            if arm is None:
                train(workspace, run.soft, run.options, run.settings)
            else:
                results[run.name][str(seed)] = result_of(bench, run, arm)
    write_json(RESULT, {"seeds": seeds, "iterations": given.iterations, "regions": REGIONS, "dice": results})
    table, useless = table_of(results)
    judged = find_cases(given.cases)
    healthy = sum(not nifti.read(case.label).data.any() for case in judged if case.label)
    scans = len(find_cases(given.unlabelled)) if given.unlabelled else 0
    page = PAGE.format(
        student=options.student, iterations=options.iterations, batch=options.batch_size, patch=given.patch,
        seeds=len(seeds), cases=len(judged), reference=REFERENCE, table=table, healthy=healthy,
        cost=1 / len(judged), useless="; ".join(useless) or "none",
        unlabelled=f" Pseudo-labels and Mean Teacher saw {scans} scans without labels beside the others." * (scans > 0),
    )  # fmt: skip
    write_bytes(PAGE_FILE, page.encode())
    print(table)


if __name__ == "__main__":
    main()
