"""Where teachers are trained: in this process, on several GPUs of this computer, or as jobs of a SLURM cluster."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any, Final

import torch
from glialite_runtime.errors import ConfigError

from glialite_distill.ddp import train_on_all_gpus
from glialite_distill.device import pick_device
from glialite_distill.teacher_forecast import Forecast, forecast, forecast_text
from glialite_distill.teachers import Job, RunOptions, length_of, make_jobs, run_teachers, train_here
from glialite_distill.workspace import Workspace

__all__ = ["LAUNCHERS", "forecast_launch", "launch"]

LOG = logging.getLogger(__name__)

LAUNCHERS: Final = ("local", "ddp", "slurm")


def forecast_launch(
    launcher: str, workspace: Workspace, recipes: tuple[str, ...], folds: tuple[int, ...], options: RunOptions
) -> tuple[Forecast, ...]:
    """Return what a launch would cost; writes and starts nothing.

    Jobs of a cluster are counted for its GPU, which this computer need not have.

    Raises
    ------
    ConfigError
        As `launch` would.
    """
    if launcher not in LAUNCHERS:
        raise ConfigError(f"unknown launcher {launcher!r}; known: {', '.join(LAUNCHERS)}")
    elsewhere = launcher == "slurm" and options.device == "auto"
    device = torch.device("cuda") if elsewhere else pick_device(options.device)
    return forecast(workspace, make_jobs(workspace, recipes, folds, options), options, device)


def launch(
    launcher: str,
    workspace: Workspace,
    recipes: tuple[str, ...],
    folds: tuple[int, ...],
    options: RunOptions,
    settings: Mapping[str, Any],
) -> list[dict[str, Any]]:
    """Train, or hand over to SLURM, and say beforehand in the log what it will cost.

    Parameters
    ----------
    launcher : str
        One of `LAUNCHERS`.
    workspace, recipes, folds, options
        As for `teachers.run_teachers`.
    settings : mapping
        Of the SLURM jobs (`slurm.SETTINGS`), empty for the other launchers.

    Returns
    -------
    list of dict
        `recipe`, `fold`, `before` (the state that it was in), `epochs`, and `job` (in SLURM's queue, else None).

    Raises
    ------
    ConfigError
        An unknown launcher, settings without SLURM, or what the launcher itself refuses.
    """
    ahead = forecast_launch(launcher, workspace, recipes, folds, options)
    if settings and launcher != "slurm":
        raise ConfigError(f"--slurm belongs to --launcher slurm, not to {launcher}")
    for line in forecast_text(workspace, ahead).splitlines():
        LOG.info("%s", line)
    jobs: list[tuple[Job, str | None]]
    if launcher == "slurm":
        from glialite_distill.slurm import submit_teachers  # noqa: PLC0415 - submitit is needed there alone

        jobs = submit_teachers(workspace, recipes, folds, options, settings)
    else:
        train = train_here if launcher == "local" else train_on_all_gpus
        jobs = [(job, None) for job in run_teachers(workspace, recipes, folds, options, train)]
    return [
        {
            "recipe": job.recipe.name,
            "fold": job.fold,
            "before": job.state,
            "epochs": length_of(workspace, job, options)["epochs"],
            "job": number,
        }
        for job, number in jobs
    ]
