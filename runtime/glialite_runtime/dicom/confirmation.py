"""A study as text, and the operator's answer to it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from glialite_runtime.dicom.recognition import Recognition
from glialite_runtime.dicom.study import Study
from glialite_runtime.errors import ConfigError
from glialite_runtime.sequences import SEQUENCES

__all__ = ["assign", "confirmed", "table_of"]


def table_of(study: Study) -> str:
    """Return the study as text for confirmation: whose it is, what was chosen and why, what was left out and why."""
    who = next(iter([*study.chosen.values(), *study.left_out])).series.identity
    date = re.sub(r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3", who.study_date)
    lines = [
        f"patient {who.patient_id or '(no ID)'}  {who.patient_name}  born {who.birth_date or '?'}  "
        f"study {date or '(no date)'}  accession {who.accession_number or '(none)'}",
        "",
    ]
    for sequence in SEQUENCES:
        found = study.chosen.get(sequence)
        lines.append(f"{sequence}  {_row(found)}" if found else f"{sequence}  -- nothing found")
        if found:
            lines.append(f"     {'CHECK: ' if found.doubtful else ''}{found.reason}")
    if study.left_out:
        lines += ["", "left out:"]
        lines += [f"     {_row(found)}: {found.reason}" for found in study.left_out]
    return "\n".join([*lines, *(f"note: {note}" for note in study.notes)])


def _row(found: Recognition) -> str:
    series = found.series
    size = f"{len(series.frames)} × {series.spacing_mm:.1f} mm" if series.frames else "no slices"
    return f"series {series.number or '?'} {series.protocol.description!r} {size}"


def assign(study: Study, choices: Mapping[str, str]) -> Study:
    """Return the study with series chosen by the operator.

    Parameters
    ----------
    study : Study
        As read.
    choices : mapping of str to str
        Sequence -> series number; "none" leaves the sequence out.

    Raises
    ------
    ConfigError
        A sequence or a number that the study does not have, a number that several series have, or one that cannot be
        a volume.
    """
    everything = [*study.chosen.values(), *study.left_out]
    chosen = dict(study.chosen)
    for sequence, number in choices.items():
        found = [one for one in everything if one.series.number == number and one.series.problem is None]
        if sequence not in SEQUENCES or (number != "none" and len(found) != 1):
            raise ConfigError(
                f"{sequence}={number}: give one of {', '.join(SEQUENCES)} and the number of one usable series "
                f"({', '.join(sorted({one.series.number for one in everything if not one.series.problem}))}), or none"
            )
        chosen = {s: one for s, one in chosen.items() if s != sequence and (not found or one.series != found[0].series)}
        if found:
            chosen[sequence] = Recognition(found[0].series, sequence, "chosen by the operator")
    kept: dict[str, Recognition] = {sequence: chosen[sequence] for sequence in SEQUENCES if sequence in chosen}
    used = [one.series for one in kept.values()]
    left_out = tuple(
        one if one.sequence is None else replace(one, reason="not chosen by the operator")
        for one in everything
        if one.series not in used
    )
    return replace(study, chosen=kept, left_out=left_out)


def confirmed(study: Study, ask: Callable[[str], str]) -> Study:
    """Return the study as the operator confirms or changes it.

    Parameters
    ----------
    study : Study
        As read.
    ask : callable
        Shows a text and returns the answer: ``y``, ``n``, or changes such as ``t1c=7 t2f=none``.

    Raises
    ------
    ConfigError
        The operator says no.
    """
    remark = ""
    while True:
        answer = ask(f"{table_of(study)}\n{remark}\nUse these? y, n, or a change such as t1c=7").strip().lower()
        if answer in ("y", "yes"):
            return study
        if answer in ("n", "no"):
            raise ConfigError("the series were not confirmed; nothing was written")
        try:
            study, remark = assign(study, dict(re.findall(r"(\w+)=(\w+)", answer)) or {answer: "?"}), ""
        except ConfigError as error:
            remark = str(error)
