"""A step is an equality that was checked when it was made; a lemma is a chain of steps.

There is no way to hold an unchecked step: the check is its construction, `dataclasses.replace` included.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, cached_property
from typing import Any

import mpmath
import sympy as sp
from sympy.concrete.delta import deltasummation

from . import symbols
from .errors import StepError
from .evaluate import Point, evaluate, in_abbreviations
from .functions import Node, expand_nodes
from .reductions import REDUCTIONS

DIGITS = 50
_INDEX = sp.Dummy("j", integer=True, positive=True)  # of sums in normal form; no expression holds it freely
DIMENSIONS = (1, 2, 3)


@dataclass(frozen=True)
class Setting:
    """What the symbols of a chain of steps range over.

    vectors: names of embeddings, which take any real components.
    scalars: symbols that take any value their assumptions allow.
    abbreviations: symbols that stand for an expression, and components u[k] of vectors, u[k, l] of matrices, that do.
    dimensions: the lengths of the vectors, where not any will do.
    least: of scalars, where that is more than 0.
    """

    vectors: tuple[str, ...] = ()
    scalars: tuple[sp.Symbol, ...] = ()
    abbreviations: Mapping[sp.Expr, sp.Expr] = field(default_factory=dict)
    dimensions: tuple[int, ...] = DIMENSIONS
    least: Mapping[sp.Symbol, int] = field(default_factory=dict)
    _points: dict[tuple[int, int], tuple[Point, ...]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    def points(self, seed: int = 0) -> tuple[Point, ...]:
        """Random points of several dimensions; the same ones on every run.

        The steps of a chain share them: a point knows the value of the side at which the step before ended.
        """
        key = seed, mpmath.mp.prec
        if key not in self._points:
            self._points[key] = tuple(self._drawn(seed))
        return self._points[key]

    def _drawn(self, seed: int) -> Iterator[Point]:
        source = random.Random(seed)

        def fraction() -> mpmath.mpf:
            return mpmath.mpf(source.randrange(1, 10**DIGITS)) / 10**DIGITS

        def scaled(value: mpmath.mpf, symbol: sp.Symbol | None = None) -> mpmath.mpf:
            if symbol is not None and symbol.is_nonnegative:
                return value + self.least.get(symbol, 0)
            return 3 * value - mpmath.mpf(3) / 2

        for dimension in self.dimensions:
            drawn = {symbol: fraction() for symbol in self.scalars}
            # the second point mirrors the scalars of the first: both signs of each, both sides of a kink;
            # k and l differ in the one and are equal in the other, neither the first nor the last component
            mirrored = {symbol: 1 - value for symbol, value in drawn.items()}
            middle = dimension // 2 + 1
            for scalars, k, l in ((drawn, (dimension + 1) // 2, dimension), (mirrored, middle, middle)):  # noqa: E741
                yield Point(
                    dimension,
                    {name: tuple(scaled(fraction()) for _ in range(dimension)) for name in self.vectors},
                    {
                        symbols.k: mpmath.mpf(k),
                        symbols.l: mpmath.mpf(l),
                        **{symbol: scaled(value, symbol) for symbol, value in scalars.items()},
                    },
                    self.abbreviations,
                )

    def spell_out(self, expr: sp.Expr) -> sp.Expr:
        """`expr` with every abbreviation replaced by what it stands for."""
        return _with_meanings(expr, self._meanings)

    @cached_property
    def _meanings(self) -> dict[sp.Expr, sp.Expr]:
        """What the abbreviations stand for, without abbreviations."""
        meanings = dict(self.abbreviations)
        for _ in meanings:
            meanings = {symbol: _with_meanings(meaning, meanings) for symbol, meaning in meanings.items()}
        return meanings


def _with_meanings(expr: sp.Expr, meanings: Mapping[sp.Expr, sp.Expr]) -> sp.Expr:
    """`expr` with what abbreviations stand for; that of u[k] holds for every component of u."""
    vectors = {}
    for component in expr.atoms(sp.Indexed):
        named = in_abbreviations(component)
        if (meaning := meanings.get(named)) is not None:
            vectors[component] = meaning.xreplace(dict(zip(named.indices, component.indices, strict=True)))
    return expr.xreplace({**meanings, **vectors})


@dataclass(frozen=True)
class Step:
    """``before = after`` by `rule`, because of `reason`.

    Checked on construction, at 50 digits on random points of several dimensions. Raises `StepError` naming the rule if
    it is not an equality.

    numeric: whether both sides, spelled out, are so large that SymPy would take seconds to decide about them.
    """

    rule: str
    before: sp.Expr
    after: sp.Expr
    reason: str
    setting: Setting = field(repr=False)
    numeric: bool = False

    def __post_init__(self) -> None:
        self.check()

    @cached_property
    def symbolic(self) -> bool:
        """Whether SymPy can decide the equality too; only documents ask, for it takes longer than the check."""
        return not self.numeric and are_equal(self.before, self.after, self.setting)

    def check(self, seed: int = 0) -> mpmath.mpf:
        """The largest difference of the two sides on random points, relative to them; raises as construction does."""
        with mpmath.workdps(DIGITS + 20):
            return max(self._check_at(point) for point in self.setting.points(seed))

    def _check_at(self, point: Point) -> mpmath.mpf:
        left, right = evaluate(self.before, point), evaluate(self.after, point)
        scale = max(abs(left), abs(right), mpmath.mpf(10) ** -6)  # the points are of order 1, their values may cancel
        difference = abs(left - right) / scale
        if not difference <= mpmath.mpf(10) ** -DIGITS:
            raise StepError(
                f"step {self.rule!r} is wrong: {self.before} is not {self.after} "
                f"(n = {point.dimension}: {mpmath.nstr(left, 10)} is not {mpmath.nstr(right, 10)})"
            )
        return difference


@dataclass(frozen=True)
class Lemma:
    """``subject = result`` by a chain of steps; raises `StepError` where the chain is broken."""

    name: str
    subject: sp.Expr
    steps: tuple[Step, ...]

    def __post_init__(self) -> None:
        reached = self.subject
        for step in self.steps:
            if step.before != reached:
                raise StepError(f"{self.name}: step {step.rule!r} starts at {step.before}, not at {reached}")
            reached = step.after

    @property
    def result(self) -> sp.Expr:
        return self.steps[-1].after if self.steps else self.subject


class Chain:
    """Builds a lemma step by step; a step that changes nothing is not recorded."""

    def __init__(self, name: str, subject: sp.Expr, setting: Setting) -> None:
        self.name, self.subject, self.setting = name, subject, setting
        self._steps: list[Step] = []
        self.reached = subject

    def then(
        self,
        rule: str,
        after: sp.Expr,
        reason: str,
        also: Mapping[sp.Symbol, sp.Expr] | None = None,
        numeric: bool = False,
    ) -> Chain:
        """One more step; `also` are abbreviations introduced by it."""
        if also:
            self.setting = replace(self.setting, abbreviations={**self.setting.abbreviations, **also})
        if after != self.reached:
            self._steps.append(Step(rule, self.reached, after, reason, self.setting, numeric))
            self.reached = after
        return self

    def qed(self) -> Lemma:
        return Lemma(self.name, self.subject, tuple(self._steps))


def collapse_deltas(expr: sp.Expr) -> sp.Expr:
    """Every sum over i of f(i)*delta(i, k) replaced by f(k), for 1 <= k <= n."""

    def collapsed(total: sp.Sum) -> sp.Expr:
        (limits,) = total.limits
        return deltasummation(total.function, limits, no_piecewise=True)

    if not expr.has(sp.KroneckerDelta):
        return expr
    return expr.replace(lambda e: isinstance(e, sp.Sum) and e.has(sp.KroneckerDelta), collapsed)


def are_equal(a: sp.Expr, b: sp.Expr, setting: Setting) -> bool:
    """Whether SymPy can decide that `a` = `b`; False means that it could not, not that they differ.

    Tried in turn, the cheapest first: with abbreviations as indeterminates, spelled out and differentiated with the
    nodes of `functions` as indeterminates, and with the nodes as exponentials.
    """
    if not a.has(sp.Derivative) and not b.has(sp.Derivative):
        if _written_in(a) == _written_in(b) and _vanishes(a - b):
            return True
        if a.has(sp.KroneckerDelta) and _vanishes(_differentiated(a) - _differentiated(b)):
            return True
    a, b = (_differentiated(setting.spell_out(side)) for side in (a, b))
    return _vanishes(a - b) or _vanishes(_in_exponentials(a) - _in_exponentials(b))


@cache  # a step ends where the next begins
def _differentiated(expr: sp.Expr) -> sp.Expr:
    """Derivatives carried out, Kronecker deltas collapsed, sums in normal form."""
    expr = _replaced(expr, sp.Derivative, lambda e: _derivative(e.expr, *e.variables))
    return _replaced(collapse_deltas(expr), sp.Sum, _normal_sum)


def _replaced(expr: sp.Expr, kind: type[sp.Expr], value: Callable[[Any], sp.Expr]) -> sp.Expr:
    """`expr` with the value of all that are of a kind, from the inside out; SymPy walks it also if there are none."""
    return expr.replace(lambda e: isinstance(e, kind), value) if expr.has(kind) else expr


@cache
def _derivative(expr: sp.Expr, variable: sp.Expr) -> sp.Expr:
    """By the chain rule at the sums, where SymPy alone is slow; Derivative.doit would also look for closed forms."""
    outer, back = symbols.without_sums(expr)
    inside = (slope * _sum_derivative(total, variable) for total, slope in symbols.derivatives_in_sums(expr).items())
    return sp.Add(sp.diff(outer, variable).xreplace(back) if outer.has(_base(variable)) else 0, *inside)


@cache
def _sum_derivative(total: sp.Expr, variable: sp.Expr) -> sp.Expr:
    return collapse_deltas(sp.diff(total, variable))


def _base(variable: sp.Expr) -> sp.Expr:
    return variable.base if isinstance(variable, sp.Indexed) else variable


@cache
def _in_exponentials(expr: sp.Expr) -> sp.Expr:
    """Nodes by their definitions, as rational functions of exponentials and logarithms of such."""
    expr = expand_nodes(expr)
    expr = expr.xreplace({e: _as_powers(e) for e in expr.atoms(sp.exp)})
    return expr.replace(lambda e: isinstance(e, sp.log), lambda e: -sp.log(sp.cancel(1 / e.args[0])))


def _written_in(expr: sp.Expr) -> set[sp.Basic]:
    return set(expr.atoms(sp.Symbol, sp.Indexed, *REDUCTIONS, Node))


def _vanishes(expr: sp.Expr) -> bool:
    """Whether `expr` is 0 as a rational function, with sums, maxima and nodes as indeterminates."""
    named = {atom: symbols.stand_in(atom) for atom in expr.atoms(*REDUCTIONS, Node)}
    numerator, _ = expr.xreplace(named).as_numer_denom()
    return bool(sp.expand(numerator) == 0)


@cache
def _normal_sum(total: sp.Sum) -> sp.Expr:
    """The sum with constant factors in front and an index of our own."""
    ((index, low, high),) = total.limits
    constant, summand = sp.factor_terms(total.function).as_independent(index, as_Add=False)
    return constant * sp.Sum(summand.xreplace({index: _INDEX}), (_INDEX, low, high))


def _as_powers(exponential: sp.exp) -> sp.Expr:
    """exp(2*a - b) as A**2/B, with one symbol for the exponential of each term."""
    powers = sp.S.One
    for term in sp.Add.make_args(sp.expand(exponential.args[0])):
        coefficient, rest = term.as_coeff_Mul()
        if not coefficient.is_Integer:
            coefficient, rest = sp.S.One, term
        powers *= sp.Symbol(f"exp({rest})", positive=True) ** coefficient
    return powers
