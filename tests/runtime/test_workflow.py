"""A case and what becomes of it: raw scans are aligned first, and the report says how long that took."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from glialite_runtime.cases import Case, find_case
from glialite_runtime.nifti import Image
from glialite_runtime.notes import note
from glialite_runtime.report import ReportOptions
from glialite_runtime.space import atlas, pipeline
from glialite_runtime.space.pipeline import PreparedCase
from glialite_runtime.space.transform import BRATS_AFFINE, BRATS_SHAPE
from glialite_runtime.volume import Orientation, Volume, load_volume
from glialite_runtime.workflow import open_model, segment_case


def aligned(case: Case, *given: Any) -> PreparedCase:
    """Stand in for the registration: the toy's middle in BraTS space, after a moment."""
    del given
    time.sleep(0.1)
    own = load_volume(case)
    channels = []
    for channel in own.channels:
        data = np.zeros(BRATS_SHAPE, np.int16)
        data[40 : 40 + channel.shape[0], 90 : 90 + channel.shape[1], 90 : 90 + channel.shape[2]] = channel
        channels.append(data)
    grid = Image(channels[0].T, BRATS_AFFINE, own.reference.header, own.reference.path)
    volume = Volume(own.sequences, tuple(channels), (1.0, 1.0, 1.0), Orientation.of(BRATS_AFFINE), grid)
    originals = dict.fromkeys(own.sequences, grid)
    to_scan = dict.fromkeys(own.sequences, np.eye(4))
    return PreparedCase(volume, originals, to_scan, "t1c", "atlas", {}, (note("space.atlas"),))


def test_the_alignment_of_raw_scans_has_its_own_time(
    case_folder: Path, tmp_path: Path, make_bundle: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It stands first, and counts in the seconds that are printed; scans that lie there already have none."""
    monkeypatch.setattr(pipeline, "to_brats_space", aligned)
    monkeypatch.setattr(atlas, "shipped_atlas", lambda: None)
    model = open_model(make_bundle())
    raw = segment_case(find_case(case_folder), model, tmp_path / "raw", ReportOptions(raw=True)).report
    assert list(raw["timings_s"])[:2] == ["align", "read"]
    assert 0.1 <= raw["timings_s"]["align"] < 30
    assert "align" not in segment_case(find_case(case_folder), model, tmp_path / "plain").report["timings_s"]
