"""Samples that lack sequences, so that a student learns what to do without them ("sparsified training").

All 15 non-empty subsets of the four sequences occur. A dropped channel is all zeros, which is what preprocessing gives
for a sequence that a clinic does not have.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Final

import numpy as np
import torch
from glialite_runtime.sequences import SEQUENCES

from glialite_distill.patches import Batch

__all__ = ["SUBSETS", "drop_sequences", "learnt_subsets"]

SUBSETS: Final = tuple(
    kept for count in range(len(SEQUENCES), 0, -1) for kept in itertools.combinations(SEQUENCES, count)
)
"""The 15 non-empty subsets, the full set first."""


def learnt_subsets(share: float) -> tuple[tuple[str, ...], ...]:
    """Return the sets of sequences that a training whose samples lose some with the probability `share` has seen."""
    return SUBSETS if share > 0 else SUBSETS[:1]


def drop_sequences(batch: Batch, share: float, seed: int, iteration: int) -> Batch:
    """Return a copy in which some samples keep a subset of their sequences; a function of seed and iteration.

    Parameters
    ----------
    batch : Batch
        Augmented patches. Truth and soft labels stay what they are; `Batch.told` says which still count.
    share : float
        Probability that a sample loses anything; what it keeps is drawn evenly from the 14 smaller subsets.
    seed, iteration : int
        What the randomness is drawn from.

    Notes
    -----
    Source: Eijgelaar et al., Robust Deep Learning-based Segmentation of Glioblastoma on Routine Clinical MRI Scans
    Using Sparsified Training, Radiology: Artificial Intelligence 2 (2020).
    """
    random = np.random.default_rng((seed, iteration, 4))
    kept = np.ones((len(batch.image), len(SEQUENCES)), bool)
    for sample in range(len(kept)):
        lost, subset = random.random() < share, SUBSETS[int(random.integers(1, len(SUBSETS)))]
        if lost:
            kept[sample] = [sequence in subset for sequence in SEQUENCES]
    if kept.all():
        return batch
    mask = torch.from_numpy(kept).to(batch.image.device)[..., None, None, None]
    return replace(batch, image=torch.where(mask, batch.image, batch.image.new_zeros(())))
