"""Forecasts against hand-counted networks, and against what was measured."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from glialite_distill import nnunet
from glialite_distill.launch import forecast_launch
from glialite_distill.recipes import RECIPES
from glialite_distill.runs import final_checkpoint, fold_folder, read_history
from glialite_distill.teacher_forecast import Forecast, forecast, forecast_text, network_cost
from glialite_distill.teachers import RunOptions, load_weights, make_jobs
from glialite_distill.workspace import Workspace
from glialite_runtime.errors import ConfigError

ANEW = RunOptions(epochs=10, iterations=1, device="cpu", restart=True)
CPU = torch.device("cpu")


def tiny_unet_macs() -> int:
    """Return the multiply-adds of the plan "tiny" (32³, widths 4, 6, 8, batch 2), added up by hand."""
    encoder = 32**3 * 27 * (4 * 4 + 4 * 4) + 16**3 * 27 * (4 * 6 + 6 * 6) + 8**3 * 27 * (6 * 8 + 8 * 8)
    up = 8**3 * 8 * 8 * 6 + 16**3 * 8 * 6 * 4
    decoder = 16**3 * 27 * (12 * 6 + 6 * 6) + 32**3 * 27 * (8 * 4 + 4 * 4)
    heads = 16**3 * 6 * 3 + 32**3 * 4 * 3
    return 2 * (encoder + up + decoder + heads)


def test_a_network_is_counted_without_computing(trained: Workspace) -> None:
    """Multiply-adds by hand, parameters as in the checkpoint, and activations of at least every convolution's input."""
    plans, _ = nnunet.plans_and_dataset(trained.root, trained.plan)
    cost = network_cost(plans, 4, RECIPES["baseline"])
    assert cost.macs == tiny_unet_macs()
    weights = load_weights(final_checkpoint(trained, "baseline", 0))
    shared = {tensor.data_ptr(): tensor.numel() for tensor in weights.values()}
    assert cost.parameters == sum(shared.values())
    assert cost.activation_bytes > 4 * 2 * 32**3 * (4 + 4 + 8 + 4)
    assert network_cost(plans, 5, RECIPES["baseline"]).macs == cost.macs + 2 * 32**3 * 27 * 4


def test_the_time_is_that_of_earlier_epochs(trained: Workspace) -> None:
    """Both folds' epochs of the same length count; their median times the epochs that are left."""
    rows = forecast(trained, make_jobs(trained, ("baseline",), (0, 1), ANEW), ANEW, CPU)
    seconds = [read_history(fold_folder(trained, "baseline", fold))[0]["seconds"] for fold in (0, 1)]
    assert [row.measured for row in rows] == [True, True]
    assert rows[0].seconds == pytest.approx(10 * sum(seconds) / 2)
    assert rows[0].epochs_left == 10


def test_without_history_the_time_is_an_estimate_by_multiply_adds(trained: Workspace) -> None:
    """Proportional to the iterations, as an L4 for a GPU; said to be estimated."""
    once, twice = (
        forecast(trained, make_jobs(trained, ("baseline",), (0,), options), options, torch.device("cuda"))[0]
        for options in (replace(ANEW, iterations=50), replace(ANEW, iterations=100))
    )
    assert not once.measured
    assert twice.seconds == pytest.approx(2 * once.seconds)
    assert once.seconds == pytest.approx(10 * (50 * 3 + 10) * tiny_unet_macs() / 8.5e12)
    assert "estimated" in forecast_text(trained, [once])


def test_memory_and_disk_follow_the_optimizer(trained: Workspace) -> None:
    """SGD keeps one number a weight, AdamW two; half the activations under mixed precision."""
    jobs = make_jobs(trained, ("baseline",), (0,), ANEW)
    plans, _ = nnunet.plans_and_dataset(trained.root, trained.plan)
    cost = network_cost(plans, 4, RECIPES["baseline"])
    (cpu,) = forecast(trained, jobs, ANEW, CPU)
    (gpu,) = forecast(trained, jobs, ANEW, torch.device("cuda"))
    assert cpu.disk_mb == pytest.approx(2 * 8 * cost.parameters / 1e6)
    assert cpu.memory_mb == pytest.approx(1.6 * (12 * cost.parameters + cost.activation_bytes) / 1e6)
    assert gpu.memory_mb == pytest.approx(1.6 * (12 * cost.parameters + cost.activation_bytes / 2) / 1e6)
    written = final_checkpoint(trained, "baseline", 0).stat().st_size / 1e6
    assert cpu.disk_mb / 2 < written < cpu.disk_mb / 2 + 1  # what else nnU-Net keeps does not grow with the network


def test_finished_teachers_cost_nothing(trained: Workspace) -> None:
    """They are listed all the same."""
    (row,) = forecast(trained, make_jobs(trained, ("baseline",), (1,), RunOptions()), RunOptions(), CPU)
    assert row == Forecast("baseline", 1, "finished", 0, 0.0, True, 0.0, 0.0)
    assert "baseline fold 1: finished" in forecast_text(trained, [row])


def test_a_cluster_is_counted_by_its_gpu(trained: Workspace) -> None:
    """The computer that submits need not have one; elsewhere "auto" is what is here."""
    options = replace(ANEW, device="auto", iterations=7)
    (elsewhere,) = forecast_launch("slurm", trained, ("baseline",), (0,), options)
    (processor,) = forecast_launch("slurm", trained, ("baseline",), (0,), replace(options, device="cpu"))
    assert elsewhere.seconds < processor.seconds
    assert math.isfinite(processor.seconds)
    with pytest.raises(ConfigError, match="unknown launcher 'pbs'; known: local, ddp, slurm"):
        forecast_launch("pbs", trained, ("baseline",), (0,), options)
