"""Train a student on truth and soft labels; a killed run continues to the same weights, bit for bit on a CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from glialite_runtime.decode import DecisionRule, decode
from glialite_runtime.errors import ConfigError, TimeLimitReached
from glialite_runtime.metrics import dice_per_region

from glialite_distill.augment import margin
from glialite_distill.averaging import refresh_batch_norm
from glialite_distill.decision import Labelled, fit_decision
from glialite_distill.evaluate import network_logits
from glialite_distill.guidance import Guidance, assistant_on
from glialite_distill.history import LOSSES, HistoryRow, write_curve, write_history
from glialite_distill.modality_dropout import learnt_subsets
from glialite_distill.patches import Batch, CachedCase, PatchSampler, SoftLabels, TrainingData, cache_case
from glialite_distill.student import STUDENTS, Student
from glialite_distill.student_file import StudentFile, earlier_cases, load_student, save_student
from glialite_distill.train_options import TrainOptions, learning_rate, select_cases
from glialite_distill.train_state import (
    TrainState,
    check_same,
    identity_of,
    save_checkpoint,
    start_or_resume,
)
from glialite_distill.train_step import UNLABELLED_STREAM, StepInput, seen_patches, train_step

__all__ = ["Progress", "RunSettings", "cache_folder", "remaining_iterations", "train"]

_STATISTICS_BATCHES: Final = 12
"""Batches that BatchNorm statistics are taken over."""

_NO_GUIDANCE: Final = Guidance()


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands: iterations done and wanted, mean loss of late, seconds left, and the last validation."""

    iteration: int
    iterations: int
    loss: float
    seconds_left: float
    validated: HistoryRow | None


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What does not decide the result: where it runs and for how long.

    Attributes
    ----------
    folder : Path
        Gets student.pt, history.csv, curve.png; checkpoint.pt while it is not finished.
    cache : Path
        Gets the cases in a form to cut patches from.
    device : torch.device
        See `mixed_precision`.
    time_limit_s : float
        Seconds after which the run stops in order.
    checkpoint_s : float
        Seconds between checkpoints.
    report : callable
        Called with a `Progress` after every iteration.
    """

    folder: Path
    cache: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    time_limit_s: float = math.inf
    checkpoint_s: float = 30.0
    report: Callable[[Progress], None] = field(default_factory=lambda: _ignore)


@dataclass(frozen=True, slots=True)
class _Job:
    """What the loop needs beside its state."""

    options: TrainOptions
    run: RunSettings
    identity: Mapping[str, Any]
    sampler: PatchSampler
    unlabelled: PatchSampler | None
    assistant: Student | None
    checked: tuple[CachedCase, ...]
    deadline: float


def _ignore(progress: Progress) -> None:
    del progress


def train(
    data: TrainingData,
    soft: SoftLabels | None,
    options: TrainOptions,
    run: RunSettings,
    initial: StudentFile | None = None,
    guidance: Guidance = _NO_GUIDANCE,
) -> StudentFile:
    """Train a student, or continue where the same training stopped; a finished one is read and returned.

    Parameters
    ----------
    data : TrainingData
        The cases.
    soft : SoftLabels, optional
        The teachers' probabilities; needed unless `options.soft_weight` is 0.
    options : TrainOptions
        What decides the result.
    run : RunSettings
        Where and how long.
    initial : StudentFile, optional
        Start from its weights; its shape must be that of `options.student`. Needed for quantisation-aware training.
    guidance : Guidance
        A trained student to learn from as well, and scans without labels.

    Raises
    ------
    ConfigError
        Options, data, `initial` and `guidance` do not fit, or the folder holds a training with other options or data.
    CheckFailedError
        The loss is no longer finite.
    TimeLimitReached
        The time limit came; the state is saved.
    OutputError
        A file cannot be written.
    """
    started = time.monotonic()
    soft = soft if options.soft_weight > 0 else None
    training, validation = select_cases(data, soft, options)
    identity = _identity(data, soft, options, initial, guidance)
    final = run.folder / "student.pt"
    if final.is_file():
        finished = load_student(final)
        check_same(identity, finished.provenance, final)
        return finished
    state = start_or_resume(options, run.folder / "checkpoint.pt", run.device, identity, initial, guidance)
    cache = cache_folder(data, soft, run)
    cached = {name: cache_case(data, soft, name, cache) for name in (*training, *validation)}
    seen, checked = (tuple(cached[name] for name in names) for names in (training, validation))
    job = _Job(
        options,
        run,
        identity,
        _sampler(seen, options, options.seed),
        _unlabelled_sampler(guidance, options, run),
        assistant_on(guidance, run.device),
        checked,
        started + run.time_limit_s,
    )
    _iterate(state, job)
    provenance = {
        **identity,
        "members": list(soft.members) if soft else [],
        "train_cases": list(training),
        "earlier_cases": earlier_cases(initial, guidance.assistant),
        "soft_label_cases": [case.name for case in seen if case.soft is not None],
        "validation_cases": list(validation),
        "unlabelled_cases": list(guidance.unlabelled.cases) if guidance.unlabelled else [],
        "pseudo_label_cases": list(guidance.unlabelled.soft.cases) if guidance.unlabelled else [],
        "accepted_sequences": [list(kept) for kept in learnt_subsets(options.augmentation.dropout)],
        "iterations": options.iterations,
        "seed": options.seed,
        "last": {k: None if math.isnan(v) else v for k, v in asdict(state.history[-1]).items()},
    }

    def outlined() -> Iterator[Labelled]:
        for case in checked:
            yield network_logits(state.average, _image(case), run.device), np.asarray(case.labels)

    rule = fit_decision(outlined, math.prod(data.spacing_mm))
    file = StudentFile(STUDENTS[options.student], state.average.state_dict(), data.spacing_mm, rule, provenance)
    write_history(run.folder / "history.csv", state.history)
    write_curve(run.folder / "curve.png", state.history)
    save_student(final, file)
    (run.folder / "checkpoint.pt").unlink(missing_ok=True)
    return load_student(final)


def _sampler(cases: tuple[CachedCase, ...], options: TrainOptions, seed: int) -> PatchSampler:
    return PatchSampler(
        cases, margin(options.augmentation, options.patch), options.batch_size, options.foreground, seed
    )


def _unlabelled_sampler(guidance: Guidance, options: TrainOptions, run: RunSettings) -> PatchSampler | None:
    scans = guidance.unlabelled
    if scans is None:
        return None
    folder = run.cache / f"unlabelled-{scans.key[:12]}"
    cases = tuple(cache_case(scans, scans.soft, name, folder) for name in scans.cases)
    return _sampler(cases, options, options.seed + UNLABELLED_STREAM)


def cache_folder(data: TrainingData, soft: SoftLabels | None, run: RunSettings) -> Path:
    """Return where the cases lie in a form to cut patches from; other data or other soft labels have another folder."""
    return run.cache / f"{data.cohort_hash[:12]}-{soft.key[:12] if soft else 'hard'}"


def remaining_iterations(
    data: TrainingData,
    soft: SoftLabels | None,
    options: TrainOptions,
    run: RunSettings,
    initial: StudentFile | None = None,
    guidance: Guidance = _NO_GUIDANCE,
) -> int:
    """Return how many iterations are left: 0 when the student is finished, all when none was done.

    Raises
    ------
    ConfigError
        The folder holds a training with other options or data.
    """
    soft = soft if options.soft_weight > 0 else None
    identity = _identity(data, soft, options, initial, guidance)
    final, checkpoint = run.folder / "student.pt", run.folder / "checkpoint.pt"
    if final.is_file():
        check_same(identity, load_student(final).provenance, final)
        return 0
    if checkpoint.is_file():
        state = start_or_resume(options, checkpoint, run.device, identity, initial, guidance)
        return options.iterations - state.iteration
    return options.iterations


def _identity(
    data: TrainingData,
    soft: SoftLabels | None,
    options: TrainOptions,
    initial: StudentFile | None,
    guidance: Guidance,
) -> dict[str, Any]:
    if options.quantisation_aware and initial is None:
        raise ConfigError(
            "quantisation-aware training continues a trained student, whose BatchNorm statistics it freezes; a new one "
            "has none. Train it first without, then give its student.pt with --init"
        )
    return identity_of(data, soft, options, initial, guidance)


def _iterate(state: TrainState, job: _Job) -> None:
    """Run the iterations that are left; `state` is updated."""
    options, run = job.options, job.run
    marks = {round(options.iterations * k / options.validations) for k in range(1, options.validations + 1)}
    first, began = state.iteration, time.monotonic()
    saved = began
    for given in _prefetched(job, first, options.iterations):
        if state.iteration == options.fixed_from and state.rounded is None:
            _fix_statistics(state, job)
        loss = train_step(state, given, options)
        validated = None
        if state.iteration in marks:
            validated = _validate(state, job)
            write_history(run.folder / "history.csv", state.history)
        now = time.monotonic()
        left = (now - began) / (state.iteration - first) * (options.iterations - state.iteration)
        run.report(Progress(state.iteration, options.iterations, loss, left, validated))
        ended, late = state.iteration == options.iterations, now >= job.deadline
        if ended or late or now - saved >= run.checkpoint_s:
            save_checkpoint(state, run.folder / "checkpoint.pt", job.identity)
            saved = now
        if late and not ended:
            raise TimeLimitReached(
                f"the time limit came after {state.iteration} of {options.iterations} iterations; "
                "run the same command again to continue"
            )


def _prefetched(job: _Job, first: int, last: int) -> Iterator[StepInput]:
    """Yield what the iterations `first` to `last` − 1 get, each cut while the one before is being used."""

    def cut(iteration: int) -> tuple[Batch, Batch | None]:
        return job.sampler.batch(iteration), None if job.unlabelled is None else job.unlabelled.batch(iteration)

    if first >= last:
        return
    device = job.run.device
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(cut, first)
        for iteration in range(first, last):
            batch, unlabelled = following.result()
            if iteration + 1 < last:
                following = pool.submit(cut, iteration + 1)
            yield StepInput(batch.to(device), None if unlabelled is None else unlabelled.to(device), job.assistant)


def _image(case: CachedCase) -> npt.NDArray[np.float32]:
    return np.asarray(case.image, np.float32)


def _unseen(job: _Job) -> Iterator[torch.Tensor]:
    """Yield images (b, 4, z, y, x) of batches that come after the training."""
    options = job.options
    for i in range(options.iterations, options.iterations + _STATISTICS_BATCHES):
        image = seen_patches(job.sampler.batch(i).to(job.run.device), options, i)[1].image
        yield image.contiguous(memory_format=torch.channels_last_3d)


def _fix_statistics(state: TrainState, job: _Job) -> None:
    """Give the network, and the averaged weights with it, the BatchNorm statistics of the rest of the training."""
    refresh_batch_norm(state.network, _unseen(job))
    for own, theirs in zip(state.average.buffers(), state.network.buffers(), strict=True):
        own.copy_(theirs)


def _validate(state: TrainState, job: _Job) -> HistoryRow:
    """Validate the averaged weights on whole cases, append a row of history.

    They get BatchNorm statistics of their own while the network's still change.
    """
    options, device = job.options, job.run.device
    fixed = state.rounded is not None or state.iteration > options.fixed_from
    refresh_batch_norm(state.average, () if fixed else _unseen(job))
    dices = [
        dice_per_region(decode(network_logits(state.average, _image(case), device), DecisionRule(), 1.0), case.labels)
        for case in job.checked
    ]
    known = [[d for d in column if not math.isnan(d)] for column in zip(*dices, strict=True)] or [[], [], []]
    wt, tc, et = (sum(column) / len(column) if column else math.nan for column in known)
    since = state.history[-1].iteration if state.history else 0
    losses = {name: total / (state.iteration - since) for name, total in zip(LOSSES, state.sums, strict=True)}
    rate = learning_rate(options, state.iteration - 1)
    row = HistoryRow(state.iteration, rate, **losses, dice_wt=wt, dice_tc=tc, dice_et=et)
    state.history.append(row)
    state.sums = [0.0] * len(state.sums)
    return row
