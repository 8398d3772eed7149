"""The models of an evaluation: students and bundles, what they are, and whom they have met."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from glialite_runtime.bundle import Bundle, read_bundle
from glialite_runtime.files import sha256_file

from glialite_distill.evaluate import NetworkSource, bundle_source, student_source
from glialite_distill.student_file import StudentFile, load_student

__all__ = ["Model", "open_models"]


@dataclass(frozen=True, slots=True)
class Model:
    """A student or a bundle that could be read.

    Attributes
    ----------
    path : Path
        Where it lies.
    content : StudentFile or Bundle
        What it is.
    sha256 : str
        Of the student's file, or the bundle's identity.
    """

    path: Path
    content: StudentFile | Bundle
    sha256: str

    def source(self, device: torch.device) -> NetworkSource:
        """Return its network: a student in FP32 on a device, a bundle as the clinic runs it."""
        if isinstance(self.content, StudentFile):
            return student_source(self.content, device)
        return bundle_source(self.path)

    @property
    def origin(self) -> dict[str, str | None]:
        """Whose figures these are, so that no other model's bundle gets what was fitted for this one."""
        if isinstance(self.content, StudentFile):
            return {"student_sha256": self.sha256}
        made = self.content.manifest.provenance
        return {"student_sha256": made.get("student", {}).get("sha256"), "build_key": made.get("build_key")}


def open_models(students: Mapping[str, Path], bundles: Mapping[str, Path]) -> dict[str, Model]:
    """Read students and bundles, by name; raises what `load_student` and `read_bundle` raise."""
    found = {name: Model(path, load_student(path), sha256_file(path)) for name, path in students.items()}
    for name, path in bundles.items():
        bundle = read_bundle(path)
        found[name] = Model(path, bundle, bundle.identity)
    return found
