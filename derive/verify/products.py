"""The reference of Hessian-vector products: second derivatives of the definitions, by differences at high precision.

As in `reference`, nothing is imported from the derivation, the kernel or its product. The second derivatives of a
distance are mixed differences of its definition, those of a loss second differences of its formula, and the chain rule
puts them together. Where a distance has no second derivative in a component, those in that component are 0; a loss has
those of the formula which applies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import chain, combinations
from typing import Any

import mpmath

from ..catalogue import PAIRS, Objective
from ..highprecision import distance_of, distance_of_units, resolved, smooth_distance, smooth_piece, unit
from .differences import SHIFT, Slopes, component_scales, digits_of, digits_of_power, loss_slopes
from .reference import Exact, distance_gradients, power_of, steepened, step_of, takes_root

_STEP = mpmath.mpf(10) ** -15  # differences of the second order err by about its square
_SMOOTH = mpmath.mpf(10) ** -6

Vector = Sequence[Any]
_Function = Callable[[Vector], Any]


@dataclass(frozen=True)
class Product:
    """The product of the Hessian of one row by embedding name, and by how much it magnifies what a loss loses.

    That is what parts of the loss lose below the normal range, as exp(z) does, of which slopes are multiples by that of
    z, and second derivatives by its square.
    """

    of: Mapping[str, Exact]
    magnified: Any


def product(
    objective: Objective,
    embeddings: Sequence[Sequence[float]],
    direction: Sequence[Sequence[float]],
    parameters: Mapping[str, float],
) -> Product:
    """The Hessian at (x, x_pos, x_neg) times a direction, vectors of the same length.

    A scale is as in `reference` the sum of the absolute values of all terms that are added up, each with what relative
    errors of the distances make of it; the second derivative of a distance is a term that may be as large as the
    product of the first ones over the distance.
    """
    vectors, moves = (
        {name: [mpmath.mpf(float(c)) for c in part] for name, part in zip(("x", "x_pos", "x_neg"), parts, strict=True)}
        for parts in (embeddings, direction)
    )
    pairs = [PAIRS[which] for which in objective.loss.distances]
    sides = [_side(objective, parameters, vectors[a], vectors[b], [*moves[a], *moves[b]]) for a, b in pairs]
    n = len(vectors["x"])
    slopes, moved = _slopes(objective, parameters, sides)
    with mpmath.workdps(50):
        swings, steep = _Swings(slopes, moved), _steepness(slopes[0])
        values, scales, magnified = ([[mpmath.mpf(0)] * (2 * n) for _ in sides] for _ in range(3))
        for a, side in enumerate(sides):
            for i in range(2 * n):
                values[a][i] = slopes[0].first[a] * side.bent[i]
                scales[a][i] = swings.first[a] * side.bent_scale[i]
                magnified[a][i] = steep[a] * side.bent_scale[i]
                for b, other in enumerate(sides):
                    curvature = slopes[0].second[a][b]
                    values[a][i] += curvature * side.gradient.value[i] * other.rate[0]
                    size, error = side.of_gradient(i, other)
                    scales[a][i] += swings.second[a][b] * size + abs(curvature) * error
                    magnified[a][i] += steep[a] * steep[b] * (size + error)

        def total(name: str, of_sides: Sequence[Vector]) -> list[Any]:
            halves = zip(pairs, of_sides, strict=True)
            return _sum(part[n:] if pair.index(name) else part[:n] for pair, part in halves if name in pair)

        of = {name: Exact(total(name, values), total(name, scales)) for name in vectors}
        return Product(of, max(max(part) for part in magnified))


def _sum(vectors: Iterable[Vector]) -> list[Any]:
    return [mpmath.fsum(parts) for parts in zip(*vectors, strict=True)]


# ---------------------------------------------------------------- a loss


class _Swings:
    """Sizes of derivatives with how much they change as the distances move by their own sizes."""

    def __init__(self, slopes: Sequence[Slopes], moved: Sequence[Any]) -> None:
        here, *beside = slopes
        each = range(len(moved))
        self.first = [abs(here.first[a]) + mpmath.fsum(moved[b] * abs(here.second[a][b]) for b in each) for a in each]
        self.second = [
            [
                abs(here.second[a][b])
                + mpmath.fsum(abs(there.second[a][b] - here.second[a][b]) / SHIFT for there in beside)
                for b in each
            ]
            for a in each
        ]


def _steepness(slopes: Slopes) -> list[Any]:
    """For each distance by how much a slope changes as it moves, over the slope, if that is more than 1."""
    return [
        max(1, *(abs(second / first) for second in row)) if first else mpmath.mpf(1)
        for first, row in zip(slopes.first, slopes.second, strict=True)
    ]


def _slopes(
    objective: Objective, parameters: Mapping[str, float], sides: Sequence[_Side]
) -> tuple[list[Slopes], list[Any]]:
    """The derivatives of a loss here, and with each of the distances moved; and how far these move."""
    distances = [side.distance for side in sides]
    h = step_of(objective, parameters, distances)
    d_pos, d_neg, *others = distances
    piece = partial(smooth_piece, objective.loss, d_pos, d_neg, parameters, *others)
    moved = [side.distance + side.moved for side in sides]
    with mpmath.workdps(80):
        around = [distances]
        for at, amount in enumerate(moved):
            around.append([d + amount * SHIFT * (at == which) for which, d in enumerate(distances)])
    return [loss_slopes(piece, of, h) for of in around], moved


# ---------------------------------------------------------------- a distance


@dataclass(frozen=True)
class _Side:
    """A distance as a function of the components of both its arguments, and how it changes in a direction.

    moved: by how much it moves when the components of unit vectors move by their own size.
    gradient: its components, with what errors in unit vectors make of them. rate: of the distance, the sum of the sizes
    of its terms, and of such errors. bent: the rates of the components of the gradient.
    """

    distance: Any
    moved: Any
    gradient: Exact
    rate: tuple[Any, Any, Any]
    bent: Vector
    bent_scale: Vector

    def of_gradient(self, i: int, other: _Side) -> tuple[Any, Any]:
        """The size of a component of the gradient times a rate, before its terms are added up, and of errors in it."""
        size, (_, along, error) = abs(self.gradient.value[i]), other.rate
        return size * along, self.gradient.scale[i] * along + size * error


def _side(objective: Objective, parameters: Mapping[str, float], a: Vector, b: Vector, v: Vector) -> _Side:
    distance = _of_both(smooth_distance(distance_of(objective, parameters), a, b), len(a))
    toward = distance_gradients(objective, parameters, a, b)
    power = power_of(objective, parameters)
    hessian = _hessian(distance, [*a, *b], power)
    with mpmath.workdps(80):
        value = resolved(partial(distance, [*a, *b]))
    with mpmath.workdps(50):
        gradient = [*toward.gradients[0].value, *toward.gradients[1].value]
        more = [*toward.gradients[0].scale, *toward.gradients[1].scale]
        sizes = [abs(c) for c in v]
        rate = _dot(gradient, v), _dot(map(abs, gradient), sizes), _dot(more, sizes)
        bent = [_dot(row, v) for row in hessian]
        if objective.of_units:
            bent_scale = _bent_scale_on_units(objective, parameters, a, b, v)
        else:
            bent_scale = _bent_scale(hessian, gradient, value, v, power, takes_root(objective))
        return _Side(value, toward.moved, Exact(gradient, more), rate, bent, bent_scale)


def _dot(a: Iterable[Any], b: Iterable[Any]) -> Any:
    return mpmath.fsum(x * y for x, y in zip(a, b, strict=True))


def _hessian(function: _Function, z: Vector, power: float) -> list[list[Any]]:
    """By differences; 0 in components where there is no second derivative."""
    h = _STEP * min(_sizes(z))
    size = len(z)
    with mpmath.workdps(_precision(z, h, power)):
        here = function(z)

        def at(*moves: tuple[int, Any]) -> Any:
            moved = list(z)
            for k, amount in moves:
                moved[k] += amount
            return function(moved)

        ahead, behind = ([at((k, sign * h)) for k in range(size)] for sign in (1, -1))
        second = [ahead[k] - 2 * here + behind[k] for k in range(size)]
        nearer = [at((k, h / 2)) - 2 * here + at((k, -h / 2)) for k in range(size)]
        # halving the step divides a second difference by 4, but that of |z|^p by 2^p: for p < 2 there is no second
        # derivative at 0, and for larger ones it is 0
        smooth = [abs(4 * half - whole) <= _SMOOTH * abs(whole) for half, whole in zip(nearer, second, strict=True)]
        hessian = [[mpmath.mpf(0)] * size for _ in range(size)]
        for k in range(size):
            hessian[k][k] = second[k] / h**2 if smooth[k] else mpmath.mpf(0)
        for j, k in combinations([k for k in range(size) if smooth[k]], 2):
            both = at((j, h), (k, h)) - 2 * here + at((j, -h), (k, -h))
            hessian[j][k] = hessian[k][j] = (both - second[j] - second[k]) / (2 * h**2)
        return hessian


def _precision(z: Vector, h: Any, power: float) -> int:
    """Digits that hold a second difference with the step h."""
    n = len(z) // 2
    return 2 * digits_of(max(*_sizes(z), mpmath.mpf(1)), h) - 40 + digits_of_power(power, z[:n], z[n:])


def _sizes(z: Vector) -> list[Any]:
    """Of what is not 0 among components and differences of both arguments."""
    n = len(z) // 2
    return [abs(c) for c in (*z, *(z[k] - z[n + k] for k in range(n))) if c] or [mpmath.mpf(1)]


def _bent_scale(
    hessian: Sequence[Vector], gradient: Vector, distance: Any, v: Vector, power: float, rooted: bool
) -> list[Any]:
    """The sum of the sizes of the terms of the Hessian times v.

    A root of a sum, which is x, has the second derivative (x'' - d' d')/d, so that terms of the size of d' d'/d cancel.
    That of a sum of powers has p - 1 times these: with r, components over the largest,

        (p - 1) r^(p - 2) v / d  and  (p - 1) d' (sum of d' v) / d.

    Errors in r are `steepened` by p - 2 in the first one, and by p - 1 in each d' of the second.
    """
    sizes, bends = [abs(c) for c in v], mpmath.mpf(power) - 1 or 1
    of_own, of_both = (steepened(power - 2), 2 * steepened(power - 1)) if power > 1 else (0, 0)
    # in one dimension all of a root's second derivative cancels
    over = bends / distance if distance and (rooted or any(map(any, hessian))) else mpmath.mpf(0)
    along = over * _dot(map(abs, gradient), sizes)
    scales: list[Any] = []
    for row, g, size in zip(hessian, map(abs, gradient), sizes, strict=True):
        own = abs(row[len(scales)]) * size + over * g * g * size
        scales.append(_dot(map(abs, row), sizes) + (1 + of_both) * g * along + of_own * own)
    return scales


def _bent_scale_on_units(
    objective: Objective, parameters: Mapping[str, float], a: Vector, b: Vector, v: Vector
) -> list[Any]:
    """The same for a distance of unit vectors, which are not known without an error, and turn with the direction."""
    n = len(a)
    parts = ((a, v[:n]), (b, v[n:]))
    norms = [mpmath.sqrt(_dot(of, of)) or mpmath.mpf(1) for of, _ in parts]
    units = [*unit(a), *unit(b)]
    turned, turned_scale, stretched = [], [], []
    for at, ((_, w), norm) in enumerate(zip(parts, norms, strict=True)):
        u = units[n * at : n * (at + 1)]
        along, most = _dot(u, w), _dot(map(abs, u), map(abs, w))
        turned += [(c - e * along) / norm for c, e in zip(w, u, strict=True)]
        turned_scale += [(abs(c) + abs(e) * most) / norm for c, e in zip(w, u, strict=True)]
        stretched.append(most / norm)
    between = smooth_distance(distance_of_units(objective, parameters), units[:n], units[n:])
    distance = _of_both(between, n)
    with mpmath.workdps(80):
        value = resolved(partial(distance, units))
    power = power_of(objective, parameters)
    inner, scales = component_scales(between, units[:n], units[n:], power, together=a == b)
    gradient, scale = [*inner[0], *inner[1]], [(1 + steepened(power - 1)) * s for s in chain(*scales)]
    bent = _bent_scale(_hessian(distance, units, power), gradient, value, turned_scale, power, takes_root(objective))
    bent = [one + more for one, more in zip(bent, _sensitivity(distance, units, turned, power, a == b), strict=True)]
    result = []
    for at, (norm, stretch) in enumerate(zip(norms, stretched, strict=True)):
        own = slice(n * at, n * (at + 1))
        u, g, w, t = ([abs(c) for c in of[own]] for of in (units, scale, bent, turned_scale))
        along = _dot(u, g)
        more = _dot(t, g) + _dot(u, w)
        result += [(w[k] + along * t[k] + more * u[k] + stretch * (g[k] + along * u[k])) / norm for k in range(n)]
    return result


def _of_both(distance: Callable[[Vector, Vector], Any], n: int) -> _Function:
    """A distance as a function of the components of both its arguments, of so many each."""
    return lambda z: distance(z[:n], z[n:])


def _sensitivity(function: _Function, z: Vector, direction: Vector, power: float, together: bool) -> list[Any]:
    """What relative errors in the components make of the rates of a gradient, whatever their signs are.

    together: both arguments have the same errors.
    """
    n = len(z) // 2
    here = _rates(function, z, direction, power)
    found = [mpmath.mpf(0)] * len(z)
    for k in range(n if together else 2 * n):
        if not z[k]:
            continue
        moved = [c + SHIFT * abs(z[k]) * (j == k or (together and j == n + k)) for j, c in enumerate(z)]
        for i, (late, early) in enumerate(zip(_rates(function, moved, direction, power), here, strict=True)):
            found[i] += abs(late - early) / SHIFT
    return found


def _rates(function: _Function, z: Vector, direction: Vector, power: float) -> list[Any]:
    """The rates of the components of a gradient; 0 where there is a kink."""
    longest = max(map(abs, direction))
    if not longest or not function(z):
        return [mpmath.mpf(0)] * len(z)
    h = _STEP * min(_sizes(z))
    along = [c * h / longest for c in direction]
    with mpmath.workdps(_precision(z, h, power)):

        def second(of: Sequence[tuple[int, Any]], sign: int) -> Any:
            moved = [c + sign * d for c, d in zip(z, along, strict=True)]
            for k, amount in of:
                moved[k] += amount
            return function(moved)

        rates = []
        for k in range(len(z)):
            ahead, behind = ([(k, sign * h)] for sign in (1, -1))
            rate = second(ahead, 1) - second(ahead, -1) - second(behind, 1) + second(behind, -1)
            rates.append(rate / (4 * h * h) * longest)
        return rates
