"""One teacher on several GPUs at once: nnU-Net's distributed training with our trainers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nnunetv2.training.nnUNetTrainer.nnUNetTrainer as nnunet_trainer_module  # noqa: N813
import torch
import torch.distributed
from glialite_runtime.command import log_to_stderr
from glialite_runtime.errors import ConfigError, TimeLimitReached
from torch.multiprocessing.spawn import spawn
from torch.nn.parallel import DistributedDataParallel

from glialite_distill.runs import final_checkpoint
from glialite_distill.teachers import Job, train_here
from glialite_distill.workspace import Workspace

__all__ = ["processes_for", "train_on_all_gpus"]


def processes_for(device: torch.device, batch_size: int) -> int:
    """Return how many processes share a batch: one a GPU; on a processor, where nothing is gained, one a patch.

    Raises
    ------
    ConfigError
        There are more GPUs than patches in a batch.
    """
    if device.type == "cpu":
        return batch_size
    count = torch.cuda.device_count()
    if count > batch_size:
        raise ConfigError(
            f"{count} GPUs cannot share a batch of {batch_size}; give each command as many as it can use, such as "
            f"CUDA_VISIBLE_DEVICES={','.join(map(str, range(batch_size)))}, and other folds to the others"
        )
    return count


def train_on_all_gpus(
    workspace: Workspace, job: Job, record: dict[str, Any], device: torch.device, deadline: float
) -> None:
    """Train one teacher with a process for each GPU (NCCL), on a processor with gloo.

    The processes share the plan's batch, as in nnU-Net; the first one writes.

    Raises
    ------
    ConfigError
        See `processes_for`.
    TimeLimitReached
        The deadline came; the state is saved.
    """
    count = processes_for(device, workspace.plan.layouts[job.recipe.configuration].batch_size)
    threads = max(1, torch.get_num_threads() // count)
    with tempfile.TemporaryDirectory() as folder:
        member = _Member(
            workspace.root, job, record, device, deadline, f"file://{folder}/meeting-point", count, threads
        )
        spawn(_train_together, (member,), nprocs=count)
    if not final_checkpoint(workspace, job.recipe.name, job.fold).is_file():
        raise TimeLimitReached(
            f"time limit reached in {job.recipe.name} fold {job.fold}; the state is saved, run the same command again"
        )


@dataclass(frozen=True, slots=True)
class _Member:
    root: Path
    job: Job
    record: dict[str, Any]
    device: torch.device
    deadline: float
    meeting_point: str
    count: int
    threads: int


def _train_together(rank: int, member: _Member) -> None:
    """Run one of the processes."""
    on_gpu = member.device.type == "cuda"
    if rank == 0:
        log_to_stderr()
    torch.set_num_threads(member.threads)
    if on_gpu:
        torch.cuda.set_device(rank)
    torch.distributed.init_process_group(
        "nccl" if on_gpu else "gloo", init_method=member.meeting_point, rank=rank, world_size=member.count
    )
    try:
        with nullcontext() if on_gpu else _on_processors():
            train_here(Workspace.open(member.root), member.job, member.record, member.device, member.deadline)
    except TimeLimitReached:
        pass  # all processes stop at the same epoch, and the missing final checkpoint tells the parent
    finally:
        torch.distributed.destroy_process_group()


@contextmanager
def _on_processors() -> Iterator[None]:
    """Let nnU-Net share a network between processes without GPUs, whose numbers it would name."""
    original = nnunet_trainer_module.DDP
    nnunet_trainer_module.DDP = lambda network, device_ids: DistributedDataParallel(network)  # noqa: ARG005
    try:
        yield
    finally:
        nnunet_trainer_module.DDP = original
