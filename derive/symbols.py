"""The symbols of a derivation, and the SymPy reading of a definition.

A vector has symbolic length n: x is an `IndexedBase`, a sum over components is a `Sum` over 1..n. SymPy's matrix
calculus is not used, because it is silently wrong for these expressions.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

import sympy as sp

from .catalogue import PAIRS, Distance, Loss, Objective, Parameter
from .expression import Algebra, Definition
from .functions import absolute, select, tanh, with_own_absolute
from .reductions import REDUCTIONS, Maximum

n = sp.Symbol("n", integer=True, positive=True)
i = sp.Symbol("i", integer=True, positive=True)
k = sp.Symbol("k", integer=True, positive=True)
l = sp.Symbol("l", integer=True, positive=True)  # noqa: E741 - the index after k
j = sp.Symbol("j", integer=True, positive=True)  # of what stands inside of other sums: that in a norm, a maximum

x, y = sp.IndexedBase("x", real=True), sp.IndexedBase("y", real=True)
x_pos, x_neg = sp.IndexedBase("x_pos", real=True), sp.IndexedBase("x_neg", real=True)
EMBEDDINGS: Mapping[str, sp.IndexedBase] = MappingProxyType({"x": x, "x_pos": x_pos, "x_neg": x_neg})

# of normalized embeddings: the norms of the raw ones, the unit vectors, and the gradients of the loss at these
NORMS: Mapping[str, sp.Symbol] = MappingProxyType({e: sp.Symbol(f"norm_{e}", positive=True) for e in EMBEDDINGS})
UNITS: Mapping[str, sp.IndexedBase] = MappingProxyType({e: sp.IndexedBase(f"unit_{e}", real=True) for e in EMBEDDINGS})
AT_UNITS: Mapping[str, sp.IndexedBase] = MappingProxyType({e: sp.IndexedBase(f"g_{e}", real=True) for e in EMBEDDINGS})
# and the second derivatives there, in the k-th component of one and the l-th of another
CURVATURES: Mapping[tuple[str, str], sp.IndexedBase] = MappingProxyType(
    {(a, b): sp.IndexedBase(f"h_{a}_{b}", real=True) for a in EMBEDDINGS for b in EMBEDDINGS}
)

_VARIABLE = sp.Dummy(real=True)
_COMPONENTS = sp.symbols("component:6", real=True)

d = sp.Symbol("d", nonnegative=True)
d_pos, d_neg, d_swap = DISTANCES = tuple(sp.Symbol(name, nonnegative=True) for name in PAIRS)


def parameter(p: Parameter) -> sp.Symbol:
    """The symbol of a parameter, with its domain as an assumption."""
    known = {"real": {}, "nonnegative": {"nonnegative": True}}.get(p.domain, {"positive": True})
    return sp.Symbol(p.name, real=True, **known)


def least(parameters: Iterable[Parameter]) -> dict[sp.Symbol, int]:
    """The least values of parameters, as far as their symbols' assumptions do not say it."""
    return {parameter(p): 1 for p in parameters if p.domain == "at least 1"}


def _reduce(kind: str, term: Callable[[Any], Any]) -> sp.Expr:
    return Maximum(term(j), (j, 1, n)) if kind == "max" else sp.Sum(term(i), (i, 1, n))


def _maximum(first: sp.Expr, second: sp.Expr) -> sp.Expr:
    """The first where both are equal; SymPy's Max, which does not know an order, for max(0, z) only."""
    return sp.Max(first, second) if first == 0 else select(second - first, second, first)


def _minimum(first: sp.Expr, second: sp.Expr) -> sp.Expr:
    return sp.Min(first, second) if first == 0 else select(first - second, second, first)


SYMPY = Algebra(
    number=sp.Rational,
    functions={
        "exp": sp.exp,
        "log": sp.log,
        "log1p": lambda z: sp.log(1 + z),
        "sqrt": sp.sqrt,
        "abs": absolute,
        "tanh": tanh,
        "max": _maximum,
        "min": _minimum,
        "where": lambda z, value, otherwise: select(z, value(), otherwise()),
    },
    reduce=_reduce,
)


def _parameters(entry: Distance | Loss) -> dict[str, sp.Symbol]:
    return {p.name: parameter(p) for p in entry.parameters}


def distance_of(distance: Distance, first: sp.IndexedBase, second: sp.IndexedBase) -> sp.Expr:
    """d(first, second) as it is derived: of unit vectors if the distance is one of directions."""
    return _read(distance, distance.derived, first, second)


def definition_of(distance: Distance, first: sp.IndexedBase, second: sp.IndexedBase) -> sp.Expr:
    """d(first, second), written out as in its definition."""
    return _read(distance, distance.formula, first, second)


def _read(distance: Distance, formula: Definition, first: sp.IndexedBase, second: sp.IndexedBase) -> sp.Expr:
    vectors = {"x": lambda index: first[index], "y": lambda index: second[index]}
    return with_own_absolute(formula.read(SYMPY, _parameters(distance), vectors))


def loss_of(loss: Loss) -> tuple[sp.Expr, dict[sp.Symbol, sp.Expr]]:
    """phi(d_pos, d_neg) as in its definition, and what the names stand for that the definition introduces."""
    introduced: dict[sp.Symbol, sp.Expr] = {}

    def bind(name: str, value: sp.Expr) -> sp.Symbol:
        introduced[symbol := sp.Symbol(name, real=True)] = value
        return symbol

    value = loss.formula.read(SYMPY, _scalars(loss), bind=bind)
    return value, introduced


def locus_of(loss: Loss, text: str) -> sp.Expr:
    """A formula in the distances and a loss's parameters."""
    return loss.parse(text).read(SYMPY, _scalars(loss))


def _scalars(loss: Loss) -> dict[str, sp.Symbol]:
    return {**{str(which): which for which in pairs_of(loss)}, **_parameters(loss)}


def pairs_of(loss: Loss) -> dict[sp.Symbol, tuple[sp.IndexedBase, sp.IndexedBase]]:
    """The distances that a loss is a formula of, each with the two embeddings that it is the distance of."""
    return {which: ends(which) for which in DISTANCES if str(which) in loss.distances}


def ends(which: sp.Symbol) -> tuple[sp.IndexedBase, sp.IndexedBase]:
    """The two embeddings that d_pos, d_neg or d_swap is the distance of: what d(x, y) calls x and y."""
    first, second = PAIRS[str(which)]
    return EMBEDDINGS[first], EMBEDDINGS[second]


def said_of(which: sp.Symbol, expr: sp.Expr) -> sp.Expr:
    """What is said of d(x, y), said of d_pos, d_neg or d_swap."""
    first, second = ends(which)
    return expr.xreplace({d: which, x: first, y: second})


def distances_of(objective: Objective) -> dict[sp.Symbol, sp.Expr]:
    """What d_pos, d_neg, ... stand for."""
    return {which: distance_of(objective.distance, *pair) for which, pair in pairs_of(objective.loss).items()}


def without_sums(expr: sp.Expr) -> tuple[sp.Expr, dict[sp.Dummy, sp.Expr]]:
    """`expr` with an indeterminate for each sum or maximum, and what they stand for, in a fixed order."""
    sums = sorted(expr.atoms(*REDUCTIONS), key=sp.default_sort_key)
    return expr.xreplace({total: stand_in(total) for total in sums}), {stand_in(total): total for total in sums}


@cache  # SymPy remembers what it found out about a symbol
def stand_in(expr: sp.Expr) -> sp.Dummy:
    """An indeterminate of the same sign, as far as that is known of a sum or maximum by its terms."""
    known = expr.function if isinstance(expr, REDUCTIONS) else expr
    # all components are real: SymPy need not find out again for those of other embeddings
    components = sorted(known.atoms(sp.Indexed), key=sp.default_sort_key)
    known = known.xreplace(dict(zip(components, _COMPONENTS, strict=False)))
    return sp.Dummy(real=True, nonnegative=known.is_nonnegative, positive=known.is_positive)


def partial_derivative(expr: sp.Expr, component: sp.Indexed) -> sp.Expr:
    """The derivative in one component, of an expression in which other components are other variables."""
    return sp.diff(expr.xreplace({component: _VARIABLE}), _VARIABLE).xreplace({_VARIABLE: component})


@cache
def derivatives_in_sums(expr: sp.Expr) -> Mapping[sp.Expr, sp.Expr]:
    """The partial derivatives of `expr` in the sums and maxima that it holds, each taken as an indeterminate."""
    outer, back = without_sums(expr)
    return MappingProxyType({total: sp.diff(outer, symbol).xreplace(back) for symbol, total in back.items()})
