"""No refusal that an operator can meet stays English unnoticed: every sentence in the source is known to the table.

The source is read, not run: what stands in a `raise` of an operator's error, or is kept as a `problem` to be raised
later. A sentence that is reworded, or new, fails here until the table has it, or this file says why it is English.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import glialite_runtime
import pytest
from glialite_runtime import errors
from glialite_runtime.page.refusals import refusal
from glialite_runtime.page.words import Words, keys_of

ROOT = Path(glialite_runtime.__file__).parent
OPERATOR = (
    errors.ConfigError,
    errors.InputError,
    errors.OutputError,
    errors.BackendUnavailableError,
    errors.BatchError,
)
"""What a clinic can do something about; broken bundles and failed checks are for whoever installs GliaLite."""
RAISED = {name for name in errors.__all__ if issubclass(getattr(errors, name), OPERATOR)} | {"error"}
KEPT = {"problem", "sentence", "hint"}
"""Names under which a sentence waits to be raised."""

INSTALLATION, TRAINING, RECORD = "said to whoever installs it", "said to whoever trains or exports", "in the record"
ENGLISH_FILES = {
    "bundle.py": INSTALLATION,
    "int8_engine.py": INSTALLATION,
    "processor.py": "said before the language is known",
    "tensorrt_build.py": INSTALLATION,
    "tensorrt_engine.py": INSTALLATION,
    "command.py": TRAINING,
    "decode.py": TRAINING,
    "intensity.py": TRAINING,
    "sequences.py": TRAINING,
    "space/atlas.py": TRAINING,
    "correction.py": "`verify` speaks English",
    "dicom/source_series.py": "why there are no DICOM results, a line of the JSON report",
    "dicom/multiframe.py": "why there are no DICOM results, a line of the JSON report",
    "dicom/parsing.py: problem": "why a series was taken or not: the table that is shown for confirmation is English",
    "dicom/series.py: problem": "why a series was taken or not: the table that is shown for confirmation is English",
}
ENGLISH = {
    "{} MB of memory are free, {} MB are needed: close other programs": "said before the language is known",
    "this computer's clock says it is the year {}, and reports carry the date: set the clock (when it is wrong again "
    "tomorrow, the battery on the main board is empty)": "said before the language is known",
    "there is no report in {}; choose one of {}": "the language is not known",
    "--scans and --language belong to --corrected MASK": "`verify` speaks English",
    "there is no audit log {} ({}); give the folder of the results": "`verify` speaks English",
    "onnxruntime cannot be loaded ({}); install it again": INSTALLATION,
    "{} is not a folder; give one that holds a folder a case": TRAINING,
    "{} holds no case folder with NIfTI files": TRAINING,
    "labels of shape {} do not fit {} of shape {}": TRAINING,
    "there is no {} scan in this case; it has {}": TRAINING,
    "{}={}: give one of {} and the number of one usable series ({}), or none": "in the table of series",
    "the label map of shape {} lies on none of the study's series; it was resampled": RECORD,
    "the report and the DICOM series differ in {}: nothing was written; run it again": RECORD,
    "the report and the DICOM series are of different studies: nothing was written; run it again": RECORD,
    "the content must have a length of at most {} bytes": "said to a program, not by the page",
    "the content is no JSON": "said to a program, not by the page",
    "the content is no JSON object": "said to a program, not by the page",
    "a name and the files of the sequences are needed": "said to a program, not by the page",
    "which slice?": "said to a program, not by the page",
    "there is no slice {} of {}, {}": "said to a program, not by the page",
    "there is no such result": "said to a program, not by the page",
}
NOT_LITERAL = {
    "cli.py": "some_not_segmented, in the reader's language already",
    "clinic/arrivals.py": "a problem, which is looked at where it is kept",
    "intake.py": "the gate's sentences: test_refusals.py makes each of them",
}


class Sentence(NamedTuple):
    """A sentence of the source: text with ``{}`` for each value; None: it is put together elsewhere."""

    file: str
    line: int
    kept: bool
    text: str | None


def template(node: ast.expr, constants: dict[str, str]) -> str | None:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        parts = []
        for part in node.values:
            inner = part.value if isinstance(part, ast.FormattedValue) else part
            known = constants.get(inner.id) if isinstance(inner, ast.Name) else None
            parts.append(str(part.value) if isinstance(part, ast.Constant) else known or "{}")
        return "".join(parts)
    return None


def sentences_of(file: str, source: str) -> Iterator[Sentence]:
    tree = ast.parse(source)
    constants = {}
    for statement in tree.body:
        target = statement.target if isinstance(statement, ast.AnnAssign) else None
        value = getattr(statement, "value", None)
        if isinstance(target, ast.Name) and isinstance(value, ast.Constant) and isinstance(value.value, str):
            constants[target.id] = value.value
    found: list[tuple[ast.expr, bool]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
            if name in RAISED and node.args:
                found.append((node.args[0], False))
            elif name in {"_fail", "tell", "_tell"} and len(node.args) == 3:
                found.append((node.args[2], True))
            found += [(keyword.value, True) for keyword in node.keywords if keyword.arg in KEPT]
        elif isinstance(node, ast.Assign) and any(isinstance(t, ast.Name) and t.id in KEPT for t in node.targets):
            found.append((node.value, True))
        elif isinstance(node, ast.FunctionDef) and node.name.removeprefix("_") in KEPT:
            found += [(r.value, True) for r in ast.walk(node) if isinstance(r, ast.Return) and r.value is not None]
    for expression, kept in found:
        branches = [expression.body, expression.orelse] if isinstance(expression, ast.IfExp) else [expression]
        for branch in branches:
            text = template(branch, constants)
            if text or not kept:  # what is kept and is no text was said elsewhere, or is nothing
                yield Sentence(file, branch.lineno, kept, text)


def sentences() -> list[Sentence]:
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        name = path.relative_to(ROOT).as_posix()
        found += list(sentences_of(name, path.read_text("utf-8")))
    return found


def known(text: str) -> bool:
    """Return whether the table knows a sentence, whatever stands for its values."""
    samples = [text.replace("{}", value) for value in ("<value>", "t1n")]
    samples.append(text[::-1].replace("}{", "n1t", 1)[::-1].replace("{}", "<value>"))  # a sequence is the last value
    return any(refusal(sample, Words("fr")) != sample for sample in samples)


ALL = sentences()


@pytest.mark.parametrize("said", ALL, ids=lambda said: f"{said.file}:{said.line}")
def test_the_table_knows_what_the_source_says(said: Sentence) -> None:
    """Or it is English on purpose."""
    if said.text is None:
        assert said.file in NOT_LITERAL or said.file in ENGLISH_FILES, "say it as a literal, or list it with its reason"
        return
    where = f"{said.file}: problem" if said.kept else said.file
    if not known(said.text) and where not in ENGLISH_FILES and said.file not in ENGLISH_FILES:
        assert said.text in ENGLISH, "add it to strings.json as refused.…, in every language, or here with its reason"


def test_there_is_nothing_in_the_lists_that_nobody_says() -> None:
    """A list of exceptions that outlives its reasons hides the next one; the walk does find something."""
    assert len(ALL) > 200
    texts, files = {said.text for said in ALL}, {said.file for said in ALL}
    assert set(ENGLISH) <= texts
    assert not [text for text in ENGLISH if known(text)]
    assert {name.partition(":")[0] for name in ENGLISH_FILES} <= files
    assert set(NOT_LITERAL) <= {said.file for said in ALL if said.text is None}


@pytest.mark.parametrize("language", ["fr", "pt", "sw"])
def test_every_language_has_every_value_of_a_refusal(language: str) -> None:
    """What is filled in is named alike, and no language was left out or copied from English."""
    from string import Formatter

    for key in keys_of("refused."):
        english, other = Words("en").template(key), Words(language).template(key)
        names = [{name for _, name, _, _ in Formatter().parse(text) if name} for text in (english, other)]
        assert names[0] == names[1], key
        assert other != english, key


def test_a_reworded_sentence_is_found() -> None:
    """The walk sees a raise, a problem that is kept, a constant in a sentence, and both branches of a choice."""
    source = """
_ADVICE: Final = "do it again"
def work(path):
    problem = "is worded anew" if path else "is encrypted"
    raise InputError(f"{path} is worded anew; {_ADVICE}")
"""
    found = list(sentences_of("x.py", source))
    assert {said.text for said in found} == {"is worded anew", "is encrypted", "{} is worded anew; do it again"}
    assert [known(said.text or "") for said in sorted(found)] == [said.text == "is encrypted" for said in sorted(found)]
