"""Objective -> Derivation: every equality between the definition of a loss and its gradients, checked as it is made.

The work is split as a person would split it. A lemma on the distance finds the gradient of d(x, y) in each argument,
component by component, for vectors of any length n; a lemma on the scalar loss rewrites phi to a stable form and
differentiates it in d_pos and d_neg; the theorem puts them together by the chain rule.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import sympy as sp

from . import symbols
from .catalogue import Distance, Loss, Objective
from .functions import positive_part, sigmoid, softplus, step
from .properties import Bound, Kink, bound_slope, find_kinks
from .stabilise import RULES
from .steps import Chain, Lemma, Setting, Step, collapse_deltas
from .symbols import d, d_neg, d_pos, i, k, n


@dataclass(frozen=True)
class Term:
    """One term of a distance's gradient: a coefficient, the same for all components, times an elementwise factor."""

    coefficient: sp.Expr
    elementwise: sp.Expr


@dataclass(frozen=True)
class DistanceDerivation:
    """The gradients of d(x, y) in x and in y; `terms` are the same gradients taken apart, in d and the components."""

    distance: Distance
    value: sp.Expr
    gradients: Mapping[str, Lemma]
    terms: Mapping[str, tuple[Term, ...]]
    translation_invariant: bool
    gradient_norm: Lemma


@dataclass(frozen=True)
class LossDerivation:
    """The stable form of phi(d_pos, d_neg) and of its two slopes, in the symbols that `abbreviations` introduce."""

    loss: Loss
    definition: sp.Expr
    abbreviations: Mapping[sp.Symbol, sp.Expr]
    value: Lemma
    slopes: Mapping[sp.Symbol, Lemma]


@dataclass(frozen=True)
class Derivation:
    """An objective's gradients with everything that leads to them.

    gradients: a lemma for each of x, x_pos, x_neg; its result is the k-th component of the gradient.
    terms: the same gradients taken apart, in d_pos, d_neg, the abbreviations and the components.
    invariants: equalities that hold for the gradients, each a checked step.
    bounds: upper bounds that hold everywhere.
    kinks: what happens at the points where the loss is not differentiable.
    """

    objective: Objective
    distance: DistanceDerivation
    loss: LossDerivation
    gradients: Mapping[str, Lemma]
    terms: Mapping[str, tuple[Term, ...]]
    invariants: tuple[Step, ...]
    bounds: tuple[Bound, ...]
    kinks: tuple[Kink, ...]
    setting: Setting = field(repr=False)

    @property
    def lemmas(self) -> tuple[Lemma, ...]:
        """All lemmas in the order in which they build on each other."""
        return (
            *self.distance.gradients.values(),
            self.distance.gradient_norm,
            self.loss.value,
            *self.loss.slopes.values(),
            *self.gradients.values(),
        )

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """All steps in order."""
        return (*(step for lemma in self.lemmas for step in lemma.steps), *self.invariants)

    def __repr__(self) -> str:
        from .text import describe

        return describe(self)

    def _repr_latex_(self) -> str:
        names = {"x": "x", "x_pos": "x^{+}", "x_neg": "x^{-}"}
        rows = (
            rf"\frac{{\partial L}}{{\partial {names[name]}_k}} &= {sp.latex(lemma.result)}"
            for name, lemma in self.gradients.items()
        )
        return "$$\\begin{aligned}" + r" \\ ".join(rows) + "\\end{aligned}$$"


def differentiate(objective: Objective) -> Derivation:
    """The gradients of `objective` for embeddings of any length n.

    Raises `StepError` if any step on the way is not an equality.
    """
    distance, loss = derive_distance(objective.distance), derive_loss(objective.loss)
    parameters = tuple(symbols.parameter(p) for p in objective.parameters)
    distances = symbols.distances_of(objective)
    setting = Setting(tuple(symbols.EMBEDDINGS), parameters, {**distances, **loss.abbreviations})
    terms = {name: _gradient_terms(name, distance, loss) for name in symbols.EMBEDDINGS}
    gradients = {name: _gradient(name, terms[name], distance, loss, setting) for name in symbols.EMBEDDINGS}
    return Derivation(
        objective,
        distance,
        loss,
        gradients,
        terms,
        _invariants(distance, gradients, setting),
        _bounds(distance, loss),
        find_kinks(objective),
        setting,
    )


# ---------------------------------------------------------------- the distance


def derive_distance(distance: Distance) -> DistanceDerivation:
    """The gradients of one distance in its first and second argument."""
    value = symbols.distance_of(distance, symbols.x, symbols.y)
    setting = Setting(("x", "y"), tuple(symbols.parameter(p) for p in distance.parameters), {d: value})
    sums = sorted(value.atoms(sp.Sum), key=sp.default_sort_key)
    first, first_terms = _distance_gradient(value, sums, symbols.x, setting)
    second, second_terms = _distance_gradient(value, sums, symbols.y, setting)
    return DistanceDerivation(
        distance,
        value,
        {"x": first, "y": second},
        {"x": first_terms, "y": second_terms},
        sp.expand(first.result + second.result) == 0,
        _gradient_norm(first.result, value, sums, setting),
    )


def _distance_gradient(
    value: sp.Expr, sums: list[sp.Sum], variable: sp.IndexedBase, setting: Setting
) -> tuple[Lemma, tuple[Term, ...]]:
    stand_ins = {total: sp.Dummy(positive=True) for total in sums}
    outer = value.xreplace(stand_ins)
    back = {stand_in: total for total, stand_in in stand_ins.items()}
    weights = [sp.diff(outer, stand_in).xreplace(back) for stand_in in stand_ins.values()]
    inner = [_partial(total.function, variable) for total in sums]

    def combined(parts: list[sp.Expr]) -> sp.Expr:
        return sp.Add(*(_times(weight, part) for weight, part in zip(weights, parts, strict=True)))

    terms = []
    for weight, derivative in zip(weights, inner, strict=True):
        content, elementwise = derivative.subs(i, k).primitive()
        if elementwise.as_coefficients_dict()[symbols.x[k]] < 0:
            content, elementwise = -content, -elementwise
        terms.append(Term(content * weight.subs(value, d), elementwise))
    chain = Chain(f"gradient of d in {variable}", sp.Derivative(value, variable[k]), setting)
    chain.then(
        "chain rule",
        combined([sp.Derivative(total, variable[k]) for total in sums]),
        "differentiate the outer function at its sums",
    )
    chain.then(
        "sum rule",
        combined([sp.Sum(_times(part, sp.KroneckerDelta(i, k)), (i, 1, n)) for part in inner]),
        "the derivative of a sum is the sum of derivatives, and component i depends on component k only if i = k",
    )
    chain.then(
        "Kronecker delta",
        combined([collapse_deltas(sp.Sum(part * sp.KroneckerDelta(i, k), (i, 1, n))) for part in inner]),
        "only the term i = k of the sum is left",
    )
    chain.then(
        "collect",
        _sum_of(terms),
        "cancel constants and write d for the distance",
    )
    return chain.qed(), tuple(terms)


def _partial(term: sp.Expr, variable: sp.IndexedBase) -> sp.Expr:
    """The derivative of an elementwise term in its own component of `variable`."""
    component = sp.Dummy(real=True)
    return sp.diff(term.xreplace({variable[i]: component}), component).xreplace({component: variable[i]})


def _sum_of(terms: Iterable[Term]) -> sp.Expr:
    return sp.Add(*(_times(term.coefficient, term.elementwise) for term in terms))


def _times(a: sp.Expr, b: sp.Expr) -> sp.Expr:
    """a*b, without SymPy's distributing a number over a sum: 2*(x - y) stays as it is."""
    content, primitive = b.primitive()
    coefficient = a * content
    return primitive if coefficient == 1 else sp.Mul(coefficient, primitive, evaluate=False)


def _gradient_norm(gradient: sp.Expr, value: sp.Expr, sums: list[sp.Sum], setting: Setting) -> Lemma:
    """The squared Euclidean length of the distance's gradient, where it can be written in d alone."""
    squared = sp.Sum(gradient**2, (k, 1, n))
    chain = Chain("length of the gradient of d", squared, setting)
    (total,) = sums
    coefficient, elementwise = sp.factor_terms(gradient).as_independent(k)
    if elementwise**2 == total.function.subs(i, k):
        chain.then("factor", coefficient**2 * total, "the coefficient does not depend on k")
        base, exponent = value.as_base_exp()
        if base == total:
            chain.then("write in d", coefficient**2 * d ** (1 / exponent), "the sum is a power of the distance")
    return chain.qed()


# ---------------------------------------------------------------- the scalar loss


def derive_loss(loss: Loss) -> LossDerivation:
    """The stable value of one loss and its slopes in d_pos and d_neg."""
    definition, introduced = symbols.loss_of(loss)
    scalars = (d_pos, d_neg, *(symbols.parameter(p) for p in loss.parameters))
    chain = Chain("stable form of the loss", definition, Setting((), scalars, introduced))
    chain.then("write out", definition.subs(introduced), "insert what the names stand for")
    while True:
        before = chain.reached
        for rule in RULES:
            chain.then(rule.name, rule.apply(chain.reached), rule.reason)
        if chain.reached == before:
            break
    stable = chain.reached
    abbreviations = _abbreviations(stable)
    chain.setting = Setting((), scalars)
    chain.then("abbreviate", _abbreviated(stable, abbreviations), "name the nodes", also=abbreviations)
    slopes = {v: _slope(stable, v, Setting((), scalars, abbreviations)) for v in (d_pos, d_neg)}
    return LossDerivation(loss, definition, abbreviations, chain.qed(), slopes)


def _slope(stable: sp.Expr, variable: sp.Symbol, setting: Setting) -> Lemma:
    chain = Chain(f"slope of the loss in {variable}", sp.Derivative(stable, variable), setting)
    chain.then("chain rule", sp.diff(stable, variable), "the derivative of each node is a node")
    chain.then("abbreviate", _abbreviated(chain.reached, setting.abbreviations), "name the nodes")
    return chain.qed()


def _abbreviations(stable: sp.Expr) -> dict[sp.Symbol, sp.Expr]:
    """Names for the arguments of the nodes in a loss, z, and for the sigmoids s of z and q of -z."""
    names: dict[sp.Symbol, sp.Expr] = {}
    arguments: list[sp.Expr] = []
    nodes = stable.atoms(sigmoid, softplus, positive_part, step)
    for node in sorted(nodes, key=sp.default_sort_key):
        (z,) = node.args
        z = sp.together(sp.expand(-z if sp.diff(z, d_pos).is_negative else z))
        if all(sp.expand(z - known) != 0 for known in arguments):
            arguments.append(z)
    for number, z in enumerate(arguments, start=1):
        suffix = str(number) if len(arguments) > 1 else ""
        names[argument := sp.Symbol(f"z{suffix}", real=True)] = z
        names[sp.Symbol(f"s{suffix}", positive=True)] = sigmoid(argument)
        names[sp.Symbol(f"q{suffix}", positive=True)] = sigmoid(-argument)
    return names


def _abbreviated(expr: sp.Expr, abbreviations: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
    for symbol, meaning in abbreviations.items():
        if symbol.name.startswith("z"):
            # a node may hold -z in any of SymPy's equal forms
            expr = expr.replace(
                lambda e: isinstance(e, (sigmoid, softplus, positive_part, step)),
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


# ---------------------------------------------------------------- the theorem


def _gradient_terms(name: str, distance: DistanceDerivation, loss: LossDerivation) -> tuple[Term, ...]:
    """The gradient of L in one embedding, terms with opposite coefficients merged so that what cancels does."""
    merged: list[Term] = []
    for which, other in ((d_pos, symbols.x_pos), (d_neg, symbols.x_neg)):
        if name not in ("x", str(other)):
            continue
        slope = loss.slopes[which].result
        for term in distance.terms["x" if name == "x" else "y"]:
            here = {d: which, symbols.y: other}
            coefficient, elementwise = slope * term.coefficient.xreplace(here), term.elementwise.xreplace(here)
            for at, earlier in enumerate(merged):
                if earlier.coefficient == -coefficient:
                    merged[at] = Term(earlier.coefficient, earlier.elementwise - elementwise)
                    break
            else:
                merged.append(Term(coefficient, elementwise))
    return tuple(merged)


def _gradient(
    name: str, terms: tuple[Term, ...], distance: DistanceDerivation, loss: LossDerivation, setting: Setting
) -> Lemma:
    """The k-th component of the gradient of L in one embedding."""
    variable = symbols.EMBEDDINGS[name]
    values = {which: setting.abbreviations[which] for which in (d_pos, d_neg)}
    depends = [which for which in values if values[which].has(variable)]
    chain = Chain(f"gradient of L in {name}", sp.Derivative(_written_out(loss, values), variable[k]), setting)
    chain.then(
        "chain rule",
        sp.Add(*(loss.slopes[which].result * sp.Derivative(values[which], variable[k]) for which in depends)),
        "L depends on the embedding through the distances only",
    )
    chain.then("gradient of the distance", _sum_of(terms), "insert the lemma on the distance")
    slope = loss.slopes[d_pos].result
    if len(terms) > 1 and loss.slopes[d_neg].result == -slope:
        inner = sp.Add(*(_times(term.coefficient / slope, term.elementwise) for term in terms))
        chain.then("collect", sp.Mul(slope, inner, evaluate=False), "the slopes in d_pos and d_neg are opposite")
    return chain.qed()


def _written_out(loss: LossDerivation, values: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
    """The loss with nothing abbreviated, the distances included."""
    return Setting(abbreviations={**loss.abbreviations, **values}).spell_out(loss.value.result)


# ---------------------------------------------------------------- what holds besides


def _invariants(distance: DistanceDerivation, gradients: Mapping[str, Lemma], setting: Setting) -> tuple[Step, ...]:
    if not distance.translation_invariant:
        return ()
    total = sp.Add(*(lemma.result for lemma in gradients.values()))
    reason = "the distance does not change when both points move together, so the three gradients sum to 0"
    return (Step("translation invariance", total, sp.S.Zero, reason, setting),)


def _bounds(distance: DistanceDerivation, loss: LossDerivation) -> tuple[Bound, ...]:
    slope = bound_slope(loss.slopes[d_pos].result)
    if slope is None:
        return ()
    bounds = [Bound("|dL/dd_pos|", *slope)]
    length = sp.sqrt(distance.gradient_norm.result)
    if not length.free_symbols:
        bounds.append(Bound("|dL/dx_pos|", slope[0] * length, slope[1]))
    return tuple(bounds)
