"""The value of a SymPy expression at a concrete point, at any mpmath precision.

Understands what derivations are made of: sums of symbolic length, indexed components, Kronecker deltas, derivatives
(by central differences, so that the check of a differentiation does not differentiate), and the nodes of `functions`.
"""

from __future__ import annotations

import math
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
    return _known_at(point, expr, _meaning(expr))


_Meaning = Callable[[Point], Any]


@cache  # an expression is read once, and evaluated at many points
def _meaning(expr: sp.Expr) -> _Meaning:
    """The value of an expression as a function of the point."""
    for kind in type(expr).__mro__:
        if rule := _RULES.get(kind):
            return rule(expr)
    raise NotImplementedError(f"cannot evaluate {type(expr).__name__}: {expr}")


def _known_at(point: Point, expr: sp.Expr, meaning: _Meaning) -> Any:
    key = expr, mpmath.mp.prec
    if key not in point._known:
        point._known[key] = meaning(point)
    return point._known[key]


def _remembered(rule: Callable[[Any], _Meaning]) -> Callable[[Any], _Meaning]:
    """The rule of what takes long enough that a point keeps the value."""

    def remembered(expr: sp.Expr) -> _Meaning:
        meaning = rule(expr)
        return lambda point: _known_at(point, expr, meaning)

    return remembered


def _symbol(expr: sp.Symbol) -> _Meaning:
    def value(point: Point) -> Any:
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

    return value


@cache  # SymPy makes each anew
def in_abbreviations(component: sp.Indexed) -> sp.Indexed:
    """The component of the same vector or matrix that has a meaning where it is an abbreviation: u[k], or u[k, l]."""
    return component.base[_INDICES[: len(component.indices)]]


def _indexed(expr: sp.Indexed) -> _Meaning:
    """A component; that of an abbreviated vector is what the abbreviation of its k-th says."""
    name, abbreviated, indices = expr.base.label.name, in_abbreviations(expr), list(map(_meaning, expr.indices))

    def value(point: Point) -> Any:
        at = [int(index(point)) for index in indices]
        if name in point.vectors:
            return point.vectors[name][at[0] - 1]
        meaning = point.abbreviations[abbreviated]
        for index, number in zip(_INDICES, at, strict=False):
            point = point.at(index, number)
        return evaluate(meaning, point)

    return value


def _power(expr: sp.Pow) -> _Meaning:
    base = _meaning(expr.base)
    if expr.exp is sp.S.Half:
        return lambda point: mpmath.sqrt(base(point))
    if expr.exp.is_Integer:
        exponent = int(expr.exp)
        return lambda point: base(point) ** exponent
    power = _meaning(expr.exp)
    return lambda point: base(point) ** power(point)


def _combined(combine: Callable[[list[Any]], Any]) -> Callable[[sp.Expr], _Meaning]:
    def rule(expr: sp.Expr) -> _Meaning:
        parts = list(map(_meaning, expr.args))
        return lambda point: combine([part(point) for part in parts])

    return rule


def _reduced(reduce: Callable[[Iterator[Any]], Any]) -> Callable[[Any], _Meaning]:
    """What runs over components: a sum, perhaps over several indices, or a maximum."""

    def rule(expr: sp.Sum | Maximum) -> _Meaning:
        *inner, (index, low, high) = expr.limits
        term = _meaning(type(expr)(expr.function, *inner) if inner else expr.function)
        first, last = _meaning(low), _meaning(high)

        def value(point: Point) -> Any:
            indices = range(int(first(point)), int(last(point)) + 1)
            return reduce(term(point.at(index, j)) for j in indices)

        return value

    return rule


def _derivative(expr: sp.Derivative) -> _Meaning:
    ((variable, order),) = expr.variable_count
    if order != 1:
        raise NotImplementedError(f"only first derivatives are evaluated, not {expr}")
    function = _meaning(expr.expr)

    def value(point: Point) -> Any:
        with mpmath.workdps(mpmath.mp.dps + 2 * _DIFFERENCE_DIGITS):
            h = mpmath.mpf(10) ** -_DIFFERENCE_DIGITS
            ahead, behind = (function(point.shift(variable, sign * h)) for sign in (1, -1))
            return (ahead - behind) / (2 * h)

    return value


def _function(function: Callable[..., Any]) -> Callable[[sp.Expr], _Meaning]:
    return _combined(lambda values: function(*values))


def _integer(expr: sp.Integer) -> _Meaning:
    number = int(expr)
    return lambda point: mpmath.mpf(number)


def _rational(expr: sp.Rational) -> _Meaning:
    above, below = int(expr.p), int(expr.q)
    return lambda point: mpmath.mpf(above) / below


_RULES: dict[type, Callable[[Any], _Meaning]] = {
    sp.Integer: _integer,
    sp.Rational: _rational,
    sp.Symbol: _symbol,
    sp.Indexed: _indexed,
    sp.Add: _combined(sum),
    sp.Mul: _combined(math.prod),
    sp.Pow: _power,
    sp.Sum: _remembered(_reduced(sum)),
    Maximum: _remembered(_reduced(max)),
    sp.Derivative: _remembered(_derivative),
    sp.KroneckerDelta: _function(lambda a, b: mpmath.mpf(a == b)),
    sp.exp: _remembered(_function(mpmath.exp)),
    sp.log: _remembered(_function(mpmath.log)),
    sp.Abs: _function(abs),
    sp.sign: _function(mpmath.sign),
    sp.Max: _function(max),
    sp.Min: _function(min),
    Node: _remembered(lambda expr: _function(type(expr).evaluate)(expr)),
}
