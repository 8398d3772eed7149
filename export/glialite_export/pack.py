"""Put a clinic bundle together: graph, golden crop, model card, notices and where all of it came from."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from glialite_runtime import __version__
from glialite_runtime.bundle import Graph, Manifest, golden_file
from glialite_runtime.decode import DecisionRule
from glialite_runtime.errors import ExportError
from glialite_runtime.sequences import REGIONS, SEQUENCES

from glialite_export.parity import Network

__all__ = [
    "CARD_FILE",
    "GRAPH_FILE",
    "MAX_BUNDLE_BYTES",
    "PICTURE_SUFFIX",
    "Packing",
    "bundle_files",
    "check_size",
    "golden_crop",
    "manifest_of",
    "model_card",
    "notice",
]

CARD_FILE: Final = "MODEL_CARD.md"
GRAPH_FILE: Final = "cpu-int8.onnx"
PICTURE_SUFFIX: Final = ".png"
MAX_BUNDLE_BYTES: Final = 5_000_000
"""A clinic bundle travels on USB sticks and thin lines."""

PHANTOM_SITE: Final = "PHA"
"""Cohort code of synthetic patients in a case name."""

_GOLDEN_EDGE: Final = 32
_CARD_LAYERS: Final = 6
_INTENDED_USE: Final = "Research use and decision support on MRI of adults with glioma; not a diagnosis."


@dataclass(frozen=True, slots=True)
class Packing:
    """What a bundle is made from.

    Attributes
    ----------
    name : str
        Of the bundle.
    graph : bytes
        The INT8 graph.
    divisor, opset : int
        What the graph asks for.
    spacing_mm : tuple of float
        Voxel size (z, y, x).
    decision : DecisionRule
        How logits become labels.
    accepted_sequences : tuple of tuples of str
        Sets of sequences that the student has learnt to work with.
    sites : collection of str
        Cohort codes of the training cases.
    training_cases : int
        How many there were.
    provenance : mapping
        Ready for JSON; `parity` holds the report of each hop.
    """

    name: str
    graph: bytes
    divisor: int
    opset: int
    spacing_mm: tuple[float, float, float]
    decision: DecisionRule
    accepted_sequences: tuple[tuple[str, ...], ...]
    sites: Collection[str]
    training_cases: int
    provenance: Mapping[str, Any]


def golden_crop(divisor: int) -> npt.NDArray[np.float16]:
    """Return the image of the self-test: (4, 32, 32, 32), or edges of the next multiple of `divisor`.

    A ball of seeded noise at two scales in a background of 0, wide enough to reach the ends of every activation
    range. It is nobody's scan: no patient's voxels travel with a bundle.
    """
    edge = -(-_GOLDEN_EDGE // divisor) * divisor
    rng = np.random.default_rng(0)
    coarse = 2 * rng.standard_normal((len(SEQUENCES), *(-(-edge // 8),) * 3))
    image = np.kron(coarse, np.ones((8, 8, 8)))[:, :edge, :edge, :edge] + rng.standard_normal((4, edge, edge, edge))
    distance = np.square(np.indices((edge,) * 3) - (edge - 1) / 2).sum(axis=0)
    return (image * (distance < (0.45 * edge) ** 2)).astype(np.float16)


def bundle_files(packing: Packing, crop: npt.NDArray[np.float16], network: Network) -> dict[str, bytes]:
    """Return the bundle's files by name.

    Parameters
    ----------
    packing : Packing
        What the bundle is made from.
    crop : float16 array (4, z, y, x)
        The golden crop.
    network : Network
        The INT8 graph as the clinic runs it; it gives the logits that must come out of the crop.

    Raises
    ------
    ExportError
        Together they are larger than `MAX_BUNDLE_BYTES`.
    """
    golden, content = golden_file(crop, network(crop.astype(np.float32)))
    files = {
        GRAPH_FILE: packing.graph,
        golden: content,
        CARD_FILE: model_card(packing).encode(),
        "NOTICE.txt": notice(packing.sites).encode(),
    }
    check_size(files)
    return files


def check_size(files: Mapping[str, bytes]) -> None:
    """Refuse files that are together larger than `MAX_BUNDLE_BYTES`, with `ExportError`."""
    size = sum(len(item) for item in files.values())
    if size > MAX_BUNDLE_BYTES:
        parts = ", ".join(f"{name} {len(item) / 1e6:.1f} MB" for name, item in files.items())
        pictures = any(name.endswith(PICTURE_SUFFIX) for name in files)
        raise ExportError(
            f"the bundle would be {size / 1e6:.1f} MB ({parts}), at most {MAX_BUNDLE_BYTES / 1e6:.0f} MB may be; "
            f"train a smaller student{', or take the pictures away from beside the --reliability file' * pictures}"
        )


def manifest_of(packing: Packing) -> Manifest:
    """Return the bundle's manifest, dated now."""
    return Manifest(
        name=packing.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        software=f"GliaLite {__version__}",
        accepted_sequences=packing.accepted_sequences,
        spacing_mm=packing.spacing_mm,
        decision=packing.decision,
        graphs=(Graph(GRAPH_FILE, "cpu", "int8", "depth-as-batch", packing.divisor, packing.opset),),
        provenance=dict(packing.provenance),
        trained_on=_trained_on(packing),
        intended_use=_INTENDED_USE,
    )


def _rim(decision: DecisionRule) -> str:
    if decision.rim_share >= 1:
        return ""
    return f"; core outside an enhancing rim is dropped where {decision.rim_share:.0%} of it or more lie within"


def _needed(packing: Packing) -> str:
    """Say which sequences a scan must have."""
    smaller = len({frozenset(kept) for kept in packing.accepted_sequences}) - 1
    return f"some may be missing ({smaller} smaller sets were learnt)" if smaller > 0 else "all four are needed"


def _trained_on(packing: Packing) -> str:
    count, sites = packing.training_cases, sorted(packing.sites)
    if sites == [PHANTOM_SITE]:
        return f"Trained on {count} synthetic patients only; it has never seen a real scan."
    if PHANTOM_SITE in sites:
        others = ", ".join(site for site in sites if site != PHANTOM_SITE)
        return f"Trained on {count} cases: synthetic patients and real ones ({others})."
    return f"Trained on {count} cases" + (f" ({', '.join(sites)})." if sites else ".")


def model_card(packing: Packing) -> str:
    """Return the model card as Markdown: what it is, what it was held to, and what it is not for."""
    student = packing.provenance.get("student", {})
    rows = []
    for hop in packing.provenance.get("parity", []):
        for name, value in hop["figures"].items():
            rows.append(f"| {hop['hop']} | {name} | {_shown(value)} | {_bound(hop['limits'], name)} |")
    decision = packing.decision
    return "\n".join(
        [
            f"# {packing.name}",
            "",
            f"{_INTENDED_USE} {_trained_on(packing)}",
            "",
            f"- Input: {', '.join(SEQUENCES)}, skull-stripped and in one space, z-scored inside the brain, voxels of "
            f"{' × '.join(f'{mm:g}' for mm in packing.spacing_mm)} mm (z, y, x); {_needed(packing)}.",
            f"- Output: one logit a voxel for each of {', '.join(REGIONS)}; thresholds "
            f"{', '.join(f'{t:g}' for t in decision.thresholds)}, smallest components "
            f"{', '.join(f'{m:g}' for m in decision.minimum_mm3)} mm³{_rim(decision)}.",
            f"- Network: student {student.get('name', '?')}, widths {student.get('widths', '?')}, "
            f"{student.get('parameters', 0):,} parameters, INT8.",
            f"- Made by GliaLite {__version__}; the whole record is `provenance` in bundle.json.",
            "",
            "## Parity, measured on training-side cases",
            "",
            "| hop | figure | measured | limit |",
            "| --- | --- | --- | --- |",
            *rows,
            "",
            "Dice here says that INT8 keeps what FP32 does. It says nothing about patients from elsewhere.",
            "",
            *_quantisation(packing.provenance.get("calibration", {})),
            "## Not for",
            "",
            "Diagnosis or treatment without a radiologist; children, metastases, scans after surgery; images that are "
            "not skull-stripped. Outside the cohort above accuracy is unknown until it is measured there.",
            "",
        ]
    )


def _quantisation(calibration: Mapping[str, Any]) -> list[str]:
    """Return the section on how INT8 was chosen, as lines; none when nothing is recorded."""
    if "methods" not in calibration:
        return []
    wide = [layer for layer, tried in calibration.get("wide_layers", {}).items() if tried["kept"]]
    return [
        "## Quantisation",
        "",
        f"Activation ranges: {calibration['method']}. Training cases that gave the ranges: "
        f"{len(calibration['cases'])}, that chose the method: {len(calibration['selection_cases'])}. "
        f"Layers with 13-bit weights: {', '.join(wide) or 'none'}.",
        "",
        "| ranges | Dice change | squared logit error near the thresholds |",
        "| --- | --- | --- |",
        *(
            f"| {method} | {_shown(score['dice_change'])} | {score['squared_error']:.3g} |"
            for method, score in calibration["methods"].items()
        ),
        "",
        *_costliest(calibration.get("sensitivity", {})),
    ]


def _costliest(layers: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the table of the layers that cost most, as lines; none when no layer was measured."""
    total = sum(sum(cost.values()) for cost in layers.values())
    if not total:
        return []
    costly = sorted(layers, key=lambda layer: -sum(layers[layer].values()))[:_CARD_LAYERS]
    return [
        "What quantising one layer alone costs, as a share of the sum over all layers; the costliest:",
        "",
        "| layer | weights | activations |",
        "| --- | --- | --- |",
        *(
            f"| {layer} | {layers[layer]['weights'] / total:.0%} | {layers[layer]['activations'] / total:.0%} |"
            for layer in costly
        ),
        "",
    ]


def _shown(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{region} {_shown(item)}" for region, item in value.items())
    return "not judged" if value is None else value if isinstance(value, str) else f"{value:.3g}"


def _bound(limits: list[dict[str, Any]], figure: str) -> str:
    for row in limits:
        if row["figure"] == figure:
            return next(f"{side} {row[side]:g}" for side in ("at most", "at least") if side in row)
    return "-"


_MNI152: Final = """\
The synthetic patients were made from the MNI152 (ICBM 2009a nonlinear symmetric) template and tissue maps.

Copyright (C) 1993-2009 Louis Collins, McConnell Brain Imaging Centre, Montreal Neurological Institute, McGill
University. Permission to use, copy, modify, and distribute this software and its documentation for any purpose and
without fee is hereby granted, provided that the above copyright notice appear in all copies. The authors and McGill
University make no representations about the suitability of this software for any purpose. It is provided "as is"
without express or implied warranty. The authors are not responsible for any data loss, equipment damage, property
loss, or injury to subjects or patients resulting from the use or misuse of this software package.

V.S. Fonov, A.C. Evans, K. Botteron, C.R. Almli, R.C. McKinstry, D.L. Collins and BDCG, Unbiased average
age-appropriate atlases for pediatric studies, NeuroImage 54 (2011). V.S. Fonov, A.C. Evans, R.C. McKinstry, C.R.
Almli and D.L. Collins, Unbiased nonlinear average age-appropriate brain templates from birth to adulthood,
NeuroImage 47, Supplement 1 (2009) S102.
"""


def notice(sites: Collection[str]) -> str:
    """Return the notices that must travel with the weights, by the cohort codes of the training cases."""
    parts = [f"GliaLite {__version__} model bundle.\n{_INTENDED_USE}\nNo patient's image is part of this file.\n"]
    if PHANTOM_SITE in sites:
        parts.append(_MNI152)
    return "\n".join(parts)
