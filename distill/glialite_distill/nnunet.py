"""The only module that touches nnU-Net's environment, folders and process pools.

nnU-Net finds its folders through environment variables and talks on stdout; both are confined here, so that a workspace
is a folder like any other and two of them can be used in one process.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
from collections.abc import Iterator, Sequence
from multiprocessing.pool import ThreadPool
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import nnunetv2.paths
from glialite_runtime.files import write_json
from glialite_runtime.sequences import REGION_LABELS, SEQUENCES
from nnunetv2.experiment_planning.dataset_fingerprint import fingerprint_extractor
from nnunetv2.experiment_planning.experiment_planners.default_experiment_planner import ExperimentPlanner
from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

from glialite_distill.recipes import Layout, TrainingPlan
from glialite_distill.workspace import (
    CONFIGURATION,
    DATASET,
    label_file,
    plans_name,
    prepared_folder,
    raw_folder,
    raw_image_files,
)

__all__ = [
    "environment",
    "plans_and_dataset",
    "preprocess_case",
    "quiet",
    "single_process_augmentation",
    "write_dataset",
    "write_fingerprint",
    "write_plans",
]

_REGION_NAMES: Final = {"WT": "whole_tumor", "TC": "tumor_core", "ET": "enhancing"}
_REGIONS_CLASS_ORDER: Final = (2, 1, 3)  # what a voxel becomes when it is in WT, then TC, then ET
_FINGERPRINT_VOXELS: Final = 1e5  # the default, 1e8, takes 5 GB and half a minute for statistics that z-scoring ignores


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Swallow what nnU-Net prints on stdout, which is for results."""
    with contextlib.redirect_stdout(io.StringIO()):
        yield


@contextlib.contextmanager
def environment(root: Path) -> Iterator[None]:
    """Let nnU-Net find its three folders in the workspace `root`, without environment variables."""
    paths = nnunetv2.paths
    lazies = (paths.nnUNet_raw, paths.nnUNet_preprocessed, paths.nnUNet_results)  # named like their folders
    known = [(lazy, str((root / lazy.env_var_name).resolve())) for lazy in lazies]
    for lazy, folder in known:
        Path(folder).mkdir(parents=True, exist_ok=True)
        lazy.get = lambda value=folder: value
    try:
        yield
    finally:
        for lazy, _ in known:
            del lazy.get


@contextlib.contextmanager
def single_process_augmentation(trainer_module: Any) -> Iterator[None]:
    """Let the trainer augment in its own process: background workers have no seeds, and a CPU has no cores to spare."""
    original = trainer_module.get_allowed_n_proc_DA
    trainer_module.get_allowed_n_proc_DA = lambda: 0
    try:
        yield
    finally:
        trainer_module.get_allowed_n_proc_DA = original


@contextlib.contextmanager
def _threads_for_processes(module: Any) -> Iterator[None]:
    """Put a thread pool in place of a module's spawn pool, whose children would run the main script again."""
    original = module.multiprocessing
    module.multiprocessing = SimpleNamespace(get_context=lambda *_: SimpleNamespace(Pool=ThreadPool))
    try:
        yield
    finally:
        module.multiprocessing = original


def write_dataset(root: Path, cases: Sequence[str]) -> None:
    """Write `dataset.json`: four sequences in, three overlapping regions out, files by name."""
    labels: dict[str, Any] = {"background": 0}
    labels |= {_REGION_NAMES[region]: list(values) for region, values in REGION_LABELS.items()}
    write_json(
        raw_folder(root) / "dataset.json",
        {
            "channel_names": {str(i): name for i, name in enumerate(SEQUENCES)},
            "labels": labels,
            "regions_class_order": list(_REGIONS_CLASS_ORDER),
            "numTraining": len(cases),
            "file_ending": ".nii.gz",
            "overwrite_image_reader_writer": "NibabelIO",
            "dataset": {
                case: {"images": [p.as_posix() for p in raw_image_files(case)], "label": label_file(case).as_posix()}
                for case in cases
            },
        },
    )


class _Fingerprint(fingerprint_extractor.DatasetFingerprintExtractor):
    """nnU-Net's extractor with a sample that fits into memory."""

    def __init__(self, dataset: str, num_processes: int) -> None:
        super().__init__(dataset, num_processes)
        self.num_foreground_voxels_for_intensitystats = _FINGERPRINT_VOXELS
        self.show_progress_bar = False


def write_fingerprint(root: Path, workers: int) -> None:
    """Run nnU-Net's fingerprint extraction, unless a whole fingerprint is there."""
    path = prepared_folder(root) / "dataset_fingerprint.json"
    if _is_json(path):
        return
    with environment(root), quiet(), _threads_for_processes(fingerprint_extractor):
        _Fingerprint(DATASET, workers).run(overwrite_existing=True)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return True


def write_plans(root: Path, plan: TrainingPlan) -> None:
    """Run nnU-Net's planner, then write our plans: its preprocessing, our spacing, patch, strides and widths.

    Today's planner gives 128³ on BraTS cases; the published teachers used 128×160×112. Axes are never transposed (a
    header that says 1.0000001 mm would otherwise permute them) and normalisation always uses the brain mask.
    """
    path = prepared_folder(root) / f"{plans_name(plan)}.json"
    if path.is_file():
        return
    with environment(root), quiet():
        planner = ExperimentPlanner(
            DATASET, suppress_transpose=True, overwrite_target_spacing=[float(v) for v in plan.spacing_mm]
        )
        planner.plan_experiment()
        stock = json.loads((prepared_folder(root) / f"{planner.plans_identifier}.json").read_text(encoding="utf-8"))
    write_json(path, _our_plans(stock, plan))


def _our_plans(stock: dict[str, Any], plan: TrainingPlan) -> dict[str, Any]:
    """Return our plans: nnU-Net's own 3-D configuration, and three more on the same preprocessed cases.

    nnU-Net's 2-D configuration would keep each case's slice thickness; here the slices are those of the 3-D cases, so
    that nothing is stored twice. The two differ where a case is not at the plan's spacing along z.
    """
    base = {
        **stock["configurations"][CONFIGURATION],
        "data_identifier": f"{plans_name(plan)}_{CONFIGURATION}",
        "spacing": list(plan.spacing_mm),
        "use_mask_for_norm": [True] * len(SEQUENCES),
        "mednext_filters": plan.mednext_filters,
    }
    configurations = {
        name: {
            **base,
            "patch_size": list(layout.patch_size),
            "batch_size": layout.batch_size,
            "batch_dice": False,
            "architecture": _architecture(name, layout),
        }
        for name, layout in plan.layouts.items()
    }
    return {**stock, "plans_name": plans_name(plan), "configurations": configurations}


def _architecture(configuration: str, layout: Layout) -> dict[str, Any]:
    """Return what nnU-Net's planners write: a plain U-Net, or the ResEnc presets' residual encoder."""
    axes, stages = len(layout.patch_size), len(layout.widths)
    residual = "resenc" in configuration
    kind = "ResidualEncoderUNet" if residual else "PlainConvUNet"
    blocks = [1, 3, 4, *[6] * stages][:stages]
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
        "arch_kwargs": {
            "n_stages": stages,
            "features_per_stage": list(layout.widths),
            "conv_op": f"torch.nn.modules.conv.Conv{axes}d",
            "kernel_sizes": [[3] * axes] * stages,
            "strides": [list(s) for s in layout.strides],
            **({"n_blocks_per_stage": blocks} if residual else {"n_conv_per_stage": [2] * stages}),
            "n_conv_per_stage_decoder": [1 if residual else 2] * (stages - 1),
            "conv_bias": True,
            "norm_op": f"torch.nn.modules.instancenorm.InstanceNorm{axes}d",
            "norm_op_kwargs": {"eps": 1e-5, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def plans_and_dataset(root: Path, plan: TrainingPlan) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return fresh copies of our plans and of `dataset.json`, as nnU-Net's classes want them."""
    plans = json.loads((prepared_folder(root) / f"{plans_name(plan)}.json").read_text(encoding="utf-8"))
    return plans, json.loads((raw_folder(root) / "dataset.json").read_text(encoding="utf-8"))


def preprocess_case(root: Path, plan: TrainingPlan, case: str) -> None:
    """Run nnU-Net's preprocessing on one case, unless it is done; a killed run leaves nothing under a final name."""
    plans, dataset = plans_and_dataset(root, plan)
    manager = PlansManager(plans)
    configuration = manager.get_configuration(CONFIGURATION)
    final = prepared_folder(root) / configuration.data_identifier
    endings = (".b2nd", "_seg.b2nd", ".pkl")  # the last one is moved last: it says that the case is complete
    if all((final / f"{case}{ending}").is_file() for ending in endings):
        return
    partial = prepared_folder(root) / ".part" / case
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    final.mkdir(parents=True, exist_ok=True)
    raw = raw_folder(root)
    DefaultPreprocessor(verbose=False).run_case_save(
        str(partial / case),
        [str(raw / p) for p in raw_image_files(case)],
        str(raw / label_file(case)),
        manager,
        configuration,
        dataset,
    )
    for ending in endings:
        with (partial / f"{case}{ending}").open("r+b") as stream:
            os.fsync(stream.fileno())
        (partial / f"{case}{ending}").replace(final / f"{case}{ending}")
    partial.rmdir()
