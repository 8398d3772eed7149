"""Several processes train one network: two of them with gloo on a processor; NCCL needs two GPUs and is not tried."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from glialite_distill import ddp
from glialite_distill.ddp import _train_together, processes_for, train_on_all_gpus
from glialite_distill.overseer import Overseer
from glialite_distill.prepare import Request, prepare
from glialite_distill.run_status import status
from glialite_distill.runs import final_checkpoint, latest_checkpoint
from glialite_distill.teachers import RunOptions, load_weights, run_teachers, train_here
from glialite_distill.trainers import GliaLiteTrainer
from glialite_distill.workspace import Workspace
from glialite_runtime.errors import ConfigError, TimeLimitReached
from torch.multiprocessing.spawn import spawn


@pytest.fixture(scope="module")
def workspace(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a workspace with a plan that other processes know, too."""
    return prepare(Request((cohort,), tmp_path_factory.mktemp("ddp") / "w", plan="small", folds=2))


def keep_weights(rank: int, member: Any, folder: Path) -> None:
    """Be one of the processes, and write its own weights down after every epoch."""
    whole = Overseer.__call__

    def call(overseer: Overseer, trainer: GliaLiteTrainer) -> None:
        own = {"weights": trainer.plain_network.state_dict(), "seed": trainer.base_seed}
        torch.save(own, folder / f"{trainer.current_epoch}-{rank}.pt")
        whole(overseer, trainer)

    Overseer.__call__ = call
    _train_together(rank, member)


def test_two_processes_train_one_network(workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """They continue one process's run, have the very same weights after an epoch, stop together; one may finish it."""
    monkeypatch.setattr(ddp, "spawn", lambda _, args, nprocs: spawn(keep_weights, (*args, tmp_path), nprocs))
    one_epoch = {"iterations": 1, "device": "cpu", "time_limit_s": 1e-9}
    for train in (train_here, train_on_all_gpus):
        with pytest.raises(TimeLimitReached, match="baseline fold 0"):
            run_teachers(workspace, ("baseline",), (0,), RunOptions(epochs=3, **one_epoch), train)
    assert [(row["state"], row["epoch"]) for row in status(workspace)] == [("interrupted", 2)]
    kept = {path.stem: torch.load(path) for path in tmp_path.glob("*.pt")}
    assert sorted(kept) == ["2-0", "2-1"]
    saved = load_weights(latest_checkpoint(workspace, "baseline", 0))
    assert all(torch.equal(kept[rank]["weights"][name], tensor) for name, tensor in saved.items() for rank in kept)
    assert kept["2-0"]["seed"] != kept["2-1"]["seed"]  # else both would draw the same patches
    run_teachers(workspace, ("baseline",), (0,), RunOptions(device="cpu"))
    trained = load_weights(final_checkpoint(workspace, "baseline", 0))
    assert not all(torch.equal(saved[name], tensor) for name, tensor in trained.items())


def test_more_gpus_than_patches_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """nnU-Net shares the plan's batch; the message says how to use the others."""
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(ConfigError, match=r"4 GPUs cannot share a batch of 2.*CUDA_VISIBLE_DEVICES=0,1"):
        processes_for(torch.device("cuda"), 2)
    assert processes_for(torch.device("cuda"), 4) == 4
    assert processes_for(torch.device("cpu"), 2) == 2
