"""The kernels of the CUDA target: which there are, and which of them a launcher starts."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class FloatType:
    """A C++ float type: its name, the suffix of its launchers, and how many fit in a 16-byte access."""

    name: str
    suffix: str
    wide: int


FLOAT_TYPES = {"float32": FloatType("float", "f32", 4), "float64": FloatType("double", "f64", 2)}
PACKS = (1, 2, 4, 8)
"""How many packs of a row a lane may hold in registers; a row that needs more is read twice."""

THREADS = 256
"""In a block, of every launch."""


def fused_launch(scalar: FloatType, rows: int, dim: int, aligned: bool = True) -> tuple[str, int]:
    """The kernel that the launcher of forward_backward starts for a batch, and in how many blocks."""
    width = scalar.wide if aligned and dim % scalar.wide == 0 else 1
    packs = -(-(dim // width) // 32)
    for held in PACKS:
        if packs <= held:
            return f"forward_backward_by_warp<{scalar.name}, {width}, {held}>", -(-rows // (THREADS // 32))
    return f"forward_backward_by_block<{scalar.name}, {width}>", rows


def kernel_names(stem: str, dtypes: Iterable[str], held: Iterable[int] = PACKS) -> tuple[str, ...]:
    """Every instantiation of a kernel that the launchers of an objective use, in the namespace `stem`.

    held: how many packs of a row its lanes hold, where a warp takes a row.
    """
    held = tuple(held)
    names = []
    for dtype in dtypes:
        scalar = FLOAT_TYPES[dtype]
        for width in (scalar.wide, 1):
            shape = f"{scalar.name}, {width}"
            names += [f"forward_backward_by_warp<{shape}, {packs}>" for packs in held]
            names += [f"{kernel}_by_block<{shape}>" for kernel in ("forward_backward", "forward", "backward")]
        names.append(f"reduce_by_block<{scalar.name}>")
    return tuple(f"{stem}::{name}" for name in names)
