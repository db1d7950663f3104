"""The evaluator against mpmath written by hand: it is the ground that every checked step stands on."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import mpmath
import pytest
import sympy as sp

from derive_triplet.derive.evaluate import Point, evaluate
from derive_triplet.derive.functions import attains, masked_ratio, positive_part, sigmoid, softplus, step
from derive_triplet.derive.reductions import Maximum
from derive_triplet.derive.symbols import i, j, k, l, n, x, y

A, B = sp.symbols("a b", real=True)
X = ("0.5", "-1.25", "3")
Y = ("2", "0.75", "-0.1")


def at(k_value: int = 2, **scalars: str) -> Point:
    values = {A: mpmath.mpf(scalars.get("a", "0.3")), B: mpmath.mpf(scalars.get("b", "-1.7")), k: mpmath.mpf(k_value)}
    return Point(3, {"x": [mpmath.mpf(c) for c in X], "y": [mpmath.mpf(c) for c in Y]}, values)


def squares() -> Any:
    return mpmath.fsum((mpmath.mpf(p) - mpmath.mpf(q)) ** 2 for p, q in zip(X, Y, strict=True))


def a() -> Any:
    return mpmath.mpf("0.3")


def b() -> Any:
    return mpmath.mpf("-1.7")


CASES = {
    "rational": (sp.Rational(2, 7) - 3, lambda: mpmath.mpf(2) / 7 - 3),
    "dimension": (n + 1, lambda: mpmath.mpf(4)),
    "product": (-2 * A * B**3, lambda: -2 * a() * b() ** 3),
    "negative power": (B**-2, lambda: 1 / b() ** 2),
    "root": (sp.sqrt(A), lambda: mpmath.sqrt(a())),
    "rational power": (A ** sp.Rational(-3, 2), lambda: 1 / (a() * mpmath.sqrt(a()))),
    "symbolic power": (A**B, lambda: mpmath.exp(b() * mpmath.log(a()))),
    "exp and log": (sp.exp(B) + sp.log(A), lambda: mpmath.exp(b()) + mpmath.log(a())),
    "abs and sign": (sp.Abs(B) + sp.sign(B), lambda: -b() - 1),
    "max": (sp.Max(0, A, B), a),
    "min": (sp.Min(0, A, B), b),
    "maximum": (Maximum(x[i] - y[i], (i, 1, n)), lambda: mpmath.mpf("3.1")),
    "count": (sp.Sum(attains(x[i], Maximum(x[j], (j, 1, n))), (i, 1, n)), lambda: mpmath.mpf(1)),
    "component": (x[k] - y[1], lambda: mpmath.mpf("-3.25")),
    "sum": (sp.Sum((x[i] - y[i]) ** 2, (i, 1, n)), squares),
    "part of a sum": (sp.Sum(x[i], (i, 2, n)), lambda: mpmath.mpf("1.75")),
    "sum with an outer index": (sp.Sum(x[i] * y[k], (i, 1, n)), lambda: mpmath.mpf("2.25") * mpmath.mpf("0.75")),
    "sum in a sum": (
        sp.Sum(x[i] * sp.Sum(y[k], (k, 1, i)), (i, 1, n)),
        lambda: mpmath.mpf("0.5") * 2 - mpmath.mpf("1.25") * mpmath.mpf("2.75") + 3 * mpmath.mpf("2.65"),
    ),
    "sum over two indices": (sp.Sum(x[i] * y[k], (k, 1, i), (i, 1, n)), lambda: CASES["sum in a sum"][1]()),
    "delta": (sp.Sum(x[i] * sp.KroneckerDelta(i, k), (i, 1, n)), lambda: mpmath.mpf("-1.25")),
    "nodes": (
        sigmoid(B) + softplus(B) + positive_part(B) + step(A) + masked_ratio(A, B),
        lambda: 1 / (1 + mpmath.exp(-b())) + mpmath.log(1 + mpmath.exp(b())) + 1 + a() / b(),
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_values_agree_with_mpmath_to_all_digits(case: str) -> None:
    expr, expected = CASES[case]
    with mpmath.workdps(50):
        assert mpmath.almosteq(evaluate(expr, at()), expected(), mpmath.mpf(10) ** -48)


@pytest.mark.parametrize("index", [1, 2, 3])
def test_a_derivative_in_a_component_moves_that_component_only(index: int) -> None:
    norm = sp.sqrt(sp.Sum((x[i] - y[i]) ** 2, (i, 1, n)))
    with mpmath.workdps(50):
        for variable, sign in ((x, 1), (y, -1)):
            found = evaluate(sp.Derivative(norm, variable[k]), at(index))
            expected = sign * (mpmath.mpf(X[index - 1]) - mpmath.mpf(Y[index - 1])) / mpmath.sqrt(squares())
            assert mpmath.almosteq(found, expected, mpmath.mpf(10) ** -50)


def test_a_derivative_in_a_scalar_is_a_limit_of_differences_of_the_expression() -> None:
    with mpmath.workdps(50):
        found = evaluate(sp.Derivative(softplus(A * B), A), at())
        assert mpmath.almosteq(found, b() / (1 + mpmath.exp(-a() * b())), mpmath.mpf(10) ** -50)


def test_a_derivative_sees_through_abbreviations() -> None:
    d, z = sp.symbols("d z", real=True)
    with mpmath.workdps(50):
        point = replace(at(), abbreviations={d: sp.Sum(x[i] ** 2, (i, 1, n)), z: d / A})
        assert mpmath.almosteq(evaluate(z, point), mpmath.mpf("10.8125") / a(), mpmath.mpf(10) ** -48)
        found = evaluate(sp.Derivative(z**2, x[k]), point)
        expected = 2 * mpmath.mpf("10.8125") / a() * 2 * mpmath.mpf("-1.25") / a()
        assert mpmath.almosteq(found, expected, mpmath.mpf(10) ** -48)


def test_the_precision_is_that_of_the_moment_also_for_an_expression_seen_before() -> None:
    point = at()
    rough = evaluate(sp.sqrt(A), point)
    with mpmath.workdps(60):
        fine = evaluate(sp.sqrt(A), point)
        assert abs(fine**2 - point.scalars[A]) < mpmath.mpf(10) ** -58
        assert abs(rough - fine) > mpmath.mpf(10) ** -30
    assert evaluate(sp.sqrt(A), point) == rough


def test_a_moved_point_has_values_of_its_own() -> None:
    point = at()
    assert evaluate(A * x[k], point) == mpmath.mpf("0.3") * mpmath.mpf("-1.25")
    assert evaluate(A * x[k], point.bind(A, mpmath.mpf(2))) == -2.5
    assert evaluate(A * x[k], point.bind(k, mpmath.mpf(3))) == mpmath.mpf("0.3") * 3
    assert evaluate(x[k], point.shift(x[k], mpmath.mpf(1))) == -0.25
    assert evaluate(x[1] + y[2], point.shift(x[k], mpmath.mpf(1))) == 1.25
    assert evaluate(A, point.shift(A, mpmath.mpf(1))) == mpmath.mpf("0.3") + 1
    assert evaluate(A * x[k], point) == mpmath.mpf("0.3") * mpmath.mpf("-1.25")


@pytest.mark.parametrize(
    ("expr", "reason"),
    [
        (sp.sin(A), "cannot evaluate sin"),
        (sp.Integral(A, A), "cannot evaluate Integral"),
        (sp.Derivative(A**2, (A, 2)), "only first derivatives"),
        (sp.Symbol("unknown"), "no value to unknown"),
    ],
    ids=str,
)
def test_what_it_does_not_know_it_refuses(expr: sp.Expr, reason: str) -> None:
    with pytest.raises(NotImplementedError, match=reason):
        evaluate(expr, at())


def test_a_component_of_a_matrix_is_what_its_abbreviation_says_of_these_indices() -> None:
    matrix = sp.IndexedBase("m", real=True)
    point = replace(at(3), abbreviations={matrix[k, l]: x[k] * y[l] + l})
    assert evaluate(matrix[2, 1], point) == mpmath.mpf("-1.25") * 2 + 1
    assert evaluate(matrix[1, k], point) == mpmath.mpf("0.5") * mpmath.mpf("-0.1") + 3
    total = evaluate(sp.Sum(matrix[i, k], (i, 1, n)), point)
    assert abs(total - (mpmath.mpf("2.25") * mpmath.mpf("-0.1") + 9)) < mpmath.mpf("1e-14")
