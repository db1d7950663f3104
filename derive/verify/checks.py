"""The checks that every target which can be executed has to pass, whatever it is written in."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Protocol

import mpmath
import numpy as np

from ..catalogue import Objective
from ..formats import FORMATS, FloatFormat
from ..highprecision import distance_between, distances_at
from . import ahead
from .reference import Exact, Reference, reference
from .regimes import Array, Regime, regimes
from .report import Check

BOUND = 4.0
"""Largest accepted error in ULPs, as `ulps` measures it."""

EMBEDDINGS = ("x", "x_pos", "x_neg")
QUANTITIES = ("loss", *(f"dL/d{name}" for name in EMBEDDINGS))
DIMS = (5_003,)
"""Numbers of components at which no code should do anything of its own."""

_SHAPES = ((40_003, 2), (3, 10_006))  # columns: an even number, of which none keeps its lane when reversed
_ORDER_BOUND = 64.0  # a running sum of 10,007 float32 terms, in another order, differs by some tens


class Runner(Protocol):
    """Executes generated code: the loss of each row, shape (rows,), and the three gradients, shape (rows, dim).

    reduction is 'none', 'mean' or 'sum'; for the last two the loss is a scalar.
    """

    def __call__(
        self, x: Array, x_pos: Array, x_neg: Array, parameters: Mapping[str, float], reduction: str = "none"
    ) -> tuple[Array, Sequence[Array]]: ...


@dataclass(frozen=True)
class Method:
    """One way to compute losses and gradients.

    name: the head of its column. about: by what it is computed.
    runners: by float type. ours: whether it is generated code, which has a bound.
    lacks: why it cannot be run here and how to mend that, if it cannot.
    """

    name: str
    about: str
    runners: Mapping[str, Runner] = field(default_factory=dict)
    ours: bool = True
    lacks: str = ""


def run_checks(
    objective: Objective,
    runner: Runner,
    dtypes: Iterable[str],
    parameters: Mapping[str, float],
    translation_invariant: bool,
    *,
    dims: Sequence[int] = DIMS,
    shapes: Sequence[tuple[int, int]] = _SHAPES,
    full_range: bool = False,
    at_once: bool = False,
) -> tuple[Check, ...]:
    """Everything that is asked of `runner`; `parameters` are the defaults of the generated code.

    dims: numbers of components at which the code does something of its own.
    shapes: of batches that are long in one way or the other.
    full_range: distances have to be right wherever they are representable, not only where their squares are.
    at_once: run batches of one dimension together, for a runner that takes as long for one row as for many.
    """
    checks: list[Check] = []
    for dtype in dtypes:
        batches = tuple(regimes(objective, dtype, parameters, dims, full_range))
        try:
            with np.errstate(all="ignore"):
                run = AtOnce(runner, batches) if at_once else runner
                checks += _checks_of_type(objective, run, dtype, batches, translation_invariant, shapes)
        except Exception as error:  # the code under test may raise anything, and that is a finding
            checks.append(Check.finding("runs", "all", dtype, error))
    return tuple(checks)


def _checks_of_type(
    objective: Objective,
    runner: Runner,
    dtype: str,
    batches: Iterable[Regime],
    translation_invariant: bool,
    shapes: Sequence[tuple[int, int]],
) -> list[Check]:
    checks: list[Check] = []
    ordinary: list[Regime] = []
    for regime in batches:
        checks += _against_reference(objective, runner, regime, dtype)
        if regime.name.startswith("ordinary"):
            ordinary.append(regime)
    if translation_invariant:
        checks.append(_gradients_sum_to_zero(runner, ordinary, dtype))
    if objective.of_units:
        checks.append(_gradients_are_orthogonal(objective, runner, ordinary, dtype))
    checks.append(_reductions(objective, runner, ordinary[-1], dtype))
    if shapes:
        checks.append(_order(objective, runner, dtype, shapes))
    if dtype == "float64":
        checks.append(_taylor_slope(runner, ordinary[-1]))
    return checks


class AtOnce:
    """A runner that has run all batches of one dimension and the same parameters together."""

    def __init__(self, runner: Runner, batches: Iterable[Regime]) -> None:
        self.runner = runner
        self.known: dict[tuple[int, ...], tuple[Array, Sequence[Array]]] = {}
        alike: dict[tuple[Any, ...], list[Regime]] = {}
        for regime in batches:
            alike.setdefault((regime.x.shape[1], *sorted(regime.parameters.items())), []).append(regime)
        for members in alike.values():
            x, x_pos, x_neg = (np.concatenate(arrays) for arrays in zip(*(m.embeddings for m in members), strict=True))
            loss, gradients = runner(x, x_pos, x_neg, members[0].parameters)
            start = 0
            for member in members:
                rows = slice(start, start := start + len(member.x))
                self.known[tuple(map(id, member.embeddings))] = loss[rows], [gradient[rows] for gradient in gradients]

    def __call__(
        self, x: Array, x_pos: Array, x_neg: Array, parameters: Mapping[str, float], reduction: str = "none"
    ) -> tuple[Array, Sequence[Array]]:
        known = self.known.get((id(x), id(x_pos), id(x_neg))) if reduction == "none" else None
        return known or self.runner(x, x_pos, x_neg, parameters, reduction)


# ---------------------------------------------------------------- against the reference


@dataclass(frozen=True)
class Worst:
    """The largest error of one of `QUANTITIES` over the rows of a regime, as `ulps` measures it, and where it is.

    found: the number that is wrong by so much.
    """

    of: str
    error: float = 0.0
    row: int = 0
    component: int = 0
    found: float = 0.0

    @property
    def shown(self) -> str:
        """The error, for people; where it is not finite, what was found instead of the number that is right."""
        if math.isfinite(self.error):
            return f"{self.error:.2g}"
        return "finite" if math.isfinite(self.found) else f"{self.found}"


def worst_errors(objective: Objective, runner: Runner, regime: Regime, dtype: str) -> tuple[Worst, ...]:
    """The largest error of each of `QUANTITIES`, in that order."""
    loss, gradients = runner(*regime.embeddings, regime.parameters)
    floor = magnification(regime)
    worst = {of: Worst(of) for of in QUANTITIES}

    def raise_worst(of: str, row: int, found: Sequence[Any], errors: Sequence[float]) -> None:
        for component, (error, value) in enumerate(zip(errors, found, strict=True)):
            if is_worse(error, worst[of].error):
                worst[of] = Worst(of, error, row, component, float(value))

    for row in range(len(regime.x)):
        expected = cached_reference(objective, regime, row)
        raise_worst("loss", row, [loss[row]], ulps([loss[row]], expected.loss, FORMATS[dtype].computed_in))
        for name, found in zip(EMBEDDINGS, gradients, strict=True):
            held = list(found[row] if regime.columns is None else found[row][list(regime.columns)])
            exact = expected.gradients[name]
            if regime.columns and regime.copies:  # the others are all alike
                others = np.delete(found[row], regime.columns)
                held += [others.min(), others.max()]
                exact = Exact([*exact.value, exact.value[-1]], [*exact.scale, exact.scale[-1]])
            errors = ulps(held, exact, dtype, floor)
            if not regime.copies and np.count_nonzero(found[row]) > np.count_nonzero(held):
                errors.append(math.inf)  # a component that nothing depends on
                held.append(np.max(np.abs(found[row])))
            raise_worst(f"dL/d{name}", row, held, errors)
    return tuple(worst.values())


def _against_reference(objective: Objective, runner: Runner, regime: Regime, dtype: str) -> list[Check]:
    loss, *gradients = worst_errors(objective, runner, regime, dtype)
    gradient = gradients[0]
    for other in gradients[1:]:
        gradient = other if is_worse(other.error, gradient.error) else gradient
    return [
        Check(
            *(what, regime.name, dtype, worst.error, BOUND),
            detail=f"{where}row {worst.row}, component {worst.component}" if worst.error else "",
            point="" if worst.error <= BOUND else point(objective, regime, worst.row),
        )
        for what, worst, where in (("loss", loss, ""), ("gradient", gradient, f"{gradient.of}, "))
    ]


def point(objective: Objective, regime: Regime, row: int) -> str:
    """The distances and parameters of a row, for people."""
    triplet = [embedding[row] for embedding in regime.embeddings]
    distances = zip(objective.loss.distances, distances_at(objective, triplet, regime.parameters), strict=True)
    values = {**dict(distances), **{name: mpmath.mpf(value) for name, value in regime.parameters.items()}}
    return ", ".join(f"{name} = {mpmath.nstr(value, 6)}" for name, value in values.items())


def magnification(regime: Regime) -> float:
    """By how much a gradient magnifies what a slope loses below the normal range."""
    sizes = [float(np.max(np.abs(other - regime.x))) for other in (regime.x_pos, regime.x_neg)]
    return max(1.0, *sizes) / min([1.0, *(value for value in regime.parameters.values() if value > 0)])


def is_worse(error: float, than: float) -> bool:
    """NaN is the worst of all, and stays so."""
    return not (error <= than or math.isnan(than))


_references: dict[Any, Reference] = {}


def remember(
    objective: Objective,
    dtype: str,
    parameters: Mapping[str, float],
    dims: Sequence[int] = DIMS,
    full_range: bool = False,
) -> dict[Any, Reference]:
    """The reference of everything that `run_checks` will compare with one, which it will not compute again."""
    every = regimes(objective, dtype, parameters, dims, full_range)
    rows = [(regime, row) for regime in every for row in range(len(regime.x))]
    return {_key(objective, regime, row): cached_reference(objective, regime, row) for regime, row in rows}


def cached_reference(objective: Objective, regime: Regime, row: int) -> Reference:
    """The reference of one row, computed once for all targets and for both float types where the inputs are equal."""
    key = _key(objective, regime, row)
    if key not in _references:
        _references.update(ahead.computed("references"))
    if key not in _references:
        _, rows, _, copies = key
        _references[key] = reference(objective, rows[0], rows[1], rows[2], regime.parameters, copies or 1)
    return _references[key]


def _key(objective: Objective, regime: Regime, row: int) -> tuple[Any, ...]:
    """All that a reference depends on."""
    held = slice(None) if regime.columns is None else list(regime.columns)
    alike = [int(at) for at in np.delete(np.arange(regime.x.shape[1]), held)[: bool(regime.copies)]]
    rows = tuple(
        tuple(float(c) for c in (*embedding[row][held], *embedding[row][alike])) for embedding in regime.embeddings
    )
    return objective, rows, tuple(sorted(regime.parameters.items())), regime.copies


def ulps(
    found: Iterable[Any], exact: Exact, dtype: str, floor: float = 1.0, range_of: str | None = None
) -> list[float]:
    """Errors in units of the last place of the type that is computed in, at the scale of the exact result.

    Where results are kept in a narrower type, half a unit of that is granted before: they are rounded to nearest.
    Below the normal range a unit is `floor` times the smallest subnormal. Infinity is right, and nothing else is, where
    the exact result is beyond the type, or beyond `range_of` for results of a wider one; anywhere else what is not
    finite is infinitely wrong.
    """
    kept, computed = FORMATS[dtype], FORMATS[FORMATS[dtype].computed_in]
    least, epsilon = mpmath.mpf(floor * computed.smallest_subnormal), mpmath.mpf(computed.eps)
    widest = FORMATS[range_of or dtype]
    half_of_largest = mpmath.ldexp(1, widest.largest_exponent - widest.precision)
    errors = []
    for value, wanted, scale in zip(map(float, found), exact.value, exact.scale_in(epsilon), strict=True):
        if math.isnan(value):
            errors.append(math.nan)
        elif abs(wanted) - widest.largest >= half_of_largest:
            errors.append(0.0 if value == (math.inf if wanted > 0 else -math.inf) else math.inf)
        elif math.isinf(value):
            errors.append(math.inf)
        else:
            rounding = _half_a_unit(kept, wanted) if kept != computed else 0
            errors.append(float(max(abs(value - wanted) - rounding, 0) / (epsilon * scale + least)))
    return errors


def _half_a_unit(format_: FloatFormat, number: mpmath.mpf) -> mpmath.mpf:
    """Half of the distance between the two numbers of a format that `number` is between."""
    unit = mpmath.ldexp(format_.eps, mpmath.frexp(number)[1] - 1) if number else 0
    return max(unit, format_.smallest_subnormal) / 2


# ---------------------------------------------------------------- without the reference


def differing_beside_bad_rows(results: Callable[[Sequence[Array]], Sequence[Array]], batch: Sequence[Array]) -> int:
    """How many numbers change where other rows hold NaN and infinity, or do not become NaN where they must.

    results: the losses and the gradients of a batch. batch: of at least four rows, of at least four components.
    """
    nan, infinite, k = 1, 2, 3
    with_bad = [array.copy() for array in batch]
    with_bad[0][[nan, infinite], k] = np.nan, np.inf
    others = np.setdiff1d(np.arange(len(batch[0])), [nan, infinite])
    found, wanted = results(with_bad), results(batch)
    loss, *gradients = found
    own = [loss[nan], *(gradient[nan, k] for gradient in gradients)]
    changed = number_differing((a[others] for a in found), (a[others] for a in wanted))
    return changed + int(np.count_nonzero(~np.isnan(own)))


def number_differing(found: Iterable[Array], wanted: Iterable[Array]) -> int:
    """How many numbers of some arrays are not those of others."""
    return sum(int(np.count_nonzero(a != b)) for a, b in zip(found, wanted, strict=True))


def _gradients_sum_to_zero(runner: Runner, batch: Iterable[Regime], dtype: str) -> Check:
    worst = 0.0
    for regime in batch:
        _, gradients = runner(*regime.embeddings, regime.parameters)
        total = np.abs(np.sum(gradients, axis=0, dtype=np.float64))
        size = np.max(np.abs(gradients), axis=0).astype(np.float64)
        worst = _worst(worst, total, _unit(dtype, size))
    return Check("gradients sum to 0", "ordinary", dtype, worst, BOUND)


def _gradients_are_orthogonal(objective: Objective, runner: Runner, batch: Iterable[Regime], dtype: str) -> Check:
    """No gradient has a part along its embedding, where that is normalized; at the scale of the exact gradients."""
    worst = 0.0
    for regime in batch:
        _, gradients = runner(*regime.embeddings, regime.parameters)
        for row in range(len(regime.x)):
            exact = cached_reference(objective, regime, row).gradients
            for name, embedding, gradient in zip(EMBEDDINGS, regime.embeddings, gradients, strict=True):
                x, g = (array[row].astype(np.float64) for array in (embedding, gradient))
                size = np.abs(x) @ np.asarray(exact[name].scale_in(FORMATS[dtype].eps), np.float64)
                worst = _worst(worst, np.abs(x @ g), _unit(dtype, size))
    return Check("gradients orthogonal", "ordinary", dtype, worst, BOUND)


def _unit(dtype: str, size: Any) -> Any:
    """A unit in the last place of numbers of some sizes, above the subnormal range."""
    return FORMATS[dtype].eps * size + FORMATS[dtype].tiny


def _worst(so_far: float, errors: Array, unit: Array) -> float:
    """The largest of `errors` in `unit` and `so_far`; what is not finite is NaN and stays."""
    measured = np.where(np.isfinite(errors), errors, np.nan) / unit
    return float(np.maximum(so_far, np.max(measured)))


def _order(objective: Objective, runner: Runner, dtype: str, shapes: Iterable[tuple[int, int]]) -> Check:
    """Reversing rows and components reverses the results: many rows, and rows too long to be held at once.

    It takes no reference to see that a row or a component is left out, counted twice or put in the wrong place.
    """
    random = np.random.Generator(np.random.PCG64(0))
    worst, computed_in, rounded = 0.0, FORMATS[dtype].computed_in, FORMATS[dtype].rounded
    parameters = {p.name: p.default for p in objective.parameters}
    for shape in shapes:
        size = _size(objective, shape[1], parameters)
        x, x_pos = (rounded(random.uniform(-size, size, shape)) for _ in range(2))
        # the negative is closer, for a slope may vanish or be infinitely steep where the distances are alike, and most
        # are in many dimensions; and not half as far, where a formula may have a kink
        x_neg = rounded(x + np.roll(x_pos - x, 1, axis=1) * 0.375)
        loss, gradients = runner(x, x_pos, x_neg, parameters)
        loss_turned, gradients_turned = runner(_turned(x), _turned(x_pos), _turned(x_neg), parameters)
        apart = [np.max(np.abs(a[::-1, ::-1] - b)) for a, b in zip(gradients_turned, gradients, strict=True)]
        largest = max(float(np.max(np.abs(gradient))) for gradient in gradients)
        # gradients are judged at the largest of all, because that of a row may have cancelled; so may a loss, which is
        # judged as the distances are
        worst = _worst(worst, np.asarray(apart, np.float64), _unit(dtype, largest))
        least = np.maximum(np.abs(loss.astype(np.float64)), 1)
        worst = _worst(worst, np.abs(loss_turned[::-1].astype(np.float64) - loss), FORMATS[computed_in].eps * least)
    return Check("any order", "many rows, long rows", dtype, worst, _ORDER_BOUND)


def _size(objective: Objective, dim: int, parameters: Mapping[str, float]) -> float:
    """Of components, for distances of order 1 at most, at which no loss magnifies rounding."""
    size = mpmath.mpf(1) / math.sqrt(dim)
    apart = distance_between(objective, [size], [mpmath.mpf(0)], parameters, copies=dim)
    return float(size / max(apart, 1))


def _sizes_of_rows(objective: Objective, regime: Regime, gradients: Array, dtype: str) -> Array:
    """At which the gradients of a row are judged: that of the largest, for in that of the anchor the others may cancel.

    Where embeddings are normalized that of its terms, of which the part along the embedding is taken away.
    """
    if objective.of_units:
        rows = [cached_reference(objective, regime, row).gradients.values() for row in range(len(regime.x))]
        terms = [[float(size) for exact in row for size in exact.scale_in(FORMATS[dtype].eps)] for row in rows]
        return np.asarray([[max(sizes)] for sizes in terms])
    largest: Array = np.max(np.max(np.abs(gradients), axis=0), axis=1)  # NumPy is slow on both axes at once
    return largest[:, None]


def _turned(batch: Array) -> Array:
    return np.ascontiguousarray(np.flip(batch))


def _reductions(objective: Objective, runner: Runner, regime: Regime, dtype: str) -> Check:
    """Mean and sum are those of the rows, and the gradients are scaled with them."""
    rows = len(regime.x)
    loss, gradients = runner(*regime.embeddings, regime.parameters)
    rowwise: tuple[Any, Any] = np.sum(loss, dtype=np.float64), np.asarray(gradients, dtype=np.float64)
    sizes = np.abs(rowwise[0]), _sizes_of_rows(objective, regime, rowwise[1], dtype)
    worst = 0.0
    for reduction, factor in (("mean", 1 / rows), ("sum", 1.0)):
        reduced = runner(*regime.embeddings, regime.parameters, reduction)
        for found, wanted, size, kept in zip(reduced, rowwise, sizes, (FORMATS[dtype].computed_in, dtype), strict=True):
            unit = _unit(kept, factor * size)
            worst = _worst(worst, np.abs(np.asarray(found, dtype=np.float64) - factor * wanted), unit)
    return Check("mean and sum", "ordinary", dtype, worst, BOUND)


def _taylor_slope(runner: Runner, regime: Regime) -> Check:
    """The remainder L(x + h*v) - L(x) - h*<grad, v> falls as h^2, until rounding or because it is 0.

    Measured is by how much the observed order falls short of 2, over two halvings of h.
    """
    directions = [np.roll(e, 1, axis=1) for e in regime.embeddings]

    def total(h: float) -> Array:
        x, x_pos, x_neg = (e + h * v for e, v in zip(regime.embeddings, directions, strict=True))
        return runner(x, x_pos, x_neg, regime.parameters)[0]

    loss, gradients = runner(*regime.embeddings, regime.parameters)
    linear = sum(np.sum(g * v, axis=1) for g, v in zip(gradients, directions, strict=True))
    steps = [2.0**-10, 2.0**-11, 2.0**-12]
    remainders = [np.abs(total(h) - loss - h * linear) for h in steps]
    rounding = 64 * np.finfo(np.float64).eps * (1 + np.abs(loss))
    shortfall = 0.0
    for larger, smaller in pairwise(remainders):
        visible = ~(larger <= 16 * rounding)  # NaN included
        order = np.log2(larger[visible] / np.maximum(smaller[visible], rounding[visible]))
        shortfall = float(np.maximum(shortfall, np.max(2 - order, initial=0.0)))
    return Check("Taylor remainder", "ordinary", "float64", shortfall, 0.1, unit="of order 2")
