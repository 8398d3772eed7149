"""Recipes as text: overridden by a TOML file (one table a recipe, its fields as keys), and printed."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import fields, replace
from pathlib import Path
from types import MappingProxyType, NoneType, UnionType
from typing import Any, Final, Literal, Union, get_args, get_origin, get_type_hints

from glialite_runtime.errors import ConfigError

from glialite_distill.recipes import RECIPES, Finetune, Recipe, problems_of

__all__ = ["load_recipes", "recipe_text"]

_FIXED: Final = ("name", "summary", "source")
_NONE: Final = "none"  # TOML has no null
_NEEDED: Final = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}


def load_recipes(path: Path) -> Mapping[str, Recipe]:
    """Return all recipes, those that the file names with its values.

    Parameters
    ----------
    path : Path
        TOML such as ``[mednext-b]``, ``epochs = 1000``, and ``[mednext-b-finetune.finetune]``, ``reinitialise = true``;
        "none" stands for an absent value.

    Raises
    ------
    ConfigError
        The file cannot be read, or holds unknown recipes, unknown keys or values that do not fit; all are listed.
    """
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{path} cannot be read as TOML: {error}") from error
    problems = [f"unknown recipe {name!r}; known: {', '.join(RECIPES)}" for name in content if name not in RECIPES]
    recipes = dict(RECIPES)
    for name in sorted(content.keys() & RECIPES.keys()):
        values, found = _values(Recipe, content[name], name, _FIXED)
        problems += found
        if not found:
            source = f"{RECIPES[name].source}; overridden: {', '.join(values) or 'nothing'}"
            recipes[name] = replace(RECIPES[name], **values, source=source)
            problems += problems_of(recipes[name])
    problems += _lineage_problems(recipes)
    if problems:
        raise ConfigError("\n  ".join([f"{path} cannot be used:", *sorted(problems)]))
    return MappingProxyType(recipes)


def _values(kind: type, found: object, where: str, fixed: tuple[str, ...] = ()) -> tuple[dict[str, Any], list[str]]:
    """Return the values of a table as a dataclass's fields want them, and what is wrong with it."""
    hints = {f.name: get_type_hints(kind)[f.name] for f in fields(kind) if f.name not in fixed}
    if not isinstance(found, dict):
        return {}, [f"{where} must be a table, not {found!r}"]
    problems = [f"{where}: unknown key {key!r}; known: {', '.join(hints)}" for key in found if key not in hints]
    values = {}
    for key in sorted(found.keys() & hints.keys()):
        if Finetune in get_args(hints[key]) and isinstance(found[key], dict):
            inner, wrong = _values(Finetune, found[key], f"{where}.{key}")
            problems += wrong
            base = RECIPES[where].finetune or Finetune()
            values[key] = base if wrong else replace(base, **inner)
            continue
        try:
            values[key] = _converted(hints[key], found[key])
        except ValueError as error:
            problems.append(f"{where}: {key} = {found[key]!r} does not fit; needed: {error}")
    return values, problems


def _converted(hint: Any, value: Any) -> Any:
    """Return a TOML value as the annotated type; a `ValueError` says what is needed."""
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        if value == _NONE:
            return None
        try:
            return _converted(next(a for a in arguments if a is not NoneType), value)
        except ValueError as error:
            raise ValueError(f"{error}, or {_NONE!r}") from error
    if origin is Literal:
        if value in arguments and isinstance(value, str):
            return value
        raise ValueError(" or ".join(repr(a) for a in arguments))
    if origin is tuple:
        wanted = len(value) if isinstance(value, list) and arguments[-1] is ... else len(arguments)
        if not isinstance(value, list) or len(value) != wanted:
            raise ValueError("a list" if arguments[-1] is ... else f"a list of {wanted}")
        return tuple(_converted(arguments[0], item) for item in value)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if type(value) is not hint or value != value:  # NaN is no number to train with  # noqa: PLR0124
        raise ValueError(_NEEDED.get(hint, "a table"))
    return value


def _lineage_problems(recipes: Mapping[str, Recipe]) -> list[str]:
    """Return what is wrong with the warm starts: unknown parents, circles, networks that do not fit."""
    problems = []
    for recipe in recipes.values():
        seen, parent = {recipe.name}, recipe.warm_start
        while parent is not None and parent in recipes and parent not in seen:
            seen.add(parent)
            parent = recipes[parent].warm_start
        if parent is not None:
            reason = "leads in a circle" if parent in recipes else f"ends at {parent!r}, which is no recipe"
            problems.append(f"{recipe.name}: warm_start {reason}")
        elif recipe.warm_start:
            problems += _misfits(recipes[recipe.warm_start], recipe)
    return problems


def _misfits(parent: Recipe, child: Recipe) -> list[str]:
    """Return why a recipe cannot start from another one's weights."""
    start = f"{child.name}: warm_start {parent.name}"
    problems = []
    if parent.architecture != child.architecture:
        problems.append(f"{start} is a {parent.architecture}, not a {child.architecture}")
    if parent.kernel_size > child.kernel_size:
        problems.append(f"{start} has kernels of {parent.kernel_size}, which do not shrink to {child.kernel_size}")
    if (parent.loss == "dice+ce") != (child.loss == "dice+ce"):
        problems.append(f"{start} and it must both be trained on labels (dice+ce), or both on regions")
    return problems


def recipe_text(row: Mapping[str, Any]) -> str:
    """Return a recipe of `recipes.table` as a block of lines."""
    lines = [f"{row['name']}: {row['summary']}"]
    for key, value in row.items():
        shown = value
        if key.endswith("iterations"):
            shown = "one pass over the cases" if value is None else value
        elif isinstance(value, dict):
            shown = ", ".join(f"{inner} {_NONE if v is None else v}" for inner, v in value.items())
        elif isinstance(value, list):
            shown = ", ".join(value) or _NONE
        if key not in ("name", "summary"):
            lines.append(f"  {key.replace('_', ' ')}: {_NONE if shown is None else shown}")
    return "\n".join(lines)
