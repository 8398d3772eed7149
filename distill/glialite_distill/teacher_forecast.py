"""What training teachers will cost: hours, disk and memory, before anything starts."""

from __future__ import annotations

import shutil
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from types import MappingProxyType
from typing import Any, Final

import torch
from glialite_runtime.sequences import REGIONS
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch.utils.flop_counter import FlopCounterMode

from glialite_distill import nnunet
from glialite_distill.networks import plans_of_recipe
from glialite_distill.recipes import Recipe
from glialite_distill.run_status import duration
from glialite_distill.runs import fold_folder, read_history, training_record
from glialite_distill.teachers import Job, RunOptions, length_of
from glialite_distill.trainers import trainer_of
from glialite_distill.workspace import Workspace

__all__ = ["Forecast", "NetworkCost", "forecast", "forecast_text", "network_cost"]

_MACS_A_SECOND: Final[Mapping[str, float]] = MappingProxyType(
    {
        # One L4 from the published 100 s for 250 training and 50 validation batches of the baseline (Barakat et al.):
        # (250 · 3 + 50) · 1.057e12 / 100.
        "cuda": 8.5e12,
        # One thread of the reference machine: the baseline's iterations of the plan "small", augmentation included.
        "cpu": 15e9,
    }
)
_BACKWARD: Final = 2  # the backward pass takes about twice the multiply-adds of the forward pass
_OPTIMIZER_BYTES: Final[Mapping[str, int]] = MappingProxyType({"sgd": 4, "adamw": 8, "schedule-free-adamw": 8})
# Gradients of activations and the libraries' workspaces, over what is counted. nnU-Net plans for 8, 8 and 24 GB where
# its default network, ResEnc M and ResEnc L count 4.0, 6.0 and 16.7: a factor of 1.3 to 2.
_MEMORY_OVERHEAD: Final = 1.6
_KEPT: Final = 2  # final and best checkpoint of a teacher …
_PASSING: Final = 2  # … and while one is trained the latest, and the next one beside it


@dataclass(frozen=True, slots=True)
class NetworkCost:
    """One batch through a network.

    Attributes
    ----------
    parameters : int
        Weights.
    macs : float
        Multiply-adds of the forward pass of a batch.
    activation_bytes : int
        What the backward pass needs of the forward pass, in float32.
    """

    parameters: int
    macs: float
    activation_bytes: int


@dataclass(frozen=True, slots=True)
class Forecast:
    """What one job will cost.

    Attributes
    ----------
    recipe, fold, before
        The job, and its state now.
    epochs_left : int
        Epochs still to train.
    seconds : float
        Time for them.
    measured : bool
        Whether the time comes from epochs of this recipe in this workspace; else it is a rough estimate.
    disk_mb : float
        Its checkpoints when it is finished.
    memory_mb : float
        Weights, gradients, optimizer and activations while it trains.
    """

    recipe: str
    fold: int
    before: str
    epochs_left: int
    seconds: float
    measured: bool
    disk_mb: float
    memory_mb: float


def network_cost(plans: Mapping[str, Any], channels: int, recipe: Recipe) -> NetworkCost:
    """Return what a batch of the recipe costs, counted without computing anything (torch's meta device).

    Parameters
    ----------
    plans : mapping
        Our nnU-Net plans.
    channels : int
        Of the input.
    recipe : Recipe
        Its configuration of the plans gives network, patch and batch.
    """
    manager = PlansManager(plans_of_recipe(plans, recipe))
    configuration = manager.get_configuration(recipe.configuration)
    with torch.device("meta"):
        network = trainer_of(recipe).build_network_architecture(
            manager, configuration, channels, len(REGIONS), recipe.deep_supervision
        )
        batch = torch.empty((configuration.batch_size, channels, *configuration.patch_size))
    weights = {p.untyped_storage()._cdata for p in network.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()._cdata
        if storage not in weights:
            saved[storage] = tensor  # kept, so that its number is not given to another one
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor):
        network(batch)
    return NetworkCost(
        sum(p.numel() for p in network.parameters()),
        counter.get_total_flops() / 2,
        sum(tensor.untyped_storage().nbytes() for tensor in saved.values()),
    )


def forecast(
    workspace: Workspace, jobs: Sequence[Job], options: RunOptions, device: torch.device
) -> tuple[Forecast, ...]:
    """Return what each job will cost (a finished one nothing); writes nothing.

    The time is that of earlier epochs of the same recipe and length in this workspace. Without any it is the network's
    multiply-adds at the rate of an L4, or of this computer's threads: a factor of two either way, three for MedNeXt,
    whose depthwise convolutions wait for memory. On CUDA activations count as float16 (automatic mixed precision).
    """
    plans, dataset = nnunet.plans_and_dataset(workspace.root, workspace.plan)
    cost_of = cache(partial(network_cost, plans, len(dataset["channel_names"])))
    rows = []
    for job in jobs:
        if job.state == "finished":
            rows.append(Forecast(job.recipe.name, job.fold, job.state, 0, 0.0, True, 0.0, 0.0))
            continue
        cost, length = cost_of(job.recipe), length_of(workspace, job, options)
        done = 0 if options.restart else len(read_history(fold_folder(workspace, job.recipe.name, job.fold)))
        measured = _measured_seconds(workspace, job.recipe.name, length)
        left = length["epochs"] - done
        optimizer = _OPTIMIZER_BYTES[job.recipe.optimizer]
        activations = cost.activation_bytes / (2 if device.type == "cuda" else 1)
        rows.append(
            Forecast(
                job.recipe.name,
                job.fold,
                job.state,
                left,
                left * (_estimated_seconds(cost, length, device) if measured is None else measured),
                measured is not None,
                _KEPT * cost.parameters * (4 + optimizer) / 1e6,
                _MEMORY_OVERHEAD * (cost.parameters * (8 + optimizer) + activations) / 1e6,
            )
        )
    return tuple(rows)


def _measured_seconds(workspace: Workspace, recipe: str, length: Mapping[str, int]) -> float | None:
    """Return the median seconds of the recipe's epochs of the same iterations, over all folds."""
    seconds = []
    for fold in range(len(workspace.splits)):
        record = training_record(workspace, recipe, fold)
        if record and all(record[key] == length[key] for key in ("iterations", "validation_iterations")):
            seconds += [row["seconds"] for row in read_history(fold_folder(workspace, recipe, fold))[-10:]]
    return statistics.median(seconds) if seconds else None


def _estimated_seconds(cost: NetworkCost, length: Mapping[str, int], device: torch.device) -> float:
    passes = length["iterations"] * (1 + _BACKWARD) + length["validation_iterations"]
    threads = torch.get_num_threads() if device.type == "cpu" else 1
    return passes * cost.macs / (_MACS_A_SECOND[device.type] * threads)


def forecast_text(workspace: Workspace, rows: Sequence[Forecast]) -> str:
    """Return a line for each job and one for all, ready for a person."""
    lines = [
        f"{row.recipe} fold {row.fold}: finished"
        if row.before == "finished"
        else f"{row.recipe} fold {row.fold}: {row.before}, {row.epochs_left} epochs, about {duration(row.seconds)} "
        f"({'measured' if row.measured else 'estimated'}), disk {row.disk_mb:,.0f} MB, memory {row.memory_mb:,.0f} MB"
        for row in rows
    ]
    disk = sum(row.disk_mb for row in rows) + _PASSING / _KEPT * max(row.disk_mb for row in rows)
    free = shutil.disk_usage(workspace.root).free / 1e6
    return "\n".join(
        [
            *lines,
            f"together: about {duration(sum(row.seconds for row in rows))} one after the other, "
            f"{disk:,.0f} MB of disk ({free:,.0f} MB are free), {max(row.memory_mb for row in rows):,.0f} MB of memory",
        ]
    )
