"""Names and orders that everything shares: MRI sequences, label values, tumour regions."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TYPE_CHECKING, Final

from glialite_runtime.errors import ConfigError, InputError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

__all__ = [
    "ALIASES",
    "ET",
    "LABEL_CONVENTIONS",
    "NETC",
    "REGIONS",
    "REGION_LABELS",
    "SEQUENCES",
    "SNFH",
    "to_brats2023",
]

SEQUENCES: Final = ("t1n", "t1c", "t2w", "t2f")
"""Channel order of every array with a channel axis (BraTS 2023+ names)."""

ALIASES: Final[Mapping[str, str]] = MappingProxyType(
    {
        "t1n": "t1n", "t1": "t1n", "t1w": "t1n",
        "t1c": "t1c", "t1ce": "t1c", "t1gd": "t1c",
        "t2w": "t2w", "t2": "t2w",
        "t2f": "t2f", "flair": "t2f",
    }
)  # fmt: skip
"""Lower-case word in a file name -> sequence."""

NETC: Final = 1
"""Label of the necrotic or non-enhancing tumour core."""
SNFH: Final = 2
"""Label of the surrounding non-enhancing FLAIR hyperintensity (oedema)."""
ET: Final = 3
"""Label of the enhancing tumour."""

REGIONS: Final = ("WT", "TC", "ET")
"""Region order of every array with a region axis: whole tumour, tumour core, enhancing tumour."""

REGION_LABELS: Final[Mapping[str, tuple[int, ...]]] = MappingProxyType(
    {"WT": (NETC, SNFH, ET), "TC": (NETC, ET), "ET": (ET,)}
)

LABEL_CONVENTIONS: Final[Mapping[str, Mapping[int, int]]] = MappingProxyType(
    {
        "brats2023": MappingProxyType({0: 0, 1: NETC, 2: SNFH, 3: ET}),
        "brats2021": MappingProxyType({0: 0, 1: NETC, 2: SNFH, 4: ET}),
        "ssa-paper": MappingProxyType({0: 0, 1: ET, 2: NETC, 3: SNFH}),
        "brats2013": MappingProxyType({0: 0, 1: NETC, 2: SNFH, 3: NETC, 4: ET}),
    }
)
"""Convention name -> (value in the file -> our label). Declared by the user, never guessed."""


def to_brats2023(labels: npt.NDArray[np.generic], convention: str) -> npt.NDArray[np.uint8]:
    """Translate a label map into BraTS-2023 values.

    Parameters
    ----------
    labels : array of any shape
        Label values as they stand in the file; floats are accepted when they are whole numbers.
    convention : str
        A key of `LABEL_CONVENTIONS`.

    Returns
    -------
    array of uint8, same shape
        Values in {0, 1, 2, 3}. An empty array comes back empty.

    Raises
    ------
    ConfigError
        The convention is unknown.
    InputError
        A value occurs that the convention does not have.
    """
    import numpy as np  # noqa: PLC0415 - the commands read the names above for `--help`, without numpy

    if convention not in LABEL_CONVENTIONS:
        raise ConfigError(f"unknown label convention {convention!r}; known: {', '.join(LABEL_CONVENTIONS)}")
    table = LABEL_CONVENTIONS[convention]
    out = np.zeros(labels.shape, np.uint8)
    for value in np.unique(labels):
        whole = int(value) if np.isfinite(value) else -1
        if whole != value or whole not in table:
            raise InputError(
                f"label value {value} does not occur in the convention {convention!r} (it has {sorted(table)}); "
                f"declare the right one: {', '.join(LABEL_CONVENTIONS)}"
            )
        if table[whole]:
            out[labels == value] = table[whole]
    return out
