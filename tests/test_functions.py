"""Each node against its definition and against differences of it, at high precision, and its value at its kink."""

from __future__ import annotations

import mpmath
import pytest
import sympy as sp

from derive_triplet.derive.evaluate import Point, evaluate
from derive_triplet.derive.functions import (
    NODES,
    Node,
    absolute,
    attains,
    expand_nodes,
    expm1,
    hypot,
    log1p,
    logaddexp,
    masked_ratio,
    positive_part,
    product,
    quotient,
    select,
    sigmoid,
    signum,
    softplus,
    step,
    tanh,
)

Z = sp.Symbol("z", real=True)
UNARY = [node for node in NODES if node not in (masked_ratio, attains)]
POINTS = ["-1000", "-37.5", "-1", "-1e-40", "1e-40", "0.3", "1", "41", "1000"]

DEFINITIONS = {
    sigmoid: lambda z: 1 / (1 + mpmath.exp(-z)),
    softplus: lambda z: mpmath.log(1 + mpmath.exp(z)),
    positive_part: lambda z: (z + abs(z)) / 2,
    step: lambda z: (1 + mpmath.sign(z)) / 2,
    absolute: lambda z: mpmath.sqrt(z**2),
    signum: lambda z: z / abs(z),
    log1p: lambda z: mpmath.log(1 + z**2),
    expm1: lambda z: mpmath.exp(z) - 1,
    tanh: lambda z: (mpmath.exp(z) - mpmath.exp(-z)) / (mpmath.exp(z) + mpmath.exp(-z)),
    hypot: lambda z: mpmath.sqrt(z**2 + 1),
    logaddexp: lambda z: mpmath.log(mpmath.exp(z) + mpmath.e),
    select: lambda z: (z**2 - z + abs(z) * (z + 1)) / 2,
}


def applied(node: type[Node], z: sp.Expr = Z) -> sp.Expr:
    """A node as a function of one real number."""
    several = {log1p: (z**2,), hypot: (z, 1), logaddexp: (z, 1), select: (z, z**2, -z)}
    return node(*several.get(node, (z,)))


def close(a: mpmath.mpf, b: mpmath.mpf, digits: int = 50) -> bool:
    return bool(abs(a - b) <= mpmath.mpf(10) ** -digits * abs(b))


def test_every_node_is_tested_here() -> None:
    assert set(DEFINITIONS) | {masked_ratio, attains} == set(NODES)


@pytest.mark.parametrize("node", UNARY, ids=lambda node: node.__name__)
@pytest.mark.parametrize("at", POINTS)
def test_a_value_is_that_of_the_definition_with_no_digit_lost(node: type[Node], at: str) -> None:
    with mpmath.workdps(60):
        found = evaluate(applied(node), Point(1, scalars={Z: mpmath.mpf(at)}))
    with mpmath.workdps(1000):  # so many that the naive definition is accurate
        assert close(found, DEFINITIONS[node](mpmath.mpf(at)))


@pytest.mark.parametrize("node", UNARY, ids=lambda node: node.__name__)
@pytest.mark.parametrize("at", ["-2.75", "-0.1", "0.3", "5"])
def test_the_definition_for_sympy_is_the_same_function(node: type[Node], at: str) -> None:
    with mpmath.workdps(60):
        written = applied(node).definition().subs(Z, sp.Rational(at)).evalf(60)
        assert close(mpmath.mpf(str(written)), evaluate(applied(node), Point(1, scalars={Z: mpmath.mpf(at)})))


@pytest.mark.parametrize("node", UNARY, ids=lambda node: node.__name__)
@pytest.mark.parametrize("at", ["-37.5", "-1", "-0.01", "0.3", "2", "41"])
def test_the_derivative_is_the_limit_of_differences(node: type[Node], at: str) -> None:
    derivative = sp.diff(applied(node), Z)
    with mpmath.workdps(60):
        found = evaluate(derivative, Point(1, scalars={Z: mpmath.mpf(at)}))
    with mpmath.workdps(250):
        h = mpmath.mpf(10) ** -60
        ahead, behind = (DEFINITIONS[node](mpmath.mpf(at) + sign * h) for sign in (1, -1))
        assert close(found, (ahead - behind) / (2 * h))


@pytest.mark.parametrize("node", UNARY, ids=lambda node: node.__name__)
def test_the_chain_rule_goes_through_a_node(node: type[Node]) -> None:
    outer, inner = sp.diff(applied(node), Z).subs(Z, 3 * Z + 1), sp.diff(applied(node, 3 * Z + 1), Z)
    for at in ("-2", "0.75"):
        assert evaluate(inner - 3 * outer, Point(1, scalars={Z: mpmath.mpf(at)})) == 0
    assert node in (step, signum) or inner != 0


def test_the_convention_at_a_kink_is_zero() -> None:
    origin = Point(1, scalars={Z: mpmath.mpf(0)})
    assert evaluate(step(Z), origin) == 0
    assert evaluate(positive_part(Z), origin) == 0
    assert evaluate(sp.diff(positive_part(Z), Z), origin) == 0
    assert evaluate(sp.diff(absolute(Z), Z), origin) == 0
    assert evaluate(sp.diff(select(Z, 2 * Z, 3 * Z), Z), origin) == 3, "the slope of the value that holds there"
    assert step(Z).definition().subs(Z, 0) == 0, "SymPy's own Heaviside(0) is 1/2"


def test_one_that_is_the_largest_counts_and_others_do_not_nor_do_they_nearby() -> None:
    for number, wanted in ((2, 1), (1, 0), (-2, 0)):
        node = attains(Z, sp.Integer(2))
        point = Point(1, {}, {Z: mpmath.mpf(number)})
        assert evaluate(node, point) == wanted == node.definition().subs(Z, number)
        assert sp.diff(node, Z) == sp.diff(attains(sp.Integer(2), Z), Z) == 0


def test_a_masked_ratio_is_the_ratio_and_zero_where_there_is_none() -> None:
    a, b = sp.symbols("a b", real=True)
    for above, below, wanted in (
        (3, 4, mpmath.mpf("0.75")),
        (3, -4, mpmath.mpf("-0.75")),
        (0, 4, 0),
        (3, 0, 0),
        (0, 0, 0),
    ):
        point = Point(1, scalars={a: mpmath.mpf(above), b: mpmath.mpf(below)})
        assert evaluate(masked_ratio(a, b), point) == wanted
    assert masked_ratio(a, b).definition() == a / b


@pytest.mark.parametrize("node", [product, quotient])
def test_what_is_computed_where_it_stands_has_the_value_and_the_slopes_of_what_it_means(node: type[Node]) -> None:
    a, b = sp.symbols("a b", real=True)
    written = node(a, b)
    meant = {product: a * b, quotient: a / b}[node]
    point = Point(1, scalars={a: mpmath.mpf("0.75"), b: mpmath.mpf("-2.5")})
    for found, wanted in ((written, meant), *((written.diff(of), meant.diff(of)) for of in (a, b))):
        assert close(evaluate(found, point), evaluate(wanted, point), 14)
    assert written.definition() == meant


def test_sympy_does_not_undo_a_stable_form() -> None:
    for stable in (softplus(-Z), sigmoid(Z) * sigmoid(-Z), positive_part(Z - 1), masked_ratio(Z, Z)):
        assert sp.simplify(stable) == stable
        assert sp.together(sp.expand(stable)) == stable


def test_a_sigmoid_and_its_complement_add_up_to_one() -> None:
    with mpmath.workdps(60):
        point = Point(1, scalars={Z: mpmath.mpf("1.7")})
        assert close(evaluate(sigmoid(Z) + sigmoid(-Z), point), mpmath.mpf(1))


def test_expanding_reaches_nodes_inside_nodes() -> None:
    expanded = expand_nodes(softplus(2 * sigmoid(Z)) + sigmoid(positive_part(Z)))
    assert not expanded.atoms(Node)
    assert expanded == sp.log(1 + sp.exp(2 / (1 + sp.exp(-Z)))) + 1 / (1 + sp.exp(-sp.Max(0, Z)))


def test_a_node_without_a_value_or_a_definition_says_so() -> None:
    class unfinished(Node):  # noqa: N801
        pass

    with pytest.raises(NotImplementedError):
        evaluate(unfinished(Z), Point(1, scalars={Z: mpmath.mpf(1)}))
    with pytest.raises(NotImplementedError):
        unfinished(Z).definition()
