"""The kernels of the CUDA target: which there are, and which of them a launcher starts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType


@dataclass(frozen=True)
class FloatType:
    """A type of embeddings and gradients.

    storage: its C++ name in a kernel. arithmetic: the type that it is computed in, and that losses have.
    argument: what a launcher's pointers point to. suffix: of its launchers. size: in bytes.
    """

    storage: str
    arithmetic: str
    argument: str
    suffix: str
    size: int

    @property
    def wide(self) -> int:
        """How many fit in a 16-byte access."""
        return 16 // self.size


FLOAT_TYPES: Mapping[str, FloatType] = MappingProxyType(
    {
        "float32": FloatType("float", "float", "float", "f32", 4),
        "float64": FloatType("double", "double", "double", "f64", 8),
        "float16": FloatType("Half", "float", "__half", "f16", 2),
        "bfloat16": FloatType("BFloat16", "float", "__nv_bfloat16", "bf16", 2),
    }
)

THREADS = 256
"""In a block, of every launch that takes rows."""
REDUCTION_THREADS = 1024
"""In the block that adds up the losses, or counts the active rows."""
MOST_BLOCKS = 1 << 20
"""In a grid; where there are more rows, each takes several."""


@dataclass(frozen=True)
class Team:
    """The threads that share a row. held: how many packs of it each may hold in registers, so that it is read once."""

    name: str
    threads: int
    held: tuple[int, ...]

    @property
    def reach(self) -> int:
        """The packs of the longest row that it holds."""
        return self.threads * self.held[-1]


WARP, BLOCK = Team("Warp", 32, (1, 2, 4, 8)), Team(f"Block<{THREADS}>", THREADS, (2, 4, 8))
TEAMS = (WARP, BLOCK)


@dataclass(frozen=True)
class Start:
    """What a launcher starts: a kernel, as the header calls it, in so many blocks, but `MOST_BLOCKS` at most."""

    kernel: str
    blocks: int


def fused_start(scalar: FloatType, rows: int, dim: int, aligned: bool = True) -> Start:
    """The start of forward_backward: the first team that can hold a row does, and with the fewest registers."""
    width = _width(scalar, dim, aligned)
    packs = dim // width
    for team in TEAMS:
        for held in team.held:
            if packs <= team.threads * held:
                return Start(_fused(team, scalar, width, held), _blocks(team, rows))
    return Start(_fused_long(scalar, width), rows)


def single_start(kernel: str, scalar: FloatType, rows: int, dim: int, aligned: bool = True) -> Start:
    """The start of forward or of backward, which read a row once whatever its length."""
    width = _width(scalar, dim, aligned)
    team = WARP if dim // width <= WARP.reach else BLOCK
    return Start(_single(kernel, team, scalar, width), _blocks(team, rows))


def product_start(scalar: FloatType, rows: int, dim: int) -> Start:
    """The start of hvp, which reads one component at a time."""
    team = WARP if dim <= WARP.reach else BLOCK
    return Start(_product(team, scalar), _blocks(team, rows))


def mask_start(scalar: FloatType, rows: int, dim: int, aligned: bool = True) -> Start:
    """The start of mask, which a launcher that was given upstream gradients adds; aligned: whether its outputs are."""
    return Start(_single("mask", WARP, scalar, _width(scalar, dim, aligned)), _blocks(WARP, rows))


REDUCTIONS = ("reduce", "active")
"""What takes the losses of all rows, in one block: their sum, and their shares of a mean over the active rows."""


def reduction(scalar: FloatType, kernel: str = "reduce") -> str:
    """One of `REDUCTIONS`."""
    return f"{kernel}<Block<{REDUCTION_THREADS}>, {scalar.arithmetic}>"


def kernels(dtypes: Iterable[str], products: bool = True) -> tuple[str, ...]:
    """Every instantiation of a kernel that launchers use; `products` are those with a Hessian."""
    return tuple(dict.fromkeys(_kernels(dtypes, products)))


def _kernels(dtypes: Iterable[str], products: bool) -> Iterator[str]:
    for dtype in dtypes:
        scalar = FLOAT_TYPES[dtype]
        for width in (scalar.wide, 1):
            for team in TEAMS:
                yield from (_fused(team, scalar, width, held) for held in team.held)
                yield from (_single(kernel, team, scalar, width) for kernel in ("forward", "backward"))
            yield _fused_long(scalar, width)
            yield _single("mask", WARP, scalar, width)
        yield from (_product(team, scalar) for team in TEAMS if products)
        yield from (reduction(scalar, kernel) for kernel in REDUCTIONS)


def qualified(stem: str, kernel: str) -> str:
    """The name of a kernel outside the namespace `stem` of its header."""
    return f"{stem}::" + re.sub(r"\b(Warp|Block|Half|BFloat16)\b", rf"{stem}::\1", kernel)


def _width(scalar: FloatType, dim: int, aligned: bool) -> int:
    return scalar.wide if aligned and dim % scalar.wide == 0 else 1


def _blocks(team: Team, rows: int) -> int:
    return -(-rows // (THREADS // team.threads))


def _fused(team: Team, scalar: FloatType, width: int, held: int) -> str:
    return f"forward_backward<{team.name}, {scalar.storage}, {width}, {held}>"


def _fused_long(scalar: FloatType, width: int) -> str:
    return f"forward_backward_long<{BLOCK.name}, {scalar.storage}, {width}>"


def _single(kernel: str, team: Team, scalar: FloatType, width: int) -> str:
    return f"{kernel}<{team.name}, {scalar.storage}, {width}>"


def _product(team: Team, scalar: FloatType) -> str:
    return f"hvp<{team.name}, {scalar.storage}>"
