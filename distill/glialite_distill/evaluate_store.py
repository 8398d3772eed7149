"""Results case by case on disk: an interrupted evaluation continues, and one source more computes only that one.

A file a case and source, named by a hash of all that decides its content, so nothing in it can be out of date.
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Final

import numpy as np
from glialite_calibration.logit_counts import LogitCounts
from glialite_runtime import __version__
from glialite_runtime.cases import Case
from glialite_runtime.files import sha256_bytes, sha256_file, write_bytes

from glialite_distill.evaluate_scores import CaseResult, CaseScore

__all__ = ["Identity", "StoredResults", "case_identity", "result_keys"]

_SCHEMA: Final = 1
"""Raised when the same inputs would give other results."""

Identity = Callable[[Case], Any]
"""Case -> what decides, on the side of a source, its result there; ready for JSON."""


@cache
def _sha256(path: Path, changed_ns: int, size: int) -> str:
    del changed_ns, size
    return sha256_file(path)


def case_identity(case: Case) -> dict[str, Any]:
    """Return the name of a case and the hashes of its files, ready for JSON."""
    return {"name": case.name, "files": hashes([*case.paths.values(), *([case.label] if case.label else [])])}


def hashes(paths: Iterable[Path]) -> dict[str, str]:
    """Return the SHA-256 of files by name; each is read once, as long as size and date stay."""
    return {p.name: _sha256(p, p.stat().st_mtime_ns, p.stat().st_size) for p in paths}


def result_keys(
    cases: Iterable[Case], identities: Mapping[str, Identity], convention: str
) -> dict[tuple[str, str], str]:
    """Return (source, case) -> SHA-256 of all that decides the result."""
    common = {"schema": _SCHEMA, "software": __version__, "labels": convention}
    return {
        (name, case.name): sha256_bytes(
            json.dumps({**common, "case": case_identity(case), "source": identity(case)}, sort_keys=True).encode()
        )
        for case in cases
        for name, identity in identities.items()
    }


@dataclass(frozen=True, slots=True)
class StoredResults:
    """A folder of results.

    Attributes
    ----------
    folder : Path
        Made when the first result is kept.
    keys : mapping of (str, str) to str
        See `result_keys`.
    """

    folder: Path
    keys: Mapping[tuple[str, str], str]

    def load(self, source: str, case: Case, subsets: Sequence[tuple[str, ...]]) -> CaseResult | None:
        """Return what a source said of a case, with these subsets of its sequences; None when that is not known.

        A damaged file counts as none.
        """
        try:
            with np.load(self._file(source, case), allow_pickle=False) as content:
                scores = [_score(row, source) for row in json.loads(str(content["scores"]))]
                parts = zip(content["voxels"], content["positives"], content["sums"], strict=True)
                counts = {str(scope): LogitCounts(*part) for scope, part in zip(content["scopes"], parts, strict=True)}
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile):
            return None
        wanted = [s for s in subsets if set(s) < set(case.paths)]
        if not set(wanted) <= {score.sequences for score in scores}:
            return None
        return CaseResult(tuple(s for s in scores if not s.withheld or s.sequences in wanted), counts)

    def save(self, source: str, case: Case, result: CaseResult) -> None:
        """Keep what a source says of a case; `OutputError` when it cannot be written."""
        counts = result.counts.values()
        stream = io.BytesIO()
        np.savez_compressed(
            stream,
            scores=json.dumps([asdict(score) for score in result.scores]),
            scopes=np.array(list(result.counts), np.str_),
            voxels=np.array([c.voxels for c in counts]),
            positives=np.array([c.positives for c in counts]),
            sums=np.array([c.sums for c in counts]),
        )
        write_bytes(self._file(source, case), stream.getvalue())

    def _file(self, source: str, case: Case) -> Path:
        return self.folder / f"{case.name}-{self.keys[source, case.name][:32]}.npz"


def _score(row: Mapping[str, Any], source: str) -> CaseScore:
    plain: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in row.items()}
    found = CaseScore(**plain)
    if len(found.dice) != 3 or not math.isfinite(sum(found.true_ml)):
        raise ValueError("garbled score")
    return replace(found, source=source)  # the same network may have another name in another comparison
