"""Find the series of a folder by their headers, whatever the files are called, and say how their slices lie."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.dicom.headers import Grid, Header, Identity, Plane, Protocol
from glialite_runtime.dicom.parsing import read_header
from glialite_runtime.dicom.studies import select_study
from glialite_runtime.errors import InputError

__all__ = ["Frame", "Scan", "Series", "scan_folder"]

_MAX_FILES: Final = 20_000
_MAX_DEPTH: Final = 8
_SAME_DIRECTION: Final = 0.9999  # cosine, 0.8 degrees
_STRAY_MM: Final = 0.2
_NAMED: Final = 3


@dataclass(frozen=True, slots=True)
class Frame:
    """One slice: its file, identifier, number within the file (from 1) and place."""

    path: Path
    sop_instance_uid: str
    number: int
    plane: Plane


@dataclass(frozen=True, slots=True)
class Series:
    """Slices of one series that share orientation, pixel grid, echo and kind of image.

    Attributes
    ----------
    series_uid, number, frame_of_reference_uid : str
        As they stand in the files. A series of two echoes or three orientations makes two or three of these.
    identity, protocol
        Whose and how, from the first file.
    acquired : datetime or None
        Earliest start of an acquisition.
    grid : Grid or None
        None for what is no image in space (structured reports and the like).
    frames : tuple of Frame
        Sorted along the normal (direction of row index × direction of column index).
    spacing_mm : float
        Between slices; 0 where that is undefined.
    problem : str or None
        Why it cannot be a volume, as the end of a sentence that begins with its name.
    """

    series_uid: str
    number: str
    frame_of_reference_uid: str
    identity: Identity
    protocol: Protocol
    acquired: datetime | None
    grid: Grid | None
    frames: tuple[Frame, ...]
    spacing_mm: float
    problem: str | None

    @property
    def coverage_mm(self) -> float:
        """Height of the stack of slices."""
        return len(self.frames) * self.spacing_mm

    @property
    def coarsest_mm(self) -> float:
        """Longest side of a voxel."""
        return max(self.spacing_mm, self.grid.row_mm, self.grid.column_mm) if self.grid else 0.0


@dataclass(frozen=True, slots=True)
class Scan:
    """What a folder holds: series in the order of their numbers, and one sentence for each thing that was left out.

    `label` tells the study from the others of the folder (see `studies.Selected`).
    """

    series: tuple[Series, ...]
    notes: tuple[str, ...]
    label: str = ""


def scan_folder(folder: Path, study: str | None = None) -> Scan:
    """Read the headers of all files below a folder and group those of one study into series.

    Parameters
    ----------
    folder : Path
        Of one study, or of several.
    study : str, optional
        Which of several, see `select_study`.

    Raises
    ------
    InputError
        No folder, a symbolic link in it, more than 20 000 files, no DICOM file, two patients in a study, more than one
        study where none is chosen.
    ConfigError
        `study` is none of them.
    BackendUnavailableError
        pydicom is not installed.
    """
    if not folder.is_dir() or folder.is_symlink():
        raise InputError(f"{folder} is not a folder; give the folder of one DICOM study")
    headers: list[Header] = []
    damaged: list[str] = []
    foreign = 0
    for path in _files(folder):
        try:
            header = read_header(path)
        except (InputError, OSError) as error:
            damaged.append(str(error))
            continue
        if header is None:
            foreign += 1
        elif header.sop_instance_uid and header.series_uid:
            headers.append(header)
        else:
            damaged.append(f"{path.name} has no identifier of its image or series")
    if not headers:
        if damaged:
            raise InputError(f"{folder} holds no DICOM image that can be read: {damaged[0]}")
        raise InputError(f"{folder} holds no DICOM image that can be read; give another folder")
    selected = select_study(headers, study, folder)
    distinct, duplicates, clashing = _distinct(selected.headers)
    notes = list(selected.notes)
    notes += [f"{foreign} files are not DICOM images and were ignored."] if foreign else []
    notes += [f"{duplicates} files are copies of others and were ignored."] if duplicates else []
    if damaged:
        more = f" (and {len(damaged) - _NAMED} more)" if len(damaged) > _NAMED else ""
        notes.append(f"{len(damaged)} DICOM files were left out: {'; '.join(damaged[:_NAMED])}{more}.")
    found = [_series(members, clashing) for members in _grouped(distinct)]
    return Scan(tuple(sorted(found, key=_by_number)), tuple(notes), selected.label)


def _by_number(series: Series) -> tuple[int, str, float]:
    return int(series.number) if series.number.isdecimal() else 1 << 31, series.series_uid, series.protocol.te_ms or 0


def _files(folder: Path) -> Iterator[Path]:
    """Yield the regular files below a folder by name; a link anywhere is refused, nothing outside is ever opened."""
    count = 0
    for root, folders, names in os.walk(folder):
        folders.sort()
        if len(Path(root).relative_to(folder).parts) >= _MAX_DEPTH:
            folders.clear()
        for name in [*folders, *sorted(names)]:
            path = Path(root, name)
            if path.is_symlink():
                raise InputError(f"{path} is a link; copy the study into a folder without links")
        for name in sorted(names):
            path = Path(root, name)
            if not path.is_file():  # a pipe or a device would wait for ever
                continue
            count += 1
            if count > _MAX_FILES:
                raise InputError(f"{folder} holds more than {_MAX_FILES:,} files; give the folder of one study")
            yield path


def _distinct(headers: Sequence[Header]) -> tuple[list[Header], int, frozenset[str]]:
    """Return the headers without copies, how many were copies, and series where two images share an identifier."""
    first: dict[str, Header] = {}
    duplicates, clashing = 0, set()
    for header in headers:
        known = first.setdefault(header.sop_instance_uid, header)
        if known is not header:
            duplicates += 1
            if replace(header, path=known.path) != known:
                clashing |= {known.series_uid, header.series_uid}
    return list(first.values()), duplicates, frozenset(clashing)


def _grouped(headers: Sequence[Header]) -> list[list[tuple[Header, Frame | None]]]:
    """Return frames that belong to one stack together, each with its header; files without frames by their series."""
    groups: dict[tuple[object, ...], list[list[tuple[Header, Frame | None]]]] = defaultdict(list)
    for header in headers:
        how = header.protocol
        key = (header.series_uid, how.sop_class_uid, how.image_type, how.scanning, how.diffusion, header.grid,
               round(how.te_ms or 0, 1), round(how.ti_ms or 0))  # fmt: skip
        if not header.planes:
            if not groups[key]:
                groups[key].append([])
            groups[key][0].append((header, None))
        for number, plane in enumerate(header.planes, 1):
            frame = Frame(header.path, header.sop_instance_uid, number, plane)
            for members in groups[key]:
                other = members[0][1]
                if other is not None and _parallel(plane, other.plane):
                    members.append((header, frame))
                    break
            else:
                groups[key].append([(header, frame)])
    return [members for stacks in groups.values() for members in stacks]


def _parallel(first: Plane, second: Plane) -> bool:
    pairs = ((first.along_row, second.along_row), (first.along_column, second.along_column))
    return all(sum(map(float.__mul__, a, b)) > _SAME_DIRECTION for a, b in pairs)


def _series(members: Sequence[tuple[Header, Frame | None]], clashing: frozenset[str]) -> Series:
    header = members[0][0]
    frames = [frame for _, frame in members if frame is not None]
    places = np.array([frame.plane.position_mm for frame in frames], np.float64).reshape(-1, 3)
    files = {h.path for h, _ in members}
    problem = next((h.problem if len(files) == 1 else f"holds {h.path.name}, which {h.problem}"
                    for h, _ in members if h.problem), None)  # fmt: skip
    if header.series_uid in clashing:
        problem = "holds different images under one identifier"
    elif len({h.frame_of_reference_uid for h, _ in members}) > 1:
        problem = "changes its frame of reference between slices"
    elif problem is None and len(header.planes) > 1:
        problem = _not_alone(len(files), len(frames), len(header.planes))
    spacing = 0.0
    if frames:
        plane = frames[0].plane
        normal = np.cross(plane.along_row, plane.along_column)
        order = np.argsort(places @ normal, kind="stable")
        frames = [frames[int(i)] for i in order]
        spacing, uneven = _stacking(places[order], normal)
        problem = problem or uneven
    moments = [h.acquired for h, _ in members if h.acquired is not None]
    return Series(
        header.series_uid, header.series_number, header.frame_of_reference_uid, header.identity, header.protocol,
        min(moments, default=None), header.grid, tuple(frames), spacing, problem,
    )  # fmt: skip


def _not_alone(files: int, frames: int, held: int) -> str | None:
    """Return why a stack of slices in files of many frames, the first of `held`, cannot be converted alone."""
    if files > 1:
        return f"lies in {files} files of many frames; export it as one file a slice"
    if frames < held:
        return f"shares its file with other stacks of slices ({frames} of {held} frames); export it as one file a slice"
    return None


def _stacking(places: npt.NDArray[np.float64], normal: npt.NDArray[np.float64]) -> tuple[float, str | None]:
    """Return the distance between slices, and what is wrong with it; `places` (n, 3) are sorted along the normal."""
    if len(places) < 2:
        return 0.0, "is a single slice"
    gaps = np.diff(places @ normal)
    if gaps.min() < 0.01:
        distinct = 1 + int((gaps >= 0.01).sum())
        return 0.0, f"shows the same place more than once ({len(places)} slices at {distinct} places)"
    spacing = float(np.median(gaps))
    wide = gaps > 1.5 * spacing
    if wide.any():
        lacking = int(np.rint(gaps[wide] / spacing - 1).sum())
        return spacing, f"lacks {lacking} of its slices (first after slice {int(np.argmax(wide)) + 1}); export it again"
    straight = places[0] + np.linspace(0, 1, len(places))[:, None] * (places[-1] - places[0])
    if np.abs(places - straight).max() > _STRAY_MM:
        return spacing, f"has slices {gaps.min():.2f} to {gaps.max():.2f} mm apart or shifted against each other"
    mean = float((places[-1] - places[0]) @ normal) / (len(places) - 1)
    aside = np.linalg.norm(places[-1] - places[0] - normal * mean * (len(places) - 1))
    if aside > _STRAY_MM + 0.01 * mean * (len(places) - 1):
        return mean, f"is sheared: its slices shift {aside:.1f} mm sideways (tilted gantry); export it reformatted"
    return mean, None
