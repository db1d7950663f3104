"""A step cannot be held unchecked: wrong ones raise, by whatever way they are made, and SymPy's verdict is honest."""

from __future__ import annotations

import dataclasses

import mpmath
import pytest
import sympy as sp

from derive_triplet.derive.errors import StepError
from derive_triplet.derive.functions import positive_part, sigmoid, softplus, step
from derive_triplet.derive.steps import DIGITS, DIMENSIONS, Chain, Lemma, Setting, Step, are_equal, collapse_deltas
from derive_triplet.derive.symbols import i, k, n, x, y

A, B = sp.symbols("a b", real=True)
P = sp.Symbol("p", positive=True)
D = sp.Symbol("d", nonnegative=True)
SQUARES = sp.Sum((x[i] - y[i]) ** 2, (i, 1, n))
SETTING = Setting(("x", "y"), (A, B, P), {D: sp.sqrt(SQUARES)})
DELTA = sp.KroneckerDelta(i, k)


def step_of(before: sp.Expr, after: sp.Expr) -> Step:
    return Step("the rule", before, after, "the reason", SETTING)


RIGHT = {
    "binomial": ((A + B) ** 2, A**2 + 2 * A * B + B**2),
    "complement": (1 - sigmoid(A), sigmoid(-A)),
    "softplus": (sp.log(1 + sp.exp(A - B)), softplus(A - B)),
    "softmax": (sp.exp(A / P) / (sp.exp(A / P) + sp.exp(B / P)), sigmoid((A - B) / P)),
    "square of a softmax": (sp.exp(2 * A) / (sp.exp(A) + sp.exp(B)) ** 2, sigmoid(A - B) ** 2),
    "sum of products": (sp.Sum(2 * A * x[i], (i, 1, n)), 2 * A * sp.Sum(x[i], (i, 1, n))),
    "another index": (sp.Sum(x[k] ** 2, (k, 1, n)), sp.Sum(x[i] ** 2, (i, 1, n))),
    "delta": (sp.Sum(x[i] * y[i] * DELTA, (i, 1, n)), x[k] * y[k]),
    "derivative of a sum": (sp.Derivative(SQUARES, x[k]), 2 * (x[k] - y[k])),
    "derivative of a norm": (sp.Derivative(sp.sqrt(SQUARES), y[k]), (y[k] - x[k]) / D),
    "derivative of a node": (sp.Derivative(softplus(A * B), A), B * sigmoid(A * B)),
    "abbreviation": (D**2, SQUARES),
    "root of a square": (sp.sqrt(P**2), P),
}

WRONG = {
    "sign": (A - B, B - A),
    "factor": (sp.Derivative(SQUARES, x[k]), x[k] - y[k]),
    "one part in 10^45": (A, A * (1 + sp.Rational(1, 10**45))),
    "small beside 1": (A + sp.Rational(1, 10**40), A),
    "other vector": (sp.Derivative(sp.sqrt(SQUARES), x[k]), (y[k] - x[k]) / D),
    "other component": (sp.Sum(x[i] * DELTA, (i, 1, n)), x[1]),
    "one dimension only": (sp.Sum(x[i], (i, 1, n)) ** 2, sp.Sum(x[i] ** 2, (i, 1, n))),
    "few dimensions only": (n**2, 3 * n - 2),
    "positive numbers only": (sp.sqrt(sp.expand(A**2 + 1) - 1), A),
    "branch": (positive_part(A), A),
    "branch of the mirror image": (positive_part(-A), -A),
    "other branch": (step(A - B), sp.Integer(0)),
    "not masked": (sigmoid(A), sp.exp(A)),
}


@pytest.mark.parametrize("name", RIGHT)
def test_a_right_step_is_decided_symbolically(name: str) -> None:
    made = step_of(*RIGHT[name])
    assert made.symbolic
    assert (made.before, made.after) == RIGHT[name]


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_step_raises_an_error_that_names_it(name: str) -> None:
    with pytest.raises(StepError, match="'the rule' is wrong"):
        step_of(*WRONG[name])


@pytest.mark.parametrize("name", WRONG)
def test_a_wrong_step_is_not_decided_to_be_right(name: str) -> None:
    before, after = WRONG[name]
    assert not are_equal(before, after, SETTING)


def test_a_right_step_cannot_be_turned_into_a_wrong_one() -> None:
    right = step_of(*RIGHT["derivative of a sum"])
    assert dataclasses.replace(right, reason="another").symbolic
    with pytest.raises(StepError, match="'the rule' is wrong"):
        dataclasses.replace(right, after=2 * (y[k] - x[k]))
    with pytest.raises(StepError, match="'another rule' is wrong"):
        dataclasses.replace(right, rule="another rule", before=SQUARES)
    with pytest.raises(dataclasses.FrozenInstanceError):
        right.after = x[k]  # type: ignore[misc]
    with pytest.raises((TypeError, ValueError)):
        dataclasses.replace(right, after=2 * (y[k] - x[k]), symbolic=True)


def test_a_step_that_sympy_cannot_decide_is_held_but_not_called_symbolic() -> None:
    undecided = step_of(sp.Abs(A * B), sp.Max(A, -A) * sp.Abs(B))
    assert not undecided.symbolic


def test_a_step_that_cannot_be_evaluated_cannot_be_made() -> None:
    with pytest.raises(NotImplementedError, match="no value"):
        step_of(sp.Symbol("unknown"), sp.Symbol("unknown"))


# ---------------------------------------------------------------- the points of the numerical check


def test_two_sides_that_are_large_may_differ_by_their_rounding() -> None:
    before, after = 10**40 * sigmoid(A), 10**40 / (1 + sp.exp(-A))
    assert 0 < Step("the rule", before, after, "the reason", SETTING, numeric=True).check() < 1e-60


def test_points_visit_every_dimension_component_and_sign() -> None:
    points = list(SETTING.points())
    assert [point.dimension for point in points] == sorted(DIMENSIONS * (len(points) // len(DIMENSIONS)))
    assert min(DIMENSIONS) == 1
    assert all(1 <= point.scalars[k] <= point.dimension for point in points)
    assert any(point.scalars[k] > 1 for point in points)
    assert len({str(point.scalars[A]) for point in points}) == len(points)
    for name in SETTING.vectors:
        components = [component for point in points for component in point.vectors[name]]
        assert min(components) < 0 < max(components)
    assert all(point.scalars[P] > 0 for point in points)


@pytest.mark.parametrize("vectors", [(), ("x",), ("x", "y"), ("x", "x_pos", "x_neg")], ids=len)
def test_every_scalar_takes_both_signs_whatever_else_there_is(vectors: tuple[str, ...]) -> None:
    # or a step that holds on one side of a kink only would pass
    for count in range(1, 8):
        scalars = sp.symbols(f"a:{count}", real=True)
        points = list(Setting(vectors, scalars).points())
        for scalar in scalars:
            assert {bool(point.scalars[scalar] > 0) for point in points} == {True, False}


def test_points_are_the_same_every_time_and_have_all_their_digits() -> None:
    with mpmath.workdps(DIGITS + 20):
        first, again = SETTING.points(), dataclasses.replace(SETTING).points()
        assert first is SETTING.points()
        assert first == again
        value = first[0].vectors["x"][0]
        assert abs(value - mpmath.mpf(float(value))) > mpmath.mpf(10) ** -30


def test_abbreviations_of_abbreviations_are_spelled_out() -> None:
    z = sp.Symbol("z", real=True)
    for abbreviations in ({z: D + 1, D: sp.sqrt(SQUARES)}, {D: sp.sqrt(SQUARES), z: D + 1}):
        assert Setting(("x", "y"), (), abbreviations).spell_out(2 * z) == 2 * sp.sqrt(SQUARES) + 2


# ---------------------------------------------------------------- chains


def test_a_lemma_is_an_unbroken_chain_from_its_subject_to_its_result() -> None:
    first, second = step_of((A + B) ** 2, A**2 + 2 * A * B + B**2), step_of(A**2 + 2 * A * B + B**2, (-A - B) ** 2)
    assert Lemma("square", (A + B) ** 2, (first, second)).result == (-A - B) ** 2
    assert Lemma("nothing to do", A, ()).result == A
    for subject, steps in (((A - B) ** 2, (first,)), ((A + B) ** 2, (second,)), ((A + B) ** 2, (second, first))):
        with pytest.raises(StepError, match="square: step 'the rule' starts at"):
            Lemma("square", subject, steps)


def test_a_lemma_cannot_lose_a_step_from_its_middle() -> None:
    chain = Chain("square", (A + B) ** 2, SETTING)
    chain.then("expand", A**2 + 2 * A * B + B**2, "").then("factor", (-A - B) ** 2, "")
    lemma = chain.then("add nothing", (A + B) ** 2 + SQUARES - D**2, "").qed()
    assert [made.rule for made in lemma.steps] == ["expand", "factor", "add nothing"]
    with pytest.raises(StepError, match="'add nothing' starts at"):
        dataclasses.replace(lemma, steps=(lemma.steps[0], lemma.steps[2]))


def test_a_chain_records_what_changes_and_stops_at_what_is_wrong() -> None:
    z = sp.Symbol("z", real=True)
    chain = Chain("a name", 2 * (A - B), SETTING)
    chain.then("nothing", 2 * (A - B), "").then("name it", 2 * z, "", also={z: A - B})
    assert [made.rule for made in chain.qed().steps] == ["name it"]
    with pytest.raises(StepError, match="'halve' is wrong"):
        chain.then("halve", z, "")
    assert chain.qed().result == 2 * z


# ---------------------------------------------------------------- the Kronecker delta


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (sp.Sum(DELTA, (i, 1, n)), sp.Integer(1)),
        (sp.Sum(x[i] * DELTA, (i, 1, n)), x[k]),
        (sp.Sum(2 * (x[i] - y[i]) * DELTA, (i, 1, n)), 2 * (x[k] - y[k])),
        (sp.Sum(sp.exp(x[i] * y[i]) * DELTA, (i, 1, n)), sp.exp(x[k] * y[k])),
        (A + sp.sqrt(SQUARES) * sp.Sum(x[i] ** 2 * DELTA, (i, 1, n)) ** 2, A + sp.sqrt(SQUARES) * x[k] ** 4),
        (sp.Sum(x[i] * DELTA + y[i] * DELTA, (i, 1, n)), x[k] + y[k]),
    ],
    ids=str,
)
def test_sums_over_a_kronecker_delta_collapse_without_cases(before: sp.Expr, after: sp.Expr) -> None:
    collapsed = collapse_deltas(before)
    assert sp.expand(collapsed - after) == 0
    assert not collapsed.has(sp.Piecewise, sp.KroneckerDelta)


def test_other_sums_stay() -> None:
    assert collapse_deltas(SQUARES * x[k]) == SQUARES * x[k]


# ---------------------------------------------------------------- the symbolic verdict


@pytest.mark.parametrize(
    "expr",
    [
        sp.sqrt(SQUARES) ** 3 / D - SQUARES,
        sp.Sum(x[k] * y[k], (k, 1, n)) * sp.exp(A) / sp.exp(A - B) - sp.exp(B) * sp.Sum(x[i] * y[i], (i, 1, n)),
        sp.log(sigmoid(A)) + softplus(-A),
        sigmoid(A) * sigmoid(-A) - (sigmoid(A) - sigmoid(A) ** 2),
        sp.Derivative(sigmoid(A / P), A) - sigmoid(A / P) * sigmoid(-A / P) / P,
    ],
    ids=str,
)
def test_identities_are_decided(expr: sp.Expr) -> None:
    assert are_equal(expr, sp.S.Zero, SETTING)


@pytest.mark.parametrize(
    "expr",
    [
        SQUARES - sp.Sum((x[i] + y[i]) ** 2, (i, 1, n)),
        sp.Sum(x[i], (i, 1, n)) - sp.Sum(x[i], (i, 2, n)),
        sp.exp(A) * sp.exp(B) - sp.exp(A * B),
        sp.exp(A / 2) - sp.exp(A),
        sp.log(A**2 + 1) - sp.log(A**2 + 2),
        sp.log(P) + sp.log(2 * P),
        sigmoid(A) * sigmoid(-A) - sigmoid(A) ** 2,
        softplus(A) - A,
        sp.Derivative(softplus(A), A) - sigmoid(-A),
        sp.Sum(x[k] * x[i], (k, 1, n)) - sp.Sum(x[k] ** 2, (k, 1, n)),
        sp.Sum((x[k] - y[i]) ** 2, (k, 1, n)) - sp.Sum((x[k] - y[k]) ** 2, (k, 1, n)),
    ],
    ids=str,
)
def test_what_is_not_zero_is_never_decided_to_be(expr: sp.Expr) -> None:
    assert not are_equal(expr, sp.S.Zero, SETTING)
