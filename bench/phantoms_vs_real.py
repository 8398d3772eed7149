"""Pictures and figures of docs/phantoms.md: phantoms alone, and their grey values beside those of real scans.

::

    python bench/phantoms_vs_real.py pictures --out docs/images
    python bench/phantoms_vs_real.py histograms --out docs/images      # needs the real scans
    python bench/phantoms_vs_real.py speed

Real scans are read from GLIALITE_TEST_DATA, or `../shared/data` beside the checkout, and appear only as numbers and
curves, never as pictures.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from collections.abc import Sequence
from pathlib import Path

import nibabel
import numpy as np
import numpy.typing as npt
import torch
from glialite_distill.anatomy_template import load_template
from glialite_distill.phantom import Phantom, make_phantom, settings_for
from glialite_runtime.sequences import SEQUENCES
from matplotlib import pyplot
from scipy import ndimage

REAL = ("BraTS-GLI-00001-000", "TCGA-DU-7294", "BraTS-MET-00110-000")
BINS = np.linspace(-5, 9, 281)
LABELS = {1: "NETC", 2: "SNFH", 3: "ET"}
COLOURS = {1: (0.15, 0.75, 1.0), 2: (0.3, 1.0, 0.3), 3: (1.0, 0.35, 0.2)}

Array = npt.NDArray[np.float32]


def z_scores(images: npt.NDArray[np.generic]) -> tuple[Array, npt.NDArray[np.bool_]]:
    """Return (4, z, y, x) z-scores over the hole-filled union of non-zero voxels, and that mask, as nnU-Net does."""
    mask = ndimage.binary_fill_holes((images != 0).any(0))
    values = images[:, mask].astype(np.float32)
    out = np.zeros(images.shape, np.float32)
    out[:, mask] = (values - values.mean(1, keepdims=True)) / values.std(1, keepdims=True)
    return out, mask


def read_real(folder: Path) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8] | None]:
    """Return the four sequences (4, z, y, x) in LPS and the labels, or None where there are none."""
    arrays = []
    for kind in (*SEQUENCES, "seg"):
        path = folder / f"{folder.name}-{kind}.nii.gz"
        if not path.exists():
            continue
        image = nibabel.as_closest_canonical(nibabel.load(path))
        arrays.append(np.asanyarray(image.dataobj).T[:, ::-1, ::-1])
    images = np.maximum(np.stack(arrays[:4]).astype(np.float32), 0)  # spline undershoot around the brain
    return images, arrays[4].astype(np.uint8) if len(arrays) == 5 else None


def curves(z: Array, mask: npt.NDArray[np.bool_]) -> Array:
    """Return the density of z-scores, (4, bins)."""
    return np.stack([np.histogram(channel[mask], BINS, density=True)[0] for channel in z]).astype(np.float32)


def distance(first: Array, second: Array) -> float:
    """Return the earth mover's distance of two densities over `BINS`, SD."""
    width = BINS[1] - BINS[0]
    return float(np.abs(np.cumsum(first - second) * width).sum() * width)


def phantoms(seeds: Sequence[int], style: str, spacing_mm: float = 1) -> list[Phantom]:
    """Return phantoms of the default world."""
    return [make_phantom(seed, settings_for("default", style, spacing_mm=spacing_mm)) for seed in seeds]


def histograms(out: Path, count: int, world: str) -> None:
    """Draw phantom and real curves per sequence and print the tables."""
    data = Path(os.environ.get("GLIALITE_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
    if not data.is_dir():
        raise SystemExit(f"no real scans at {data}; set GLIALITE_TEST_DATA to their folder")
    real_curves, real_figures, real_regions = [], {}, {}
    for name in REAL:
        images, labels = read_real(data / name)
        z, mask = z_scores(images)
        real_curves.append(curves(z, mask))
        real_figures[name] = figures(z, mask)
        if labels is not None:
            real_regions[name] = region_medians(z, labels)
    phantom_curves: dict[str, list[Array]] = {"gli": [], "ssa": []}
    phantom_figures: dict[str, list[Array]] = {"gli": [], "ssa": []}
    regions: dict[str, list[dict[int, list[float]]]] = {"gli": [], "ssa": []}
    for style in ("gli", "ssa"):
        for seed in range(100, 100 + count):
            phantom = make_phantom(seed, settings_for(world, style))
            z, mask = z_scores(phantom.images)
            phantom_curves[style].append(curves(z, mask))
            phantom_figures[style].append(figures(z, mask))
            regions[style].append(region_medians(z, phantom.labels))
    draw_curves(out / "phantoms-histograms.png", real_curves, phantom_curves)
    table(real_curves, phantom_curves)
    figure_table(real_figures, phantom_figures)
    region_table(real_regions, regions)


def region_medians(z: Array, labels: npt.NDArray[np.uint8]) -> dict[int, list[float]]:
    """Return label -> median z-score of each sequence, for labels of at least 500 voxels."""
    return {v: [float(np.median(c[labels == v])) for c in z] for v in LABELS if (labels == v).sum() >= 500}


def draw_curves(path: Path, real: list[Array], groups: dict[str, list[Array]]) -> None:
    """Draw one panel a sequence: a line a real scan, the 10th to 90th percentile band of the phantoms."""
    middle = (BINS[1:] + BINS[:-1]) / 2
    figure, axes = pyplot.subplots(2, 2, figsize=(10, 6.4), dpi=80)
    for channel, (sequence, axis) in enumerate(zip(SEQUENCES, axes.flat, strict=True)):
        for style, colour in (("gli", "tab:blue"), ("ssa", "tab:orange")):
            stack = np.stack([c[channel] for c in groups[style]])
            axis.fill_between(middle, *np.percentile(stack, (10, 90), 0), color=colour, alpha=0.25, lw=0)
            axis.plot(middle, stack.mean(0), color=colour, label=f"phantoms, {style}")
        for curve, name, dash in zip(real, REAL, ("-", "--", ":"), strict=True):
            axis.plot(middle, curve[channel], "k", lw=1, ls=dash, label=name)
        axis.set(title=sequence, xlim=(-4, 5), ylim=(0, 1.4), xlabel="z-score", ylabel="density")
    axes[0, 0].legend(fontsize=7)
    figure.tight_layout()
    figure.savefig(path)
    pyplot.close(figure)


def table(real: list[Array], groups: dict[str, list[Array]]) -> None:
    """Print, per sequence, how far phantoms are from real scans and real scans from each other."""
    pairs = [(a, b) for i, a in enumerate(real) for b in real[i + 1 :]]
    print("| sequence | real to real | gli to nearest real | ssa to nearest real | mean gli to mean real |")
    print("| --- | --- | --- | --- | --- |")
    for channel, sequence in enumerate(SEQUENCES):
        between = np.mean([distance(a[channel], b[channel]) for a, b in pairs])
        nearest = [
            np.mean([min(distance(p[channel], r[channel]) for r in real) for p in groups[s]]) for s in ("gli", "ssa")
        ]
        means = distance(np.mean([p[channel] for p in groups["gli"]], 0), np.mean([r[channel] for r in real], 0))
        print(f"| {sequence} | {between:.2f} | {nearest[0]:.2f} | {nearest[1]:.2f} | {means:.2f} |")


def figures(z: Array, mask: npt.NDArray[np.bool_]) -> Array:
    """Return what to compare beside the curves, (4, 5): shares below −1 and above 2 SD in %, p99, p99.9, noise in SD.

    Noise is the median absolute high-pass signal (Gaussian of 1 voxel) where the smoothed image is flattest.
    """
    deep = ndimage.binary_erosion(mask, iterations=5)
    out = []
    for channel in z:
        inside = channel[mask]
        smooth = ndimage.gaussian_filter(channel, 1.5)
        slope = np.sum([np.abs(g) for g in np.gradient(smooth)], 0)
        flat = deep & (slope < np.percentile(slope[deep], 30))
        noise = 1.4826 * np.median(np.abs(channel - ndimage.gaussian_filter(channel, 1.0))[flat])
        shares = (inside < -1).mean() * 100, (inside > 2).mean() * 100
        out.append([*shares, *np.percentile(inside, (99, 99.9)), noise])
    return np.array(out, np.float32)


def figure_table(real: dict[str, Array], groups: dict[str, list[Array]]) -> None:
    """Print `figures` of the real scans, and the 10th / 50th / 90th percentile of the phantoms'."""
    print("\n| sequence | source | below −1 SD, % | above 2 SD, % | 99 % | 99.9 % | noise, SD |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for channel, sequence in enumerate(SEQUENCES):
        for case, values in real.items():
            cells = " | ".join(f"{v:.2f}" for v in values[channel])
            print(f"| {sequence} | {case} | {cells} |")
        for style, found in groups.items():
            percentiles = np.percentile(np.stack(found)[:, channel], (10, 50, 90), 0)
            cells = " | ".join(" / ".join(f"{v:.2f}" for v in column) for column in percentiles.T)
            print(f"| {sequence} | phantoms, {style} | {cells} |")


def region_table(real: dict[str, dict[int, list[float]]], groups: dict[str, list[dict[int, list[float]]]]) -> None:
    """Print median z-scores inside the labels: each real scan, and 10th / 50th / 90th percentile of the phantoms."""
    print(f"\n| label | source | {' | '.join(SEQUENCES)} |\n| --- | --- | --- | --- | --- | --- |")
    for value, name in LABELS.items():
        for case, medians in real.items():
            if value in medians:
                print(f"| {name} | {case} | {' | '.join(f'{m:.1f}' for m in medians[value])} |")
        for style, found in groups.items():
            rows = np.array([m[value] for m in found if value in m])
            if rows.size:
                cells = (" / ".join(f"{q:.1f}" for q in np.percentile(rows[:, k], (10, 50, 90))) for k in range(4))
                print(f"| {name} | {len(rows)} phantoms, {style} | {' | '.join(cells)} |")


def outline(labels: npt.NDArray[np.uint8], rgb: Array) -> None:
    """Draw the border of each label into `rgb` (y, x, 3) in place."""
    for value, colour in COLOURS.items():
        region = labels == value
        rgb[region & ~ndimage.binary_erosion(region)] = colour


def strip(phantom: Phantom, index: int, zoom: int = 1) -> Array:
    """Return one axial slice as a row (y, x, 3): four sequences, then T1c and FLAIR with the labels' outlines.

    The window is −2.2 to 3.2 SD in every sequence.
    """
    z, mask = z_scores(phantom.images)
    tiles = []
    for channel, outlined in ((0, False), (1, False), (2, False), (3, False), (1, True), (3, True)):
        grey = np.where(mask[index], np.clip((z[channel, index] + 2.2) / 5.4, 0, 1), 0)
        rgb = np.repeat(grey[..., None], 3, 2).astype(np.float32)
        if outlined:
            outline(phantom.labels[index], rgb)
        height, width = grey.shape
        rgb = rgb[height // 12 : -height // 12, width // 7 : -width // 7]
        tiles.append(np.kron(rgb, np.ones((zoom, zoom, 1), np.float32)))
    return np.concatenate(tiles, 1)


def largest_slice(labels: npt.NDArray[np.uint8]) -> int:
    """Return the axial slice with most core, then most tumour; the middle one without any."""
    area = 1000 * np.isin(labels, (1, 3)).sum((1, 2)) + (labels > 0).sum((1, 2))
    return int(area.argmax()) if area.any() else labels.shape[0] // 2


def pictures(out: Path, seeds: Sequence[int]) -> None:
    """Write one picture a style, a row a patient, and one of the 2 mm variant."""
    for name, style, spacing_mm in (("gli", "gli", 1), ("ssa", "ssa", 1), ("small", "gli", 2)):
        rows = []
        for phantom in phantoms(seeds, style, spacing_mm):
            tumour, volumes = phantom.meta["tumour"], phantom.meta["volumes_ml"]
            print(name, phantom.meta["seed"], tumour["kind"] if tumour else "no tumour", volumes)
            rows.append(strip(phantom, largest_slice(phantom.labels)))
        pyplot.imsave(out / f"phantoms-{name}.jpg", np.concatenate(rows, 0), pil_kwargs={"quality": 82})


def speed(seeds: Sequence[int]) -> None:
    """Print processor seconds a case on one thread, and peak memory, for three voxel sizes."""
    torch.set_num_threads(1)
    begin = time.process_time()
    load_template()
    print(f"template, once a process: {time.process_time() - begin:.1f} s")
    for spacing_mm in (2, 1.5, 1):
        seconds = []
        for seed in seeds:
            begin = time.process_time()  # other work on the machine does not count
            make_phantom(seed, settings_for(spacing_mm=spacing_mm))
            seconds.append(time.process_time() - begin)
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6
        print(f"{spacing_mm} mm: median {np.median(seconds):.2f} s, slowest {max(seconds):.2f} s, peak {peak:.2f} GB")


def main() -> None:
    """Run one of the three."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("pictures", "histograms", "speed"))
    parser.add_argument("--out", type=Path, default=Path("docs/images"))
    parser.add_argument("--world", default="default", help="of the histograms")
    parser.add_argument("--count", type=int, default=10, help="phantoms a style in the histograms")
    parser.add_argument("--seeds", type=int, nargs="+", default=[31, 33, 34, 36, 62, 58])
    choice = parser.parse_args()
    choice.out.mkdir(parents=True, exist_ok=True)
    if choice.what == "pictures":
        pictures(choice.out, choice.seeds)
    elif choice.what == "histograms":
        histograms(choice.out, choice.count, choice.world)
    else:
        speed(choice.seeds)


if __name__ == "__main__":
    main()
