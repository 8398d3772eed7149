"""What happens after every epoch of a teacher: history, a line in the log, a checkpoint when it is due, the stop."""

from __future__ import annotations

import logging
import math
import statistics
import time
from pathlib import Path
from typing import Final

import torch
import torch.distributed
from glialite_runtime.errors import TimeLimitReached
from glialite_runtime.sequences import REGIONS

from glialite_distill.run_status import duration
from glialite_distill.runs import HISTORY, read_history, write_history
from glialite_distill.trainers import GliaLiteTrainer

__all__ = ["Overseer"]

LOG = logging.getLogger(__name__)

_SAVE_SHARE: Final = 300  # a checkpoint is due after this many times what writing one takes …
_SAVE_SECONDS: Final = 10.0  # … and at least after this long


class Overseer:
    """Called after every epoch: reports it, saves when it is worth it, stops in time.

    Where several processes train one network, the first one writes and decides, and all stop together.

    Parameters
    ----------
    name : str
        What is trained, for the log and the error.
    folder : Path
        Results folder of the fold.
    deadline : float
        `time.monotonic()` at which training must have stopped.
    """

    def __init__(self, name: str, folder: Path, deadline: float) -> None:
        self.name, self.folder, self.deadline = name, folder, deadline
        self.weight_norms = {int(row["epoch"]): row["weight_norm"] for row in read_history(folder)}
        self.saved_at = time.monotonic()
        self.save_every_s = _SAVE_SECONDS

    def __call__(self, trainer: GliaLiteTrainer) -> None:
        """Look at the epoch that has just ended.

        Raises
        ------
        TimeLimitReached
            The next epoch would end too late; the state is saved.
        """
        if trainer.local_rank == 0:
            self._report(trainer)
        left = trainer.num_epochs - trainer.current_epoch
        if not left:
            return
        now = time.monotonic()
        seconds = _last(trainer, "epoch_end_timestamps") - _last(trainer, "epoch_start_timestamps")
        stop = _first_decides(trainer, now + seconds > self.deadline)
        if stop or now - self.saved_at >= self.save_every_s:
            if trainer.local_rank == 0:
                trainer.save_latest()
            self.saved_at = time.monotonic()
            self.save_every_s = max(_SAVE_SECONDS, _SAVE_SHARE * (self.saved_at - now))
        if stop:
            raise TimeLimitReached(
                f"time limit reached at epoch {trainer.current_epoch} of {trainer.num_epochs} of {self.name}; "
                "the state is saved, run the same command again"
            )

    def _report(self, trainer: GliaLiteTrainer) -> None:
        weights = [parameter.detach() for parameter in trainer.network.parameters()]
        self.weight_norms[trainer.current_epoch - 1] = float(torch.nn.utils.get_total_norm(weights))
        rows = _history(trainer, self.weight_norms)
        write_history(self.folder, rows)
        seconds = statistics.median(row["seconds"] for row in rows[-10:])
        row = rows[-1]
        dice = " ".join(f"{region} {row['dice_' + region.lower()]:.3f}" for region in REGIONS)
        LOG.info(
            "%s  epoch %d/%d  train %.4f  validation %.4f  Dice %s  lr %.2g  %.1f s  ETA %s",
            self.name, trainer.current_epoch, trainer.num_epochs, row["train_loss"], row["validation_loss"], dice,
            row["learning_rate"], row["seconds"], duration((trainer.num_epochs - trainer.current_epoch) * seconds),
        )  # fmt: skip


def _last(trainer: GliaLiteTrainer, key: str) -> float:
    return float(trainer.logger.get_value(key, step=-1))


def _first_decides(trainer: GliaLiteTrainer, answer: bool) -> bool:
    """Return the first process's answer, so that none waits for a partner that has stopped."""
    if not trainer.is_ddp:
        return answer
    answers = [answer]
    torch.distributed.broadcast_object_list(answers, src=0)
    return answers[0]


def _history(trainer: GliaLiteTrainer, weight_norms: dict[int, float]) -> list[dict[str, float]]:
    log = trainer.logger.get_checkpoint()
    rows = []
    for epoch, dice in enumerate(log["dice_per_class_or_region"]):
        seconds = log["epoch_end_timestamps"][epoch] - log["epoch_start_timestamps"][epoch]
        values = (
            epoch, log["train_losses"][epoch], log["val_losses"][epoch], *dice, log["mean_fg_dice"][epoch],
            log["ema_fg_dice"][epoch], log["lrs"][epoch], seconds, weight_norms.get(epoch, math.nan),
        )  # fmt: skip
        rows.append({key: float(value) for key, value in zip(HISTORY, values, strict=True)})
    return rows
