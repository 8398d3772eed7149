"""The input options inside nnU-Net: the normalisation by hand, the further channel in a network."""

from __future__ import annotations

from pathlib import Path

import nnunetv2
import numpy as np
import pytest
import torch
from glialite_distill.input_options import CLIPPED_NORMALIZATION
from glialite_distill.teacher_inputs import (
    ClippedZScoreNormalization,
    register_normalization,
    wants_mask_channel,
    with_mask_channel,
)
from nnunetv2.utilities.find_class_by_name import recursive_find_python_class
from torch import nn


def normalised(image: np.ndarray, seg: np.ndarray) -> np.ndarray:
    return ClippedZScoreNormalization(use_mask_for_norm=True, intensityproperties={}).run(image, seg)


def test_normalisation_by_hand() -> None:
    """0 to 100 in the brain become 2, 2, 2, 3 … 98, 98, 98, then mean 0 and SD 1; outside is 0."""
    image = np.append(np.arange(101, dtype=np.float32), [0, 7])[None, None]
    seg = np.append(np.zeros(101), [-1, -1])[None, None]
    clipped = np.clip(np.arange(101), 2, 98)
    expected = (clipped - 50) / clipped.std()
    before = image.copy()
    out = normalised(image, seg)[0, 0]
    np.testing.assert_allclose(out[:101], expected, atol=1e-5)
    assert np.array_equal(image, before)


def test_an_image_without_brain_is_not_clipped() -> None:
    """There are no percentiles of nothing; a missing mask is our bug and says so."""
    image = np.zeros((1, 2, 2), np.float32)
    with np.errstate(invalid="ignore"), pytest.warns(RuntimeWarning):
        assert normalised(image, np.full((1, 2, 2), -1)).shape == image.shape
    with pytest.raises(ValueError, match="brain mask"):
        ClippedZScoreNormalization(use_mask_for_norm=True, intensityproperties={}).run(image)


def test_nnunet_finds_the_normalisation_by_name() -> None:
    """The lookup that nnU-Net's preprocessor does gives our class."""
    register_normalization()
    folder = Path(nnunetv2.__path__[0]) / "preprocessing" / "normalization"
    found = recursive_find_python_class(str(folder), CLIPPED_NORMALIZATION, "nnunetv2.preprocessing.normalization")
    assert found is ClippedZScoreNormalization


def test_the_network_sees_where_the_brain_is() -> None:
    """The further channel is 1 where any sequence is not 0; names of parameters stay."""
    network = nn.Conv3d(5, 1, 1, bias=False)
    names = list(network.state_dict())
    with torch.no_grad():
        network.weight.copy_(torch.tensor([0.0, 0, 0, 0, 1]).reshape(1, 5, 1, 1, 1))
    image = torch.zeros(2, 4, 3, 3, 3)
    image[0, 2, 1, 1, 1], image[1, :, 0, 0, 0] = -0.5, 2.0
    out = with_mask_channel(network)(image)
    assert (out[0, 0].sum(), out[0, 0, 1, 1, 1], out[1, 0].sum(), out[1, 0, 0, 0, 0]) == (1, 1, 1, 1)
    assert list(network.state_dict()) == names


def test_the_mask_channel_takes_slices_and_half_precision() -> None:
    """2-D recipes and mixed precision get a channel of their own type."""
    network = with_mask_channel(nn.Identity())
    out = network(torch.ones(1, 4, 2, 2, dtype=torch.float16))
    assert (out.shape, out.dtype) == ((1, 5, 2, 2), torch.float16)


@pytest.mark.parametrize(("configuration", "wanted"), [({}, False), ({"mask_channel": True}, True)])
def test_plans_say_whether_networks_take_the_channel(configuration: dict[str, bool], wanted: bool) -> None:
    """Stock plans do not."""
    assert wants_mask_channel(configuration) is wanted
