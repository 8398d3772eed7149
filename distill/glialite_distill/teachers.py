"""Train teachers, recipe by recipe and fold by fold: skip what is finished, continue what was interrupted."""

from __future__ import annotations

import json
import logging
import math
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as nnunet_trainer_module  # noqa: N813
import torch
from glialite_runtime.errors import ConfigError, TimeLimitReached
from glialite_runtime.files import sha256_bytes, sha256_file, write_json

from glialite_distill import nnunet
from glialite_distill.device import pick_device
from glialite_distill.overseer import Overseer
from glialite_distill.recipe_file import load_recipes
from glialite_distill.recipes import RECIPES, Recipe, cases_of, in_training_order, iterations_of
from glialite_distill.runs import final_checkpoint, fold_folder, latest_checkpoint, record_file, training_record
from glialite_distill.trainers import GliaLiteTrainer, trainer_of
from glialite_distill.training_lock import training_lock
from glialite_distill.workspace import Workspace

__all__ = ["Job", "RunOptions", "length_of", "load_weights", "make_jobs", "run_teachers", "train_here"]

LOG = logging.getLogger(__name__)


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
    config : Path or None
        TOML file that overrides recipes (`recipe_file.load_recipes`).
    """

    epochs: int | None = None
    iterations: int | None = None
    seed: int = 1
    device: str = "auto"
    time_limit_s: float | None = None
    restart: bool = False
    config: Path | None = None


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
    ordered = in_training_order(recipes, RECIPES if options.config is None else load_recipes(options.config))
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
        found.append(
            f"{recipe.name} fold {fold} was begun with another cohort or recipe; give the --config that it was begun "
            "with, or start anew with --restart"
        )
    return found


Training = Callable[[Workspace, Job, dict[str, Any], torch.device, float], None]
"""Trains a job that was begun with a record, on a device, until a deadline (`time.monotonic()`)."""


def train_here(workspace: Workspace, job: Job, record: dict[str, Any], device: torch.device, deadline: float) -> None:
    """Train one teacher in this process (which may be one of several that train it together).

    Raises
    ------
    TimeLimitReached
        The deadline came; the state is saved.
    """
    with ExitStack() as stack:
        stack.enter_context(nnunet.environment(workspace.root))
        stack.enter_context(nnunet.quiet())
        if device.type == "cpu":
            stack.enter_context(nnunet.single_process_augmentation(nnunet_trainer_module))
        trainer = _build_trainer(workspace, job, record, device)
        name = f"{job.recipe.name} fold {job.fold}"
        trainer.after_epoch = Overseer(name, fold_folder(workspace, job.recipe.name, job.fold), deadline)
        LOG.info(
            "%s: epoch %d of %d, %d iterations each, on %s",
            name, trainer.current_epoch, trainer.num_epochs, trainer.num_iterations_per_epoch, device,
        )  # fmt: skip
        trainer.run_training()


def run_teachers(
    workspace: Workspace,
    recipes: tuple[str, ...],
    folds: tuple[int, ...],
    options: RunOptions,
    train: Training = train_here,
) -> tuple[Job, ...]:
    """Train every recipe on every fold, one after the other, with `train_here` or `ddp.train_on_all_gpus`.

    Returns
    -------
    tuple of Job
        What was done, with the state before.

    Raises
    ------
    ConfigError
        See `make_jobs`; nothing has been trained then. Or another process is training the same.
    TimeLimitReached
        The time limit came; the state is saved.
    """
    deadline = math.inf if options.time_limit_s is None else time.monotonic() + options.time_limit_s
    device = pick_device(options.device)
    jobs = make_jobs(workspace, recipes, folds, options)
    trained = 0
    for job in jobs:
        if trained and time.monotonic() > deadline:
            raise TimeLimitReached("time limit reached between two teachers; run the same command again to continue")
        with training_lock(workspace, job.recipe.name, job.fold):
            if not options.restart and final_checkpoint(workspace, job.recipe.name, job.fold).is_file():
                LOG.info("%s fold %d is finished already", job.recipe.name, job.fold)
                continue
            train(workspace, job, _begin(workspace, job, options), device, deadline)
            trained += 1
    return jobs


def _begin(workspace: Workspace, job: Job, options: RunOptions) -> dict[str, Any]:
    """Return the record of the run that is continued, or write that of a new one."""
    if options.restart:
        shutil.rmtree(fold_folder(workspace, job.recipe.name, job.fold), ignore_errors=True)
    record = training_record(workspace, job.recipe.name, job.fold)
    if not record:
        record = _new_record(workspace, job, options)
        write_json(record_file(workspace, job.recipe.name, job.fold), record)
    return record


def length_of(workspace: Workspace, job: Job, options: RunOptions) -> dict[str, int]:
    """Return the `epochs`, `iterations` and `validation_iterations` that a run was begun with, or would be."""
    record = training_record(workspace, job.recipe.name, job.fold)
    if record and not options.restart:
        return {key: record[key] for key in ("epochs", "iterations", "validation_iterations")}
    split = workspace.splits[job.fold]
    cases = (len(cases_of(job.recipe, split.train)), len(cases_of(job.recipe, split.validation)))
    batch_size = workspace.plan.layouts[job.recipe.configuration].batch_size
    iterations, validation = iterations_of(job.recipe, cases, batch_size, options.iterations)
    epochs = options.epochs or job.recipe.epochs
    return {"epochs": epochs, "iterations": iterations, "validation_iterations": validation}


def _new_record(workspace: Workspace, job: Job, options: RunOptions) -> dict[str, Any]:
    """Return what a run is begun with; `seen_cases` counts the cases of the teacher that it starts from, too."""
    split = workspace.splits[job.fold]
    seen, parent = set(cases_of(job.recipe, split.train)), None
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
        **length_of(workspace, job, options),
        "seed": options.seed,
        "warm_start": parent,
        "seen_cases": sorted(seen),
        "validation_cases": sorted(cases_of(job.recipe, split.validation)),
    }


def _build_trainer(workspace: Workspace, job: Job, record: dict[str, Any], device: torch.device) -> GliaLiteTrainer:
    plans, dataset = nnunet.plans_and_dataset(workspace.root, workspace.plan)
    latest = latest_checkpoint(workspace, job.recipe.name, job.fold)
    plans["continue_training"] = latest.is_file()
    trainer = trainer_of(job.recipe)(plans, job.recipe.configuration, job.fold, dataset, device)
    trainer.num_epochs = record["epochs"]
    trainer.num_iterations_per_epoch = record["iterations"]
    trainer.num_val_iterations_per_epoch = record["validation_iterations"]
    name = f"{record['seed']} {job.recipe.name} {job.fold}"
    trainer.base_seed = int(sha256_bytes(name.encode())[:7], 16)
    if device.type == "cpu":  # of several processes, nnU-Net gives each a GPU, come what may
        trainer.device, trainer.grad_scaler = device, None
    trainer.initialize()
    if latest.is_file():
        trainer.load_checkpoint(str(latest))
    elif record["warm_start"] is not None:
        parent = final_checkpoint(workspace, record["warm_start"]["recipe"], job.fold)
        trainer.warm_start(load_weights(parent))
    if trainer.local_rank:  # of several processes all have the same weights, each draws other patches
        trainer.base_seed = int(sha256_bytes(f"{name} {trainer.local_rank}".encode())[:7], 16)
    return trainer


def load_weights(checkpoint: Path) -> dict[str, torch.Tensor]:
    """Return the network's weights of one of our own checkpoints, on the CPU."""
    content = torch.load(checkpoint, map_location="cpu", weights_only=False)  # nnU-Net's files hold more than tensors
    weights: dict[str, torch.Tensor] = content["network_weights"]
    return weights
