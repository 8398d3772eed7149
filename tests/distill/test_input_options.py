"""Clipping by hand, and what the record and nnU-Net's plans say of the options."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from glialite_distill.input_options import InputOptions, clip_limits, clip_volume
from glialite_distill.recipes import find_plan
from glialite_distill.workspace import Workspace
from glialite_runtime.cases import find_case
from glialite_runtime.errors import ConfigError
from glialite_runtime.volume import Volume, load_volume

PLANS = {
    "plans_name": "P",
    "configurations": {
        name: {"normalization_schemes": ["ZScoreNormalization"] * 4, "spacing": [1, 1, 1]} for name in ("2d", "3d")
    },
}


@pytest.fixture
def volume(cohort: Path) -> Volume:
    """Return a case of the test cohort."""
    return load_volume(find_case(cohort / "BraTS-SSA-00001-000"))


def test_limits_by_hand() -> None:
    """Of 0 to 100 the percentiles are 2 and 98, whatever the order; integers stay integers."""
    values = np.arange(101, dtype=np.int16)[::-1]
    assert [int(v) for v in clip_limits(values)] == [2, 98]
    assert all(v.dtype == np.int16 for v in clip_limits(values))


def test_one_outlier_is_pulled_in_and_the_background_stays(volume: Volume) -> None:
    """A bright voxel comes down to the 98th percentile of the brain; 0 around it is not raised to the 2nd."""
    bright = volume.channels[1].copy()
    brain = bright != 0
    place = tuple(np.argwhere(brain)[500])
    bright[place] = 30000
    low, high = clip_limits(bright[brain])
    clipped = clip_volume(replace(volume, channels=(volume.channels[0], bright, *volume.channels[2:])))
    assert clipped.channels[1][place] == high < 1000
    assert (clipped.channels[1][brain].min(), clipped.channels[1][~brain].max()) == (low, 0)
    assert clipped.channels[1].dtype == bright.dtype
    assert bright[place] == 30000


@pytest.mark.parametrize("options", [InputOptions(a, b) for a in (False, True) for b in (False, True)])
def test_the_record_comes_back(options: InputOptions) -> None:
    """Written and read again the options are the same; nothing is written for nnU-Net's own inputs."""
    assert InputOptions.of(options.to_json()) == options
    assert bool(options.to_json()) == (options != InputOptions())


def test_plans_state_the_options_in_every_configuration() -> None:
    """Stated twice is stated once, without options nothing changes, and the plans given stay as they were."""
    options = InputOptions(clip=True, mask_channel=True)
    stated = options.in_plans(PLANS)
    for configuration in stated["configurations"].values():
        assert configuration["normalization_schemes"] == ["ClippedZScoreNormalization"] * 4
        assert configuration["mask_channel"] is True
    assert options.in_plans(stated) == stated
    assert InputOptions().in_plans(PLANS) == PLANS
    assert PLANS["configurations"]["2d"]["normalization_schemes"] == ["ZScoreNormalization"] * 4  # type: ignore[index]


def test_students_refuse_a_clipped_workspace(tmp_path: Path) -> None:
    """The clinic cannot clip, so a student must not learn from what it will never see."""
    plain = Workspace(tmp_path, (), (), "c0ffee", find_plan("small"), (), {}, {}, InputOptions())
    assert plain.for_students() is plain
    with pytest.raises(ConfigError, match="another --workspace"):
        replace(plain, inputs=InputOptions(clip=True)).for_students()
