"""The checks of Hessian-vector products, for every target that computes them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..catalogue import Objective
from ..formats import FORMATS
from .checks import BOUND, EMBEDDINGS, is_worse, ulps
from .products import Product, product
from .regimes import FAR_SCALES, ON_THE_KINK, SCALES, Array, Regime, is_judged, parameters_on_the_kinks
from .report import Check

_SEED = 19471115
_NAME = "Hessian times v"


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
    """A row with a direction, and why it is looked at."""

    regime: str
    embeddings: tuple[Array, ...]
    direction: tuple[Array, ...]
    parameters: Mapping[str, float]


def run_product_checks(
    objective: Objective,
    runner: ProductRunner,
    dtypes: Iterable[str],
    parameters: Mapping[str, float],
    translation_invariant: bool,
    full_range: bool = False,
) -> tuple[Check, ...]:
    """Everything that is asked of products; parameters and full_range are as for `checks.run_checks`."""
    checks: list[Check] = []
    for dtype in dtypes:
        cases = list(_cases(objective, dtype, parameters, full_range))
        try:
            with np.errstate(all="ignore"):
                checks += _against_reference(objective, runner, cases, dtype)
                ordinary = [case for case in cases if case.regime == "ordinary"]
                checks += _properties(objective, runner, ordinary, dtype, translation_invariant)
        except Exception as error:  # the code under test may raise anything, and that is a finding
            detail = f"{type(error).__name__}: {error}"
            checks.append(Check(_NAME, "all", dtype, 1, 0, unit="errors", detail=detail))
    return tuple(checks)


def remember_products(
    objective: Objective, dtype: str, parameters: Mapping[str, float], full_range: bool = False
) -> None:
    """Compute the reference of everything that `run_product_checks` will compare with one."""
    for case in _cases(objective, dtype, parameters, full_range):
        _cached_product(objective, case)


# ---------------------------------------------------------------- where it is looked


def _cases(objective: Objective, dtype: str, parameters: Mapping[str, float], full_range: bool) -> Iterator[Case]:
    """The same on every run; for float32 and float64 the same numbers, but at scales that only one has."""
    for case in _all_cases(objective, dtype, parameters, full_range):
        regime = Regime(case.regime, *(row[None] for row in case.embeddings), case.parameters)
        if is_judged(objective, regime, 0, dtype):
            yield case


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
    yield case("ordinary", x, other, normal())
    yield case("ordinary", normal(1.0, 3), normal(1.0, 3), normal(1.0, 3))
    changed = {name: 0.625 * value + 0.0625 for name, value in parameters.items()}
    yield case("other parameters", normal(), normal(), normal(), **changed)
    if not objective.loss.source:  # of which a distance may be no part where it has no derivative
        yield case("x = x_pos", x, x, other)
        yield case("x = x_neg", x, other, x)
        yield case("collapsed", x, x, x)
    if objective.of_units:
        yield case("x_pos = 0", x, 0 * x, other)
    yield case("one component equal", x, np.append(x[:1], other[1:]), -x)
    yield case("near-collapsed", x, x + normal(1e-3), x + normal(1e-3))
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
        yield case("far scales", *(normal(scale) for scale in of), of if objective.of_units else max(of))
    for kink in parameters_on_the_kinks(objective, parameters):
        yield case("on the kink", *map(np.array, ON_THE_KINK[objective.of_units]), **kink)


# ---------------------------------------------------------------- against the reference


_products: dict[Any, Product] = {}


def _cached_product(objective: Objective, case: Case) -> Product:
    rows = tuple(tuple(map(float, row)) for row in (*case.embeddings, *case.direction))
    key = objective, rows, tuple(sorted(case.parameters.items()))
    if key not in _products:
        _products[key] = product(objective, rows[:3], rows[3:], case.parameters)
    return _products[key]


def _run(runner: ProductRunner, cases: Sequence[Case], reduction: str = "none") -> Sequence[Array]:
    """The products of cases with the same parameters and the same number of components."""
    embeddings = [np.stack(rows) for rows in zip(*(case.embeddings for case in cases), strict=True)]
    direction = [np.stack(rows) for rows in zip(*(case.direction for case in cases), strict=True)]
    return runner(embeddings, direction, cases[0].parameters, reduction)


def _alike(cases: Iterable[Case]) -> list[list[Case]]:
    """Cases that can be run at once."""
    groups: dict[Any, list[Case]] = {}
    for case in cases:
        groups.setdefault((len(case.embeddings[0]), *sorted(case.parameters.items())), []).append(case)
    return list(groups.values())


def _against_reference(
    objective: Objective, runner: ProductRunner, cases: Sequence[Case], dtype: str
) -> Iterator[Check]:
    worst = dict.fromkeys((case.regime for case in cases), (0.0, ""))
    for group in _alike(cases):
        found = _run(runner, group)
        for row, case in enumerate(group):
            exact = _cached_product(objective, case)
            floor = _magnification(exact, case)
            for name, products in zip(EMBEDDINGS, found, strict=True):
                for error in ulps(products[row], exact.of[name], dtype, floor):
                    if is_worse(error, worst[case.regime][0]):
                        worst[case.regime] = error, f"that of {name}, at {case.embeddings} along {case.direction}"
    for regime, (error, detail) in worst.items():
        yield Check(_NAME, regime, dtype, error, BOUND, detail=detail)


def _magnification(exact: Product, case: Case) -> float:
    """By how much a product magnifies what derivatives of the loss lose below the normal range."""
    sharpest = min([1.0, *(value for value in case.parameters.values() if value > 0)])
    return float(min(max(exact.magnified, 1), 2.0**60)) / sharpest**2


# ---------------------------------------------------------------- without the reference


def _properties(
    objective: Objective, runner: ProductRunner, cases: Sequence[Case], dtype: str, translation_invariant: bool
) -> Iterator[Check]:
    yield _symmetry(objective, runner, cases, dtype)
    twice = [_turned(case, [2 * part for part in case.direction]) for case in cases]
    differing = 0
    for one, two in zip(_alike(cases), _alike(twice), strict=True):
        pairs = zip(_run(runner, one), _run(runner, two), strict=True)
        differing += sum(int(np.count_nonzero(~(2 * a == b))) for a, b in pairs)
    yield Check(f"{_NAME}: linear in v", "ordinary", dtype, differing, 0, unit="numbers")
    if translation_invariant:
        yield _of_a_shift(objective, runner, cases, dtype)
    yield _reductions(objective, runner, cases, dtype)


def _turned(case: Case, direction: Sequence[Array]) -> Case:
    return Case(case.regime, case.embeddings, tuple(direction), case.parameters)


def _symmetry(objective: Objective, runner: ProductRunner, cases: Sequence[Case], dtype: str) -> Check:
    """<w, H v> = <v, H w>, at the scale of the terms of the products."""
    others = [_turned(case, case.direction[::-1]) for case in cases]
    worst = 0.0
    for one, other in zip(_alike(cases), _alike(others), strict=True):
        of_v, of_w = ([np.asarray(part, np.float64) for part in _run(runner, group)] for group in (one, other))
        for row, (case, turned) in enumerate(zip(one, other, strict=True)):
            sides, size = [], 0.0
            for products, along, of in ((of_v, turned.direction, case), (of_w, case.direction, turned)):
                exact = _cached_product(objective, of).of
                parts = [np.asarray(part, np.float64) for part in along]
                sides.append(sum(float(w @ h[row]) for w, h in zip(parts, products, strict=True)))
                size += sum(
                    float(np.abs(w) @ np.asarray(exact[name].scale, np.float64))
                    for name, w in zip(EMBEDDINGS, parts, strict=True)
                )
            error = abs(sides[0] - sides[1]) / (FORMATS[dtype].eps * size + FORMATS[dtype].tiny)
            worst = error if is_worse(error, worst) else worst
    return Check(f"{_NAME}: symmetric", "ordinary", dtype, worst, BOUND)


def _of_a_shift(objective: Objective, runner: ProductRunner, cases: Sequence[Case], dtype: str) -> Check:
    """Moving all embeddings together changes no gradient, whatever that would be of one alone."""
    worst = 0.0
    for group in _alike(_turned(case, case.direction[:1] * 3) for case in cases):
        found = _run(runner, group)
        worst = float(np.maximum(worst, max(np.max(np.abs(part)) for part in found)))
    return Check(f"{_NAME}: 0 for a shift", "ordinary", dtype, worst, 0, unit="at most")


def _reductions(objective: Objective, runner: ProductRunner, cases: Sequence[Case], dtype: str) -> Check:
    """Products are multiplied as gradients are, for mean and sum."""
    worst = 0.0
    for group in _alike(cases):
        batch = [*group, *group, *group]
        rowwise = [np.asarray(part, np.float64) for part in _run(runner, batch)]
        for reduction, factor in (("mean", 1 / len(batch)), ("sum", 1.0)):
            found = _run(runner, batch, reduction)
            for row, case in enumerate(batch):
                exact = _cached_product(objective, case).of
                for name, part, rows in zip(EMBEDDINGS, found, rowwise, strict=True):
                    unit = factor * FORMATS[dtype].eps * np.asarray(exact[name].scale, np.float64)
                    error = np.abs(part[row] - factor * rows[row]) / (unit + FORMATS[dtype].tiny)
                    worst = float(np.maximum(worst, np.max(error)))
    return Check(f"{_NAME}: mean and sum", "ordinary", dtype, worst, BOUND)
