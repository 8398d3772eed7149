"""What this computer's processor can do, asked before numpy is imported: below x86-64-v2 numpy dies without a word."""

from __future__ import annotations

import ctypes
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from glialite_runtime.errors import BackendUnavailableError

__all__ = ["instruction_sets", "processor_name", "require_x86_64_v2"]

_NEEDED: Final = ("SSE3", "SSSE3", "SSE4.1", "SSE4.2", "POPCNT", "CX16", "LAHF")
"""x86-64-v2 over the first 64-bit processors. Source: System V ABI, AMD64 supplement, micro-architecture levels."""


@dataclass(frozen=True, slots=True)
class _Place:
    """Where an instruction set is announced: its word in ``/proc/cpuinfo``; leaf, register and bit in glibc."""

    flag: str
    leaf: int
    register: int
    bit: int


_PLACES: Final = {
    "SSE3": _Place("pni", 0, 2, 0),
    "SSSE3": _Place("ssse3", 0, 2, 9),
    "SSE4.1": _Place("sse4_1", 0, 2, 19),
    "SSE4.2": _Place("sse4_2", 0, 2, 20),
    "POPCNT": _Place("popcnt", 0, 2, 23),
    "CX16": _Place("cx16", 0, 2, 13),
    "LAHF": _Place("lahf_lm", 2, 2, 0),
    "AVX": _Place("avx", 0, 2, 28),
    "FMA": _Place("fma", 0, 2, 12),
    "AVX2": _Place("avx2", 1, 1, 5),
    "AVX-512F": _Place("avx512f", 1, 1, 16),
    "AVX-512 VNNI": _Place("avx512_vnni", 1, 2, 11),
    "AVX-VNNI": _Place("avx_vnni", 6, 0, 4),
}
_WINDOWS: Final = {"SSE3": 13, "CX16": 14, "SSSE3": 36, "SSE4.1": 37, "SSE4.2": 38, "AVX": 39, "AVX2": 40}
"""Arguments of ``IsProcessorFeaturePresent``."""


def instruction_sets() -> dict[str, bool]:
    """Return instruction set -> whether this processor has it; what cannot be known is left out.

    glibc from 2.33 on tells what the CPUID instruction says, which holds in an emulator, too; older Linux has
    ``/proc/cpuinfo``. Windows knows SSSE3 and later by name since 2020, and says "absent" before: when it denies SSSE3,
    nothing from SSSE3 on is known. Of macOS, and of processors that are not x86-64, nothing is known.

    Source: GNU C Library manual, "X86"; Microsoft, ``IsProcessorFeaturePresent``.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return {}
    if sys.platform == "win32":
        return _windows()
    return _glibc() or _cpuinfo(_proc_cpuinfo())


def require_x86_64_v2(found: Mapping[str, bool] | None = None) -> None:
    """Refuse a processor that numpy and onnxruntime would crash on; what is unknown passes.

    Parameters
    ----------
    found : mapping of str to bool, optional
        As `instruction_sets` gives it; None asks this computer's.

    Raises
    ------
    BackendUnavailableError
        The processor is older than x86-64-v2.
    """
    there = instruction_sets() if found is None else found
    lacking = [name for name in _NEEDED if not there.get(name, True)]
    if lacking:
        raise BackendUnavailableError(
            f"this computer's processor lacks {', '.join(lacking)}; GliaLite needs one with x86-64-v2 "
            "(Intel from 2008, AMD from 2011 on): use a newer computer"
        )


def processor_name() -> str:
    """Return the processor's name for people, as the system gives it; under emulation that is the host's."""
    for line in _proc_cpuinfo().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def _proc_cpuinfo() -> str:
    try:
        return Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _cpuinfo(text: str) -> dict[str, bool]:
    """Return instruction set -> present from the first processor's flags; empty when there are none."""
    for line in text.splitlines():
        if line.startswith("flags"):
            flags = frozenset(line.partition(":")[2].split())
            return {name: place.flag in flags for name, place in _PLACES.items()}
    return {}


def _glibc() -> dict[str, bool]:
    """Return instruction set -> present; empty when the C library is older than glibc 2.33, or another one."""
    try:
        feature_leaf = ctypes.CDLL(None)["__x86_get_cpuid_feature_leaf"]
    except (OSError, AttributeError):
        return {}
    feature_leaf.argtypes = [ctypes.c_uint]
    feature_leaf.restype = ctypes.POINTER(ctypes.c_uint32 * 4)  # the registers eax, ebx, ecx, edx
    registers = {leaf: feature_leaf(leaf).contents for leaf in {place.leaf for place in _PLACES.values()}}
    return {name: bool(registers[p.leaf][p.register] >> p.bit & 1) for name, p in _PLACES.items()}


def _windows() -> dict[str, bool]:
    if sys.platform != "win32":  # for the type checker, which knows `windll` there only
        return {}
    present = ctypes.windll.kernel32.IsProcessorFeaturePresent
    asked = {name: bool(present(number)) for name, number in _WINDOWS.items()}
    return asked if asked["SSSE3"] else {name: asked[name] for name in ("SSE3", "CX16")}
