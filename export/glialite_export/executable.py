"""Package the clinic's program: one folder that runs without Python, with the bundle, licences and a bill of materials.

PyInstaller gathers what `glialite` imports. What is left out on purpose: what could open a network connection, what the
runtime never uses, and the C++ library, which every Linux has and whose copy would ask for a newer glibc.
"""

from __future__ import annotations

import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
import tarfile
import time
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import glialite_runtime
from glialite_runtime import __version__
from glialite_runtime.bundle import read_bundle
from glialite_runtime.errors import BackendUnavailableError, CheckFailedError, ConfigError, ExportError, OutputError
from glialite_runtime.files import replacing, write_json
from glialite_runtime.trust.minisign import TRUSTED_KEYS, PublicKey, parse_public_key, trusted_keys

from glialite_export.elf import needed_glibc
from glialite_export.furnishing import BILL, describe
from glialite_export.sbom import Held

__all__ = ["MAX_ARCHIVE_BYTES", "MAX_FOLDER_BYTES", "Package", "package"]

MAX_FOLDER_BYTES: Final = 180_000_000
MAX_ARCHIVE_BYTES: Final = 60_000_000
_INSIDE: Final = "_internal"
_NEEDED: Final = ("PyInstaller", "pydicom", "highdicom", "dcm2niix")
_NO_DATA: Final = frozenset({".py", ".pyc", ".pyi", ".so", ".pyd", ".c", ".inc", ".typed"})
_EXCLUDED: Final = (
    *("ssl", "requests", "urllib3", "h2", "hpack", "hyperframe", "idna", "certifi", "charset_normalizer", "socks"),
    *("scipy", "matplotlib", "pandas", "torch", "sympy", "onnx", "tensorrt", "cuda", "IPython", "rich", "tqdm"),
    *("onnxruntime.transformers", "onnxruntime.quantization", "onnxruntime.tools", "onnxruntime.backend"),
    *("setuptools", "pkg_resources", "pytest", "hypothesis", "yaml", "threadpoolctl", "numpy.f2py", "numpy.distutils"),
    *("tkinter", "_tkinter", "readline", "curses", "lib2to3", "ensurepip", "idlelib", "turtledemo"),
    *("PIL._avif", "PIL._webp", "PIL._imagingtk", "PIL.ImageQt", "PIL.ImageTk", "PIL.ImageShow"),
)
_LEFT_TO_THE_SYSTEM: Final = ("libstdc++.so.6", "libgcc_s.so.1")

_SPEC: Final = """\
import json
from pathlib import Path
from PyInstaller.utils.hooks import collect_data_files
settings = json.loads(Path({settings!r}).read_text())
data = [*settings["data"], *collect_data_files("highdicom")]
found = Analysis([settings["entry"]], pathex=settings["paths"], datas=data, binaries=settings["binaries"],
                 hiddenimports=settings["modules"], excludes=settings["excluded"])
found.binaries = [item for item in found.binaries if Path(item[0]).name not in settings["left"]]
Path(settings["contents"]).write_text(json.dumps([list(found.pure), list(found.binaries), list(found.datas)]))
program = EXE(PYZ(found.pure), found.scripts, [], exclude_binaries=True, name="glialite", console=True, upx=False)
COLLECT(program, found.binaries, found.datas, name="glialite", upx=False)
"""

_ENTRY: Final = """\
import multiprocessing
multiprocessing.freeze_support()
from glialite_runtime.cli import main
main()
"""


@dataclass(frozen=True, slots=True)
class Package:
    """What was made.

    Attributes
    ----------
    folder, archive : Path
        The program, and the same as one compressed file.
    folder_bytes, archive_bytes : int
        Their sizes.
    glibc : str or None
        The C library that it needs at least; None where there is no glibc.
    glibc_because_of : str or None
        The file that asks for it.
    help_seconds : float
        What ``glialite --help`` took with its files read from disk.
    selftest : dict
        What ``glialite selftest --json`` said in it.
    """

    folder: Path
    archive: Path
    folder_bytes: int
    archive_bytes: int
    glibc: str | None
    glibc_because_of: str | None
    help_seconds: float
    selftest: dict[str, Any]


def package(bundle: Path, out: Path, trusted: tuple[Path, ...] = ()) -> Package:
    """Make the program under `out`, try it without an environment, and compress it.

    Parameters
    ----------
    bundle : Path
        Bundle (folder or zip) to put inside.
    out : Path
        Folder; ``glialite-<version>-<system>`` and an archive of it appear there when all is well.
    trusted : tuple of Path
        Public keys: the program will use only bundles that they signed. Without any, those of this installation.

    Raises
    ------
    BackendUnavailableError
        PyInstaller or a library that belongs inside is not installed.
    ExportError
        PyInstaller fails, or the result is too large.
    CheckFailedError
        The program does not run here.
    OutputError
        `out` cannot be written, or holds something else under that name.
    """
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise BackendUnavailableError(
            f"packaging needs {', '.join(missing)}, which is not installed: pip install 'glialite[package,dicom]'"
        )
    keys = tuple(map(_key, trusted)) or trusted_keys()
    checked = read_bundle(bundle, keys)
    final = out / f"glialite-{__version__}-{platform.system().lower()}-{platform.machine().lower()}"
    if final.exists() and not (final / BILL).is_file():
        raise OutputError(f"{final} exists and was not made by this command; choose another place with --out")
    work = out / ".package.part"
    try:
        shutil.rmtree(work, ignore_errors=True)
        work.mkdir(parents=True)
        folder, held = _freeze(work)
        _furnish(folder, bundle, keys)
        glibc, culprit = needed_glibc(folder) or (None, None)
        describe(folder, held, checked, glibc)
        help_seconds, selftest = _try(folder)
        shutil.rmtree(final, ignore_errors=True)
        folder.replace(final)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}; free 1 GB there") from error
    finally:
        shutil.rmtree(work, ignore_errors=True)
    archive = _compress(final)
    sizes = (sum(p.stat().st_size for p in final.rglob("*") if p.is_file()), archive.stat().st_size)
    for path, size, limit in zip((final, archive), sizes, (MAX_FOLDER_BYTES, MAX_ARCHIVE_BYTES), strict=True):
        if size > limit:
            raise ExportError(f"{path} is {size / 1e6:.0f} MB, {limit / 1e6:.0f} MB are allowed; see {final / BILL}")
    because = None if culprit is None else culprit.relative_to(folder).as_posix()
    return Package(final, archive, *sizes, glibc, because, help_seconds, selftest)


def _key(path: Path) -> PublicKey:
    try:
        return parse_public_key(path.read_text(encoding="ascii"), path.stem)
    except (OSError, ValueError) as error:
        raise ConfigError(f"{path} is not a public key ({error}); give a .pub file of edge-export keygen") from error


def _freeze(work: Path) -> tuple[Path, list[Held]]:
    """Let PyInstaller gather the program under `work`; return its folder and what it holds."""
    runtime = Path(glialite_runtime.__file__).parent
    converter = Path(importlib.import_module("dcm2niix").bin)
    entry, spec, settings, contents = (work / name for name in ("run.py", "glialite.spec", "in.json", "out.json"))
    entry.write_text(_ENTRY)
    spec.write_text(_SPEC.format(settings=str(settings)))
    modules = [".".join(p.relative_to(runtime.parent).with_suffix("").parts) for p in runtime.rglob("*.py")]
    data = [
        p for p in runtime.rglob("*") if p.is_file() and p.suffix not in _NO_DATA and "default_bundle" not in p.parts
    ]
    chosen = {
        "entry": str(entry),
        "paths": [str(runtime.parent)],
        "data": [(str(p), str(p.parent.relative_to(runtime.parent))) for p in data],
        "binaries": [(str(converter.with_suffix(".exe" if sys.platform == "win32" else "")), "dcm2niix")],
        "modules": [*sorted(m.removesuffix(".__init__") for m in modules), "glialite_runtime._int8", *_NEEDED[1:]],
        "excluded": _EXCLUDED,
        "left": _LEFT_TO_THE_SYSTEM,
        "contents": str(contents),
    }
    settings.write_text(json.dumps(chosen))
    command = [sys.executable, "-m", "PyInstaller", "--noconfirm", "--log-level=WARN", "--clean"]
    command += [f"--workpath={work / 'build'}", f"--distpath={work / 'dist'}", str(spec)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)  # noqa: S603
    if done.returncode or not contents.is_file():
        raise ExportError(f"PyInstaller failed: {done.stderr.strip()[-2000:] or done.stdout[-2000:]}")
    folder = work / "dist" / "glialite"
    pure, *files = json.loads(contents.read_text())
    held = [Held(name, Path(source)) for name, source, _ in pure if source and source != "-"]
    held += [
        Held(f"{_INSIDE}/{name}", Path(source)) for group in files for name, source, kind in group if kind != "SYMLINK"
    ]
    # PyInstaller links libraries of wheels at the top once more. Wheels find theirs without; a USB stick has no links.
    for link in [path for path in folder.rglob("*") if path.is_symlink()]:
        link.unlink()
    _strip([folder / item.name for item in held if _carries_debugging(item)])
    bootloader = Path(str(importlib.util.find_spec("PyInstaller").submodule_search_locations[0])) / "__init__.py"  # type: ignore[union-attr, index]
    return folder, [*held, Held(folder.name, bootloader)]


def _carries_debugging(item: Held) -> bool:
    """Return whether a file may hold symbols for a debugger that can go: Python's own and ours, nobody's else.

    Stripping libraries that were repaired for a wheel breaks them (OpenBLAS).
    """
    ours = Path(sys.base_prefix).resolve() in item.source.resolve().parents or item.source.name.startswith("_int8.")
    return ours and ".so" in item.source.suffixes


def _strip(files: list[Path]) -> None:
    strip = shutil.which("strip")
    if strip is not None:
        subprocess.run([strip, "--strip-debug", *map(str, files)], check=False, capture_output=True)  # noqa: S603


def _furnish(folder: Path, bundle: Path, keys: tuple[PublicKey, ...]) -> None:
    """Put the bundle and the trusted keys where the runtime looks for them."""
    place = folder / _INSIDE / "glialite_runtime"
    if bundle.is_dir():
        shutil.copytree(bundle, place / "default_bundle")
    else:
        with zipfile.ZipFile(bundle) as archive:  # `read_bundle` has refused names with folders in them
            archive.extractall(place / "default_bundle")  # noqa: S202
    write_json(place / "trust" / TRUSTED_KEYS, {key.name: key.text for key in keys})


def _try(folder: Path) -> tuple[float, dict[str, Any]]:
    """Run the program without an environment; return the seconds of a cold ``--help`` and what its self-test says."""
    program = folder / ("glialite.exe" if sys.platform == "win32" else "glialite")
    if hasattr(os, "posix_fadvise"):
        for path in (p for p in folder.rglob("*") if p.is_file()):
            with path.open("rb") as stream:
                os.fsync(stream.fileno())
                os.posix_fadvise(stream.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    started = time.perf_counter()
    _output(program, "--help")
    seconds = time.perf_counter() - started
    selftest: dict[str, Any] = json.loads(_output(program, "selftest", "--json"))
    if not str(selftest["kernels"]).startswith("GliaLite"):
        raise CheckFailedError(
            f"the program runs in {selftest['kernels']}: it lacks the compiled kernels; see the README"
        )
    if selftest["dicom"] != "ready":
        raise CheckFailedError(
            f"the program cannot write DICOM results: {selftest['dicom']}; install '.[package,dicom]' and package again"
        )
    return round(seconds, 2), selftest


def _output(program: Path, *arguments: str) -> str:
    environment = {name: os.environ[name] for name in ("SYSTEMROOT",) if name in os.environ}
    command = [str(program.absolute()), *arguments]
    done = subprocess.run(  # noqa: S603
        command,
        capture_output=True,
        text=True,
        check=False,
        env=environment,
        cwd=program.parent,
        stdin=subprocess.DEVNULL,
    )
    if done.returncode:
        raise CheckFailedError(f"the program ended with {done.returncode} at {arguments[0]}: {done.stderr[-1000:]}")
    return done.stdout


def _compress(folder: Path) -> Path:
    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo:
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    archive = folder.with_name(f"{folder.name}.tar.xz")
    with replacing(archive) as temporary, tarfile.open(temporary, "w:xz") as tar:
        tar.add(folder, folder.name, filter=plain)
    return archive
