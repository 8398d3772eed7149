"""The bent MNI152 brain under a phantom's tumour."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from glialite_distill.anatomy import Anatomy, Body, draw_body, tissues
from glialite_distill.anatomy_template import COARSE, FINE, load_template
from glialite_distill.phantom_fields import Grid
from glialite_distill.phantom_worlds import AnatomyRanges
from glialite_runtime.errors import BackendUnavailableError

GRID = Grid.whole(2)


@pytest.fixture(scope="module")
def body() -> Body:
    return replace(draw_body(4, AnatomyRanges()), sulcus_threshold=3.0, ventricle_mm=0.5)


@pytest.fixture(scope="module")
def anatomy(body: Body) -> Anatomy:
    return tissues(body, GRID)


def csf_ml(anatomy: Anatomy) -> float:
    return float(anatomy.csf[anatomy.surface_depth > 0].sum() * 0.008)


def test_template_is_symmetric_and_has_a_name_for_every_map() -> None:
    """The MNI template is the symmetric one, and so are the levels made from it."""
    template = load_template()
    assert len(template.fine) == len(FINE)
    assert len(template.coarse) == len(COARSE)
    np.testing.assert_allclose(template.fine, template.fine[..., ::-1], atol=0.05)


def test_template_needs_nilearn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the package that carries the maps, the message says what to install."""
    load_template.cache_clear()
    monkeypatch.setattr("glialite_distill.anatomy_template.find_spec", lambda _name: None)
    with pytest.raises(BackendUnavailableError, match=r"nilearn.*glialite\[train\]"):
        load_template()
    load_template.cache_clear()


def test_fractions_fill_every_voxel(anatomy: Anatomy) -> None:
    """White, grey and CSF add up to 1, none is negative, and each has a plausible share of the brain."""
    np.testing.assert_allclose(anatomy.white + anatomy.grey + anatomy.csf, 1, atol=1e-5)
    brain = anatomy.surface_depth > 0
    for fraction, low, high in ((anatomy.white, 0.25, 0.5), (anatomy.grey, 0.35, 0.6), (anatomy.csf, 0.05, 0.3)):
        assert fraction.min() > -1e-5
        assert low < fraction[brain].mean() < high


def test_wider_sulci_and_larger_ventricles_make_more_csf(body: Body, anatomy: Anatomy) -> None:
    """Both knobs of atrophy raise the volume of CSF."""
    before = csf_ml(anatomy)
    assert csf_ml(tissues(replace(body, sulcus_threshold=1.5), GRID)) > 1.2 * before
    assert csf_ml(tissues(replace(body, ventricle_mm=4.0), GRID)) > before + 10


def test_a_thicker_cortex_leaves_less_white_matter(body: Body, anatomy: Anatomy) -> None:
    """Grey matter grows at the cost of white matter, CSF stays."""
    brain = anatomy.surface_depth > 0
    thick = tissues(replace(body, cortex_mm=0.8), GRID)
    assert thick.grey[brain].mean() > anatomy.grey[brain].mean() + 0.03
    np.testing.assert_allclose(thick.csf, anatomy.csf, atol=1e-6)


def test_bending_the_whole_head_makes_it_asymmetric(body: Body) -> None:
    """Right and left hemisphere of a straight template are alike; bent over the whole head they differ."""
    straight = replace(body, matrix=np.eye(3), bend_mm=(0.0, 0.0))
    uneven = []
    for bend in (0.0, 4.0):
        depth = tissues(replace(straight, bend_whole_mm=bend), GRID).surface_depth
        uneven.append(float(np.abs(depth - depth[..., ::-1])[depth > 0].mean()))
    assert uneven[1] > uneven[0] + 1


def test_a_push_moves_tissue_away(body: Body) -> None:
    """A constant backward displacement of 4 mm along x shifts the whole brain by two voxels of 2 mm."""
    half = Grid(GRID.z[::2], GRID.y[::2], GRID.x[::2])
    push = np.zeros((3, *half.shape), np.float32)
    push[2] = 4.0
    straight = replace(body, matrix=np.eye(3), bend_mm=(0.0, 0.0))
    moved, still = tissues(straight, GRID, (half, push)), tissues(straight, GRID)
    np.testing.assert_allclose(moved.vessels[..., 40:80], still.vessels[..., 42:82], atol=1e-3)


def test_equal_seeds_give_equal_brains_and_other_seeds_others() -> None:
    """Everything about a body comes from its seed."""
    ranges = AnatomyRanges()
    one, again, other = (draw_body(seed, ranges) for seed in (7, 7, 8))
    assert np.array_equal(one.matrix, again.matrix)
    assert one.bend_mm == again.bend_mm
    assert not np.allclose(one.matrix, other.matrix)
