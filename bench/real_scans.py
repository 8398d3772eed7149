"""What a student trained on synthetic patients does on real scans: Dice against the labels there are, and pictures.

    python bench/real_scans.py student.pt --out pictures [--json result.json] [--spacing 1.5]
    python bench/real_scans.py student.pt --out pictures --thresholds 0.45,0.7,0.55 --rim-share 1   # another rule

Real scans are read from GLIALITE_TEST_DATA, or `../shared/data` beside the checkout; neither they nor pictures of them
belong into the repository. The three cases of BraTS 2013 have human labels and two sequences (T1c, FLAIR); the labels
of the others are published models', the metastasis has none.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import tempfile
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import torch
from glialite_distill.evaluate import NetworkSource, bundle_source, student_source
from glialite_distill.student_file import load_student
from glialite_runtime import nifti
from glialite_runtime.cases import Case, case_from_files
from glialite_runtime.decode import decode, within_rim
from glialite_runtime.metrics import dice_per_region, region_masks
from glialite_runtime.picture import PLANES, largest_slices
from glialite_runtime.preprocess import preprocess, restore_logits, uncrop
from glialite_runtime.sequences import REGION_LABELS, REGIONS, SEQUENCES, to_brats2023
from glialite_runtime.volume import Volume, load_volume
from matplotlib import pyplot

DATA = Path(os.environ.get("GLIALITE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
HUMAN = {"brats_2013_pat0001_1": "2013-1", "brats_2013_pat0002_1": "2013-2", "brats_2013_pat0006_1": "2013-6"}
OTHERS = {"BraTS-GLI-00001-000": "brats2023", "TCGA-DU-7294": "brats2021", "BraTS-MET-00110-000": None}
COLOURS = {"WT": "#40e060", "TC": "#ffb020", "ET": "#ff4060"}

Labels = npt.NDArray[np.uint8]


def human_case(folder: Path, work: Path) -> tuple[Case, Labels]:
    """Return a case of BraTS 2013 with its background set to 0 through the brain mask, and its human labels in LPS."""
    mask = np.asanyarray(nibabel.load(folder / "brainmask.nii.gz").dataobj) > 0.5
    paths = {}
    for sequence, stem in (("t1c", "T1c_subtrMeanDivStd"), ("t2f", "Flair_subtrMeanDivStd")):
        image = nibabel.load(folder / f"{stem}.nii.gz")
        values = np.asanyarray(image.dataobj, dtype=np.float32)
        raised = np.where(mask, values - values[mask].min() + 0.1, 0).astype(np.float32)
        paths[sequence] = work / f"{folder.name}-{sequence}.nii"
        nibabel.save(nibabel.Nifti1Image(raised, image.affine), paths[sequence])
    case = case_from_files(paths, folder.name)
    truth = np.asanyarray(nibabel.load(folder / "OTMultiClass.nii.gz").dataobj)
    return case, load_volume(case).orientation.to_lps(to_brats2023(truth, "brats2013"))


def cases(data: Path, work: Path) -> list[tuple[Case, Labels | None]]:
    """Return the six real cases with what labels there are."""
    found: list[tuple[Case, Labels | None]] = [human_case(data / name, work) for name in HUMAN]
    for name, convention in OTHERS.items():
        case = case_from_files({s: data / name / f"{name}-{s}.nii.gz" for s in SEQUENCES}, name)
        truth = None
        if convention:
            image = nifti.read(data / name / f"{name}-seg.nii.gz")
            truth = load_volume(case).orientation.to_lps(to_brats2023(image.data, convention))
        found.append((case, truth))
    return found


def segment(source: NetworkSource, volume: Volume) -> Labels:
    """Return the labels that a network gives a case, missing sequences left at 0."""
    image, geometry = preprocess(volume, source.spacing_mm, 1)
    z, y, x = geometry.network_shape
    logits = restore_logits(source.logits(image)[:, :z, :y, :x], geometry)
    return uncrop(decode(logits, source.decision, volume.voxel_mm3, has_t1c="t1c" in volume.sequences), geometry)


def rim(truth: Labels | None) -> str:
    """Say how much of the core lies within the enhancing rim."""
    if truth is None:
        return ""
    _, core, enhancing = region_masks(truth)
    return f"  {within_rim(core, enhancing, 0).sum() / core.sum():.2f}" if enhancing.any() else "  no rim"


def draw(path: Path, volume: Volume, found: Labels, truth: Labels | None) -> None:
    """Draw T1c and FLAIR on three planes, the outlines found (lines) over those given (dotted)."""
    slices = largest_slices(found if truth is None else truth, volume.channels[0] != 0)
    shown = [s for s in ("t1c", "t2f") if s in volume.sequences]
    figure, axes = pyplot.subplots(len(shown), 3, figsize=(13, 4.6 * len(shown)), squeeze=False)
    for row, sequence in zip(axes, shown, strict=True):
        channel = volume.channels[volume.sequences.index(sequence)]
        for axis, plane, at in zip(row, PLANES, slices, strict=True):
            grey = np.take(channel, at, plane.axis).astype(float)
            origin = "lower" if plane.upside_down else "upper"
            axis.imshow(grey, cmap="gray", vmin=0, vmax=np.percentile(channel[channel != 0], 99.5), origin=origin)
            for labels, style in ((found, "solid"), (truth, "dotted")):
                if labels is None:
                    continue
                cut = np.take(labels, at, plane.axis)
                for region, wanted in REGION_LABELS.items():
                    mask = np.isin(cut, wanted)
                    if mask.any():
                        axis.contour(mask, [0.5], colors=COLOURS[region], linestyles=style, linewidths=1)
            axis.axis("off")
    figure.tight_layout(pad=0.2)
    figure.savefig(path, dpi=70)
    pyplot.close(figure)


def main() -> None:
    """Segment, judge, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("network", type=Path, help="student.pt, or a clinic bundle")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--spacing", type=float, help="mm a voxel of the network, if not what it was trained at")
    parser.add_argument("--thresholds", help="of WT,TC,ET, if not the network's own")
    parser.add_argument("--rim-share", type=float, help="1: core is not confined to its rim; if not the network's own")
    given = parser.parse_args()
    if given.network.is_dir():
        source = bundle_source(given.network)
    else:
        source = student_source(load_student(given.network), torch.device("cpu"))
    if given.spacing:
        source = replace(source, spacing_mm=(given.spacing,) * 3)
    if given.thresholds:
        wt, tc, et = (float(t) for t in given.thresholds.split(","))
        source = replace(source, decision=replace(source.decision, thresholds=(wt, tc, et)))
    if given.rim_share is not None:
        source = replace(source, decision=replace(source.decision, rim_share=given.rim_share))
    given.out.mkdir(parents=True, exist_ok=True)
    rows = {}
    print(f"{'case':24}{'WT':>7}{'TC':>7}{'ET':>7}   mL found (given), share of the given core within its rim")
    with tempfile.TemporaryDirectory() as work:
        for case, truth in cases(DATA, Path(work)):
            volume = load_volume(case)
            found = segment(source, volume)
            dice = [math.nan] * 3 if truth is None else dice_per_region(found, truth)
            given_ml = (
                "-" if truth is None else f"{np.isin(truth, v).sum() / 1000:.1f}" for v in REGION_LABELS.values()
            )
            found_ml = (f"{np.isin(found, v).sum() / 1000:.1f}" for v in REGION_LABELS.values())
            volumes = "  ".join(f"{a} ({b})" for a, b in zip(found_ml, given_ml, strict=True))
            print(f"{case.name:24}" + "".join(f"{d:7.3f}" for d in dice) + f"   {volumes}{rim(truth)}")
            rows[case.name] = dict(zip(REGIONS, (None if math.isnan(d) else round(d, 4) for d in dice), strict=True))
            draw(given.out / f"{case.name}.png", volume, found, truth)
    human = np.array([[rows[name][r] for r in REGIONS] for name in HUMAN], float)
    print(f"{'mean, human labels':24}" + "".join(f"{d:7.3f}" for d in np.nanmean(human, 0)))
    if given.json:
        given.json.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
