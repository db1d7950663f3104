"""The row kernel against direct differences of the definition, its shape, and what lowering refuses."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache, partial
from itertools import product
from typing import Any

import mpmath
import pytest
import sympy as sp
from objectives import COVER

from derive_triplet.derive import symbols
from derive_triplet.derive.catalogue import DISTANCES, LOSSES, Loss, Objective
from derive_triplet.derive.differentiate import Derivation, differentiate
from derive_triplet.derive.errors import StepError
from derive_triplet.derive.evaluate import Point
from derive_triplet.derive.highprecision import objective_value
from derive_triplet.derive.kernel import X_NEG, X_POS, RowKernel, X, run
from derive_triplet.derive.lemmas import Term
from derive_triplet.derive.lower import lower
from derive_triplet.derive.symbols import EMBEDDINGS

RATIO = Loss("ratio", "not a function of the difference", "d_pos / (1 + d_neg)", "made up")
NORMALIZED = "normalized "
PAIRS = [
    *COVER,
    *product(DISTANCES, ["ratio"]),
    *((norm, NORMALIZED + loss) for norm, loss in (*COVER, *product(DISTANCES, ["ratio"]))),
]
pairs = pytest.mark.parametrize(("norm", "loss"), PAIRS)
TOLERANCE = mpmath.mpf(10) ** -50
Vector = Sequence[Any]


def objective(norm: str, loss: str) -> Objective:
    name = loss.removeprefix(NORMALIZED)
    return Objective(DISTANCES[norm], RATIO if name == "ratio" else LOSSES[name], loss != name)


@cache
def derived(norm: str, loss: str) -> Derivation:
    return differentiate(objective(norm, loss))


@cache
def lowered(norm: str, loss: str) -> RowKernel:
    return lower(derived(norm, loss))


# ---------------------------------------------------------------- what it computes


def number(source: random.Random) -> Any:
    return mpmath.mpf(source.randrange(-(10**60), 10**60)) / 10**60


def points(of: Objective, dimensions: Sequence[int], seed: int) -> list[Point]:
    source = random.Random(seed)
    return [
        Point(
            dimension,
            {name: [number(source) for _ in range(dimension)] for name in EMBEDDINGS},
            {symbols.parameter(p): abs(number(source)) / 2 + mpmath.mpf(p.default) / 4 for p in of.parameters},
        )
        for dimension in dimensions
    ]


def parameters_at(point: Point) -> dict[str, Any]:
    return {symbol.name: value for symbol, value in point.scalars.items()}


def differences(value: Callable[..., Any], vectors: dict[str, Vector]) -> dict[str, list[Any]]:
    """Central differences of ``value(x=..., x_pos=..., x_neg=...)``; with this step they err by about 1e-80."""
    gradients: dict[str, list[Any]] = {}
    with mpmath.workdps(180):
        h = mpmath.mpf(10) ** -40
        for name, vector in vectors.items():
            gradients[name] = []
            for at in range(len(vector)):
                ahead, behind = (
                    value(**{**vectors, name: [c + sign * h * (at == index) for index, c in enumerate(vector)]})
                    for sign in (1, -1)
                )
                gradients[name].append((ahead - behind) / (2 * h))
    return gradients


def agree(found: dict[str, list[Any]], expected: dict[str, list[Any]]) -> bool:
    return all(
        abs(a - b) <= TOLERANCE * max(abs(b), mpmath.mpf(10) ** -3)
        for name in EMBEDDINGS
        for a, b in zip(found[name], expected[name], strict=True)
    )


@pairs
def test_the_kernel_gives_the_differences_of_the_definition_at_50_digits(norm: str, loss: str) -> None:
    of, kernel = objective(norm, loss), lowered(norm, loss)
    with mpmath.workdps(70):
        for point in points(of, (2, 5) if of.normalize else (1, 2, 9), seed=31):  # of 1, unit vectors coincide

            def value(point: Point = point, **vectors: Vector) -> Any:
                return objective_value(of, **vectors, parameters=parameters_at(point))

            found, gradients = run(kernel, point)
            assert mpmath.almosteq(found, value(**point.vectors), TOLERANCE)
            assert agree(gradients, differences(value, dict(point.vectors)))


@pairs
@pytest.mark.parametrize("coincide", ["x_pos", "x_neg", "both"])
def test_a_coincident_point_does_not_pull_where_the_distance_is_singular(norm: str, loss: str, coincide: str) -> None:
    of, kernel = objective(norm, loss), lowered(norm, loss)
    singular = bool(DISTANCES[norm].singularities)
    with mpmath.workdps(70):
        (point,) = points(of, (3,), seed=32)
        same = ("x_pos", "x_neg") if coincide == "both" else (coincide,)
        vectors = {name: point.vectors["x"] if name in same else point.vectors[name] for name in EMBEDDINGS}

        def value(x: Vector, x_pos: Vector, x_neg: Vector) -> Any:
            # the convention: a distance that is singular here is held at 0
            x_pos = x if singular and "x_pos" in same else x_pos
            x_neg = x if singular and "x_neg" in same else x_neg
            return objective_value(of, x, x_pos, x_neg, parameters_at(point))

        found, gradients = run(kernel, replace(point, vectors=vectors))
        assert mpmath.almosteq(found, value(**vectors), TOLERANCE)
        assert agree(gradients, differences(value, vectors))


def test_a_hinge_has_no_gradient_on_its_kink() -> None:
    margin = symbols.parameter(LOSSES["hinge"].parameters[0])
    vectors = {"x": [mpmath.mpf(0)], "x_pos": [mpmath.mpf("0.5")], "x_neg": [mpmath.mpf("0.75")]}
    for value, active in (("0.25", False), ("0.26", True), ("0.24", False)):
        loss, gradients = run(lowered("l2", "hinge"), Point(1, vectors, {margin: mpmath.mpf(value)}))
        assert (loss > 0) is active
        assert gradients == ({"x": [0], "x_pos": [1], "x_neg": [-1]} if active else {name: [0] for name in EMBEDDINGS})


def test_the_comparison_sees_every_planted_error() -> None:
    of, kernel = objective("l2", "softmax-nll"), lowered("l2", "softmax-nll")
    with mpmath.workdps(70):
        (point,) = points(of, (2,), seed=33)
        expected = differences(
            lambda **vectors: objective_value(of, **vectors, parameters=parameters_at(point)), dict(point.vectors)
        )
        grad_x, grad_x_pos, grad_x_neg = kernel.maps
        for maps in (
            (replace(grad_x, value=-grad_x.value), grad_x_pos, grad_x_neg),
            (grad_x, replace(grad_x_pos, value=grad_x_neg.value), replace(grad_x_neg, value=grad_x_pos.value)),
            (grad_x, replace(grad_x_pos, value=2 * grad_x_pos.value), grad_x_neg),
            (grad_x, grad_x_pos, replace(grad_x_neg, value=grad_x_neg.value * (1 + sp.Rational(1, 10**47)))),
        ):
            assert not agree(run(replace(kernel, maps=maps), point)[1], expected)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_difference_of_squared_distances_keeps_its_digits(loss: str) -> None:
    kernel = lowered("l2-squared", loss)
    scalars = {symbols.parameter(p): mpmath.mpf(p.default) for p in LOSSES[loss].parameters}
    # both squared distances are about 2e16, and they differ by about 6
    far, apart = mpmath.mpf(10**8), mpmath.mpf(2) ** -25
    vectors = {"x": [mpmath.mpf(0)] * 2, "x_pos": [far, -far], "x_neg": [far - apart, -far]}

    def computed(digits: int) -> tuple[Any, Any]:
        with mpmath.workdps(digits):
            value, gradients = run(kernel, Point(2, vectors, scalars))
            return value, gradients["x_neg"][1]

    def naive(digits: int) -> Any:
        with mpmath.workdps(digits):
            d_pos, d_neg = (mpmath.fsum(c**2 for c in vectors[name]) for name in ("x_pos", "x_neg"))
            return d_pos - d_neg

    for found, exact in zip(computed(15), computed(60), strict=True):
        assert abs(found - exact) <= mpmath.mpf(10) ** -13 * abs(exact)
    assert abs(naive(15) - naive(60)) > abs(naive(60)) / 10, "the naive difference has no digit left here"


# ---------------------------------------------------------------- its shape


@pairs
def test_the_kernel_does_not_know_the_dimension(norm: str, loss: str) -> None:
    kernel = lowered(norm, loss)
    for expr in every_expression(kernel):
        assert not expr.free_symbols & {symbols.n, symbols.i, symbols.k}
        assert not expr.has(sp.Sum, sp.Indexed)


def every_expression(kernel: RowKernel) -> list[sp.Expr]:
    return [
        *(a.value for a in (*kernel.components, *kernel.scalars, *kernel.maps)),
        *(reduction.term for reduction in kernel.reductions),
    ]


@pairs
def test_every_name_is_defined_once_before_its_use_and_used(norm: str, loss: str) -> None:
    kernel = lowered(norm, loss)
    embeddings = {X, X_POS, X_NEG}
    components = {a.symbol for a in kernel.components}
    known = {symbols.parameter(p) for p in kernel.parameters}

    def is_known(expr: sp.Expr) -> bool:
        inside = (expr, *(a.value for a in kernel.components_in(expr)))
        return sp.Tuple(*inside).free_symbols <= known | embeddings | components

    for stage in kernel.stages:
        for reduction in stage.reductions:
            assert reduction.kind == ("max" if reduction.name.startswith("max_") else "sum")
            assert is_known(reduction.term)
        assert not {reduction.symbol for reduction in stage.reductions} & known
        known |= {reduction.symbol for reduction in stage.reductions}
        for assignment in stage.scalars:
            assert assignment.value.free_symbols <= known
            assert assignment.symbol not in known
            known |= {assignment.symbol}
    assert {kernel.loss, *kernel.weights} <= known
    for gradient in kernel.maps:
        assert is_known(gradient.value)
        assert gradient.value.free_symbols & known <= set(kernel.saved)
    used = {kernel.loss}.union(*(expr.free_symbols for expr in every_expression(kernel)))
    assert known <= used
    assert components <= used
    names = [symbol.name for symbol in known | embeddings | components]
    assert len(set(names)) == len(names), "two symbols of one name would be one variable in generated code"
    assert [gradient.name for gradient in kernel.maps] == [f"grad_{name}" for name in EMBEDDINGS]


@pytest.mark.parametrize(
    "norm", [name for name, distance in DISTANCES.items() if not distance.on_units and name not in ("lp", "linf")]
)
def test_stages_of_a_normalized_kernel(norm: str) -> None:
    """Norms first; what is saved for the gradients are their inverses and the weights."""
    raw, kernel = lowered(norm, "hinge"), lowered(norm, NORMALIZED + "hinge")
    assert (len(raw.stages), raw.constants, raw.saved) == (1, (), raw.weights)
    first, second = kernel.stages
    assert [r.name for r in first.reductions] == ["square_x", "square_x_pos", "square_x_neg"]
    assert [r.name for r in second.reductions[: len(raw.reductions)]] == [r.name for r in raw.reductions]
    assert [c.name for c in kernel.constants] == ["inverse_x", "inverse_x_pos", "inverse_x_neg"]
    assert kernel.saved == (*kernel.constants, *kernel.weights)
    assert [w.name for w in kernel.weights[len(raw.weights) :]] == ["along_x", "along_x_pos", "along_x_neg"]


@pytest.mark.parametrize("norm", DISTANCES)
@pytest.mark.parametrize("zero", EMBEDDINGS)
def test_a_zero_vector_is_its_own_unit_vector_and_has_no_gradient(norm: str, zero: str) -> None:
    of, kernel = objective(norm, NORMALIZED + "softmax-mse"), lowered(norm, NORMALIZED + "softmax-mse")
    with mpmath.workdps(70):
        (point,) = points(of, (3,), seed=34)
        vectors = {name: [mpmath.mpf(0)] * 3 if name == zero else list(point.vectors[name]) for name in EMBEDDINGS}
        found, gradients = run(kernel, replace(point, vectors=vectors))
        value = partial(objective_value, of, parameters=parameters_at(point))
        assert mpmath.almosteq(found, value(**vectors), TOLERANCE)
        moving = {name: vector for name, vector in vectors.items() if name != zero}
        wanted = differences(lambda **moved: value(**{zero: vectors[zero]}, **moved), moving)
        assert agree(gradients, {**wanted, zero: [0, 0, 0]})


@pairs
def test_maps_are_linear_in_the_weights_so_that_an_upstream_gradient_may_scale_them(norm: str, loss: str) -> None:
    kernel = lowered(norm, loss)
    factor = sp.Symbol("upstream")
    scaled = {weight: factor * weight for weight in kernel.weights}
    for gradient in kernel.maps:
        assert gradient.value.free_symbols & set(kernel.weights)
        assert sp.expand(gradient.value.xreplace(scaled) - factor * gradient.value) == 0


def test_other_scalars_of_the_last_stage_leave_the_stages_before_it_alone() -> None:
    kernel = lowered("l2", f"{NORMALIZED}hinge")
    assert len(kernel.stages) == 2
    assert kernel.with_scalars(kernel.stages[-1].scalars) == kernel


def test_common_subexpressions_are_named_once_and_in_scalars_only() -> None:
    twice = Loss("twice", "", "(d_pos + 1/(2 + d_neg))**2 + 3/(2 + d_neg)", "made up")
    kernel = lower(differentiate(Objective(DISTANCES["l2"], twice)))
    temporaries = {a.symbol for a in kernel.scalars if a.name[0] == "t" and a.name[1:].isdigit()}
    assert temporaries
    written = [a.value for a in kernel.scalars]
    assert sum(value.has(symbols.d_neg + 2) for value in written) == 1
    for expr in (*(a.value for a in kernel.maps), *(reduction.term for reduction in kernel.reductions)):
        assert not expr.free_symbols & temporaries


def test_kernels_are_the_same_for_every_hash_seed() -> None:
    code = """
from derive_triplet.derive.catalogue import DISTANCES, Loss, Objective
from derive_triplet.derive.differentiate import differentiate
from derive_triplet.derive.lower import lower
twice = Loss("twice", "", "(d_pos + 1/(2 + d_neg))**2 + 3/(2 + d_neg)", "made up")
print(lower(differentiate(Objective(DISTANCES["l2-squared"], twice))))
"""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", code], env={**os.environ, "PYTHONHASHSEED": seed}, stdout=subprocess.PIPE, text=True
        )
        for seed in ("0", "1", "12345")
    ]
    printed = [process.communicate() for process in running]
    assert "weight_pos" in printed[0][0], printed
    assert len({stdout for stdout, _ in printed}) == 1


# ---------------------------------------------------------------- lowering refuses what was not derived


def with_terms(derivation: Derivation, name: str, change: Callable[[Term], Term]) -> Derivation:
    first, *rest = derivation.terms[name]
    return replace(derivation, terms={**derivation.terms, name: (change(first), *rest)})


@pairs
@pytest.mark.parametrize("name", EMBEDDINGS)
def test_a_swapped_sign_is_refused(norm: str, loss: str, name: str) -> None:
    tampered = with_terms(derived(norm, loss), name, lambda term: replace(term, coefficient=-term.coefficient))
    with pytest.raises(StepError, match=f"the kernel of {derived(norm, loss).objective.stem} is not what was derived"):
        lower(tampered)


TAMPERED: dict[str, Callable[[Derivation], Derivation]] = {
    "a missing factor": lambda d: with_terms(d, "x_pos", lambda term: replace(term, coefficient=term.coefficient / 2)),
    "one part in 10^48": lambda d: with_terms(
        d, "x_neg", lambda term: replace(term, coefficient=term.coefficient * (1 + sp.Rational(1, 10**48)))
    ),
    "another elementwise factor": lambda d: with_terms(
        d, "x_pos", lambda term: replace(term, elementwise=2 * term.elementwise)
    ),
    "a missing term": lambda d: replace(d, terms={**d.terms, "x": d.terms["x"][1:]}),
    "swapped embeddings": lambda d: replace(d, terms={**d.terms, "x_pos": d.terms["x_neg"], "x_neg": d.terms["x_pos"]}),
    "swapped gradients": lambda d: replace(
        d, gradients={**d.gradients, "x_pos": d.gradients["x_neg"], "x_neg": d.gradients["x_pos"]}
    ),
    "swapped embeddings and gradients": lambda d: replace(
        d,
        terms={**d.terms, "x_pos": d.terms["x_neg"], "x_neg": d.terms["x_pos"]},
        gradients={**d.gradients, "x_pos": d.gradients["x_neg"], "x_neg": d.gradients["x_pos"]},
    ),
    "the value of another loss": lambda d: replace(
        d, loss=replace(d.loss, value=derived("l2", "softmax-mse").loss.value)
    ),
    "the objective of another loss": lambda d: replace(d, objective=objective("l2", "softmax-mse")),
    "the distance of another objective": lambda d: replace(d, distance=derived("l2-squared", "softmax-nll").distance),
}


@pytest.mark.parametrize("how", TAMPERED)
def test_a_derivation_that_was_tampered_with_is_refused(how: str) -> None:
    right = derived("l2", "softmax-nll")
    lower(right)
    with pytest.raises(StepError):
        lower(TAMPERED[how](right))
