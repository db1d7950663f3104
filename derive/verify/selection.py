"""Which of the CUDA kernels verification executes, and on rows of which length."""

from __future__ import annotations

from ..launches import BLOCK, FLOAT_TYPES, TEAMS, WARP, fused_start, kernels, reduction, single_start

SHORT = 25
"""Components of a row that no access of several fits."""


def lengths(dtype: str, thorough: bool) -> tuple[int, ...]:
    """Numbers of components with which every fused kernel is launched, or those that differ most."""
    wide = FLOAT_TYPES[dtype].wide
    if not thorough:
        return WARP.reach + 1, (BLOCK.reach + 1) * wide
    held = [team.threads * packs for team in TEAMS for packs in team.held]
    return (
        *(wide * (packs - 1) for packs in held),
        *(packs - 1 for packs in held),
        (BLOCK.reach + 1) * wide,
        BLOCK.reach + 1,
    )


def is_held(dtype: str, dim: int) -> bool:
    """Whether a row of this length is held in registers."""
    wide = FLOAT_TYPES[dtype].wide
    return dim <= BLOCK.reach * (wide if dim % wide == 0 else 1)


def kernels_to_execute(dtype: str, thorough: bool) -> tuple[str, ...]:
    """The kernels of one float type that are executed."""
    if thorough:
        return kernels([dtype])
    scalar = FLOAT_TYPES[dtype]
    dims = (*range(1, 8), SHORT, 16 * scalar.wide, *lengths(dtype, thorough))
    started = [fused_start(scalar, 1, dim) for dim in dims]
    started += [single_start(kernel, scalar, 1, SHORT) for kernel in ("forward", "backward")]
    return tuple(dict.fromkeys([*(start.kernel for start in started), reduction(scalar)]))
