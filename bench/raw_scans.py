"""How well raw scans find their way to BraTS space and back: figures and pictures of docs/raw-scans.md.

::

    python bench/raw_scans.py atlas --out atlas-t1-2mm.nii.gz
    distill phantoms --out cohort-1mm --patients 10 --seed 21
    python bench/raw_scans.py heads --cohort cohort-1mm --out raw        # skull, thick slices, tilt; the truth beside
    python bench/raw_scans.py measure --heads raw --cohort cohort-1mm --atlas atlas-t1-2mm.nii.gz --out docs
    python bench/raw_scans.py real --atlas atlas-t1-2mm.nii.gz --head HEAD.nii.gz --brain BRAIN.nii.gz --out .

`atlas` places the MNI152 template where BraTS has the brain. `heads` makes two sessions of every patient, `-k` of
thick slices and `-i` with T1 and T1c of 1 mm. `measure` writes a row a session as CSV and one picture; its Dice are
those of the bundle that ships, on the T1c that was scanned and on the phantom as it was before there was a skull.
`real` lays a real head on the atlas and compares the mask with one of another tool.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import numpy.typing as npt
from glialite_runtime import nifti
from glialite_runtime.bundle import default_bundle
from glialite_runtime.cases import Case, find_case, find_cases
from glialite_runtime.errors import GeometryError
from glialite_runtime.metrics import dice_per_region
from glialite_runtime.sequences import REGIONS, SEQUENCES
from glialite_runtime.space import pipeline
from glialite_runtime.space.atlas import Atlas, fit_atlas, read_atlas
from glialite_runtime.space.pipeline import PreparedCase, back_to_original, to_brats_space
from glialite_runtime.space.transform import BRATS_AFFINE, BRATS_SHAPE, Scan, brats_affine, resample
from glialite_runtime.volume import load_volume

sys.path.insert(0, str(Path(__file__).parent))
from real_scans import segment
from synthetic_heads import add_head, draw_geometry, write_raw_case

Matrix = npt.NDArray[np.float64]
Mask = npt.NDArray[np.bool_]

LICENCE = (
    "Made from the MNI ICBM152 2009a template. Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, "
    "Montreal Neurological Institute, McGill University. Permission to use, copy, modify, and distribute this software "
    "and its documentation for any purpose and without fee is hereby granted, provided that the above copyright notice "
    "appear in all copies. The authors and McGill University make no representations about the suitability of this "
    'software for any purpose. It is provided "as is" without express or implied warranty.\n'
)


def write_atlas(out: Path) -> None:
    """Write the MNI152 T1 template, 2 mm, uint8, at the place and size of the phantoms, and its licence beside it."""
    from glialite_distill import anatomy, phantom_worlds
    from glialite_distill.anatomy_template import _package_maps
    from scipy import ndimage

    t1, _, _ = _package_maps()
    size = float(np.mean(phantom_worlds.AnatomyRanges().scale))
    axes = [(np.arange(n) + 0.5) * 2 - 0.5 for n in (78, 120, 120)]
    centres = zip(axes, anatomy._CENTRE_MM, anatomy._CENTRE_VOXEL, strict=True)
    at = np.stack(np.meshgrid(*((a - mm) / size + voxel for a, mm, voxel in centres), indexing="ij"))
    grey = ndimage.map_coordinates(ndimage.gaussian_filter(t1, 0.7), at, order=1)
    brain = ndimage.map_coordinates((t1 > 0).astype(np.float32), at, order=1) > 0.5
    data = np.where(brain, np.clip(np.rint(grey * 255), 1, 255), 0).astype(np.uint8)
    image = nibabel.Nifti1Image(data.T, brats_affine(2.0))
    image.set_qform(brats_affine(2.0), 1)
    image.header["descrip"] = b"MNI152 2009a T1 in BraTS space; licence beside it"
    nibabel.save(image, out)
    out.with_name(out.name.removesuffix(".nii.gz") + "-LICENCE.txt").write_text(LICENCE)


def write_heads(cohort: Path, out: Path) -> None:
    """Write two raw sessions of every case of a cohort, and `truth.json`."""
    truth: dict[str, Any] = {}
    for number, case in enumerate(find_cases(cohort)):
        images = np.stack([np.asanyarray(nibabel.load(case.paths[s]).dataobj).T for s in SEQUENCES])
        head = add_head(images, nibabel.load(case.paths["t1c"]).affine, number)
        for kind, thick in (("k", True), ("i", False)):
            folder = out / f"{case.name}-{kind}"
            written = write_raw_case(folder, head, draw_geometry(2 * number + thick, thick=thick), number)
            truth[folder.name] = {
                "case": case.name,
                "to_world": {sequence: m.tolist() for sequence, m in written.to_world.items()},
            }
        print(case.name, flush=True)
    (out / "truth.json").write_text(json.dumps(truth))


def mean_mm(found: Matrix, true: Matrix, points: Matrix) -> float:
    """Return the mean distance in mm of points (3, n) under two motions."""
    apart = (found - true)[:3]
    return float(np.linalg.norm(apart[:, :3] @ points + apart[:, 3:], axis=0).mean())


def dice(first: Mask, second: Mask) -> float:
    """Return the Dice of two masks; 1 when both are empty."""
    total = int(np.count_nonzero(first)) + int(np.count_nonzero(second))
    return 2 * int(np.count_nonzero(first & second)) / total if total else 1.0


def _on_brats(mask: Mask, affine: Matrix, matrix: Matrix) -> Mask:
    """Return a mask on the BraTS grid, looked up at 2 mm to save time."""
    whole, grid = np.ones((78, 120, 120), np.bool_), brats_affine(2.0)
    coarse = resample(Scan(np.ascontiguousarray(mask, np.float32), affine), matrix, whole, grid)[0] > 0.5
    return coarse.repeat(2, 0).repeat(2, 1).repeat(2, 2)[: BRATS_SHAPE[0]]


def measure_one(
    folder: Path, truth: dict[str, Any], cohort: Path, atlas: Atlas
) -> tuple[dict[str, Any], PreparedCase | None]:
    """Return one row of the table, and the prepared case unless it was refused."""
    row: dict[str, Any] = {"session": folder.name}
    original = find_case(cohort / truth["case"])
    affine = nibabel.load(original.paths["t1c"]).affine
    brain = np.asanyarray(nibabel.load(original.paths["t1c"]).dataobj).T != 0
    seg = np.asanyarray(nibabel.load(original.label).dataobj).T
    true = {s: np.array(m) for s, m in truth["to_world"].items()}
    started = time.process_time()
    try:
        prepared = to_brats_space(find_case(folder), atlas)
    except GeometryError as error:
        return row | {"refused": str(error)}, None
    row["seconds"] = round(time.process_time() - started, 2)
    places = {"brain": brain, "tumour": seg > 0}
    ref = prepared.reference
    for place, mask in places.items():
        at = np.argwhere(mask)[::50][:, ::-1]
        if not len(at):
            continue
        points = affine[:3, :3] @ at.T + affine[:3, 3:]
        row[f"atlas_{place}_mm"] = round(mean_mm(prepared.to_scan[ref], true[ref], points), 2)
        there = true[ref][:3, :3] @ points + true[ref][:3, 3:]
        for sequence in sorted(set(true) - {ref}):
            found = prepared.to_scan[sequence] @ np.linalg.inv(prepared.to_scan[ref])
            wanted = true[sequence] @ np.linalg.inv(true[ref])
            row[f"{sequence}_{place}_mm"] = round(mean_mm(found, wanted, there), 2)
    back = np.linalg.inv(true[ref]) @ prepared.to_scan[ref]  # mm of our BraTS space -> mm of the phantom's
    row["mask_dice"] = round(dice(_on_brats(brain, affine, back), prepared.volume.channels[0] != 0), 4)
    labels = np.zeros(BRATS_SHAPE, np.uint8)
    for value in (1, 2, 3):
        labels[_on_brats(seg == value, affine, back)] = value
    returned, image = back_to_original(labels, prepared)
    wanted_ml = float((labels > 0).sum()) / 1000
    got_ml = float((returned > 0).sum()) * abs(float(np.linalg.det(image.affine[:3, :3]))) / 1000
    row["wt_ml"], row["wt_ml_back"] = round(wanted_ml, 2), round(got_ml, 2)
    row["peak_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
    row |= _segmented(prepared, returned, original)
    return row | {f"nmi_{k}": v for k, v in prepared.similarity.items()}, prepared


def _segmented(prepared: PreparedCase, truth: npt.NDArray[np.uint8], original: Case) -> dict[str, float]:
    """Return the default bundle's Dice on the original T1c against `truth`, and on the phantom without a skull."""
    from glialite_distill.evaluate import bundle_source

    source = bundle_source(default_bundle())
    raw = back_to_original(segment(source, prepared.volume), prepared)[0]
    volume = load_volume(original)
    label = volume.orientation.to_lps(nifti.read(original.label).data)
    found = {"raw": dice_per_region(raw, truth), "clean": dice_per_region(segment(source, volume), label)}
    pairs = ((f"{how}_{region}", d) for how, dice3 in found.items() for region, d in zip(REGIONS, dice3, strict=True))
    return {name: round(float(d), 3) for name, d in pairs if np.isfinite(d)}


def measure(heads: Path, cohort: Path, atlas: Path, out: Path) -> None:
    """Write `raw-scans.csv` and the picture; sessions that the file already has are not measured again."""
    table = out / "raw-scans.json"
    rows: dict[str, dict[str, Any]] = json.loads(table.read_text()) if table.exists() else {}
    truth = json.loads((heads / "truth.json").read_text())
    for name, true in truth.items():
        if name in rows:
            continue
        rows[name], prepared = measure_one(heads / name, true, cohort, read_atlas(atlas))
        print(json.dumps(rows[name]), flush=True)
        table.write_text(json.dumps(rows, indent=1))
        if prepared is not None and len(rows) <= 2:
            picture(out / "images" / f"raw-scans-{name[-1]}.png", list(prepared.volume.channels))
    fields = list(dict.fromkeys(k for row in rows.values() for k in row))
    with (out / "raw-scans.csv").open("w", newline="") as stream:
        writer = csv.DictWriter(stream, fields)
        writer.writeheader()
        writer.writerows(rows.values())
    for field in fields[1:]:
        values = [row[field] for row in rows.values() if isinstance(row.get(field), int | float)]
        if values:
            spread = f"from {min(values):8.2f} to {max(values):8.2f}"
            print(f"{field:20} median {np.median(values):8.2f}  {spread}  n {len(values)}")


def picture(path: Path, images: list[npt.NDArray[Any]], masks: list[Mask] | None = None) -> None:
    """Draw three planes an image (z, y, x) in LPS, with the outline of a mask."""
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(len(images), 3, figsize=(7.5, 2.5 * len(images)), squeeze=False)
    for row, image in enumerate(images):
        for plane in range(3):
            cut = np.take(image, image.shape[plane] // 2, axis=plane)
            edge = None if masks is None else np.take(masks[row], image.shape[plane] // 2, axis=plane)
            turned = slice(None, None, -1 if plane else 1)
            axes[row, plane].imshow(cut[turned], cmap="gray", vmin=0, vmax=np.percentile(image, 99.8))
            if edge is not None and edge.any():
                axes[row, plane].contour(edge[turned], [0.5], colors="red", linewidths=0.7)
            axes[row, plane].axis("off")
    figure.tight_layout()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=70)
    pyplot.close(figure)


def real(atlas_path: Path, head: Path, brain: Path, out: Path) -> None:
    """Lay a real head on the atlas; print the Dice of our mask with another tool's."""
    atlas, image = read_atlas(atlas_path), nifti.read(head)
    scan = pipeline._scan_of(image)
    started = time.process_time()
    fit = fit_atlas(atlas, scan)
    found, source = pipeline._brain(atlas, fit, scan, None)
    seconds = time.process_time() - started
    other = pipeline._scan_of(nifti.read(brain))
    mask = _on_brats(other.data > 0, other.affine, fit.rigid)
    print(f"{source}: NMI {fit.result.nmi:.3f}, size {fit.stretch}, {seconds:.1f} s of processor time")
    print(f"Dice with the other mask: {dice(found, mask):.4f}")
    grey = resample(pipeline._sharp(scan), fit.rigid, np.ones(BRATS_SHAPE, np.bool_), BRATS_AFFINE)[0]
    picture(out / "raw-scans-real-head.png", [grey, grey], [found, mask])


def main() -> None:
    """Parse and run."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("atlas", "heads", "measure", "real"))
    for name in ("cohort", "heads", "atlas", "out", "head", "brain"):
        parser.add_argument(f"--{name}", type=Path)
    args = parser.parse_args()
    if args.what == "atlas":
        write_atlas(args.out)
    elif args.what == "heads":
        write_heads(args.cohort, args.out)
    elif args.what == "measure":
        measure(args.heads, args.cohort, args.atlas, args.out)
    else:
        real(args.atlas, args.head, args.brain, args.out)


if __name__ == "__main__":
    main()
