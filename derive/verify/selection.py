"""Which of the CUDA kernels verification executes, and on rows of which length."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

from ..launches import (
    BLOCK,
    FLOAT_TYPES,
    REDUCTIONS,
    TEAMS,
    WARP,
    fused_start,
    kernels,
    mask_start,
    product_start,
    reduction,
    single_start,
)

SHORT = 25
"""Components of a row that no access of several fits."""


class Depth(Enum):
    """How much is executed.

    Every kernel; those that differ most; or those of short rows, which have all of the mathematics.
    """

    EVERY = "every kernel"
    MOST = "the kernels that differ most"
    SHORT = "the kernels of short rows"


def depth(dtype: str, dtypes: Sequence[str], thorough: bool) -> Depth:
    """How much is executed for one of the float types: the kernels are the same templates for all of them."""
    return Depth.EVERY if thorough else Depth.MOST if dtype == dtypes[0] else Depth.SHORT


def lengths(dtype: str, depth: Depth) -> tuple[int, ...]:
    """Numbers of components, besides a few, with which fused kernels are launched."""
    wide, beyond = FLOAT_TYPES[dtype].wide, BLOCK.reach + 1
    held = [team.threads * packs for team in TEAMS for packs in team.held]
    every = (*(wide * (packs - 1) for packs in held), *(packs - 1 for packs in held), wide * beyond, beyond)
    return {Depth.EVERY: every, Depth.MOST: (WARP.reach + 1, wide * beyond), Depth.SHORT: ()}[depth]


def is_held(dtype: str, dim: int) -> bool:
    """Whether a row of this length is held in registers."""
    wide = FLOAT_TYPES[dtype].wide
    return dim <= BLOCK.reach * (wide if dim % wide == 0 else 1)


def is_in_two(depth: Depth) -> bool:
    """Whether forward and backward are executed one after the other as well."""
    return depth is not Depth.SHORT


def product_lengths(depth: Depth) -> tuple[int, ...]:
    """Numbers of components, besides a few, with which products are launched."""
    return (WARP.reach + 1,) if depth is not Depth.SHORT else ()


def kernels_to_execute(dtype: str, depth: Depth, products: bool = True) -> tuple[str, ...]:
    """The kernels of one float type that are executed; `products` are those with a Hessian, if there are any."""
    if depth is Depth.EVERY:
        return kernels([dtype], products)
    scalar = FLOAT_TYPES[dtype]
    dims = (*range(1, 8), SHORT, 16 * scalar.wide, *lengths(dtype, depth))
    started = [fused_start(scalar, 1, dim) for dim in dims]
    started += [single_start(kernel, scalar, 1, SHORT) for kernel in ("forward", "backward") if is_in_two(depth)]
    started += [product_start(scalar, 1, dim) for dim in (SHORT, *product_lengths(depth)) if products]
    started += [mask_start(scalar, 1, SHORT)]
    over_rows = (reduction(scalar, kernel) for kernel in REDUCTIONS)
    return tuple(dict.fromkeys([*(start.kernel for start in started), *over_rows]))
