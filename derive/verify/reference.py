"""The reference: values and gradients from the definitions alone, by differences at high precision.

Nothing is imported here from the derivation, the stable forms or the kernel. A distance and a loss are evaluated as
they are written in the catalogue, and differentiated by central differences with a step far below double precision.
At a kink of a distance, where the one-sided differences disagree, the derivative is 0, the convention that the
catalogue states, and the mean of those of the largest terms where several are; at one of a loss it is that of the
formula which applies there.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, wraps
from itertools import zip_longest
from typing import Any, TypeVar

import mpmath

from ..catalogue import PAIRS, Objective
from ..highprecision import (
    distance_of,
    distance_of_units,
    distances_of,
    smooth_distance,
    smooth_piece,
    unit,
)
from .differences import (
    SHIFT,
    STEP,
    Distance,
    between_directions,
    component_scales,
    gradients_by_differences,
    length_of,
    loss_slopes,
    shifted,
)


@dataclass(frozen=True)
class Exact:
    """Numbers good to about 30 digits, each with the scale against which an error in it is to be judged.

    A scale is the sum of the absolute values of all terms that were added up to the number, each with its first-order
    sensitivity to a relative error in the distances. Where nothing cancels it is about the number itself.

    second: of what cannot be computed without rounding, such as unit vectors, the sensitivity of second order, which
        counts where that of first order vanishes; empty for none.
    """

    value: Sequence[Any]
    scale: Sequence[Any]
    second: Sequence[Any] = ()

    def scale_in(self, eps: Any) -> list[Any]:
        """The scales for a type with this unit in the last place."""
        return [first + eps * then for first, then in zip_longest(self.scale, self.second, fillvalue=0)]


@dataclass(frozen=True)
class Reference:
    """The loss of one row and its gradients by embedding name."""

    loss: Exact
    gradients: Mapping[str, Exact]


def reference(
    objective: Objective,
    x: Sequence[float],
    x_pos: Sequence[float],
    x_neg: Sequence[float],
    parameters: Mapping[str, float],
    copies: int = 1,
) -> Reference:
    """The loss and the gradients of one triplet of embeddings, each of length n.

    copies: for how many components, equal in each embedding, the last one stands; not of unit vectors.
    """
    vectors = {
        name: [mpmath.mpf(float(c)) for c in embedding]
        for name, embedding in (("x", x), ("x_pos", x_pos), ("x_neg", x_neg))
    }
    loss = objective.loss
    pairs = [PAIRS[which] for which in loss.distances]
    toward = [distance_gradients(objective, parameters, vectors[a], vectors[b], copies) for a, b in pairs]
    with mpmath.workdps(80):
        distances = distances_of(objective, tuple(vectors.values()), parameters, copies)

    def piece() -> Callable[..., Any]:
        d_pos, d_neg, *others = distances
        return smooth_piece(loss, d_pos, d_neg, parameters, *others)

    slopes = loss_slopes(piece, distances, step_of(objective, parameters, distances))
    with mpmath.workdps(50):
        moved = [d + of.moved for d, of in zip(distances, toward, strict=True)]
        swing = [  # how much a slope moves when the distances move by their own size
            abs(slope) + mpmath.fsum(m * abs(second) for m, second in zip(moved, slopes.second[at], strict=True))
            for at, slope in enumerate(slopes.first)
        ]

        # at most: how slopes bend, where units that round move distances that are 0
        bend = mpmath.fsum(abs(second) for row in slopes.second for second in row) * objective.of_units

        def gradient(name: str) -> Exact:
            embedding = vectors[name]
            values, scales = [mpmath.mpf(0)] * len(embedding), [mpmath.mpf(0)] * len(embedding)
            for at, pair in enumerate(pairs):
                if name not in pair:
                    continue
                exact, slope = toward[at].gradients[pair.index(name)], slopes.first[at]
                for k, (component, more) in enumerate(zip(exact.value, exact.scale, strict=True)):
                    values[k] += slope * component
                    scales[k] += swing[at] * abs(component) + abs(slope) * more
            return Exact(values, scales, [bend / length_of(embedding)] * len(embedding))

        steepest = mpmath.fsum(map(abs, slopes.first))
        scale = abs(slopes.value) + mpmath.fsum(m * abs(slope) for m, slope in zip(moved, slopes.first, strict=True))
        value = Exact([slopes.value], [scale], [steepest * objective.of_units + bend])
        return Reference(value, {name: gradient(name) for name in vectors})


@dataclass(frozen=True)
class Values:
    """The loss of one row and its gradients by embedding name, the numbers alone."""

    loss: Any
    gradients: Mapping[str, Sequence[Any]]


def values(
    objective: Objective,
    x: Sequence[float],
    x_pos: Sequence[float],
    x_neg: Sequence[float],
    parameters: Mapping[str, float],
) -> Values:
    """The numbers of `reference`, for where nothing is judged: most of its time goes to the scales."""
    vectors = {
        name: [mpmath.mpf(float(c)) for c in embedding]
        for name, embedding in (("x", x), ("x_pos", x_pos), ("x_neg", x_neg))
    }
    loss = objective.loss
    pairs = [PAIRS[which] for which in loss.distances]
    toward = [_values_toward(objective, parameters, vectors[a], vectors[b]) for a, b in pairs]
    with mpmath.workdps(80):
        d_pos, d_neg, *others = distances_of(objective, tuple(vectors.values()), parameters)

    def piece() -> Callable[..., Any]:
        return smooth_piece(loss, d_pos, d_neg, parameters, *others)

    distances = (d_pos, d_neg, *others)
    slopes = loss_slopes(piece, distances, step_of(objective, parameters, distances), bent=False)
    with mpmath.workdps(50):
        gradients = {}
        for name in vectors:
            found = [mpmath.mpf(0)] * len(x)
            for pair, slope, gradient in zip(pairs, slopes.first, toward, strict=True):
                if name in pair:
                    found = [a + slope * b for a, b in zip(found, gradient[pair.index(name)], strict=True)]
            gradients[name] = found
        return Values(slopes.value, gradients)


def step_of(objective: Objective, parameters: Mapping[str, float], distances: Sequence[Any]) -> Any:
    """The step of differences of a loss."""
    steepness = [abs(value) for value in (*parameters.values(), *distances) if value]
    if objective.loss.source:  # which may bend as powers of the distances do
        steepness += [1 / d**2 for d in distances if d > 1]
    return STEP * min([mpmath.mpf(1), *steepness])


@dataclass(frozen=True)
class Toward:
    """The gradients of a distance in its two arguments, and how they move where those are not known exactly.

    gradients: with the scale that is added to the components' own sizes.
    moved: by how much the distance moves when the components of its arguments move by their own size.
    """

    gradients: tuple[Exact, Exact]
    moved: Any


_Gradients = TypeVar("_Gradients")


def _for_all_losses(
    function: Callable[[Objective, Mapping[str, float], Sequence[Any], Sequence[Any], int], _Gradients],
) -> Callable[..., _Gradients]:
    """A function of a distance and two points with its recent values: many losses and triplets ask for the same."""

    @lru_cache(maxsize=4096)
    def known(metric: Objective, own: tuple[tuple[str, float], ...], *points: Any) -> _Gradients:
        return function(metric, dict(own), *points)

    @wraps(function)
    def of_the_distance(
        objective: Objective, parameters: Mapping[str, float], a: Sequence[Any], b: Sequence[Any], copies: int = 1
    ) -> _Gradients:
        return known(objective.metric, objective.of_metric(parameters), tuple(a), tuple(b), copies)

    return of_the_distance


@_for_all_losses
def distance_gradients(
    objective: Objective, parameters: Mapping[str, float], a: Sequence[Any], b: Sequence[Any], copies: int = 1
) -> Toward:
    """The gradients of the distance in its first and in its second argument.

    Differences of embeddings can be computed without rounding; unit vectors cannot, nor can products. So a distance of
    anything but differences is judged against what it makes of relative errors in the components. Where components
    over the largest are raised to p - 1, `steepened` is added to the scale.
    """
    values = _values_toward(objective, parameters, a, b, copies)
    steeper = steepened(power_of(objective, parameters) - 1)
    if not objective.of_units:
        first, second = ([steeper * abs(component) for component in value] for value in values)
        return Toward((Exact(values[0], first), Exact(values[1], second)), mpmath.mpf(0))
    with mpmath.workdps(80):
        units = unit(a), unit(b)
    distance = smooth_distance(distance_of_units(objective, parameters), *units)
    _, scales = component_scales(distance, *units, power_of(objective, parameters), together=a == b)
    moved = mpmath.mpf(0) if a == b else _movement(distance_of_units(objective, parameters), *units)
    with mpmath.workdps(50):
        raw = []
        for scale, of, value in zip(scales, units, (a, b), strict=True):
            along = mpmath.fsum(s * abs(u) for s, u in zip(scale, of, strict=True))
            raw.append(
                [(1 + steeper) * (s + along * abs(u)) / length_of(value) for s, u in zip(scale, of, strict=True)]
            )
    return Toward((Exact(values[0], raw[0]), Exact(values[1], raw[1])), moved)


def _movement(distance: Distance, a: Sequence[Any], b: Sequence[Any]) -> Any:
    """By how much a distance moves when the components of its arguments move by their own size, one by one.

    Where both are equal, a distance with a kink moves as much as elsewhere.
    """
    with mpmath.workdps(80):
        here = distance(a, b)
        after = [distance(shifted(a, k, SHIFT * abs(c)), b) for k, c in enumerate(a)]
        after += [distance(a, shifted(b, k, SHIFT * abs(c))) for k, c in enumerate(b)]
        return mpmath.fsum(abs(there - here) for there in after) / SHIFT


@_for_all_losses
def _values_toward(
    objective: Objective, parameters: Mapping[str, float], a: Sequence[Any], b: Sequence[Any], copies: int = 1
) -> tuple[list[Any], list[Any]]:
    """The gradients of the distance in its two arguments; those in a zero vector that is its own unit vector are 0."""
    distance = smooth_distance(distance_of(objective, parameters, copies), a, b, copies)
    also = between_directions(a, b) if objective.of_units else []
    first, second = gradients_by_differences(distance, a, b, power_of(objective, parameters), also)
    with mpmath.workdps(80):
        for gradient in (first, second):
            gradient[-1:] = [gradient[-1] / copies] if copies > 1 else gradient[-1:]  # all of them have moved
    if objective.of_units:
        zero = [mpmath.mpf(0)] * len(a)
        return first if any(a) else zero, second if any(b) else zero
    return first, second


def steepened(exponent: float) -> Any:
    """What is added to the scale, of which four units are allowed, where components over the largest have an exponent.

    They are off by up to a unit and a half, half for each of their difference, the largest one, and the quotient; a
    power makes as many times that of it as its exponent says.
    """
    return mpmath.mpf(3) / 8 * abs(exponent)


def power_of(objective: Objective, parameters: Mapping[str, float]) -> float:
    """The largest parameter that the definition of the distance raises components to; 1 for none."""
    operations = (node for node in ast.walk(objective.distance.formula.written_out) if isinstance(node, ast.BinOp))
    names = [n.right.id for n in operations if isinstance(n.op, ast.Pow) and isinstance(n.right, ast.Name)]
    values = dict(objective.of_metric(parameters))
    return max([1.0, *(values[name] for name in names)])


def takes_root(objective: Objective) -> bool:
    """Whether the definition of the distance has a root in it, `sqrt(...)` or `(...)**(1/p)`."""
    for node in ast.walk(objective.distance.formula.written_out):
        match node:
            case ast.Call(func=ast.Name(id="sqrt")) | ast.BinOp(op=ast.Pow(), right=ast.BinOp()):
                return True
    return False
