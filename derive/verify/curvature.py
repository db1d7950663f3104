"""The checks of Hessian-vector products, for every target that computes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any, Protocol

import mpmath
import numpy as np

from ..catalogue import Objective
from ..formats import FORMATS
from ..highprecision import distances_at, loss_value
from . import ahead
from .checks import BOUND, EMBEDDINGS, is_worse, ulps
from .products import Product, product
from .regimes import (
    FAR_SCALES,
    ON_THE_KINK,
    SCALES,
    TIES,
    Array,
    Regime,
    depends_on_zeros,
    is_judged,
    other_parameters,
    parameters_on_the_kinks,
    takes_maxima,
)
from .report import Check

_SEED = 19471115
_NAME, _ORDINARY = "Hessian times v", "ordinary"


class ProductRunner(Protocol):
    """Executes generated code: the product of each row's Hessian, three arrays of shape (rows, dim).

    embeddings, direction: three arrays of that shape. reduction: 'none', 'mean' or 'sum'.
    """

    def __call__(
        self,
        embeddings: Sequence[Array],
        direction: Sequence[Array],
        parameters: Mapping[str, float],
        reduction: str = "none",
    ) -> Sequence[Array]: ...


@dataclass(frozen=True)
class Case:
    """A row with a direction, and why it is looked at; its components are scattered over `dim`, if that is not 0."""

    regime: str
    embeddings: tuple[Array, ...]
    direction: tuple[Array, ...]
    parameters: Mapping[str, float]
    dim: int = 0


@dataclass(frozen=True)
class _Found:
    """The products of cases, each three vectors."""

    case: Case
    products: tuple[Array, ...]


def run_product_checks(
    objective: Objective,
    runner: ProductRunner,
    dtypes: Iterable[str],
    parameters: Mapping[str, float],
    translation_invariant: bool,
    *,
    dims: Sequence[int] = (),
    full_range: bool = False,
) -> tuple[Check, ...]:
    """Everything that is asked of products; the arguments are as for `checks.run_checks`."""
    checks: list[Check] = []
    for dtype in dtypes:
        cases = list(product_cases(objective, dtype, parameters, dims, full_range))
        ordinary = [case for case in cases if case.regime == _ORDINARY]
        asked = {  # all at once: it takes the same time
            "": cases,
            "other": [_along(case, case.direction[::-1]) for case in ordinary],
            "twice": [_along(case, [2 * part for part in case.direction]) for case in ordinary],
            "shift": [_along(case, case.direction[:1] * 3) for case in ordinary],
            "bad": [bad for case in ordinary[:1] for bad in _with_nan(case)],
        }
        try:
            with np.errstate(all="ignore"):
                every = iter(_run(runner, list(chain(*asked.values()))))
                found = {what: [next(every) for _ in of] for what, of in asked.items()}
                plain = [one for one in found[""] if one.case.regime == _ORDINARY]
                checks += _against_reference(objective, found[""], dtype)
                checks.append(_symmetric(objective, plain, found["other"], dtype))
                checks.append(_linear(objective, plain, found["twice"], dtype))
                if translation_invariant:
                    checks.append(_zero_for_a_shift(found["shift"], dtype))
                checks += _of_batches(objective, runner, plain, dtype)
        except Exception as error:  # the code under test may raise anything, and that is a finding
            checks.append(Check.finding(_NAME, "all", dtype, error))
    return tuple(checks)


def remember_products(
    objective: Objective,
    dtype: str,
    parameters: Mapping[str, float],
    dims: Sequence[int] = (),
    full_range: bool = False,
) -> dict[Any, Product]:
    """The reference of everything that `run_product_checks` will compare with one, which it will not compute again."""
    cases = product_cases(objective, dtype, parameters, dims, full_range)
    return {_key(objective, case): _cached_product(objective, case) for case in cases}


# ---------------------------------------------------------------- where it is looked


def product_cases(
    objective: Objective, dtype: str, parameters: Mapping[str, float], dims: Sequence[int], full_range: bool
) -> Iterator[Case]:
    """The same on every run; for float32 and float64 the same numbers, but at scales that only one has."""
    first = True
    for case in _all_cases(objective, dtype, parameters, full_range):
        x, x_pos, x_neg = (row[None] for row in case.embeddings)
        regime = Regime(case.regime, x, x_pos, x_neg, case.parameters)
        if not is_judged(objective, regime, 0, dtype) or _is_a_matter_of_form(objective, case):
            continue
        yield case
        # where zeros count, as with an epsilon in each difference, the reference would need a Hessian of all components
        if first and not depends_on_zeros(objective):
            yield from (replace(case, regime="long rows", dim=dim) for dim in dims)
        first = False


def _is_a_matter_of_form(objective: Objective, case: Case) -> bool:
    """Whether a loss is flat, but not constant, in a distance that is 0.

    Then it may have second derivatives where the distance has none, if that cancels: d^2 has, and d*d, masked, has not.
    """
    with mpmath.workdps(80):
        distances, h = distances_at(objective, case.embeddings, case.parameters), mpmath.mpf(10) ** -30
        for at in (at for at, distance in enumerate(distances) if distance == 0):
            moved = [distance + h * (at == other) for other, distance in enumerate(distances)]
            here, ahead = (
                loss_value(objective.loss, d_pos, d_neg, case.parameters, *others)
                for d_pos, d_neg, *others in (distances, moved)
            )
            if 0 < abs(ahead - here) < h * mpmath.mpf(10) ** -15:
                return True
    return False


def _all_cases(objective: Objective, dtype: str, parameters: Mapping[str, float], full_range: bool) -> Iterator[Case]:
    random = np.random.Generator(np.random.PCG64(_SEED))
    dim = 2 if objective.of_units else 3
    shared = dtype if dtype in ("float16", "bfloat16") else "float32"

    def normal(scale: float = 1.0, size: int = dim) -> Array:
        return scale * random.uniform(-1, 1, size)

    def case(
        regime: str, x: Array, x_pos: Array, x_neg: Array, scale: float | Sequence[float] = 1.0, **changed: float
    ) -> Case:
        each = scale if isinstance(scale, Sequence) else (scale,) * 3
        direction = tuple(normal(one, len(x)) for one in each)
        rows = (*(np.asarray(row, np.float64) for row in (x, x_pos, x_neg)), *direction)
        kept = dtype if max(abs(math.log2(np.max(np.abs(row)) or 1)) for row in rows) > 100 else shared
        held = [FORMATS[kept].rounded(row).astype(FORMATS[dtype].dtype) for row in rows]
        return Case(regime, tuple(held[:3]), tuple(held[3:]), {**parameters, **changed})

    x, other = normal(), normal()
    yield case(_ORDINARY, x, other, normal())
    yield case(_ORDINARY, normal(), normal(), normal())
    yield case("other parameters", normal(), normal(), normal(), **other_parameters(objective, parameters))
    yield case("x = x_pos", x, x, other)
    yield case("x = x_neg", x, other, x)
    yield case("collapsed", x, x, x)
    if objective.of_units:
        yield case("x_pos = 0", x, 0 * x, other)
    yield case("one component equal", x, np.append(x[:1], other[1:]), -x)
    for power in objective.distance.parameters if not objective.of_units else ():
        if power.domain == "at least 1":  # where there is no second derivative, and next to that
            for exponent in (1.0, 1.5, 2.0):
                yield case("one component equal", x, np.append(x[:1], other[1:]), -x, **{power.name: exponent})
    if takes_maxima(objective):
        for tied, tied_pos, tied_neg in zip(*map(np.array, TIES), strict=True):
            yield case("ties of components", tied, tied_pos, tied_neg)
    yield case("near-collapsed", x, x + normal(1e-3), x + normal(1e-3))
    # where rounding of the distances does not bend the loss
    if 1024 * FORMATS[FORMATS[dtype].computed_in].eps < _sharpest(parameters):
        yield case("nearly equal distances", 1 + 1e-3 * x[:1].repeat(dim), other, np.roll(other, 1))
    yield case("|delta| about 10", 0.01 * x, 10 * np.sign(other), 0.01 * other)
    yield case("|delta| about 10", 0.01 * x, 0.01 * other, 10 * np.sign(other))
    yield case("short and long directions", x, other, normal(), 1e-4)
    yield case("short and long directions", x, other, normal(), 1e3)
    scales = [(SCALES[dtype] ** sign,) * 3 for sign in (-1, 1)] if dtype != "float16" else []
    if full_range and dtype in FAR_SCALES:
        large = FAR_SCALES[dtype]
        scales += [(1 / large,) * 3, (large,) * 3, (1 / large, 1 / large, 1.0), (1 / large, 1.0, 1 / large)]
    for of in scales:  # the product of a short embedding that is normalized magnifies its part of the direction twice
        rows = [normal(scale) for scale in of]
        yield case("far scales", rows[0], rows[1], rows[2], of if objective.of_units else max(of))
    if scales[2:] and not objective.of_units:  # delta is 0, though what is added up in it is not in the range
        far = normal(large, 2)
        yield case("far, equal distances", np.zeros(2), far, far[::-1])
    for kink in parameters_on_the_kinks(objective, parameters):
        on_it = [np.array(row) for row in ON_THE_KINK[objective.of_units]]
        yield case("on the kink", on_it[0], on_it[1], on_it[2], 1.0, **kink)


# ---------------------------------------------------------------- against the reference


_products: dict[Any, Product] = {}


def _cached_product(objective: Objective, case: Case) -> Product:
    key = _key(objective, case)
    if key not in _products:
        _products.update(ahead.computed("products"))
    if key not in _products:
        _, rows, _ = key
        _products[key] = product(objective, rows[:3], rows[3:], case.parameters)
    return _products[key]


def _key(objective: Objective, case: Case) -> tuple[Any, ...]:
    """All that a product depends on."""
    rows = tuple(tuple(map(float, row)) for row in (*case.embeddings, *case.direction))
    return objective, rows, tuple(sorted(case.parameters.items()))


def _run(runner: ProductRunner, cases: Sequence[Case]) -> list[_Found]:
    """The products of cases, in their order; those that can be are run at once."""
    groups: dict[Any, list[int]] = {}
    for at, case in enumerate(cases):
        key = case.dim or len(case.embeddings[0]), *sorted(case.parameters.items())
        groups.setdefault(key, []).append(at)
    found: dict[int, _Found] = {}
    for members in groups.values():
        products = _run_batch(runner, [cases[at] for at in members])
        found |= {at: _found(cases[at], [part[row] for part in products]) for row, at in enumerate(members)}
    return [found[at] for at in range(len(cases))]


def _run_batch(runner: ProductRunner, cases: Sequence[Case], reduction: str = "none") -> Sequence[Array]:
    embeddings, direction = (
        [np.stack([_scattered(part, case.dim) for part, case in zip(parts, cases, strict=True)]) for parts in of]
        for of in (zip(*(c.embeddings for c in cases), strict=True), zip(*(c.direction for c in cases), strict=True))
    )
    return runner(embeddings, direction, cases[0].parameters, reduction)


def _places(count: int, dim: int) -> Any:
    """Where the components of a row are among `dim`."""
    return np.linspace(0, dim - 1, count).astype(int)


def _scattered(row: Array, dim: int) -> Array:
    if not dim:
        return row
    scattered = np.zeros(dim, row.dtype)
    scattered[_places(len(row), dim)] = row
    return scattered


def _found(case: Case, products: Sequence[Array]) -> _Found:
    if case.dim:
        places = _places(len(case.embeddings[0]), case.dim)
        # a component that nothing depends on spoils all
        spoilt = [np.count_nonzero(part) > np.count_nonzero(part[places]) for part in products]
        products = [np.where(bad, np.nan, part[places]) for bad, part in zip(spoilt, products, strict=True)]
    return _Found(case, tuple(products))


def _against_reference(objective: Objective, found: Sequence[_Found], dtype: str) -> Iterator[Check]:
    worst = dict.fromkeys((one.case.regime for one in found), (0.0, ""))
    for one in found:
        case, exact = one.case, _cached_product(objective, one.case)
        floor = _magnification(exact)
        for name, part in zip(EMBEDDINGS, one.products, strict=True):
            for error in ulps(part, exact.of[name], dtype, floor):
                if is_worse(error, worst[case.regime][0]):
                    where = [[row.tolist() for row in rows] for rows in (case.embeddings, case.direction)]
                    worst[case.regime] = error, f"that of {name}, at {where[0]} along {where[1]}"
    for regime, (error, detail) in worst.items():
        yield Check(_NAME, regime, dtype, error, BOUND, detail=detail)


def _magnification(exact: Product) -> float:
    """By how much a product magnifies what parts of the loss lose below the normal range."""
    return float(min(max(exact.magnified, 1), 1e305))


def _sharpest(parameters: Mapping[str, float]) -> float:
    return min([1.0, *(value for value in parameters.values() if value > 0)])


# ---------------------------------------------------------------- without the reference


def _along(case: Case, direction: Sequence[Array]) -> Case:
    return replace(case, direction=tuple(direction))


def _scale(objective: Objective, case: Case) -> list[Array]:
    """Of the terms of a product."""
    exact = _cached_product(objective, case).of
    return [np.asarray(exact[name].scale, np.float64) for name in EMBEDDINGS]


def _symmetric(objective: Objective, of_v: Sequence[_Found], of_w: Sequence[_Found], dtype: str) -> Check:
    """<w, H v> = <v, H w>, at the scale of the terms of the products."""
    worst = 0.0
    for one, other in zip(of_v, of_w, strict=True):
        sides = [_inner(one.products, other.case.direction), _inner(other.products, one.case.direction)]
        size = sum(
            _inner(_scale(objective, of.case), [np.abs(part) for part in along.case.direction])
            for of, along in ((one, other), (other, one))
        )
        error = abs(sides[0] - sides[1]) / (FORMATS[dtype].eps * size + FORMATS[dtype].tiny)
        worst = error if is_worse(error, worst) else worst
    return Check(f"{_NAME}: symmetric", _ORDINARY, dtype, worst, BOUND)


def _inner(a: Sequence[Array], b: Sequence[Array]) -> float:
    return sum(float(np.asarray(x, np.float64) @ np.asarray(y, np.float64)) for x, y in zip(a, b, strict=True))


def _linear(objective: Objective, found: Sequence[_Found], twice: Sequence[_Found], dtype: str) -> Check:
    """H(2 v) is 2 H v, to the last bit, where nothing is below the normal range."""
    differing = 0
    for one, two in zip(found, twice, strict=True):
        least = FORMATS[dtype].tiny * _magnification(_cached_product(objective, one.case))
        for a, b in zip(one.products, two.products, strict=True):
            differing += int(np.count_nonzero(~((2 * a == b) | (np.abs(b) <= least))))
    return Check(f"{_NAME}: linear in v", "bit for bit", dtype, differing, 0, unit="numbers")


def _zero_for_a_shift(found: Sequence[_Found], dtype: str) -> Check:
    """Moving all embeddings together changes no gradient."""
    differing = sum(int(np.count_nonzero(part)) for one in found for part in one.products)
    return Check(f"{_NAME}: 0 for a shift", "bit for bit", dtype, differing, 0, unit="numbers")


def _with_nan(case: Case) -> Iterator[Case]:
    spoilt = [array * np.nan for array in case.embeddings]
    yield replace(case, embeddings=tuple(spoilt))
    yield _along(case, spoilt)


def _of_batches(objective: Objective, runner: ProductRunner, found: Sequence[_Found], dtype: str) -> Iterator[Check]:
    """Products are multiplied as gradients are; and they are what they were in a batch with rows of NaN."""
    worst, differing, rows = 0.0, 0, [*found, *found[:1]]
    for reduction, factor in (("mean", 1 / len(rows)), ("sum", 1.0)) if rows else ():
        reduced = _run_batch(runner, [one.case for one in rows], reduction)
        for row, one in enumerate(rows):
            for part, scale, rowwise in zip(reduced, _scale(objective, one.case), one.products, strict=True):
                unit = factor * FORMATS[dtype].eps * scale + FORMATS[dtype].tiny
                error = np.abs(part[row].astype(np.float64) - factor * rowwise.astype(np.float64)) / unit
                worst = float(np.maximum(worst, np.max(error)))
                differing += int(np.count_nonzero(part[row] != rowwise)) if factor == 1 else 0
    yield Check(f"{_NAME}: mean and sum", _ORDINARY, dtype, worst, BOUND)
    yield Check(f"{_NAME}: NaN stays in its row", "bit for bit", dtype, differing, 0, unit="numbers")
