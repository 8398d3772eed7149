"""What the commands `predict` and `ensemble` are asked to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from glialite_runtime.errors import ConfigError

from glialite_distill.decision import FITTED, preset
from glialite_distill.member_weights import CHOICES

__all__ = ["Choice", "PredictOptions"]


@dataclass(frozen=True, slots=True)
class PredictOptions:
    """What to predict and how.

    Attributes
    ----------
    folder, out : Path
        Case folders in; `<out>/<case>/<case>-seg.nii.gz` out.
    probabilities : bool
        Also write `<case>-probabilities.npz`: `probabilities`, float16 (3, z, y, x), whole image in LPS, and `regions`.
    uncertainty : bool
        Also write `<case>-uncertainty-{WT,TC,ET}.nii.gz` and a picture, see `uncertainty`; needs `tta`.
    tta : bool
        Eight mirrorings.
    step : float
        Step between windows as a share of the patch, in (0, 1].
    device : str
        "auto", "cpu" or "cuda".

    Raises
    ------
    ConfigError
        An uncertainty is asked for without mirrorings.
    """

    folder: Path
    out: Path
    probabilities: bool = False
    uncertainty: bool = False
    tta: bool = False
    step: float = 0.5
    device: str = "auto"

    def __post_init__(self) -> None:
        if self.uncertainty and not self.tta:
            raise ConfigError("--uncertainty is the variance over the eight mirrorings; ask for --tta, too")


@dataclass(frozen=True, slots=True)
class Choice:
    """How members are to become labels, by name.

    Attributes
    ----------
    weights : str
        "equal", "hybrid", "learnt", "best" or a file (see `member_weights`).
    decision : str
        "fitted" or a published rule (see `decision.PRESETS`).

    Raises
    ------
    ConfigError
        The rule or the file is not there, or a fitted rule is asked for with weights that it was not fitted with.
    """

    weights: str = "equal"
    decision: str = "plain"

    def __post_init__(self) -> None:
        if self.decision != FITTED:
            preset(self.decision)
        elif self.weights not in CHOICES:
            raise ConfigError(f"a fitted decision rule belongs to the weights {', '.join(CHOICES)}, not to a file")
        if self.weights not in CHOICES and not Path(self.weights).is_file():
            raise ConfigError(f"--weights {self.weights} is neither {', '.join(CHOICES)} nor a file")
