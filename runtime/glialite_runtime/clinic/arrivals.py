"""What lies in a folder for work: case folders, zips, loose files; and whether they have arrived to their end."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from glialite_runtime.cases import NIFTI_NAME, Case, case_from_files, find_case, is_dicom, sequence_of
from glialite_runtime.clinic.archive import MAX_FILES, unpack
from glialite_runtime.errors import BackendUnavailableError, ConfigError, InputError, MissingSequenceError, OutputError
from glialite_runtime.sequences import ALIASES, SEQUENCES

__all__ = ["Arrival", "by_study", "case_in", "find_arrivals", "mark_of", "open_arrival", "prefix_of", "readable"]

_UNFINISHED: Final = (".part", ".partial", ".tmp", ".crdownload", ".filepart")
_NOT_OURS: Final = ("thumbs.db", "desktop.ini")
_LOOKED_AT: Final = 20  # files of a folder, to tell whether it is a DICOM study
_MOST_STUDIES: Final = 50  # of a folder; every one reads the headers of all its files
_CONTRAST_TAIL: Final = re.compile(r"([^a-z0-9]*\b(ce|contrast|gad|gadolinium|gd|post))+$")


@dataclass(frozen=True, slots=True)
class Arrival:
    """One case that somebody has put there.

    Attributes
    ----------
    name : str
        Name of the case: the folder's, the zip's, or what loose files' names have in common.
    kind : str
        "folder", "zip" or "files".
    path : Path
        The folder or the zip; for loose files the folder that they lie in.
    files : tuple of Path
        All of its files, sorted.
    complete : bool
        All four sequences, or a zip, and nothing that a copying program has not finished. What is not complete may
        still grow.
    problem : str
        Why it cannot be taken, in a sentence; empty when it can.
    study : str
        UID of the DICOM study that is meant (`by_study`); empty: there is one alone.
    """

    name: str
    kind: str
    path: Path
    files: tuple[Path, ...]
    complete: bool
    problem: str = ""
    study: str = ""

    @property
    def holds_images(self) -> bool:
        """Whether there is a NIfTI image, a zip or a DICOM file in it."""
        return any(NIFTI_NAME.search(path.name) for path in self.files) or self.needs_room

    @property
    def needs_room(self) -> bool:
        """Whether it is unpacked or converted before it can be worked on."""
        images = any(NIFTI_NAME.search(path.name) for path in self.files)
        return self.kind == "zip" or (not images and any(is_dicom(path) for path in self.files[:_LOOKED_AT]))


def find_arrivals(inbox: Path, channel_order: Sequence[str] | None = None) -> list[Arrival]:
    """Return what lies in a folder, by name; hidden and empty things are left out.

    Two that would be one case by name are both returned with a problem: their results would overwrite each other.

    Raises
    ------
    InputError
        The folder cannot be read.
    """
    found, loose = [], []
    try:
        with os.scandir(inbox) as entries:
            for item in sorted(entries, key=lambda e: e.name):
                path = inbox / item.name
                if item.name.startswith((".", "~")):
                    continue
                if item.is_dir():
                    if files := tuple(_files_below(path)):
                        found.append(_arrival(item.name, "folder", path, files, channel_order))
                elif path.suffix.lower() == ".zip":
                    found.append(_arrival(path.stem, "zip", path, (path,), channel_order))
                elif NIFTI_NAME.search(item.name):
                    loose.append(path)
    except OSError as error:
        raise InputError(f"{inbox} cannot be read: {error.strerror or error}; check the drive") from error
    return _same_names_refused(sorted(found + _loose_cases(inbox, loose, channel_order), key=lambda a: a.name))


def _files_below(folder: Path) -> Iterator[Path]:
    """Yield the visible files below a folder, at most one more than may be; links to folders are not followed."""
    count = 0
    for where, folders, files in os.walk(folder):
        folders[:] = sorted(f for f in folders if not f.startswith("."))
        for name in sorted(files):
            if not name.startswith((".", "~")) and name.lower() not in _NOT_OURS:
                yield Path(where, name)
                count += 1
                if count > MAX_FILES:
                    return


def _arrival(
    name: str, kind: str, path: Path, files: tuple[Path, ...], channel_order: Sequence[str] | None = None
) -> Arrival:
    problem = ""
    if not name.isprintable():
        name = ascii(name).strip("'")
        problem = f"{name} is a name that cannot be written everywhere; rename it with letters, digits, - and _"
    elif len(files) > MAX_FILES:
        problem = f"{name} holds more than {MAX_FILES:,} files; give one case alone"
    unfinished = any(file.suffix.lower() in _UNFINISHED for file in files)
    sequences = {sequence_of(file, channel_order) for file in files if NIFTI_NAME.search(file.name)}
    return Arrival(name, kind, path, files, (kind == "zip" or set(SEQUENCES) <= sequences) and not unfinished, problem)


def prefix_of(path: Path, channel_order: Sequence[str] | None = None) -> str:
    """Return what the name of a sequence's file says before the sequence: "P1" of ``P1_T1_post.nii.gz``.

    Empty when it says nothing but the sequence; the whole name without its ending when it tells no sequence.
    """
    stem = NIFTI_NAME.sub("", path.name)
    words = list(re.finditer(r"[a-z0-9]+", stem.lower()))
    numbered = channel_order is not None and words and re.fullmatch(r"000[0-3]", words[-1].group())
    at = [word.start() for word in words if word.group() in ALIASES]
    if not numbered and not at:
        return stem
    head = stem[: words[-1].start() if numbered else at[-1]].rstrip("-_. ")
    return head[: len(_CONTRAST_TAIL.sub("", head.lower().replace("_", " ")))].rstrip("-_. ")


def _loose_cases(inbox: Path, loose: list[Path], channel_order: Sequence[str] | None) -> list[Arrival]:
    groups: dict[str, list[Path]] = {}
    for path in loose:
        groups.setdefault(prefix_of(path, channel_order), []).append(path)
    found = [_arrival(name, "files", inbox, tuple(files), channel_order) for name, files in groups.items() if name]
    if nameless := groups.get(""):
        problem = (
            f"{', '.join(p.name for p in nameless)}: these names do not tell whose files they are; "
            "put them into a folder that is named after the case"
        )
        found.append(Arrival("loose files", "files", inbox, tuple(nameless), complete=False, problem=problem))
    return found


def _same_names_refused(arrivals: list[Arrival]) -> list[Arrival]:
    """Return the arrivals, those whose names differ in nothing that every drive keeps with a problem."""
    by_name: dict[str, list[Arrival]] = {}
    for arrival in arrivals:
        by_name.setdefault(arrival.name.casefold(), []).append(arrival)
    return [
        arrival
        if len(same := by_name[arrival.name.casefold()]) == 1
        else replace(
            arrival,
            name=arrival.name if arrival is same[0] else f"{arrival.name} ({arrival.kind})",
            problem=f"{len(same)} things are called {arrival.name} ({', '.join(a.kind for a in same)}): their results "
            "would overwrite each other; rename or remove one",
        )
        for arrival in arrivals
    ]


def by_study(arrivals: Sequence[Arrival]) -> list[Arrival]:
    """Return the arrivals, a folder of several DICOM studies once for each of them, called after folder and date."""
    return _same_names_refused([one for arrival in arrivals for one in _studies_of(arrival)])


def _studies_of(arrival: Arrival) -> list[Arrival]:
    if arrival.kind != "folder" or arrival.problem or not arrival.needs_room:
        return [arrival]
    from glialite_runtime.dicom.parsing import study_of  # noqa: PLC0415 - the extra `dicom`
    from glialite_runtime.dicom.studies import labels_of  # noqa: PLC0415

    dates: dict[str, str] = {}
    try:
        for uid, date in filter(None, map(study_of, arrival.files)):
            dates.setdefault(uid, date)
    except (BackendUnavailableError, OSError):  # said when it is opened
        return [arrival]
    if not 1 < len(dates) <= _MOST_STUDIES:
        return [arrival]
    return [replace(arrival, name=f"{arrival.name}-{label}", study=uid) for uid, label in labels_of(dates).items()]


def mark_of(arrival: Arrival) -> str:
    """Return what tells the state of an arrival's files: a hash of their names, sizes and times of change.

    A file that is gone has a mark of its own. Contents are not read.
    """
    digest = hashlib.sha256(arrival.problem.encode())
    for path in arrival.files:
        name = path.relative_to(arrival.path.parent)  # the same when the drive gets another letter
        try:
            state = path.stat()
            digest.update(f"{str(name)!a}\t{state.st_size}\t{state.st_mtime_ns}\n".encode())
        except OSError:
            digest.update(f"{str(name)!a}\tgone\n".encode())
    return digest.hexdigest()[:32]


def readable(arrival: Arrival) -> bool:
    """Return whether every file can be opened now; one that is being copied cannot, on Windows."""
    for path in arrival.files:
        try:
            with path.open("rb") as stream:
                stream.read(1)
        except OSError:
            return False
    return True


def open_arrival(arrival: Arrival, scratch: Path, channel_order: Sequence[str] | None = None) -> Case:
    """Return the case that an arrival is.

    Parameters
    ----------
    arrival : Arrival
        One of `find_arrivals`.
    scratch : Path
        Where a zip may be unpacked, or images converted; made if need be. The case's files may lie there.
    channel_order : sequence of str, optional
        What nnU-Net's ``_0000`` to ``_0003`` are.

    Raises
    ------
    InputError
        It cannot be taken: its problem, a damaged zip, no image, two files for one sequence.
    OutputError
        `scratch` cannot be written.
    """
    if arrival.problem:
        raise InputError(arrival.problem)
    if arrival.kind == "files":
        return _case_of_loose(arrival, channel_order)
    folder = arrival.path
    if arrival.kind == "zip":
        folder = scratch / "unpacked"
        unpack(arrival.path, folder)
    if arrival.study:
        return replace(_converted(folder, scratch, arrival.study), name=arrival.name)
    return replace(case_in(folder, scratch, channel_order), name=arrival.name)


def _case_of_loose(arrival: Arrival, channel_order: Sequence[str] | None) -> Case:
    paths: dict[str, Path] = {}
    for path in arrival.files:
        sequence = sequence_of(path, channel_order)
        if sequence in paths:
            raise MissingSequenceError(
                f"both {paths[sequence].name} and {path.name} look like {sequence}; keep one of them"
            )
        if sequence is not None:
            paths[sequence] = path
    if not paths:
        raise MissingSequenceError(
            f"{', '.join(p.name for p in arrival.files)}: no name tells a sequence; names need t1n, t1c, t2w or t2f"
        )
    return case_from_files(paths, arrival.name)


def case_in(folder: Path, scratch: Path, channel_order: Sequence[str] | None = None) -> Case:
    """Return the case in a folder, or in the only one below that holds images: where a case of any format gets in.

    Raises
    ------
    InputError
        There is none, or a DICOM study whose series must be confirmed, or that cannot be converted here.
    """
    files = list(_files_below(folder))
    images = [path for path in files if NIFTI_NAME.search(path.name)]
    if images:
        homes = sorted({path.parent for path in images})
        if folder in homes:
            return find_case(folder, channel_order)
        if len(homes) > 1:
            raise InputError(
                f"{folder.name} holds images in {len(homes)} folders ({', '.join(h.name for h in homes[:4])}); "
                "give each case a folder of its own"
            )
        return find_case(homes[0], channel_order)
    if any(is_dicom(path) for path in files[:_LOOKED_AT]):
        return _converted(folder, scratch)
    raise InputError(f"{folder.name} holds no .nii or .nii.gz file")


def _converted(folder: Path, scratch: Path, wanted: str | None = None) -> Case:
    """Return the case of a DICOM study (None: the only one) that leaves nothing to ask; `scratch` gets its images."""
    from glialite_runtime.dicom.study import convert_study, read_study  # noqa: PLC0415 - the extra `dicom`

    try:
        study = read_study(folder, wanted)
        if study.doubtful:
            raise InputError(
                f"{folder.name}: which series is which must be confirmed: run glialite segment on it in a terminal"
            )
        place = scratch / "converted"
        place.mkdir(parents=True, exist_ok=True)
        return convert_study(study, place, "case")
    except (BackendUnavailableError, ConfigError) as error:  # the latter: the wanted study is there no more
        raise InputError(f"{folder.name} is a DICOM study: {error}") from error
    except OSError as error:
        raise OutputError(f"cannot write into {scratch}: {error.strerror or error}; free space") from error
