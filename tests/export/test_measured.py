"""What a model card says of the model's accuracy, and of where it fails."""

from __future__ import annotations

from typing import Any

from glialite_export.measured import HEADING, measured_section, with_measured

FOUR = ["t1n", "t1c", "t2w", "t2f"]


def row(case: str, dice: tuple[float | None, ...], true_ml: tuple[float, ...], **changes: Any) -> dict[str, Any]:
    """Return a row as `distill evaluate` writes it."""
    values = dict(zip(("WT", "TC", "ET"), dice, strict=True)), dict(zip(("WT", "TC", "ET"), true_ml, strict=True))
    fixed = {"case": case, "source": "it", "sequences": FOUR, "withheld": False, "false_positive_ml": None}
    return {**fixed, "dice": values[0], "true_ml": values[1], **changes}


CASES = [
    row("small", (0.5, 0.4, None), (10, 2, 0)),
    row("large", (0.9, 0.8, 0.7), (100, 40, 20)),
    row("large", (0.7, None, None), (100, 40, 20), sequences=["t2f"], withheld=True),
    row("healthy", (0.0, None, None), (0, 0, 0), false_positive_ml=0.25),
    row("large", (0.1, 0.1, 0.1), (100, 40, 20), source="another"),
]


def test_groups_are_told_apart() -> None:
    """All, by size, with and without enhancing tumour, with fewer sequences; another model's rows do not count."""
    lines = measured_section(CASES, "it").splitlines()
    assert lines[0] == HEADING
    assert "| all | 3 | 0.467 | 0.600 | 0.700 |" in lines
    assert "| whole tumour under 20 mL | 1 | 0.500 | 0.400 | – |" in lines
    assert "| 80 mL and more | 1 | 0.900 | 0.800 | 0.700 |" in lines
    assert "| tumour, but none that enhances | 1 | 0.500 | 0.400 | – |" in lines
    assert "| only t2f | 1 | 0.700 | – | – |" in lines
    assert not any("20 to 80" in line for line in lines)  # an empty group


def test_failures_are_named() -> None:
    """The worst region of a case decides its place; what was outlined in healthy brains is said."""
    section = measured_section(CASES, "it")
    assert "Worst: healthy (WT 0.00); small (WT 0.50, TC 0.40); large (WT 0.90, TC 0.80, ET 0.70)." in section
    assert "In 1 brains without a tumour: at most 0.25 mL" in section


def test_pictures_are_shown() -> None:
    """Those that travel with the card, and no others; a card with one more is not taken for this one."""
    assert "\n![The worst cases: " in (found := measured_section(CASES, "it", ["worst.png"]))
    assert "(worst.png)\n" in found
    assert "subgroups.png" not in found
    assert "](" not in measured_section(CASES, "it")
    assert measured_section(CASES, "it") not in found
    assert found not in measured_section(CASES, "it", ["worst.png", "subgroups.png"])


def test_without_rows_there_is_no_section() -> None:
    """An evaluation of other models says nothing of this one."""
    assert measured_section(CASES, "third") == ""
    assert measured_section([], "it") == ""


def test_a_card_has_one_section() -> None:
    """A new evaluation takes the place of the old one; without one the card is as it was."""
    card = "# Card\n\nText\n"
    first = with_measured(card, measured_section(CASES, "it"))
    assert first.startswith(card)
    assert with_measured(first, measured_section(CASES, "another")).count(HEADING) == 1
    assert "0.100" in with_measured(first, measured_section(CASES, "another"))
    assert with_measured(first, "") == card
