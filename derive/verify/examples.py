"""Triplets with their exact losses and gradients, to be written into tests that are generated."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

import mpmath
import numpy as np

from ..catalogue import Objective
from ..highprecision import distances_at, has_value, locus_value
from .reference import values

ROWS, DIM = 4, 6
_SEED = 20150412
_SIXTEENTHS = 16  # components are multiples of 1/16, which every float type holds
_AWAY = 0.125  # from the zero of a locus: no step of a check by differences crosses a kink
_ATTEMPTS = 1000  # to find such triplets

Row = Sequence[float]
Triplet = tuple[Row, Row, Row]


@dataclass(frozen=True)
class Example:
    """A batch of `ROWS` triplets of dimension `DIM`; loss and gradients are those of the mean, by the reference.

    inputs, gradients: of x, x_pos and x_neg, each all rows in one sequence.
    losses: of the rows.
    """

    title: str
    parameters: Mapping[str, float]
    inputs: tuple[Row, Row, Row]
    loss: float
    losses: Row
    gradients: tuple[Row, Row, Row]


def examples(objective: Objective, parameters: Mapping[str, float]) -> tuple[Example, ...]:
    """An ordinary batch, one with coincident points, and one with parameters that are not `parameters`."""
    others = {name: 0.625 * value + 0.0625 for name, value in parameters.items()}
    ordinary = list(islice(_ordinary(objective, parameters), ROWS))
    a, b, c, d = ordinary
    coincident = [(a[0], a[0], a[2]), (b[0], b[1], b[0]), (c[0], c[0], c[0]), d]
    coincident = [row if _has_value(objective, row, parameters) else d for row in coincident]
    found = [
        _example(objective, "Ordinary", parameters, ordinary),
        _example(objective, "Coincident", parameters, coincident),
    ]
    if others:
        rows = list(islice(_ordinary(objective, others), ROWS))
        found.append(_example(objective, "OtherParameters", others, rows))
    return tuple(found)


def _ordinary(objective: Objective, parameters: Mapping[str, float]) -> Iterator[Triplet]:
    """Random triplets, each followed by itself with positive and negative swapped, and none of them near a kink."""
    random = np.random.Generator(np.random.PCG64(_SEED))
    for attempt in range(2 * _ATTEMPTS):
        x, x_pos, x_neg = (random.integers(-_SIXTEENTHS, _SIXTEENTHS, (3, DIM)) / _SIXTEENTHS).tolist()
        pair = (x, x_pos, x_neg), (x, x_neg, x_pos)
        if attempt >= _ATTEMPTS or all(_is_away_from_kinks(objective, triplet, parameters) for triplet in pair):
            yield from pair


def _has_value(objective: Objective, triplet: Triplet, parameters: Mapping[str, float]) -> bool:
    d_pos, d_neg, *others = distances_at(objective, triplet, parameters)
    return has_value(objective.loss, d_pos, d_neg, parameters, *others)


def _is_away_from_kinks(objective: Objective, triplet: Triplet, parameters: Mapping[str, float]) -> bool:
    d_pos, d_neg, *others = distances_at(objective, triplet, parameters)
    loci = (kink.locus for kink in objective.loss.singularities)
    return all(abs(locus_value(objective.loss, locus, d_pos, d_neg, parameters, *others)) > _AWAY for locus in loci)


def _example(objective: Objective, title: str, parameters: Mapping[str, float], rows: Sequence[Triplet]) -> Example:
    exact = [values(objective, *row, parameters) for row in rows]
    inputs = tuple(tuple(c for row in rows for c in row[which]) for which in range(3))
    gradients = tuple(
        tuple(float(c / len(rows)) for row in exact for c in row.gradients[name]) for name in ("x", "x_pos", "x_neg")
    )
    losses = [row.loss for row in exact]
    mean = float(mpmath.fsum(losses) / len(rows))
    return Example(title, parameters, inputs, mean, tuple(map(float, losses)), gradients)  # type: ignore[arg-type]
