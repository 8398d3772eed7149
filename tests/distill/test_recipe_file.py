"""Recipes overridden from TOML."""

from __future__ import annotations

from pathlib import Path

import pytest
from glialite_distill.recipe_file import load_recipes, recipe_text
from glialite_distill.recipes import RECIPES, Finetune, table
from glialite_runtime.errors import ConfigError


def written(folder: Path, text: str) -> Path:
    """Return a file with the text."""
    (folder / "recipes.toml").write_text(text)
    return folder / "recipes.toml"


def test_values_are_replaced_and_said_so(tmp_path: Path) -> None:
    """Numbers, lists, tables and "none" arrive in their types; every other recipe stays."""
    recipes = load_recipes(
        written(
            tmp_path,
            """
            [mednext-b]
            epochs = 1000
            iterations = 250
            learning_rate = 1
            extra_augmentation = ["carvemix", "low-field"]
            [mednext-b-finetune]
            site = "none"
            [mednext-b-finetune.finetune]
            reinitialise = true
            """,
        )
    )
    changed = recipes["mednext-b"]
    assert (changed.epochs, changed.iterations, changed.learning_rate) == (1000, 250, 1.0)
    assert isinstance(changed.learning_rate, float)
    assert changed.extra_augmentation == ("carvemix", "low-field")
    assert changed.source.endswith("overridden: epochs, extra_augmentation, iterations, learning_rate")
    assert recipes["mednext-b-finetune"].finetune == Finetune("last-decoder", reinitialise=True)
    assert recipes["mednext-b-finetune"].site is None
    assert {name for name in RECIPES if recipes[name] != RECIPES[name]} == {"mednext-b", "mednext-b-finetune"}


def test_every_problem_is_reported_at_once(tmp_path: Path) -> None:
    """Unknown recipes and keys, wrong types and choices, wrong lengths, contradictions: one message."""
    text = """
        [basline]
        [baseline]
        lr = 0.1
        epochs = "many"
        batch_dice = 1
        name = "other"
        [grokking]
        warm_start = "grokking"
        [mednext-b]
        extra_augmentation = ["carvemix", "blur"]
        learning_rate = nan
        [mednext-m]
        focal_gamma = "none"
        kernel_size = 4
        [mednext-b-layerwise.finetune]
        layer_rates = [1e-6]
        rate = 1
        """
    with pytest.raises(ConfigError) as caught:
        load_recipes(written(tmp_path, text))
    message = str(caught.value)
    for piece in (
        "unknown recipe 'basline'", "unknown key 'lr'", "unknown key 'name'", "epochs = 'many'", "batch_dice = 1",
        "grokking: warm_start leads in a circle", "['carvemix', 'blur']", "learning_rate = nan",
        "mednext-m: focal losses need focal_gamma", "mednext-m: kernel_size must be 3", "layer_rates = [1e-06]",
        "unknown key 'rate'",
    ):  # fmt: skip
        assert piece in message


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("[baseline", "cannot be read as TOML"),
        ("baseline = 3", "baseline must be a table"),
        ('[grokking]\nwarm_start = "mednext-b"', "mednext-b is a mednext-b, not a nnunet"),
        ('[grokking]\nwarm_start = "baseline-labels"', "must both be trained on labels"),
        ("[mednext-b]\nkernel_size = 5", "mednext-b-finetune: warm_start mednext-b has kernels of 5"),
        ('[grokking]\nwarm_start = "nobody"', "ends at 'nobody', which is no recipe"),
        ("[baseline.finetune]\nwarmup_epochs = 3", "finetune needs warm_start"),
        ("[baseline]\nepochs = 0", "epochs and iterations must be at least 1"),
        ("[baseline]\nepochs = true", "needed: a whole number"),
        ('[nnunet-2d]\nextra_augmentation = ["carvemix"]', "carvemix needs volumes"),
    ],
)
def test_what_cannot_be_trained_is_refused(text: str, reason: str, tmp_path: Path) -> None:
    """Broken files and values that contradict each other or the other recipes."""
    with pytest.raises(ConfigError, match=reason.replace("[", r"\[")):
        load_recipes(written(tmp_path, text))


def test_a_missing_file_is_a_configuration_error(tmp_path: Path) -> None:
    """So is one that is not text."""
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipes(tmp_path / "none.toml")
    (tmp_path / "bytes.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read"):
        load_recipes(tmp_path / "bytes.toml")


def test_a_recipe_is_printed_with_all_its_values() -> None:
    """Absent values say what they mean; nested ones are on one line."""
    rows = {row["name"]: row for row in table()}
    text = recipe_text(rows["mednext-b-layerwise"])
    assert text.startswith("mednext-b-layerwise: mednext-b, trained on")
    for line in (
        "iterations: one pass over the cases", "extra augmentation: none", "site: SSA", "learning rate: 0.0001",
        "finetune: part all, reinitialise False, learning_rate_factor 1.0, warmup_epochs 5, layer_rates [1e-06, ",
    ):  # fmt: skip
        assert f"\n  {line}" in text
    assert "\n  iterations: 250\n" in recipe_text(rows["baseline"])
