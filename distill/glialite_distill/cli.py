"""The command `distill`: phantom cohorts, soft labels, training a student, and how well it does."""

from __future__ import annotations

import json
import math
import re
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from glialite_runtime.command import bar, emit, log_to_stderr, new_app, run, seconds
from glialite_runtime.errors import ConfigError
from glialite_runtime.resources import usable_cores

__all__ = ["app", "main"]

app = new_app("Distil the teachers into a compact student.")

WorkspaceOption = Annotated[Path, typer.Option("--workspace", "-w", help="Folder of the prepared cohort.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what it would do and cost; write nothing.")]
DeviceOption = Annotated[str, typer.Option("--device", help="auto, cpu or cuda.")]
ThreadsOption = Annotated[int | None, typer.Option("--threads", min=1, help="Processor threads (default: torch's).")]
ConfidenceOption = Annotated[float, typer.Option(help="Expected Dice from which a scan counts as labelled.")]
RestartOption = Annotated[bool, typer.Option("--restart", help="Throw away what was made with other settings.")]


@app.command()
def phantoms(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder of the cohort: a BraTS case folder a scan.")],
    patients: Annotated[int, typer.Option(min=1, help="Patients; a few have a second scan.")],
    seed: Annotated[int, typer.Option(min=0, help="Patient k of a seed is always the same.")] = 1,
    style: Annotated[str, typer.Option(help="gli (clean), ssa (low-field) or both.")] = "both",
    world: Annotated[str, typer.Option(help="default; wide (varied); shifted, other: ranges of neither.")] = "default",
    spacing: Annotated[float, typer.Option(min=1, max=2, help="Edge of a voxel, mm; 1.5 for the student's.")] = 1.0,
    small: Annotated[bool, typer.Option("--small", help="The same as --spacing 2: for a demonstration.")] = False,
    workers: Annotated[int | None, typer.Option(min=1, help="Processes (default: one a core).")] = None,
    as_json: JsonOption = False,
) -> None:
    """Make a labelled cohort of patients that nobody ever was; cases that are there already are kept.

    Example: distill phantoms --out demo/cohort --patients 12 --seed 1 --small
    """
    from glialite_distill.phantom import write_cohort

    made: list[int] = []

    def show(done: int, total: int) -> None:
        made.append(done)
        on_one_line = sys.stderr.isatty() and done < total
        if on_one_line or done == total or done % 25 == 0:
            typer.echo(f"\rphantoms: {done} of {total}", err=True, nl=not on_one_line)

    settings: dict[str, Any] = {"style": style, "spacing_mm": 2.0 if small else spacing, "world": world}
    settings["workers"] = workers or usable_cores()
    names = write_cohort(out, patients=patients, seed=seed, **settings, progress=show)
    text = f"{out}: {len(names)} cases of {patients} patients"
    text += f", {len(made)} of them new" if made else ", all of them there already; nothing to do"
    emit({"out": str(out), "cases": names, "new": len(made)}, text, as_json=as_json)


@app.command("soft-labels")
def soft_labels(
    workspace: WorkspaceOption,
    members: Annotated[str, typer.Option(help="Comma-separated recipes (default: all that are trained).")] = "",
    weights: Annotated[
        str, typer.Option(help="equal, hybrid, learnt, best (see teacher-train ensemble --fit) or a JSON file.")
    ] = "equal",
    tta: Annotated[bool, typer.Option("--tta", help="Average eight mirrorings.")] = False,
    device: DeviceOption = "auto",
    restart: RestartOption = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Let the teachers label every training case, each only patients that it never saw.

    Example: distill soft-labels --workspace work --members baseline,grokking,mednext-b --tta
    """
    from glialite_distill.soft_labels import make_soft_labels, plan_soft_labels
    from glialite_distill.workspace import Workspace

    log_to_stderr()
    ready = Workspace.open(workspace).for_students()
    plan = plan_soft_labels(ready, _recipes(members), tta=tta)
    if weights != "equal":
        from glialite_distill.ensemble_fit import choose_combination
        from glialite_distill.members import find_members
        from glialite_distill.predict_options import Choice
        from glialite_distill.windows import Window

        window = Window(ready.patch_size, plan.step, tta)
        chosen = choose_combination(ready, find_members(ready, plan.members), window, Choice(weights)).weights
        plan = plan_soft_labels(ready, plan.members, tta=tta, weights=chosen)
    if dry_run:
        value: dict[str, Any] = {
            "members": list(plan.members),
            "cases": len(plan.teachers),
            "left_out": list(plan.left_out),
            "disk_mb": round(plan.disk_bytes / 1e6, 1),
        }
        text = f"{value['cases']} cases by {', '.join(plan.members)}, about {value['disk_mb']} MB"
        emit(value, text + f"; {len(plan.left_out)} cases have no teacher that did not see them", as_json=as_json)
        return
    done: list[int] = []

    def show(items: Any, *, label: str, length: int | None = None) -> Any:
        for item in bar(items, label=label, length=length):
            yield item
            done.append(1)

    store = make_soft_labels(ready, plan, device=device, progress=show, restart=restart)
    size = round(store.bytes_a_voxel(), 3)
    value = {"key": store.key, "members": list(store.members), "cases": list(store.cases), "new": len(done)}
    value["bytes_a_voxel"] = size
    text = f"soft labels of {len(store.cases)} cases by {', '.join(store.members)}, {size} bytes a voxel"
    emit(value, text + (f", {len(done)} new" if done else ": all there already; nothing to do"), as_json=as_json)


@app.command("pseudo-labels")
def pseudo_labels(
    workspace: WorkspaceOption,
    scans: Annotated[Path, typer.Option("--input", "-i", help="Folder of case folders that nobody labelled.")],
    members: Annotated[str, typer.Option(help="Comma-separated recipes (default: all that are trained).")] = "",
    tta: Annotated[bool, typer.Option("--tta", help="Average eight mirrorings.")] = False,
    confidence: ConfidenceOption = 0.8,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Let the teachers label scans that nobody labelled; what they are sure of, distill train --unlabelled uses.

    Example: distill pseudo-labels --workspace work --input unlabelled --confidence 0.8
    """
    from glialite_distill.members import find_members
    from glialite_distill.pseudo_labels import PseudoLabels, make_pseudo_labels
    from glialite_distill.recipes import RECIPES
    from glialite_distill.runs import trained_folds
    from glialite_distill.windows import Window
    from glialite_distill.workspace import Workspace

    log_to_stderr()
    ready = Workspace.open(workspace).for_students()
    recipes = _recipes(members) or tuple(recipe for recipe in RECIPES if trained_folds(ready, recipe))
    window = Window(ready.patch_size, tta=tta)
    make_pseudo_labels(ready, find_members(ready, recipes), scans, window, device, bar)
    found = PseudoLabels.open(ready, confidence)
    value = {"confidences": found.confidences, "kept": list(found.soft.cases)}
    emit(
        value, f"{len(found.soft.cases)} of {len(found.cases)} scans have the confidence {confidence}", as_json=as_json
    )


@app.command()
def train(
    workspace: WorkspaceOption,
    student: Annotated[str, typer.Option("--student", help="S or M.")] = "S",
    name: Annotated[
        str | None, typer.Option(help="Folder under students/ (default: such as S, S-quantisation-aware).")
    ] = None,
    init: Annotated[Path | None, typer.Option(help="student.pt to start from.")] = None,
    quantisation_aware: Annotated[
        bool, typer.Option("--quantisation-aware", help="Continue --init, rounding as the INT8 graph will.")
    ] = False,
    iterations: Annotated[
        int | None, typer.Option(min=1, help="Batches (default: 2000; with --init 1000, quantisation-aware 200).")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Patches in a batch.")] = 2,
    patch: Annotated[str | None, typer.Option(help="Such as 64,80,64 voxels (z,y,x); default: the plan's.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="Highest; reached after the warm-up.")] = None,
    temperature: Annotated[
        str, typer.Option(help="Softens teachers and student alike; one number, or WT,TC,ET.")
    ] = "2",
    soft_weight: Annotated[float, typer.Option(min=0, help="0 trains on the truth alone.")] = 1.0,
    soft_only: Annotated[bool, typer.Option("--soft-only", help="Leave cases without soft labels out.")] = False,
    assistant: Annotated[Path | None, typer.Option(help="student.pt, a larger one, to learn from as well.")] = None,
    unlabelled: Annotated[
        bool, typer.Option("--unlabelled", help="Learn from the scans of distill pseudo-labels, too.")
    ] = False,
    confidence: ConfidenceOption = 0.8,
    dropout: Annotated[
        float, typer.Option(min=0, max=1, help="Share of patches that lose sequences: for scans that lack some.")
    ] = 0.0,
    shrink: Annotated[
        float | None, typer.Option(help="Show patches smaller than life, down to this: 0.62 for phantoms.")
    ] = None,
    decide_on: Annotated[
        list[Path] | None,
        typer.Option(help="Labelled cases of elsewhere, may repeat: thresholds for scans like these."),
    ] = None,
    fold: Annotated[int, typer.Option(min=0, help="Fold whose validation cases validate.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Decides every random number.")] = 0,
    time_limit: Annotated[str | None, typer.Option(help="Such as 30h, 90m or 3600s: save and exit 75 in time.")] = None,
    device: DeviceOption = "auto",
    threads: ThreadsOption = None,
    restart: Annotated[bool, typer.Option("--restart", help="Throw an existing training of this name away.")] = False,
    dry_run: DryRunOption = False,
    as_json: JsonOption = False,
) -> None:
    """Train a student on truth and soft labels; an interrupted training continues exactly where it stopped.

    Example: distill train --workspace work --student S --iterations 20000 --time-limit 6h

    Example: distill train --workspace work --student S --assistant work/students/M/student.pt

    Example: distill train --workspace work --init work/students/S/student.pt --quantisation-aware

    Example: distill train --workspace clinic --init S/student.pt --assistant S/student.pt --soft-weight 0 --name local
    """
    import torch

    from glialite_distill.device import pick_device
    from glialite_distill.guidance import Guidance
    from glialite_distill.student import STUDENTS
    from glialite_distill.student_file import load_student
    from glialite_distill.train import RunSettings
    from glialite_distill.train import train as train_student
    from glialite_distill.train_display import shown_on_stderr
    from glialite_distill.train_forecast import forecast
    from glialite_distill.train_options import CONTINUED, FINE_TUNING, TrainOptions
    from glialite_distill.workspace import Workspace

    log_to_stderr()
    if threads is not None:
        torch.set_num_threads(threads)
    limit = math.inf if time_limit is None else seconds("--time-limit", time_limit)
    ready = Workspace.open(workspace).for_students()
    soft = None
    if soft_weight > 0:
        from glialite_distill.soft_label_store import SoftLabelStore

        soft = SoftLabelStore.open(ready)
    scans = None
    if unlabelled:
        from glialite_distill.pseudo_labels import PseudoLabels  # brings nnU-Net along: four seconds

        scans = PseudoLabels.open(ready, confidence)
    guidance = Guidance(load_student(assistant) if assistant else None, scans)
    divisor = STUDENTS[student].divisor if student in STUDENTS else 1
    z, y, x = _patch(patch) if patch else (max(1, n // divisor) * divisor for n in ready.patch_size)
    defaults = FINE_TUNING if quantisation_aware else CONTINUED if init else TrainOptions()
    options = replace(
        defaults,
        student=student,
        iterations=iterations or defaults.iterations,
        batch_size=batch_size,
        patch=(z, y, x),
        fold=fold,
        learning_rate=defaults.learning_rate if learning_rate is None else learning_rate,
        temperature=_temperatures(temperature),
        soft_weight=soft_weight,
        hard_cases=not soft_only,
        augmentation=replace(defaults.augmentation.shrunk(shrink), dropout=dropout),
        seed=seed,
    )
    default_name = f"{student}-quantisation-aware" if quantisation_aware else student
    folder = ready.root / "students" / _plain_name(name or default_name)
    settings = RunSettings(folder, ready.root / "students" / "cache", pick_device(device), limit)
    initial = load_student(init) if init else None
    if restart and not dry_run:
        for old in ("student.pt", "checkpoint.pt"):
            (folder / old).unlink(missing_ok=True)
    if dry_run:
        ahead = asdict(forecast(ready, soft, options, settings, initial, guidance))
        emit(ahead, _forecast_text(ahead, folder), as_json=as_json)
        return
    finished = (folder / "student.pt").is_file()
    with shown_on_stderr() as show:
        file = train_student(ready, soft, options, replace(settings, report=show), initial, guidance)
    if decide_on:
        from glialite_distill.decision_elsewhere import decide_elsewhere

        file = decide_elsewhere(folder / "student.pt", decide_on, settings.device)
    last = file.provenance["last"]
    dices = ", ".join(f"{r} {_figure(last[f'dice_{r.lower()}'])}" for r in ("WT", "TC", "ET"))
    text = f"{folder / 'student.pt'}: {options.iterations} iterations, validation Dice {dices}"
    value = {"student": str(folder / "student.pt"), "already_finished": finished, **last}
    emit(value, text + (" (finished already; nothing to do)" if finished else ""), as_json=as_json)


@app.command()
def evaluate(
    cohort: Annotated[Path, typer.Option("--cohort", help="Folder of case folders with label maps.")],
    workspace: Annotated[
        Path | None,
        typer.Option("--workspace", "-w", help="Its cases fit the trivial rule; its students are evaluated."),
    ] = None,
    student: Annotated[
        list[Path] | None, typer.Option("--student", help="student.pt instead of the workspace's; may be repeated.")
    ] = None,
    bundle: Annotated[
        list[Path] | None, typer.Option("--bundle", help="Clinic bundle, run as the clinic does; may be repeated.")
    ] = None,
    compare: Annotated[
        list[str] | None, typer.Option(help="NAME=DIR of label maps, with probabilities or without; may be repeated.")
    ] = None,
    reference: Annotated[str | None, typer.Option(help="NAME whose mean Dice the others are a share of.")] = None,
    subsets: Annotated[
        bool, typer.Option("--subsets", help="Students and bundles also with each smaller set of sequences: 15 in all.")
    ] = False,
    fit_on: Annotated[
        Path | None, typer.Option(help="Case folders that training never saw: temperatures, volume intervals.")
    ] = None,
    labels: Annotated[str, typer.Option(help="Label convention of the truth.")] = "brats2023",
    csv: Annotated[
        Path | None, typer.Option(help="Gets a line a case and source; .md, .json and .png beside it the rest.")
    ] = None,
    device: DeviceOption = "auto",
    as_json: JsonOption = False,
) -> None:
    """Compare students, bundles, other predictions and a FLAIR threshold with the truth.

    Dice by region with intervals over patients, volumes, false tumour in healthy brains, calibration error. With --csv,
    an interrupted evaluation continues. Patients whom a model met in training are refused.

    Example: distill evaluate --workspace work --cohort unseen --compare all=teachers --reference all --csv dice.csv

    Example: distill evaluate --cohort unseen --bundle bundle --subsets --fit-on held-out --csv clinic.csv
    """
    from glialite_distill.device import pick_device
    from glialite_distill.evaluate_run import EvaluationRequest, run_evaluation
    from glialite_distill.workspace import Workspace

    log_to_stderr()
    others = dict(_named(text) for text in compare or [])
    data = Workspace.open(workspace) if workspace else None
    found = sorted((workspace / "students").glob("*/student.pt")) if workspace and not student else []
    students = _by_name("student {} (FP32)", [(path.parent.name, path) for path in (*found, *(student or []))])
    bundles = _by_name("{} as in the clinic", [(path.name, path) for path in bundle or []])
    if not (students or bundles or others):
        raise ConfigError(
            "nothing to evaluate: give a --workspace with a trained student, --student, --bundle or --compare"
        )
    request = EvaluationRequest(
        cohort, students, others, bundles, fit_on, reference, subsets=subsets, labels=labels, csv=csv
    )
    result, kept = run_evaluation(request, data, pick_device(device), bar)
    note = f"\n(read from {csv}: made from the same files already)" if kept else ""
    emit(result, result["table"] + note, as_json=as_json)


def _forecast_text(ahead: dict[str, Any], folder: Path) -> str:
    from glialite_distill.train_display import duration

    memory = "" if ahead["memory_mb"] is None else f", {ahead['memory_mb']:.0f} MB of memory"
    return (
        f"{folder}: {ahead['training_cases']} training cases ({ahead['soft_label_cases']} with soft labels), "
        f"{ahead['validation_cases']} for validation; {ahead['iterations_left']} iterations left, about "
        f"{duration(ahead['seconds'])}, {ahead['disk_mb']:.0f} MB of disk{memory}"
    )


def _recipes(members: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in members.split(",") if name.strip())


def _temperatures(text: str) -> tuple[float, float, float]:
    try:
        found = [float(part) for part in text.split(",")]
        wt, tc, et = found * 3 if len(found) == 1 else found
    except ValueError as error:
        raise ConfigError(f"--temperature {text!r} is not a number, nor three of WT,TC,ET such as 2,2,3") from error
    return wt, tc, et


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _by_name(title: str, paths: list[tuple[str, Path]]) -> dict[str, Path]:
    named = {title.format(name): path for name, path in paths}
    if len(named) < len(paths):
        raise ConfigError(f"two of {', '.join(str(path) for _, path in paths)} have one name; rename a folder")
    return named


def _named(text: str) -> tuple[str, Path]:
    name, equals, folder = text.partition("=")
    if not name or not equals or not Path(folder).is_dir():
        raise ConfigError(f"--compare {text!r} is not NAME=DIR with an existing folder")
    return name, Path(folder)


def _patch(text: str) -> tuple[int, int, int]:
    if not re.fullmatch(r"\d+,\d+,\d+", text):
        raise ConfigError(f"--patch {text!r} is not three whole numbers such as 64,80,64")
    z, y, x = (int(part) for part in text.split(","))
    return z, y, x


def _plain_name(text: str) -> str:
    if not re.fullmatch(r"[\w-]+", text) or text == "cache":
        raise ConfigError(f"--name {json.dumps(text)} is not made of letters, digits, - and _, or is taken")
    return text


def main() -> None:
    """Run the command and exit with its code."""
    raise SystemExit(run(app))
