"""Train teachers, recipe by recipe and fold by fold: skip what is finished, continue what was interrupted."""

from __future__ import annotations

import json
import logging
import math
import shutil
import statistics
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as nnunet_trainer_module  # noqa: N813
import torch
from glialite_runtime.errors import ConfigError, TimeLimitReached
from glialite_runtime.files import sha256_bytes, sha256_file, write_json
from glialite_runtime.sequences import REGIONS

from glialite_distill import nnunet
from glialite_distill.device import pick_device
from glialite_distill.recipes import Recipe, in_training_order, iterations_of
from glialite_distill.runs import (
    HISTORY,
    final_checkpoint,
    fold_folder,
    latest_checkpoint,
    record_file,
    training_record,
    write_history,
)
from glialite_distill.trainers import TRAINERS, GliaLiteTrainer
from glialite_distill.workspace import CONFIGURATION, Workspace

__all__ = ["Job", "RunOptions", "load_weights", "make_jobs", "run_teachers"]

LOG = logging.getLogger(__name__)

_SAVE_SHARE: Final = 300  # a checkpoint is due after this many times what writing one takes …
_SAVE_SECONDS: Final = 10.0  # … and at least after this long


@dataclass(frozen=True, slots=True)
class RunOptions:
    """How to train.

    Attributes
    ----------
    epochs, iterations : int or None
        Override the recipe's; None continues with what a run was begun with.
    seed : int
        With recipe and fold it decides every random number.
    device : str
        "auto", "cpu" or "cuda".
    time_limit_s : float or None
        Stop in time for this, after a checkpoint; at least one epoch is always trained.
    restart : bool
        Throw an existing run of the same recipe and fold away.
    """

    epochs: int | None = None
    iterations: int | None = None
    seed: int = 1
    device: str = "auto"
    time_limit_s: float | None = None
    restart: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """One recipe on one fold; `state` is "new", "interrupted" or "finished"."""

    recipe: Recipe
    fold: int
    state: str


def make_jobs(
    workspace: Workspace, recipes: tuple[str, ...], folds: tuple[int, ...], options: RunOptions
) -> tuple[Job, ...]:
    """Return the jobs of a command in the order in which they must run.

    Raises
    ------
    ConfigError
        An unknown recipe or fold, a warm start without the teacher that it starts from, or a run that was begun with
        other settings.
    """
    problems = [
        f"fold {f} does not exist; the workspace has the folds 0 to {len(workspace.splits) - 1}"
        for f in folds
        if not 0 <= f < len(workspace.splits)
    ]
    ordered = in_training_order(recipes)
    jobs = []
    for recipe in ordered:
        for fold in dict.fromkeys(folds):
            finished = final_checkpoint(workspace, recipe.name, fold).is_file()
            record = training_record(workspace, recipe.name, fold)
            state = "new" if options.restart or not record else "finished" if finished else "interrupted"
            problems += [] if options.restart else _conflicts(record, recipe, fold, options, workspace)
            parent = recipe.warm_start
            started = state != "new" or parent is None or parent in [r.name for r in ordered]
            if not started and parent is not None and not final_checkpoint(workspace, parent, fold).is_file():
                problems.append(
                    f"{recipe.name} fold {fold} starts from {parent} fold {fold}, which is not finished; "
                    f"run it first, or ask for --recipe {parent},{recipe.name}"
                )
            jobs.append(Job(recipe, fold, state))
    if problems:
        raise ConfigError("\n  ".join(["cannot train:", *problems]) if len(problems) > 1 else problems[0])
    return tuple(jobs)


def _conflicts(
    record: dict[str, Any], recipe: Recipe, fold: int, options: RunOptions, workspace: Workspace
) -> list[str]:
    if not record:
        return []
    asked = {"epochs": options.epochs, "iterations": options.iterations}
    found = [
        f"{recipe.name} fold {fold} was begun with {record[key]} {key}, now {value} are asked for; leave --{key} out "
        "to continue it, or start anew with --restart (stretching a run would make its learning rate jump)"
        for key, value in asked.items()
        if value is not None and value != record[key]
    ]
    if record["cohort_hash"] != workspace.cohort_hash or record["recipe"] != json.loads(json.dumps(asdict(recipe))):
        found.append(f"{recipe.name} fold {fold} was begun with another cohort or recipe; start anew with --restart")
    return found


def run_teachers(
    workspace: Workspace, recipes: tuple[str, ...], folds: tuple[int, ...], options: RunOptions
) -> tuple[Job, ...]:
    """Train every recipe on every fold, one after the other.

    Returns
    -------
    tuple of Job
        What was done, with the state before.

    Raises
    ------
    ConfigError
        See `make_jobs`; nothing has been trained then.
    TimeLimitReached
        The time limit came; the state is saved.
    """
    deadline = math.inf if options.time_limit_s is None else time.monotonic() + options.time_limit_s
    device = pick_device(options.device)
    jobs = make_jobs(workspace, recipes, folds, options)
    for number, job in enumerate(jobs):
        if job.state == "finished":
            LOG.info("%s fold %d is finished already", job.recipe.name, job.fold)
            continue
        if number and time.monotonic() > deadline:
            raise TimeLimitReached("time limit reached between two teachers; run the same command again to continue")
        _train(workspace, job, options, device, deadline)
    return jobs


def _train(workspace: Workspace, job: Job, options: RunOptions, device: torch.device, deadline: float) -> None:
    folder = fold_folder(workspace, job.recipe.name, job.fold)
    if options.restart:
        shutil.rmtree(folder, ignore_errors=True)
    record = training_record(workspace, job.recipe.name, job.fold)
    if not record:
        record = _new_record(workspace, job, options)
        write_json(record_file(workspace, job.recipe.name, job.fold), record)
    with ExitStack() as stack:
        stack.enter_context(nnunet.environment(workspace.root))
        stack.enter_context(nnunet.quiet())
        if device.type == "cpu":
            stack.enter_context(nnunet.single_process_augmentation(nnunet_trainer_module))
        trainer = _build_trainer(workspace, job, record, device)
        trainer.after_epoch = _Overseer(job, folder, deadline)
        LOG.info(
            "%s fold %d: epoch %d of %d, %d iterations each, on %s",
            job.recipe.name, job.fold, trainer.current_epoch, trainer.num_epochs,
            trainer.num_iterations_per_epoch, device,
        )  # fmt: skip
        trainer.run_training()


def _new_record(workspace: Workspace, job: Job, options: RunOptions) -> dict[str, Any]:
    """Return what a run is begun with; `seen_cases` counts the cases of the teacher that it starts from, too."""
    split = workspace.splits[job.fold]
    sizes = (len(split.train), len(split.validation))
    iterations, validation = iterations_of(job.recipe, sizes, workspace.plan.batch_size, options.iterations)
    seen, parent = set(split.train), None
    if job.recipe.warm_start is not None:
        checkpoint = final_checkpoint(workspace, job.recipe.warm_start, job.fold)
        seen |= set(training_record(workspace, job.recipe.warm_start, job.fold)["seen_cases"])
        parent = {"recipe": job.recipe.warm_start, "sha256": sha256_file(checkpoint)}
    return {
        "schema": 1,
        "recipe": asdict(job.recipe),
        "fold": job.fold,
        "plan": workspace.plan.name,
        "cohort_hash": workspace.cohort_hash,
        "epochs": options.epochs or job.recipe.epochs,
        "iterations": iterations,
        "validation_iterations": validation,
        "seed": options.seed,
        "warm_start": parent,
        "seen_cases": sorted(seen),
        "validation_cases": sorted(split.validation),
    }


def _build_trainer(workspace: Workspace, job: Job, record: dict[str, Any], device: torch.device) -> GliaLiteTrainer:
    plans, dataset = nnunet.plans_and_dataset(workspace.root, workspace.plan)
    latest = latest_checkpoint(workspace, job.recipe.name, job.fold)
    plans["continue_training"] = latest.is_file()
    trainer = TRAINERS[job.recipe.name](plans, CONFIGURATION, job.fold, dataset, device)
    trainer.num_epochs = record["epochs"]
    trainer.num_iterations_per_epoch = record["iterations"]
    trainer.num_val_iterations_per_epoch = record["validation_iterations"]
    name = f"{record['seed']} {job.recipe.name} {job.fold}"
    trainer.base_seed = int(sha256_bytes(name.encode())[:7], 16)
    trainer.initialize()
    if latest.is_file():
        trainer.load_checkpoint(str(latest))
    elif record["warm_start"] is not None:
        parent = final_checkpoint(workspace, record["warm_start"]["recipe"], job.fold)
        trainer.warm_start(load_weights(parent))
    return trainer


def load_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the network's weights of one of our own checkpoints, on the CPU."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=False)  # nnU-Net's files hold more than tensors
    weights: dict[str, torch.Tensor] = content["network_weights"]
    return weights


class _Overseer:
    """Called after every epoch: reports it, saves when it is worth it, stops in time."""

    def __init__(self, job: Job, folder: Path, deadline: float) -> None:
        self.job, self.folder, self.deadline = job, folder, deadline
        self.saved_at = time.monotonic()
        self.save_every_s = _SAVE_SECONDS

    def __call__(self, trainer: GliaLiteTrainer) -> None:
        rows = _history(trainer)
        write_history(self.folder, rows)
        seconds = statistics.median(row["seconds"] for row in rows[-10:])
        left = trainer.num_epochs - trainer.current_epoch
        row = rows[-1]
        dice = " ".join(f"{region} {row['dice_' + region.lower()]:.3f}" for region in REGIONS)
        LOG.info(
            "%s fold %d  epoch %d/%d  train %.4f  validation %.4f  Dice %s  lr %.2g  %.1f s  ETA %s",
            self.job.recipe.name, self.job.fold, trainer.current_epoch, trainer.num_epochs, row["train_loss"],
            row["validation_loss"], dice, row["learning_rate"], row["seconds"], _duration(left * seconds),
        )  # fmt: skip
        if not left:
            return
        now = time.monotonic()
        stop = now + row["seconds"] > self.deadline
        if stop or now - self.saved_at >= self.save_every_s:
            trainer.save_latest()
            self.saved_at = time.monotonic()
            self.save_every_s = max(_SAVE_SECONDS, _SAVE_SHARE * (self.saved_at - now))
        if stop:
            raise TimeLimitReached(
                f"time limit reached at epoch {trainer.current_epoch} of {trainer.num_epochs} of "
                f"{self.job.recipe.name} fold {self.job.fold}; the state is saved, run the same command again"
            )


def _history(trainer: GliaLiteTrainer) -> list[dict[str, float]]:
    log = trainer.logger.get_checkpoint()
    rows = []
    for epoch, dice in enumerate(log["dice_per_class_or_region"]):
        seconds = log["epoch_end_timestamps"][epoch] - log["epoch_start_timestamps"][epoch]
        values = (
            epoch, log["train_losses"][epoch], log["val_losses"][epoch], *dice, log["mean_fg_dice"][epoch],
            log["ema_fg_dice"][epoch], log["lrs"][epoch], seconds,
        )  # fmt: skip
        rows.append({key: float(value) for key, value in zip(HISTORY, values, strict=True)})
    return rows


def _duration(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{seconds:.0f} s" if seconds < 100 else f"{minutes} min" if minutes < 100 else f"{seconds / 3600:.1f} h"
