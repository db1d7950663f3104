"""Derivatives by differences at high precision: of a distance in the components, of a loss in the distances."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import mpmath

STEP = mpmath.mpf(10) ** -30
_SATURATED = 450  # digits that show a slope of 1e-324 beside a loss of order 1, or a loss of 1e-324 beside such terms
_SMALL = mpmath.mpf(10) ** -40
_FLAT = mpmath.mpf(10) ** -20  # a derivative above it is not the doing of the step
SHIFT = mpmath.ldexp(1, -40)
_KINK = mpmath.mpf(10) ** -6  # one-sided differences of a smooth function agree to about the step


def length_of(vector: Sequence[Any]) -> Any:
    """The norm, and 1 for a zero vector, which is its own unit vector."""
    return mpmath.sqrt(mpmath.fsum(c**2 for c in vector)) or mpmath.mpf(1)


def component_scales(
    distance: Distance, a: Sequence[Any], b: Sequence[Any], power: float, together: bool
) -> tuple[tuple[list[Any], list[Any]], tuple[list[Any], list[Any]]]:
    """The gradients, and the sizes of their components with what relative errors of all components make of them.

    power: to which differences of components are raised at most.
    together: whatever rounding does to the one argument it does to the other.
    """
    here = gradients_by_differences(distance, a, b, power)
    scales = [abs(g) for g in here[0]], [abs(g) for g in here[1]]
    for moving in [(a, b)] if together else [(a,), (b,)]:
        for k in range(len(a)):
            if not (amount := SHIFT * abs(moving[0][k])):
                continue
            x, y = (shifted(of, k, amount) if any(of is one for one in moving) else of for of in (a, b))
            for scale, after, before in zip(scales, gradients_by_differences(distance, x, y, power), here, strict=True):
                for at, (late, early) in enumerate(zip(after, before, strict=True)):
                    scale[at] += abs(late - early) / SHIFT
    return here, scales


Distance = Callable[[Sequence[Any], Sequence[Any]], Any]


def between_directions(a: Sequence[Any], b: Sequence[Any]) -> list[Any]:
    """How far the unit vectors of a and b are apart in each component, where they are, times the shorter length.

    A change of the shorter one that is not small beside these changes its unit vector by more than there is between.
    """
    with mpmath.workdps(300):
        lengths = length_of(a), length_of(b)
        pairs = [(x * lengths[1], y * lengths[0]) for x, y in zip(a, b, strict=True)]
        apart = [abs(x - y) for x, y in pairs if abs(x - y) > mpmath.mpf(10) ** -200 * (abs(x) + abs(y))]
        return [difference / max(lengths) for difference in apart]


def gradients_by_differences(
    distance: Distance, a: Sequence[Any], b: Sequence[Any], power: float, also: Sequence[Any] = ()
) -> tuple[list[Any], list[Any]]:
    """The gradients of the distance in its first and in its second argument, by central differences.

    also: sizes beside which the step has to be small, besides those of components and of their differences.
    """
    apart = [abs(v) for pair in zip(a, b, strict=True) for v in (*pair, pair[0] - pair[1]) if v]
    sizes = [*apart, *also] or [mpmath.mpf(1)]
    h = STEP * min(sizes)
    # twice the digits of the step: a distance that is smooth at 0 changes by its square
    with mpmath.workdps(2 * digits_of(max(*sizes, mpmath.mpf(1)), h) - 40 + digits_of_power(power, a, b)):
        here = distance(a, b)

        first = [
            _central(distance(shifted(a, k, h), b), here, distance(shifted(a, k, -h), b), h) for k in range(len(a))
        ]
        second = [
            _central(distance(a, shifted(b, k, h)), here, distance(a, shifted(b, k, -h)), h) for k in range(len(b))
        ]
        return first, second


@dataclass(frozen=True)
class Slopes:
    """A loss with its first and second derivatives in the distances."""

    value: Any
    first: Sequence[Any]
    second: Sequence[Sequence[Any]]


def loss_slopes(piece: Callable[[], Callable[..., Any]], distances: Sequence[Any], h: Any, bent: bool = True) -> Slopes:
    """Those of a smooth piece of the loss; at more digits it may be another one. bent: with second derivatives.

    Where a distance is 0 a loss such as d^3 has derivatives that are 0, and differences as large as the square of the
    step: those grow by more than themselves with twice the step.
    """
    found = _slopes_by(piece, distances, h, bent)
    if all(distances) or not any(0 < abs(one) < _FLAT for one in chain(found.first, *found.second)):
        return found
    wider = _slopes_by(piece, distances, 2 * h, bent)

    def settled(values: Sequence[Any], others: Sequence[Any]) -> list[Any]:
        return [a if abs(b - a) <= abs(a) else mpmath.mpf(0) for a, b in zip(values, others, strict=True)]

    second = [settled(*rows) for rows in zip(found.second, wider.second, strict=True)]
    return Slopes(found.value, settled(found.first, wider.first), second)


def _slopes_by(piece: Callable[[], Callable[..., Any]], distances: Sequence[Any], h: Any, bent: bool) -> Slopes:
    """The same by differences with a step, with more digits where they do not show; what no digits show is 0."""
    digits = 20 + 2 * digits_of(max(*distances, mpmath.mpf(1)), h)
    each = range(len(distances))
    for extra in (0, _SATURATED):
        with mpmath.workdps(digits + extra):
            loss = piece()
            here = loss(*distances)
            ahead, behind = ([loss(*_moved(distances, step, at)) for at in each] for step in (h, -h))
            first = [(after - before) / (2 * h) for after, before in zip(ahead, behind, strict=True)]
            second = _second_differences(loss, distances, h, here, ahead, behind) if bent else []
            visible = mpmath.mpf(10) ** (45 - digits - extra) * abs(here)
            noise = mpmath.mpf(10) ** (5 - digits - extra) * max(map(abs, (here, *ahead, *behind))) / h**2
            shows = min(abs(after - here) for after in ahead) >= visible and abs(here) >= _SMALL
            if shows and not any(0 < abs(value) <= noise for value in chain(*second)):
                break
    return Slopes(here, first, [[mpmath.mpf(0) if abs(v) <= noise else v for v in row] for row in second])


def _second_differences(
    loss: Callable[..., Any], distances: Sequence[Any], h: Any, here: Any, ahead: Sequence[Any], behind: Sequence[Any]
) -> list[list[Any]]:
    """The second derivatives, from the values a step ahead and behind, and with two distances moved."""
    own = [(after - 2 * here + before) / h**2 for after, before in zip(ahead, behind, strict=True)]

    def mixed(a: int, b: int) -> Any:
        both = loss(*_moved(distances, h, a, b)) + loss(*_moved(distances, -h, a, b))
        return (both - 2 * here) / (2 * h**2) - (own[a] + own[b]) / 2

    each = range(len(distances))
    return [[own[a] if a == b else mixed(min(a, b), max(a, b)) for b in each] for a in each]


def _moved(distances: Sequence[Any], amount: Any, *which: int) -> list[Any]:
    return [distance + amount * (at in which) for at, distance in enumerate(distances)]


def _central(ahead: Any, here: Any, behind: Any, h: Any) -> Any:
    return mpmath.mpf(0) if _is_kink(ahead, here, behind) else (ahead - behind) / (2 * h)


def _is_kink(ahead: Any, here: Any, behind: Any) -> bool:
    forward, backward = ahead - here, here - behind
    return bool(abs(forward - backward) > _KINK * (abs(forward) + abs(backward)))


def shifted(vector: Sequence[Any], k: int, amount: Any) -> list[Any]:
    return [value + amount if index == k else value for index, value in enumerate(vector)]


def digits_of_power(power: float, a: Sequence[Any], b: Sequence[Any]) -> int:
    """Digits that show the smallest of the differences of components beside the largest, both raised to a power.

    As for a slope, what is beyond the range of a type need not be seen.
    """
    apart = [abs(x - y) for x, y in zip(a, b, strict=True) if x != y]
    if power == 1 or not apart:
        return 0
    return min(_SATURATED, math.ceil((power - 1) * float(mpmath.log10(max(apart) / min(apart)))))


def digits_of(size: Any, h: Any) -> int:
    """Digits that hold `size` and, 40 digits deep, a change by `h`."""
    return 40 + math.ceil(int(mpmath.mag(size / h)) * math.log10(2))
