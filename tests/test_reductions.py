"""Maxima over components: their derivatives, the convention at ties, and that passes over a row agree on who is one."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from functools import cache, partial
from typing import Any

import mpmath
import numpy as np
import pytest
import sympy as sp
from objectives import closed_distance

from derive_triplet import DISTANCES, LOSSES, Distance, Objective, Product, UsageError, differentiate, generate, verify
from derive_triplet.derive.evaluate import Point, evaluate
from derive_triplet.derive.functions import absolute, attains, rounded
from derive_triplet.derive.highprecision import distance_between, distance_value, maxima, smooth_distance
from derive_triplet.derive.kernel import RowKernel, run
from derive_triplet.derive.lemmas import derive_distance
from derive_triplet.derive.lower import lower
from derive_triplet.derive.reductions import Maximum, share, term_of
from derive_triplet.derive.rescale import rescale
from derive_triplet.derive.symbols import i, j, k, n, parameter, x, y
from derive_triplet.derive.targets.numpy import load
from derive_triplet.derive.verify.products import product as curvature
from derive_triplet.derive.verify.reference import reference
from derive_triplet.derive.verify.regimes import TIES, Regime, has_ties, regimes

LINF = DISTANCES["linf"]
HINGE, NLL = (Objective(LINF, LOSSES[name]) for name in ("hinge", "softmax-nll"))
NORMALIZED = replace(HINGE, normalize=True)
LARGEST = Maximum(absolute(x[j] - y[j]), (j, 1, n))
TIED = [tuple(row) for row in zip(*TIES, strict=True)]


@cache
def lowered(objective: Objective) -> RowKernel:
    return lower(differentiate(objective))


@cache
def product(objective: Objective, target: str) -> Product:
    return generate(differentiate(objective), target)


# ---------------------------------------------------------------- the derivative


def test_a_sum_grows_with_all_of_its_terms_and_a_maximum_with_the_largest() -> None:
    assert share(sp.Sum(x[i], (i, 1, n)), i, j) == 1
    assert term_of(LARGEST, k) == absolute(x[k] - y[k])
    assert share(LARGEST, k, i) == attains(term_of(LARGEST, k), LARGEST) / sp.Sum(
        attains(term_of(LARGEST, i), LARGEST), (i, 1, n)
    )


def test_a_maximum_is_real_and_not_negative_where_its_terms_are() -> None:
    signed, other = Maximum(x[i] - y[i], (i, 1, n)), Maximum(sp.Symbol("z") * x[i], (i, 1, n))
    assert (LARGEST.is_real, LARGEST.is_nonnegative) == (True, True)
    assert (signed.is_real, signed.is_nonnegative) == (True, None)
    assert (other.is_real, other.is_nonnegative) == (None, None)


@pytest.mark.parametrize("at", [1, 2, 3])
def test_the_derivative_of_a_maximum_is_that_of_differences(at: int) -> None:
    vectors = {"x": [mpmath.mpf(c) for c in (0.5, -3, 2)], "y": [mpmath.mpf(c) for c in (1, 1, 0.5)]}
    point = Point(3, vectors, {k: mpmath.mpf(at)})
    with mpmath.workdps(50):
        found = evaluate(sp.diff(LARGEST, x[k]), point)
        assert found == -(at == 2)
        assert mpmath.almosteq(found, evaluate(sp.Derivative(LARGEST, x[k]), point))


def test_a_distance_may_be_a_formula_of_several_maxima_and_sums() -> None:
    mixed = Distance("mixed", "", "max(abs(x - y)) + max((x - y)**2)/2 + sum((x - y)**2)/4", "made up")
    steps = [step for lemma in derive_distance(mixed).gradients.values() for step in lemma.steps]
    assert {step.rule for step in steps} >= {"Danskin's theorem", "Kronecker delta"}
    first, second = lowered(of := Objective(mixed, LOSSES["softmax-nll"])).stages
    assert [r.name[:3] for r in first.reductions] == ["max", "max", "sum"] * 2
    assert {r.name[:5] for r in second.reductions} == {"count"}
    report = verify(product(of, "numpy"))
    assert not [c for c in report.checks if not c.passed and c.regime.startswith(("ordinary", "ties"))]


def test_a_maximum_of_numbers_that_may_be_negative_is_derived_but_not_generated() -> None:
    signed = Objective(Distance("signed", "", "max(x - y)", "made up"), LOSSES["hinge"])
    assert lower(differentiate(signed)).reductions[0].kind == "max"
    with pytest.raises(UsageError, match=r"signed: generated code has max\(...\) of what is never negative only"):
        generate(differentiate(signed), "numpy")


# ---------------------------------------------------------------- the convention at ties


def expected(row: Any, margin: Any) -> dict[str, list[Any]]:
    """The gradients of the hinge, where it is active."""
    first, *others = ([mpmath.mpf(c) for c in embedding] for embedding in row)
    (d_pos, x_pull, pull), (d_neg, x_push, push) = (closed_distance("linf", first, other) for other in others)
    assert d_pos - d_neg + margin > 0
    x = [a - b for a, b in zip(x_pull, x_push, strict=True)]
    return {"x": x, "x_pos": list(pull), "x_neg": [-c for c in push]}


def are_close(found: Any, wanted: Any, tolerance: float) -> bool:
    return all(abs(a - b) <= tolerance for a, b in zip(found, wanted, strict=True))


@pytest.mark.parametrize("row", TIED)
def test_all_that_are_the_largest_have_an_equal_share(row: Any) -> None:
    vectors = dict(zip(("x", "x_pos", "x_neg"), ([mpmath.mpf(c) for c in e] for e in row), strict=True))
    (margin,) = map(parameter, HINGE.parameters)
    with mpmath.workdps(50):
        wanted = expected(row, mpmath.mpf("0.2"))
        exact = reference(HINGE, *row, {"margin": 0.2}).gradients
        _, found = run(lowered(HINGE), Point(4, vectors, {margin: mpmath.mpf("0.2")}))
        _, computed = load(product(HINGE, "numpy")).value_and_grad(*(np.array([e]) for e in row))
        for (name, gradient), rounded_ in zip(wanted.items(), computed, strict=True):
            assert are_close(exact[name].value, gradient, 1e-40)
            assert are_close(found[name], gradient, 1e-40)
            assert are_close(map(float, rounded_[0]), gradient, 1e-15)


@pytest.mark.parametrize("row", TIED)
def test_all_that_are_the_largest_move_it_equally(row: Any) -> None:
    """The Hessian of log(1 + exp(delta)) is s q g g^T, where g is the gradient of delta: that of no kink adds to it."""
    first, *others = ([mpmath.mpf(c) for c in embedding] for embedding in row)
    (d_pos, x_pull, pull), (d_neg, x_push, push) = (closed_distance("linf", first, other) for other in others)
    slope = [*(a - b for a, b in zip(x_pull, x_push, strict=True)), *pull, *(-c for c in push)]
    direction = np.random.default_rng(5).uniform(-1, 1, size=(3, len(first)))
    rate = mpmath.fsum(a * b for a, b in zip(slope, direction.ravel(), strict=True))
    bend = 1 / (1 + mpmath.exp(d_pos - d_neg)) / (1 + mpmath.exp(d_neg - d_pos))
    found = load(product(NLL, "numpy")).hvp(*(np.array([e]) for e in row), *direction[:, None])
    exact = curvature(NLL, row, direction, {"temperature": 1.0}).of
    for computed in (np.ravel(found), [c for name in ("x", "x_pos", "x_neg") for c in exact[name].value]):
        assert are_close(map(mpmath.mpf, computed), [bend * rate * c for c in slope], 1e-15)


@pytest.mark.needs("torch")
def test_pytorch_gives_equal_shares_too() -> None:
    import torch

    batch = [torch.tensor(embedding, dtype=torch.float64, requires_grad=True) for embedding in TIES]
    d_pos, d_neg = (torch.amax(torch.abs(batch[0] - other), dim=1) for other in batch[1:])
    torch.relu(d_pos - d_neg + 0.2).sum().backward()
    _, gradients = load(product(HINGE, "numpy")).value_and_grad(*map(np.array, TIES), reduction="sum")
    for tensor, gradient in zip(batch, gradients, strict=True):
        np.testing.assert_allclose(gradient, tensor.grad.numpy(), rtol=1e-15)


def test_the_share_of_the_convention_is_the_least_norm_subgradient() -> None:
    first, other = ([mpmath.mpf(c) for c in embedding] for embedding in TIED[0][:2])
    _, gradient, _ = closed_distance("linf", first, other)
    assert gradient == [0.5, -0.5, 0, 0]
    signs = [mpmath.sign(a - b) for a, b in zip(first, other, strict=True)]
    hull = [(t * signs[0], (1 - t) * signs[1]) for t in np.linspace(0, 1, 33)]
    assert sum(c**2 for c in gradient) == min(a**2 + b**2 for a, b in hull)


def test_near_a_point_a_distance_goes_on_as_the_mean_of_what_is_the_largest_there() -> None:
    def between(a: Any, b: Any, largest: Any = max) -> Any:
        return distance_value(LINF, a, b, {}, largest=largest)

    at, zero = [mpmath.mpf(c) for c in (2, -2, 1)], [mpmath.mpf(0)] * 3
    near = smooth_distance(between, at, zero)
    assert near(at, zero) == between(at, zero) == 2
    assert near([mpmath.mpf(4), *at[1:]], zero) == 3
    assert near([*at[:2], mpmath.mpf(9)], zero) == 2
    assert maxima(between, at, zero) == [[2, 2, 1]]
    l1 = partial(distance_between, Objective(DISTANCES["l1"], LOSSES["hinge"]), parameters={})
    assert maxima(l1, at, zero) == []
    assert smooth_distance(l1, at, zero) is l1


# ---------------------------------------------------------------- what is verified


def test_ties_are_made_of_this_distance_only_and_are_exact_in_every_type() -> None:
    for objective, dtype in itertools.product((HINGE, NORMALIZED), ("float16", "bfloat16", "float32", "float64")):
        found = {regime.name: regime for regime in regimes(objective, dtype, {"margin": 0.2}, (64,))}
        assert has_ties(objective, found["ties of components"])
        assert has_ties(objective, found["4 of 64 components"])
        assert not any(has_ties(objective, found[name]) for name in ("ordinary, n = 7", "x = 0") if name in found)
    assert "ties of components" not in [
        r.name for r in regimes(replace(HINGE, distance=DISTANCES["l1"]), "float32", {})
    ]


def test_rows_are_left_out_where_rounding_decides_which_component_is_the_largest() -> None:
    from derive_triplet.derive.verify.regimes import _is_largest_decided

    beside = 1 + 2.0**-22
    for nearly, decided in ((beside, False), (1.0, True), (1.01, True)):
        arrays = (np.zeros((1, 2)), np.array([[1.0, nearly]]), np.array([[3.0, 0.0]]))
        assert _is_largest_decided(HINGE, Regime("", *arrays, {"margin": 0.2}), 0, "float32") is decided
        assert _is_largest_decided(HINGE, Regime("", *arrays, {"margin": 0.2}), 0, "float64")


WINNER = "(np.arange(u.shape[1]) == np.argmax(np.abs(u), axis=1)[:, None])"


def test_a_winner_that_takes_all_is_seen() -> None:
    right = product(HINGE, "numpy")
    (file,) = right.files
    wrong = file.text.replace("_attains(np.abs(u), d_pos) *", f"{WINNER} *").replace("slope / count_pos", "slope")
    assert wrong.count("np.argmax") == 1
    report = verify(replace(right, files=(replace(file, text=wrong),)))
    assert "ties of components" in {check.regime for check in report.checks if not check.passed}


# ---------------------------------------------------------------- passes agree


def test_counting_takes_a_pass_after_the_maxima() -> None:
    first, second = lowered(HINGE).stages
    assert [(r.name, r.kind) for r in first.reductions] == [("max_pos", "max"), ("max_neg", "max")]
    assert [a.name for a in first.scalars] == ["d_pos", "d_neg"]
    assert [(r.name, r.kind) for r in second.reductions] == [("count_pos", "sum"), ("count_neg", "sum")]
    assert rescale(lowered(HINGE)).full_range
    assert rescale(lowered(NORMALIZED)).full_range


def test_unit_vectors_are_rounded_where_passes_compare_them() -> None:
    assert {a.name for a in lowered(NORMALIZED).components if a.value.has(rounded)} == {
        "unit_x",
        "unit_x_pos",
        "unit_x_neg",
    }
    assert "rounded" not in lowered(replace(NORMALIZED, distance=DISTANCES["l1"])).functions
    text = product(NORMALIZED, "cuda").text(".cuh")
    assert "return __fmul_rn(a, b);" in text
    assert "return __dmul_rn(a, b);" in text
    assert text.count("= rounded_product(row.inverse_x, scaled_x);") == 7  # wherever a unit vector is made
    assert set(re.findall(r"row\.inverse_x \* (\w+)", text)) == {"sums"}  # sums.stretch_x
    assert "rounded_product" not in product(HINGE, "cuda").text(".cuh")


def test_a_row_that_holds_nan_has_no_gradient_and_others_keep_theirs() -> None:
    batch = [np.array(embedding) for embedding in TIES]
    batch[0][0, 1] = np.nan
    loss, gradients = load(product(NLL, "numpy")).value_and_grad(*batch, reduction="none")
    assert np.isnan(loss[0])
    assert all(np.isnan(gradient[0]).all() for gradient in gradients)
    assert np.isfinite(loss[1])
    assert all(np.isfinite(gradient[1]).all() for gradient in gradients)
