"""Printed text means what the expression means: it is read back by Python and compared exactly, as fractions."""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction
from functools import partial
from itertools import product
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st

from derive_triplet.derive.functions import masked_ratio, positive_part, sigmoid, softplus, step
from derive_triplet.derive.printing import InfixPrinter, ShortLines, TextPrinter
from derive_triplet.derive.symbols import i, k, n, x, y
from derive_triplet.derive.targets.cpp import CppPrinter
from derive_triplet.derive.targets.numpy import NumpyPrinter

A, B, C = sp.symbols("a b c", positive=True)
VALUES = {"a": Fraction(5, 7), "b": Fraction(11, 3), "c": Fraction(2, 13)}
PRINTERS = [InfixPrinter, TextPrinter, NumpyPrinter, CppPrinter]
printers = pytest.mark.parametrize("printer", PRINTERS, ids=lambda printer: printer.__name__)


def stand_in(z: Fraction) -> Fraction:
    """In place of a transcendental function: any rational function that no algebraic rule knows."""
    return (z + 2) / (z * z + 3)


def ratio(above: Fraction, below: Fraction) -> Fraction:
    return above / below if below else Fraction(0)


# every name that a printer may print, as an exact function
NAMES: dict[str, Any] = {
    "sigmoid": stand_in,
    "softplus": lambda z: stand_in(z) + 1,
    "positive_part": lambda z: max(z, Fraction(0)),
    "step": lambda z: Fraction(z > 0),
    "masked_ratio": ratio,
    "T": Fraction,
    "pow": lambda base, exponent: base**exponent,
    "power": lambda base, exponent: base**exponent,
    "np": SimpleNamespace(
        power=lambda base, exponent: base**exponent,
        maximum=lambda z, zero: max(z, Fraction(zero)),
        heaviside=lambda z, at_kink: Fraction(z > 0),
    ),
}
NAMES |= {f"_{name}": NAMES[name] for name in ("sigmoid", "softplus", "masked_ratio")}


def read_back(text: str) -> Any:
    """The value of printed text, every number in it an exact fraction."""
    exact = re.sub(r"\b\d+(\.\d+)?\b", lambda number: f"Fraction('{number[0]}')", text.replace("^", "**"))
    return eval(exact, {"__builtins__": {}, "Fraction": Fraction}, {**NAMES, **VALUES})


def value(expr: sp.Expr) -> Fraction:
    """The value of an expression, by recursion over what it is made of."""
    arguments = [value(argument) for argument in expr.args]
    match expr:
        case sp.Symbol():
            return VALUES[expr.name]
        case sp.Rational():
            return Fraction(int(expr.p), int(expr.q))
        case sp.Add():
            return sum(arguments, Fraction(0))
        case sp.Mul():
            total = Fraction(1)
            for argument in arguments:
                total *= argument
            return total
        case sp.Pow():
            return arguments[0] ** arguments[1]
        case _:
            return NAMES[type(expr).__name__](*arguments)


def operators(evaluate: bool) -> dict[str, Callable[[sp.Expr, sp.Expr], sp.Expr]]:
    """Operators of two operands; those of one ignore the second. SymPy keeps what is not evaluated as it is written."""

    def mul(p: Any, q: Any) -> sp.Expr:
        return sp.Mul(p, q, evaluate=evaluate)

    def power(p: Any, exponent: Any) -> sp.Expr:
        return sp.Pow(p, exponent, evaluate=evaluate)

    return {
        "p + q": lambda p, q: sp.Add(p, q, evaluate=evaluate),
        "p - q": lambda p, q: sp.Add(p, mul(-1, q), evaluate=evaluate),
        "q - p": lambda p, q: sp.Add(q, mul(-1, p), evaluate=evaluate),
        "-p": lambda p, _: mul(-1, p),
        "-p/3": lambda p, _: mul(sp.Rational(-1, 3), p),
        "p * q": mul,
        "p / q": lambda p, q: mul(p, power(q, -1)),
        "q / p": lambda p, q: mul(q, power(p, -1)),
        "1 / p": lambda p, _: power(p, -1),
        "p**2": lambda p, _: power(p, 2),
        "p**7": lambda p, _: power(p, 7),
        "p**-2": lambda p, _: power(p, -2),
        "f(p)": lambda p, _: sigmoid(p),
    }


@printers
@pytest.mark.parametrize("evaluate", [True, False])
@pytest.mark.parametrize("outer", operators(True))
def test_every_operator_keeps_its_value_inside_every_other(
    printer: type[InfixPrinter], evaluate: bool, outer: str
) -> None:
    known = operators(evaluate)
    for inner, innermost in product(known, ("p - q", "-p", "p / q", "p**-2")):
        expr = known[outer](known[inner](known[innermost](A, B), sp.Rational(-2, 3)), C)
        assert read_back(printer()(expr)) == value(expr), expr


def _combined(smaller: st.SearchStrategy[sp.Expr]) -> st.SearchStrategy[sp.Expr]:
    evaluated = st.booleans()
    return st.one_of(
        st.builds(lambda p, q, e: sp.Add(p, q, evaluate=e), smaller, smaller, evaluated),
        st.builds(lambda p, q, e: sp.Mul(p, q, evaluate=e), smaller, smaller, evaluated),
        st.builds(lambda p, q, e: sp.Add(p, sp.Mul(-1, q, evaluate=e), evaluate=e), smaller, smaller, evaluated),
        st.builds(lambda p, power: p**power, smaller, st.sampled_from([-5, -2, -1, 2, 3, 4, 7])),
        st.builds(lambda p: sigmoid(p), smaller),
        st.builds(lambda p: softplus(-p), smaller),
        st.builds(lambda p, q: positive_part(p - q), smaller, smaller),
        st.builds(lambda p, q: step(p - q), smaller, smaller),
        st.builds(lambda p, q: masked_ratio(p, q), smaller, smaller),
    )


_LEAVES = st.sampled_from(
    [A, B, C, sp.Integer(2), sp.Integer(-3), sp.Rational(2, 3), sp.Rational(-1, 2), sp.Integer(1)]
)
EXPRESSIONS = st.recursive(_LEAVES, _combined, max_leaves=8)


@printers
@settings(max_examples=100, deadline=None, derandomize=True, database=None)
@given(expr=EXPRESSIONS)
def test_printed_text_has_the_value_of_the_expression(printer: type[InfixPrinter], expr: sp.Expr) -> None:
    try:
        expected = value(expr)
    except (ZeroDivisionError, KeyError):
        return  # SymPy made infinity of it
    assert read_back(printer()(expr)) == expected


@printers
def test_powers_of_negative_numbers_fractions_and_powers_keep_their_value(printer: type[InfixPrinter]) -> None:
    for base in (sp.Integer(-3), sp.Rational(2, 3), sp.Rational(-2, 3), A**2, -A, A / B):
        for exponent in (2, 7, -2):
            expr = sp.Pow(base, exponent, evaluate=False)
            assert read_back(printer()(expr)) == value(expr), expr


def test_reading_back_sees_a_missing_bracket() -> None:
    class Careless(InfixPrinter):
        def at_least(self, expr: sp.Expr, precedence: int) -> str:
            return self(expr)

    for expr in (A * (B + C), A / C**2, (A + B) ** 2, sp.Add(A, sp.Mul(-1, B + C, evaluate=False), evaluate=False)):
        assert read_back(InfixPrinter()(expr)) == value(expr)
        assert read_back(Careless()(expr)) != value(expr)


@printers
@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        (sp.sqrt(A), lambda a, b: a**0.5),
        (1 / sp.sqrt(A), lambda a, b: 1 / a**0.5),
        (B / sp.sqrt(A + B), lambda a, b: b / (a + b) ** 0.5),
        (A ** sp.Rational(3, 2), lambda a, b: a**1.5),
        (A ** sp.Rational(-5, 3) * B, lambda a, b: b * a ** (-5 / 3)),
        ((A + B) ** sp.Rational(1, 3), lambda a, b: (a + b) ** (1 / 3)),
        (A**B, lambda a, b: a**b),
        (A ** (B - 2), lambda a, b: a ** (b - 2)),
        (2 ** (-A), lambda a, b: 2 ** (-a)),
        (sp.sqrt(2) * A / 3, lambda a, b: 2**0.5 * a / 3),
    ],
    ids=lambda value: "" if callable(value) else str(value),
)
def test_roots_and_powers_are_those_of_real_numbers(printer: type[InfixPrinter], expr: sp.Expr, expected: Any) -> None:
    root = {"sqrt": np.sqrt, "square_root": np.sqrt, "np": np, "pow": pow, "power": pow, "T": float}
    text = printer()(expr).replace("^", "**")
    assert eval(text, {"a": 0.625, "b": 3.25, **root}) == pytest.approx(expected(0.625, 3.25), rel=1e-14)


@pytest.mark.parametrize(
    ("expr", "expected"),
    [
        (positive_part(A - B), [0.0, 0.0, 1.5]),
        (step(A - B), [0.0, 0.0, 1.0]),
        (sp.exp(A - B), np.exp([-1.0, 0.0, 1.5])),
        (sp.log(A / B), np.log([0.5, 1.0, 2.0])),
        (sp.sqrt(A) - sp.Abs(A - B), np.sqrt([1.0, 2.0, 3.0]) - [1.0, 0.0, 1.5]),
        (sp.sign(A - B), [-1.0, 0.0, 1.0]),
    ],
    ids=str,
)
def test_numpy_text_runs_on_arrays(expr: sp.Expr, expected: Any) -> None:
    # a step is 0 at its kink, whatever NumPy's default would be
    difference = sp.Symbol("d", real=True)
    arrays = {"a": np.array([1.0, 2.0, 3.0]), "b": np.array([2.0, 2.0, 1.5])}
    assert eval(NumpyPrinter()(expr.subs(difference, A - B)), {"np": np, **arrays}) == pytest.approx(
        np.asarray(expected)
    )


def test_a_numpy_reduction_is_a_sum_over_the_columns() -> None:
    u, v = sp.symbols("u v", real=True)
    rows = np.random.default_rng(0)
    arrays = {"_sum": partial(np.sum, axis=1), "u": rows.normal(size=(3, 4)), "v": rows.normal(size=(3, 4))}
    for term in (u**2, u * v, u * (u + v), u, u**3, 2 * u * v, u**2 * v**2, u**2 + v):
        found = eval(NumpyPrinter().reduction(term, "sum"), dict(arrays))
        assert found == pytest.approx(sp.lambdify((u, v), term)(arrays["u"], arrays["v"]).sum(axis=1))
    assert NumpyPrinter().reduction(u, "max") == "_largest(u)"


def test_integers_do_not_divide_as_integers_in_cuda() -> None:
    for expr in (sp.Rational(1, 2), A ** sp.Rational(1, 3), sp.Rational(-3, 4) * A, A / 2):
        text = CppPrinter()(expr)
        assert re.search(r"\d", text)
        assert not re.search(r"(?<![T\w(])\(?\b\d+\b(?!\))", text.replace("T(-", "T(")), text


def test_names_are_replaced_where_asked_and_nowhere_else() -> None:
    assert InfixPrinter({"a": "row.a"})(A * sp.Symbol("aa") + B) in (
        "b + row.a * aa",
        "row.a * aa + b",
        "aa * row.a + b",
    )


def test_sums_begin_with_a_term_that_has_no_minus_sign_where_there_is_one() -> None:
    assert not InfixPrinter()(A - B - C).startswith("-")
    assert not InfixPrinter()(-A + B).startswith("-")
    assert InfixPrinter()(-A - B).startswith("-")


def test_stable_forms_are_printed_as_they_are() -> None:
    # SymPy's printers and optimisers rewrite both
    assert InfixPrinter()(softplus(A - B)) == "softplus(a - b)"
    assert InfixPrinter()(sp.log(1 + sp.exp(-B) * sp.exp(A, evaluate=False))).count("exp") >= 1
    assert NumpyPrinter()(sigmoid(-A) * sigmoid(A)).count("_sigmoid") == 2


def test_derivations_are_printed_for_people() -> None:
    text = TextPrinter()
    assert text(sp.Sum((x[i] - y[i]) ** 2, (i, 1, n))) == "sum_i((x[i] - y[i])^2)"
    assert text(sp.Derivative(A**2, A)) == "d/da(a^2)"
    assert text(x[k] * sp.KroneckerDelta(i, k)) in ("x[k]*delta(i, k)", "delta(i, k)*x[k]")


@printers
def test_what_a_printer_does_not_know_it_refuses(printer: type[InfixPrinter]) -> None:
    with pytest.raises(NotImplementedError, match=f"{printer.__name__} cannot print Integral"):
        printer()(1 + sp.Integral(A, A))


def test_numbers_stand_before_names_and_these_before_sums() -> None:
    assert TextPrinter()((A + B) * C * 2) == "2*c*(a + b)"
    assert TextPrinter()(sp.Mul((A + B), C, 2, evaluate=False)) == "2*c*(a + b)"


@pytest.mark.parametrize(
    "value",
    [
        2 * (B * C - A) * sp.exp(A**2 - B**2) * sp.exp(B**2 - C**2),
        (A - B) * sp.exp(C**2 - A**2) / (sp.sqrt(1 + A**4) * (A + B + C)),
    ],
    ids=["exponentials", "a quotient with a root"],
)
def test_long_products_are_computed_step_by_step_and_keep_their_value(value: sp.Expr) -> None:
    class Short(ShortLines):
        room = 30

    lines = Short().lines("result", value)
    assert 2 <= len(lines) < 12
    scope = {"sqrt": np.sqrt, "exp": np.exp, "pow": pow, "a": 0.5, "b": 0.75, "c": 1.25}
    for name, text in lines:
        scope[name] = eval(text, {}, scope)
    assert np.isclose(scope["result"], float(value.subs({A: 0.5, B: 0.75, C: 1.25})), rtol=1e-14)
