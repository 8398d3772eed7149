"""The label map as files: NIfTI that says it holds labels, and their names and colours for 3D Slicer and ITK-SNAP."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.nifti import Image, write_labels
from glialite_runtime.picture import COLOURS
from glialite_runtime.sequences import ET, NETC, SNFH

__all__ = ["itk_snap_labels", "slicer_colours", "write_label_map"]

_NAMES: Final = {
    NETC: ("necrotic or non-enhancing core", COLOURS["TC"]),
    SNFH: ("surrounding FLAIR hyperintensity", COLOURS["WT"]),
    ET: ("enhancing tumour", COLOURS["ET"]),
}


def write_label_map(path: Path, labels: npt.NDArray[np.uint8], like: Image) -> None:
    """Write labels (x, y, z) with the geometry of an image and NIfTI's intent "label"; see `nifti.write_labels`."""
    header = like.header.copy()
    header.set_intent("label", name="BraTS 2023")
    write_labels(path, labels, replace(like, header=header))


def slicer_colours() -> str:
    """Return 3D Slicer's colour table (.ctbl): a line a label of value, name without spaces, red, green, blue, alpha.

    Source: https://slicer.readthedocs.io/en/5.6/developer_guide/modules/colors.html.
    """
    lines = ["# Color table file: GliaLite labels (BraTS 2023)", "# 4 values", "0 background 0 0 0 0"]
    lines += [f"{value} {name.replace(' ', '_')} {r} {g} {b} 255" for value, (name, (r, g, b)) in _NAMES.items()]
    return "\n".join(lines) + "\n"


def itk_snap_labels() -> str:
    """Return ITK-SNAP's label descriptions (.txt): value, red, green, blue, opacity, shown in 2-D, in 3-D, name.

    Source: the header of the files that ITK-SNAP saves (Segmentation > Export Label Descriptions).
    """
    rule = "#" * 48
    lines = [rule, "# ITK-SnAP Label Description File", "# IDX   -R-  -G-  -B-  -A--  VIS MSH  LABEL", rule]
    lines.append('    0     0    0    0        0  0  0    "Clear Label"')
    lines += [
        f'{value:5d} {r:5d} {g:4d} {b:4d}        1  1  1    "{name}"' for value, (name, (r, g, b)) in _NAMES.items()
    ]
    return "\n".join(lines) + "\n"
