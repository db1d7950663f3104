"""Second derivatives: the curvature of a distance and of a scalar loss, and the blocks of the Hessian of L.

The l-th component of the derivative of the k-th gradient component. As in `lemmas`, every equality is a checked step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from itertools import combinations_with_replacement

import sympy as sp

from . import symbols
from .differentiate import Derivation
from .functions import finite_at_kinks
from .lemmas import DistanceDerivation, LossDerivation, abbreviated, factored
from .normalization import Normalization, at_units, projection
from .steps import Chain, Lemma, Setting
from .symbols import d, i, j, k, l, n

_OWN = (("x_pos", "x_pos"), ("x_neg", "x_neg"), ("x_pos", "x_neg"))
_OF_THE_ANCHOR = (("x", "x"), ("x", "x_pos"), ("x", "x_neg"))


@dataclass(frozen=True)
class SecondDerivation:
    """Second derivatives as lemmas, those of d and of the loss as far as a block is made of them.

    distance: by pairs of arguments of d, such as 'xy'. loss: by pairs of distances. blocks: by pairs of embeddings,
    the vectors that the distances are taken of; those of the anchor only where they do not follow from the others.
    raw: where embeddings are normalized, the same blocks in the raw ones.
    """

    distance: Mapping[str, Lemma]
    loss: Mapping[tuple[sp.Symbol, sp.Symbol], Lemma]
    blocks: Mapping[tuple[str, str], Lemma]
    raw: Mapping[tuple[str, str], Lemma]


def differentiate_twice(derivation: Derivation) -> SecondDerivation:
    """The Hessian blocks of a derivation. Raises `StepError` if a step on the way is not an equality."""
    shown = _OWN if derivation.distance.translation_invariant else (*_OWN, *_OF_THE_ANCHOR)
    roles = {name: _roles(derivation.loss, name) for name in symbols.EMBEDDINGS}
    pairs = sorted({roles[a][which] + roles[b][which] for a, b in shown for which in roles[a].keys() & roles[b]})
    distance = {pair: _distance_curvature(derivation.distance, *pair) for pair in pairs}
    loss = {
        pair: _loss_curvature(derivation.loss, *pair)
        for pair in combinations_with_replacement(derivation.loss.slopes, 2)
    }
    blocks = {pair: _block(derivation, distance, loss, *pair) for pair in shown}
    through = derivation.normalization
    raw = {pair: _through_units(through, block, *pair) for pair, block in blocks.items()} if through else {}
    return SecondDerivation(distance, loss, blocks, raw)


def _roles(loss: LossDerivation, name: str) -> dict[sp.Symbol, str]:
    """The distances that an embedding enters, and as which argument of d."""
    ends = {which: symbols.ends(which) for which in loss.slopes}
    return {
        which: "xy"[of.index(symbols.EMBEDDINGS[name])] for which, of in ends.items() if symbols.EMBEDDINGS[name] in of
    }


@cache  # the losses of a distance share it
def _distance_curvature(derivation: DistanceDerivation, first: str, second: str) -> Lemma:
    arguments = {"x": symbols.x, "y": symbols.y}
    parameters = tuple(symbols.parameter(p) for p in derivation.distance.parameters)
    least = symbols.least(derivation.distance.parameters)
    setting = Setting(("x", "y"), parameters, {d: derivation.value}, least=least)
    gradient = derivation.gradients[first].result
    variable = arguments[second]
    chain = Chain(f"second derivative of d in {first} and {second}", sp.Derivative(gradient, variable[l]), setting)
    along = derivation.gradients[second].result.subs(k, l)
    delta = sp.KroneckerDelta(k, l)
    total = sp.Add(
        *(
            _along(term.coefficient, along, variable) * term.elementwise
            + term.coefficient * _in_d(term.elementwise) * along
            + term.coefficient * symbols.partial_derivative(term.elementwise, variable[k]) * delta
            for term in derivation.terms[first]
        )
    )
    chain.then("product rule", total, "the coefficient depends on the distance, the factor on one component")
    chain.then("collect", factored(total), "take the common factor out")
    return chain.qed()


def _along(coefficient: sp.Expr, along: sp.Expr, variable: sp.IndexedBase) -> sp.Expr:
    """The derivative of a coefficient in the l-th component; `along` is that of d, in which it may be written."""
    inner = symbols.derivatives_in_sums(coefficient).items()
    return _in_d(coefficient) * along + sp.Add(
        *(slope * symbols.partial_derivative(total.function, variable[i]).subs(i, l) for total, slope in inner)
    )


def _in_d(expr: sp.Expr) -> sp.Expr:
    """The derivative in d, also where that is inside of sums."""
    outer, back = symbols.without_sums(expr)
    rates = ((slope, total, sp.diff(total.function, d)) for total, slope in symbols.derivatives_in_sums(expr).items())
    inside = (slope * sp.Sum(rate, *total.limits) for slope, total, rate in rates if rate != 0)
    return sp.diff(outer, d).xreplace(back) + sp.Add(*inside)


@cache  # the distances of a loss share it
def _loss_curvature(derivation: LossDerivation, first: sp.Symbol, second: sp.Symbol) -> Lemma:
    slope = derivation.slopes[first]
    setting = Setting(
        (),
        (*derivation.slopes, *(symbols.parameter(p) for p in derivation.loss.parameters)),
        derivation.abbreviations,
    )
    chain = Chain(f"curvature of the loss in {first} and {second}", sp.Derivative(slope.result, second), setting)
    spelled_out = setting.spell_out(slope.result)
    by_nodes = finite_at_kinks(sp.diff(spelled_out, second))
    chain.then(
        "product rule",
        abbreviated(by_nodes, derivation.abbreviations),
        "differentiate factor by factor",
    )
    chain.then("collect", sp.factor(chain.reached), "take the common factor out")
    return chain.qed()


def _block(
    derivation: Derivation,
    distance: Mapping[str, Lemma],
    loss: Mapping[tuple[sp.Symbol, sp.Symbol], Lemma],
    first: str,
    second: str,
) -> Lemma:
    variable = symbols.EMBEDDINGS[second]
    gradient = derivation.gradients[first].result
    chain = Chain(f"Hessian block {first}, {second}", sp.Derivative(gradient, variable[l]), derivation.setting)

    roles = {name: _roles(derivation.loss, name) for name in (first, second)}

    def along(which: sp.Symbol, name: str) -> sp.Expr:
        return symbols.said_of(which, derivation.distance.gradients[roles[name][which]].result)

    terms = []
    for a in roles[first]:
        for b in roles[second]:
            curvature = loss.get((a, b)) or loss[b, a]
            terms.append(curvature.result * along(a, first) * along(b, second).xreplace({k: l}))
            if a == b:
                of_distance = symbols.said_of(a, distance[roles[first][a] + roles[second][a]].result)
                terms.append(derivation.loss.slopes[a].result * of_distance)
    chain.then(
        "chain rule",
        sp.Add(*terms),
        "the loss curves along the distances, and its slope meets the curvature of d",
    )
    return chain.qed()


def _through_units(normalization: Normalization, block: Lemma, first: str, second: str) -> Lemma:
    """A block in the raw embeddings, from that in their unit vectors."""
    inner = symbols.CURVATURES[first, second]
    known = normalization.setting
    setting = replace(known, abbreviations={**known.abbreviations, inner[k, l]: at_units(block.result)})
    gradient = normalization.gradients[first].result
    subject = sp.Derivative(gradient, symbols.EMBEDDINGS[second][l])
    chain = Chain(f"Hessian block {first}, {second}, through the unit vectors", subject, setting)
    projected = sp.Sum(projection(first, k, i) * inner[i, j] * projection(second, j, l), (j, 1, n))
    terms = [sp.Sum(projected, (i, 1, n)) / (symbols.NORMS[first] * symbols.NORMS[second])]
    if first == second:
        unit, norm, g = symbols.UNITS[first], symbols.NORMS[first], symbols.AT_UNITS[first]
        along = sp.Sum(g[i] * unit[i], (i, 1, n))
        terms += [
            -unit[l] * (g[k] - unit[k] * along) / norm**2,
            -unit[k] * (g[l] - unit[l] * along) / norm**2,
            -projection(first, k, l) * along / norm**2,
        ]
    reason = "the loss curves in the unit vectors" + ", which curve in the embedding" * (first == second)
    return chain.then("chain rule", sp.Add(*terms), reason, numeric=True).qed()
