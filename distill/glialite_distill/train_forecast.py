"""What a training will cost, from a few real iterations on noise."""

from __future__ import annotations

import math
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from glialite_runtime.sequences import REGIONS, SEQUENCES

from glialite_distill.guidance import Guidance, assistant_on
from glialite_distill.patches import Batch, SoftLabels, TrainingData
from glialite_distill.student_file import StudentFile
from glialite_distill.train import RunSettings, cache_folder, remaining_iterations
from glialite_distill.train_options import TrainOptions, select_cases
from glialite_distill.train_state import identity_of, start_or_resume
from glialite_distill.train_step import StepInput, train_step

__all__ = ["Forecast", "forecast"]

_TIMED: Final = 3
_NO_GUIDANCE: Final = Guidance()
_BYTES_A_VOXEL: Final = {"image": 2 * len(SEQUENCES), "labels": 1, "soft and doubt": 4 * len(REGIONS)}


@dataclass(frozen=True, slots=True)
class Forecast:
    """What is ahead.

    Attributes
    ----------
    training_cases, soft_label_cases, validation_cases : int
        How many cases are trained on, how many of these have soft labels, and how many validate.
    iterations_left : int
        Iterations still to do.
    seconds : float
        Time for them; validation comes on top, a few seconds a case of 1 mm each time.
    disk_mb : float
        Cache of the cases, checkpoint and student.
    memory_mb : float, optional
        Peak of this process so far, the timed iterations included; on CUDA, of the device. None on Windows.
    """

    training_cases: int
    soft_label_cases: int
    validation_cases: int
    iterations_left: int
    seconds: float
    disk_mb: float
    memory_mb: float | None


def forecast(
    data: TrainingData,
    soft: SoftLabels | None,
    options: TrainOptions,
    run: RunSettings,
    initial: StudentFile | None = None,
    guidance: Guidance = _NO_GUIDANCE,
) -> Forecast:
    """Time a few iterations on noise and add up the files; writes nothing.

    Raises
    ------
    ConfigError
        As `train` would.
    """
    soft = soft if options.soft_weight > 0 else None
    training, validation = select_cases(data, soft, options)
    labelled = set(training) & set(soft.cases if soft else ())
    left = remaining_iterations(data, soft, options, run, initial, guidance)
    identity = identity_of(data, soft, options, None, guidance)
    state = start_or_resume(options, Path("never"), run.device, identity, None, guidance)
    random = np.random.default_rng(0)
    margin = [n + 2 * (n // 8) for n in options.patch]
    batch = Batch(
        torch.from_numpy(random.standard_normal((options.batch_size, len(SEQUENCES), *margin), np.float32)),
        torch.from_numpy(random.integers(0, 4, (options.batch_size, *margin), np.uint8)),
        torch.from_numpy(random.random((options.batch_size, len(REGIONS), *margin), np.float32)),
        torch.zeros((options.batch_size, len(REGIONS), *margin)),
        torch.full((options.batch_size,), soft is not None),
    ).to(run.device)
    given = StepInput(batch, batch if guidance.unlabelled else None, assistant_on(guidance, run.device))
    times = []
    for _ in range(1 + _TIMED):
        started = time.perf_counter()
        train_step(state, given, options)
        times.append(time.perf_counter() - started)
    voxels = sum(math.prod(data.load(name)[1].shape) for name in training[:1])
    cache = 0 if cache_folder(data, soft, run).is_dir() else voxels * sum(_BYTES_A_VOXEL.values())
    weights = 4 * sum(p.numel() for p in state.network.parameters())
    return Forecast(
        len(training),
        len(labelled),
        len(validation),
        left,
        left * sum(times[1:]) / _TIMED,
        (cache * (len(training) + len(validation)) + 5 * weights) / 1e6,
        _peak_memory_mb(run.device),
    )


def _peak_memory_mb(device: torch.device) -> float | None:
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    if sys.platform == "win32":
        return None
    import resource  # noqa: PLC0415 - not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 1e6 if sys.platform == "darwin" else peak / 1e3  # macOS counts bytes, Linux KiB
