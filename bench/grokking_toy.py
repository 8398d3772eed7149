"""A network that groks and three that do not, for the monitor to tell apart.

    python bench/grokking_toy.py --out tests/distill/data/grokking --pictures docs/images

Addition modulo 53 is learnt from 40 % of its table by an embedding and one hidden layer, all pairs at once, by AdamW
(Power et al., arXiv:2201.02177, with a smaller network). With weight decay the network soon knows its own pairs by
heart, and the others much later, in one jump. The controls: no weight decay; answers that were dealt out at random;
and an easier rule (the answer is the first number), which is learnt at once. An epoch is 10 optimizer steps; accuracy
stands in the column of a segmentation's Dice.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from glialite_distill.monitor import join_histories, judge
from glialite_distill.runs import read_history
from glialite_runtime.files import write_bytes
from torch import nn

COLUMNS = ("epoch", "train_loss", "validation_loss", "dice_mean", "learning_rate", "weight_norm")
STEPS_PER_EPOCH = 10


@dataclass(frozen=True, slots=True)
class Experiment:
    """One run: what the answer to a pair is ("sum", "random" or "first"), and the weight decay."""

    answer: str = "sum"
    weight_decay: float = 1.0
    epochs: int = 600


EXPERIMENTS = {
    "grokking": Experiment(),
    "no-weight-decay": Experiment(weight_decay=0.0),
    "random-answers": Experiment("random"),
    "learned-at-once": Experiment("first"),
}
MODULUS, LEARNT_SHARE, LEARNING_RATE = 53, 0.4, 0.01


class Adder(nn.Module):
    """Two embedded numbers side by side, one hidden layer, a logit for each answer."""

    def __init__(self, embedding: int = 64, hidden: int = 128) -> None:
        super().__init__()
        self.embedding = nn.Embedding(MODULUS, embedding)
        self.layers = nn.Sequential(nn.Linear(2 * embedding, hidden), nn.ReLU(), nn.Linear(hidden, MODULUS))

    def forward(self, pairs: torch.Tensor) -> torch.Tensor:
        """Return logits (n, MODULUS) of pairs (n, 2)."""
        logits: torch.Tensor = self.layers(self.embedding(pairs).flatten(1))
        return logits


def table(answer: str, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return all pairs (n, 2) in random order and their answers (n,)."""
    generator = torch.Generator().manual_seed(seed)
    pairs = torch.cartesian_prod(torch.arange(MODULUS), torch.arange(MODULUS))
    pairs = pairs[torch.randperm(len(pairs), generator=generator)]
    if answer == "first":
        return pairs, pairs[:, 0]
    sums = pairs.sum(1) % MODULUS
    return pairs, sums if answer == "sum" else sums[torch.randperm(len(sums), generator=generator)]


def train(experiment: Experiment, seed: int = 0) -> Iterator[dict[str, float]]:
    """Yield a row of the history after every epoch."""
    torch.manual_seed(seed)
    pairs, answers = table(experiment.answer, seed)
    count = round(LEARNT_SHARE * len(pairs))
    network = Adder()
    optimizer = torch.optim.AdamW(
        network.parameters(), lr=LEARNING_RATE, weight_decay=experiment.weight_decay, betas=(0.9, 0.98)
    )
    for epoch in range(experiment.epochs):
        losses = []
        for _ in range(STEPS_PER_EPOCH):
            loss = nn.functional.cross_entropy(network(pairs[:count]), answers[:count])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        with torch.no_grad():
            logits = network(pairs[count:])
            yield {
                "epoch": epoch,
                "train_loss": sum(losses) / len(losses),
                "validation_loss": float(nn.functional.cross_entropy(logits, answers[count:])),
                "dice_mean": float((logits.argmax(1) == answers[count:]).float().mean()),
                "learning_rate": LEARNING_RATE,
                "weight_norm": float(torch.nn.utils.get_total_norm(network.parameters())),
            }


def write(path: Path, rows: list[dict[str, float]]) -> None:
    """Write a history of five significant digits."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows({key: f"{value:.5g}" for key, value in row.items()} for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_bytes(path, text.getvalue().encode())


def main() -> None:
    """Train what is not there yet, judge everything, draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("tests/distill/data/grokking"))
    parser.add_argument("--pictures", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(1)
    verdicts = {}
    for name, experiment in EXPERIMENTS.items():
        if not (given.out / name / "history.csv").is_file():
            write(given.out / name / "history.csv", list(train(experiment)))
        curves = join_histories(read_history(given.out / name))
        verdicts[name] = asdict(judge(curves))
        if given.pictures is not None:
            from glialite_distill.monitor_figure import draw

            picture = given.pictures / f"grokking-toy-{name}.png"
            draw(curves, judge(curves), picture, name.replace("-", " "), score="accuracy")
    print(json.dumps(verdicts, indent=2))


if __name__ == "__main__":
    main()
