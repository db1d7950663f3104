"""The two lemmas of every derivation: the gradient of a distance, and the slopes of a scalar loss.

The distance is differentiated component by component, for vectors of any length n; the loss is rewritten to a stable
form and differentiated in d_pos and d_neg. Neither knows of the other.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cache

import sympy as sp

from . import symbols
from .catalogue import Distance, Loss
from .functions import OF_ONE_ARGUMENT, sigmoid
from .printing import decimals
from .reductions import Maximum, share, term_of
from .stabilise import RULES, SIMPLER
from .steps import Chain, Lemma, Setting, collapse_deltas
from .symbols import d, d_pos, i, j, k, n


@dataclass(frozen=True)
class Term:
    """One term of a gradient: a coefficient, the same for all components of a row, times an elementwise factor.

    slope: in the gradient of a loss, the distance whose slope is a factor of the coefficient.
    """

    coefficient: sp.Expr
    elementwise: sp.Expr
    slope: sp.Symbol | None = None


@dataclass(frozen=True, eq=False)
class DistanceDerivation:
    """The gradients of d(x, y) in x and in y; `terms` are the same gradients taken apart, in d and the components."""

    distance: Distance
    value: sp.Expr
    gradients: Mapping[str, Lemma]
    terms: Mapping[str, tuple[Term, ...]]
    translation_invariant: bool
    gradient_norm: Lemma


@dataclass(frozen=True, eq=False)
class LossDerivation:
    """The stable form of phi(d_pos, d_neg) and of its slopes, in the symbols that `abbreviations` introduce.

    introduced: the names that the definition introduces, and what they stand for.
    """

    loss: Loss
    definition: sp.Expr
    introduced: Mapping[sp.Symbol, sp.Expr]
    abbreviations: Mapping[sp.Symbol, sp.Expr]
    value: Lemma
    slopes: Mapping[sp.Symbol, Lemma]

    @property
    def used(self) -> dict[sp.Symbol, sp.Expr]:
        """The abbreviations that the value or a slope is written in, and the arguments of their nodes."""
        written_in = self.value.result.free_symbols.union(
            *(lemma.result.free_symbols for lemma in self.slopes.values())
        )
        return {s: meaning for s, meaning in self.abbreviations.items() if s in written_in or s.name.startswith("z")}


# ---------------------------------------------------------------- the distance


@cache
def derive_distance(distance: Distance) -> DistanceDerivation:
    """The gradients of one distance in its first and second argument."""
    value = symbols.distance_of(distance, symbols.x, symbols.y)
    parameters = tuple(symbols.parameter(p) for p in distance.parameters)
    setting = Setting(("x", "y"), parameters, {d: value}, least=symbols.least(distance.parameters))
    weights = symbols.derivatives_in_sums(value)
    first, first_terms = _distance_gradient(value, weights, symbols.x, setting)
    second, second_terms = _distance_gradient(value, weights, symbols.y, setting)
    return DistanceDerivation(
        distance,
        value,
        {"x": first, "y": second},
        {"x": first_terms, "y": second_terms},
        sp.expand(first.result + second.result) == 0,
        _gradient_norm(first.result, value, setting),
    )


def _distance_gradient(
    value: sp.Expr, weights: Mapping[sp.Expr, sp.Expr], variable: sp.IndexedBase, setting: Setting
) -> tuple[Lemma, tuple[Term, ...]]:
    inner = [
        share(total, i, j).xreplace({value: d}) * symbols.partial_derivative(term_of(total, i), variable[i])
        for total in weights
    ]

    def combined(parts: Iterable[sp.Expr]) -> sp.Expr:
        return sp.Add(*(times(weight, part) for weight, part in zip(weights.values(), parts, strict=True)))

    shift, power = value.as_independent(sp.Sum, as_Add=True)
    terms = []
    for weight, derivative in zip(weights.values(), inner, strict=True):
        content, elementwise = _taken_apart(sp.powsimp(derivative.subs(i, k)))
        if elementwise.as_coefficients_dict()[symbols.x[k]] < 0:
            content, elementwise = -content, -elementwise
        terms.append(Term(sp.powsimp(content * _in_d(weight.subs(power, d - shift), value)), elementwise))
    rule, reason = _MAXIMUM_RULE if any(isinstance(total, Maximum) for total in weights) else _SUM_RULE
    chain = Chain(f"gradient of d in {variable}", sp.Derivative(value, variable[k]), setting)
    chain.then(
        "chain rule",
        combined(sp.Derivative(total, variable[k]) for total in weights),
        "differentiate the outer function at its sums",
    )
    chain.then(
        rule,
        combined(sp.Sum(times(sp.KroneckerDelta(i, k), part), (i, 1, n)) for part in inner),
        f"{reason}, and a component depends on itself only",
    )
    chain.then(
        "Kronecker delta",
        sp.Add(*(_beside(weight, _collapsed(part)) for weight, part in zip(weights.values(), inner, strict=True))),
        "a single term of the sum is left",
    )
    if chain.reached != sp.Add(*(term.coefficient * term.elementwise for term in terms)):
        chain.then("collect", sum_of(terms), "cancel constants and write the distance by its name")
    return chain.qed(), tuple(terms)


_SUM_RULE = ("sum rule", "the derivative of a sum is the sum of the derivatives")
_MAXIMUM_RULE = ("Danskin's theorem", "a maximum moves with the term that attains it, at a tie with their mean")


def _taken_apart(derivative: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """Its factors that are the same for all components, numbers and parameters, and the rest."""
    content, rest = _primitive(derivative)
    constant, elementwise = rest.as_independent(k, as_Add=False)
    return content * constant, elementwise


def _in_d(weight: sp.Expr, value: sp.Expr) -> sp.Expr:
    """`weight` without the sum, where the distance is a symbolic power of one."""
    total, exponent = value.as_base_exp()
    is_symbolic = isinstance(total, sp.Sum) and not exponent.is_number
    return weight.xreplace({total: d ** (1 / exponent)}) if is_symbolic else weight


def _collapsed(part: sp.Expr) -> sp.Expr:
    """The sum of part*delta(i, k) over i."""
    return collapse_deltas(sp.Sum(part * sp.KroneckerDelta(i, k), (i, 1, n)))


def _beside(a: sp.Expr, b: sp.Expr) -> sp.Expr:
    """a*b with the numbers of both where they are, for a reader to cancel."""
    content, primitive = _primitive(b)
    factors = [factor for factor in (a, content) if factor != 1]
    product = sp.Mul(*factors[1:], primitive, evaluate=False) if factors[1:] else primitive
    return sp.Mul(factors[0], product, evaluate=False) if factors else product


def sum_of(terms: Iterable[Term]) -> sp.Expr:
    """The sum of coefficient times elementwise factor."""
    return sp.Add(*(times(term.coefficient, term.elementwise) for term in terms))


def times(a: sp.Expr, b: sp.Expr) -> sp.Expr:
    """a*b, without SymPy's distributing a number over a sum: 2*(x - y) stays as it is."""
    content, primitive = _primitive(b)
    coefficient = a * content
    return primitive if coefficient == 1 else sp.Mul(coefficient, primitive, evaluate=False)


def factored(expr: sp.Expr) -> sp.Expr:
    """`expr` with common factors taken out of its sums, but no powers of ten: x - y + 1/1000000 stays as it is."""
    decimal = {number: sp.Symbol(str(number), real=True) for number in expr.atoms(sp.Rational) if decimals(number)}
    return sp.factor_terms(expr.xreplace(decimal)).xreplace({symbol: number for number, symbol in decimal.items()})


def _primitive(expr: sp.Expr) -> tuple[sp.Expr, sp.Expr]:
    """The number that all terms have in common, and what it is multiplied by; a constant term goes with the others.

    2*x - 2*y + 1/500000 is 2 times x - y + 1/1000000, and not 1/500000 times 1000000*x - 1000000*y + 1.
    """
    constant, rest = expr.as_coeff_Add()
    if not constant or not rest:
        content, primitive = expr.primitive()
    else:
        content, primitive = rest.primitive()
        primitive += constant / content
    return content, primitive


def _gradient_norm(gradient: sp.Expr, value: sp.Expr, setting: Setting) -> Lemma:
    """The squared Euclidean length of the distance's gradient, where it can be written in d alone."""
    squared = sp.Sum(gradient**2, (k, 1, n))
    chain = Chain("length of the gradient of d", squared, setting)
    coefficient, elementwise = sp.factor_terms(gradient).as_independent(k, as_Add=False)
    factor, power = value.as_coeff_Mul()
    total, exponent = power.as_base_exp()
    if isinstance(total, sp.Sum) and elementwise**2 == total.function.subs(i, k):
        chain.then("factor", coefficient**2 * total, "the coefficient is the same for all components")
        in_d = coefficient**2 * (d / factor) ** (1 / exponent)
        chain.then("write in d", in_d, "the sum is a power of the distance")
    return chain.qed()


# ---------------------------------------------------------------- the scalar loss


@cache
def derive_loss(loss: Loss) -> LossDerivation:
    """The stable value of one loss and its slopes in d_pos and d_neg."""
    definition, introduced = symbols.loss_of(loss)
    distances = tuple(symbols.pairs_of(loss))
    scalars = (*distances, *(symbols.parameter(p) for p in loss.parameters))
    setting = Setting((), scalars, least=symbols.least(loss.parameters))
    chain = Chain("stable form of the loss", definition, replace(setting, abbreviations=introduced))
    chain.then("write out", chain.setting.spell_out(definition), "insert what the names stand for")
    while True:
        before = chain.reached
        for rule in RULES:
            chain.then(rule.name, rule.apply(chain.reached), rule.reason)
        if chain.reached == before:
            break
    stable = chain.reached
    abbreviations = _abbreviations(stable, distances)
    chain.setting = setting
    chain.then("abbreviate", abbreviated(stable, abbreviations), "name the nodes", also=abbreviations)
    slopes = {v: _slope(stable, v, chain.setting) for v in distances}
    return LossDerivation(loss, definition, introduced, abbreviations, chain.qed(), slopes)


def _slope(stable: sp.Expr, variable: sp.Symbol, setting: Setting) -> Lemma:
    chain = Chain(f"slope of the loss in {variable}", sp.Derivative(stable, variable), setting)
    chain.then("chain rule", sp.diff(stable, variable), "the outer functions first, then their argument")
    for rule in SIMPLER:
        chain.then(rule.name, rule.apply(chain.reached), rule.reason)
    chain.then("abbreviate", abbreviated(chain.reached, setting.abbreviations), "name the nodes")
    return chain.qed()


def _abbreviations(stable: sp.Expr, distances: Iterable[sp.Symbol]) -> dict[sp.Symbol, sp.Expr]:
    """Names for the arguments of the nodes in a loss, z, and for the sigmoids s of z and q of -z."""
    names: dict[sp.Symbol, sp.Expr] = {}
    arguments: list[sp.Expr] = []
    slopes = (sp.diff(stable, which) for which in distances)
    nodes = set().union(*(expr.atoms(*OF_ONE_ARGUMENT) for expr in (stable, *slopes)))
    for node in sorted(nodes, key=sp.default_sort_key):
        (z,) = node.args
        z = _in_one_place(-z if sp.diff(z, d_pos).is_negative else z)
        if all(sp.expand(z - sign * known) != 0 for known in arguments for sign in (1, -1)):
            arguments.append(z)
    for number, z in enumerate(arguments, start=1):
        suffix = str(number) if len(arguments) > 1 else ""
        names[argument := sp.Symbol(f"z{suffix}", real=True)] = z
        names[sp.Symbol(f"s{suffix}", positive=True)] = sigmoid(argument)
        names[sp.Symbol(f"q{suffix}", positive=True)] = sigmoid(-argument)
    return names


def _in_one_place(z: sp.Expr) -> sp.Expr:
    """`z` with a common denominator, unless it becomes something that is not easily seen to be the same."""
    together = sp.together(sp.expand(z))
    return together if sp.expand(together - z) == 0 else z


def abbreviated(expr: sp.Expr, abbreviations: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
    """`expr` with the nodes of a loss by their names."""
    for symbol, meaning in abbreviations.items():
        if symbol.name.startswith("z"):
            # a node may hold -z in any of SymPy's equal forms
            expr = expr.replace(
                lambda e: isinstance(e, OF_ONE_ARGUMENT),
                lambda e, symbol=symbol, meaning=meaning: _with_argument(e, symbol, meaning),
            )
        else:
            expr = expr.subs(meaning, symbol)
    return expr


def _with_argument(node: sp.Expr, symbol: sp.Symbol, meaning: sp.Expr) -> sp.Expr:
    for sign in (1, -1):
        if sp.expand(node.args[0] - sign * meaning) == 0:
            return node.func(sign * symbol)
    return node
