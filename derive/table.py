"""The numbers in a proof: the gradients at one triplet, by formula and by differences of the definition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

import mpmath
import sympy as sp

from . import symbols
from .catalogue import Objective
from .differentiate import Derivation
from .errors import StepError
from .evaluate import Point, evaluate
from .highprecision import if_defined, loss_value
from .latex import EMBEDDINGS, number
from .symbols import k
from .verify.reference import reference

_DIGITS = 50
_SHOWN = 12
_SATURATED_DIGITS = 3000  # of two terms that cancel to a loss of 1e-868
_TOLERANCE = mpmath.mpf(10) ** -25  # differences with a step of 1e-30 are good to about 30 digits

# an ordinary triplet, without rounding, at which every loss of the catalogue is active, no component of a difference
# vanishes, and no two of them are equally large
EXAMPLE: Mapping[str, tuple[float, ...]] = MappingProxyType(
    {"x": (1.0, 2.0, 3.0), "x_pos": (1.5, 1.0, 2.25), "x_neg": (0.5, 2.5, 3.75)}
)


@dataclass(frozen=True)
class Row:
    """One component of a gradient as LaTeX: its name, by formula, by differences of the definition, the difference."""

    name: str
    formula: str
    definition: str
    difference: str


def table_of(derivation: Derivation, parameters: Mapping[str, float]) -> tuple[Row, ...]:
    """The gradients at `EXAMPLE`, both at 50 digits. Raises `StepError` where the two disagree."""
    exact = reference(derivation.objective, EXAMPLE["x"], EXAMPLE["x_pos"], EXAMPLE["x_neg"], parameters)
    scalars = {symbols.parameter(p): mpmath.mpf(parameters[p.name]) for p in derivation.objective.parameters}
    rows = []
    with mpmath.workdps(_DIGITS):
        vectors = {name: tuple(map(mpmath.mpf, values)) for name, values in EXAMPLE.items()}
        point = Point(len(EXAMPLE["x"]), vectors, scalars, derivation.outcome.setting.abbreviations)
        for name, lemma in derivation.outcome.gradients.items():
            for index, expected in enumerate(exact.gradients[name].value, start=1):
                value = evaluate(lemma.result, point.at(k, index))
                difference = abs(value - expected)
                if not difference <= _TOLERANCE * max(1, abs(value), abs(expected)):
                    raise StepError(
                        f"{lemma.name}: component {index} at the example is {mpmath.nstr(value, _SHOWN)} by the "
                        f"formula, but {mpmath.nstr(expected, _SHOWN)} by differences of the definition"
                    )
                label = rf"\partial L / \partial {EMBEDDINGS[name]}_{{{index}}}"
                rows.append(Row(label, number(value, _SHOWN), number(expected, _SHOWN), _below(difference)))
    return tuple(rows)


def _below(difference: mpmath.mpf) -> str:
    """A power of ten above a difference; beyond 40 digits it is that of rounding."""
    exponent = int(mpmath.ceil(mpmath.log10(max(difference, mpmath.mpf(10) ** -40))))
    return f"< 10^{{{exponent}}}"


def loss_at(objective: Objective, d_pos_value: str, d_neg_value: str) -> str:
    """The loss at two distances, for a counterexample, as LaTeX with four digits."""
    with mpmath.workdps(_SATURATED_DIGITS):
        return number(loss_value(objective.loss, mpmath.mpf(d_pos_value), mpmath.mpf(d_neg_value), {}), 4)


def least_on_units(objective: Objective, farthest: sp.Expr, parameters: Mapping[str, float]) -> str:
    """The loss where the positive is at no distance and the negative at the largest, as LaTeX; nothing if it is 0.

    Nor is there anything for a loss without a value there.
    """
    with mpmath.workdps(_SATURATED_DIGITS):
        reached = evaluate(farthest, Point(1))
        value = if_defined(lambda: loss_value(objective.loss, mpmath.mpf(0), reached, parameters))
        return number(value, 4) if value else ""
