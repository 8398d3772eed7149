"""Which study of a folder is meant, where a USB stick holds several."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from glialite_runtime.dicom.headers import Header
from glialite_runtime.errors import ConfigError, InputError

__all__ = ["Selected", "labels_of", "select_study"]


@dataclass(frozen=True, slots=True)
class Selected:
    """The files of one study.

    Attributes
    ----------
    headers : tuple of Header
        In the order given; one study of one patient.
    label : str
        Tells the study from the others of the folder, fit for a file name: its date, with a number where two share it.
        Empty for the only one.
    notes : tuple of str
        That there are others; empty for the only one.
    """

    headers: tuple[Header, ...]
    label: str = ""
    notes: tuple[str, ...] = ()


def select_study(headers: Sequence[Header], wanted: str | None, folder: Path) -> Selected:
    """Return the only study of a folder, or the one that is wanted.

    Parameters
    ----------
    headers : sequence of Header
        All files of the folder, at least one.
    wanted : str or None
        Number of the study in the list that the error shows (by date, from 1), or the beginning of its UID; None: there
        has to be one alone.
    folder : Path
        For the messages.

    Raises
    ------
    InputError
        There are several studies and none is wanted: the message lists them. The study names two patients: a report
        for the wrong patient is the worst outcome.
    ConfigError
        What is wanted is not one of them.
    """
    groups: dict[str, list[Header]] = defaultdict(list)
    for header in headers:
        groups[header.identity.study_uid].append(header)
    studies = sorted(groups.values(), key=lambda study: (study[0].identity.study_date, study[0].identity.study_uid))
    if wanted is None and len(studies) > 1:
        raise InputError(
            f"{folder} holds {len(studies)} studies:\n{_listed(studies)}\n"
            "choose one: glialite segment FOLDER --study N (its number here, or the beginning of its UID), or let "
            "glialite batch make a case of each"
        )
    numbers = range(len(studies)) if wanted is None else _matching(studies, wanted)
    if len(numbers) != 1:
        raise ConfigError(
            f"--study {wanted}: {len(numbers)} studies of {folder} are called that, one is needed:\n{_listed(studies)}"
        )
    (at,) = numbers
    chosen = studies[at]
    _refuse_two_patients(chosen)
    if len(studies) == 1:
        return Selected(tuple(chosen))
    who = chosen[0].identity
    labels = labels_of({study[0].identity.study_uid: study[0].identity.study_date for study in studies})
    note = f"The folder holds {len(studies)} studies; this is the one of {_readable(who.study_date)}."
    return Selected(tuple(chosen), labels[who.study_uid], (note,))


def labels_of(dates: Mapping[str, str]) -> dict[str, str]:
    """Return UID -> label (see `Selected`) of several studies by date, given UID -> date."""
    days = {uid: re.sub(r"\D", "", date) or "undated" for uid, date in dates.items()}
    several, met = Counter(days.values()), Counter[str]()
    labels: dict[str, str] = {}
    for uid in sorted(dates, key=lambda uid: (dates[uid], uid)):
        met[days[uid]] += 1
        labels[uid] = f"{days[uid]}-{met[days[uid]]}" if several[days[uid]] > 1 else days[uid]
    return labels


def _matching(studies: Sequence[Sequence[Header]], wanted: str) -> Sequence[int]:
    if wanted.isdecimal():  # every UID has a dot
        return [int(wanted) - 1] if 1 <= int(wanted) <= len(studies) else []
    uids = [study[0].identity.study_uid for study in studies]
    if wanted in uids:  # one UID may begin as another
        return [uids.index(wanted)]
    return [n for n, uid in enumerate(uids) if wanted and uid.startswith(wanted)]


def _listed(studies: Sequence[Sequence[Header]]) -> str:
    """Return a line a study; the patient's ID, and no more of the patient, only where there is more than one."""
    several = len({_patient(header) for study in studies for header in study}) > 1
    lines = []
    for number, study in enumerate(studies, 1):
        who, series = study[0].identity, len({header.series_uid for header in study})
        line = (
            f"  {number}  {_readable(who.study_date)}  {who.study_description!r}  {series} series, {len(study)} files"
        )
        lines.append(f"{line}  patient {who.patient_id or '(no ID)'}  UID {who.study_uid}" if several
                     else f"{line}  UID {who.study_uid}")  # fmt: skip
    return "\n".join(lines)


def _readable(date: str) -> str:
    return re.sub(r"^(\d{4})(\d\d)(\d\d)$", r"\1-\2-\3", date) or "(no date)"


def _patient(header: Header) -> tuple[str, str, str]:
    who = header.identity
    return who.patient_id, who.birth_date, "".join(c for c in who.patient_name.upper() if c.isalnum())


def _refuse_two_patients(study: Sequence[Header]) -> None:
    people: dict[tuple[str, str, str], list[Header]] = defaultdict(list)
    for header in study:
        people[_patient(header)].append(header)
    if len(people) == 1:
        return
    listed = "; ".join(
        f"{patient_id or 'no patient ID'} (born {born or 'unknown'}): {len(files)} files such as {files[0].path.name}"
        for (patient_id, born, _), files in list(people.items())[:6]
    )
    raise InputError(
        f"the study holds more than one patient: {listed}; put the files of one patient into a folder of their own"
    )
