"""Pictures of a proof as coordinates, which the template draws: the loss against delta, and the field of gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import mpmath

from .catalogue import LOSSES, PAIRS, Objective
from .highprecision import distance_between, if_defined, loss_value

_DELTAS = [step / 4 for step in range(-24, 25)]  # what is plotted: delta from -6 to 6
_FAR = 10  # d_neg, at which all these deltas are possible
_GRID = 9  # arrows in a row of the field
_DIGITS, _H = 40, mpmath.mpf(10) ** -15  # of the differences that its gradients are
_LONGEST = 0.5  # arrow, where the grid's distance is 0.55


@dataclass(frozen=True)
class Curve:
    """A function of delta as TikZ coordinates."""

    name: str
    value: str
    slope: str


@dataclass(frozen=True)
class Arrow:
    """An arrow of a field, from its middle outwards, in units of the picture."""

    x: str
    y: str
    dx: str
    dy: str


@cache
def curves(limit: float) -> tuple[Curve, ...]:
    """Each loss of the catalogue and its slope, at default parameters, cut off above `limit`."""
    return tuple(
        Curve(name, _path(name, limit, derivative=False), _path(name, limit, derivative=True)) for name in LOSSES
    )


def _path(name: str, limit: float, derivative: bool) -> str:
    loss, h = LOSSES[name], mpmath.mpf(10) ** -20
    points = []
    with mpmath.workdps(60):
        for delta in _DELTAS:
            d_pos, d_neg = mpmath.mpf(_FAR + delta), mpmath.mpf(_FAR)
            if derivative:
                value = (loss_value(loss, d_pos + h, d_neg, {}) - loss_value(loss, d_pos - h, d_neg, {})) / (2 * h)
            else:
                value = loss_value(loss, d_pos, d_neg, {})
            if value <= limit:
                points.append(f"({delta:g},{_rounded(value)})")
    return " ".join(points)


@cache
def field(objective: Objective, parameters: tuple[tuple[str, float], ...]) -> tuple[Arrow, ...]:
    """Where gradient descent moves the anchor in the plane, for x_pos = (-1, 0) and x_neg = (1, 0).

    The lengths are square roots of the gradient's, so that small ones can be seen, in units of the longest.
    """
    ticks = [-2.2 + 4.4 * at / (_GRID - 1) for at in range(_GRID)]
    found = [(x, y, *_descent(objective, (x, y), dict(parameters))) for y in ticks for x in ticks]
    longest = max(math.hypot(dx, dy) for *_, dx, dy in found) or 1.0
    arrows = []
    for x, y, dx, dy in found:
        length = math.hypot(dx, dy)
        if length > 0.005 * longest:
            scale = _LONGEST * math.sqrt(length / longest) / length
            arrows.append(Arrow(_rounded(x), _rounded(y), _rounded(scale * dx), _rounded(scale * dy)))
    return tuple(arrows)


def _descent(objective: Objective, at: tuple[float, float], parameters: Mapping[str, float]) -> tuple[float, float]:
    """The negative gradient in the anchor, by differences of the definition; 0 where there is none.

    That is where the anchor has no direction, or the loss no value.
    """
    if objective.of_units and not any(at):
        return 0.0, 0.0
    loss, own = objective.loss, objective.of_metric(parameters)
    around = (_distance_around(objective.metric, own, at, PAIRS[which]) for which in loss.distances)
    with mpmath.workdps(_DIGITS):
        sides = if_defined(
            lambda: [
                loss_value(loss, d_pos, d_neg, parameters, *others)
                for d_pos, d_neg, *others in zip(*around, strict=True)
            ]
        )
        left, right, below, above = sides or [mpmath.mpf(0)] * 4
        return float((left - right) / (2 * _H)), float((below - above) / (2 * _H))


@cache
def _distance_around(
    metric: Objective, parameters: tuple[tuple[str, float], ...], at: tuple[float, float], pair: tuple[str, str]
) -> list[Any]:
    """The distance of a pair of embeddings with the anchor a step to the left, to the right, below and above."""
    with mpmath.workdps(_DIGITS):
        anchors = [_plane(*at, *step) for step in ((-_H, 0), (_H, 0), (0, -_H), (0, _H))]
        named = ({"x": anchor, "x_pos": _plane(-1, 0), "x_neg": _plane(1, 0)} for anchor in anchors)
        return [distance_between(metric, of[pair[0]], of[pair[1]], dict(parameters)) for of in named]


def _plane(x: float, y: float, dx: Any = 0, dy: Any = 0) -> tuple[Any, Any]:
    return mpmath.mpf(x) + dx, mpmath.mpf(y) + dy


def _rounded(value: object) -> str:
    """Three decimals, so that the last bits of a machine's arithmetic do not show."""
    text = f"{float(value):.3f}"  # type: ignore[arg-type]
    return "0.000" if text == "-0.000" else text
