"""The objectives that tests run through, by the names of distance and loss."""

from __future__ import annotations

import itertools

from derive_triplet import DISTANCES, LOSSES, Distance, Objective, Parameter, Singularity

EVERY = tuple(itertools.product(DISTANCES, LOSSES))
"""All of the catalogue: for what takes milliseconds."""

COVER = EVERY
"""Each distance and each loss, for what compiles or executes. A distance and a loss have nothing to do with each other
but for two numbers and two slopes: with more of them, not every pair has to be among these."""

EPSILON = Parameter("epsilon", 0.01, "positive", "the distance up to which the cone point is rounded off")
OTHERS = {
    "l1": Distance(
        "l1",
        "Manhattan distance",
        "sum(abs(x - y))",
        "made up",
        singularities=(Singularity("sum(abs(x - y))", "x_k = y_k for some k", "a component has a kink there"),),
    ),
    "l2-smooth": Distance(
        "l2-smooth",
        "Euclidean distance with its cone point rounded off",
        "sqrt(sum((x - y)**2) + epsilon**2) - epsilon",
        "made up",
        (EPSILON,),
    ),
    "cosine": Distance(
        "cosine",
        "1 less the cosine of the angle",
        "1 - sum(x*y) / (sqrt(sum(x**2)) * sqrt(sum(y**2)))",
        "made up",
        on_units="sum((x - y)**2) / 2",
    ),
}
"""Distances of other kinds than those of the catalogue: without a sum of squares, with a parameter, of directions."""


def named(pairs: tuple[tuple[str, str], ...]) -> list[Objective]:
    """The objectives of these names."""
    return [Objective(DISTANCES[norm], LOSSES[loss]) for norm, loss in pairs]
