"""Find the files of a case: which file is which sequence, by name, never by guessing between two."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Final

from glialite_runtime.errors import InputError, MissingSequenceError
from glialite_runtime.sequences import ALIASES, SEQUENCES

if TYPE_CHECKING:
    from glialite_runtime.dicom.study import Study

__all__ = [
    "NIFTI_NAME",
    "Case",
    "case_from_files",
    "find_case",
    "find_cases",
    "is_dicom",
    "is_dicom_folder",
    "sequence_of",
]

_CONTRAST_WORDS = frozenset({"ce", "contrast", "gad", "gadolinium", "gd", "post"})
NIFTI_NAME: Final = re.compile(r"\.nii(\.gz)?$", re.IGNORECASE)
_LOOKED_AT: Final = 200  # files of a folder, to tell whether it is a DICOM study
_NNUNET_CHANNEL = re.compile(r"^000[0-3]$")


@dataclass(frozen=True, slots=True)
class Case:
    """The files of one imaging session.

    Attributes
    ----------
    name : str
        Name of the case, used for output files.
    paths : mapping of str to Path
        Sequence -> file, for the sequences that are there.
    label : Path or None
        The label map, where there is one.
    study : Study or None
        The DICOM study that the files were converted from.
    """

    name: str
    paths: Mapping[str, Path]
    label: Path | None = None
    study: Study | None = None


def _stem(path: Path) -> str:
    return NIFTI_NAME.sub("", path.name)


def _words(path: Path) -> list[str]:
    return [word for word in re.split(r"[^a-z0-9]+", _stem(path).lower()) if word]


def sequence_of(path: Path, channel_order: Sequence[str] | None = None) -> str | None:
    """Return the sequence that a file's name tells, or None when it tells none.

    The last word of the name that is a known alias decides; a plain T1 beside a word such as `gd` or `post` is `t1c`.
    nnU-Net's channel numbers (`_0000` to `_0003`) are understood only when `channel_order` declares them.
    """
    words = _words(path)
    if words and _NNUNET_CHANNEL.match(words[-1]):
        return channel_order[int(words[-1])] if channel_order is not None else None
    known = [ALIASES[word] for word in words if word in ALIASES]
    if not known:
        return None
    return "t1c" if known[-1] == "t1n" and _CONTRAST_WORDS & set(words) else known[-1]


def find_case(folder: Path, channel_order: Sequence[str] | None = None) -> Case:
    """Return the case that lies in a folder; its name is the folder's.

    Raises
    ------
    InputError
        The folder does not exist or holds no NIfTI file.
    MissingSequenceError
        No file is recognised, or two files claim to be one sequence.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give a case folder with one NIfTI file a sequence")
    files = sorted(p for p in folder.iterdir() if NIFTI_NAME.search(p.name) and p.is_file())
    if not files:
        raise InputError(f"{folder} holds no .nii or .nii.gz file")
    paths: dict[str, Path] = {}
    label: Path | None = None
    for path in files:
        sequence = None if _words(path)[-1:] == ["seg"] else sequence_of(path, channel_order)
        if sequence is None:
            label = path if _words(path)[-1:] == ["seg"] else label
        elif sequence in paths:
            raise MissingSequenceError(
                f"both {paths[sequence].name} and {path.name} look like {sequence}; keep one in {folder}, "
                "or give the four files with --t1n --t1c --t2w --t2f"
            )
        else:
            paths[sequence] = path
    if not paths:
        numbered = any(_NNUNET_CHANNEL.match(_words(p)[-1]) for p in files if _words(p))
        hint = "declare what _0000 to _0003 are with --channel-order" if numbered else "names need t1n, t1c, t2w, t2f"
        raise MissingSequenceError(f"no file in {folder} is recognised as a sequence ({hint})")
    ordered: dict[str, Path] = {s: paths[s] for s in SEQUENCES if s in paths}
    return Case(folder.resolve().name, ordered, label)


def find_cases(folder: Path, channel_order: Sequence[str] | None = None) -> list[Case]:
    """Return the cases in the sub-folders of `folder`, by name; hidden folders and folders without NIfTI are skipped.

    Raises
    ------
    InputError
        There is no case at all.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give one that holds a folder a case")
    found = [
        find_case(sub, channel_order)
        for sub in sorted(folder.iterdir())
        if sub.is_dir() and not sub.name.startswith(".") and any(sub.glob("*.nii*"))
    ]
    if not found:
        raise InputError(f"{folder} holds no case folder with NIfTI files")
    return found


def case_from_files(files: Mapping[str, Path], name: str | None = None) -> Case:
    """Return the case made of loose files; without `name` it is called by their longest common prefix."""
    paths: dict[str, Path] = {s: files[s] for s in SEQUENCES if s in files}
    stems = [_stem(p) for p in paths.values()]
    prefix = os.path.commonprefix(stems) if len(stems) > 1 else ""  # noqa: RUF071 - of names, not of paths
    whole_words = re.match(r".*[-_. ]", prefix)  # "case-t" of case-t1n and case-t2w is "case"
    chosen = name or (whole_words.group().rstrip("-_. ") if whole_words else "") or "case"
    if not re.fullmatch(r"[\w.\- ]+", chosen) or chosen.startswith("."):
        raise InputError(
            f"the case name {chosen!r} cannot be a file name; give one of letters, digits, - and _ with --case"
        )
    return Case(chosen, paths)


def is_dicom(path: Path) -> bool:
    """Return whether a file starts as DICOM files do; one that cannot be read does not."""
    with suppress(OSError), path.open("rb") as stream:
        return stream.read(132)[128:] == b"DICM"
    return False


def is_dicom_folder(folder: Path) -> bool:
    """Return whether a folder holds a DICOM file and no NIfTI file, by the first bytes of its first 200 files."""
    if not folder.is_dir() or any(NIFTI_NAME.search(path.name) for path in folder.glob("*")):
        return False
    return any(path.is_file() and is_dicom(path) for path in islice(folder.rglob("*"), _LOOKED_AT))
