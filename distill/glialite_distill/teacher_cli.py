"""The command `teacher-train`: prepare a cohort, train teachers, look at them, let them segment, score them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from glialite_runtime.command import bar, emit, log_to_stderr, new_app, run, seconds
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
UncertaintyOption = Annotated[bool, typer.Option("--uncertainty", help="Also write the variance over the mirrorings.")]
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
    plan: Annotated[str, typer.Option(help="full (published, 1 mm), medium (1.5 mm), small (2 mm, narrow).")] = "full",
    targets: Annotated[str, typer.Option(help="regions; labels (Dice + CE) are a recipe's choice.")] = "regions",
    clip: Annotated[bool, typer.Option("--clip", help="Clip sequences to their 2nd to 98th percentile.")] = False,
    mask_channel: Annotated[bool, typer.Option("--mask-channel", help="Mark the brain in a further channel.")] = False,
    seed: Annotated[int, typer.Option(help="Of the choice of folds and held-out cases.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Cases preprocessed at the same time.")] = 1,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Turn case folders into an nnU-Net dataset: plans, preprocessed cases, folds by patient.

    Example: teacher-train prepare --cohort BraTS-Africa --workspace work --holdout 5
    """
    from glialite_distill.input_options import InputOptions
    from glialite_distill.prepare import Request, forecast
    from glialite_distill.prepare import prepare as prepare_workspace

    log_to_stderr()
    if targets == "labels":
        raise ConfigError(
            "a workspace holds regions and labels alike; prepare it without --targets, "
            "then teacher-train run --recipe baseline-labels"
        )
    if targets != "regions":
        raise ConfigError(f"unknown targets {targets!r}; known: regions, labels")
    for path in (*cohort, *([splits] if splits else [])):
        if not path.exists():
            raise ConfigError(f"{path} does not exist")
    inputs = InputOptions(clip, mask_channel)
    request = Request(tuple(cohort), workspace, labels, plan, folds, holdout, splits, seed, workers, inputs)
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
def recipes(
    config: Annotated[Path | None, typer.Option(help="TOML that overrides recipes: [baseline], epochs = 100.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Print the recipes with every hyper-parameter and its source.

    Example: teacher-train recipes --json
    """
    from glialite_distill.recipe_file import load_recipes, recipe_text

    rows = table(RECIPES if config is None else load_recipes(config))
    emit(rows, "\n\n".join(recipe_text(row) for row in rows), as_json=as_json)


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
    config: Annotated[Path | None, typer.Option(help="TOML that overrides recipes: [baseline], epochs = 100.")] = None,
    slurm: Annotated[list[str] | None, typer.Option(help="KEY=VALUE of sbatch, such as partition=gpu; repeat.")] = None,
    restart: Annotated[bool, typer.Option("--restart", help="Throw existing runs of these folds away.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train teachers; finished ones are skipped, interrupted ones continue where they stopped.

    Example: teacher-train run --workspace work --recipe baseline,grokking,mednext-b --fold all --time-limit 30h

    On a cluster: teacher-train run -w work --recipe baseline --launcher slurm --time-limit 24h --slurm partition=gpu
    """
    if launcher == "slurm" and threads is not None:
        raise ConfigError("--threads is for this computer; a SLURM job has as many as --slurm cpus_per_task=N")
    limit = None if time_limit is None else seconds("--time-limit", time_limit)
    names = _names(recipe)
    ready = _ready(workspace, names, threads)

    from dataclasses import asdict

    from glialite_distill.launch import forecast_launch, launch
    from glialite_distill.slurm_queue import parse_settings
    from glialite_distill.teacher_forecast import forecast_text
    from glialite_distill.teachers import RunOptions

    settings = parse_settings(slurm or ())
    folds = _folds(fold, len(ready.splits))
    options = RunOptions(epochs, iterations, seed, device, limit, restart, config)
    if dry_run:
        ahead = forecast_launch(launcher, ready, names, folds, options)
        emit([asdict(row) for row in ahead], forecast_text(ready, ahead), as_json=as_json)
        return
    rows = launch(launcher, ready, names, folds, options, settings)
    lines = [f"{r['recipe']} fold {r['fold']}: " + (f"job {r['job']}" if r["job"] else "finished") for r in rows]
    emit(rows, "\n".join(lines), as_json=as_json)


@app.command()
def status(
    workspace: WorkspaceOption,
    watch: Annotated[bool, typer.Option("--watch", help="Refresh the table in place while something runs.")] = False,
    curves: Annotated[
        Path | None,
        typer.Option("--curves", help="Draw every run's curves into this folder; say whether there is a late jump."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Show how far every recipe and fold is, and its SLURM job.

    Example: teacher-train status --workspace work --watch
    """
    from glialite_distill.run_status import status as read_status
    from glialite_distill.run_status import status_table, watch_status
    from glialite_distill.workspace import Workspace

    ready = Workspace.open(workspace)
    if watch and as_json:
        raise ConfigError("--watch is for people, --json for machines; ask for one of them")
    if watch:
        watch_status(ready)
        return
    if curves is not None:
        from glialite_distill.monitor_figure import draw_runs

        drawn = draw_runs(ready, curves)
        lines = [f"{row['recipe']} fold {row['fold']}: {row['sentence']}" for row in drawn]
        emit(drawn, "\n".join(lines) or "no epoch is finished yet", as_json=as_json)
        return
    rows = read_status(ready)
    emit(rows, status_table(rows), as_json=as_json)


@app.command()
def predict(
    workspace: WorkspaceOption,
    recipe: Annotated[str, typer.Option(help="One recipe.")],
    fold: Annotated[int, typer.Option(min=0, help="One fold.")],
    input_: InputOption,
    out: OutOption,
    probabilities: ProbabilitiesOption = False,
    uncertainty: UncertaintyOption = False,
    tta: TtaOption = False,
    step: StepOption = 0.5,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Segment case folders with one teacher.

    Example: teacher-train predict --workspace work --recipe baseline --fold 0 --input cases --out predictions
    """
    from glialite_distill.predict_options import PredictOptions

    options = PredictOptions(input_, out, probabilities, uncertainty, tta, step, device)
    ready = _ready(workspace, (), threads)

    from glialite_distill.members import find_members
    from glialite_distill.predictions import predict_folder

    found = find_members(ready, (recipe,), (fold,))
    cases = predict_folder(ready, found, options, bar)
    value = {"out": str(out), "members": [[m.recipe, m.fold] for m in found], "cases": list(cases)}
    emit(value, f"{len(cases)} cases by {recipe} fold {fold} in {out}", as_json=as_json)


@app.command()
def ensemble(
    workspace: WorkspaceOption,
    members: Annotated[
        str, typer.Option(help="Comma-separated recipes or nnU-Net results folders; every finished fold takes part.")
    ],
    input_: Annotated[Path | None, typer.Option("--input", "-i", help="Folder of case folders.")] = None,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="Folder for <case>/<case>-seg.nii.gz.")] = None,
    weights: Annotated[str, typer.Option(help="equal, hybrid, learnt, best, or a JSON file.")] = "equal",
    decision: Annotated[str, typer.Option(help="plain, ssa, ped-100, ped-50, ped-25, or fitted.")] = "plain",
    fit: Annotated[bool, typer.Option("--fit", help="Fit weights and decision on out-of-fold predictions.")] = False,
    probabilities: ProbabilitiesOption = False,
    uncertainty: UncertaintyOption = False,
    tta: TtaOption = False,
    step: StepOption = 0.5,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    as_json: JsonOption = False,
) -> None:
    """Segment case folders with several teachers together; --fit alone only says what each of them is worth.

    Example: teacher-train ensemble -w work --members baseline,grokking,mednext-b --input cases --out predictions
    """
    from glialite_distill.predict_options import Choice, PredictOptions

    options = PredictOptions(input_, out, probabilities, uncertainty, tta, step, device) if input_ and out else None
    if options is None and (input_ or out or not fit):
        raise ConfigError("--input and --out belong together; only --fit goes without them")
    choice = Choice(weights, decision)
    ready = _ready(workspace, (), threads)

    from glialite_distill.ensemble_fit import choose_combination, fit_ensemble, fit_folder
    from glialite_distill.members import find_members
    from glialite_distill.predictions import predict_folder
    from glialite_distill.windows import Window

    window = Window(ready.patch_size, step, tta)
    found = find_members(ready, _names(members))
    value: dict[str, Any] = {"members": [[m.recipe, m.fold] for m in found]}
    lines = []
    if fit:
        value["fit"] = fit_ensemble(ready, found, window, device, bar)
        folder = fit_folder(ready, found, window)
        lines += [(folder / "member_table.md").read_text(encoding="utf-8"), f"fitted weights and rules in {folder}"]
    if options is not None:
        chosen = choose_combination(ready, found, window, choice)
        cases = predict_folder(ready, found, options, bar, chosen)
        value |= {"out": str(out), "cases": list(cases), "weights": chosen.weights.to_json(), "decision": decision}
        lines.append(f"{len(cases)} cases by {len(found)} teachers in {out}")
    emit(value, "\n".join(lines), as_json=as_json)


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


@app.command()
def evaluate(
    prediction: Annotated[list[str], typer.Option(help="Folder of predicted label maps, or NAME=FOLDER; repeatable.")],
    reference: Annotated[Path | None, typer.Option(help="Folder of true label maps.")] = None,
    csv: Annotated[Path | None, typer.Option(help="Table to write.")] = None,
    metric: Annotated[str, typer.Option(help="plain, brats-2023 or brats-2024.")] = "plain",
    challenge: Annotated[str | None, typer.Option(help="ssa (default), gli, ped or met; brats metrics only.")] = None,
    report: Annotated[Path | None, typer.Option(help="Folder for tables, charts and the worst cases.")] = None,
    rle: Annotated[Path | None, typer.Option(help="Run-length CSV of the predictions, as for Kaggle.")] = None,
    reference_labels: Annotated[str, typer.Option(help="Label convention of the reference.")] = "brats2023",
    prediction_labels: Annotated[str, typer.Option(help="Label convention of the predictions.")] = "brats2023",
    as_json: JsonOption = False,
) -> None:
    """Score predictions by case and region (rows ET, TC, WT): a CSV table, mean and SD on stdout.

    With --rle alone nothing is scored, and no reference is needed.

    Example: teacher-train evaluate --reference truth --prediction predictions --metric brats-2023 --csv scores.csv
    """
    from glialite_distill.score_report import Evaluation, evaluate_predictions
    from glialite_distill.scores import Settings

    if metric == "plain" and challenge is not None:
        raise ConfigError("--challenge belongs to the brats metrics; leave it out with --metric plain")
    settings = Settings(metric, challenge or "ssa", (reference_labels, prediction_labels))
    value, text = evaluate_predictions(Evaluation(reference, tuple(prediction), settings, csv, report, rle), bar)
    emit(value, text, as_json=as_json)


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
