"""Derivation -> document: what a proof shows, as equations that are checked steps and numbers computed here.

The words that connect them stand in the template of the target `latex`; a formula never does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

import mpmath
import sympy as sp

from . import symbols
from .catalogue import DISTANCES, Objective
from .differentiate import Derivation, differentiate
from .evaluate import Point, evaluate
from .highprecision import loss_value
from .kernel import RowKernel
from .latex import WIDE, broken, escape, to_latex, width
from .lemmas import LossDerivation, abbreviated, times
from .properties import Bound, Kink
from .second import SecondDerivation, differentiate_twice
from .stabilise import RULES
from .steps import Chain, Lemma, Setting, Step
from .symbols import d_neg, d_pos, k
from .verify.reference import reference

_DIGITS = 50
_SATURATED_DIGITS = 3000  # of two terms that cancel to a loss of 1e-868
# an ordinary triplet at which every loss of the catalogue is active
_EXAMPLE = {"x": (1.0, 2.0, 3.0), "x_pos": (1.5, 1.0, 2.0), "x_neg": (2.0, 2.0, 2.0)}
EMBEDDINGS = {"x": "x", "x_pos": "x^{+}", "x_neg": "x^{-}"}


@dataclass(frozen=True)
class Line:
    """One displayed equality: `left` is empty where it continues the line above.

    right: the right-hand side, in as many pieces as it has to be broken into.
    wide: whether a piece leaves no room for the reason beside it.
    """

    left: str
    right: tuple[str, ...]
    rule: str
    reason: str
    step: Step
    wide: bool


@dataclass(frozen=True)
class Row:
    """One component of a gradient in the table: its name, by formula, by differences of the definition."""

    name: str
    formula: str
    difference: str
    agreement: str


@dataclass(frozen=True)
class Proof:
    """All that the template shows. Formulas are LaTeX for use inside mathematics.

    chains: the lemmas as displays, by name.
    formulas: single expressions, by name.
    """

    derivation: Derivation
    second: SecondDerivation
    chains: Mapping[str, tuple[Line, ...]]
    formulas: Mapping[str, str]
    abbreviations: tuple[str, ...]
    companion: Derivation | None
    companion_formulas: Mapping[str, str]
    dictionary: tuple[tuple[str, str, str], ...]
    table: tuple[Row, ...]

    @property
    def all_symbolic(self) -> bool:
        """Whether SymPy could decide every displayed equality."""
        return all(step.symbolic for step in self.steps)

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every displayed equality."""
        return tuple(line.step for chain in self.chains.values() for line in chain)


@cache
def prove(derivation: Derivation, kernel: RowKernel, parameters: tuple[tuple[str, float], ...]) -> Proof:
    """The proof of a derivation, with its numbers at `parameters`.

    Raises `StepError` if any displayed equality is wrong.
    """
    second = differentiate_twice(derivation)
    companion = _companion(derivation.objective)
    return Proof(
        derivation,
        second,
        _chains(derivation, second),
        _formulas(derivation, second),
        _used_abbreviations(derivation.loss),
        companion,
        _formulas(companion, None) if companion else {},
        _dictionary(kernel),
        _table(derivation, dict(parameters)),
    )


def _used_abbreviations(loss: LossDerivation) -> tuple[str, ...]:
    """The names that the value or a slope is written in, and the argument of the nodes."""
    used = loss.value.result.free_symbols.union(*(lemma.result.free_symbols for lemma in loss.slopes.values()))
    return tuple(s.name for s in loss.abbreviations if s in used or s.name.startswith("z"))


def _companion(objective: Objective) -> Derivation | None:
    """The same loss on the distance that is this one squared, or of which this one is the square."""
    name = objective.distance.name
    other = name.removesuffix("-squared") if name.endswith("-squared") else f"{name}-squared"
    return differentiate(Objective(DISTANCES[other], objective.loss)) if other in DISTANCES else None


# ---------------------------------------------------------------- equations


def _chains(derivation: Derivation, second: SecondDerivation) -> dict[str, tuple[Line, ...]]:
    values = derivation.setting.abbreviations
    named = {values[which]: to_latex(which) for which in (d_pos, d_neg)}
    distance, loss = derivation.distance, derivation.loss

    def lines(lemma: Lemma, left: str) -> tuple[Line, ...]:
        made: list[Line] = []
        for step in lemma.steps:
            pieces = broken(step.after, named)
            wide = max(map(width, pieces)) > WIDE
            made.append(Line(left if not made else "", pieces, escape(step.rule), escape(step.reason), step, wide))
        return tuple(made)

    chains = {f"distance {v}": lines(distance.gradients[v], _partial("d", f"{v}_k")) for v in "xy"}
    chains["length"] = lines(distance.gradient_norm, r"\sum_{k=1}^{n} \left(" + _partial("d", "x_k") + r"\right)^{2}")
    for name, lemma in quotient_lemmas(loss).items():
        chains[f"quotient {name}"] = lines(lemma, _partial(to_latex(name), "d_{+}"))
    chains["stable"] = lines(loss.value, to_latex(loss.definition))
    for which, lemma in loss.slopes.items():
        chains[f"slope {which}"] = lines(lemma, _partial("L", to_latex(which)))
    for name, lemma in derivation.gradients.items():
        chains[f"gradient {name}"] = lines(lemma, _partial("L", f"{EMBEDDINGS[name]}_k"))
    chains["curvature d"] = lines(second.distance["xx"], _second("d", "x_k", "x_l"))
    for (a, b), lemma in second.loss.items():
        chains[f"curvature {a} {b}"] = lines(lemma, _second("L", to_latex(a), to_latex(b)))
    for (first, then), lemma in second.blocks.items():
        left = _second("L", f"{EMBEDDINGS[first]}_k", f"{EMBEDDINGS[then]}_l")
        chains[f"block {first} {then}"] = lines(lemma, left)
    return chains


def quotient_lemmas(loss: LossDerivation) -> dict[sp.Symbol, Lemma]:
    """For each name in the definition of a loss that is a quotient, its derivative in d_pos by the quotient rule."""
    parameters = tuple(symbols.parameter(p) for p in loss.loss.parameters)
    setting = Setting((), (d_pos, d_neg, *parameters), loss.abbreviations)
    fractions = {name: value.as_numer_denom() for name, value in loss.introduced.items()}
    return {
        name: _by_quotient_rule(name, above, below, setting)
        for name, (above, below) in fractions.items()
        if below.has(d_pos)
    }


def _by_quotient_rule(name: sp.Symbol, above: sp.Expr, below: sp.Expr, setting: Setting) -> Lemma:
    chain = Chain(f"slope of {name} in d_pos", sp.Derivative(above / below, d_pos), setting)
    first, second = sp.diff(above, d_pos), sp.diff(below, d_pos)
    crossed = sp.Mul(-1, above, second, evaluate=False)
    if first != 0:
        crossed = sp.Add(times(below, first), crossed, evaluate=False)
    chain.then("quotient rule", sp.Mul(crossed, below**-2, evaluate=False), "the derivative of a quotient")
    chain.then("collect", sp.factor(sp.together(chain.reached.doit())), "equal terms cancel")
    stable = chain.reached
    for rule in RULES:
        stable = rule.apply(stable)
    chain.then("softmax is a sigmoid", abbreviated(stable, setting.abbreviations), "name the two outputs")
    return chain.qed()


def _partial(function: str, variable: str) -> str:
    return rf"\frac{{\partial {function}}}{{\partial {variable}}}"


def _second(function: str, first: str, then: str) -> str:
    return rf"\frac{{\partial^2 {function}}}{{\partial {first}\,\partial {then}}}"


def _formulas(derivation: Derivation, second: SecondDerivation | None) -> dict[str, str]:
    distance, loss = derivation.distance, derivation.loss
    formulas = {
        "distance": to_latex(distance.value),
        "loss": to_latex(loss.definition),
        "stable": to_latex(loss.value.result),
        **{f"define {name}": to_latex(value) for name, value in loss.introduced.items()},
        **{f"slope {which}": to_latex(lemma.result) for which, lemma in loss.slopes.items()},
        **{f"gradient {name}": to_latex(lemma.result) for name, lemma in derivation.gradients.items()},
        **{f"length {v}": to_latex(distance.gradient_norm.result) for v in "x"},
    }
    rows = sp.Symbol("B", positive=True)
    for name, lemma in derivation.gradients.items():
        formulas[f"mean {name}"] = to_latex(times(1 / rows, lemma.result))
    for symbol, meaning in loss.abbreviations.items():
        formulas[symbol.name] = to_latex(meaning)
    return formulas


# ---------------------------------------------------------------- the code and the numbers


_IN_THE_DOCUMENT = {
    "delta": r"\Delta",
    "loss": "L",
    "slope": r"\partial L / \partial d_{+}",
    **{f"grad_{name}": rf"\partial L / \partial {latex}_{{k}}" for name, latex in EMBEDDINGS.items()},
}


def _dictionary(kernel: RowKernel) -> tuple[tuple[str, str, str], ...]:
    """The names in the generated code, what this document calls them, and their values."""
    named = {sp.Symbol(name, real=True): f"{latex}_{{k}}" for name, latex in EMBEDDINGS.items()}
    rows: list[tuple[sp.Symbol, str]] = []

    def enter(symbol: sp.Symbol, value: str) -> None:
        known = _IN_THE_DOCUMENT.get(symbol.name) or ("" if "_" in symbol.name[2:] else to_latex(symbol))
        rows.append((symbol, value))
        named.setdefault(symbol, known or rf"\texttt{{{escape(symbol.name)}}}")

    for a in kernel.differences:
        enter(a.symbol, to_latex(a.value, named))
    for r in kernel.reductions:
        enter(r.symbol, rf"\sum_{{k=1}}^{{n}} {to_latex(r.term, named)}")
    for a in (*kernel.scalars, *kernel.maps):
        enter(a.symbol, to_latex(a.value, named))
    return tuple((escape(symbol.name), named[symbol], value) for symbol, value in rows)


def _table(derivation: Derivation, parameters: Mapping[str, float]) -> tuple[Row, ...]:
    """The gradients at one triplet, by formula and by central differences of the definition, both at 50 digits."""
    exact = reference(derivation.objective, _EXAMPLE["x"], _EXAMPLE["x_pos"], _EXAMPLE["x_neg"], parameters)
    scalars = {symbols.parameter(p): mpmath.mpf(parameters[p.name]) for p in derivation.objective.parameters}
    rows = []
    with mpmath.workdps(_DIGITS):
        vectors = {name: tuple(map(mpmath.mpf, values)) for name, values in _EXAMPLE.items()}
        point = Point(3, vectors, scalars, derivation.setting.abbreviations)
        for name, lemma in derivation.gradients.items():
            for index, difference in enumerate(exact.gradients[name].value, start=1):
                value = evaluate(lemma.result, point.at(k, index))
                rows.append(
                    Row(
                        rf"\partial L / \partial {EMBEDDINGS[name]}_{{{index}}}",
                        _number(value),
                        _number(difference),
                        _agreement(value, difference),
                    )
                )
    return tuple(rows)


def _number(value: mpmath.mpf) -> str:
    return str(mpmath.nstr(value, 12, min_fixed=-3, max_fixed=3, strip_zeros=False))


def _agreement(value: mpmath.mpf, other: mpmath.mpf) -> str:
    """A power of ten above the relative difference; beyond 40 digits it is that of rounding."""
    difference = abs(value - other) / max(abs(value), abs(other), mpmath.mpf(10) ** -_DIGITS)
    return f"< 10^{{{int(mpmath.ceil(mpmath.log10(max(difference, mpmath.mpf('1e-40')))))}}}"


def loss_at(objective: Objective, d_pos_value: str, d_neg_value: str) -> str:
    """The loss at two distances, for a counterexample: four digits, or a power of ten."""
    with mpmath.workdps(_SATURATED_DIGITS):
        value = loss_value(objective.loss, mpmath.mpf(d_pos_value), mpmath.mpf(d_neg_value), {})
        if value > mpmath.mpf("1e-6"):
            return str(mpmath.nstr(value, 4))
        exponent = int(mpmath.floor(mpmath.log10(value)))
        return rf"{mpmath.nstr(value / mpmath.mpf(10) ** exponent, 2)} \cdot 10^{{{exponent}}}"


# ---------------------------------------------------------------- words that hold a formula


def where(kink: Kink) -> str:
    """The points of a kink as LaTeX."""
    names = {**EMBEDDINGS, **{name: to_latex(sp.Symbol(name)) for name in ("d_pos", "d_neg", "margin", "temperature")}}
    return re.sub(r"\w+", lambda word: names.get(word[0], word[0]), kink.where)


def bounded(bound: Bound) -> str:
    """A bound as LaTeX."""
    of = EMBEDDINGS.get(bound.variable)
    quantity = rf"\norm{{\nabla_{{{of}}} L}}" if of else rf"\left| {_partial('L', 'd_{+}')} \right|"
    return rf"{quantity} \le {to_latex(bound.limit)}"


def approached(bound: Bound) -> str:
    """Where a bound is attained or approached."""
    if bound.s is None:
        return "attained wherever the loss is active"
    value = f"{bound.s}"
    return f"attained at $s = {value}$" if bound.is_attained else rf"approached as $s \to {value}$"
