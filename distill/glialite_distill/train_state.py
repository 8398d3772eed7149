"""The state of a training: what a checkpoint holds, and whose checkpoint it is."""

from __future__ import annotations

import copy
import io
import logging
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from glialite_runtime.errors import ConfigError
from glialite_runtime.files import write_bytes
from torch import nn

from glialite_distill.averaging import to_training
from glialite_distill.evaluate import on_device
from glialite_distill.guidance import Guidance, refuse_leaks, weights_digest
from glialite_distill.history import LOSSES, HistoryRow
from glialite_distill.patches import SoftLabels, TrainingData
from glialite_distill.quant_aware import FakeQuantStudent
from glialite_distill.student import STUDENTS, Student
from glialite_distill.student_file import UNREADABLE, StudentFile
from glialite_distill.train_options import TrainOptions

__all__ = ["TrainState", "check_same", "identity_of", "network_to_train", "save_checkpoint", "start_or_resume"]

_PRIOR_LOGIT: Final = -3.0
"""First bias of the head: about one voxel in twenty is tumour (Lin et al., arXiv:1708.02002, section 4.1)."""

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class TrainState:
    """Everything that changes while training and goes into a checkpoint.

    `rounded` is `network` in the INT8 graph's arithmetic, in quantisation-aware training alone; `projection` takes its
    features to an assistant's, where they are compared. `sums` belong to the losses of a `HistoryRow`, in its order.
    """

    network: Student
    average: Student
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler
    rounded: FakeQuantStudent | None = None
    projection: nn.Conv3d | None = None
    iteration: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * len(LOSSES))
    history: list[HistoryRow] = field(default_factory=list)


def network_to_train(state: TrainState, options: TrainOptions) -> nn.Module:
    """Return what the next iteration trains: the student, or in quantisation-aware training two forms of it by turns.

    From `TrainOptions.fixed_from` on its BatchNorm layers use their statistics and leave them alone.

    Rounded alone, a student learns to make up for what rounding takes away, and is wrong where nothing is taken away.
    """
    if state.rounded is None:
        return to_training(state.network, fixed=state.iteration >= options.fixed_from)
    return state.network.eval() if state.iteration % 2 else state.rounded.train()


def identity_of(
    data: TrainingData,
    soft: SoftLabels | None,
    options: TrainOptions,
    initial: StudentFile | None,
    guidance: Guidance,
) -> dict[str, Any]:
    """Return, JSON-able, what two runs must share to be one training."""
    start = None
    if initial is not None:
        wanted = STUDENTS[options.student]
        if (initial.spec.widths, initial.spec.blocks) != (wanted.widths, wanted.blocks):
            raise ConfigError(f"the initial weights are those of a student {initial.spec}, not {options.student}")
        refuse_leaks("the student to start from", initial, data, options.fold)
        start = weights_digest(initial.state)
    plain: dict[str, Any] = asdict(options)
    plain |= {"patch": list(options.patch), "temperature": list(options.temperature)}
    plain["augmentation"] = {k: list(v) if isinstance(v, tuple) else v for k, v in plain["augmentation"].items()}
    return {
        "cohort_hash": data.cohort_hash,
        "soft_label_key": soft.key if soft else None,
        "options": plain,
        "initial": start,
        **guidance.identity(data, options.fold),
    }


def check_same(identity: Mapping[str, Any], found: Mapping[str, Any], path: Path) -> None:
    """Refuse to continue a training as another one.

    Raises
    ------
    ConfigError
        `found`, read from `path`, is not `identity`; the message names every difference.
    """
    different = [key for key in identity if key != "options" and found.get(key) != identity[key]]
    had = found.get("options", {})
    different += [f"{k} ({had.get(k)}, now {v})" for k, v in identity["options"].items() if had.get(k) != v]
    if different:
        raise ConfigError(
            f"{path} belongs to another training; different: {', '.join(different)}. "
            f"Choose another --name, or remove {path.parent} to train again"
        )


def start_or_resume(
    options: TrainOptions,
    path: Path,
    device: torch.device,
    identity: Mapping[str, Any],
    initial: StudentFile | None,
    guidance: Guidance,
) -> TrainState:
    """Return the state of the checkpoint at `path`, or a fresh one where there is none.

    Raises
    ------
    ConfigError
        The checkpoint is damaged or belongs to another training.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        network = Student(STUDENTS[options.student])
        projection = None
        if guidance.assistant is not None and options.feature_weight > 0:
            widths = network.spec.widths[-1], guidance.assistant.spec.widths[-1]
            projection = nn.Conv3d(*widths, 1, bias=False).to(device)
    if network.head.bias is not None:
        nn.init.constant_(network.head.bias, _PRIOR_LOGIT)
    if initial is not None:
        network.load_state_dict(dict(initial.state))
    network = on_device(network, device)
    kernels = [p for module in (network, projection) if module for p in module.parameters() if p.ndim > 1]
    others = [p for p in network.parameters() if p.ndim <= 1]
    groups = [{"params": kernels, "weight_decay": options.weight_decay}, {"params": others, "weight_decay": 0.0}]
    half = device.type == "cuda" and not torch.cuda.is_bf16_supported()
    state = TrainState(
        network,
        copy.deepcopy(network).eval(),  # what was stopped after its last validation is only judged
        torch.optim.AdamW(groups, lr=options.learning_rate),
        torch.amp.GradScaler(device.type, enabled=half),
        FakeQuantStudent(network) if options.quantisation_aware else None,
        projection,
    )
    if path.is_file():
        try:
            saved = torch.load(path, map_location=device, weights_only=True)
        except UNREADABLE as error:
            raise ConfigError(f"{path} is damaged ({error!r}); remove it to train from the start") from error
        check_same(identity, saved["identity"], path)
        state.network.load_state_dict(saved["network"])
        state.average.load_state_dict(saved["average"])
        state.optimizer.load_state_dict(saved["optimizer"])
        state.scaler.load_state_dict(saved["scaler"])
        if state.rounded is not None:
            state.rounded.ranges = saved["ranges"]
        if state.projection is not None:
            state.projection.load_state_dict(saved["projection"])
        state.iteration, state.sums = saved["iteration"], saved["sums"]
        state.history = [HistoryRow(**row) for row in saved["history"]]
        logger.info("continuing at iteration %d of %d", state.iteration, options.iterations)
    return state


def save_checkpoint(state: TrainState, path: Path, identity: Mapping[str, Any]) -> None:
    """Write everything that changes, in one step.

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    buffer = io.BytesIO()
    torch.save(
        {
            "identity": dict(identity),
            "network": state.network.state_dict(),
            "average": state.average.state_dict(),
            "optimizer": state.optimizer.state_dict(),
            "scaler": state.scaler.state_dict(),
            "ranges": {} if state.rounded is None else state.rounded.ranges,
            "projection": {} if state.projection is None else state.projection.state_dict(),
            "iteration": state.iteration,
            "sums": state.sums,
            "history": [asdict(row) for row in state.history],
        },
        buffer,
    )
    write_bytes(path, buffer.getvalue())
