"""Dropped sequences: all 15 subsets, all zeros, the same ones for the same seed, and no guessing without t1c."""

from __future__ import annotations

import pytest
import torch
from glialite_distill.losses import DistillationLoss
from glialite_distill.modality_dropout import SUBSETS, drop_sequences, learnt_subsets
from glialite_distill.patches import Batch
from glialite_runtime.sequences import SEQUENCES


def batch_of(samples: int) -> Batch:
    """Return patches in which no voxel is 0."""
    parts = torch.rand(2, samples, 3, 2, 2, 2)
    labels = torch.full((samples, 2, 2, 2), 3, dtype=torch.uint8)
    return Batch(torch.rand(samples, 4, 2, 2, 2) + 1, labels, parts[0], parts[1] / 2, torch.ones(samples).bool())


def kept(batch: Batch) -> list[tuple[str, ...]]:
    """Return what each sample still has; a sequence is either untouched or all zeros."""
    found = []
    for image in batch.image:
        there = [bool(channel.any()) for channel in image]
        assert all(bool((channel != 0).all()) == has for channel, has in zip(image, there, strict=True))
        found.append(tuple(s for s, has in zip(SEQUENCES, there, strict=True) if has))
    return found


def test_there_are_15_subsets_and_the_full_one_is_first() -> None:
    """Every non-empty subset once, in the order of the sequences."""
    assert len(set(SUBSETS)) == 15
    assert SUBSETS[0] == SEQUENCES
    assert learnt_subsets(0.0) == (SEQUENCES,)
    assert learnt_subsets(0.1) == SUBSETS


def test_every_subset_occurs_and_none_is_empty() -> None:
    """With the share 1 each of the 14 smaller subsets comes about equally often, and nothing else."""
    found = [subset for iteration in range(14) for subset in kept(drop_sequences(batch_of(100), 1.0, 0, iteration))]
    counts = [found.count(subset) for subset in SUBSETS]
    assert (counts[0], sum(counts)) == (0, 1400)
    assert min(counts[1:]) > 60


def test_the_share_is_that_of_the_samples_that_lose_something() -> None:
    """A quarter of a thousand samples, give or take four standard deviations."""
    full = kept(drop_sequences(batch_of(1000), 0.25, 3, 1)).count(SEQUENCES)
    assert full == pytest.approx(750, abs=55)


def test_nothing_but_the_image_changes() -> None:
    """Truth, soft labels and doubts stay, and the given batch is not touched."""
    batch = batch_of(8)
    before = batch.image.clone()
    out = drop_sequences(batch, 1.0, 0, 0)
    assert torch.equal(batch.image, before)
    assert all(getattr(out, part) is getattr(batch, part) for part in ("labels", "soft", "doubt", "has_soft"))


def test_what_is_dropped_is_a_function_of_seed_and_iteration() -> None:
    """The same numbers drop the same; another seed or iteration something else."""
    batch = batch_of(40)
    first = kept(drop_sequences(batch, 0.5, 1, 2))
    assert first == kept(drop_sequences(batch, 0.5, 1, 2))
    assert first != kept(drop_sequences(batch, 0.5, 1, 3))
    assert first != kept(drop_sequences(batch, 0.5, 2, 2))


def test_a_share_of_zero_changes_nothing() -> None:
    """Without dropout the batch itself comes back."""
    batch = batch_of(2)
    assert drop_sequences(batch, 0.0, 0, 0) is batch


def test_without_t1c_only_the_whole_tumour_is_asked_for() -> None:
    """What a student says of TC and ET changes neither loss nor gradient when t1c is gone; WT does."""
    image = torch.ones(1, 4, 2, 2, 2)
    image[:, 1] = 0
    batch = batch_of(1)
    batch = Batch(image, batch.labels, batch.soft, batch.doubt, batch.has_soft)
    assert batch.told().tolist() == [[1, 0, 0]]
    logits = torch.zeros(1, 3, 2, 2, 2, requires_grad=True)
    DistillationLoss(doubt=1.0)(logits, batch).total.backward()
    assert logits.grad is not None
    assert logits.grad[:, 0].abs().min() > 0
    assert not logits.grad[:, 1:].any()
