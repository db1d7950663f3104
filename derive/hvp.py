"""RowKernel -> the program of a Hessian-vector product.

Besides a row there is a direction, (dx, dx_pos, dx_neg). The product of the Hessian with it is the rate of the
gradients as the embeddings move in that direction (`forward`), and has the shape of the kernel that it is made from,
with more reductions.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import cache
from itertools import chain

import mpmath
import sympy as sp

from .errors import StepError
from .evaluate import Point
from .forward import differentiated
from .functions import attains
from .kernel import INPUTS, Assignment, RowKernel, Stage, agree, run
from .rates import DIRECTION
from .rescale import Rescaled, rescale, setting_of
from .steps import DIGITS

_STEP_DIGITS = 35  # central differences with this step err by about its square


@cache
def hessian_product(kernel: RowKernel) -> Rescaled:
    """The program of the product, with the scales of the kernel; it computes no loss, and its maps are the product.

    Raises `StepError` if the program, evaluated at 50 digits, does not give central differences of the kernel's
    gradients.
    """
    program = rescale(kernel)
    found = _without_dead_code(replace(program, kernel=differentiated(program)))
    _check(found, kernel)
    return found


def _without_dead_code(program: Rescaled) -> Rescaled:
    """Only what leads to the maps; nothing has the scale of a sum that does not."""
    kernel = program.kernel
    needed = kernel.used([m.value for m in kernel.maps])
    stages: list[Stage] = []
    for stage in reversed(kernel.stages):
        scalars: list[Assignment] = []
        for assignment in reversed(stage.scalars):
            if assignment.symbol in needed:
                needed |= assignment.value.free_symbols
                scalars.insert(0, assignment)
        reductions = tuple(r for r in stage.reductions if r.symbol in needed)
        needed |= kernel.used([r.term for r in reductions])
        stages.insert(0, Stage(reductions, tuple(scalars)))
    terms = [r.term for stage in stages for r in stage.reductions]
    kernel = replace(
        kernel,
        components=kernel.components_in(*terms, *(m.value for m in kernel.maps)),
        stages=tuple(stage for stage in stages if stage.reductions or stage.scalars),
        weights=tuple(weight for weight in kernel.weights if weight in needed),
    )
    names = {r.name for r in kernel.reductions}
    kept = {name: scale for name, scale in program.scales.items() if name in names}
    ones = {scale: sp.S.One for name, scale in program.scales.items() if name not in names}
    return replace(program, kernel=_with(kernel, ones) if ones else kernel, scales=kept)


def _with(kernel: RowKernel, values: Mapping[sp.Symbol, sp.Expr]) -> RowKernel:
    """The kernel with values in the place of symbols."""

    def written(assignments: Iterable[Assignment]) -> tuple[Assignment, ...]:
        return tuple(replace(a, value=a.value.xreplace(values)) for a in assignments)

    return replace(
        kernel,
        components=written(kernel.components),
        stages=tuple(replace(stage, scalars=written(stage.scalars)) for stage in kernel.stages),
        maps=written(kernel.maps),
    )


def _check(program: Rescaled, kernel: RowKernel) -> None:
    """The product, with any scales, against central differences of the kernel's gradients.

    Where components are counted, they are at points where several are the largest, too.
    """
    setting = setting_of(program, (*INPUTS, *DIRECTION))
    with mpmath.workdps(DIGITS + 20 + _STEP_DIGITS):
        h = mpmath.mpf(10) ** -_STEP_DIGITS
        drawn = setting.points()
        ties = [_tied(point) for point in drawn if point.dimension == 2] if attains.__name__ in kernel.functions else []
        for point in (*drawn, *ties):
            _, found = run(program.kernel, point, {**INPUTS, **DIRECTION})
            ahead, behind = (run(kernel, _moved(point, sign * h))[1] for sign in (1, -1))
            wanted = [(a - b) / (2 * h) for a, b in zip(chain(*ahead.values()), chain(*behind.values()), strict=True)]
            try:
                agree(list(chain(*found.values())), wanted)
            except StepError as error:
                raise StepError(f"the product of {kernel.objective.stem} is not the rate: {error}") from None


def _tied(point: Point) -> Point:
    """The point with each component twice, once with the other sign: those that are the largest stay it together."""
    vectors = {name: [*components, *(-c for c in components)] for name, components in point.vectors.items()}
    return Point(2 * point.dimension, vectors, point.scalars)


def _moved(point: Point, amount: mpmath.mpf) -> Point:
    moved = {
        name: [a + amount * b for a, b in zip(point.vectors[name], point.vectors[f"d{name}"], strict=True)]
        for name in INPUTS
    }
    return Point(point.dimension, moved, point.scalars)
