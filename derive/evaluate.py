"""The value of a SymPy expression at a concrete point, at any mpmath precision.

Understands what derivations are made of: sums of symbolic length, indexed components, Kronecker deltas, derivatives
(by central differences, so that the check of a differentiation does not differentiate), and the nodes of `functions`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

import mpmath
import sympy as sp

from .functions import Node
from .reductions import Maximum
from .symbols import k, l

_INDICES = (k, l)  # in the abbreviation of a vector, and of a matrix
_DIFFERENCE_DIGITS = 30  # central differences with this step err by about its square


@dataclass(frozen=True)
class Point:
    """Where to evaluate: the dimension, vectors by name (components from 1), and scalars.

    A symbol in `abbreviations` has no value of its own: it stands for its expression, evaluated at this point; and a
    component u[k] for that of a vector u, whatever its index is, as u[k, l] does for those of a matrix.
    """

    dimension: int
    vectors: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    scalars: Mapping[sp.Symbol, Any] = field(default_factory=dict)
    abbreviations: Mapping[sp.Expr, sp.Expr] = field(default_factory=dict)
    _known: dict[tuple[sp.Expr, int], Any] = field(default_factory=dict, init=False, repr=False, compare=False)
    _named: dict[tuple[sp.Symbol, int], Any] = field(default_factory=dict, repr=False, compare=False)

    def at(self, index: sp.Symbol, value: int) -> Point:
        """The same point with an index set, on which no abbreviation depends."""
        scalars = {**self.scalars, index: mpmath.mpf(value)}
        return Point(self.dimension, self.vectors, scalars, self.abbreviations, self._named)

    def bind(self, symbol: sp.Symbol, value: Any) -> Point:
        """The same point with a scalar set."""
        return replace(self, scalars={**self.scalars, symbol: value}, _named={})

    def shift(self, variable: sp.Expr, amount: Any) -> Point:
        """The same point with `variable`, a symbol or a component such as x[k], moved by `amount`."""
        if isinstance(variable, sp.Indexed):
            name, at = variable.base.label.name, int(evaluate(variable.indices[0], self)) - 1
            moved = [value + amount * (index == at) for index, value in enumerate(self.vectors[name])]
            return replace(self, vectors={**self.vectors, name: moved}, _named={})
        return self.bind(variable, evaluate(variable, self) + amount)


def evaluate(expr: sp.Expr, point: Point) -> Any:
    """The value of `expr` at `point`, as an mpmath number at the current precision.

    Raises `NotImplementedError` for a kind of expression it does not know.
    """
    key = expr, mpmath.mp.prec
    if key in point._known:
        return point._known[key]
    for kind in type(expr).__mro__:
        if rule := _RULES.get(kind):
            point._known[key] = value = rule(expr, point)
            return value
    raise NotImplementedError(f"cannot evaluate {type(expr).__name__}: {expr}")


def _symbol(expr: sp.Symbol, point: Point) -> Any:
    if expr in point.scalars:
        return point.scalars[expr]
    if expr in point.abbreviations:
        key = expr, mpmath.mp.prec
        if key not in point._named:
            point._named[key] = evaluate(point.abbreviations[expr], point)
        return point._named[key]
    if expr.name == "n":
        return mpmath.mpf(point.dimension)
    raise NotImplementedError(f"the point gives no value to {expr}")


@cache  # SymPy makes each anew
def in_abbreviations(component: sp.Indexed) -> sp.Indexed:
    """The component of the same vector or matrix that has a meaning where it is an abbreviation: u[k], or u[k, l]."""
    return component.base[_INDICES[: len(component.indices)]]


def _indexed(expr: sp.Indexed, point: Point) -> Any:
    """A component; that of an abbreviated vector is what the abbreviation of its k-th says."""
    at = [int(evaluate(index, point)) for index in expr.indices]
    if (meaning := point.abbreviations.get(in_abbreviations(expr))) is None:
        return point.vectors[expr.base.label.name][at[0] - 1]
    for index, value in zip(_INDICES, at, strict=False):
        point = point.at(index, value)
    return evaluate(meaning, point)


def _power(expr: sp.Pow, point: Point) -> Any:
    base = evaluate(expr.base, point)
    if expr.exp is sp.S.Half:
        return mpmath.sqrt(base)
    return base ** (int(expr.exp) if expr.exp.is_Integer else evaluate(expr.exp, point))


def _sum(expr: sp.Sum, point: Point) -> Any:
    *inner, limits = expr.limits
    return mpmath.fsum(_terms(sp.Sum(expr.function, *inner) if inner else expr.function, limits, point))


def _maximum(expr: Maximum, point: Point) -> Any:
    (limits,) = expr.limits
    return max(_terms(expr.function, limits, point))


def _terms(term: sp.Expr, limits: sp.Tuple, point: Point) -> Iterator[Any]:
    index, low, high = limits
    indices = range(int(evaluate(low, point)), int(evaluate(high, point)) + 1)
    return (evaluate(term, point.at(index, j)) for j in indices)


def _derivative(expr: sp.Derivative, point: Point) -> Any:
    ((variable, order),) = expr.variable_count
    if order != 1:
        raise NotImplementedError(f"only first derivatives are evaluated, not {expr}")
    with mpmath.workdps(mpmath.mp.dps + 2 * _DIFFERENCE_DIGITS):
        h = mpmath.mpf(10) ** -_DIFFERENCE_DIGITS
        ahead, behind = (evaluate(expr.expr, point.shift(variable, sign * h)) for sign in (1, -1))
        return (ahead - behind) / (2 * h)


def _function(function: Callable[..., Any]) -> Callable[[sp.Expr, Point], Any]:
    return lambda expr, point: function(*(evaluate(argument, point) for argument in expr.args))


_RULES: dict[type, Callable[[Any, Point], Any]] = {
    sp.Integer: lambda expr, point: mpmath.mpf(int(expr)),
    sp.Rational: lambda expr, point: mpmath.mpf(int(expr.p)) / int(expr.q),
    sp.Symbol: _symbol,
    sp.Indexed: _indexed,
    sp.Add: lambda expr, point: mpmath.fsum(evaluate(term, point) for term in expr.args),
    sp.Mul: lambda expr, point: mpmath.fprod(evaluate(factor, point) for factor in expr.args),
    sp.Pow: _power,
    sp.Sum: _sum,
    Maximum: _maximum,
    sp.Derivative: _derivative,
    sp.KroneckerDelta: _function(lambda a, b: mpmath.mpf(a == b)),
    sp.exp: _function(mpmath.exp),
    sp.log: _function(mpmath.log),
    sp.Abs: _function(abs),
    sp.sign: _function(mpmath.sign),
    sp.Max: _function(max),
    sp.Min: _function(min),
    Node: lambda expr, point: type(expr).evaluate(*(evaluate(argument, point) for argument in expr.args)),
}
