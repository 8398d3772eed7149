"""Teachers at work: FP32 sliding window, probabilities averaged over folds and members, labels on the input's grid."""

from __future__ import annotations

import io
import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from glialite_runtime.cases import Case, find_cases
from glialite_runtime.decode import DecisionRule, decode
from glialite_runtime.errors import BatchError, ConfigError, InputError
from glialite_runtime.files import sha256_file, write_bytes, write_json
from glialite_runtime.intake import inspect_volume
from glialite_runtime.nifti import write_labels
from glialite_runtime.preprocess import Geometry, preprocess, restore_logits, uncrop
from glialite_runtime.sequences import REGIONS, SEQUENCES
from glialite_runtime.volume import load_volume
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager
from torch import nn

from glialite_distill import nnunet
from glialite_distill.device import pick_device
from glialite_distill.prepare import Progress, without_progress
from glialite_distill.recipes import find_recipe
from glialite_distill.runs import final_checkpoint, trained_folds
from glialite_distill.teachers import load_weights
from glialite_distill.trainers import TRAINERS
from glialite_distill.workspace import CONFIGURATION, Workspace

__all__ = [
    "Member",
    "PredictOptions",
    "Window",
    "average_probabilities",
    "find_members",
    "load_teacher",
    "predict_folder",
    "sliding_window",
    "to_logits",
]

Probabilities = npt.NDArray[np.float32]

_WINDOWS_AT_ONCE: Final = 2  # with a batch of one and one thread, torch takes a convolution that is five times slower
_CERTAIN: Final = 1e-6  # probabilities are kept this far from 0 and 1 when they become logits


@dataclass(frozen=True, slots=True)
class Window:
    """How a teacher runs over a case.

    Attributes
    ----------
    patch_size : tuple of int
        Voxels (z, y, x).
    step : float
        Step between windows as a share of the patch: 0.5 is 50 % overlap.
    tta : bool
        Average the logits of all eight mirrorings.
    """

    patch_size: tuple[int, int, int]
    step: float = 0.5
    tta: bool = False


@dataclass(frozen=True, slots=True)
class Member:
    """One trained teacher and the SHA-256 of its final checkpoint."""

    recipe: str
    fold: int
    sha256: str


def find_members(
    workspace: Workspace, recipes: Sequence[str], folds: Sequence[int] | None = None
) -> tuple[Member, ...]:
    """Return the finished teachers of the recipes.

    Parameters
    ----------
    workspace : Workspace
        Where they were trained.
    recipes : sequence of str
        Recipe names.
    folds : sequence of int, optional
        Exactly these folds; without, all folds that are finished.

    Raises
    ------
    ConfigError
        A recipe is unknown, or has no finished teacher where one is needed.
    """
    members, problems = [], []
    for recipe in dict.fromkeys(recipes):
        ready = trained_folds(workspace, find_recipe(recipe).name)
        wanted = ready if folds is None else tuple(dict.fromkeys(folds))
        if missing := [str(f) for f in wanted if f not in ready] or ([] if wanted else ["any"]):
            problems.append(
                f"{recipe} has no finished teacher of fold {', '.join(missing)}; "
                f"run teacher-train run --recipe {recipe} (or leave it out)"
            )
        members += [(recipe, fold) for fold in wanted if fold in ready]
    if problems or not members:
        raise ConfigError("; ".join(problems) or "no member was named")
    return tuple(Member(r, f, sha256_file(final_checkpoint(workspace, r, f))) for r, f in members)


def load_teacher(workspace: Workspace, recipe: str, fold: int, device: torch.device) -> nn.Module:
    """Return a finished teacher's network in evaluation mode: image (n, 4, z, y, x) -> logits (n, 3, z, y, x)."""
    plans, _ = nnunet.plans_and_dataset(workspace.root, workspace.plan)
    manager = PlansManager(plans)
    network: nn.Module = TRAINERS[recipe].build_network_architecture(
        manager, manager.get_configuration(CONFIGURATION), len(SEQUENCES), len(REGIONS), enable_deep_supervision=False
    )
    network.load_state_dict(load_weights(final_checkpoint(workspace, recipe, fold)))
    if device.type == "cpu":
        network = network.to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload]  # torch's stub lacks it
    return network.to(device).eval()


@torch.inference_mode()
def sliding_window(
    network: nn.Module, image: npt.NDArray[np.float32], window: Window, device: torch.device
) -> npt.NDArray[np.float32]:
    """Run a network over a case, Gaussian-weighted, accumulating in FP32.

    nnU-Net's predictor does the same but adds up in FP16, where a sixth of its Gaussian is subnormal: up to 0.12 off
    in the corners of a case.

    Parameters
    ----------
    network : nn.Module
        (n, 4, z, y, x) -> (n, 3, z, y, x) logits; every sample must be computed by itself (no BatchNorm statistics).
    image : float32 array (4, z, y, x)
        A prepared case of any size; it is padded with zeros up to the patch.
    window : Window
        Patch, step and mirroring.
    device : torch.device
        Where the network is; CUDA computes in automatic mixed precision, as in training.

    Returns
    -------
    float32 array (3, z, y, x)
        Logits, regions as in `REGIONS`.
    """
    shape, patch = image.shape[1:], window.patch_size
    before = [max(0, p - n) // 2 for n, p in zip(shape, patch, strict=True)]
    padding = [(0, 0), *((b, max(0, p - n) - b) for n, p, b in zip(shape, patch, before, strict=True))]
    padded = torch.from_numpy(np.pad(image, padding)).to(device)
    weight = compute_gaussian(patch, sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32, device=device)
    total = torch.zeros((len(REGIONS), *padded.shape[1:]), device=device)
    weights = torch.zeros(padded.shape[1:], device=device)
    steps = compute_steps_for_sliding_window(tuple(padded.shape[1:]), patch, window.step)
    places = [tuple(slice(s, s + p) for s, p in zip(at, patch, strict=True)) for at in itertools.product(*steps)]
    for first in range(0, len(places), _WINDOWS_AT_ONCE):
        chunk = places[first : first + _WINDOWS_AT_ONCE]
        logits = _mirrored(network, torch.stack([padded[(slice(None), *at)] for at in chunk]), window.tta)
        for at, found in zip(chunk, logits, strict=True):
            total[(slice(None), *at)] += found * weight
            weights[at] += weight
    total /= weights
    crop = tuple(slice(b, b + n) for b, n in zip(before, shape, strict=True))
    return np.ascontiguousarray(total[(slice(None), *crop)].cpu().numpy())


def _mirrored(network: nn.Module, patches: torch.Tensor, tta: bool) -> torch.Tensor:
    axes = [c for n in range(4 if tta else 1) for c in itertools.combinations((2, 3, 4), n)]
    with torch.autocast(patches.device.type, enabled=patches.device.type == "cuda"):
        logits = [torch.flip(network(torch.flip(patches, c)), c).float() for c in axes]
    return torch.stack(logits).mean(0)


def average_probabilities(
    networks: Sequence[nn.Module], image: npt.NDArray[np.float32], window: Window, device: torch.device
) -> Probabilities:
    """Return the region probabilities (3, z, y, x) of a prepared case, averaged over networks with equal weights."""
    total = np.zeros((len(REGIONS), *image.shape[1:]), np.float32)
    for network in networks:
        logits = torch.from_numpy(sliding_window(network, image, window, device))
        total += torch.sigmoid(logits).numpy()
    total /= len(networks)
    return total


def to_logits(probabilities: Probabilities) -> npt.NDArray[np.float32]:
    """Return ln(p / (1 − p)), p kept within [1e-6, 1 − 1e-6]."""
    p = np.clip(probabilities.astype(np.float64), _CERTAIN, 1 - _CERTAIN)
    return np.log(p / (1 - p)).astype(np.float32)


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """What to predict and how.

    Attributes
    ----------
    folder, out : Path
        Case folders in; `<out>/<case>/<case>-seg.nii.gz` out.
    probabilities : bool
        Also write `<case>-probabilities.npz`: `probabilities`, float16 (3, z, y, x), whole image in LPS, and `regions`.
    tta : bool
        Eight mirrorings.
    step : float
        Step between windows as a share of the patch.
    device : str
        "auto", "cpu" or "cuda".
    """

    folder: Path
    out: Path
    probabilities: bool = False
    tta: bool = False
    step: float = 0.5
    device: str = "auto"


def predict_folder(
    workspace: Workspace, members: tuple[Member, ...], options: PredictOptions, progress: Progress = without_progress
) -> tuple[str, ...]:
    """Segment every case of a folder with the average of the members; cases that are done are skipped.

    Returns
    -------
    tuple of str
        Names of all cases, done now or before.

    Raises
    ------
    ConfigError
        `out` holds predictions of other members or settings.
    BatchError
        Some cases cannot be used; the others were written.
    """
    cases = find_cases(options.folder)
    _claim(options, members, workspace)
    device = pick_device(options.device)
    window = Window(workspace.patch_size, options.step, options.tta)
    waiting = [case for case in cases if not _is_done(case, options)]
    networks = [load_teacher(workspace, m.recipe, m.fold, device) for m in members] if waiting else []
    predict = partial(average_probabilities, networks, window=window, device=device)
    failed = []
    for case in progress(waiting, label="predict", length=len(waiting)):
        try:
            _predict_case(case, predict, workspace, options)
        except InputError as error:
            failed.append(f"{case.name}: {error}")
    if failed:
        raise BatchError(f"{len(failed)} of {len(cases)} cases cannot be used:\n  " + "\n  ".join(failed))
    return tuple(case.name for case in cases)


def _claim(options: PredictOptions, members: tuple[Member, ...], workspace: Workspace) -> None:
    """Write what makes the predictions of `out`, or check that it is the same as before."""
    made_by: dict[str, Any] = {
        "members": [[m.recipe, m.fold, m.sha256] for m in members],
        "cohort_hash": workspace.cohort_hash,
        "tta": options.tta,
        "step": options.step,
    }
    path = options.out / "teachers.json"
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != made_by:
            raise ConfigError(f"{options.out} holds predictions of other teachers or settings; give another --out")
    else:
        write_json(path, made_by)


def _seg_file(case: Case, options: PredictOptions) -> Path:
    return options.out / case.name / f"{case.name}-seg.nii.gz"


def _probabilities_file(case: Case, options: PredictOptions) -> Path:
    return options.out / case.name / f"{case.name}-probabilities.npz"


def _is_done(case: Case, options: PredictOptions) -> bool:
    return _seg_file(case, options).is_file() and (
        not options.probabilities or _probabilities_file(case, options).is_file()
    )


def _predict_case(
    case: Case,
    predict: Callable[[npt.NDArray[np.float32]], Probabilities],
    workspace: Workspace,
    options: PredictOptions,
) -> None:
    volume = load_volume(case)
    inspect_volume(volume, [SEQUENCES])
    image, geometry = preprocess(volume, workspace.spacing_mm)
    logits = restore_logits(to_logits(predict(image)), geometry)
    labels = uncrop(decode(logits, DecisionRule(), volume.voxel_mm3), geometry)
    if options.probabilities:
        _write_probabilities(_probabilities_file(case, options), logits, geometry)
    write_labels(_seg_file(case, options), volume.orientation.from_lps(labels), volume.reference)


def _write_probabilities(path: Path, logits: npt.NDArray[np.float32], geometry: Geometry) -> None:
    whole = np.zeros((len(REGIONS), *geometry.full_shape), np.float16)
    whole[(slice(None), *geometry.crop)] = 1 / (1 + np.exp(-logits))
    content = io.BytesIO()
    np.savez_compressed(content, probabilities=whole, regions=np.array(REGIONS))
    write_bytes(path, content.getvalue())
