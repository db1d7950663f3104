"""Second derivatives: the curvature of a distance and of a scalar loss, and the blocks of the Hessian of L.

The l-th component of the derivative of the k-th gradient component. As in `lemmas`, every equality is a checked step.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import sympy as sp

from . import symbols
from .differentiate import Derivation
from .lemmas import DistanceDerivation, LossDerivation, abbreviated
from .steps import Chain, Lemma, Setting
from .symbols import d, d_neg, d_pos, i, k, l


@dataclass(frozen=True)
class SecondDerivation:
    """distance: by pairs of arguments of d, 'xx', 'xy' and 'yy'. loss: by pairs of distances. blocks: by embeddings."""

    distance: Mapping[str, Lemma]
    loss: Mapping[tuple[sp.Symbol, sp.Symbol], Lemma]
    blocks: Mapping[tuple[str, str], Lemma]


def differentiate_twice(derivation: Derivation) -> SecondDerivation:
    """The Hessian blocks of a derivation. Raises `StepError` if a step on the way is not an equality."""
    distance = {pair: _distance_curvature(derivation.distance, *pair) for pair in ("xx", "xy", "yy")}
    pairs = ((d_pos, d_pos), (d_pos, d_neg), (d_neg, d_neg))
    loss = {pair: _loss_curvature(derivation.loss, *pair) for pair in pairs}
    shown = (("x_pos", "x_pos"), ("x_neg", "x_neg"), ("x_pos", "x_neg"))
    blocks = {pair: _block(derivation, distance, loss, *pair) for pair in shown}
    return SecondDerivation(distance, loss, blocks)


def _distance_curvature(derivation: DistanceDerivation, first: str, second: str) -> Lemma:
    arguments = {"x": symbols.x, "y": symbols.y}
    parameters = tuple(symbols.parameter(p) for p in derivation.distance.parameters)
    setting = Setting(("x", "y"), (*parameters,), {d: derivation.value})
    gradient = derivation.gradients[first].result
    variable = arguments[second]
    chain = Chain(f"second derivative of d in {first} and {second}", sp.Derivative(gradient, variable[l]), setting)
    along = derivation.gradients[second].result.subs(k, l)
    delta = sp.KroneckerDelta(k, l)
    total = sp.Add(
        *(
            _along(term.coefficient, along, variable) * term.elementwise
            + term.coefficient * symbols.partial_derivative(term.elementwise, variable[k]) * delta
            for term in derivation.terms[first]
        )
    )
    chain.then("product rule", total, "the coefficient depends on the distance, the factor on one component")
    chain.then("collect", sp.factor_terms(total), "take the common factor out")
    return chain.qed()


def _along(coefficient: sp.Expr, along: sp.Expr, variable: sp.IndexedBase) -> sp.Expr:
    """The derivative of a coefficient in the l-th component; `along` is that of d, in which it may be written."""
    inner = symbols.derivatives_in_sums(coefficient).items()
    return sp.diff(coefficient, d) * along + sp.Add(
        *(slope * symbols.partial_derivative(total.function, variable[i]).subs(i, l) for total, slope in inner)
    )


def _loss_curvature(derivation: LossDerivation, first: sp.Symbol, second: sp.Symbol) -> Lemma:
    slope = derivation.slopes[first]
    setting = Setting(
        (),
        (d_pos, d_neg, *(symbols.parameter(p) for p in derivation.loss.parameters)),
        derivation.abbreviations,
    )
    chain = Chain(f"curvature of the loss in {first} and {second}", sp.Derivative(slope.result, second), setting)
    spelled_out = setting.spell_out(slope.result)
    by_nodes = sp.diff(spelled_out, second)
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
    setting = derivation.setting
    variable = symbols.EMBEDDINGS[second]
    gradient = derivation.gradients[first].result
    chain = Chain(f"Hessian block {first}, {second}", sp.Derivative(gradient, variable[l]), setting)
    d_first, d_second = (d_pos if name == "x_pos" else d_neg for name in (first, second))
    curvature = loss.get((d_first, d_second)) or loss[(d_second, d_first)]
    along = derivation.distance.gradients["y"].result
    here, there = {d: d_first, symbols.y: symbols.EMBEDDINGS[first]}, {d: d_second, symbols.y: variable, k: l}
    total = curvature.result * along.xreplace(here) * along.xreplace(there)
    if first == second:
        total += derivation.loss.slopes[d_first].result * distance["yy"].result.xreplace(here)
    chain.then(
        "chain rule",
        total,
        "the loss curves along the distances, and its slope meets the curvature of d",
    )
    return chain.qed()
