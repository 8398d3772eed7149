"""The clinic's own engine: a student's layers in compiled integer kernels, plane by plane, a thread each.

The same levels as onnxruntime's integer kernels, bit for bit, in less time (docs/benchmarks.md) and memory: nothing is
moved between two layers, and no layer is computed on channels that it does not have.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.bundle import Graph
from glialite_runtime.errors import BackendUnavailableError, BundleIntegrityError
from glialite_runtime.int8_network import BLOCK, Int8Layer, Int8Network, Int8Sum
from glialite_runtime.resources import usable_cores
from glialite_runtime.sequences import REGIONS, SEQUENCES

__all__ = ["Int8Engine", "kernel_kinds"]

_PIECES: Final = 3  # pieces of work a thread, so that all end at about the same time

Levels = npt.NDArray[np.uint8]


def kernel_kinds() -> dict[str, int]:
    """Return the compiled kernels that this processor has, name and lanes, the fastest first; empty without any.

    "portable" is there for comparison. It is slower than onnxruntime.
    """
    try:
        from glialite_runtime import _int8  # noqa: PLC0415 - absent where nothing could be compiled
    except ImportError:
        return {}
    return dict(_int8.kinds())


@dataclass(frozen=True, slots=True)
class _Volume:
    """Some channels of `array` (z, y, x, channel), which has a border of `border` zeros along each spatial axis."""

    array: Levels
    first: int = 0
    border: int = 1

    @property
    def shape(self) -> tuple[int, int, int]:
        z, y, x = (n - 2 * self.border for n in self.array.shape[:3])
        return z, y, x

    def origin(self, before: int) -> int:
        """Return the place in bytes of the voxel `before` the first one along each axis."""
        return (self.border - before) * sum(self.array.strides[:3]) + self.first


class Int8Engine:
    """A student in compiled integer kernels. May be used by several threads at once.

    Parameters
    ----------
    graph : Graph
        Divisor and precision.
    network : Int8Network
        Its layers.
    threads : int
        0: one a core.
    kind : str, optional
        One of `kernel_kinds`, by default the fastest.

    Raises
    ------
    BackendUnavailableError
        There are no such kernels.
    """

    def __init__(self, graph: Graph, network: Int8Network, threads: int = 0, kind: str | None = None) -> None:
        kinds = kernel_kinds()
        self._kind = kind or next(iter(kinds), "none")
        if self._kind not in kinds:
            raise BackendUnavailableError(
                f"there are no compiled kernels {self._kind!r} on this computer, only {', '.join(kinds) or 'none'}; "
                "install GliaLite from a wheel for it, or with a C compiler at hand"
            )
        self._lanes = kinds[self._kind]
        self._network = network
        self._whole = {part: whole for whole, parts in network.joins.items() for part in parts}
        self._weights: dict[str, npt.NDArray[np.int8]] = {}
        self._channels: dict[str, int] = {}
        self._last_use: dict[str, int] = {}
        for number, layer in enumerate(network.layers):
            self._last_use.update((self._owner(name), number) for name in _sources(layer))
            if isinstance(layer, Int8Sum):
                self._channels[layer.target] = self._channels[layer.sources[0]]
            else:
                self._channels[layer.target] = len(layer.weight) // (BLOCK if layer.raised else 1)
                self._weights[layer.target] = _pack(layer.weight, self._lanes)
        self._workers = threads or usable_cores()
        self.golden_crop = "not run"
        self.precision = graph.precision
        self.divisor = graph.divisor
        self.kernels = f"GliaLite {self._kind}"

    def logits(self, image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Return logits (3, z, y, x) of an image (4, z, y, x)."""
        levels = self._run(image, b"")
        return np.stack([table[region] for table, region in zip(self._network.table, levels, strict=True)])

    def above(self, image: npt.NDArray[np.float32], thresholds: Sequence[float]) -> npt.NDArray[np.bool_]:
        """Return where each region's logit is above its threshold, bool (3, z, y, x)."""
        limits = np.array(thresholds, np.float32)[:, None]
        # The logit rises with the level, so each threshold is a level: the first one whose logit is above it.
        first = np.count_nonzero(self._network.table <= limits, axis=1).astype(np.int32)
        return self._run(image, first).view(np.bool_)

    def bands(
        self, image: npt.NDArray[np.float32], thresholds: Sequence[float], margin: float
    ) -> npt.NDArray[np.uint8]:
        """Return how each region's logit lies to its threshold, uint8 (3, z, y, x); see `uncertainty.bands_of`."""
        levels = self._run(image, b"")
        bands = np.zeros(levels.shape, np.uint8)
        limits = np.array(thresholds, np.float32)[:, None]
        for shift in (-margin, 0.0, margin):
            first = np.count_nonzero(self._network.table <= limits + np.float32(shift), axis=1)
            for region, level in enumerate(first.tolist()):
                bands[region] += levels[region] >= level
        return bands

    def _run(self, image: npt.NDArray[np.float32], first: npt.NDArray[np.int32] | bytes) -> Levels:
        """Return the levels (3, z, y, x), or with `first` whether they are at least that; outside, the image is 0."""
        from glialite_runtime import _int8  # noqa: PLC0415

        shape = np.array(image.shape[1:], np.int64)
        edges = -(-shape // self.divisor) * self.divisor // 2
        out = np.empty((len(REGIONS), *shape), np.uint8)
        with ThreadPoolExecutor(self._workers) as pool:

            def each(work: Callable[[int, int], None], planes: int) -> None:
                pieces = min(planes, _PIECES * self._workers) if self._workers > 1 else 1
                ends = [piece * planes // pieces for piece in range(pieces + 1)]
                left = iter(list(itertools.pairwise(ends)))

                def share() -> None:
                    for start, stop in left:
                        work(start, stop)

                others = [pool.submit(share) for _ in range(min(pieces, self._workers) - 1)]
                share()
                for other in others:
                    other.result()

            volumes = {"image": self._room_for_blocks(shape, edges)}
            each(self._quantisation(image, volumes["image"].array), int(edges[0]))
            for number, layer in enumerate(self._network.layers):
                self._make_room(layer, volumes)
                if isinstance(layer, Int8Sum):
                    each(_summation(layer, volumes), volumes[layer.target].shape[0])
                else:
                    each(self._convolution(layer, volumes), volumes[layer.source].shape[0] // layer.stride)
                for name in [n for n in volumes if self._last_use.get(self._owner(n)) == number]:
                    del volumes[name]
            levels = volumes[self._network.layers[-1].target].array

            def unpack(start: int, stop: int) -> None:
                _int8.unpack(levels, out, np.array([*edges, *shape, start, stop], np.int64), first)

            each(unpack, int(edges[0]))
        return out

    def _room_for_blocks(self, shape: npt.NDArray[np.int64], edges: npt.NDArray[np.int64]) -> _Volume:
        """Return room for the image's blocks, 0 wherever they reach beyond the image."""
        blocks = np.empty((*edges, BLOCK * len(SEQUENCES)), np.uint8)
        if (shape != 2 * edges).any():
            blocks.fill(self._network.image_zero_point)
        return _Volume(blocks, border=0)

    def _quantisation(self, image: npt.NDArray[np.float32], blocks: Levels) -> Callable[[int, int], None]:
        """Return the function that turns some planes of the image into blocks."""
        from glialite_runtime import _int8  # noqa: PLC0415

        given = np.ascontiguousarray(image.transpose(1, 0, 2, 3), np.float32)
        fixed = [*image.shape[1:], *blocks.shape[:3], self._network.image_zero_point]
        scale, by_vectors = float(self._network.image_scale), self._kind != "portable"
        return lambda start, stop: _int8.quantise(
            given, blocks, np.array([*fixed, start, stop, by_vectors], np.int64), scale
        )

    def _owner(self, name: str) -> str:
        return self._whole.get(name, name)

    def _make_room(self, layer: Int8Layer | Int8Sum, volumes: dict[str, _Volume]) -> None:
        """Make room for what a layer writes; volumes that are joined later lie side by side from the start."""
        if layer.target in volumes:
            return
        edges: Sequence[int] = volumes[_sources(layer)[0]].shape
        if isinstance(layer, Int8Layer):
            edges = [2 * n if layer.raised else n // layer.stride for n in edges]
        whole = self._owner(layer.target)
        parts = self._network.joins.get(whole, (whole,))
        border = 0 if layer is self._network.layers[-1] else 1
        array = np.zeros((*(n + 2 * border for n in edges), sum(self._channels[part] for part in parts)), np.uint8)
        first = 0
        for part in parts:
            volumes[part] = _Volume(array, first, border)
            first += self._channels[part]
        volumes[whole] = _Volume(array, 0, border)

    def _convolution(self, layer: Int8Layer, volumes: dict[str, _Volume]) -> Callable[[int, int], None]:
        """Return the function that computes some planes of a layer."""
        from glialite_runtime import _int8  # noqa: PLC0415

        source, target, weights = volumes[layer.source], volumes[layer.target], self._weights[layer.target]
        outputs, kernel, *_, channels = layer.weight.shape
        steps, scale = target.array.strides, 2 if layer.raised else 1
        vectors = np.arange(0, outputs, self._lanes, dtype=np.int64)
        shift = vectors
        if layer.raised:
            block, channel = np.divmod(vectors, outputs // BLOCK)
            shift = channel + block // 4 * steps[0] + block // 2 % 2 * steps[1] + block % 2 * steps[2]
        shape = [n // layer.stride for n in source.shape]
        fixed = [
            source.origin(kernel // 2),
            *source.array.strides[:3],
            target.origin(0),
            *(scale * n for n in steps[:3]),
        ]
        fixed += [*shape, channels, outputs, kernel, layer.stride, layer.zero_point]

        def work(start: int, stop: int) -> None:
            settings = np.array([*fixed, start, stop], np.int64)
            try:
                _int8.convolve(
                    self._kind, source.array, target.array, weights, layer.bias, layer.scale, shift, settings
                )
            except ValueError as error:
                raise BundleIntegrityError(f"the layer that gives {layer.target} does not fit: {error}") from error

        return work


def _sources(layer: Int8Layer | Int8Sum) -> tuple[str, ...]:
    return layer.sources if isinstance(layer, Int8Sum) else (layer.source,)


def _summation(layer: Int8Sum, volumes: dict[str, _Volume]) -> Callable[[int, int], None]:
    """Return the function that computes some planes of a sum."""
    from glialite_runtime import _int8  # noqa: PLC0415

    three = [volumes[name] for name in (*layer.sources, layer.target)]
    fixed = [n for volume in three for n in (volume.origin(0), *volume.array.strides[:3])]
    fixed += [*three[2].shape, three[0].array.shape[3]]
    arrays = [volume.array for volume in three]

    def work(start: int, stop: int) -> None:
        _int8.combine(arrays[0], arrays[1], arrays[2], layer.table, np.array([*fixed, start, stop], np.int64))

    return work


def _pack(weight: npt.NDArray[np.int8], lanes: int) -> npt.NDArray[np.int8]:
    """Return weights (outputs, k, k, k, channels) in the kernels' order.

    Groups of vectors of output channels; in a group (z, y, x, channels / 4, outputs of the group, 4).
    """
    from glialite_runtime import _int8  # noqa: PLC0415

    outputs, channels = len(weight), weight.shape[-1]
    if outputs % lanes or channels % 4:
        raise BundleIntegrityError(f"a layer of {channels} to {outputs} channels; multiples of 4 and 8 were needed")
    rows = weight.reshape(outputs, -1, channels // 4, 4)
    ends = np.cumsum([0, *_int8.groups(outputs // lanes)]) * lanes
    groups = [rows[start:stop].transpose(1, 2, 0, 3).reshape(-1) for start, stop in itertools.pairwise(ends)]
    return np.concatenate(groups)
