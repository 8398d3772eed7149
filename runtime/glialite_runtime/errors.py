"""Everything that GliaLite raises on purpose, and the exit code that a command ends with.

::

    GliaLiteError                 1
    ├── ConfigError               2   usage or configuration
    ├── InputError                3   the scan cannot be used
    │   ├── MissingSequenceError
    │   ├── GeometryError
    │   └── IntensityError
    ├── BundleError               4   the model bundle cannot be used
    │   ├── BundleIntegrityError
    │   └── BundleVersionError
    ├── BackendUnavailableError   5   an extra or a library is not installed
    ├── CheckFailedError          6   a check did not hold
    │   ├── CalibrationError
    │   └── ExportError
    │       ├── UnsupportedOpError
    │       └── ParityError
    ├── OutputError               7   cannot write
    ├── BatchError                8   some cases of a batch failed
    └── TimeLimitReached         75   stopped at the time limit; run again
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BackendUnavailableError",
    "BatchError",
    "BundleError",
    "BundleIntegrityError",
    "BundleVersionError",
    "CalibrationError",
    "CheckFailedError",
    "ConfigError",
    "ExportError",
    "GeometryError",
    "GliaLiteError",
    "InputError",
    "IntensityError",
    "MissingSequenceError",
    "OutputError",
    "ParityError",
    "TimeLimitReached",
    "UnsupportedOpError",
]


class GliaLiteError(Exception):
    """Root of all errors that GliaLite raises on purpose."""

    exit_code: ClassVar[int] = 1


class ConfigError(GliaLiteError):
    """A command, an option or a configuration file does not make sense; the message lists every problem."""

    exit_code = 2


class InputError(GliaLiteError):
    """A scan cannot be used; nothing was written."""

    exit_code = 3


class MissingSequenceError(InputError):
    """A sequence that the model needs is not there, or two files claim to be the same one."""


class GeometryError(InputError):
    """Shape, affine, spacing or axes are wrong or do not agree between the files."""


class IntensityError(InputError):
    """The voxel values cannot be used: NaN, empty, already normalised, not skull-stripped."""


class BundleError(GliaLiteError):
    """The model bundle cannot be used."""

    exit_code = 4


class BundleIntegrityError(BundleError):
    """A file of the bundle is missing, changed, or not allowed in one."""


class BundleVersionError(BundleError):
    """The bundle was written by a newer GliaLite."""


class BackendUnavailableError(GliaLiteError):
    """A feature needs a library that is not installed; the message names both."""

    exit_code = 5


class CheckFailedError(GliaLiteError):
    """A check (parity, selftest, verify) did not hold."""

    exit_code = 6


class CalibrationError(CheckFailedError):
    """Activation ranges or a decision rule cannot be fitted on the cases given."""


class ExportError(CheckFailedError):
    """A student cannot be turned into a graph that may be shipped."""


class UnsupportedOpError(ExportError):
    """A graph holds an operator that the lowering does not know; the message names the node."""


class ParityError(ExportError):
    """A graph differs from the one that it was made from by more than the gate allows.

    Attributes
    ----------
    report : dict
        What was measured and which limit it broke, ready for JSON.
    """

    def __init__(self, message: str, report: dict[str, object]) -> None:
        super().__init__(message)
        self.report = report


class OutputError(GliaLiteError):
    """A result cannot be written: disk full, folder read-only."""

    exit_code = 7


class BatchError(GliaLiteError):
    """Some cases of a batch failed; the others were written."""

    exit_code = 8


class TimeLimitReached(GliaLiteError):  # noqa: N818 - an orderly stop, not an error
    """The time limit came; the state is saved and the same command continues it."""

    exit_code = 75
