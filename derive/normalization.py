"""Normalized embeddings: the gradient taken through x / |x|, for any loss and distance.

The theorem on a loss holds for all vectors, unit vectors among them. What is added here is how a unit vector moves with
the vector that it is made from, and what that makes of the gradients.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import sympy as sp

from . import symbols
from .catalogue import Objective
from .lemmas import LossDerivation
from .steps import DIMENSIONS, Chain, Lemma, Setting, Step
from .symbols import AT_UNITS, EMBEDDINGS, NORMS, UNITS, d_pos, i, j, k, l, n


@dataclass(frozen=True, eq=False)
class Normalization:
    """The gradients in the raw embeddings.

    unit: the derivative of a component of x/|x| in a component of x.
    distance: for a distance that is one of directions by its definition, what d(x, x_pos) is in the unit vectors.
    gradients: a lemma for each of x, x_pos, x_neg; its result is the k-th component of the gradient.
    invariants: that no gradient has a part along its embedding.
    """

    unit: Lemma
    distance: Lemma | None
    gradients: Mapping[str, Lemma]
    invariants: tuple[Step, ...]
    setting: Setting = field(repr=False)

    @property
    def lemmas(self) -> tuple[Lemma, ...]:
        return (*filter(None, (self.unit, self.distance)), *self.gradients.values())


def through_units(
    objective: Objective,
    loss: LossDerivation,
    gradients: Mapping[str, Lemma],
    parameters: tuple[sp.Symbol, ...],
) -> Normalization:
    """What the gradients of a loss in the vectors of its distances become in vectors that are normalized first.

    Raises `StepError` if a step on the way is not an equality.
    """
    abbreviations = {
        **{NORMS[e]: sp.sqrt(sp.Sum(vector[j] ** 2, (j, 1, n))) for e, vector in EMBEDDINGS.items()},
        **{UNITS[e][k]: vector[k] / NORMS[e] for e, vector in EMBEDDINGS.items()},
        **{which: at_units(distance) for which, distance in symbols.distances_of(objective).items()},
        **loss.abbreviations,
        **{AT_UNITS[e][k]: at_units(lemma.result) for e, lemma in gradients.items()},
    }
    setting = Setting(
        tuple(EMBEDDINGS), parameters, abbreviations, dimensions_of(objective), symbols.least(objective.parameters)
    )
    unit = _unit(setting)
    found = {e: _gradient(e, loss, setting) for e in EMBEDDINGS}
    reason = "moving an embedding along itself does not change its unit vector"
    along = tuple(
        Step(
            f"the gradient in {e} is orthogonal to {e}",
            sp.Sum(lemma.result.xreplace({k: l}) * EMBEDDINGS[e][l], (l, 1, n)),
            sp.S.Zero,
            reason,
            setting,
        )
        for e, lemma in found.items()
    )
    of_directions = _of_directions(objective, setting) if objective.distance.on_units else None
    return Normalization(unit, of_directions, found, along, setting)


def at_units(expr: sp.Expr) -> sp.Expr:
    """`expr`, on any vectors x, x_pos and x_neg, said of the unit vectors."""
    return expr.xreplace({vector: UNITS[e] for e, vector in EMBEDDINGS.items()})


def stated_at_units(lemma: Lemma, setting: Setting) -> Lemma:
    """`lemma`, which holds for any vectors x, x_pos and x_neg, with these called unit_x, unit_x_pos and unit_x_neg."""
    chain = Chain(lemma.name, at_units(lemma.subject), setting)
    for step in lemma.steps:
        chain.then(step.rule, at_units(step.after), step.reason, numeric=step.numeric)
    return chain.qed()


def setting_at_units(setting: Setting) -> Setting:
    """The setting of lemmas that are stated at unit vectors, which hold for any vectors of these names."""
    vectors = tuple(UNITS[e].label.name for e in setting.vectors)
    stated = {symbol: at_units(meaning) for symbol, meaning in setting.abbreviations.items()}
    return replace(setting, vectors=vectors, abbreviations=stated)


def _unit(setting: Setting) -> Lemma:
    x, norm = symbols.x, NORMS["x"]
    chain = Chain("derivative of a unit vector", sp.Derivative(x[l] / setting.abbreviations[norm], x[k]), setting)
    by_parts = sp.KroneckerDelta(k, l) / norm - x[l] * x[k] / norm**3
    chain.then("quotient rule", by_parts, "the derivative of the norm is the component over it")
    chain.then("collect", _jacobian("x", l), "a component over the norm is one of the unit vector")
    return chain.qed()


def _of_directions(objective: Objective, setting: Setting) -> Lemma:
    """The distance of x and x_pos by its definition, in their unit vectors."""
    definition = symbols.definition_of(objective.distance, symbols.x, symbols.x_pos)
    squares = {sp.Sum(UNITS[e][i] ** 2, (i, 1, n)): sp.S.One for e in EMBEDDINGS}
    chain = Chain("distance in unit vectors", definition, setting)
    product = at_units(definition).xreplace(squares)
    chain.then("unit vectors", product, "only directions count, and the squares of a unit vector add up to 1")
    chain.then("difference", setting.abbreviations[d_pos], "once more they do; equal vectors are exactly 0 apart")
    return chain.qed()


def _jacobian(e: str, component: sp.Symbol) -> sp.Expr:
    """The derivative of one component of the unit vector in the k-th of the embedding."""
    return projection(e, k, component) / NORMS[e]


def dimensions_of(objective: Objective) -> tuple[int, ...]:
    """In which a loss is examined: unit vectors of a single component coincide, or are opposite."""
    return DIMENSIONS[1:] if objective.of_units else DIMENSIONS


def projection(e: str, row: sp.Symbol, column: sp.Symbol) -> sp.Expr:
    """An entry of the matrix that takes away the part along a unit vector."""
    return sp.KroneckerDelta(row, column) - UNITS[e][column] * UNITS[e][row]


def _gradient(e: str, loss: LossDerivation, setting: Setting) -> Lemma:
    vector, unit, norm, inner = EMBEDDINGS[e], UNITS[e], NORMS[e], AT_UNITS[e]
    written_out = Setting(abbreviations=loss.abbreviations).spell_out(loss.value.result)
    subject = sp.Derivative(written_out, vector[k])
    chain = Chain(f"gradient of L in {e}, through its unit vector", subject, setting)
    chain.then(
        "chain rule",
        sp.Sum(inner[i] * _jacobian(e, i), (i, 1, n)),
        "the loss depends on the embedding through its unit vector only",
        numeric=True,
    )
    along = sp.Sum(inner[i] * unit[i], (i, 1, n))
    chain.then(
        "Kronecker delta",
        (inner[k] - unit[k] * along) / norm,
        "a single term is left of the one sum, the other is the part along the unit vector",
    )
    return chain.qed()
