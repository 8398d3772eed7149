"""Out-of-fold predictions, one recipe at a time: what weights and decision rules of an ensemble are fitted on.

Every training case is predicted by the teachers of the fold that held it out, and by no other. The predictions lie in
the workspace, one file a case and recipe, named by what made it, so that an interrupted run continues and another
ensemble of the same teachers computes nothing again.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import blosc2
import numpy as np
import numpy.typing as npt
import torch
from glialite_runtime.errors import ConfigError, InputError
from glialite_runtime.files import sha256_bytes, write_bytes

from glialite_distill.ensemble import blend, teachers_of
from glialite_distill.member_weights import LEVELS, equal_weights
from glialite_distill.members import Member, sources_of
from glialite_distill.prepare import Progress
from glialite_distill.recipes import RECIPES
from glialite_distill.soft_labels import plan_soft_labels
from glialite_distill.windows import Window
from glialite_distill.workspace import Workspace

__all__ = ["OutOfFold"]

_SCHEMA: Final = 1


@dataclass(frozen=True, slots=True)
class OutOfFold:
    """Out-of-fold predictions of a workspace.

    Attributes
    ----------
    workspace : Workspace
        With trained teachers.
    window : Window
        Overlap and mirroring.
    names : tuple of str
        Recipes.
    teachers : mapping of str to tuple of Member
        Case -> the teachers that held it out; at least one of every recipe.
    left_out : tuple of str
        Cases without an out-of-fold teacher of every recipe.
    """

    workspace: Workspace
    window: Window
    names: tuple[str, ...]
    teachers: Mapping[str, tuple[Member, ...]]
    left_out: tuple[str, ...]

    @classmethod
    def plan(cls, workspace: Workspace, members: Sequence[Member], window: Window) -> OutOfFold:
        """Decide which teachers predict which case; computes nothing.

        Raises
        ------
        ConfigError
            A member was trained on a case that it would predict, or does not say what it was trained on (stock nnU-Net
            folders do not); or no case has an out-of-fold teacher of every recipe.
        """
        if silent := sorted({m.recipe for m in members} - RECIPES.keys()):
            raise ConfigError(
                f"{', '.join(silent)} does not say which cases it was trained on, so nothing can be fitted with it; "
                "give --weights equal, hybrid or a file, and a published --decision"
            )
        names = sources_of(members)
        plan = plan_soft_labels(workspace, names, tta=window.tta, step=window.step)
        return cls(workspace, window, names, plan.teachers, plan.left_out)

    def make(self, device: torch.device, progress: Progress) -> None:
        """Compute what is not there yet; each network is loaded once."""
        waiting: dict[tuple[Member, ...], list[str]] = {}
        for case in self.teachers:
            for name in self.names:
                if not self._file(case, name).is_file():
                    waiting.setdefault(self._of(case, name), []).append(case)
        jobs = [(those, case) for those, cases in waiting.items() for case in cases]
        loaded: tuple[Member, ...] = ()
        for those, case in progress(jobs, label="out-of-fold", length=len(jobs)):
            if those != loaded:
                teachers, loaded = teachers_of(self.workspace, those, equal_weights(sources_of(those)), device), those
            image, _ = self.workspace.load(case)
            found = blend(teachers(), image, self.window, device).probabilities
            levels = np.rint(found * np.float32(LEVELS)).astype(np.uint8)
            packed: bytes = blosc2.asarray(levels, cparams={"codec": blosc2.Codec.ZSTD, "clevel": 5}).to_cframe()
            write_bytes(self._file(case, those[0].recipe), packed)

    def load(self, case: str) -> npt.NDArray[np.uint8]:
        """Read the predictions (recipes, 3, z, y, x) of a case, in 255ths, on the grid of `Workspace.load`.

        Raises
        ------
        InputError
            A file is damaged.
        """
        found = []
        for name in self.names:
            path = self._file(case, name)
            try:
                found.append(blosc2.ndarray_from_cframe(path.read_bytes())[:])
            except (RuntimeError, ValueError, OSError) as error:
                raise InputError(f"{path} is damaged ({error}); delete it and fit again") from error
        return np.stack(found)

    def fold_of(self, case: str) -> int:
        """Return the fold that holds a case out, the first one where there are several."""
        return self.teachers[case][0].fold

    def _of(self, case: str, name: str) -> tuple[Member, ...]:
        return tuple(m for m in self.teachers[case] if m.recipe == name)

    def _file(self, case: str, name: str) -> Path:
        made_by = {
            "schema": _SCHEMA,
            "cohort_hash": self.workspace.cohort_hash,
            "checkpoints": [m.sha256 for m in self._of(case, name)],
            "tta": self.window.tta,
            "step": self.window.step,
        }
        key = sha256_bytes(json.dumps(made_by, sort_keys=True).encode())
        return self.workspace.root / "ensembles" / "out_of_fold" / name / f"{case}-{key[:12]}.b2frame"
