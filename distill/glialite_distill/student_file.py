"""The file that holds a trained student: weights, shape, voxel size, decision rule and where it all came from."""

from __future__ import annotations

import io
import json
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from glialite_runtime.decode import DecisionRule
from glialite_runtime.errors import ConfigError
from glialite_runtime.files import write_bytes

from glialite_distill.student import Student, StudentSpec

__all__ = [
    "STUDENT_VERSION",
    "UNREADABLE",
    "StudentFile",
    "build_student",
    "earlier_cases",
    "load_student",
    "record_is_complete",
    "save_student",
    "seen_cases",
    "trained_on",
]

STUDENT_VERSION: Final = 2
"""Version of the format that this code writes, and the newest that it reads."""

UNREADABLE: Final = (
    RuntimeError,
    EOFError,
    OSError,
    LookupError,
    TypeError,
    ValueError,
    AttributeError,
    pickle.UnpicklingError,
)
"""What `torch.load` raises on damaged files and on files of another kind."""

_FORMAT: Final = "glialite-student"


@dataclass(frozen=True, slots=True)
class StudentFile:
    """A trained student.

    Attributes
    ----------
    spec : StudentSpec
        Shape of the network.
    state : mapping of str to Tensor
        Weights and BatchNorm statistics to use, as `Student.state_dict` names them, on the CPU.
    spacing_mm : tuple of float
        Voxel size (z, y, x) that the student was trained at.
    decision : DecisionRule
        How its logits become labels.
    provenance : mapping
        What made it; only what JSON can hold.
    """

    spec: StudentSpec
    state: Mapping[str, torch.Tensor]
    spacing_mm: tuple[float, float, float]
    decision: DecisionRule
    provenance: Mapping[str, Any]


def save_student(path: Path, file: StudentFile) -> None:
    """Write a student in one step; the same student gives the same bytes.

    Convolution kernels are kept with 16 bits: half the bytes, and a small part of the rounding that INT8 brings.

    Raises
    ------
    ConfigError
        The weights do not fit the spec, are not finite, or the provenance is more than JSON can hold.
    OutputError
        The file cannot be written.
    """
    problems = _state_problems(file.spec, file.state)
    try:
        json.dumps(dict(file.provenance), allow_nan=False)
    except (TypeError, ValueError) as error:
        problems.append(f"the provenance is not plain JSON: {error}")
    if problems:
        raise ConfigError(f"this student cannot be saved as {path}: " + "; ".join(problems))
    buffer = io.BytesIO()  # straight to a file, torch would put the temporary file's name into the archive
    torch.save(
        {
            "format": _FORMAT,
            "version": STUDENT_VERSION,
            "spec": {
                "name": file.spec.name,
                "widths": list(file.spec.widths),
                "convolutions": file.spec.convolutions
                if isinstance(file.spec.convolutions, int)
                else list(file.spec.convolutions),
            },
            "state": {name: _stored(tensor) for name, tensor in file.state.items()},
            "spacing_mm": list(file.spacing_mm),
            "decision": file.decision.to_json(),
            "provenance": dict(file.provenance),
        },
        buffer,
    )
    write_bytes(path, buffer.getvalue())


def load_student(path: Path) -> StudentFile:
    """Read a student; nothing in the file is executed.

    Raises
    ------
    ConfigError
        The file is missing, truncated, no student, of a newer version, or its weights do not fit its spec.
    """
    content = _read(path)
    version = content.get("version")
    if not isinstance(version, int) or version > STUDENT_VERSION:
        raise ConfigError(
            f"{path} is a student of version {version!r}; this GliaLite reads versions up to {STUDENT_VERSION}: "
            "update it, or train the student again"
        )
    try:
        spec = StudentSpec(
            str(content["spec"]["name"]),
            tuple(int(w) for w in content["spec"]["widths"]),
            _blocks(content["spec"]["convolutions"]),
        )
        z, y, x = (float(mm) for mm in content["spacing_mm"])
        decision = DecisionRule.from_json(content["decision"])
        state = {name: t.float() if t.is_floating_point() else t for name, t in content["state"].items()}
        provenance = dict(content["provenance"])
    except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
        raise ConfigError(f"{path} is a damaged student file: {error!r}; train it again") from error
    if problems := _state_problems(spec, state):
        raise ConfigError(f"{path} is a damaged student file: " + "; ".join(problems))
    return StudentFile(spec, state, (z, y, x), decision, provenance)


def build_student(file: StudentFile) -> Student:
    """Return the network with the file's weights, in evaluation mode."""
    student = Student(file.spec)
    student.load_state_dict(dict(file.state))
    return student.eval()


def trained_on(provenance: Mapping[str, Any]) -> frozenset[str]:
    """Return the cases that formed a student's weights: its own, labelled or not, and its predecessors'."""
    own = (*provenance.get("train_cases", ()), *provenance.get("unlabelled_cases", ()))
    return frozenset((*own, *(provenance.get("earlier_cases") or {}).get("trained", ())))


def seen_cases(provenance: Mapping[str, Any]) -> frozenset[str]:
    """Return the cases that formed or validated a student or a predecessor, or that its rule was fitted on."""
    validated = (provenance.get("earlier_cases") or {}).get("validated", ())
    own = (*provenance.get("validation_cases", ()), *provenance.get("decision_cases", ()))
    return trained_on(provenance) | frozenset((*own, *validated))


def record_is_complete(provenance: Mapping[str, Any]) -> bool:
    """Return whether `seen_cases` are all: not for a student with a predecessor whose cases nobody wrote down."""
    alone = provenance.get("initial") is None and provenance.get("assistant") is None
    known = alone if "earlier_cases" not in provenance else provenance["earlier_cases"] is not None
    return known and bool(provenance.get("train_cases"))


def earlier_cases(*predecessors: StudentFile | None) -> dict[str, list[str]] | None:
    """Return what a student that starts from or learns from others inherits, for its provenance.

    Returns
    -------
    dict of str to list of str
        `trained` and `validated`: cases of the whole chain before it; None where a record is not complete.
    """
    before = [file.provenance for file in predecessors if file is not None]
    if not all(map(record_is_complete, before)):
        return None
    trained = frozenset().union(*map(trained_on, before))
    seen = frozenset().union(*map(seen_cases, before))
    return {"trained": sorted(trained), "validated": sorted(seen - trained)}


def _stored(tensor: torch.Tensor) -> torch.Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.half() if tensor.ndim > 1 else tensor


def _blocks(stored: Any) -> tuple[int, ...] | int:
    """Return `StudentSpec.convolutions`: a number for all stages, or one a stage."""
    return stored if isinstance(stored, int) else tuple(int(n) for n in stored)


def _read(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ConfigError(f"{path} does not exist; give a student.pt that `distill train` wrote")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ConfigError(
            f"{path} is truncated or no student file ({reason}); give a student.pt that `distill train` wrote"
        ) from error
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise ConfigError(f"{path} is a torch file but no student; give a student.pt that `distill train` wrote")
    return content


def _state_problems(spec: StudentSpec, state: Mapping[str, Any]) -> list[str]:
    with torch.device("meta"):
        wanted = Student(spec).state_dict()
    problems = [f"tensor {name} is missing" for name in wanted if name not in state]
    problems += [f"tensor {name} is not one of student {spec.name}'s" for name in state if name not in wanted]
    for name in wanted.keys() & state.keys():
        if state[name].shape != wanted[name].shape:
            problems.append(f"{name} has the shape {tuple(state[name].shape)}, not {tuple(wanted[name].shape)}")
        elif not torch.isfinite(state[name]).all():
            problems.append(f"{name} holds NaN or infinite values")
    return sorted(problems)
