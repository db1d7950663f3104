"""The objectives that tests run through, by the names of distance and loss."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from typing import Any

import mpmath

from derive_triplet import DISTANCES, LOSSES, Objective

EVERY = tuple(itertools.product(DISTANCES, LOSSES))
"""All of the catalogue: for what takes milliseconds."""

COVER = (
    *(("l2", loss) for loss in LOSSES),
    ("l2-squared", "hinge"),
    ("l2-smooth", "hinge"),
    ("l1", "softmax-nll"),
    ("lp", "softmax-mse"),
    ("linf", "hinge"),
    ("cosine", "softmax-mse"),
)
"""Each distance and each loss, for what compiles or executes. A distance and a loss have nothing to do with each other
but for two numbers and two slopes, so tests grow with the sum of their numbers, and not with the product."""

NORMALIZED = (("l2", "softmax-mse"), ("l2-squared", "hinge"), ("l1", "softmax-nll"), ("linf", "hinge"))
"""The same of normalized embeddings, which are one more stage before any of these."""


def named(pairs: tuple[tuple[str, str], ...]) -> list[Objective]:
    """The objectives of these names."""
    return [Objective(DISTANCES[norm], LOSSES[loss]) for norm, loss in pairs]


Vector = Sequence[Any]
OF_UNITS = {"cosine": "half-squared"}
"""What is derived of a distance of directions, over the unit vectors."""


def length(vector: Vector) -> Any:
    return mpmath.sqrt(mpmath.fsum(c**2 for c in vector))


def closed_distance(norm: str, x: Vector, y: Vector, parameter: Any = None) -> tuple[Any, Vector, Vector]:
    """A distance and its gradients in both arguments, in mpmath, written by hand; `parameter` is epsilon or p."""
    if norm == "cosine":
        units = [[c / length(vector) for c in vector] for vector in (x, y)]
        cosine = mpmath.fsum(a * b for a, b in zip(*units, strict=True))
        first = [-(b - cosine * a) / length(x) for a, b in zip(*units, strict=True)]
        second = [-(a - cosine * b) / length(y) for a, b in zip(*units, strict=True)]
        return 1 - cosine, first, second
    difference = [a - b for a, b in zip(x, y, strict=True)]
    if norm == "l1":
        value, first = mpmath.fsum(map(abs, difference)), [mpmath.sign(c) for c in difference]
    elif norm == "l2-squared":
        value, first = length(difference) ** 2, [2 * c for c in difference]
    elif norm == "linf":
        value = max(map(abs, difference))
        count = sum(abs(c) == value for c in difference)
        first = [mpmath.sign(c) / count if abs(c) == value else mpmath.mpf(0) for c in difference]
    elif norm == "lp":
        value = mpmath.fsum(abs(c) ** parameter for c in difference) ** (1 / parameter)
        first = [mpmath.sign(c) * (abs(c) / value) ** (parameter - 1) for c in difference]
    elif norm == "half-squared":
        value, first = length(difference) ** 2 / 2, difference
    else:
        rounded = length([*difference, parameter]) if norm == "l2-smooth" else length(difference)
        value, first = rounded - (parameter or 0), [c / rounded for c in difference]
    return value, first, [-c for c in first]


def code_of(formula: str) -> str:
    """A printed formula as Python, of lists of components, with `norm_x` for |x| and `total` for a sum."""
    python = re.sub(r"\|(\w+)\|", r"norm_\1", formula.replace("^", "**"))
    return re.sub(r"sum_([ij])\(", r"total(lambda \1: ", python).replace(", otherwise", " else")
