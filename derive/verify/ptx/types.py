"""The types of PTX and their arrays: how the bits of a register are read as numbers, and numbers written as bits."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_FLOATS = {16: np.float16, 32: np.float32, 64: np.float64}


@dataclass(frozen=True)
class Type:
    """A PTX type.

    kind: 'pred', 'b' (bits), 'u', 's', 'f' or 'bf' (bfloat16). bits: of one element. count: 2 for packed types.
    The elements of a packed type are the last axis of its arrays, the low half first. bfloat16 is computed in
    float32 arrays that hold bfloat16 values only.
    """

    name: str
    kind: str
    bits: int
    count: int = 1

    @cached_property
    def size(self) -> int:
        """Bytes, of all elements."""
        return max(1, self.bits * self.count // 8)

    @property
    def is_float(self) -> bool:
        return self.kind in ("f", "bf")

    @property
    def is_signed(self) -> bool:
        return self.kind == "s"

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """Of the arrays that are computed with."""
        if self.kind == "pred":
            return np.dtype(bool)
        if self.kind == "bf":
            return np.dtype(np.float32)
        if self.kind == "f":
            return np.dtype(_FLOATS[self.bits])
        return np.dtype(f"{'i' if self.is_signed else 'u'}{self.bits // 8}")

    @cached_property
    def stored(self) -> np.dtype[Any]:
        """Of the arrays that registers are kept in."""
        return np.dtype(bool) if self.kind == "pred" else np.dtype(f"u{self.size}")

    @property
    def element(self) -> Type:
        """The type of one of the packed elements, or this type."""
        return find(self.name.removesuffix("x2")) if self.count == 2 else self


_TYPES = {
    "pred": Type("pred", "pred", 1),
    **{f"{kind}{bits}": Type(f"{kind}{bits}", kind, bits) for kind in "bus" for bits in (8, 16, 32, 64)},
    **{f"f{bits}": Type(f"f{bits}", "f", bits) for bits in _FLOATS},
    "bf16": Type("bf16", "bf", 16),
    "f16x2": Type("f16x2", "f", 16, 2),
    "bf16x2": Type("bf16x2", "bf", 16, 2),
    "u16x2": Type("u16x2", "u", 16, 2),
    "s16x2": Type("s16x2", "s", 16, 2),
}


def find(name: str) -> Type:
    """The type of that name; KeyError if there is none."""
    return _TYPES[name]


def is_type(name: str) -> bool:
    return name in _TYPES


@cache
def unsigned(size: int) -> np.dtype[Any]:
    """The unsigned integer of `size` bytes."""
    return np.dtype(f"u{size}")


def decode(raw: Array, type_: Type) -> Array:
    """The numbers in the bits of registers, which may be wider than the type: then their low bits count."""
    if raw.dtype != type_.stored:
        raw = raw.astype(type_.stored)
    if type_.count == 2:
        raw = raw.view(np.uint16).reshape(-1, 2)
    if type_.kind == "bf":
        return (raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return raw.view(type_.dtype)


def encode(values: Array, type_: Type, stored: np.dtype[Any]) -> Array:
    """The bits of numbers, extended to the width of a register by the sign or by zeros."""
    values = np.ascontiguousarray(values, type_.dtype)
    if type_.kind == "bf":
        values = (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
    if type_.count == 2:
        values = values.view(np.uint32).reshape(-1)
    if type_.kind == "pred" or values.itemsize == stored.itemsize:
        return values.view(stored)
    if values.dtype.kind == "f":
        values = values.view(unsigned(values.itemsize))
    return values.astype(stored)  # of signed numbers NumPy extends the sign
