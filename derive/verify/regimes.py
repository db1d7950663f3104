"""Where verification looks: batches of triplets, each chosen because something goes wrong there in practice."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import Any

import mpmath
import numpy as np
import numpy.typing as npt

from ..catalogue import PAIRS, Objective
from ..formats import FORMATS
from ..highprecision import (
    distance_of,
    distance_value,
    distances_at,
    has_pieces,
    has_value,
    largest_part,
    locus_value,
    maxima,
    pieces,
)

Array = npt.NDArray[np.floating]

# the largest power of ten whose square can still be summed over some components, and its inverse
SCALES = {"float32": 1e18, "float64": 1e150, "float16": 1e4, "bfloat16": 1e18}
# far beyond that, though not for what is computed in a wider type
FAR_SCALES = {"float32": 1e30, "float64": 1e300, "bfloat16": 1e30}
_SEED = 20150412
NOT_JUDGED = "not judged, because the loss is not defined there, has a kink within rounding, or overflows"
"""What rows are that are left out."""
# distances without rounding; of unit vectors as well
ON_THE_KINK = {False: ([0.0], [0.5], [0.75]), True: ([1.0], [1.0], [-1.0])}

# of differences, two components are the largest, and three; then two, and all. So they are of unit vectors, exactly.
TIES = (
    ((3.0, -3.0, 3.0, 1.0), (1.0, -1.0, 1.0, -1.0)),
    ((-2.0, 2.0, 1.0, 1.0), (-1.0, -1.0, -1.0, -1.0)),
    ((-1.0, 1.0, -1.0, 2.0), (-1.0, 1.0, -1.0, 1.0)),
)


@dataclass(frozen=True)
class Regime:
    """A batch of triplets, arrays of shape (rows, dim), and the parameters to run it with.

    columns: where the components stand that are not all alike in an embedding; None for all. Where they are 0, no
    distance depends on them, and the gradients are 0.
    copies: the number of the others, if distances do depend on them; then their gradients are alike, too.
    """

    name: str
    x: Array
    x_pos: Array
    x_neg: Array
    parameters: Mapping[str, float]
    columns: tuple[int, ...] | None = None
    copies: int = 0

    @property
    def embeddings(self) -> tuple[Array, Array, Array]:
        return self.x, self.x_pos, self.x_neg


def regimes(
    objective: Objective,
    dtype: str,
    parameters: Mapping[str, float],
    dims: Sequence[int] = (),
    full_range: bool = False,
) -> Iterator[Regime]:
    """All regimes for one objective; `parameters` are the values to verify with, defaults included.

    dims: numbers of components, a few of which are scattered among others that are alike, for code that treats long
        rows in ways of their own.
    full_range: with distances whose squares are beyond the type, from subnormal ones to the largest.
    The batches are the same on every run and every machine. Of a loss of one's own, there are no rows where it is not
    defined, where squares of parts of its formula leave the range of the type, or where rounding decides on which side
    of a kink it is; nor where it decides which of several components is the largest.
    """
    for regime in _regimes(objective, dtype, parameters, dims, full_range):
        rows = [row for row in range(len(regime.x)) if _is_included(objective, regime, row, dtype)]
        if len(rows) == len(regime.x):
            yield regime
        elif rows:
            yield replace(regime, x=regime.x[rows], x_pos=regime.x_pos[rows], x_neg=regime.x_neg[rows])


def unjudged(objective: Objective, dtypes: Sequence[str], parameters: Mapping[str, float]) -> tuple[str, ...]:
    """The regimes that have rows which are left out, each with the float type."""
    if not (_is_own(objective) or takes_maxima(objective)):
        return ()
    return tuple(
        f"{regime.name} ({dtype})"
        for dtype in dtypes
        for regime in _regimes(objective, dtype, parameters, (), False)
        if not all(_is_included(objective, regime, row, dtype) for row in range(len(regime.x)))
    )


def _is_included(objective: Objective, regime: Regime, row: int, dtype: str) -> bool:
    judged = not _is_own(objective) or _is_judged(objective, regime, row, dtype)
    return judged and _is_largest_decided(objective, regime, row, dtype)


def is_judged(objective: Objective, regime: Regime, row: int, dtype: str) -> bool:
    """Whether rounding leaves a row on one side of every kink, or on it, with the same components as the largest, and
    the loss can be judged there.
    """
    if not _is_largest_decided(objective, regime, row, dtype):
        return False
    if _is_own(objective):
        return _is_judged(objective, regime, row, dtype)
    if regime.name == "on the kink" or not has_pieces(objective.loss):  # without distances, which take long
        return True
    with mpmath.workdps(400):
        distances = distances_at(objective, [embedding[row] for embedding in regime.embeddings], regime.parameters)
        return _is_on_one_side(objective, distances, regime.parameters, FORMATS[FORMATS[dtype].computed_in].eps)


def _is_own(objective: Objective) -> bool:
    """Whether rows of regimes may be beside the point: of a loss that is a user's own, or has points without a value,
    as only such a loss has; and of one that compares two distances, which are nearly equal in some regimes.
    """
    return bool(objective.loss.source or objective.loss.undefined or len(objective.loss.distances) > 2)


def _is_judged(objective: Objective, regime: Regime, row: int, dtype: str) -> bool:
    """Whether accuracy means something at a row of a regime."""
    loss, parameters = objective.loss, regime.parameters
    computed = FORMATS[FORMATS[dtype].computed_in]
    with mpmath.workdps(400):
        d_pos, d_neg, *others = distances_at(objective, [e[row] for e in regime.embeddings], parameters)
        if not has_value(loss, d_pos, d_neg, parameters, *others):
            return False
        if largest_part(loss, d_pos, d_neg, parameters, *others) ** 2 > computed.largest:
            return False
        distances = d_pos, d_neg, *others
        return regime.name == "on the kink" or _is_on_one_side(objective, distances, parameters, computed.eps)


def _is_on_one_side(
    objective: Objective, distances: Sequence[Any], parameters: Mapping[str, float], eps: float
) -> bool:
    """Whether distances that are rounded, and those of units that are, are on the same side of every kink."""
    if not has_pieces(objective.loss):
        return True
    found = set()
    for signs in product((1, -1), repeat=len(distances)):
        if signs[0] != signs[1]:
            sizes = (sign * (d + objective.of_units) for d, sign in zip(distances, signs, strict=True))
            d_pos, d_neg, *others = (d + 8 * mpmath.mpf(eps) * size for d, size in zip(distances, sizes, strict=True))
            found.add(pieces(objective.loss, d_pos, d_neg, parameters, *others))
    return len(found) == 1


def _is_largest_decided(objective: Objective, regime: Regime, row: int, dtype: str) -> bool:
    """Whether rounding leaves those components of a distance the largest that are, and no others.

    The differences of embeddings have errors of their own size, those of unit vectors of that of these.
    """
    eps = FORMATS[FORMATS[dtype].computed_in].eps
    for terms in _maxima(objective, regime, row):
        most = max(terms)
        nearly = most - 16 * eps * (1 if objective.of_units else most)
        if any(nearly <= term < most for term in terms):
            return False
    return True


def has_ties(objective: Objective, regime: Regime) -> bool:
    """Whether in some row several components of a difference that is not 0 are the largest."""
    rows = (_maxima(objective, regime, row) for row in range(len(regime.x)))
    return any(max(terms) > 0 and terms.count(max(terms)) > 1 for maxima_of_row in rows for terms in maxima_of_row)


def _maxima(objective: Objective, regime: Regime, row: int) -> Iterator[list[Any]]:
    """The terms of the maxima that the distances of a row take."""
    if not takes_maxima(objective):
        return
    embeddings = zip(("x", "x_pos", "x_neg"), regime.embeddings, strict=True)
    rows = {name: [mpmath.mpf(float(c)) for c in embedding[row]] for name, embedding in embeddings}
    for first, second in (PAIRS[which] for which in objective.loss.distances):
        yield from maxima(distance_of(objective, regime.parameters), rows[first], rows[second])


@cache
def takes_maxima(objective: Objective) -> bool:
    """Whether the distance is one of largest components, which several may be."""
    one, zero = mpmath.mpf(1), mpmath.mpf(0)
    return bool(maxima(distance_of(objective, {}), [one], [zero]))


def _regimes(
    objective: Objective,
    dtype: str,
    parameters: Mapping[str, float],
    dims: Sequence[int],
    full_range: bool,
) -> Iterator[Regime]:
    random = np.random.Generator(np.random.PCG64(_SEED))

    def normal(rows: int, dim: int, scale: float = 1.0) -> Array:
        return FORMATS[dtype].rounded(scale * random.uniform(-1, 1, (rows, dim)))

    def regime(name: str, x: Array, x_pos: Array, x_neg: Array, **changed: float) -> Regime:
        x, x_pos, x_neg = (np.ascontiguousarray(FORMATS[dtype].rounded(a)) for a in (x, x_pos, x_neg))
        return Regime(name, x, x_pos, x_neg, {**parameters, **changed})

    for dim in (1, 2, 7):
        yield regime(f"ordinary, n = {dim}", normal(3, dim), normal(3, dim), normal(3, dim))
    changed = other_parameters(objective, parameters)
    yield regime("ordinary, other parameters", normal(3, 3), normal(3, 3), normal(3, 3), **changed)
    x, other = normal(2, 3), normal(2, 3)
    yield regime("x = x_pos", x, x, other)
    yield regime("x = x_neg", x, other, x)
    yield regime("collapsed, x = x_pos = x_neg", x, x, x)
    yield regime("near-collapsed", x, x + normal(2, 3, 1e-5), x + normal(2, 3, 1e-5))
    if objective.of_units:
        yield regime("x = 0", 0 * x, x, other)
        yield regime("x_pos = 0", x, 0 * x, other)
        yield regime("x_neg = 0", x, other, 0 * x)
        yield regime("opposite", x, -x, -2 * x)
    if takes_maxima(objective):
        yield regime("ties of components", *map(np.array, TIES))
    for exponent, name in ((-1, "tiny"), (1, "huge")):
        scale = SCALES[dtype] ** exponent
        far = normal(2, 3, scale)
        yield regime(f"{name}, scale {scale:.0e}", normal(2, 3, scale), normal(2, 3, scale), normal(2, 3, scale))
        yield regime(f"{name}, equal distances", 0 * far, far, -far)
    for size in (1e1, 1e2, 1e4):
        near, away = normal(1, 3, 0.01), normal(1, 3, 1.0) + np.sign(normal(1, 3))
        steep = size ** (1 / _degree(objective)) * away
        yield regime(
            f"|delta| about {size:.0e}",
            np.concatenate([near, near]),
            np.concatenate([steep, -near]),
            np.concatenate([-near, steep]),
        )
    # permuting one of two vectors does not change how far they are apart if the components of the other are all equal
    nearly = regime("nearly equal distances", 1 + 1e-6 * x[:1], other[:1], np.roll(other[:1], 1, axis=1))
    distances = distances_at(objective, [embedding[0] for embedding in nearly.embeddings], parameters)
    if _is_on_one_side(objective, distances, parameters, FORMATS[FORMATS[dtype].computed_in].eps):
        yield nearly
    # whether many components that are alike, and not 0, add to a distance, while those that are 0 do not
    adds_up = not (objective.of_units or takes_maxima(objective) or depends_on_zeros(objective))
    if full_range and dtype in FAR_SCALES:
        far_ones = [regime(name, *(normal(1, 3, scale) for scale in scales)) for name, scales in _far(dtype)]
        if adds_up:
            small = regime("many subnormal squares", *_many_small(dtype))
            with mpmath.workdps(60):
                d_pos, d_neg, *_ = distances_at(objective, [row[0] for row in small.embeddings], parameters)
            if min(d_pos, d_neg) >= FORMATS[FORMATS[dtype].computed_in].tiny:  # else rounding all of them is allowed
                far_ones.append(replace(small, columns=(0,), copies=small.x.size - 1))
        yield from (made for made in far_ones if not _is_beside_a_kink(objective, made, dtype))
    for dim in dims:
        columns = (0, *sorted(int(at) for at in random.choice(np.arange(1, dim - 1), 2, replace=False)), dim - 1)
        others = _of_many(objective, dim, parameters) if adds_up else 0.0
        scattered = [np.full((3, dim), value, FORMATS[dtype].dtype) for value in (0.0, others, others / 2)]
        for embedding in scattered:
            embedding[:, columns] = normal(3, len(columns))
        if takes_maxima(objective):
            for embedding, tied in zip(scattered, TIES, strict=True):
                embedding[0, columns] = tied[0]
        copies = dim - len(columns) if others or depends_on_zeros(objective) else 0
        yield replace(regime(f"{len(columns)} of {dim} components", *scattered), columns=columns, copies=copies)
    for changed in parameters_on_the_kinks(objective, parameters):
        x, x_pos, x_neg = (np.array([row]) for row in ON_THE_KINK[objective.of_units])
        yield regime("on the kink", x, x_pos, x_neg, **changed)


def other_parameters(objective: Objective, parameters: Mapping[str, float]) -> dict[str, float]:
    """Values that are not those of `parameters`, in the same domains."""
    domains = {p.name: p for p in objective.parameters}
    changed = {name: 0.625 * value + 0.0625 for name, value in parameters.items()}
    return {name: value if domains[name].holds(value) else 0.375 + value for name, value in changed.items()}


def _of_many(objective: Objective, dim: int, parameters: Mapping[str, float]) -> float:
    """A power of 2: if so many components differ by it, their distance is about 1, to which each of them counts."""
    far = distance_value(objective.distance, [mpmath.mpf(1)], [mpmath.mpf(0)], parameters, dim)
    return float(2.0 ** -round(float(mpmath.log(far, 2)) / _degree(objective)))


def depends_on_zeros(objective: Objective) -> bool:
    """Whether a component that is 0 in both embeddings adds to their distance."""
    zero, one = mpmath.mpf(0), mpmath.mpf(1)
    shorter, longer = (distance_value(objective.distance, [one, *z], [-one, *z], {}) for z in ((), (zero,)))
    return bool(shorter != longer)


def _is_beside_a_kink(objective: Objective, regime: Regime, dtype: str) -> bool:
    """Whether a row is nearer to a kink of the loss than the type can tell: distances of 1e-60 beside a margin of 0."""
    least = FORMATS[FORMATS[dtype].computed_in].tiny
    for rows in zip(*regime.embeddings, strict=True) if objective.loss.singularities else ():
        d_pos, d_neg, *others = distances_at(objective, rows, regime.parameters)
        for singularity in objective.loss.singularities:
            locus = locus_value(objective.loss, singularity.locus, d_pos, d_neg, regime.parameters, *others)
            if 0 < abs(locus) < least:
                return True
    return False


def _far(dtype: str) -> Iterator[tuple[str, tuple[float, float, float]]]:
    """Scales of x, x_pos and x_neg at which squares are outside the range of what is computed in."""
    large, small, format_ = FAR_SCALES[dtype], 1 / FAR_SCALES[dtype], FORMATS[dtype]
    computed = FORMATS[format_.computed_in]
    yield f"far, scale {small:.0e}", (small, small, small)
    yield f"far, scale {large:.0e}", (large, large, large)
    yield "one distance tiny", (small, small, 1.0)
    yield "the other tiny", (small, 1.0, small)
    yield "one distance tiny, one huge", (small, small, large)
    yield "one distance huge, one tiny", (small, large, small)
    for name, scale in (
        ("subnormal squares", math.sqrt(computed.tiny) * computed.eps**0.25),  # they have lost half of their digits
        ("subnormal", format_.tiny / 4),
        ("the largest", format_.largest / 4),
    ):
        yield name, (scale, scale, scale)


def _many_small(dtype: str) -> tuple[Array, Array, Array]:
    """Squares that have lost digits, below the normal range, and so many of them that their sum is in it."""
    scale = math.sqrt(FORMATS[FORMATS[dtype].computed_in].tiny) / 8
    x, x_pos, x_neg = (np.full((1, 64), value * scale) for value in (0.0, 1.0254, 1.1416))
    return x, x_pos, x_neg


def _degree(objective: Objective) -> float:
    """The degree of homogeneity of the distance: d(t*x, t*y) = t^degree * d(x, y); 1 for one that has none, or 0."""
    small, large = (
        distance_value(objective.distance, [t, mpmath.mpf(0)], [mpmath.mpf(0), t], {})
        for t in (mpmath.mpf(1), mpmath.mpf(2))
    )
    return float(mpmath.log(large / small, 2)) if 0 < small != large > 0 else 1.0


def parameters_on_the_kinks(objective: Objective, parameters: Mapping[str, float]) -> Iterator[dict[str, float]]:
    """For each kink of the loss, a parameter that puts `ON_THE_KINK` exactly on it, without rounding."""
    with mpmath.workdps(60):
        d_pos, d_neg, *others = distances_at(objective, ON_THE_KINK[objective.of_units], parameters)
    for singularity in objective.loss.singularities:
        for parameter in objective.loss.parameters:

            def locus(value: object, *, name: str = parameter.name, text: str = singularity.locus) -> mpmath.mpf:
                return locus_value(objective.loss, text, d_pos, d_neg, {**parameters, name: value}, *others)

            try:
                value = float(mpmath.findroot(locus, (mpmath.mpf(0), mpmath.mpf(1))))
            except (ArithmeticError, ValueError):  # it does not decide, or not so simply
                continue
            with mpmath.workdps(60):  # exactly, and not only to the digits of a float
                if locus(value) == 0 and parameter.holds(value):
                    yield {parameter.name: value}
