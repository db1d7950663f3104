"""RowKernel: the three-phase program that every target prints.

1. reductions over the components of a row, of elementwise terms;
2. scalars of the row: distances, loss, and the weights by which the elementwise factors are multiplied;
3. maps per component: each gradient is a sum of weight * elementwise factor.

The work per row is O(n) and the size of the program does not depend on n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import mpmath
import sympy as sp

from . import symbols
from .catalogue import Objective, Parameter
from .errors import StepError
from .evaluate import Point, evaluate
from .functions import Node
from .steps import DIGITS

# a component of each embedding
X, X_POS, X_NEG = (sp.Symbol(name, real=True) for name in symbols.EMBEDDINGS)


@dataclass(frozen=True)
class Assignment:
    """``symbol = value``."""

    symbol: sp.Symbol
    value: sp.Expr

    @property
    def name(self) -> str:
        return str(self.symbol.name)


@dataclass(frozen=True)
class Reduction:
    """``symbol = kind over components of term``; a later stage may use the results of earlier ones."""

    symbol: sp.Symbol
    term: sp.Expr
    kind: str = "sum"
    stage: int = 1

    @property
    def name(self) -> str:
        return str(self.symbol.name)


@dataclass(frozen=True)
class RowKernel:
    """What is computed for one row of a batch.

    differences: per-component values that reductions and maps are written in.
    reductions: over the components, in order of their stages.
    scalars: in order of evaluation; they end in `loss` and `weights`.
    weights: the scalars that the maps use; the maps are linear in them, so an upstream gradient multiplies them.
    maps: the components of the three gradients.
    """

    objective: Objective
    differences: tuple[Assignment, ...]
    reductions: tuple[Reduction, ...]
    scalars: tuple[Assignment, ...]
    loss: sp.Symbol
    weights: tuple[sp.Symbol, ...]
    maps: tuple[Assignment, ...]

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return self.objective.parameters

    @property
    def functions(self) -> frozenset[str]:
        """The names of the nodes of `derive.functions` that the scalars call."""
        return frozenset(type(node).__name__ for a in self.scalars for node in a.value.atoms(Node))

    def differences_in(self, *expressions: sp.Expr) -> tuple[Assignment, ...]:
        """The differences that some expressions need."""
        used = sp.Tuple(*expressions).free_symbols
        return tuple(difference for difference in self.differences if difference.symbol in used)


_REDUCE: Mapping[str, Callable[[Iterator[Any]], Any]] = {"sum": mpmath.fsum, "max": max}


def run(kernel: RowKernel, point: Point) -> tuple[Any, dict[str, list[Any]]]:
    """The loss and the gradients of one row, computed by the kernel in mpmath."""
    rows = [
        {X: a, X_POS: b, X_NEG: c}
        for a, b, c in zip(*(point.vectors[name] for name in symbols.EMBEDDINGS), strict=True)
    ]
    scalars = {p: v for p, v in point.scalars.items() if p not in (symbols.k, symbols.l)}

    def elementwise(expr: sp.Expr) -> Iterator[Any]:
        for row in rows:
            inside = Point(1, {}, {**scalars, **row}, {a.symbol: a.value for a in kernel.differences})
            yield evaluate(expr, inside)

    for reduction in sorted(kernel.reductions, key=lambda reduction: reduction.stage):
        scalars[reduction.symbol] = _REDUCE[reduction.kind](elementwise(reduction.term))
    for assignment in kernel.scalars:
        scalars[assignment.symbol] = evaluate(assignment.value, Point(1, {}, scalars))
    return scalars[kernel.loss], {m.name.removeprefix("grad_"): list(elementwise(m.value)) for m in kernel.maps}


def agree(found: Sequence[Any], expected: Sequence[Any]) -> None:
    """Raise `StepError` where two lists of mpmath numbers differ by more than 50 digits allow."""
    for a, b in zip(found, expected, strict=True):
        if not abs(a - b) <= mpmath.mpf(10) ** -DIGITS * max(abs(b), mpmath.mpf(10) ** -6):
            raise StepError(f"{a} is not {b}")
