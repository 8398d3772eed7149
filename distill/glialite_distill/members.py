"""Members of an ensemble: our finished teachers, and stock nnU-Net results folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from glialite_runtime.errors import ConfigError
from glialite_runtime.files import sha256_file

from glialite_distill.recipes import RECIPES, find_recipe
from glialite_distill.runs import final_checkpoint, trained_folds
from glialite_distill.teacher_network import finished_folds
from glialite_distill.workspace import Workspace

__all__ = ["Member", "find_members", "sources_of"]


@dataclass(frozen=True, slots=True)
class Member:
    """One trained network of an ensemble.

    Attributes
    ----------
    recipe : str
        Recipe, or the name of a stock nnU-Net results folder; the folds of one are averaged with equal weights.
    fold : int
        Fold.
    sha256 : str
        Of its final checkpoint.
    folder : Path
        nnU-Net results folder that it lies in.
    """

    recipe: str
    fold: int
    sha256: str
    folder: Path


def sources_of(members: Sequence[Member]) -> tuple[str, ...]:
    """Return the recipes (and stock folders) of members, each once, in their order."""
    return tuple(dict.fromkeys(member.recipe for member in members))


def find_members(
    workspace: Workspace, recipes: Sequence[str], folds: Sequence[int] | None = None
) -> tuple[Member, ...]:
    """Return the finished teachers of the recipes.

    Parameters
    ----------
    workspace : Workspace
        Where they were trained.
    recipes : sequence of str
        Recipe names, or paths of nnU-Net results folders (`Trainer__Plans__3d_fullres`).
    folds : sequence of int, optional
        Exactly these folds; without, all folds that are finished.

    Raises
    ------
    ConfigError
        A recipe is unknown, has no finished teacher where one is needed, or two folders have one name.
    """
    members: list[Member] = []
    problems = []
    for recipe in dict.fromkeys(recipes):
        stock = Path(recipe) if recipe not in RECIPES and Path(recipe).is_dir() else None
        if stock is None:
            name, remedy = find_recipe(recipe).name, f"run teacher-train run --recipe {recipe}"
            files = {fold: final_checkpoint(workspace, name, fold) for fold in trained_folds(workspace, name)}
        else:
            name, remedy, files = stock.resolve().name, "train it with nnU-Net", finished_folds(stock)
            if name in RECIPES or name in sources_of(members):
                problems.append(f"{recipe} is called {name} like another member or recipe; rename the folder")
        wanted = tuple(files) if folds is None else tuple(dict.fromkeys(folds))
        if missing := [str(f) for f in wanted if f not in files] or ([] if wanted else ["any"]):
            problems.append(f"{name} has no finished teacher of fold {', '.join(missing)}; {remedy} (or leave it out)")
        found = {fold: files[fold] for fold in wanted if fold in files}
        members += [Member(name, fold, sha256_file(path), path.parent.parent) for fold, path in found.items()]
    if problems or not members:
        raise ConfigError("; ".join(problems) or "no member was named")
    return tuple(members)
