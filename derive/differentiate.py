"""Objective -> Derivation: every equality between the definition of a loss and its gradients, checked as it is made.

The work is split as a person would split it: `lemmas` on the distance and on the scalar loss, and here the theorem,
which puts them together by the chain rule, with the invariants, bounds and singular points that go with it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property

import sympy as sp

from . import symbols
from .catalogue import Objective
from .errors import StepError
from .lemmas import DistanceDerivation, LossDerivation, Term, derive_distance, derive_loss, sum_of, times
from .normalization import Normalization, through_units
from .properties import Bound, Kink, bound_slope, find_kinks
from .steps import Chain, Lemma, Setting, Step
from .symbols import d_neg, d_pos, k


@dataclass(frozen=True, eq=False)
class Derivation:
    """An objective's gradients with everything that leads to them; equal only to itself.

    gradients: a lemma for each of x, x_pos, x_neg, the vectors that the distances are taken of; its result is the k-th
        component of the gradient.
    terms: the same gradients taken apart, in d_pos, d_neg, the abbreviations and the components.
    invariants: equalities that hold for the gradients, each a checked step.
    bounds: upper bounds that hold everywhere.
    kinks: what happens at the points where the loss is not differentiable.
    normalization: where the objective normalizes its embeddings, the gradients in the raw ones.
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
    normalization: Normalization | None = None

    def __post_init__(self) -> None:
        if (self.distance.distance, self.loss.loss) != (self.objective.distance, self.objective.loss):
            raise StepError(f"the lemmas are not those of {self.objective.stem}")
        if self.loss.value.subject != symbols.loss_of(self.objective.loss)[0]:
            raise StepError(
                f"{self.loss.value.name}: it does not start at the definition of {self.objective.loss.name}"
            )
        for name, lemma in self.gradients.items():
            if lemma.subject.variables != (symbols.EMBEDDINGS[name][k],):
                raise StepError(f"{lemma.name}: it is not the derivative in {name}")

    @property
    def outcome(self) -> Derivation | Normalization:
        """What holds the gradients in the embeddings as they are given, and their setting."""
        return self.normalization or self

    @property
    def translation_invariant(self) -> bool:
        """Whether nothing changes when all embeddings move together."""
        return self.distance.translation_invariant and not self.objective.of_units

    @property
    def lemmas(self) -> tuple[Lemma, ...]:
        """All lemmas in the order in which they build on each other."""
        return (
            *self.distance.gradients.values(),
            self.distance.gradient_norm,
            self.loss.value,
            *self.loss.slopes.values(),
            *self.gradients.values(),
            *(self.normalization.lemmas if self.normalization else ()),
        )

    @cached_property
    def steps(self) -> tuple[Step, ...]:
        """All steps in order."""
        return (*(step for lemma in self.lemmas for step in lemma.steps), *self.invariants)

    def __repr__(self) -> str:
        from .text import describe

        return describe(self)

    def _repr_latex_(self) -> str:
        from .latex import in_a_notebook

        return in_a_notebook(self)


@cache
def differentiate(objective: Objective) -> Derivation:
    """The gradients of `objective` for embeddings of any length n.

    Raises `StepError` if any step on the way is not an equality.
    """
    distance, loss = derive_distance(objective.distance), derive_loss(objective.loss)
    parameters = tuple(symbols.parameter(p) for p in objective.parameters)
    distances = symbols.distances_of(objective)
    setting = Setting(
        tuple(symbols.EMBEDDINGS),
        parameters,
        {**distances, **loss.abbreviations},
        least=symbols.least(objective.parameters),
    )
    terms = {name: _gradient_terms(name, distance, loss) for name in symbols.EMBEDDINGS}
    gradients = {name: _gradient(name, terms[name], distance, loss, setting) for name in symbols.EMBEDDINGS}
    normalization = through_units(objective, loss, gradients, parameters) if objective.of_units else None
    return Derivation(
        objective,
        distance,
        loss,
        gradients,
        terms,
        normalization.invariants if normalization else _invariants(distance, gradients, setting),
        _bounds(distance, loss, objective.of_units),
        find_kinks(objective),
        setting,
        normalization,
    )


# ---------------------------------------------------------------- the theorem


def _gradient_terms(name: str, distance: DistanceDerivation, loss: LossDerivation) -> tuple[Term, ...]:
    """The gradient of L in one embedding, terms with opposite coefficients merged so that what cancels does."""
    merged: list[Term] = []
    for which, ends in symbols.pairs_of(loss.loss).items():
        if symbols.EMBEDDINGS[name] not in ends:
            continue
        slope = loss.slopes[which].result
        for term in distance.terms["xy"[ends.index(symbols.EMBEDDINGS[name])]]:
            coefficient = slope * symbols.said_of(which, term.coefficient)
            elementwise = symbols.said_of(which, term.elementwise)
            for at, earlier in enumerate(merged):
                if earlier.coefficient == -coefficient:
                    merged[at] = Term(earlier.coefficient, earlier.elementwise - elementwise, earlier.slope)
                    break
            else:
                merged.append(Term(coefficient, elementwise, which))
    return tuple(merged)


def _gradient(
    name: str, terms: tuple[Term, ...], distance: DistanceDerivation, loss: LossDerivation, setting: Setting
) -> Lemma:
    """The k-th component of the gradient of L in one embedding."""
    variable = symbols.EMBEDDINGS[name]
    values = {which: setting.abbreviations[which] for which in loss.slopes}
    depends = [which for which in values if values[which].has(variable)]
    chain = Chain(f"gradient of L in {name}", sp.Derivative(_written_out(loss, values), variable[k]), setting)
    chain.then(
        "chain rule",
        sp.Add(*(loss.slopes[which].result * sp.Derivative(values[which], variable[k]) for which in depends)),
        "the loss depends on the embedding through the distances only",
    )
    chain.then("gradient of the distance", sum_of(terms), "insert the lemma on the distance")
    slope = loss.slopes[d_pos].result
    if len(terms) > 1 and len(values) == 2 and loss.slopes[d_neg].result == -slope:
        inner = sp.Add(*(times(sp.cancel(term.coefficient / slope), term.elementwise) for term in terms))
        chain.then("collect", sp.Mul(slope, inner, evaluate=False), "the two slopes are opposite")
    return chain.qed()


def _written_out(loss: LossDerivation, values: Mapping[sp.Symbol, sp.Expr]) -> sp.Expr:
    """The loss with nothing abbreviated, the distances included."""
    return Setting(abbreviations={**loss.abbreviations, **values}).spell_out(loss.value.result)


# ---------------------------------------------------------------- what holds besides


def _invariants(distance: DistanceDerivation, gradients: Mapping[str, Lemma], setting: Setting) -> tuple[Step, ...]:
    if not distance.translation_invariant:
        return ()
    total = sp.Add(*(lemma.result for lemma in gradients.values()))
    reason = "moving all three points together changes nothing"
    return (Step("the gradients sum to 0", total, sp.S.Zero, reason, setting),)


def _bounds(distance: DistanceDerivation, loss: LossDerivation, of_units: bool) -> tuple[Bound, ...]:
    slope = bound_slope(loss.slopes[d_pos].result, loss.abbreviations)
    if slope is None:
        return ()
    length = sp.sqrt(distance.gradient_norm.result)
    if length.free_symbols or of_units:  # a gradient is the larger the shorter its embedding is
        return (slope,)
    return slope, Bound("x_pos", slope.limit * length, slope.s, slope.length * length)
