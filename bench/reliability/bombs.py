"""Small files that would become enormous, and archives that would write elsewhere: refused in words, in 5 s and 700 MB.

`make proof-bomb` runs it. Images go through `glialite segment`, archives through what unpacks them for `watch`.
"""

from __future__ import annotations

import copy
import gzip
import io
import json
import shutil
import struct
import tempfile
import warnings
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from bench.reliability.command import glialite
from bench.reliability.ledger import WORK, Ledger, arguments, run_slice, small_case, write_section
from bench.reliability.study import written_study

ZEROS: Final = gzip.compress(bytes(1 << 26), compresslevel=1)
"""64 MB in 290 kB; members of a gzip file may be repeated."""

UINT8, FLOAT64 = (2, 8), (64, 64)


def _image(good: bytes, shape: tuple[int, int, int], kind: tuple[int, int], members: int) -> bytes:
    """Return an image with a lying or honest header and `members` times 64 MB of zeros."""
    header = bytearray(gzip.decompress(good)[:352])
    struct.pack_into("<8h", header, 40, 3, *shape, 1, 1, 1, 1)
    struct.pack_into("<hh", header, 70, *kind)
    return gzip.compress(bytes(header), mtime=0) + ZEROS * members


def _offset(good: bytes) -> bytes:
    raw = bytearray(gzip.decompress(good))
    struct.pack_into("<f", raw, 108, 1e9)
    return gzip.compress(bytes(raw[:352]), mtime=0) + ZEROS * 16


IMAGES: Final[Mapping[str, Callable[[bytes], bytes]]] = {
    "4 GB behind the last voxel": lambda good: good + ZEROS * 64,
    "4 GB of zeros under a small header": lambda good: _image(good, (60, 60, 39), UINT8, 64),
    "the most voxels accepted, one byte each": lambda good: _image(good, (512, 512, 256), UINT8, 1),
    "the most voxels accepted, eight bytes each": lambda good: _image(good, (512, 512, 256), FLOAT64, 8),
    "35 million million voxels claimed": lambda good: _image(good, (32767, 32767, 32767), UINT8, 1),
    "just under the ratio of gzip": lambda good: _image(good, (400, 400, 400), UINT8, 1),
    "voxels said to begin after a gigabyte": _offset,
    "gzip in gzip": lambda _: gzip.compress(gzip.compress(ZEROS * 16)),
}


def _zip(*members: tuple[str, bytes], link: bool = False) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            info = zipfile.ZipInfo(name)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.external_attr = (0o120777 if link else 0o100644) << 16
            archive.writestr(info, content)
    return stream.getvalue()


def _lying() -> bytes:
    content = _zip(("a.nii", bytes(1 << 26)))
    return content.replace(struct.pack("<I", 1 << 26), struct.pack("<I", 100))


def _overlapping() -> bytes:
    """Return an archive whose 40 members are the same 64 MB."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("0.nii", bytes(1 << 26))
        for number in range(1, 40):
            again = copy.copy(archive.filelist[0])
            again.filename = f"{number}.nii"
            archive.filelist.append(again)
    return stream.getvalue()


ARCHIVES: Final[Mapping[str, Callable[[], bytes]]] = {
    "../ in a name": lambda: _zip(("../escaped.nii", b"x")),
    "../ deep in a name": lambda: _zip(("a/b/../../../escaped.nii", b"x")),
    "an absolute name": lambda: _zip(("/escaped.nii", b"x")),
    "a drive letter": lambda: _zip(("C:\\escaped.nii", b"x")),
    "backslashes": lambda: _zip(("..\\escaped.nii", b"x")),
    "a link": lambda: _zip(("t1n.nii.gz", b"/etc/passwd"), link=True),
    "a name with a zero byte": lambda: _zip(("t1n.niiZ", b"x")).replace(b"t1n.niiZ", b"t1n.nii\0"),
    "two names that are one on Windows": lambda: _zip(("A.nii", b"x"), ("a.nii", b"y")),
    "2.5 GB of zeros in 64 kB": _overlapping,
    "a size that lies": _lying,
    "cut off": lambda: _zip(("a.nii", b"x" * 9999))[:-30],
    "30 000 files": lambda: _zip(*((str(n), b"") for n in range(30_000))),
}


def image_trial(name: str, base: Path, bundle: Path) -> dict[str, Any]:
    """Segment a case, one sequence of which is a bomb; and one, all of which are."""
    worst: dict[str, Any] = {}
    for count in (1, 4):
        with tempfile.TemporaryDirectory() as scratch:
            folder, out = Path(scratch) / "case", Path(scratch) / "out"
            folder.mkdir()
            for number, path in enumerate(sorted(base.iterdir())):
                good = path.read_bytes()
                (folder / path.name).write_bytes(IMAGES[name](good) if number < count else good)
            ended = glialite("segment", str(folder), "--out", str(out), "--bundle", str(bundle), "--threads", "1")
            fault = ended.fault or ("" if ended.code == 3 and not list(out.rglob("*.*")) else f"exit code {ended.code}")
        found = {"what": name, "seconds": ended.seconds, "peak_mb": ended.peak_mb, "fault": fault}
        worst = found if not worst or fault or found["peak_mb"] > worst["peak_mb"] else worst
    return {**worst, "said": ended.said.strip()[-200:]}


def archive_trial(name: str) -> dict[str, Any]:
    """Unpack a hostile archive into a folder; nothing may appear beside it."""
    from glialite_runtime.clinic.archive import unpack
    from glialite_runtime.errors import InputError

    with tempfile.TemporaryDirectory() as scratch:
        archive, target = Path(scratch) / "in.zip", Path(scratch) / "deep" / "target"
        archive.write_bytes(ARCHIVES[name]())
        target.mkdir(parents=True)
        said, fault = "", "unpacked"
        try:
            unpack(archive, target)
        except InputError as error:
            said, fault = str(error), ""
        except Exception as error:  # noqa: BLE001 - the proof is that there is none
            fault = f"{type(error).__name__}: {error}"
        outside = [p for p in Path(scratch).rglob("*") if p not in (archive, target, target.parent)]
        outside = [p for p in outside if target not in p.parents] + list(Path("/").glob("escaped*"))
        if outside or any(p.is_symlink() for p in target.rglob("*")):
            fault = f"wrote {outside or 'a link'}"
    return {"what": f"archive: {name}", "seconds": 0.0, "peak_mb": 0, "fault": fault, "said": said[-200:]}


def directory_trial(study: Path, bundle: Path) -> dict[str, Any]:
    """Segment a study whose FLAIR lies beside its folder and is named by a DICOMDIR in it; it must not be found."""
    from pydicom import dcmread
    from pydicom.dataset import Dataset
    from pydicom.uid import MediaStorageDirectoryStorage

    with tempfile.TemporaryDirectory() as scratch:
        folder, secret, out = (Path(scratch) / name for name in ("study", "secret", "out"))
        shutil.copytree(study, folder)
        secret.mkdir()
        records = []
        for path in sorted(folder.glob("t2f-*.dcm")):
            path.rename(secret / path.name)
            record = Dataset()
            with warnings.catch_warnings(action="ignore"):  # of names that no DICOMDIR may hold
                record.ReferencedFileID = ["..", "secret", path.name]
            records.append(record)
        directory = dcmread(next(iter(sorted(folder.iterdir()))), stop_before_pixels=True)
        directory.file_meta.MediaStorageSOPClassUID = directory.SOPClassUID = MediaStorageDirectoryStorage
        directory.DirectoryRecordSequence = records
        with warnings.catch_warnings(action="ignore"):
            directory.save_as(folder / "DICOMDIR")
        words = ("segment", str(folder), "--yes", "--out", str(out), "--bundle", str(bundle), "--threads", "1")
        ended = glialite(*words)
        fault = ended.fault
        if not fault:
            report = json.loads((out / "study" / "study-report.json").read_text())
            fault = "it was followed" if "t2f" in report["sequences"]["present"] else ""
    took = {"seconds": ended.seconds, "peak_mb": ended.peak_mb}
    return {"what": "a DICOMDIR", **took, "fault": fault, "said": ended.said.strip()[-200:]}


def summary(trials: list[dict[str, Any]]) -> str:
    """Return the figures."""
    wrong = [t for t in trials if t["fault"]]
    images = [t for t in trials if t["what"] in IMAGES]
    lines = [
        f"{len(images)} kinds of bombs (in one sequence and in all four), {len(ARCHIVES)} hostile archives and a "
        f"DICOMDIR that names a series beside its folder: {len(wrong)} were not refused in words, took more than 5 s "
        "of processor time or 700 MB, or wrote "
        "elsewhere; the DICOMDIR was not followed.",
        "",
        "| bomb | seconds | MB |",
        "| --- | --- | --- |",
        *(f"| {t['what']} | {t['seconds']:.1f} | {t['peak_mb']} |" for t in images),
        "",
        "Archives: " + "; ".join(ARCHIVES) + ".",
    ]
    return "\n".join(lines)


def main() -> None:
    """Run a slice, and write the figures."""
    given = arguments(__doc__ or "", len(IMAGES) + len(ARCHIVES) + 1).parse_args()
    ledger, base = Ledger("bombs"), small_case(given.cases, WORK)

    def trial(number: int) -> dict[str, Any]:
        if number < len(IMAGES):
            return image_trial(list(IMAGES)[number], base, given.bundle)
        if number == len(IMAGES) + len(ARCHIVES):
            return directory_trial(written_study(given.cases, WORK), given.bundle)
        return archive_trial(list(ARCHIVES)[number - len(IMAGES)])

    run_slice(ledger, given.count, given.seconds, trial)
    write_section("bombs", summary(ledger.trials))
    if wrong := [t for t in ledger.trials if t["fault"]]:
        raise SystemExit("\n".join(map(str, wrong)))


if __name__ == "__main__":
    main()
