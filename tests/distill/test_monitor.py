"""The monitor: real grokking is found, everything else is not; joining histories; degenerate input."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
from glialite_distill.monitor import Curves, join_histories, judge
from glialite_distill.runs import read_history
from glialite_runtime.errors import InputError

from tests.conftest import load_bench

DATA = Path(__file__).parent / "data" / "grokking"
CONTROLS = ("no-weight-decay", "random-answers", "learned-at-once")


def recorded(name: str) -> Curves:
    """Return the curves of a run of bench/grokking_toy.py."""
    return join_histories(read_history(DATA / name))


def curves(score: np.ndarray, train: np.ndarray | None = None, validation: np.ndarray | None = None) -> Curves:
    """Return curves with this score; training falls quickly and is flat from a tenth of the epochs on."""
    epoch = np.arange(len(score), dtype=np.float64)
    falls = -0.3 - 0.6 * (1 - np.exp(-epoch / (len(score) * 0.02)))
    train = falls if train is None else train
    validation = train + 0.1 if validation is None else validation
    return Curves(epoch, train, validation, score, np.full_like(epoch, 0.01), np.full_like(epoch, np.nan))


def segmentation(seed: int, epochs: int = 3500, noise: float = 0.02) -> np.ndarray:
    """Return a validation Dice like nnU-Net's: a quick rise, a slow one that never quite ends, noise by epoch."""
    epoch = np.arange(epochs)
    level = 0.86 * (1 - np.exp(-epoch / 60)) + 0.02 * (1 - np.exp(-epoch / 1000))
    return level + np.random.default_rng(seed).normal(0, noise, epochs)


def test_a_real_grokking_run_is_found() -> None:
    """Modular addition with weight decay: known by heart at epoch 3, understood around epoch 120."""
    verdict = judge(recorded("grokking"))
    assert verdict.jump is not None
    assert 40 < verdict.jump.start < 100
    assert 100 < verdict.jump.epoch < 140
    assert verdict.jump.before < 0.05
    assert verdict.jump.after > 0.9
    assert verdict.flat_from is not None
    assert verdict.flat_from < 10
    assert verdict.overfitting_from is not None
    assert verdict.overfitting_from < 10
    assert verdict.sentence.startswith("late jump at epoch 1")


@pytest.mark.parametrize("name", CONTROLS)
def test_no_jump_is_found_where_there_is_none(name: str) -> None:
    """No weight decay, answers without a rule, a rule that is learnt at once: the verdict says so plainly."""
    verdict = judge(recorded(name))
    assert verdict.jump is None
    assert verdict.sentence.startswith("no late jump seen in 600 epochs: training had flattened at epoch")


@pytest.mark.parametrize("name", CONTROLS)
def test_the_controls_are_what_they_claim(name: str) -> None:
    """Each knows its training pairs; only the easy rule generalises, and that from the start."""
    run = recorded(name)
    assert run.train_loss[-100:].max() < 0.01
    assert (run.score[-1] > 0.99) == (name == "learned-at-once")
    assert run.score[20] > 0.99 or run.score.max() < 0.05


@pytest.mark.parametrize("seed", range(8))
def test_a_jump_as_large_as_the_published_one_is_found_in_noise(seed: int) -> None:
    """Dice + .035 within 100 of 3 500 epochs, under noise of .02 an epoch: found, within 60 epochs."""
    score = segmentation(seed) + 0.035 / (1 + np.exp(-(np.arange(3500) - 1500) / 20))
    jump = judge(curves(score)).jump
    assert jump is not None
    assert abs(jump.epoch - 1500) < 60
    assert jump.after - jump.before == pytest.approx(0.035, abs=0.015)


@pytest.mark.parametrize("noise", [0.005, 0.02, 0.05])
def test_slow_improvement_is_no_jump(noise: float) -> None:
    """A curve that keeps rising as learning curves do is not called grokking, in none of 12 draws."""
    assert not [seed for seed in range(12) if judge(curves(segmentation(seed, noise=noise))).jump]


def wandering(rng: np.random.Generator, epochs: int, spread: float, correlation: float) -> np.ndarray:
    """Return noise of a given SD whose neighbours are alike."""
    steps = rng.normal(0, spread * np.sqrt(1 - correlation**2), epochs)
    noise = np.zeros(epochs)
    for i in range(1, epochs):
        noise[i] = correlation * noise[i - 1] + steps[i]
    return noise


def test_wandering_noise_is_no_jump() -> None:
    """Noise of .02 whose neighbours are alike (correlation .8) is no verdict in 12 draws."""
    for seed in range(12):
        noise = wandering(np.random.default_rng(seed), 1000, 0.02, 0.8)
        assert judge(curves(0.8 + noise)).jump is None, seed


def test_a_straight_climb_is_no_jump() -> None:
    """A rise that was under way all along comes from its trend."""
    assert judge(curves(np.linspace(0.5, 0.9, 600))).jump is None


def test_a_passing_bump_is_no_jump() -> None:
    """What is lost again was not understood."""
    score = np.full(600, 0.8)
    score[300:400] = 0.9
    assert judge(curves(score)).jump is None


def test_a_fall_and_single_epochs_are_no_jumps() -> None:
    """The score must rise, and more than one epoch must say so."""
    score = np.full(600, 0.8)
    score[::50] = 1.0
    score[400:] -= 0.3
    assert judge(curves(score)).jump is None


def test_a_rise_together_with_training_is_not_late() -> None:
    """The same step of the score counts after training has flattened, not while its loss still falls."""
    score = np.where(np.arange(600) < 300, 0.5, 0.8)
    assert judge(curves(score)).jump is not None
    together = np.where(np.arange(600) < 300, -0.3, -0.9)
    verdict = judge(curves(score, train=together))
    assert verdict.jump is None
    assert verdict.flat_from == pytest.approx(300, abs=3)


def test_overfitting_makes_a_rise_late_although_training_goes_on() -> None:
    """As published: training loss falls to the end, validation loss rises for a while, then the score jumps."""
    epoch = np.arange(600)
    train = -0.3 - 0.6 * epoch / 600
    validation = np.where(epoch < 150, -0.3 - 0.3 * epoch / 150, -0.45)
    score = np.where(epoch < 300, 0.5, 0.8)
    verdict = judge(curves(score, train=train, validation=validation))
    assert verdict.overfitting_from == pytest.approx(150, abs=9)
    assert verdict.flat_from is not None
    assert verdict.flat_from > 500
    assert verdict.jump is not None
    assert verdict.jump.epoch == pytest.approx(300, abs=6)


def test_validation_loss_that_rises_with_training_loss_is_no_overfitting() -> None:
    """Both up: the learning rate was too high, nothing was learnt by heart."""
    rises = np.where(np.arange(600) < 300, -0.9, -0.5)
    assert judge(curves(np.full(600, 0.8), train=rises, validation=rises)).overfitting_from is None


def test_only_epochs_after_the_restart_are_judged() -> None:
    """The step of the run before, and the dip and recovery at the restart, are not late jumps of this one."""

    def rows(score: np.ndarray, train: np.ndarray) -> list[dict[str, float]]:
        return [
            {"epoch": i, "train_loss": float(t), "validation_loss": float(t) + 0.1, "dice_mean": float(s)}
            for i, (s, t) in enumerate(zip(score, train, strict=True))
        ]

    before = rows(np.where(np.arange(200) < 100, 0.4, 0.8), np.full(200, -0.9))
    epoch = np.arange(400)
    after = rows(0.8 - 0.2 * np.exp(-epoch / 20), -0.9 + 0.3 * np.exp(-epoch / 20))
    joined = join_histories(before, after)
    assert joined.restarts == (200,)
    assert joined.epoch.tolist() == list(range(600))
    verdict = judge(joined)
    assert verdict.jump is None
    assert "in 400 epochs" in verdict.sentence
    assert judge(join_histories(before)).jump is not None


def test_a_history_without_weight_norm_and_with_gaps_is_read() -> None:
    """Epochs without a finite score are left out; what an older version did not write is NaN."""
    rows = [
        {"epoch": i, "train_loss": -0.5, "validation_loss": -0.4, "dice_mean": np.nan if i == 3 else 0.7}
        for i in range(60)
    ]
    joined = join_histories(rows)
    assert 3 not in joined.epoch
    assert len(joined.epoch) == 59
    assert np.isnan(joined.weight_norm).all()
    assert judge(joined).gap == pytest.approx(0.1)


def test_few_or_no_epochs_give_no_verdict() -> None:
    """Below 40 epochs it says that it cannot tell; without any it is an error."""
    verdict = judge(curves(np.full(39, 0.7)))
    assert (verdict.jump, verdict.flat_from) == (None, None)
    assert verdict.sentence == "too few epochs to tell: 39 of at least 40"
    with pytest.raises(InputError, match="no epoch with finite"):
        join_histories([])
    with pytest.raises(InputError, match="no epoch with finite"):
        join_histories([{"epoch": 0, "train_loss": np.nan, "validation_loss": 0.0, "dice_mean": 0.5}])


def test_constant_curves_are_flat() -> None:
    """Nothing moves, nothing is divided by zero."""
    verdict = judge(curves(np.full(100, 0.7), train=np.full(100, -0.5)))
    assert (verdict.jump, verdict.flat_from, verdict.overfitting_from) == (None, 0, None)


def test_a_verdict_becomes_json() -> None:
    """For `--json`: plain numbers, the jump as a mapping or null."""
    row = json.loads(json.dumps(asdict(judge(recorded("grokking")))))
    assert set(row["jump"]) == {"start", "epoch", "end", "before", "after"}
    assert json.loads(json.dumps(asdict(judge(recorded("random-answers")))))["jump"] is None


@pytest.mark.slow
def test_the_experiment_itself_groks() -> None:
    """Run anew on this machine, the toy network still groks and the one without weight decay still does not."""
    toy = load_bench("grokking_toy")
    for name, expected in (("grokking", True), ("no-weight-decay", False)):
        experiment = replace(toy.EXPERIMENTS[name], epochs=300)
        assert (judge(join_histories(list(toy.train(experiment)))).jump is not None) == expected, name


@pytest.mark.slow
def test_how_often_the_rule_errs() -> None:
    """Few of 300 curves without a jump, half of them wandering, are called; most of 100 with one are found."""
    called = 0
    for seed in range(300):
        rng = np.random.default_rng(seed)
        epochs = int(rng.choice([60, 150, 600, 1000, 3500]))
        noise = wandering(rng, epochs, rng.choice([0.005, 0.02, 0.05]), rng.choice([0, 0.5, 0.9, 0.97]))
        pace = epochs * rng.choice([0.01, 0.03, 0.1, 0.3])
        called += judge(curves(0.86 * (1 - np.exp(-np.arange(epochs) / pace)) + noise)).jump is not None
    found = 0
    for seed in range(100):
        rng = np.random.default_rng(seed)
        at, width = rng.integers(700, 2900), rng.choice([5, 20, 60])
        jump = judge(curves(segmentation(seed) + 0.035 / (1 + np.exp(-(np.arange(3500) - at) / width)))).jump
        found += jump is not None and abs(jump.epoch - at) < 120
    assert called == pytest.approx(4, abs=2)  # measured: 4
    assert found == pytest.approx(96, abs=3)  # measured: 96, within 120 of 3 500 epochs
