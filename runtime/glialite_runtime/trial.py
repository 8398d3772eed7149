"""A whole case on this computer: an invented brain of the usual size, from its files to the report, timed."""

from __future__ import annotations

import ctypes
import os
import struct
import sys
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
from isal import igzip

from glialite_runtime import __version__
from glialite_runtime.bundle import Bundle
from glialite_runtime.cases import Case, case_from_files
from glialite_runtime.engine import open_engine
from glialite_runtime.files import write_bytes
from glialite_runtime.nifti import load_nibabel
from glialite_runtime.predict import segment, write
from glialite_runtime.processor import instruction_sets, processor_name
from glialite_runtime.sequences import SEQUENCES

__all__ = ["peak_memory_mb", "run_trial", "trial_text", "write_synthetic_case"]

_SHAPE: Final = (240, 240, 155)  # x, y, z of a BraTS case, 1 mm
_RADII: Final = (68, 85, 66)  # half axes of the brain, voxels


def write_synthetic_case(folder: Path) -> Case:
    """Write four sequences of a ball-shaped brain of seeded noise, 240 × 240 × 155 voxels of 1 mm, int16.

    It is nobody's scan. What a network finds in it means nothing; it takes the time and the memory that a scan takes.
    """
    affine = np.diag([-1.0, -1.0, 1.0, 1.0])
    affine[1, 3] = 239
    x, y, z = (
        ((np.arange(n, dtype=np.float32) - n / 2) / radius) ** 2 for n, radius in zip(_SHAPE, _RADII, strict=True)
    )
    brain = x[:, None, None] + y[:, None] + z < 1
    paths = {}
    for seed, sequence in enumerate(SEQUENCES):
        voxels = np.zeros(_SHAPE, np.int16, order="F")
        voxels[brain] = np.random.default_rng(seed).integers(200, 456, np.count_nonzero(brain), np.int16)
        image = load_nibabel().Nifti1Image(voxels, affine)
        image.set_qform(affine, 1)
        paths[sequence] = folder / f"selftest-{sequence}.nii.gz"
        write_bytes(paths[sequence], igzip.compress(image.to_bytes(), 1, mtime=0))
    return case_from_files(paths, "selftest")


def run_trial(bundle: Bundle, threads: int = 0) -> dict[str, Any]:
    """Run the synthetic case through the whole chain and say what it took, on which processor.

    Parameters
    ----------
    bundle : Bundle
        The model.
    threads : int
        Threads of the network; 0: one a core.

    Returns
    -------
    dict
        Ready for JSON. `seconds` holds reading, preprocessing, network, decoding and writing of one case, and
        `start_seconds` what comes before the first one; `peak_memory_mb` is this process's, None where the system does
        not tell. `golden_crop`, `precision` and `kernels` say how the network ran, see `NetworkRun`; `dicom` is "ready"
        or what DICOM results lack.

    Raises
    ------
    OutputError
        The folder for temporary files cannot be written.
    """
    started = time.perf_counter()
    engine = open_engine(bundle, threads)
    opened = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="glialite-") as folder:
        case = write_synthetic_case(Path(folder))
        begin = time.perf_counter()
        done = segment(case, bundle, engine)
        write(done, bundle, Path(folder))
        seconds = time.perf_counter() - begin
    present, memory = instruction_sets(), peak_memory_mb()
    from glialite_runtime.dicom.outputs import lacking  # noqa: PLC0415 - not before the memory is measured

    return {
        "software": f"GliaLite {__version__}",
        "bundle": bundle.manifest.name,
        **asdict(done.network),
        "seconds": round(seconds, 2),
        "start_seconds": round(opened - started, 2),
        "stages_s": done.timings_s,
        "peak_memory_mb": memory,
        "processor": processor_name(),
        "instruction_sets": [name for name, there in present.items() if there],
        "cores": os.cpu_count(),
        "threads": threads or "one a core",
        "dicom": lacking() or "ready",
    }


def trial_text(result: dict[str, Any]) -> str:
    """Return what `run_trial` found, for people."""
    memory = result["peak_memory_mb"]
    return "\n".join(
        [
            f"{result['bundle']}: golden crop "
            + {"bit for bit": "bit for bit the same"}.get(result["golden_crop"], result["golden_crop"])
            + f"; runs in {result['precision']}",
            f"a case of 240 x 240 x 155 voxels: {result['seconds']:.1f} s, "
            f"{result['start_seconds']:.1f} s to start"
            + (f", {memory:.0f} MB of memory at most" if memory is not None else ""),
            f"{result['processor']}, {result['cores']} cores ({', '.join(result['instruction_sets']) or 'unknown'})",
            f"{result['software']}, kernels: {result['kernels']}, threads: {result['threads']}",
            f"DICOM results: {result['dicom']}",
        ]
    )


def peak_memory_mb() -> float | None:
    """Return the most memory that this process has held so far, in MB; None where the system does not tell."""
    if sys.platform == "win32":
        size = 72  # of PROCESS_MEMORY_COUNTERS; the peak working set stands at byte 8
        counters = ctypes.create_string_buffer(struct.pack("<L", size), size)
        told = ctypes.windll.kernel32.K32GetProcessMemoryInfo(ctypes.c_void_p(-1), counters, size)
        return round(struct.unpack_from("<Q", counters, 8)[0] / 1e6, 1) if told else None
    try:
        import resource  # noqa: PLC0415 - not on Windows
    except ImportError:
        return None
    units = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * units / 1e6, 1)
