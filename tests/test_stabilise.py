"""Each rewriting rule: on the forms it is for, on forms that only look like them, and its equality at 50 digits."""

from __future__ import annotations

import random

import mpmath
import pytest
import sympy as sp

from derive_triplet.derive.catalogue import LOSSES
from derive_triplet.derive.custom import own_loss
from derive_triplet.derive.errors import StepError
from derive_triplet.derive.evaluate import Point, evaluate
from derive_triplet.derive.functions import (
    absolute,
    expm1,
    log1p,
    logaddexp,
    positive_part,
    select,
    sigmoid,
    softplus,
    step,
    tanh,
)
from derive_triplet.derive.lemmas import derive_loss
from derive_triplet.derive.stabilise import RULES, SIMPLER, Rule

A, B, C = sp.symbols("a b c", real=True)
T, P, Q = sp.symbols("t p q", positive=True)
BY_NAME = {rule.name: rule for rule in RULES}
SOFTMAX, COMPLEMENT, LOG, POSITIVE = "softmax is a sigmoid", "complement", "log of a sigmoid", "positive part"
SUM, SHARE, PLUS, LESS = ("log of a sum of exponentials", "log of a share", "log of one plus", "exponential less one")
FRACTION, ABSOLUTE, WITHIN = "one fraction", "absolute value", "sum within a selection"


def softmax(over: sp.Expr, other: sp.Expr, power: int = 1) -> sp.Expr:
    return sp.exp(power * over) / (sp.exp(over) + sp.exp(other)) ** power


REWRITTEN = [
    (SOFTMAX, softmax(A, B), sigmoid(A - B)),
    (SOFTMAX, softmax(B, A), sigmoid(B - A)),
    (SOFTMAX, softmax(A, B, 2), sigmoid(A - B) ** 2),
    (SOFTMAX, softmax(A / T, B / T), sigmoid((A - B) / T)),
    (SOFTMAX, softmax(A, -A), sigmoid(2 * A)),
    (SOFTMAX, 3 * C * softmax(A, B), 3 * C * sigmoid(A - B)),
    (SOFTMAX, softmax(A, B) + sp.log(softmax(B, C)), sigmoid(A - B) + sp.log(sigmoid(B - C))),
    (COMPLEMENT, 1 - sigmoid(A), sigmoid(-A)),
    (COMPLEMENT, sigmoid(A) - 1, -sigmoid(-A)),
    (COMPLEMENT, (1 - sigmoid(A - B)) ** 2 * C, sigmoid(B - A) ** 2 * C),
    (LOG, sp.log(sigmoid(A)), -softplus(-A)),
    (LOG, -T * sp.log(sigmoid(A - B)) + C, T * softplus(B - A) + C),
    (POSITIVE, sp.Max(0, A - B), positive_part(A - B)),
    (POSITIVE, sp.Max(A, 0) ** 2 + C, positive_part(A) ** 2 + C),
    (POSITIVE, sp.Min(A, 0), -positive_part(-A)),
    (SOFTMAX, 1 / (1 + sp.exp(A)), sigmoid(-A)),
    (SOFTMAX, sp.exp(A) / (1 + sp.exp(A)), sigmoid(A)),
    (SOFTMAX, C / (1 + sp.exp(A - B)) ** 2, C * sigmoid(B - A) ** 2),
    (WITHIN, select(A - B, B, A) - B, select(A - B, 0, A - B)),
    (WITHIN, P + select(A, 1, 0) - 1, P + select(A, 0, -1)),
    (WITHIN, T * select(A, B + C, P) - T * P + Q, select(A, T * (B + C) - T * P, 0) + Q),
    (COMPLEMENT, 1 - tanh(A), 2 * sigmoid(-2 * A)),
    (COMPLEMENT, 1 + tanh(A), 2 * sigmoid(2 * A)),
    (COMPLEMENT, tanh(A) - 1, -2 * sigmoid(-2 * A)),
    (COMPLEMENT, (1 - tanh(A)) / 2, sigmoid(-2 * A)),
    (COMPLEMENT, 3 - 3 * sigmoid(A), 3 * sigmoid(-A)),
    (SUM, sp.log(1 + sp.exp(A / T)), softplus(A / T)),
    (SUM, sp.log(sp.exp(A) + sp.exp(B)), logaddexp(A, B)),
    (SUM, sp.log(1 + sp.exp(A) + sp.exp(B)), softplus(logaddexp(A, B))),
    (SUM, sp.log(sp.exp(A) + 2 * sp.exp(B)), logaddexp(A, B + sp.log(2))),
    (SHARE, sp.log(P / (P + Q)), -log1p(Q / P)),
    (SHARE, C * sp.log(Q / (P + Q)), -C * log1p(P / Q)),
    (PLUS, sp.log(1 + P), log1p(P)),
    (PLUS, sp.log(1 + A**2) * C, log1p(A**2) * C),
    (LESS, sp.exp(A) - 1, expm1(A)),
    (LESS, C * (1 - sp.exp(-A)), -C * expm1(-A)),
    (LESS, 2 - 2 * sp.exp(A), -2 * expm1(A)),
    (FRACTION, 1 - P / (P + Q), Q / (P + Q)),
    (FRACTION, 1 / (P + Q) - P / (P + Q) ** 2, Q / (P + Q) ** 2),
    (ABSOLUTE, sp.Abs(A - B) * C, absolute(A - B) * C),
]

LEFT_ALONE = [
    (SOFTMAX, sp.exp(C) / (sp.exp(A) + sp.exp(B))),
    (SOFTMAX, sp.exp(A) / (sp.exp(A) + 2 * sp.exp(B))),
    (SOFTMAX, sp.exp(A) / (sp.exp(A) - sp.exp(B))),
    (SOFTMAX, sp.exp(A) / (sp.exp(A) + sp.exp(B) + sp.exp(C))),
    (SOFTMAX, sp.exp(A) / (sp.exp(A) + sp.exp(B)) ** 2),
    (SOFTMAX, sp.exp(2 * A) / (sp.exp(A) + sp.exp(B))),
    (SOFTMAX, sp.exp(A) * (sp.exp(A) + sp.exp(B))),
    (SOFTMAX, A / (A + B)),
    (COMPLEMENT, 2 - sigmoid(A)),
    (COMPLEMENT, 1 + sigmoid(A)),
    (COMPLEMENT, 1 - 2 * sigmoid(A)),
    (COMPLEMENT, 1 - sigmoid(A) - sigmoid(B)),
    (COMPLEMENT, 1 - softplus(A)),
    (LOG, sp.log(2 * sigmoid(A))),
    (LOG, sp.log(A)),
    (LOG, sp.log(softplus(A))),
    (POSITIVE, sp.Max(A, B)),
    (POSITIVE, sp.Max(0, A, B)),
    (POSITIVE, sp.Max(1, A)),
    (SOFTMAX, 1 / (1 - sp.exp(A))),
    (COMPLEMENT, 2 - tanh(A)),
    (COMPLEMENT, tanh(A) + C),
    (SUM, sp.log(1 - sp.exp(A))),
    (SUM, sp.log(C + sp.exp(A))),
    (SUM, sp.log(3 * sp.exp(A) * C)),
    (SHARE, sp.log(A / (A + B))),
    (SHARE, sp.log(P / (P + 2 * Q) ** 2)),
    (PLUS, sp.log(2 + P)),
    (LESS, sp.exp(A) - 2),
    (LESS, sp.exp(A) + 1),
    (FRACTION, 1 / P - 1 / Q),
    (FRACTION, P - Q),
    (ABSOLUTE, A),
    (WITHIN, select(A - B, B, A) + 1),
    (WITHIN, select(A, B, C) - A),
    (WITHIN, select(A, 2, 5) + 1),
]


def points(count: int = 6) -> list[Point]:
    source = random.Random(7)

    def number() -> mpmath.mpf:
        return mpmath.mpf(source.randrange(-3 * 10**60, 3 * 10**60)) / 10**60

    return [
        Point(1, scalars={A: number(), B: number(), C: number(), T: abs(number()), P: abs(number()), Q: abs(number())})
        for _ in range(count)
    ]


def agree(before: sp.Expr, after: sp.Expr) -> bool:
    with mpmath.workdps(80):
        tolerance = mpmath.mpf(10) ** -50
        return all(mpmath.almosteq(evaluate(before, p), evaluate(after, p), tolerance) for p in points())


def test_every_rule_is_tested_here_and_says_why_it_holds() -> None:
    assert {name for name, *_ in REWRITTEN} == {name for name, *_ in LEFT_ALONE} == set(BY_NAME)
    assert all(rule.reason for rule in RULES)


@pytest.mark.parametrize(("name", "before", "after"), REWRITTEN, ids=str)
def test_a_rule_rewrites_its_forms(name: str, before: sp.Expr, after: sp.Expr) -> None:
    found = BY_NAME[name].apply(before)
    assert found != before
    assert sp.expand(found - after) == 0 or agree(found, after)
    assert not found.atoms(sp.exp, sp.Max, sp.Min, sp.Abs)
    assert agree(before, found)


@pytest.mark.parametrize(("name", "expr"), LEFT_ALONE, ids=str)
def test_a_rule_leaves_other_forms_alone(name: str, expr: sp.Expr) -> None:
    assert BY_NAME[name].apply(expr) == expr


@pytest.mark.parametrize("expr", [step(A) * positive_part(A), C * step(A - B) * positive_part(A - B) ** 2])
def test_a_step_beside_its_positive_part_is_not_needed(expr: sp.Expr) -> None:
    found = SIMPLER[-1].apply(expr)
    assert not found.has(step)
    assert agree(expr, found)


def test_a_step_beside_another_positive_part_stays() -> None:
    assert SIMPLER[-1].apply(step(A) * positive_part(B)) == step(A) * positive_part(B)


def test_a_wrong_rule_is_caught_by_the_step_that_it_makes(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Rule("log of one plus", "planted", lambda e: e.replace(sp.log, lambda z: log1p(z)))
    monkeypatch.setattr("derive_triplet.derive.lemmas.RULES", (wrong,))
    loss = own_loss("log(1 + d_pos) - d_neg", name="planted")
    with pytest.raises(StepError, match="step 'log of one plus' is wrong"):
        derive_loss(loss)


def test_the_comparison_at_50_digits_sees_a_wrong_rule() -> None:
    assert not agree(1 - sigmoid(A), sigmoid(A))
    assert not agree(softplus(A), softplus(A) * (1 + sp.Rational(1, 10**49)))
    assert not agree(positive_part(A), A)


@pytest.mark.parametrize("seed", range(8))
def test_rules_applied_together_to_random_combinations_keep_the_value(seed: int) -> None:
    source = random.Random(seed)
    forms = [before for _, before, _ in REWRITTEN] + [expr for _, expr in LEFT_ALONE if expr.has(sigmoid, sp.Max)]
    before = sp.Add(*(source.choice([-2, 1, C]) * sp.Mul(*source.sample(forms, 2)) for _ in range(3)))
    after = before
    for rule in (*RULES, *RULES):
        after = rule.apply(after)
    assert after != before
    assert agree(before, after)


# ---------------------------------------------------------------- what the catalogue becomes


def complements(expr: sp.Expr) -> list[sp.Expr]:
    """Sums in which a sigmoid, or a name of one, is taken from a constant."""
    names = {sp.Symbol("s", positive=True), sp.Symbol("q", positive=True)}

    def is_sigmoid(term: sp.Expr) -> bool:
        return isinstance(term, sigmoid) or term in names

    return [
        e
        for e in expr.atoms(sp.Add)
        if e.as_coeff_Add()[0] != 0 and any(is_sigmoid(-t) or is_sigmoid(t) for t in e.args)
    ]


def test_the_search_for_complements_finds_them() -> None:
    s = sp.Symbol("s", positive=True)
    assert complements(2 * s * (1 - s)) == [1 - s]
    assert complements((sigmoid(A) - 1) ** 2) == [sigmoid(A) - 1]
    assert not complements(s * (1 - A) + sigmoid(A))


@pytest.mark.parametrize("name", LOSSES)
def test_a_loss_and_its_slopes_have_no_exponential_and_no_complement_left(name: str) -> None:
    derived = derive_loss(LOSSES[name])
    for expr in (derived.value.result, *(lemma.result for lemma in derived.slopes.values())):
        assert not expr.atoms(sp.exp, sp.log, sp.Max, sp.Abs)
        assert not complements(expr)
