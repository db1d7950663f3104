"""A kernel with scaled differences gives what the kernel gives, and none other is let through."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from itertools import cycle, product
from typing import Any

import mpmath
import pytest
import sympy as sp
from objectives import COVER

from derive_triplet import DISTANCES, LOSSES, Distance, Loss, Objective, Parameter, StepError, differentiate
from derive_triplet.derive import rescale as module
from derive_triplet.derive.evaluate import Point
from derive_triplet.derive.kernel import RowKernel, run
from derive_triplet.derive.lower import lower
from derive_triplet.derive.rescale import Rescaled, quotient, rescale, scale_of
from derive_triplet.derive.rescale import product as multiplied
from derive_triplet.derive.symbols import EMBEDDINGS, parameter

SCALE = Parameter("scale", 2.0, "positive", "the unit of the distance")
HALF = Distance("half-squared", "half the squared distance", "sum((x - y)**2) / 2", "made up")
RMS = Distance("half-l2", "half the distance", "sqrt(sum((x - y)**2)) / 2", "made up")
SCALED = Distance("scaled-squared", "a squared distance with a unit", "scale * sum((x - y)**2)", "made up", (SCALE,))
INNER = Distance("inner", "negative inner product", "-sum(x * y)", "made up")
LOGARITHM = Distance("logarithm", "it grows slowly", "log(2 + sum((x - y)**2))", "made up")
RATIO = Loss("ratio", "squared over distance", "d_pos**2 / (1 + d_neg)", "made up")
PRODUCT = Loss("product", "a saddle", "(d_pos - 1) * (d_neg - 1)", "made up")

CATALOGUE = [
    Objective(DISTANCES[norm], LOSSES[loss], normalize) for (norm, loss), normalize in product(COVER, (False, True))
]
# distance, loss, whether there are scales, whether the full range is promised
TABLE = [
    # of lp the components are taken over the largest of them, which is as good as a scale, and linf is that one itself
    *((o, o.of_units or o.distance.name not in ("lp", "linf"), True) for o in CATALOGUE),
    (Objective(RMS, LOSSES["hinge"]), True, True),
    # it depends on each distance by itself: its square may be beyond the type although the loss is not
    (Objective(DISTANCES["l2"], RATIO), True, False),
    (Objective(DISTANCES["l2"], PRODUCT), True, False),
    (Objective(DISTANCES["l2-squared"], RATIO), True, False),
    (Objective(LOGARITHM, LOSSES["softmax-nll"]), True, False),
    (Objective(HALF, LOSSES["softmax-mse"]), True, True),
    # one weight for differences of two sums
    (Objective(SCALED, LOSSES["softmax-nll"]), False, False),
    # no differences
    (Objective(INNER, LOSSES["hinge"]), False, False),
]
table = pytest.mark.parametrize(("objective", "scaled", "full_range"), TABLE, ids=lambda v: getattr(v, "stem", str(v)))
with_scales = pytest.mark.parametrize("objective", [o for o, scaled, _ in TABLE if scaled], ids=lambda o: o.stem)


@cache
def lowered(objective: Objective) -> RowKernel:
    return lower(differentiate(objective))


def results(kernel: RowKernel, rescaled: Rescaled, scales: dict[str, Any]) -> list[Any]:
    """Loss, gradients, and weights of differences as they are; of the kernel where it has no scales."""
    source = random.Random(7)
    vectors = {name: [mpmath.mpf(source.random()) - 0.5 for _ in range(3)] for name in EMBEDDINGS}
    constants = {parameter(p): mpmath.mpf(p.default) for p in kernel.parameters}
    given = {rescaled.scales[name]: mpmath.mpf(value) for name, value in scales.items()}
    with mpmath.workdps(60):
        loss, gradients = run(rescaled.kernel, Point(3, vectors, {**constants, **given}))
    return [loss, *(component for gradient in gradients.values() for component in gradient)]


def largest_difference(found: list[Any], wanted: list[Any]) -> Any:
    with mpmath.workdps(60):
        return max(abs(a - b) / max(abs(b), mpmath.mpf(10) ** -6) for a, b in zip(found, wanted, strict=True))


@table
def test_which_kernels_have_scales_and_which_the_full_range(
    objective: Objective, scaled: bool, full_range: bool
) -> None:
    kernel = lowered(objective)
    found = rescale(kernel)
    assert bool(found.scales) == scaled
    assert found.full_range == full_range
    # products with unit vectors are not scaled, nor what is taken over the largest component, nor that, nor a count
    of_shares = ("dot_", "max_", "count_", "sum_" if objective.distance.name == "lp" else "dot_")
    scalable = {r.name for r in kernel.reductions if not r.name.startswith(of_shares)}
    assert set(found.scales) == (scalable if scaled else set())
    if not scaled:
        assert found.kernel == kernel


@with_scales
def test_any_scales_give_what_the_kernel_gives(objective: Objective) -> None:
    kernel = lowered(objective)
    found, source = rescale(kernel), random.Random(3)
    wanted = results(kernel, Rescaled(kernel, {}), {})
    for exponents in ((0, 0), (96, 96), (-96, 99), (99, 0), (0, 96, -96, 99, -99)):
        scales = {name: mpmath.mpf(2) ** e for name, e in zip(found.scales, cycle(exponents), strict=False)}
        assert largest_difference(results(kernel, found, scales), wanted) < mpmath.mpf(10) ** -48
    anything = {name: source.uniform(0.1, 10) for name in found.scales}
    assert largest_difference(results(kernel, found, anything), wanted) < mpmath.mpf(10) ** -48


@with_scales
def test_with_all_scales_one_it_is_the_same_program(objective: Objective) -> None:
    kernel = lowered(objective)
    found = rescale(kernel)
    ones = dict.fromkeys(found.scales.values(), sp.S.One)
    there = {a.symbol for a in kernel.scalars}
    values: dict[sp.Symbol, sp.Expr] = {}
    helpers: dict[sp.Symbol, sp.Expr] = {}  # values that only take a scale away

    def plain(expr: sp.Expr) -> sp.Expr:
        expr = expr.xreplace(ones)
        while expr.has(quotient):
            expr = expr.replace(quotient, lambda a, b: a / b)
        return expr.replace(multiplied, lambda a, b: a * b)

    for assignment in found.kernel.scalars:
        value = plain(assignment.value.xreplace(helpers))
        (values if assignment.symbol in there else helpers)[assignment.symbol] = value
    back = {value: symbol for symbol, value in values.items() if value in helpers.values()}
    wanted = {a.symbol: plain(a.value) for a in kernel.scalars}
    assert {s: v if s in back.values() else v.xreplace(back) for s, v in values.items()} == wanted
    # components that only have a scale are not there without one
    renamed = {a.symbol: plain(a.value) for a in found.kernel.components if a.name.startswith("scaled_")}

    def same(found: tuple[Any, ...], wanted: tuple[Any, ...]) -> bool:
        kept = [a for a in found if a.symbol not in renamed]
        return [(a.symbol, plain(a.value).xreplace(renamed)) for a in kept] == [(a.symbol, a.value) for a in wanted]

    assert same(found.kernel.components, kernel.components)
    assert same(found.kernel.maps, kernel.maps)
    assert [(r.symbol, r.term.xreplace(renamed)) for r in found.kernel.reductions] == [
        (r.symbol, r.term) for r in kernel.reductions
    ]


@pytest.mark.parametrize("wrong", ["scalars", "differences", "degree"])
def test_a_wrong_rescaling_is_refused(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = lowered(Objective(DISTANCES["l2"], LOSSES["softmax-mse"]))
    right = module._with_scales

    def planted(*arguments: Any) -> Rescaled:
        found = right(*arguments)
        assert found is not None
        scale = scale_of(kernel.reductions[0])
        changed = found.kernel
        if wrong == "scalars":  # not divided
            scalars = tuple(replace(a, value=a.value.xreplace({scale: sp.S.One})) for a in changed.scalars)
            changed = changed.with_scalars(scalars)
        else:  # not multiplied, or twice
            power = {"differences": sp.S.One, "degree": scale**2}[wrong]
            differences = tuple(replace(a, value=a.value.subs(scale, power)) for a in changed.components)
            changed = replace(changed, components=differences)
        return replace(found, kernel=changed)

    monkeypatch.setattr(module, "_with_scales", planted)
    with pytest.raises(StepError, match="rescaling changes the kernel of triplet_softmax_mse_l2"):
        rescale.__wrapped__(kernel)


def test_a_quotient_is_divided_where_it_stands() -> None:
    """(a/b)/b is not a/b**2, which may be beyond the type."""
    a, b = sp.symbols("a b", positive=True)
    nested = quotient(quotient(a, b), b)
    assert nested != a / b**2
    assert nested.definition().replace(quotient, lambda x, y: x / y) == a / b**2
