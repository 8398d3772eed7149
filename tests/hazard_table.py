"""The table hazard -> control -> test of docs/safety.md, made from hazards.toml and the names of the tests.

``python -m tests.hazard_table`` writes it.
"""

from __future__ import annotations

import ast
import tomllib
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[1]
SOURCE: Final = ROOT / "tests" / "hazards.toml"
PAGE: Final = ROOT / "docs" / "safety.md"
_START: Final = "<!-- python -m tests.hazard_table writes from here -->\n"
_END: Final = "<!-- to here -->\n"


def words(test: str) -> str:
    """Return the name of a test, given as ``folder/test_x.py::test_name``, as a sentence.

    Raises
    ------
    LookupError
        There is no such test, or it never runs.
    """
    file, _, name = test.partition("::")
    path = ROOT / "tests" / file
    for node in ast.parse(path.read_text(encoding="utf-8")).body if path.is_file() else []:
        if isinstance(node, ast.FunctionDef) and node.name == name and name.startswith("test_"):
            if any(ast.unparse(mark).partition("(")[0] == "pytest.mark.skip" for mark in node.decorator_list):
                raise LookupError(f"{test} never runs")
            return name.removeprefix("test_").replace("_", " ")
    raise LookupError(f"{test} does not exist")


def table(hazards: dict[str, dict[str, object]]) -> str:
    """Return the table as Markdown.

    Raises
    ------
    LookupError
        A hazard has no control, a control no test, or a test does not exist; the message lists every problem.
    """
    problems, lines = [], ["| | hazard | control | shown by |", "| --- | --- | --- | --- |"]
    for number, entry in hazards.items():
        controls = entry.get("controls") or []
        if not controls:
            problems.append(f"{number} has no control")
        for place, control in enumerate(controls):  # type: ignore[arg-type, var-annotated]
            shown = []
            for test in control.get("tests") or []:
                try:
                    shown.append(f"[{words(test)}](../tests/{test.partition('::')[0]})")
                except LookupError as error:
                    problems.append(f"{number}: {error}")
            if not control.get("tests"):
                problems.append(f"{number}: the control {control['control']!r} has no test")
            first = (number, str(entry["hazard"])) if place == 0 else ("", "")
            lines.append(f"| {' | '.join(first)} | {control['control']} | {'<br>'.join(shown)} |")
    if problems:
        raise LookupError("; ".join(problems))
    return "\n".join(lines) + "\n"


def page(text: str) -> str:
    """Return the page with today's table in it."""
    before, _, rest = text.partition(_START)
    return before + _START + table(tomllib.loads(SOURCE.read_text(encoding="utf-8"))) + _END + rest.partition(_END)[2]


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
