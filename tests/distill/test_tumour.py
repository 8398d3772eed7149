"""Growth of the phantoms' tumours: fronts, volumes, parts."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from glialite_distill.anatomy import Anatomy, draw_body, tissues
from glialite_distill.phantom_fields import Grid
from glialite_distill.phantom_worlds import AnatomyRanges, TumourRanges, settings_for
from glialite_distill.tumour import (
    Tumour,
    TumourParts,
    draw_tumour,
    grow_core,
    grow_oedema,
    mass_effect_mm,
    tumour_parts,
)
from glialite_distill.tumour_growth import grow_to_volume, travel_time
from glialite_runtime.sequences import ET, NETC, SNFH
from scipy import ndimage

GRID = Grid.whole(2)
RING = Tumour(
    kind="ring", core_ml=20.0, oedema_ml=40.0, foci=1, satellites=0, rim_mm=4.0, rim_break=0.2, roughness=0.3, push=0.2,
    bleeding=0.0, fluid=0.5, edge_mm=1.0, reach=0.7, faint=0.0, mixed=0.0, calcified=False, one_sided=0.0,
    water=0.0, grain=0.0, seed=9,
)  # fmt: skip


@pytest.fixture(scope="module")
def brain() -> Anatomy:
    return tissues(draw_body(2, AnatomyRanges()), GRID)


def grow(brain: Anatomy, tumour: Tumour) -> TumourParts:
    core = grow_core(brain, tumour, GRID)
    return tumour_parts(core, grow_oedema(brain, core, tumour, GRID), tumour, GRID, brain, GRID)


@pytest.fixture(scope="module")
def ring(brain: Anatomy) -> TumourParts:
    return grow(brain, RING)


def point(shape: tuple[int, int, int], *where: int) -> np.ndarray:
    start = np.zeros(shape, bool)
    start[where] = True
    return start


def test_time_in_an_even_medium_is_the_distance() -> None:
    """Three voxels of 2 mm along an axis take 6 mm, along a face's diagonal 6√2, along the body's 6√3."""
    time = travel_time(np.ones((9, 9, 9), np.float32), point((9, 9, 9), 4, 4, 4), 2.0)
    assert time[4, 4, 7] == pytest.approx(6)
    assert time[4, 7, 7] == pytest.approx(6 * np.sqrt(2), rel=1e-5)
    assert time[1, 1, 1] == pytest.approx(6 * np.sqrt(3), rel=1e-5)


def test_a_front_goes_around_a_wall() -> None:
    """Behind a wall with a gap the shortest way leads through the gap."""
    slow = np.ones((1, 9, 9), np.float32)
    slow[:, :, 4] = 1000
    slow[:, 0, 4] = 1
    time = travel_time(slow, point((1, 9, 9), 0, 8, 2), 1.0)
    assert time[0, 8, 6] == pytest.approx(2 * (6 + 2 * np.sqrt(2)), rel=0.02)


def test_without_a_start_nothing_is_reached() -> None:
    """No start: every time is far beyond any brain."""
    assert travel_time(np.ones((3, 3, 3), np.float32), np.zeros((3, 3, 3), bool), 1.0).min() >= 1e4


def test_a_front_stops_at_the_wanted_volume_or_takes_all_there_is() -> None:
    """1 mL of 2 mm voxels is 125 of them (ties may add a few); of three allowed voxels it takes three."""
    slow = np.random.default_rng(0).uniform(0.8, 1.2, (30, 30, 30)).astype(np.float32)
    everywhere = np.ones(slow.shape, bool)
    start = point(slow.shape, 15, 15, 15)
    assert grow_to_volume(slow, start, everywhere, 1.0, 2.0).inside.sum() == 125
    few = np.zeros(slow.shape, bool)
    few[15, 15, 10:13] = True
    assert grow_to_volume(slow, start, few, 1.0, 2.0).inside.sum() == 3


def test_a_long_tumour_is_not_cut_by_the_box() -> None:
    """In a thin fast channel the box is widened until the front ends by itself."""
    slow = np.full((20, 20, 120), 50.0, np.float32)
    slow[10, 10] = 1.0
    front = grow_to_volume(slow, point(slow.shape, 10, 10, 60), slow < 10, 0.72, 2.0)
    assert front.inside.sum() == pytest.approx(90, abs=1)
    whole = np.zeros(slow.shape, bool)
    whole[front.box] = front.inside
    assert whole[10, 10, 17:104].all()
    assert front.box[2].start <= 9  # and 6 voxels, 12 mm, beyond its end


def test_oedema_fades_before_the_box_ends(brain: Anatomy) -> None:
    """With the softest border a large oedema has no step: hardly any of it where no time was computed."""
    soft = replace(RING, edge_mm=2.5, oedema_ml=90.0)
    core = grow_core(brain, soft, GRID)
    level = grow_oedema(brain, core, soft, GRID)
    parts = tumour_parts(core, level, soft, GRID, brain, GRID)
    assert parts.oedema[level <= -59].max() < 0.02
    assert ((parts.oedema > 0.02) & (parts.oedema < 0.5)).sum() > 1000  # a soft border there is


def test_volumes_come_out_as_wanted(ring: TumourParts) -> None:
    """Core and oedema are within a quarter of the volumes asked for."""
    assert np.isin(ring.labels, (NETC, ET)).sum() * 0.008 == pytest.approx(20, rel=0.25)
    assert (ring.labels == SNFH).sum() * 0.008 == pytest.approx(40, rel=0.3)


def test_a_ring_has_enhancing_tumour_around_necrosis(ring: TumourParts) -> None:
    """The rim lies nearer the core's border than the necrosis does, and both are there."""
    assert (ring.labels == ET).sum() > 200
    assert (ring.labels == NETC).sum() > 200
    assert ring.core[ring.labels == NETC].mean() > ring.core[ring.labels == ET].mean()


def test_a_diffuse_tumour_does_not_enhance(brain: Anatomy) -> None:
    """Low grade: non-enhancing core and oedema only."""
    labels = grow(brain, replace(RING, kind="diffuse", core_ml=6.0, oedema_ml=6.0)).labels
    assert set(np.unique(labels)) == {0, NETC, SNFH}


def test_nodules_enhance_within_a_core_that_does_not(brain: Anatomy) -> None:
    """A few per cent of the core enhance, in several pieces, most of them away from its border."""
    parts = grow(brain, replace(RING, kind="nodular", core_ml=60.0))
    core, enhancing = np.isin(parts.labels, (NETC, ET)), parts.labels == ET
    assert 0.01 < enhancing.sum() / core.sum() < 0.35
    assert ndimage.label(enhancing)[1] > 1


def test_a_faint_rim_is_labelled_all_the_same(brain: Anatomy, ring: TumourParts) -> None:
    """Enhancement falls to the drawn share of its strength somewhere; labels do not change."""
    faint = grow(brain, replace(RING, faint=0.8))
    rim = faint.labels == ET
    assert np.array_equal(faint.labels, ring.labels)
    assert ring.strength.min() == 1
    assert 0.2 <= faint.strength[rim].min() < 0.35
    assert faint.strength[rim].max() > 0.85


def test_grain_makes_borders_and_enhancement_uneven_within_millimetres(brain: Anatomy, ring: TumourParts) -> None:
    """Enhancement's logarithm has the drawn SD; the core's border gains surface, but hardly volume."""

    def surface(parts: TumourParts) -> int:
        core = np.isin(parts.labels, (NETC, ET))
        return int(core.sum() - ndimage.binary_erosion(core).sum())

    grained = grow(brain, replace(RING, grain=0.4))
    assert np.log(grained.strength).std() == pytest.approx(0.4, rel=0.15)
    assert surface(grained) > 1.02 * surface(ring)
    assert np.isin(grained.labels, (NETC, ET)).sum() == pytest.approx(np.isin(ring.labels, (NETC, ET)).sum(), rel=0.05)


def test_labels_are_drawn_outside_the_middle_of_a_soft_border(brain: Anatomy) -> None:
    """Voxels with two fifths of the oedema's contrast are labelled, those with a third are not."""
    parts = grow(brain, replace(RING, edge_mm=2.5))
    white = (brain.csf < 0.01) & (parts.core < 0.01)
    assert (parts.labels[white & (parts.oedema > 0.4)] == SNFH).all()
    assert (parts.labels[white & (parts.oedema < 0.3)] == 0).all()


def test_oedema_that_prefers_a_side_leaves_the_core_at_its_edge(brain: Anatomy, ring: TumourParts) -> None:
    """The middle of core and oedema move apart; how much oedema there is does not change."""

    def apart_mm(parts: TumourParts) -> float:
        middles = [np.argwhere(parts.labels == SNFH).mean(0), np.argwhere(parts.core > 0.5).mean(0)]
        return float(2 * np.linalg.norm(middles[0] - middles[1]))

    aside = grow(brain, replace(RING, one_sided=3.0))
    assert apart_mm(aside) > apart_mm(ring) + 5
    assert (aside.labels == SNFH).sum() == pytest.approx((ring.labels == SNFH).sum(), rel=0.15)


def test_oedema_holds_water_unevenly_where_drawn(brain: Anatomy, ring: TumourParts) -> None:
    """Its contrast varies by about the drawn SD and no label moves; without it the contrast is even."""
    wet = grow(brain, replace(RING, water=0.4))
    assert np.array_equal(wet.labels, ring.labels)
    assert np.log(wet.water).std() == pytest.approx(0.4, rel=0.2)
    assert (ring.water == 1).all()


def test_a_mixed_core_is_uneven_and_calcified_where_drawn(brain: Anatomy, ring: TumourParts) -> None:
    """Fields of the drawn strength, and calcification in a small part; an even core has no fields."""
    assert ring.mixture.shape == (0, *GRID.shape)
    mixture = grow(brain, replace(RING, mixed=0.5, calcified=True)).mixture
    assert mixture[:3].std((1, 2, 3)) == pytest.approx(0.5, abs=0.1)
    assert 0.01 < (mixture[3] > 0.5).mean() < 0.2
    assert grow(brain, replace(RING, mixed=0.5)).mixture[3].max() < 1e-6


def test_diffuse_tumours_of_a_wide_world_are_large_with_little_or_much_oedema() -> None:
    """Half are above 20 mL; a third has less than 0.8 of that as oedema and a fifth more than 1.4, in both styles."""
    for style in ("gli", "ssa"):
        drawn = [draw_tumour(seed, settings_for("wide", style).tumour) for seed in range(600)]
        diffuse = [tumour for tumour in drawn if tumour is not None and tumour.kind == "diffuse"]
        assert np.median([tumour.core_ml for tumour in diffuse]) > 20
        assert np.quantile([tumour.oedema_ml / tumour.core_ml for tumour in diffuse], 0.33) < 0.8
        assert np.quantile([tumour.oedema_ml / tumour.core_ml for tumour in diffuse], 0.8) > 1.4


def test_tumour_stays_out_of_csf(brain: Anatomy, ring: TumourParts) -> None:
    """Hardly any label lies in CSF, and none of the oedema in a voxel that is mostly CSF."""
    assert brain.csf[ring.labels > 0].mean() < 0.12
    assert brain.csf[ring.labels == SNFH].max() <= 0.5


def test_oedema_prefers_white_matter(brain: Anatomy, ring: TumourParts) -> None:
    """It holds more white matter than a shell of the same volume right around the core."""
    oedema = ring.labels == SNFH
    away = ndimage.distance_transform_edt(~np.isin(ring.labels, (NETC, ET)))
    away[(away == 0) | (brain.csf > 0.5) | (brain.surface_depth < 0)] = np.inf
    shell = away <= np.partition(away.ravel(), oedema.sum())[oedema.sum()]
    assert brain.white[oedema].mean() > brain.white[shell].mean() + 0.1


def test_mass_effect_pushes_away_and_fades(brain: Anatomy) -> None:
    """The displacement is the drawn share of the radius at most and vanishes far from the core."""
    core = grow_core(brain, RING, GRID)
    half, pull = mass_effect_mm(core, RING, GRID)
    length = np.sqrt((pull**2).sum(0))
    radius = (3 * (core > 0).sum() * 8 / (4 * np.pi)) ** (1 / 3)
    assert length.max() == pytest.approx(0.2 * radius, rel=0.1)
    centre = np.argwhere(core[::2, ::2, ::2] > 0).mean(0)
    away = np.sqrt(((np.indices(length.shape).T - centre) ** 2).sum(-1)).T * 4
    assert length[away > 5 * radius].max() < 0.1
    assert pull.shape == (3, *half.shape)


def test_about_one_brain_in_twelve_has_no_tumour() -> None:
    """Among 600 draws, 5 to 12 % are without, all five kinds occur, and volumes stay in their range."""
    drawn = [draw_tumour(seed, TumourRanges()) for seed in range(600)]
    present = [tumour for tumour in drawn if tumour is not None]
    assert 0.05 < 1 - len(present) / 600 < 0.12
    assert {tumour.kind for tumour in present} == set(TumourRanges().kinds)
    assert all(2.5 <= tumour.core_ml <= 110 for tumour in present)
