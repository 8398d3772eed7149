"""One DICOM series into one NIfTI file, by dcm2niix in a child process that cannot take more than it is given."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Final

from glialite_runtime import nifti
from glialite_runtime.dicom.frames import frame_axes
from glialite_runtime.dicom.series import Series
from glialite_runtime.errors import BackendUnavailableError, GeometryError, InputError, OutputError

__all__ = ["convert_series"]

_SECONDS: Final = 120
_MEMORY_BYTES: Final = 700 << 20
_OPTIONS: Final = (
    "-g", "i",  # no defaults from a file in somebody's home
    "-b", "n",  # no side-car: it repeats what the header says of the patient
    "-z", "n",
    "-m", "y",  # the slices are known to belong together; small differences between them must not split them
    "-x", "i",  # neither crop nor rotate
    "-d", "0",
    "-f", "converted",
)  # fmt: skip
_FAILURES: Final = {
    2: "finds no image in it",
    4: "finds it damaged",
    8: "could read only some of its slices",
    10: "finds slices missing",
}
_DAMAGED: Final = "it is damaged, or compressed in a way that is not read; export it again, uncompressed"


def convert_series(series: Series, folder: Path) -> Path:
    """Convert a series and check that every pixel lies where its DICOM header says.

    Parameters
    ----------
    series : Series
        One without a `problem`.
    folder : Path
        Empty, on a disk with room for twice the series; the file is written there, copies of the slices are removed
        again.

    Returns
    -------
    Path
        An uncompressed NIfTI file with one volume.

    Raises
    ------
    InputError
        dcm2niix cannot convert the series, or would need more than 120 s, 700 MB or the bytes that it may have.
    GeometryError
        What came out is not one volume on the grid of the series.
    BackendUnavailableError
        dcm2niix is not installed, or may not be executed.
    OutputError
        The folder cannot be written.
    """
    name, program = series.number or series.series_uid, _program()
    slices = folder / "slices"
    try:
        slices.mkdir(parents=True)
        for number, path in enumerate(dict.fromkeys(frame.path for frame in series.frames)):
            shutil.copyfile(path, slices / f"{number:05}.dcm")
        _run([program, *_OPTIONS, "-o", str(folder), str(slices)], folder / "log.txt", series)
        shutil.rmtree(slices)
    except OSError as error:
        raise OutputError(
            f"cannot prepare series {name} in {folder}: {error.strerror or error}; free space there"
        ) from error
    found = sorted(folder.glob("*.nii"))
    if len(found) != 1:
        raise GeometryError(
            f"series {name} became {len(found)} volumes, one was expected; export it again as one volume"
        )
    _, shape, affine = nifti.read_header(found[0])
    frame_axes(shape, affine, series)
    return found[0]


def _program() -> str:
    try:
        import dcm2niix  # noqa: PLC0415 - of the extra `dicom`
    except ModuleNotFoundError as error:
        raise BackendUnavailableError(
            "converting DICOM needs dcm2niix, which is not installed: pip install 'glialite[dicom]'"
        ) from error
    return str(dcm2niix.bin)


def _run(command: list[str], log: Path, series: Series) -> None:
    grid = series.grid
    pixels = len(series.frames) * grid.rows * grid.columns if grid else 0
    with log.open("wb") as stream:
        try:
            child = subprocess.Popen(  # noqa: S603 - our own program and paths that we made
                command, stdin=subprocess.DEVNULL, stdout=stream, stderr=stream, cwd=log.parent, env=_environment()
            )
        except OSError as error:
            raise BackendUnavailableError(
                f"{command[0]} cannot be started ({error.strerror or error}); install GliaLite where programs may run"
            ) from error
        _limit(child.pid, 4 * pixels + (1 << 20))
        try:
            code = child.wait(_SECONDS)
        except subprocess.TimeoutExpired as error:
            raise InputError(f"series {series.number} is not converted after {_SECONDS} s; {_DAMAGED}") from error
        finally:
            child.kill()
            child.wait()
    if code == 0:
        return
    if code in (-signal.SIGXFSZ, -signal.SIGXCPU) if sys.platform != "win32" else False:
        reason = "takes more space or time than its size explains"
    else:
        reason = _FAILURES.get(code, f"stops with code {code}")
    raise InputError(f"series {series.number} cannot be converted: dcm2niix {reason}; {_DAMAGED}")


def _environment() -> dict[str, str]:
    root = os.environ.get("SYSTEMROOT")  # without it Windows starts nothing
    return {"LC_ALL": "C"} | ({"SYSTEMROOT": root} if root else {})


def _limit(pid: int, output_bytes: int) -> None:
    """Limit the memory, processor time and output of a child; where the system has no such limits, time alone is."""
    if sys.platform != "linux":
        return
    import resource  # noqa: PLC0415 - not on Windows

    for kind, most in (
        (resource.RLIMIT_AS, _MEMORY_BYTES),
        (resource.RLIMIT_CPU, _SECONDS),
        (resource.RLIMIT_FSIZE, output_bytes),
        (resource.RLIMIT_CORE, 0),
    ):
        try:
            resource.prlimit(pid, kind, (most, most))
        except ProcessLookupError:  # it has ended already
            return
