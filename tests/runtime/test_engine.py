"""The engine: nothing is copied without need, a processor that gives other bits is not trusted."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from glialite_runtime.bundle import Bundle, read_bundle
from glialite_runtime.cases import find_case
from glialite_runtime.engine import OnnxEngine, open_engine
from glialite_runtime.preprocess import preprocess
from glialite_runtime.volume import load_volume

MakeBundle = Callable[..., Path]


@pytest.fixture
def bundle(make_bundle: MakeBundle) -> Bundle:
    return read_bundle(make_bundle())


def test_a_golden_crop_that_differs_is_answered_with_fp32(bundle: Bundle, monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine says so, and works."""
    image, logits = bundle.golden()
    monkeypatch.setattr(Bundle, "golden", lambda self: (image, logits + np.float32(1)))
    opened = open_engine(bundle, 1)
    assert opened.golden_crop == "differs"
    assert opened.logits(image).shape == logits.shape


def test_a_golden_crop_that_agrees_is_reported(bundle: Bundle) -> None:
    """Bit for bit is the normal case."""
    assert open_engine(bundle, 1).golden_crop == "bit for bit"


def test_a_preprocessed_case_reaches_the_network_without_a_copy(
    bundle: Bundle, case_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its memory is what the lowered graph reads: (z, 4, y, x) in one block."""
    engine = open_engine(bundle, 1)
    image, _ = preprocess(load_volume(find_case(case_folder)), None, engine.divisor)
    seen = []
    assert isinstance(engine, OnnxEngine)

    class Spy:
        def run(self, names: list[str], feed: dict[str, np.ndarray]) -> list[np.ndarray]:
            seen.append(feed["image"])
            return [np.zeros((feed["image"].shape[0], 3, *feed["image"].shape[2:]), np.float32)]

    monkeypatch.setattr(engine, "_session", Spy())
    engine.logits(image)
    assert np.shares_memory(seen[0], image)
