"""What a training will cost, before it starts."""

from __future__ import annotations

import math
from pathlib import Path

from glialite_distill.train_forecast import forecast

from .conftest import SHAPE, Data, Soft, options, settings


def test_a_forecast_writes_nothing(tmp_path: Path) -> None:
    """It counts cases and iterations, times a few of them, and leaves no file."""
    ahead = forecast(Data(), Soft(), options(), settings(tmp_path))
    assert (ahead.training_cases, ahead.soft_label_cases, ahead.validation_cases) == (2, 1, 1)
    assert ahead.iterations_left == 8
    assert 0 < ahead.seconds < 60
    assert ahead.disk_mb > 3 * 21 * math.prod(SHAPE) / 1e6
    assert list(tmp_path.iterdir()) == []


def test_a_forecast_of_a_finished_training_is_zero(whole: Path) -> None:
    """Nothing is left to do."""
    ahead = forecast(Data(), Soft(), options(), settings(whole.parent))
    assert (ahead.iterations_left, ahead.seconds) == (0, 0)
