"""How sharp and how fine gliomas are, real ones beside phantoms: where borders are drawn, how rough enhancement is.

    python bench/borders.py [--count 24] [--worlds wide default]

Prints the tables of docs/synthetic.md at 1 mm, medians over cases. Real scans are read from GLIALITE_TEST_DATA, or
`../shared/data` beside the checkout, and appear only as numbers.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
from glialite_distill.phantom import make_phantom, settings_for
from glialite_runtime.sequences import ET, NETC, SEQUENCES, SNFH
from glialite_runtime.volume import load_volume
from real_scans import DATA, cases
from scipy import ndimage

WIDTHS_MM = (0.6, 1.0, 1.6, 2.5, 4.0, 6.3)
LEAST = 2000
"""Voxels that a label needs to be looked at."""

Image = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Scan = tuple[dict[str, Image], npt.NDArray[np.uint8]]


def real(data: Path) -> Iterator[Scan]:
    """Yield the real cases that have labels."""
    with tempfile.TemporaryDirectory() as work:
        for case, labels in cases(data, Path(work)):
            if labels is not None:
                volume = load_volume(case)
                images = (channel.astype(np.float32) for channel in volume.channels)
                yield dict(zip(volume.sequences, images, strict=True)), labels


def phantoms(world: str, count: int) -> Iterator[Scan]:
    """Yield phantoms of 1 mm, both styles in turn."""
    for seed in range(7000, 7000 + count):
        phantom = make_phantom(seed, settings_for(world, ("gli", "ssa")[seed % 2]))
        yield dict(zip(SEQUENCES, phantom.images.astype(np.float32), strict=True)), phantom.labels


def through(image: Image, inside: Mask, outside: Mask) -> list[float]:
    """Return an image's medians 3, 2 and 1 voxels outside a border, then 1, 2 and 3 inside it.

    In shares of what lies between the medians of 3 voxels and more outside, and 2 and more inside.
    """
    out, within = (ndimage.distance_transform_edt(m) for m in (~inside, ~outside))
    base, top = np.median(image[outside & (out > 3) & (out < 12)]), np.median(image[inside & (within > 2)])
    shells = [outside & (out > d - 1) & (out <= d) for d in (3, 2, 1)]
    shells += [inside & (within > d - 1) & (within <= d) for d in (1, 2, 3)]
    return [float((np.median(image[shell]) - base) / (top - base)) for shell in shells]


def texture(image: Image, inside: Mask, brain: Mask) -> list[float]:
    """Return how strong each band of widths is inside, relative to the widest."""
    weight = brain.astype(np.float32)
    smooth = [np.where(brain, image, 0)]
    for width in WIDTHS_MM:
        share = np.maximum(ndimage.gaussian_filter(weight, width), 0.05)
        smooth.append(ndimage.gaussian_filter(smooth[0], width) / share)
    bands = [np.median(np.abs(fine - coarse)[inside]) for fine, coarse in pairwise(smooth)]
    return [float(band / bands[-1]) for band in bands]


def measure(scans: Iterator[Scan]) -> dict[str, npt.NDArray[np.float64]]:
    """Return the medians over scans of the two borders and the two textures."""
    found: dict[str, list[list[float]]] = {}
    for images, labels in scans:
        brain = images["t1c"] != 0
        if np.count_nonzero(labels == SNFH) > LEAST:
            border = through(images["t2f"], labels > 0, brain & (labels == 0))
            found.setdefault("FLAIR, border of WT", []).append(border)
        if np.count_nonzero(labels == ET) > LEAST:
            if np.count_nonzero(labels == SNFH) > LEAST:
                border = through(images["t1c"], labels == ET, labels == SNFH)
                found.setdefault("T1c, ET to oedema", []).append(border)
            found.setdefault("T1c, texture of ET", []).append(texture(images["t1c"], labels == ET, brain))
        if np.count_nonzero(labels == NETC) > LEAST:
            found.setdefault("T1c, texture of NETC", []).append(texture(images["t1c"], labels == NETC, brain))
    return {name: np.median(rows, 0) for name, rows in found.items()}


def main() -> None:
    """Print one table a measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--count", type=int, default=24, help="phantoms a world")
    parser.add_argument("--worlds", nargs="+", default=["wide", "default"])
    given = parser.parse_args()
    measured = {"real": measure(real(DATA))}
    measured |= {world: measure(phantoms(world, given.count)) for world in given.worlds}
    for name in measured["real"]:
        heads = [f"{w} mm" for w in WIDTHS_MM] if "texture" in name else ["-3", "-2", "-1", "+1", "+2", "+3"]
        print(f"\n| {name} | {' | '.join(heads)} |\n| --- |{' ---: |' * len(heads)}")
        for source, tables in measured.items():
            print(f"| {source} | {' | '.join(f'{value:.2f}' for value in tables[name])} |")


if __name__ == "__main__":
    main()
