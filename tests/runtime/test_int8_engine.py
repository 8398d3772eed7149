"""The compiled kernels' door: nothing gets in that does not fit its buffers, and their absence is said."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from glialite_runtime import int8_engine
from glialite_runtime.bundle import Graph
from glialite_runtime.errors import BackendUnavailableError
from glialite_runtime.int8_engine import Int8Engine, kernel_kinds
from glialite_runtime.int8_network import Int8Network

_int8 = pytest.importorskip("glialite_runtime._int8", reason="no C compiler was at hand when GliaLite was installed")

NETWORK = Int8Network((), {}, np.float32(1), 0, np.zeros((3, 256), np.float32))
GRAPH = Graph("x", "cpu", "int8", "depth-as-batch", 2, 17)


def arguments(**changed: Any) -> list[Any]:
    """Return what convolves 1 voxel of 4 channels to 8, 1×1×1; all weights 1, so the sum is 4 times the input."""
    given = {
        "kind": "portable",
        "source": np.full(4, 3, np.uint8),
        "target": np.zeros(8, np.uint8),
        "weights": np.ones(32, np.int8),
        "bias": np.arange(8, dtype=np.int32),
        "scale": np.full(8, 0.5, np.float32),
        "shift": np.zeros(1, np.int64),
        "settings": np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 4, 8, 1, 1, 0, 0, 1], np.int64),
    }
    return list({**given, **changed}.values())


def test_a_convolution_by_hand() -> None:
    """(4 · 3 + n) / 2 for the bias n, halves rounded to even."""
    given = arguments()
    _int8.convolve(*given)
    assert given[2].tolist() == [6, 6, 7, 8, 8, 8, 9, 10]


def test_levels_are_cut_at_both_ends() -> None:
    """0 … 255 after the zero point; sums near 2³¹ do not wrap around."""
    for kind, lanes in _int8.kinds():
        bias = np.array([-(2**31), -300, -20, 0, 400, 2**31 - 1, 0, 0], np.int32)
        given = arguments(
            kind=kind, source=np.zeros(4, np.uint8), bias=bias, scale=np.ones(8, np.float32),
            shift=np.arange(0, 8, lanes, dtype=np.int64),
            settings=np.array([0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 4, 8, 1, 1, 10, 0, 1], np.int64),
        )  # fmt: skip
        _int8.convolve(*given)
        assert given[2].tolist() == [0, 0, 0, 10, 255, 255, 10, 10], kind


SETTINGS = {
    "a source that ends": (0, 1), "planes beyond the source": (8, 2), "strides beyond it": (1, 1 << 20),
    "more channels": (11, 8), "no channels": (11, 0), "channels by three": (11, 3), "more outputs": (12, 16),
    "a kernel beyond the source": (13, 3), "no kernel": (13, 0), "a stride of nothing": (14, 0),
    "a zero point beyond a byte": (15, 256), "planes that are not there": (17, 2), "planes backwards": (16, 2),
    "a target that ends": (4, 1), "a place before the source": (0, -1), "a number beyond all": (5, 1 << 40),
}  # fmt: skip


@pytest.mark.parametrize("place", SETTINGS, ids=str)
def test_settings_beyond_the_buffers_are_refused(place: str) -> None:
    """Each of them would read or write what is not theirs."""
    given = arguments()
    at, value = SETTINGS[place]
    if place.startswith(("planes beyond", "strides")):
        given[7][8] = 2
        given[7][2 if place.startswith("strides") else 1] = value if place.startswith("strides") else 4
    given[7][at] = value
    if place == "a kernel beyond the source":
        given[3] = np.ones(32 * 27, np.int8)
        given[7][1:4] = 4
    with pytest.raises(ValueError, match="do not fit together"):
        _int8.convolve(*given)


@pytest.mark.parametrize("changed", ["weights", "bias", "scale", "shift", "settings"])
def test_buffers_of_another_size_are_refused(changed: str) -> None:
    """One value fewer, or one more."""
    names = ["kind", "source", "target", "weights", "bias", "scale", "shift", "settings"]
    for size in (-1, 1):
        array = arguments()[names.index(changed)]
        with pytest.raises(ValueError, match="do not fit together"):
            _int8.convolve(*arguments(**{changed: np.resize(array, len(array) + size)}))


def test_a_shift_beyond_the_target_is_refused() -> None:
    """It says where outputs go."""
    for shift in (1, -1, 1 << 62):
        with pytest.raises(ValueError, match="do not fit together"):
            _int8.convolve(*arguments(shift=np.array([shift], np.int64)))


def test_a_read_only_target_is_refused() -> None:
    """Python's own check of buffers."""
    target = np.zeros(8, np.uint8)
    target.flags.writeable = False
    with pytest.raises((TypeError, ValueError, BufferError)):
        _int8.convolve(*arguments(target=target))


def test_other_doors_check_their_buffers_too() -> None:
    """The image's bytes, the output's blocks, and sums."""
    image, blocks = np.zeros((2, 4, 2, 2), np.float32), np.zeros((1, 1, 1, 32), np.uint8)
    fits = [2, 2, 2, 1, 1, 1, 0, 0, 1, 0]
    _int8.quantise(image, blocks, np.array(fits, np.int64), 1.0)
    for at, value in ((0, 3), (3, 2), (6, 256), (7, 2), (8, 2), (1, -1)):
        wrong = [*fits[:at], value, *fits[at + 1 :]]
        with pytest.raises(ValueError, match="do not fit together"):
            _int8.quantise(image, blocks, np.array(wrong, np.int64), 1.0)
    levels, volumes = np.zeros(24, np.uint8), np.zeros(24, np.uint8)
    fits = [1, 1, 1, 2, 2, 2, 0, 1]
    _int8.unpack(levels, volumes, np.array(fits, np.int64), b"")
    for at, value in ((0, 2), (3, 3), (6, 2), (7, 2)):
        wrong = [*fits[:at], value, *fits[at + 1 :]]
        with pytest.raises(ValueError, match="do not fit together"):
            _int8.unpack(levels, volumes, np.array(wrong, np.int64), b"")
    byte, table = np.zeros(1, np.uint8), np.zeros((256, 256), np.uint8)
    fits = [0] * 12 + [1, 1, 1, 1, 0, 1]
    _int8.combine(byte, byte, byte.copy(), table, np.array(fits, np.int64))
    for at, value in ((0, 1), (4, 1), (8, 1), (12, 0), (15, 2), (17, 2)):
        wrong = [*fits[:at], value, *fits[at + 1 :]]
        with pytest.raises(ValueError, match="do not fit together"):
            _int8.combine(byte, byte, byte.copy(), table, np.array(wrong, np.int64))


def test_an_unknown_kind_is_refused() -> None:
    """Also one that another processor has."""
    with pytest.raises(ValueError, match="no kernels named neon"):
        _int8.convolve(*arguments(kind="neon"))
    with pytest.raises(BackendUnavailableError, match="'neon'"):
        Int8Engine(GRAPH, NETWORK, kind="neon")


def test_without_compiled_kernels_the_error_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an installation without a compiler."""
    monkeypatch.setattr(int8_engine, "kernel_kinds", dict)
    with pytest.raises(BackendUnavailableError, match="C compiler"):
        Int8Engine(GRAPH, NETWORK)


def test_the_portable_kernels_come_last() -> None:
    """They are slower than onnxruntime: never chosen where there are others."""
    assert list(kernel_kinds())[-1] == "portable"
