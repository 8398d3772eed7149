"""What a clinic's own labelled cases do for a student that was trained elsewhere.

    python bench/local_cases.py --work bench/work/local

The student learns from GLI-like phantoms (clean, many); the clinic has SSA-like ones (low-field, few) and no teachers.
Patients that nobody trained on judge, of both kinds: what is won at home, and what is forgotten. Everything is resumed
where it stopped. The results go to bench/results/local_cases.json and docs/local-cases.md.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from glialite_distill.device import pick_device
from glialite_distill.evaluate import evaluate, student_source
from glialite_distill.guidance import Guidance
from glialite_distill.prepare import Request, prepare
from glialite_distill.student_file import StudentFile
from glialite_distill.train import RunSettings, train
from glialite_distill.train_options import CONTINUED, TrainOptions
from glialite_distill.workspace import Workspace
from glialite_runtime.cases import find_cases
from glialite_runtime.command import bar, log_to_stderr
from glialite_runtime.files import write_bytes, write_json
from glialite_runtime.sequences import REGIONS
from transfer import SITES, cases_of

RESULT, PAGE_FILE = Path("bench/results/local_cases.json"), Path("docs/local-cases.md")


@dataclass(frozen=True, slots=True)
class Size:
    """Patients to learn from elsewhere and at the clinic, patients to judge on, and iterations of both trainings."""

    gli: int = 40
    ssa: int = 25
    unseen: int = 16
    iterations: int = 800
    local: int = 400
    patch: tuple[int, int, int] = (48, 64, 48)


SIZES = {"full": Size(), "smoke": Size(5, 5, 1, 2, 2, (16, 16, 16))}

PAGE = """# A clinic's own cases

```
python bench/local_cases.py
distill train --workspace clinic --init S/student.pt --assistant S/student.pt --soft-weight 0 --name local
```

**Synthetic patients, minutes of training: this shows that the path works and how the ways compare here.** Student S
learns from {gli} GLI-like patients ({iterations} iterations, on the truth). A clinic has {local_cases} labelled
SSA-like cases to train on, and {local} iterations. Judged on {unseen} patients of each kind that nobody trained on:
mean Dice of WT, TC and ET, mean over {seeds} seeds with the lowest and the highest.

{table}
"""


def settings(work: Path, name: str, workspace: Workspace) -> RunSettings:
    """Return where a run lies."""
    return RunSettings(work / "students" / name, workspace.root / "students" / "cache", pick_device("auto"))


def students(work: Path, spaces: Mapping[str, Workspace], size: Size, seed: int) -> dict[str, StudentFile]:
    """Train the four students of a seed that are not finished; return them by what they are."""
    common = {"patch": size.patch, "soft_weight": 0.0, "validations": 1, "seed": seed}
    away, home = spaces["GLI"], spaces["SSA"]
    first = replace(TrainOptions(), iterations=size.iterations, **common)
    scratch, tuned = replace(first, iterations=size.local), replace(CONTINUED, iterations=size.local, **common)
    parent = train(away, None, first, settings(work, f"parent-{seed}", away))
    runs = {
        "the clinic's cases alone": (scratch, None, Guidance()),
        "trained elsewhere, then the clinic's cases": (tuned, parent, Guidance()),
        "the same, with its old self as assistant": (tuned, parent, Guidance(parent)),
    }
    found = {"trained elsewhere alone": parent}
    for number, (name, (options, initial, guidance)) in enumerate(runs.items()):
        run = settings(work, f"local-{number}-{seed}", home)
        found[name] = train(home, None, options, run, initial, guidance)
    return found


def mean_dice(file: StudentFile, cases: Path) -> float:
    """Return the mean over WT, TC and ET of the mean Dice; regions that are nowhere do not count."""
    source = student_source(file, pick_device("auto"))
    table = np.array([score.dice for score in evaluate(find_cases(cases), {"it": source}).scores])
    columns = [column[~np.isnan(column)] for column in table.T]
    return float(np.mean([column.mean() for column in columns if column.size])) if table.size else math.nan


def table_of(results: Mapping[str, Mapping[str, list[float]]]) -> str:
    """Return the results as Markdown."""
    lines = ["| student | SSA-like | GLI-like |", "| --- | --- | --- |"]
    for name, sites in results.items():
        cells = [f"**{np.mean(sites[s]):.3f}** ({min(sites[s]):.3f} to {max(sites[s]):.3f})" for s in ("SSA", "GLI")]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    """Make, train, judge, write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("bench/work/local"))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--size", choices=SIZES, default="full", help="smoke tries every step and keeps to --work")
    given = parser.parse_args()
    log_to_stderr()
    size, work = SIZES[given.size], given.work / given.size
    spaces, unseen = {}, {}
    for site, patients in (("GLI", size.gli), ("SSA", size.ssa)):
        cohort = cases_of(work, site, patients, SITES[site][1], "train")
        unseen[site] = cases_of(work, site, size.unseen, 1000 + SITES[site][1], "unseen")
        spaces[site] = prepare(Request((cohort,), work / f"workspace-{site}", plan="small", folds=5), bar)
    results: dict[str, dict[str, Any]] = {}
    for seed in range(given.seeds):
        for name, file in students(work, spaces, size, seed).items():
            for site, cases in unseen.items():
                results.setdefault(name, {}).setdefault(site, []).append(mean_dice(file, cases))
    result, page_file = (RESULT, PAGE_FILE) if given.size == "full" else (work / RESULT.name, work / PAGE_FILE.name)
    write_json(result, {"size": given.size, "seeds": given.seeds, "regions": REGIONS, "dice": results})
    page = PAGE.format(
        gli=size.gli, iterations=size.iterations, local=size.local, local_cases=len(spaces["SSA"].splits[0].train),
        unseen=size.unseen, seeds=given.seeds, table=table_of(results),
    )  # fmt: skip
    write_bytes(page_file, page.encode())
    print(table_of(results))


if __name__ == "__main__":
    main()
