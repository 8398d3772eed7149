"""Read what an ONNX file holds beside its nodes: constants and notes. Without onnx, which is 20 MB and no clinic's."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime.errors import BundleIntegrityError

__all__ = ["OnnxFile", "read_onnx"]

# Numbers of fields and kinds of data, from onnx.proto.
_MODEL_GRAPH, _MODEL_NOTES, _GRAPH_CONSTANTS = 7, 14, 5
_NOTE_KEY, _NOTE_TEXT = 1, 2
_DIMS, _KIND, _NAME, _RAW = 1, 2, 8, 9
_KINDS: Final = {1: np.float32, 2: np.uint8, 3: np.int8, 6: np.int32, 7: np.int64}

_VARINT, _EIGHT, _BYTES, _FOUR = 0, 1, 2, 5
_MAX_VARINT: Final = 10


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """The constants of a graph, read-only arrays by name, and the file's notes (`metadata_props`)."""

    constants: dict[str, npt.NDArray[Any]]
    notes: dict[str, str]


def read_onnx(content: bytes) -> OnnxFile:
    """Return constants and notes of an ONNX file; constants of other kinds than onnx writes for us are left out.

    Raises
    ------
    BundleIntegrityError
        The bytes are not those of such a file.
    """
    try:
        return _read(memoryview(content))
    except (ValueError, IndexError, OverflowError) as error:
        raise BundleIntegrityError(f"a graph's file cannot be read ({error}); copy the bundle again") from error


def _read(content: memoryview) -> OnnxFile:
    constants: dict[str, npt.NDArray[Any]] = {}
    notes: dict[str, str] = {}
    for field, value in _fields(content):
        if field == _MODEL_GRAPH:
            for inner, tensor in _fields(_bytes(value)):
                if inner == _GRAPH_CONSTANTS:
                    constants.update(_constant(_bytes(tensor)))
        elif field == _MODEL_NOTES:
            note = {key: bytes(_bytes(text)).decode() for key, text in _fields(_bytes(value))}
            notes[note.get(_NOTE_KEY, "")] = note.get(_NOTE_TEXT, "")
    return OnnxFile(constants, notes)


def _constant(content: memoryview) -> dict[str, npt.NDArray[Any]]:
    dims: list[int] = []
    kind, name, raw = 0, "", None
    for field, value in _fields(content):
        if field == _DIMS:
            dims += [value] if isinstance(value, int) else _packed(value)
        elif field == _KIND and isinstance(value, int):
            kind = value
        elif field == _NAME:
            name = bytes(_bytes(value)).decode()
        elif field == _RAW:
            raw = _bytes(value)
    if kind not in _KINDS or raw is None:
        return {}
    if math.prod(dims) * np.dtype(_KINDS[kind]).itemsize != len(raw):
        raise ValueError(f"constant {name!r} of shape {dims} has {len(raw)} bytes")
    return {name: np.frombuffer(raw, _KINDS[kind]).reshape(dims)}


def _fields(content: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Yield number and value of each field of a protocol buffer: whole numbers, or bytes."""
    place = 0
    while place < len(content):
        key, place = _varint(content, place)
        wire = key & 7
        if wire == _VARINT:
            value, place = _varint(content, place)
            yield key >> 3, value
            continue
        if wire == _BYTES:
            length, place = _varint(content, place)
        elif wire in (_EIGHT, _FOUR):
            length = 8 if wire == _EIGHT else 4
        else:
            raise ValueError(f"unknown kind of field {wire}")
        if length > len(content) - place:
            raise ValueError("it ends too early")
        yield key >> 3, content[place : place + length]
        place += length


def _varint(content: memoryview, place: int) -> tuple[int, int]:
    value = 0
    for count in range(_MAX_VARINT):
        byte = content[place + count]
        value |= (byte & 127) << (7 * count)
        if byte < 128:
            return value, place + count + 1
    raise ValueError("a number has no end")


def _packed(content: memoryview) -> list[int]:
    values, place = [], 0
    while place < len(content):
        value, place = _varint(content, place)
        values.append(value)
    return values


def _bytes(value: int | memoryview) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where bytes were needed")
    return value
