"""The definitions of the catalogue, evaluated as they are written, at any mpmath precision.

Nothing here has seen a derivative or a stable form: at the precision used, the naive formula is the accurate one.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache, lru_cache, partial
from itertools import pairwise
from typing import Any

import mpmath

from .catalogue import PAIRS, Distance, Loss, Objective
from .expression import Algebra, Definition


def _remembered(function: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """`function` with its recent values at each precision: differences repeat most arguments of a formula."""

    @lru_cache(maxsize=256)
    def at(argument: Any, precision: int) -> Any:
        return function(argument)

    return lambda argument: at(argument, mpmath.mp.prec)


_LARGE = 64  # a power of 2, from which on e is not raised to a power


def _exponential(x: Any) -> Any:
    """exp(x). mpmath is slow for whole numbers of hundreds of digits, of which it multiplies that many e."""
    size = mpmath.mag(x)
    if not _LARGE <= size < mpmath.inf:
        return mpmath.exp(x)
    with mpmath.workprec(mpmath.mp.prec + size + 10):
        doublings = int(x / mpmath.ln2)
        rest = x - doublings * mpmath.ln2
    return mpmath.ldexp(mpmath.exp(rest), doublings)


_number, _exp = _remembered(mpmath.mpf), _remembered(_exponential)


Largest = Callable[[Sequence[Any]], Any]
"""What the maximum of some terms is read as."""


@cache
def _algebra(dimension: int, copies: int = 1) -> Algebra:
    """Of vectors whose last component stands for so many equal ones."""
    return Algebra(number=_number, functions=_functions(_sign), reduce=_reduce(dimension, copies, max))


def _reduce(dimension: int, copies: int, largest: Largest) -> Callable[[str, Callable[[int], Any]], Any]:
    def reduce(kind: str, term: Callable[[int], Any]) -> Any:
        terms = [term(k) for k in range(dimension)]
        if kind != "sum":
            return largest(terms)
        return sum(terms) if copies == 1 else sum(terms) + (copies - 1) * terms[-1]

    return reduce


_PIECEWISE = ("abs", "max", "min", "where")


def _sign(z: Any) -> int:
    return int(z > 0) - int(z < 0)


def _functions(sign: Callable[[Any], int]) -> dict[str, Callable[..., Any]]:
    """The functions of the language; `sign` decides which piece of max, min, abs and where applies."""
    return {
        "exp": _exp,
        "log": mpmath.log,
        "log1p": mpmath.log1p,
        "sqrt": mpmath.sqrt,
        "tanh": mpmath.tanh,
        "abs": lambda z: sign(z) * z,
        "max": lambda a, b: b if sign(b - a) > 0 else a,
        "min": lambda a, b: b if sign(a - b) > 0 else a,
        "where": lambda z, value, otherwise: value() if sign(z) > 0 else otherwise(),
    }


def _own(entry: Distance | Loss, parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {p.name: mpmath.mpf(parameters.get(p.name, p.default)) for p in entry.parameters}


def distance_value(
    distance: Distance,
    x: Sequence[Any],
    y: Sequence[Any],
    parameters: Mapping[str, Any],
    copies: int = 1,
    largest: Largest = max,
) -> Any:
    """d(x, y) for two sequences of mpmath numbers, the last of which stands for so many equal components."""
    if distance.on_units and not (any(x) and any(y)):  # the definition has no value there
        return value_on_units(distance, unit(x, copies), unit(y, copies), parameters, copies, largest)
    return _read_distance(distance, distance.formula, x, y, parameters, copies, largest)


def value_on_units(
    distance: Distance,
    x: Sequence[Any],
    y: Sequence[Any],
    parameters: Mapping[str, Any],
    copies: int = 1,
    largest: Largest = max,
) -> Any:
    """The distance of two unit vectors, or zero vectors, as a function of their components."""
    return _read_distance(distance, distance.derived, x, y, parameters, copies, largest)


def _read_distance(
    distance: Distance,
    formula: Definition,
    x: Sequence[Any],
    y: Sequence[Any],
    parameters: Mapping[str, Any],
    copies: int,
    largest: Largest,
) -> Any:
    vectors = {"x": x.__getitem__, "y": y.__getitem__}
    algebra = _algebra(len(x), copies)
    if largest is not max:
        algebra = replace(algebra, reduce=_reduce(len(x), copies, largest))
    return formula.read(algebra, _own(distance, parameters), vectors)


def unit(x: Sequence[Any], copies: int = 1) -> list[Any]:
    """x / |x|, and 0 for 0; the last component stands for so many equal ones."""
    squares = [component**2 for component in x]
    norm = mpmath.sqrt(mpmath.fsum([*squares, (copies - 1) * squares[-1]]))
    return [component / norm if norm else component for component in x]


def distance_between(
    objective: Objective,
    x: Sequence[Any],
    y: Sequence[Any],
    parameters: Mapping[str, Any],
    copies: int = 1,
    largest: Largest = max,
) -> Any:
    """The distance of two embeddings, which are normalized before if the objective says so."""
    if objective.normalize:
        x, y = unit(x, copies), unit(y, copies)
    return distance_value(objective.distance, x, y, parameters, copies, largest)


def distance_of(objective: Objective, parameters: Mapping[str, Any], copies: int = 1) -> Callable[..., Any]:
    """`distance_between` as the function of x, y and `largest` that `maxima` and `smooth_distance` take."""

    def distance(x: Sequence[Any], y: Sequence[Any], largest: Largest = max) -> Any:
        return distance_between(objective, x, y, parameters, copies, largest)

    return distance


def distance_of_units(objective: Objective, parameters: Mapping[str, Any]) -> Callable[..., Any]:
    """`value_on_units` as such a function, of two unit vectors."""

    def distance(x: Sequence[Any], y: Sequence[Any], largest: Largest = max) -> Any:
        return value_on_units(objective.distance, x, y, parameters, largest=largest)

    return distance


_EXACT = 400  # digits, for which sums and differences of most floats need not be rounded


def maxima(function: Callable[..., Any], x: Sequence[Any], y: Sequence[Any]) -> list[list[Any]]:
    """The terms of each maximum that a function takes, in its order; `function(x, y, largest=...)` is a distance."""
    found: list[list[Any]] = []

    def recorded(terms: Sequence[Any]) -> Any:
        found.append(list(terms))
        return max(terms)

    with mpmath.workdps(_EXACT):
        function(x, y, largest=recorded)
    return found


def smooth_distance(
    function: Callable[..., Any], x: Sequence[Any], y: Sequence[Any], copies: int = 1
) -> Callable[[Sequence[Any], Sequence[Any]], Any]:
    """A distance near x and y, continued beyond the points at which another term is the largest.

    Its derivatives are what the convention of maxima says: where several terms are the largest, the mean of theirs.
    """
    attained = [[k for k, term in enumerate(terms) if term == max(terms)] for terms in maxima(function, x, y)]

    def continued(x: Sequence[Any], y: Sequence[Any]) -> Any:
        known = iter(attained)  # the formula asks in the same order

        def mean(terms: Sequence[Any]) -> Any:
            weights = {k: copies if k == len(terms) - 1 else 1 for k in next(known)}
            return mpmath.fsum(weight * terms[k] for k, weight in weights.items()) / sum(weights.values())

        return function(x, y, largest=mean)

    return continued if attained else function


def loss_value(loss: Loss, d_pos: Any, d_neg: Any, parameters: Mapping[str, Any], *others: Any) -> Any:
    """phi(d_pos, d_neg) for two mpmath numbers; here and below, `others` are the distances that a loss has besides."""
    return loss.formula.read(_algebra(0), _scalars(loss, (d_pos, d_neg, *others), parameters))


def _scalars(loss: Loss, distances: Sequence[Any], parameters: Mapping[str, Any]) -> dict[str, Any]:
    return {**dict(zip(loss.distances, distances, strict=True)), **_own(loss, parameters)}


def smooth_piece(loss: Loss, d_pos: Any, d_neg: Any, parameters: Mapping[str, Any], *others: Any) -> Callable[..., Any]:
    """The formula that applies at a point, as a function of the distances, continued beyond its kinks.

    Its derivatives are those of the loss; at a kink they are what the convention of `max`, `min`, `abs` and `where`
    says: that of a number or else of the first argument, that of 0, and that of the value which is taken there.
    """
    signs = pieces(loss, d_pos, d_neg, parameters, *others)

    def continued(*distances: Any) -> Any:
        known = iter(signs)  # the formula asks in the same order
        return _read(loss, lambda z: next(known), distances, parameters)

    return continued if signs else lambda *distances: _read(loss, _sign, distances, parameters)


@cache
def has_pieces(loss: Loss) -> bool:
    """Whether the formula of a loss may change from one point to another, so that it has kinks."""
    calls = (node.func for node in ast.walk(loss.formula.written_out) if isinstance(node, ast.Call))
    return any(isinstance(name, ast.Name) and name.id in _PIECEWISE for name in calls)


def pieces(loss: Loss, d_pos: Any, d_neg: Any, parameters: Mapping[str, Any], *others: Any) -> tuple[int, ...]:
    """Which piece of max, min, abs and where applies at a point, in the order in which the formula asks."""
    signs: list[int] = []

    def recorded(z: Any) -> int:
        signs.append(_sign(z))
        return signs[-1]

    _read(loss, recorded, (d_pos, d_neg, *others), parameters)
    return tuple(signs)


def _read(loss: Loss, sign: Callable[[Any], int], distances: Sequence[Any], parameters: Mapping[str, Any]) -> Any:
    algebra = replace(_algebra(0), functions=_functions(sign))
    return loss.formula.read(algebra, _scalars(loss, distances, parameters))


def largest_part(loss: Loss, d_pos: Any, d_neg: Any, parameters: Mapping[str, Any], *others: Any) -> Any:
    """The largest value of a part of the formula, a divisor's inverse being one.

    Exponentials are not, for stable forms do not compute them.
    """
    values = _scalars(loss, (d_pos, d_neg, *others), parameters)
    texts = _texts_without_exponentials(loss)
    parts = (if_defined(partial(_part(loss, text).read, _algebra(0), values)) for text in texts)
    # what has no value is part of what is not selected
    return max(abs(part) for part in (d_pos, d_neg, *others, *parts) if part is not None)


@cache
def _texts_without_exponentials(loss: Loss) -> tuple[str, ...]:
    operations = [node for node in ast.walk(loss.formula.written_out) if isinstance(node, ast.BinOp)]
    divisors = (f"1 / ({ast.unparse(node.right)})" for node in operations if isinstance(node.op, ast.Div))
    texts = dict.fromkeys([*map(ast.unparse, operations), *divisors])
    return tuple(text for text in texts if not re.search(r"\bexp\b", text))


@cache
def _part(loss: Loss, text: str) -> Definition:
    return loss.parse(text)


def objective_value(
    objective: Objective, x: Sequence[Any], x_pos: Sequence[Any], x_neg: Sequence[Any], parameters: Mapping[str, Any]
) -> Any:
    """L(x, x_pos, x_neg)."""
    return _read(objective.loss, _sign, distances_of(objective, (x, x_pos, x_neg), parameters), parameters)


def distances_of(
    objective: Objective, embeddings: Sequence[Sequence[Any]], parameters: Mapping[str, Any], copies: int = 1
) -> tuple[Any, ...]:
    """The distances of a loss, in its order, for x, x_pos and x_neg; `copies` as for `distance_value`."""
    named = dict(zip(("x", "x_pos", "x_neg"), embeddings, strict=True))
    pairs = [(named[first], named[second]) for first, second in (PAIRS[which] for which in objective.loss.distances)]
    return tuple(resolved(partial(distance_between, objective, x, y, parameters, copies)) for x, y in pairs)


def resolved(value: Callable[[], Any]) -> Any:
    """A difference of numbers of about 1, and 0 where it is no more than what rounding leaves of them.

    With more digits that is less, and a difference that is not 0 stays what it is.
    """
    digits, found = mpmath.mp.dps, value()
    for more in (2, 4, 8):
        if abs(found) > mpmath.mpf(10) ** -(digits // 2):
            break
        with mpmath.workdps(more * digits):
            found, before = value(), found
        if abs(found - before) < abs(found) * mpmath.mpf(10) ** -(digits // 4):
            break
    else:
        return mpmath.mpf(0)
    return found


def distances_at(
    objective: Objective, triplet: Iterable[Iterable[Any]], parameters: Mapping[str, Any]
) -> tuple[Any, ...]:
    """`distances_of` embeddings that are floats."""
    return distances_of(objective, [[mpmath.mpf(float(c)) for c in embedding] for embedding in triplet], parameters)


def if_defined(value: Callable[[], Any]) -> Any:
    """A value, and None where a formula has none, as 1/0 has not, nor an order of complex numbers."""
    try:
        return value()
    except (ArithmeticError, ValueError, TypeError):
        return None


def has_value(loss: Loss, d_pos: Any, d_neg: Any, parameters: Mapping[str, Any], *others: Any) -> bool:
    """Whether distances are none of those at which a loss is said to have no value."""
    return all(locus_value(loss, of.locus, d_pos, d_neg, parameters, *others) != 0 for of in loss.undefined)


def locus_value(loss: Loss, locus: str, d_pos: Any, d_neg: Any, parameters: Mapping[str, Any], *others: Any) -> Any:
    """A loss's singular locus as a function of its distances; its zeros are the singular points."""
    return loss.parse(locus).read(_algebra(0), _scalars(loss, (d_pos, d_neg, *others), parameters))


DISTANCES = tuple(map(mpmath.mpf, ("0", "0.001", "0.25", "0.5", "1", "1.5", "2", "3", "10", "1000")))
"""At which a loss is examined."""


def zeros(loss: Loss, locus: str, parameters: Mapping[str, Any]) -> Iterator[tuple[Any, ...]]:
    """Some points with positive distances at which a locus is 0: one of d_pos and d_neg is among `DISTANCES`.

    The distances that a loss has besides are 3.
    """
    formula, others = loss.parse(locus), (mpmath.mpf(3),) * len(loss.distances[2:])

    def value(d_pos: Any, d_neg: Any) -> Any:
        scalars = _scalars(loss, (d_pos, d_neg, *others), parameters)
        found = if_defined(partial(formula.read, _algebra(0), scalars))
        return found if isinstance(found, mpmath.mpf) else mpmath.nan

    for fixed in sorted(DISTANCES[1:], key=lambda distance: abs(distance - 1)):
        yield from ((root, fixed, *others) for root in _roots(partial(_swapped, value, fixed)))
        yield from ((fixed, root, *others) for root in _roots(partial(value, fixed)))


def _swapped(function: Callable[[Any, Any], Any], second: Any, first: Any) -> Any:
    return function(first, second)


def _roots(function: Callable[[Any], Any]) -> Iterator[Any]:
    """Where a function of a positive distance is 0, as far as `DISTANCES` show it."""
    values = [(distance, function(distance)) for distance in DISTANCES]
    for (low, below), (high, above) in pairwise(values):
        if below * above < 0:
            yield _root(function, low, high)
        elif low > 0 and below == 0:
            yield low


def _root(function: Callable[[Any], Any], low: Any, high: Any) -> Any:
    """Where a function that changes its sign does so, by halving; exactly, if halves reach it."""
    rising = function(high) > 0
    for _ in range(int(mpmath.mp.prec) + 16):
        middle = (low + high) / 2
        value = function(middle)
        if value == 0:
            return middle
        low, high = (low, middle) if (value > 0) == rising else (middle, high)
    return (low + high) / 2
