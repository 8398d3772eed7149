"""The command `teacher-train`: prepare a cohort, train teachers, look at them, let them segment, score them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from glialite_runtime.command import bar, emit, log_to_stderr, new_app, not_built_yet, run, seconds
from glialite_runtime.errors import ConfigError

from glialite_distill.recipes import RECIPES, find_recipe, table

if TYPE_CHECKING:
    from glialite_distill.workspace import Workspace

__all__ = ["app", "main"]

app = new_app("Train the heavyweight teachers: nnU-Net, its long run, and MedNeXt.")

WorkspaceOption = Annotated[Path, typer.Option("--workspace", "-w", help="Folder of the prepared cohort.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what it would do and cost; write nothing.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Processor threads (default: torch's).")]
InputOption = Annotated[Path, typer.Option("--input", "-i", help="Folder of case folders.")]
OutOption = Annotated[Path, typer.Option("--out", "-o", help="Folder for <case>/<case>-seg.nii.gz.")]
ProbabilitiesOption = Annotated[bool, typer.Option("--probabilities", help="Also write the region probabilities.")]
TtaOption = Annotated[bool, typer.Option("--tta", help="Average eight mirrorings.")]
StepOption = Annotated[float, typer.Option("--step", help="Window step: 0.5 is 50 % overlap, 0.3 is 70 %.")]


@app.command()
def prepare(
    cohort: Annotated[list[Path], typer.Option(help="Folder of labelled case folders; may be given more than once.")],
    workspace: WorkspaceOption,
    labels: Annotated[str, typer.Option(help="Label convention of every label map.")] = "brats2023",
    holdout: Annotated[int, typer.Option(min=0, help="Cases that no training sees.")] = 0,
    splits: Annotated[Path | None, typer.Option(help="Folds of your own (nnU-Net's splits_final.json).")] = None,
    folds: Annotated[int, typer.Option(min=2, help="Folds, by patient.")] = 5,
    plan: Annotated[str, typer.Option(help="full (published, 1 mm) or small (2 mm, narrow networks).")] = "full",
    targets: Annotated[str, typer.Option(help="regions (Dice + BCE) or labels (Dice + CE).")] = "regions",
    seed: Annotated[int, typer.Option(help="Of the choice of folds and held-out cases.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Cases preprocessed at the same time.")] = 1,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn case folders into an nnU-Net dataset: plans, preprocessed cases, folds by patient.

    Example: teacher-train prepare --cohort BraTS-Africa --workspace work --holdout 5
    """
    from glialite_distill.prepare import Request, forecast
    from glialite_distill.prepare import prepare as prepare_workspace

    log_to_stderr()
    if targets == "labels":
        raise not_built_yet("--targets labels")
    if targets != "regions":
        raise ConfigError(f"unknown targets {targets!r}; known: regions, labels")
    for path in (*cohort, *([splits] if splits else [])):
        if not path.exists():
            raise ConfigError(f"{path} does not exist")
    request = Request(tuple(cohort), workspace, labels, plan, folds, holdout, splits, seed, workers)
    if dry_run:
        cost = forecast(request)
        value: dict[str, Any] = {"cases": cost.cases, "disk_bytes": cost.disk_bytes, "seconds": round(cost.seconds, 1)}
        emit(
            value,
            f"{cost.cases} cases: about {cost.disk_bytes / 1e6:,.0f} MB of disk and {cost.seconds / 60:,.1f} minutes",
            as_json=as_json,
        )
        return
    ready = prepare_workspace(request, bar)
    value = {
        "workspace": str(workspace),
        "cases": list(ready.cases),
        "held_out": list(ready.held_out),
        "folds": [{"train": list(s.train), "validation": list(s.validation)} for s in ready.splits],
        "plan": ready.plan.name,
        "cohort_hash": ready.cohort_hash,
    }
    text = (
        f"{len(ready.cases)} training cases in {len(ready.splits)} folds, {len(ready.held_out)} held out; "
        f"plan {ready.plan.name}; cohort {ready.cohort_hash[:12]}\n"
        f"next: teacher-train run --workspace {workspace} --recipe baseline --fold all"
    )
    emit(value, text, as_json=as_json)


@app.command()
def recipes(as_json: JsonOption = False) -> None:
    """Print the recipes with every hyper-parameter and its source.

    Example: teacher-train recipes --json
    """
    rows = table()
    blocks = []
    for row in rows:
        lines = [f"{row['name']}: {row['summary']}"]
        lines += [f"  {key.replace('_', ' ')}: {_shown(row[key])}" for key in row if key not in ("name", "summary")]
        blocks.append("\n".join(lines))
    emit(rows, "\n\n".join(blocks), as_json=as_json)


def _shown(value: object) -> str:
    return "one pass over the cases" if value is None else str(value)


@app.command("run")
def run_(
    workspace: WorkspaceOption,
    recipe: Annotated[str, typer.Option(help=f"Comma-separated: {', '.join(RECIPES)}.")],
    fold: Annotated[str, typer.Option(help="all, or comma-separated numbers from 0.")] = "all",
    epochs: Annotated[int | None, typer.Option(min=1, help="Instead of the recipe's.")] = None,
    iterations: Annotated[int | None, typer.Option(min=1, help="Batches an epoch, instead of the recipe's.")] = None,
    time_limit: Annotated[str | None, typer.Option(help="Such as 30h, 90m or 3600s: save and exit 75 in time.")] = None,
    launcher: Annotated[str, typer.Option(help="local, ddp or slurm.")] = "local",
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    seed: Annotated[int, typer.Option(help="Decides every random number, with recipe and fold.")] = 1,
    restart: Annotated[bool, typer.Option("--restart", help="Throw existing runs of these folds away.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train teachers; finished ones are skipped, interrupted ones continue where they stopped.

    Example: teacher-train run --workspace work --recipe baseline,grokking,mednext-b --fold all --time-limit 30h
    """
    if launcher in ("ddp", "slurm"):
        raise not_built_yet(f"--launcher {launcher}")
    if launcher != "local":
        raise ConfigError(f"unknown launcher {launcher!r}; known: local, ddp, slurm")
    limit = None if time_limit is None else seconds("--time-limit", time_limit)
    names = _names(recipe)
    ready = _ready(workspace, names, threads)

    from glialite_distill.teachers import RunOptions, make_jobs, run_teachers

    folds = _folds(fold, len(ready.splits))
    options = RunOptions(epochs, iterations, seed, device, limit, restart)
    jobs = make_jobs(ready, names, folds, options) if dry_run else run_teachers(ready, names, folds, options)
    value = [
        {"recipe": j.recipe.name, "fold": j.fold, "before": j.state, "epochs": epochs or j.recipe.epochs} for j in jobs
    ]
    lines = [f"{v['recipe']} fold {v['fold']}: {v['before']}, {v['epochs']} epochs" for v in value]
    done = [f"{v['recipe']} fold {v['fold']}: finished" for v in value]
    emit(value, "\n".join(lines if dry_run else done), as_json=as_json)


@app.command()
def status(workspace: WorkspaceOption, as_json: JsonOption = False) -> None:
    """Show how far every recipe and fold is.

    Example: teacher-train status --workspace work
    """
    from glialite_distill.runs import status as read_status
    from glialite_distill.workspace import Workspace

    rows = read_status(Workspace.open(workspace))
    lines = [f"{'recipe':<12}{'fold':>5}  {'epoch':>11}  {'last Dice':>9}  {'best Dice':>9}  {'ETA':>9}  state"]
    for row in rows:
        dice = [f"{row[key]:9.3f}" if row[key] is not None else f"{'-':>9}" for key in ("last_dice", "best_dice")]
        eta = "-" if row["eta_s"] is None else f"{row['eta_s'] / 60:.1f} min"
        done = f"{row['epoch']}/{row['epochs']}"
        lines.append(f"{row['recipe']:<12}{row['fold']:>5}  {done:>11}  {dice[0]}  {dice[1]}  {eta:>9}  {row['state']}")
    emit(rows, "\n".join(lines) if rows else "no teacher has been begun", as_json=as_json)


@app.command()
def predict(
    workspace: WorkspaceOption,
    recipe: Annotated[str, typer.Option(help="One recipe.")],
    fold: Annotated[int, typer.Option(min=0, help="One fold.")],
    input_: InputOption,
    out: OutOption,
    probabilities: ProbabilitiesOption = False,
    tta: TtaOption = False,
    step: StepOption = 0.5,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Segment case folders with one teacher.

    Example: teacher-train predict --workspace work --recipe baseline --fold 0 --input cases --out predictions
    """
    _predict(workspace, (recipe,), (fold,), (input_, out, probabilities, tta, step, device), threads, as_json)


@app.command()
def ensemble(
    workspace: WorkspaceOption,
    members: Annotated[str, typer.Option(help="Comma-separated recipes; every finished fold of each takes part.")],
    input_: InputOption,
    out: OutOption,
    probabilities: ProbabilitiesOption = False,
    tta: TtaOption = False,
    step: StepOption = 0.5,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Segment case folders with the mean probabilities of several teachers.

    Example: teacher-train ensemble -w work --members baseline,grokking,mednext-b --input cases --out predictions
    """
    _predict(workspace, _names(members), None, (input_, out, probabilities, tta, step, device), threads, as_json)


def _ready(workspace: Path, recipes_: tuple[str, ...], threads: int | None) -> Workspace:
    """Check the recipes' names, set torch's threads and open the workspace."""
    for name in recipes_:
        find_recipe(name)

    import torch

    from glialite_distill.workspace import Workspace

    log_to_stderr()
    if threads is not None:
        torch.set_num_threads(threads)
    return Workspace.open(workspace)


def _predict(
    workspace: Path,
    recipes_: tuple[str, ...],
    folds: tuple[int, ...] | None,
    options: tuple[Path, Path, bool, bool, float, str],
    threads: int | None,
    as_json: bool,
) -> None:
    if not 0 < options[4] <= 1:
        raise ConfigError(f"--step {options[4]} is not in (0, 1]")
    ready = _ready(workspace, recipes_, threads)

    from glialite_distill.ensemble import PredictOptions, find_members, predict_folder

    members = find_members(ready, recipes_, folds)
    cases = predict_folder(ready, members, PredictOptions(*options), bar)
    value = {"out": str(options[1]), "members": [[m.recipe, m.fold] for m in members], "cases": list(cases)}
    emit(value, f"{len(cases)} cases by {len(members)} teachers in {options[1]}", as_json=as_json)


@app.command()
def evaluate(
    reference: Annotated[Path, typer.Option(help="Folder of true label maps.")],
    prediction: Annotated[Path, typer.Option(help="Folder of predicted label maps.")],
    csv: Annotated[Path, typer.Option(help="Table to write.")],
    metric: Annotated[str, typer.Option(help="plain, brats-2023 or brats-2024.")] = "plain",
    challenge: Annotated[str | None, typer.Option(help="ssa, gli, ped or met (brats metrics only).")] = None,
    reference_labels: Annotated[str, typer.Option(help="Label convention of the reference.")] = "brats2023",
    prediction_labels: Annotated[str, typer.Option(help="Label convention of the predictions.")] = "brats2023",
    as_json: JsonOption = False,
) -> None:
    """Score predictions: Dice by case and region (rows ET, TC, WT), mean and SD on stdout.

    Example: teacher-train evaluate --reference truth --prediction predictions --metric plain --csv scores.csv
    """
    from glialite_distill.scores import plain_scores, summary, write_plain_csv

    if metric in ("brats-2023", "brats-2024"):
        raise not_built_yet(f"--metric {metric}")
    if metric != "plain":
        raise ConfigError(f"unknown metric {metric!r}; known: plain, brats-2023, brats-2024")
    if challenge is not None:
        raise ConfigError("--challenge belongs to the brats metrics; leave it out with --metric plain")
    scores = plain_scores(reference, prediction, (reference_labels, prediction_labels))
    write_plain_csv(csv, scores)
    rows = summary(scores)
    lines = [f"{'':4}{'mean Dice':>10}{'SD':>8}{'cases':>7}"]
    for region, row in rows.items():
        mean, sd = (f"{row[key]:.3f}" if row[key] is not None else "-" for key in ("mean", "sd"))
        lines.append(f"{region:4}{mean:>10}{sd:>8}{row['cases']:>7}")
    emit(rows, "\n".join(lines), as_json=as_json)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(part.strip() for part in text.split(",") if part.strip())
    if not names:
        raise ConfigError(f"no recipe is named; known: {', '.join(RECIPES)}")
    return names


def _folds(text: str, count: int) -> tuple[int, ...]:
    if text == "all":
        return tuple(range(count))
    if not re.fullmatch(r"\d+(,\d+)*", text):
        raise ConfigError(f"--fold {text!r} is neither 'all' nor numbers such as 0,1")
    return tuple(int(part) for part in text.split(","))


def main() -> None:
    """Run the command and exit with its code."""
    raise SystemExit(run(app))
