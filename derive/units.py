"""RowKernel -> the same program on unit vectors, with the gradients taken through the normalization.

One more stage comes before: the squared norms of the embeddings. The gradient in x is (g - (g.u) u)/|x|, where u is the
unit vector of x and g the gradient in u. As g is a sum of weights times elementwise factors, g.u is the sum of the same
weights times sums of u with the factors, which are added up with all other sums.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import sympy as sp

from .functions import attains, masked_ratio, rounded, signed
from .kernel import X_NEG, X_POS, Assignment, Reduction, RowKernel, Stage, X

_EMBEDDINGS = (X, X_POS, X_NEG)


def on_units(kernel: RowKernel) -> RowKernel:
    """The kernel of a loss on normalized embeddings, made from that on embeddings as they are."""
    units = {e: sp.Symbol(f"unit_{e.name}", real=True) for e in _EMBEDDINGS}
    inverses = {e: sp.Symbol(f"inverse_{e.name}", real=True) for e in _EMBEDDINGS}
    squares = {e: sp.Symbol(f"square_{e.name}", nonnegative=True) for e in _EMBEDDINGS}
    # what is compared with the largest in one pass has to be what was the largest in another
    unit = rounded if attains.__name__ in kernel.functions else sp.Id
    norms = Stage(
        tuple(Reduction(squares[e], e**2) for e in _EMBEDDINGS),
        tuple(Assignment(inverses[e], masked_ratio(sp.S.One, sp.sqrt(squares[e]))) for e in _EMBEDDINGS),
    )
    dots: dict[sp.Expr, sp.Symbol] = {}
    alongs, maps = [], []
    for e, gradient in zip(_EMBEDDINGS, kernel.maps, strict=True):
        value = gradient.value.xreplace(units)
        along = sp.Symbol(f"along_{e.name}", real=True)
        parts = []
        for weight in kernel.weights:
            factor = sp.diff(value, weight)
            if factor != 0:
                sign, magnitude = signed(factor)
                called = magnitude.name if magnitude.is_Symbol else len(dots) + 1
                name = sp.Symbol(f"dot_{e.name}_{called}", real=True)
                parts.append(sign * weight * dots.setdefault(units[e] * magnitude, name))
        alongs.append(Assignment(along, sp.Add(*parts)))
        maps.append(replace(gradient, value=sp.Mul(inverses[e], value - along * units[e])))
    *before, stage = kernel.stages

    def of_units(reductions: Iterable[Reduction]) -> tuple[Reduction, ...]:
        return tuple(replace(r, term=r.term.xreplace(units)) for r in reductions)

    on = Stage(
        (
            *of_units(stage.reductions),
            *(Reduction(name, term) for term, name in dots.items()),
        ),
        (*stage.scalars, *alongs),
    )
    return replace(
        kernel,
        components=(
            *(Assignment(units[e], unit(inverses[e] * e)) for e in _EMBEDDINGS),
            *(replace(a, value=a.value.xreplace(units)) for a in kernel.components),
        ),
        stages=(norms, *(replace(s, reductions=of_units(s.reductions)) for s in before), on),
        weights=(*kernel.weights, *(along.symbol for along in alongs)),
        maps=tuple(maps),
    )
