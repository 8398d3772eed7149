"""How long training waits for one case: NIfTI files, NumPy files, nnU-Net's compressed arrays.

    python bench/loading.py --workspace W [--case NAME] [--out bench/results/loading.json]

One thread, files in the page cache, median of seven. A patch is what a training step reads of a case.
"""

from __future__ import annotations

import argparse
import pickle
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import blosc2
import nibabel
import numpy as np
from glialite_distill.workspace import Workspace, label_file, raw_folder, raw_image_files
from glialite_runtime.cases import Case
from glialite_runtime.files import write_json
from glialite_runtime.preprocess import preprocess
from glialite_runtime.sequences import SEQUENCES
from glialite_runtime.volume import load_volume

RUNS = 7


def seconds(run: Callable[[], Any]) -> float:
    """Return the median time of a run after a warm-up."""
    run()
    taken = []
    for _ in range(RUNS):
        started = time.perf_counter()
        run()
        taken.append(time.perf_counter() - started)
    return statistics.median(taken)


def patch_of(shape: tuple[int, ...], patch: tuple[int, ...]) -> tuple[slice, ...]:
    """Return the patch in the middle of a case, all channels of it."""
    starts = [max(0, (n - p) // 2) for n, p in zip(shape[1:], patch, strict=True)]
    return (slice(None), *(slice(s, s + p) for s, p in zip(starts, patch, strict=True)))


def scans(workspace: Workspace, case: str) -> tuple[dict[str, Callable[[], Any]], list[Path]]:
    """Return the ways to read a case from its scans, and the files."""
    raw = raw_folder(workspace.root)
    images = [raw / path for path in raw_image_files(case)]
    label = raw / label_file(case)
    found = Case(case, dict(zip(SEQUENCES, images, strict=True)), label)

    def by_nibabel() -> list[Any]:
        return [np.asarray(nibabel.load(path).dataobj, np.float32) for path in (*images, label)]

    def prepared_anew() -> Any:
        labels = np.asarray(nibabel.load(label).dataobj)
        return preprocess(load_volume(found), workspace.spacing_mm), labels

    return {
        ".nii.gz of four scans and labels, nibabel": by_nibabel,
        "the same, our reader, then crop and z-score": prepared_anew,
    }, [*images, label]


def prepared(
    workspace: Workspace, case: str, folder: Path
) -> tuple[dict[str, Callable[[], Any]], dict[str, list[Path]]]:
    """Return the ways to read a prepared case, and the files of each format; `.npy` files are written to `folder`."""
    compressed = [workspace.case_folder / f"{case}{suffix}.b2nd" for suffix in ("", "_seg")]
    plain = [folder / path.with_suffix(".npy").name for path in compressed]
    properties = workspace.case_folder / f"{case}.pkl"
    for source, target in zip(compressed, plain, strict=True):
        np.save(target, blosc2.open(urlpath=str(source), mode="r")[:])
    at = patch_of(np.load(plain[0], mmap_mode="r").shape, workspace.patch_size)

    def opened() -> list[Any]:  # as nnU-Net's loader does, with where the tumour is
        pickle.loads(properties.read_bytes())  # noqa: S301 - our own workspace's
        return [blosc2.open(urlpath=str(path), mode="r", dparams={"nthreads": 1}) for path in compressed]

    return {
        ".npy, whole case": lambda: [np.load(path) for path in plain],
        ".npy, a patch": lambda: [np.array(np.load(path, mmap_mode="r")[at]) for path in plain],
        "nnU-Net's .b2nd, whole case": lambda: [array[:] for array in opened()],
        "nnU-Net's .b2nd, a patch": lambda: [array[at] for array in opened()],
    }, {".npy": plain, ".b2nd": [*compressed, properties]}


def main() -> None:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--case", help="one of the workspace's cases (default: its first)")
    parser.add_argument("--out", type=Path, default=Path("bench/results/loading.json"))
    arguments = parser.parse_args()
    workspace = Workspace.open(arguments.workspace)
    case = arguments.case or workspace.cases[0]
    runs, files = scans(workspace, case)
    with tempfile.TemporaryDirectory() as folder:
        more, stored = prepared(workspace, case, Path(folder))
        taken = {name: seconds(run) for name, run in {**runs, **more}.items()}
        sizes = {
            name: sum(path.stat().st_size for path in paths) for name, paths in {".nii.gz": files, **stored}.items()
        }
    first = next(iter(taken.values()))
    result = {
        "case_shape": list(workspace.shape_of(case)),
        "patch": list(workspace.patch_size),
        "disk_mb": {name: round(size / 1e6, 1) for name, size in sizes.items()},
        "seconds": {name: round(s, 4) for name, s in taken.items()},
        "times_faster_than_nii_gz": {name: round(first / s, 1) for name, s in taken.items()},
    }
    write_json(arguments.out, result)
    for name, s in taken.items():
        print(f"{name:<48}{s:8.3f} s{first / s:8.1f} ×")
    print(", ".join(f"{name} {size / 1e6:.1f} MB" for name, size in sizes.items()))


if __name__ == "__main__":
    main()
