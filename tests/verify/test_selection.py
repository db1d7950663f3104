"""Which kernels verification executes: all that launchers start where it is thorough, those that differ otherwise."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from derive_triplet import differentiate, generate, verify
from derive_triplet.derive.launches import (
    BLOCK,
    FLOAT_TYPES,
    REDUCTIONS,
    TEAMS,
    THREADS,
    WARP,
    fused_start,
    kernels,
    mask_start,
    product_start,
    reduction,
    single_start,
)
from derive_triplet.derive.verify import executed, nvcc, nvrtc
from derive_triplet.derive.verify.selection import SHORT, Depth, depth, is_held, is_in_two, kernels_to_execute, lengths

dtypes = pytest.mark.parametrize("dtype", FLOAT_TYPES)


@dtypes
def test_the_kernel_started_is_the_one_that_holds_the_row(dtype: str) -> None:
    """By the parameters in its name: no kernel with fewer registers would do, and none that reads the row once."""
    scalar = FLOAT_TYPES[dtype]
    rows = 1_000
    blocks = {"Warp": -(-rows * 32 // THREADS), BLOCK.name: rows}
    reach = {(team.name, held): team.threads * held for team in TEAMS for held in team.held}
    for dim in (*range(1, 3_000), *range(16_000, 16_500)):
        start = fused_start(scalar, rows, dim)
        (parts,) = re.findall(r"^(\w+)<(\w+(?:<\d+>)?), (\w+), (\d+)(?:, (\d+))?>$", start.kernel)
        kernel, team, storage, width, held = parts
        assert storage == scalar.storage
        assert int(width) == (scalar.wide if dim % scalar.wide == 0 else 1)
        assert f", {scalar.storage}, 1" in fused_start(scalar, rows, dim, aligned=False).kernel
        packs = dim // int(width)
        assert start.blocks == blocks[team]
        if held:
            own = reach[team, int(held)]
            assert own >= packs
            assert all(other < packs for other in reach.values() if other < own)
        else:
            assert kernel == "forward_backward_long"
            assert packs > max(reach.values())
        assert is_held(dtype, dim) == bool(held)


@dtypes
@pytest.mark.parametrize("kernel", ["forward", "backward"])
def test_a_warp_takes_a_row_that_is_read_once_up_to_some_length(kernel: str, dtype: str) -> None:
    scalar = FLOAT_TYPES[dtype]
    for dim in (1, WARP.reach, WARP.reach * scalar.wide):
        assert single_start(kernel, scalar, 9, dim).kernel.startswith(f"{kernel}<Warp, ")
        assert single_start(kernel, scalar, 9, dim).blocks == 2
    for dim in (WARP.reach + 1, WARP.reach * scalar.wide + scalar.wide):
        assert single_start(kernel, scalar, 9, dim).kernel.startswith(f"{kernel}<{BLOCK.name}, ")
        assert single_start(kernel, scalar, 9, dim).blocks == 9


@dtypes
def test_every_kernel_that_launchers_start_is_there(dtype: str) -> None:
    """And no other."""
    scalar = FLOAT_TYPES[dtype]
    dims = range(1, BLOCK.reach * scalar.wide + 2 * scalar.wide)
    started = {fused_start(scalar, 1, dim).kernel for dim in dims}
    started |= {single_start(kernel, scalar, 1, dim).kernel for kernel in ("forward", "backward") for dim in dims}
    started |= {mask_start(scalar, 1, dim).kernel for dim in dims}
    started |= {reduction(scalar, kernel) for kernel in REDUCTIONS}
    assert started == set(kernels([dtype], products=False))
    assert started | {product_start(scalar, 1, dim).kernel for dim in dims} == set(kernels([dtype]))
    assert len(kernels([dtype])) == len(set(kernels([dtype])))


# ---------------------------------------------------------------- how much is executed


def test_thorough_verification_executes_every_kernel_of_every_type() -> None:
    for dtype in FLOAT_TYPES:
        assert depth(dtype, list(FLOAT_TYPES), thorough=True) is Depth.EVERY
        assert set(kernels_to_execute(dtype, Depth.EVERY)) == set(kernels([dtype]))


def test_quick_verification_executes_most_of_the_first_type_and_short_rows_of_the_others() -> None:
    found = [depth(dtype, list(FLOAT_TYPES), thorough=False) for dtype in FLOAT_TYPES]
    assert found == [Depth.MOST, Depth.SHORT, Depth.SHORT, Depth.SHORT]
    assert depth("bfloat16", ["bfloat16"], thorough=False) is Depth.MOST


@dtypes
def test_quick_verification_executes_kernels_that_launchers_start(dtype: str) -> None:
    every, most, short = (set(kernels_to_execute(dtype, depth)) for depth in (Depth.EVERY, Depth.MOST, Depth.SHORT))
    assert short < most < every
    for part in (
        "Warp",
        BLOCK.name,
        "forward_backward<",
        "forward_backward_long",
        "forward<",
        "backward<",
        "hvp<",
        "mask<",
        *REDUCTIONS,
    ):
        assert any(part in kernel for kernel in most), part
    assert {is_in_two(one) for one in (Depth.EVERY, Depth.MOST)} == {True}
    assert not is_in_two(Depth.SHORT)
    assert not any(re.match("forward<|backward<", kernel) for kernel in short)


@dtypes
def test_lengths_are_at_both_sides_of_where_another_kernel_is_started(dtype: str) -> None:
    scalar = FLOAT_TYPES[dtype]
    started = {fused_start(scalar, 1, dim).kernel for dim in (*lengths(dtype, Depth.EVERY), 1, scalar.wide)}
    assert started == {kernel for kernel in kernels([dtype]) if kernel.startswith("forward_backward")}
    assert lengths(dtype, Depth.SHORT) == ()
    assert set(lengths(dtype, Depth.MOST)) <= {WARP.reach + 1, *lengths(dtype, Depth.EVERY)}
    assert SHORT % scalar.wide


# ---------------------------------------------------------------- and what then is


@pytest.mark.needs("nvrtc")
@pytest.mark.parametrize("thorough", [True, False])
@dtypes
def test_what_is_compiled_is_executed(dtype: str, thorough: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = set()
    kernel: Callable[..., Any] = executed.KernelRunner.kernel

    def noted(self: executed.KernelRunner, name: str) -> Any:
        launched.add(name)
        return kernel(self, name)

    monkeypatch.setattr(executed.KernelRunner, "kernel", noted)
    monkeypatch.setattr(nvrtc, "architectures", lambda: ("sm_75",))
    monkeypatch.setattr(nvcc, "find", lambda: None)
    report = verify(generate(differentiate("l2", "hinge"), "cuda", dtypes=[dtype]), thorough=thorough)
    assert report.passed, str(report)
    assert launched == set(kernels_to_execute(dtype, Depth.EVERY if thorough else Depth.MOST))
