"""RowKernel: the program that every target prints, in passes over the components of a row.

1. stages, one after the other: reductions over the components of elementwise terms, then scalars of the row, which the
   terms of later stages may use; the last scalars are the loss, and the weights of the elementwise factors;
2. maps per component: each gradient is a sum of weight * elementwise factor.

Most distances take one stage. The work per row is O(n) and the size of the program does not depend on n.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from types import MappingProxyType
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
INPUTS: Mapping[str, sp.Symbol] = MappingProxyType({"x": X, "x_pos": X_POS, "x_neg": X_NEG})


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
    """``symbol = kind over components of term``."""

    symbol: sp.Symbol
    term: sp.Expr
    kind: str = "sum"

    @property
    def name(self) -> str:
        return str(self.symbol.name)


@dataclass(frozen=True)
class Stage:
    """A pass over a row: reductions, then the scalars that follow from them, in order of evaluation."""

    reductions: tuple[Reduction, ...]
    scalars: tuple[Assignment, ...]


@dataclass(frozen=True)
class RowKernel:
    """What is computed for one row of a batch.

    components: per-component values that terms and maps are written in; one may use those before it, and scalars of
        the row that are known by then.
    stages: in order.
    loss: one of the scalars.
    weights: the scalars in which the maps are linear, so that an upstream gradient multiplies them.
    maps: the components of the three gradients.
    """

    objective: Objective
    components: tuple[Assignment, ...]
    stages: tuple[Stage, ...]
    loss: sp.Symbol
    weights: tuple[sp.Symbol, ...]
    maps: tuple[Assignment, ...]

    @property
    def parameters(self) -> tuple[Parameter, ...]:
        return self.objective.parameters

    @cached_property
    def reductions(self) -> tuple[Reduction, ...]:
        """Those of all stages."""
        return tuple(reduction for stage in self.stages for reduction in stage.reductions)

    @cached_property
    def maxima(self) -> tuple[Reduction, ...]:
        """Those of the reductions that are no sums."""
        return tuple(reduction for reduction in self.reductions if reduction.kind != "sum")

    @cached_property
    def scalars(self) -> tuple[Assignment, ...]:
        """Those of all stages."""
        return tuple(assignment for stage in self.stages for assignment in stage.scalars)

    @cached_property
    def constants(self) -> tuple[sp.Symbol, ...]:
        """What a stage finds out about the row that later stages or the maps use, but for the weights."""
        found: list[sp.Symbol] = []
        for number, stage in enumerate(self.stages):
            later = self._used_in_maps.union(*(self._used_in(after) for after in self.stages[number + 1 :]))
            own = [*(r.symbol for r in stage.reductions), *(a.symbol for a in stage.scalars)]
            found += [symbol for symbol in own if symbol in later and symbol not in self.weights]
        return tuple(found)

    @cached_property
    def saved(self) -> tuple[sp.Symbol, ...]:
        """What the maps need to know of a row: the constants that they use, and the weights."""
        used = self._used_in_maps
        return (*(symbol for symbol in self.constants if symbol in used), *self.weights)

    @cached_property
    def functions(self) -> frozenset[str]:
        """The names of the nodes of `derive.functions` that the program calls."""
        values = [a.value for a in (*self.components, *self.scalars, *self.maps)]
        values += [reduction.term for reduction in self.reductions]
        return frozenset(type(node).__name__ for value in values for node in value.atoms(Node))

    @cached_property
    def has_powers(self) -> bool:
        """Whether the program raises to powers that are no products of a few factors or roots."""
        values = [a.value for a in (*self.components, *self.scalars, *self.maps)]
        powers = sp.Tuple(*values, *(reduction.term for reduction in self.reductions)).atoms(sp.Pow)
        usual = {sp.S.Half, -sp.S.Half, *map(sp.Integer, range(-4, 5))}
        return any(power.exp not in usual for power in powers)

    def with_scalars(self, scalars: Iterable[Assignment], reductions: Iterable[Reduction] = ()) -> RowKernel:
        """The kernel with other scalars in its last stage, and with reductions added there."""
        last = self.stages[-1]
        stage = Stage((*last.reductions, *reductions), tuple(scalars))
        return replace(self, stages=(*self.stages[:-1], stage))

    def components_in(self, *expressions: sp.Expr) -> tuple[Assignment, ...]:
        """The components that some expressions need, in order of evaluation."""
        used = set(sp.Tuple(*expressions).free_symbols)
        needed: list[Assignment] = []
        for component in reversed(self.components):
            if component.symbol in used:
                used |= component.value.free_symbols
                needed.insert(0, component)
        return tuple(needed)

    @cached_property
    def _used_in_maps(self) -> set[sp.Symbol]:
        return self.used(a.value for a in self.maps)

    def _used_in(self, stage: Stage) -> set[sp.Symbol]:
        inside = self.used(r.term for r in stage.reductions)
        return inside.union(*(a.value.free_symbols for a in stage.scalars))

    def used(self, expressions: Iterable[sp.Expr]) -> set[sp.Symbol]:
        """The symbols in elementwise expressions and in the components that these need."""
        written = tuple(expressions)
        inside = (*written, *(component.value for component in self.components_in(*written)))
        return set(sp.Tuple(*inside).free_symbols)


_REDUCE: Mapping[str, Callable[[Iterator[Any]], Any]] = {"sum": mpmath.fsum, "max": max}


def run(kernel: RowKernel, point: Point, inputs: Mapping[str, sp.Symbol] = INPUTS) -> tuple[Any, dict[str, list[Any]]]:
    """The loss, if it is computed, and the maps of one row, computed by the kernel in mpmath.

    inputs: the vectors of a point whose components the kernel reads, and the symbols of these.
    """
    vectors = (point.vectors[name] for name in inputs)
    rows = [dict(zip(inputs.values(), row, strict=True)) for row in zip(*vectors, strict=True)]
    scalars = {p: v for p, v in point.scalars.items() if p not in (symbols.k, symbols.l)}

    def elementwise(expr: sp.Expr) -> Iterator[Any]:
        for row in rows:
            inside = Point(1, {}, {**scalars, **row}, {a.symbol: a.value for a in kernel.components})
            yield evaluate(expr, inside)

    for stage in kernel.stages:
        for reduction in stage.reductions:
            scalars[reduction.symbol] = _REDUCE[reduction.kind](elementwise(reduction.term))
        for assignment in stage.scalars:
            scalars[assignment.symbol] = evaluate(assignment.value, Point(1, {}, scalars))
    mapped = {m.name.partition("_")[2]: list(elementwise(m.value)) for m in kernel.maps}
    return scalars.get(kernel.loss), mapped


def agree(found: Sequence[Any], expected: Sequence[Any]) -> None:
    """Raise `StepError` where two lists of mpmath numbers differ by more than 50 digits allow."""
    for a, b in zip(found, expected, strict=True):
        if not abs(a - b) <= mpmath.mpf(10) ** -DIGITS * max(abs(b), mpmath.mpf(10) ** -6):
            raise StepError(f"{a} is not {b}")
