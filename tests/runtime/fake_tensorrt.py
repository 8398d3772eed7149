"""Stand-ins for TensorRT and NVIDIA's CUDA bindings: the documented calls, in the documented order, or an error.

Names, arguments and what is returned follow the Python bindings of TensorRT 11.4 and cuda-bindings 13.5. An "engine" is
the ONNX graph itself, which onnxruntime computes on the CPU out of buffers that stand for memory on the GPU; so a test
fails on a wrong address, a wrong size or a call that is missing, not only on a wrong name.
"""

# ruff: noqa: N801, N802, N815 - NVIDIA's names

from __future__ import annotations

import ctypes
import enum
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
from onnx import TensorProto, helper, numpy_helper

VERSION = "11.4.0.106"


def volume_graph() -> bytes:
    """Return a native 3-D graph: a 3×3×3 mean of each sequence, mixed into logits."""
    weights = np.random.default_rng(1).normal(size=(3, 4, 1, 1, 1)) * np.ones((3, 3, 3)) / 27
    image, logits = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, [1, channels, "depth", "height", "width"])
        for name, channels in (("image", 4), ("logits", 3))
    )
    layer = helper.make_node("Conv", ["image", "w", "b"], ["logits"], pads=[1] * 6)
    values = [
        numpy_helper.from_array(weights.astype(np.float32), "w"),
        numpy_helper.from_array(np.ones(3, np.float32), "b"),
    ]
    graph = helper.make_graph([layer], "volume", [image], [logits], values)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    content: bytes = model.SerializeToString()
    return content


GRAPH = volume_graph()


class FakeTensorRt:
    """What ``import tensorrt`` gives, with a record of what was called."""

    __version__ = VERSION

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.refuse_starting = self.refuse_parsing = self.refuse_building = self.refuse_timings = False
        self.refuse_context = False
        self.flags: list[int] = []
        self.shapes: dict[str, tuple[tuple[int, ...], ...]] = {}
        self.timings_given: list[bytes] = []
        fake = self

        class Severity(enum.Enum):
            INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)

        class ILogger:
            def __init__(self) -> None:
                self.ready = True

        ILogger.Severity = Severity  # type: ignore[attr-defined]

        class NetworkDefinitionCreationFlag(enum.IntEnum):
            STRONGLY_TYPED = 0

        self.ILogger = ILogger
        self.Severity = Severity
        self.NetworkDefinitionCreationFlag = NetworkDefinitionCreationFlag
        self.Builder = lambda logger: _started(fake, _Builder, logger)
        self.OnnxParser = lambda network, logger: _Parser(fake, network, logger)
        self.Runtime = lambda logger: _started(fake, _Runtime, logger)


def _started(fake: FakeTensorRt, kind: Any, logger: Any) -> Any:
    if fake.refuse_starting:
        logger.log(fake.Severity.ERROR, "CUDA initialization failure with error: 35")
        raise TypeError("pybind11::init(): factory function returned nullptr")
    return kind(fake, logger)


def _checked(logger: Any) -> Any:
    assert logger.ready, "the base class of a logger must be initialised"
    return logger


class _Builder:
    def __init__(self, fake: FakeTensorRt, logger: Any) -> None:
        self.fake, self.logger = fake, _checked(logger)

    def create_network(self, flags: int = 0) -> SimpleNamespace:
        self.fake.flags.append(flags)
        return SimpleNamespace(graph=None)

    def create_builder_config(self) -> _Config:
        return _Config(self.fake)

    def create_optimization_profile(self) -> SimpleNamespace:
        def set_shape(
            input: str,
            min: tuple[int, ...],
            opt: tuple[int, ...],
            max: tuple[int, ...],
        ) -> None:
            assert all(a <= b <= c for a, b, c in zip(min, opt, max, strict=True))
            self.fake.shapes[input] = (min, opt, max)

        return SimpleNamespace(set_shape=set_shape)

    def build_serialized_network(self, network: SimpleNamespace, config: _Config) -> memoryview | None:
        self.fake.calls.append("build")
        assert network.graph is not None, "nothing was parsed"
        assert config.profiles == 1, "a graph with free edges needs a profile"
        assert config.timings is not None
        if self.fake.refuse_building:
            self.logger.log(self.fake.Severity.ERROR, "Could not find any implementation for node conv")
            return None
        config.timings.content += b"measured"
        return memoryview(json.dumps([VERSION, network.graph.hex()]).encode())


class _Config:
    def __init__(self, fake: FakeTensorRt) -> None:
        self.fake, self.profiles, self.timings = fake, 0, None

    def add_optimization_profile(self, profile: Any) -> int:
        assert profile is not None
        self.profiles += 1
        return self.profiles - 1

    def create_timing_cache(self, serialized_timing_cache: bytes | memoryview) -> SimpleNamespace:
        content = bytes(serialized_timing_cache)
        self.fake.timings_given.append(content)
        cache = SimpleNamespace(content=content)
        cache.serialize = lambda: memoryview(cache.content)
        return cache

    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool:
        assert not ignore_mismatch, "timings of another GPU are wrong here"
        if self.fake.refuse_timings and cache.content:
            return False
        self.timings = cache
        return True

    def get_timing_cache(self) -> Any:
        return self.timings


class _Parser:
    def __init__(self, fake: FakeTensorRt, network: SimpleNamespace, logger: Any) -> None:
        self.fake, self.network, self.num_errors = fake, network, 0
        _checked(logger)

    def parse(self, model: bytes | memoryview) -> bool:
        self.fake.calls.append("parse")
        if self.fake.refuse_parsing:
            self.num_errors = 1
            return False
        self.network.graph = bytes(model)
        return True

    def get_error(self, index: int) -> SimpleNamespace:
        assert 0 <= index < self.num_errors
        return SimpleNamespace(desc=lambda: "zero point must be 0")


class _Runtime:
    def __init__(self, fake: FakeTensorRt, logger: Any) -> None:
        self.fake = fake
        _checked(logger)

    def deserialize_cuda_engine(self, serialized_engine: bytes | memoryview) -> SimpleNamespace | None:
        try:
            version, graph = json.loads(bytes(serialized_engine))
        except ValueError:
            return None
        if version != VERSION:
            return None
        self.fake.calls.append("load")
        context = None if self.fake.refuse_context else _Context(bytes.fromhex(graph))
        return SimpleNamespace(create_execution_context=lambda: context)


class _Context:
    def __init__(self, graph: bytes) -> None:
        self._session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
        self._shape: tuple[int, ...] | None = None
        self._addresses: dict[str, int] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        assert name == "image"
        self._shape = shape
        return True

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        assert name == "logits"
        assert self._shape is not None, "the shape of the output depends on that of the input"
        return (1, 3, *self._shape[2:])

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._addresses[name] = int(memory)
        return True

    def execute_async_v3(self, stream_handle: int) -> bool:
        assert int(stream_handle) == FakeCuda.STREAM
        assert self._shape is not None
        image = np.ctypeslib.as_array(
            ctypes.cast(self._addresses["image"], ctypes.POINTER(ctypes.c_float)), self._shape
        )
        logits = self._session.run(["logits"], {"image": image.copy()})[0]
        ctypes.memmove(self._addresses["logits"], logits.ctypes.data, logits.nbytes)
        return True


class FakeCuda:
    """What ``from cuda.bindings import runtime`` gives: each call returns its error code first."""

    STREAM = 77

    class cudaError_t(enum.IntEnum):
        cudaSuccess = 0
        cudaErrorMemoryAllocation = 2
        cudaErrorInsufficientDriver = 35

    class cudaMemcpyKind(enum.IntEnum):
        cudaMemcpyHostToDevice = 1
        cudaMemcpyDeviceToHost = 2

    def __init__(self, free_bytes: int = 1 << 30) -> None:
        self.free_bytes, self.has_driver, self.streams_waited = free_bytes, True, 0
        self.buffers: dict[int, Any] = {}

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, Any]:
        if not self.has_driver:
            return self.cudaError_t.cudaErrorInsufficientDriver, None
        return self.cudaError_t.cudaSuccess, SimpleNamespace(name=b"NVIDIA L4")

    def cudaGetErrorString(self, error: Any) -> tuple[Any, bytes]:
        return self.cudaError_t.cudaSuccess, {2: b"out of memory", 35: b"driver is insufficient"}[int(error)]

    def cudaStreamCreate(self) -> tuple[Any, int]:
        return self.cudaError_t.cudaSuccess, self.STREAM

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any]:
        assert int(stream) == self.STREAM
        self.streams_waited += 1
        return (self.cudaError_t.cudaSuccess,)

    def cudaMalloc(self, size: int) -> tuple[Any, int | None]:
        if size > self.free_bytes:
            return self.cudaError_t.cudaErrorMemoryAllocation, None
        buffer = ctypes.create_string_buffer(size)
        self.buffers[ctypes.addressof(buffer)] = buffer
        return self.cudaError_t.cudaSuccess, ctypes.addressof(buffer)

    def cudaFree(self, address: int) -> tuple[Any]:
        del self.buffers[int(address)]
        return (self.cudaError_t.cudaSuccess,)

    def cudaMemcpyAsync(self, dst: int, src: int, count: int, kind: Any, stream: int) -> tuple[Any]:
        assert int(stream) == self.STREAM
        on_gpu = dst if kind == self.cudaMemcpyKind.cudaMemcpyHostToDevice else src
        assert count == len(self.buffers[int(on_gpu)]), "the copy does not fit the buffer"
        ctypes.memmove(int(dst), int(src), count)
        return (self.cudaError_t.cudaSuccess,)
