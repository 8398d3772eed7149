"""The model bundle: a folder or a zip of data that is checked before a byte of it is used.

``bundle.json`` describes the bundle and holds the SHA-256 of every other file; ``bundle.json.sha256`` holds its own:
that tells damage. ``bundle.json.minisig``, where there is one, tells malice. Nothing in a bundle is ever imported or
executed, and graphs must carry their weights inside.
"""

from __future__ import annotations

import io
import json
import math
import shutil
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.decode import DecisionRule
from glialite_runtime.errors import BundleError, BundleIntegrityError, BundleVersionError, ConfigError, OutputError
from glialite_runtime.files import replacing, sha256_bytes
from glialite_runtime.intensity import IntensityRange, parse_ranges
from glialite_runtime.measure import VolumeInterval
from glialite_runtime.sequences import REGIONS, SEQUENCES
from glialite_runtime.trust.minisign import NOT_SIGNED, PublicKey, judge, trusted_keys

__all__ = [
    "MANIFEST",
    "SCHEMA",
    "SIGNATURE",
    "Bundle",
    "Graph",
    "Manifest",
    "Reliability",
    "default_bundle",
    "golden_file",
    "read_bundle",
    "write_bundle",
]

SCHEMA: Final = 2
MANIFEST: Final = "bundle.json"
SIGNATURE: Final = "bundle.json.minisig"
_SEAL: Final = "bundle.json.sha256"
_GOLDEN: Final = "golden.npz"
_MAX_FILE_BYTES: Final = 256 << 20


@dataclass(frozen=True, slots=True)
class Graph:
    """One network file.

    Attributes
    ----------
    file : str
        Name in the bundle.
    target : str
        "cpu" or "gpu".
    precision : str
        "int8", "fp16" or "fp32".
    layout : str
        "volume": image (1, 4, z, y, x) -> logits (1, 3, z, y, x). "depth-as-batch": (z, 4, y, x) -> (z, 3, y, x).
    divisor : int
        Every edge of the input must be a multiple of it.
    opset : int
        ONNX operator set.
    """

    file: str
    target: str
    precision: str
    layout: str
    divisor: int
    opset: int


@dataclass(frozen=True, slots=True)
class Reliability:
    """What was fitted on cases that training never saw; tuples in the order of `REGIONS`.

    Attributes
    ----------
    temperature : tuple of float
        Logits are divided by it before they are read as probabilities; no label depends on it.
    volume_intervals : tuple of VolumeInterval
        Around the volumes.
    """

    temperature: tuple[float, float, float]
    volume_intervals: tuple[VolumeInterval, VolumeInterval, VolumeInterval]

    def __post_init__(self) -> None:
        intervals = self.volume_intervals
        if len(self.temperature) != len(REGIONS) or len(intervals) != len(REGIONS):
            raise ConfigError(
                f"reliability: one temperature and one interval for each of {', '.join(REGIONS)} are needed"
            )
        if not all(0 < t < math.inf for t in self.temperature) or not all(
            -math.inf < i.low <= i.high < math.inf and 0 < i.rate < 1 for i in intervals
        ):
            raise ConfigError(f"reliability: {self} holds a temperature or an interval that is none")


@dataclass(frozen=True, slots=True)
class Manifest:
    """What ``bundle.json`` says.

    Attributes
    ----------
    name, created, software : str
        For people: the bundle's name, when it was made (ISO 8601, UTC), by which version.
    accepted_sequences : tuple of tuples of str
        Sets of sequences that the model was trained for.
    spacing_mm : tuple of float
        Voxel size (z, y, x) that the network works at.
    decision : DecisionRule
        How logits become labels.
    graphs : tuple of Graph
        The networks.
    provenance : dict
        Teachers, folds, cohort hash, seeds, student, calibration cases, parity figures per hop.
    trained_on, intended_use : str
        One sentence each, shown in every report.
    reliability : Reliability, optional
        None in bundles that were made without it.
    intensity : mapping of str to IntensityRange, optional
        Sequence -> how training cases' grey values are spread; None in bundles that were made without it.
    """

    name: str
    created: str
    software: str
    accepted_sequences: tuple[tuple[str, ...], ...]
    spacing_mm: tuple[float, float, float]
    decision: DecisionRule
    graphs: tuple[Graph, ...]
    provenance: dict[str, Any]
    trained_on: str
    intended_use: str
    reliability: Reliability | None = None
    intensity: Mapping[str, IntensityRange] | None = None


@dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle whose every byte agreed with its checksums.

    Attributes
    ----------
    manifest : Manifest
        What it says of itself.
    files : mapping of str to bytes
        Content by name, manifest and signature left out, read once: what was hashed is what is used.
    identity : str
        SHA-256 of ``bundle.json``.
    signature : str
        What is known of its signature, for reports (see `glialite_runtime.trust.minisign.judge`).
    """

    manifest: Manifest
    files: Mapping[str, bytes]
    identity: str
    signature: str = NOT_SIGNED

    def graph(self, target: str) -> Graph:
        """Return the graph for a target ("cpu" or "gpu"); `BundleError` when there is none."""
        for graph in self.manifest.graphs:
            if graph.target == target:
                return graph
        raise BundleError(f"the bundle {self.manifest.name} holds no graph for {target}")

    def golden(self) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
        """Return the golden crop: image (4, z, y, x) and the logits (3, z, y, x) that must come out of it."""
        try:
            with np.load(io.BytesIO(self.files[_GOLDEN]), allow_pickle=False) as arrays:
                return arrays["image"].astype(np.float32), arrays["logits"].astype(np.float32)
        except (KeyError, ValueError, OSError, zipfile.BadZipFile) as error:
            raise BundleIntegrityError(f"the bundle {self.manifest.name} has no readable golden crop") from error


def golden_file(image: npt.NDArray[np.float16], logits: npt.NDArray[np.float32]) -> tuple[str, bytes]:
    """Return name and content of the golden crop: image float16 (4, z, y, x), logits float32 (3, z, y, x)."""
    stream = io.BytesIO()
    np.savez_compressed(stream, image=image, logits=logits)
    return _GOLDEN, stream.getvalue()


def default_bundle() -> Path:
    """Return the bundle that comes with the installation, else the one that ``make demo`` made.

    Raises
    ------
    BundleError
        There is neither.
    """
    here = Path(__file__).resolve()
    for place in (here.parent / "default_bundle", here.parents[2] / "demo" / "bundle"):
        if (place / MANIFEST).is_file():
            return place
    raise BundleError("this installation carries no model bundle yet; give one with --bundle, or make one: make demo")


def read_bundle(path: Path, keys: tuple[PublicKey, ...] | None = None) -> Bundle:
    """Read and check a bundle (folder or zip), its signature against `keys`: by default those of this installation.

    Raises
    ------
    BundleError
        There is no bundle at `path`.
    BundleVersionError
        It was written by a newer GliaLite.
    BundleIntegrityError
        A file is missing, changed, too large, not listed, or carries external data; the manifest is malformed; the
        signature does not agree, or is not by one of the keys that are trusted.
    """
    files = _read_zip(path) if path.is_file() else _read_folder(path)
    raw, seal = files.get(MANIFEST), files.get(_SEAL)
    if raw is None or seal is None:
        raise BundleError(f"{path} is not a model bundle: it has no {MANIFEST} with its {_SEAL}")
    try:
        document = json.loads(raw)
        schema = document["schema"]
    except (ValueError, KeyError, TypeError) as error:
        raise BundleIntegrityError(f"{path}: {MANIFEST} is damaged ({error}); copy the bundle again") from error
    if not isinstance(schema, int) or schema > SCHEMA:
        raise BundleVersionError(
            f"{path} has bundle schema {schema}; this version reads up to {SCHEMA}: update GliaLite"
        )
    if seal != _seal(raw):
        raise BundleIntegrityError(f"{path}: {MANIFEST} was changed after it was written; copy the bundle again")
    del files[MANIFEST], files[_SEAL]
    trusted = trusted_keys() if keys is None else keys
    signature = judge(raw, files.pop(SIGNATURE, None), trusted, f"the bundle {path}")
    manifest, checksums = _parse(document, path)
    _check_files(files, checksums, path)
    for graph in manifest.graphs:
        if b"location" in files.get(graph.file, b"location"):
            raise BundleIntegrityError(f"{path}: {graph.file} is missing or points to weights in another file; refused")
    return Bundle(manifest, files, sha256_bytes(raw), signature)


def _read_folder(path: Path) -> dict[str, bytes]:
    if not path.is_dir():
        raise BundleError(f"there is no bundle at {path}")
    files = {}
    for entry in sorted(path.iterdir()):
        if entry.is_symlink() or not entry.is_file():
            raise BundleIntegrityError(f"{path} holds {entry.name}, which is not a plain file; refused")
        if entry.stat().st_size > _MAX_FILE_BYTES:
            raise BundleIntegrityError(f"{entry} is larger than any file of a bundle may be; refused")
        files[entry.name] = entry.read_bytes()
    return files


def _read_zip(path: Path) -> dict[str, bytes]:
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
            if len(set(names)) != len(names) or any("/" in n or "\\" in n or n.startswith(".") for n in names):
                raise BundleIntegrityError(f"{path} holds folders or one name twice; refused")
            if any(entry.file_size > _MAX_FILE_BYTES for entry in archive.infolist()):
                raise BundleIntegrityError(f"{path} holds a file larger than any of a bundle may be; refused")
            return {name: archive.read(name) for name in names}
    except (zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise BundleIntegrityError(f"{path} is not a readable bundle ({error}); copy it again") from error


def _check_files(files: Mapping[str, bytes], checksums: Mapping[str, str], path: Path) -> None:
    problems = [f"{name} is missing" for name in sorted(checksums.keys() - files.keys())]
    problems += [f"{name} does not belong to it" for name in sorted(files.keys() - checksums.keys())]
    problems += [
        f"{name} was changed"
        for name in sorted(files.keys() & checksums.keys())
        if sha256_bytes(files[name]) != checksums[name]
    ]
    if problems:
        raise BundleIntegrityError(f"{path}: {'; '.join(problems)}; copy the bundle again")


def _seal(manifest: bytes) -> bytes:
    return f"{sha256_bytes(manifest)}  {MANIFEST}\n".encode()


def _parse(document: Any, path: Path) -> tuple[Manifest, dict[str, str]]:
    try:
        if tuple(document["sequences"]) != SEQUENCES or tuple(document["regions"]) != REGIONS:
            raise ValueError("sequences or regions are not GliaLite's")
        if document["normalisation"] != "z-score over the filled union of non-zero voxels":
            raise ValueError(f"unknown normalisation {document['normalisation']!r}")
        z, y, x = (float(v) for v in document["spacing_mm"])
        if not all(0.1 <= v <= 20 for v in (z, y, x)):
            raise ValueError(f"spacing {document['spacing_mm']} mm")
        accepted = tuple(tuple(str(s) for s in group) for group in document["accepted_sequences"])
        if not accepted or any(s not in SEQUENCES for group in accepted for s in group):
            raise ValueError("accepted_sequences")
        manifest = Manifest(
            name=str(document["name"]),
            created=str(document["created"]),
            software=str(document["software"]),
            accepted_sequences=accepted,
            spacing_mm=(z, y, x),
            decision=DecisionRule.from_json(document["decision"]),
            graphs=tuple(_parse_graph(graph) for graph in document["graphs"]),
            provenance=dict(document["provenance"]),
            trained_on=str(document["trained_on"]),
            intended_use=str(document["intended_use"]),
            reliability=_parse_reliability(document.get("reliability")),
            intensity=parse_ranges(document.get("intensity")),
        )
        return manifest, {str(name): str(digest) for name, digest in document["files"].items()}
    except (KeyError, TypeError, ValueError, AttributeError, ConfigError) as error:
        raise BundleIntegrityError(f"{path}: {MANIFEST} lacks or garbles {error}; make the bundle again") from error


def _parse_reliability(found: Any) -> Reliability | None:
    if found is None:
        return None
    intervals = (
        VolumeInterval(float(i["rate"]), int(i["cases"]), float(i["low"]), float(i["high"]))
        for i in found["volume_intervals"]
    )
    return Reliability(tuple(float(t) for t in found["temperature"]), tuple(intervals))  # type: ignore[arg-type] # checked


def _parse_graph(graph: Any) -> Graph:
    parsed = Graph(
        file=str(graph["file"]),
        target=str(graph["target"]),
        precision=str(graph["precision"]),
        layout=str(graph["layout"]),
        divisor=int(graph["divisor"]),
        opset=int(graph["opset"]),
    )
    if parsed.layout not in ("depth-as-batch", "volume") or parsed.target not in ("cpu", "gpu"):
        raise ValueError(f"graph {parsed.file}: layout {parsed.layout!r} or target {parsed.target!r}")
    if not 1 <= parsed.divisor <= 256:
        raise ValueError(f"graph {parsed.file}: divisor {parsed.divisor}")
    return parsed


def write_bundle(out: Path, manifest: Manifest, files: Mapping[str, bytes]) -> None:
    """Write a bundle in one step: a zip when `out` ends in .zip, else a folder.

    Parameters
    ----------
    out : Path
        Must not exist as something that is no bundle.
    manifest : Manifest
        What it says of itself; checksums are added here.
    files : mapping of str to bytes
        Content by plain file name.

    Raises
    ------
    OutputError
        `out` exists and is no bundle, or cannot be written.
    """
    document = {
        "schema": SCHEMA,
        "sequences": SEQUENCES,
        "regions": REGIONS,
        "normalisation": "z-score over the filled union of non-zero voxels",
        **asdict(manifest),
        "decision": manifest.decision.to_json(),
        "files": {name: sha256_bytes(content) for name, content in sorted(files.items())},
    }
    raw = (json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()
    everything = {MANIFEST: raw, _SEAL: _seal(raw), **dict(sorted(files.items()))}
    if out.suffix == ".zip":
        with replacing(out) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, content in everything.items():
                archive.writestr(zipfile.ZipInfo(name), content, zipfile.ZIP_DEFLATED)
        return
    if out.exists() and not (out / MANIFEST).is_file() and (not out.is_dir() or any(out.iterdir())):
        raise OutputError(f"{out} exists and is not a bundle; choose another place with --out")
    temporary = out.with_name(f".{out.name}.part")
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        for name, content in everything.items():
            (temporary / name).write_bytes(content)
        if out.exists():
            shutil.rmtree(out)
        temporary.replace(out)
    except OSError as error:
        raise OutputError(f"cannot write {out}: {error.strerror or error}") from error
