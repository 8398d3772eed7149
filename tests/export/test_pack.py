"""What goes into a bundle beside the graph."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from glialite_export.pack import (
    GRAPH_FILE,
    MAX_BUNDLE_BYTES,
    Packing,
    bundle_files,
    check_size,
    golden_crop,
    manifest_of,
    model_card,
    notice,
)
from glialite_runtime.decode import DecisionRule
from glialite_runtime.errors import ExportError
from glialite_runtime.sequences import SEQUENCES

PACKING = Packing(
    name="glialite-S-0123",
    graph=b"graph",
    divisor=16,
    opset=17,
    spacing_mm=(2.0, 1.5, 1.0),
    decision=DecisionRule((0.5, 0.7, 0.7), (100.0, 50.0, 0.0)),
    accepted_sequences=(SEQUENCES,),
    sites=("PHA",),
    training_cases=9,
    provenance={
        "student": {"name": "S", "widths": [24, 48], "parameters": 1234567},
        "parity": [
            {
                "hop": "lowered to int8",
                "figures": {"dice_change": {"WT": -0.001, "TC": 0.002, "ET": None}, "differing_voxels": 0.0004},
                "limits": [
                    {"figure": "dice_change", "at least": -0.005, "held": True},
                    {"figure": "differing_voxels", "at most": 0.005, "held": True},
                ],
            }
        ],
    },
)


@pytest.mark.parametrize(("divisor", "edge"), [(1, 32), (16, 32), (12, 36), (64, 64)])
def test_golden_crop_fits_the_graph(divisor: int, edge: int) -> None:
    """Its edges are a multiple of the divisor, and it always is the same."""
    crop = golden_crop(divisor)
    assert crop.shape == (4, edge, edge, edge)
    assert crop.dtype == np.float16
    np.testing.assert_array_equal(crop, golden_crop(divisor))


def test_golden_crop_has_background_and_spread() -> None:
    """Zeros outside, as skull-stripping leaves them, and values as far out as z-scores go."""
    crop = golden_crop(16).astype(np.float32)
    assert not crop[:, 0].any()
    assert crop.max() > 5
    assert crop.min() < -5


def test_model_card_says_what_matters() -> None:
    """Purpose, training data, input, decision, parity figures with their limits, and what it is not for."""
    card = model_card(PACKING)
    for piece in (
        "not a diagnosis",
        "9 synthetic patients only",
        "2 × 1.5 × 1 mm",
        "0.5, 0.7, 0.7",
        "1,234,567 parameters",
        "| lowered to int8 | dice_change | WT -0.001, TC 0.002, ET not judged | at least -0.005 |",
        "| lowered to int8 | differing_voxels | 0.0004 | at most 0.005 |",
        "## Not for",
    ):
        assert piece in card


@pytest.mark.parametrize(
    ("sites", "sentence"),
    [
        (("PHA",), "Trained on 9 synthetic patients only; it has never seen a real scan."),
        (("SSA", "GLI"), "Trained on 9 cases (GLI, SSA)."),
        (("SSA", "PHA"), "Trained on 9 cases: synthetic patients and real ones (SSA)."),
        ((), "Trained on 9 cases."),
    ],
)
def test_manifest_says_who_it_was_trained_on(sites: tuple[str, ...], sentence: str) -> None:
    """Synthetic patients are never passed off as real ones."""
    assert manifest_of(replace(PACKING, sites=sites)).trained_on == sentence


def test_template_notice_travels_with_phantom_training_only() -> None:
    """MNI152's notice is there when phantoms were made from it."""
    assert "McConnell Brain Imaging Centre" in notice(("PHA", "SSA"))
    assert "McConnell" not in notice(("SSA",))


def test_bundle_over_five_megabytes_is_refused() -> None:
    """The message says which file is how large."""
    heavy = replace(PACKING, graph=np.random.default_rng(0).bytes(MAX_BUNDLE_BYTES))
    with pytest.raises(ExportError, match=r"cpu-int8\.onnx 5\.0 MB.*smaller student"):
        bundle_files(heavy, golden_crop(16), lambda image: image[:3])
    with pytest.raises(ExportError, match=r"worst\.png 0\.3 MB.*take the pictures away"):
        check_size({GRAPH_FILE: bytes(MAX_BUNDLE_BYTES - 1), "worst.png": bytes(300_000)})


def test_golden_logits_are_those_of_the_stored_image() -> None:
    """The expected logits come from the half-precision image, because that is what the clinic reads."""
    seen = []

    def network(image: np.ndarray) -> np.ndarray:
        seen.append(image)
        return image[:3]

    bundle_files(PACKING, golden_crop(16), network)
    np.testing.assert_array_equal(seen[0], golden_crop(16).astype(np.float32))


CALIBRATION = {
    "asked": "auto",
    "method": "mse",
    "cases": ["a", "b"],
    "selection_cases": ["c"],
    "methods": {
        "min-max": {"dice_change": {"WT": -0.02, "TC": 0.0, "ET": None}, "squared_error": 0.25},
        "mse": {"dice_change": {"WT": -0.001, "TC": 0.0, "ET": None}, "squared_error": 0.0123},
    },
    "sensitivity": {
        "stem.0": {"weights": 0.06, "activations": 0.01},
        **{f"layer.{n}": {"weights": 0.0, "activations": 0.0} for n in range(20)},
        "head": {"weights": 0.01, "activations": 0.02},
    },
    "wide_layers": {"stem.0": {"kept": True}, "head": {"kept": False}},
}


def test_model_card_says_how_it_was_quantised() -> None:
    """Method, what each method cost, the wide layers, and the layers that cost most, as shares."""
    card = model_card(replace(PACKING, provenance={**PACKING.provenance, "calibration": CALIBRATION}))
    for piece in (
        "Activation ranges: mse. Training cases that gave the ranges: 2, that chose the method: 1.",
        "| min-max | WT -0.02, TC 0, ET not judged | 0.25 |",
        "| stem.0 | 60% | 10% |\n| head | 10% | 20% |",
    ):
        assert piece in card
    assert card.count("| layer.") < 6


def test_model_card_without_a_choice_has_no_section_on_it() -> None:
    """A bundle whose graphs were not chosen this way says nothing about it."""
    assert "## Quantisation" not in model_card(PACKING)
