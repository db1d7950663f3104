"""Rewriting a loss to forms that are accurate over the whole range of doubles.

A definition such as exp(a)/(exp(a) + exp(b)) is infinity over infinity from a = 89 in float32. Each `Rule` here is an
identity that replaces such a form by a node of `functions`; a derivation applies them one by one, as checked steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import reduce
from itertools import permutations

import sympy as sp

from .functions import (
    expm1,
    log1p,
    logaddexp,
    positive_part,
    select,
    sigmoid,
    softplus,
    step,
    tanh,
    with_own_absolute,
)


@dataclass(frozen=True)
class Rule:
    """An identity, as a function that applies it wherever it fits in an expression."""

    name: str
    reason: str
    apply: Callable[[sp.Expr], sp.Expr]


def _softmax(expr: sp.Expr) -> sp.Expr:
    """exp(j*a)*exp(l*b) / (exp(a) + exp(b))**(j + l) is sigmoid(a - b)**j * sigmoid(b - a)**l; a 1 is exp(0)."""

    def rewrite(product: sp.Expr) -> sp.Expr:
        factors = sp.Mul.make_args(product)
        for power in factors:
            if not (isinstance(power, sp.Pow) and power.exp.is_Integer and power.exp.is_negative):
                continue
            exponents = [_exponent(term) for term in power.base.args] if isinstance(power.base, sp.Add) else []
            match exponents:
                case [sp.Expr() as a, sp.Expr() as b]:
                    n = -power.exp
                    above = {j: {sp.exp(j * a), sp.exp((n - j) * b)} - {sp.S.One} for j in range(n, -1, -1)}
                    # as many exponentials as there are belong to the fraction
                    for j in sorted(above, key=lambda j: -len(above[j])):
                        if above[j] <= set(factors):
                            sigmoids = sigmoid(_difference(a, b)) ** j * sigmoid(_difference(b, a)) ** (n - j)
                            return product / power / sp.Mul(*above[j]) * sigmoids
        return product

    # first the products, in which an exponential above the fraction belongs to it
    return expr.replace(lambda e: isinstance(e, sp.Mul), rewrite).replace(lambda e: isinstance(e, sp.Pow), rewrite)


def _exponent(term: sp.Expr) -> sp.Expr | None:
    """a, if the term is exp(a)."""
    if term == 1:
        return sp.S.Zero
    return term.args[0] if isinstance(term, sp.exp) else None


def _difference(a: sp.Expr, b: sp.Expr) -> sp.Expr:
    """a - b, with a common denominator kept in one place: (d_pos - d_neg)/temperature."""
    return sp.together(sp.expand(a - b))


def _complement(expr: sp.Expr) -> sp.Expr:
    """1 - sigmoid(z) is sigmoid(-z), 1 - tanh(z) is 2*sigmoid(-2*z): no digits are lost in a difference."""

    def rewrite(total: sp.Add) -> sp.Expr:
        constant, sign, node = _one_and_a_node(total)
        if isinstance(node, sigmoid) and sign == -1:
            return constant * sigmoid(_difference(0, node.args[0]))
        if isinstance(node, tanh):
            return 2 * constant * sigmoid(_difference(2 * sign * node.args[0], 0))
        return total

    return expr.replace(lambda e: isinstance(e, sp.Add), rewrite)


def _one_and_a_node(total: sp.Add) -> tuple[sp.Expr, sp.Expr, sp.Expr | None]:
    """(c, s, node) of c*(1 + s*node), where s is a sign; SymPy writes c into the sum. The node is None for others."""
    constant, rest = total.as_coeff_Add()
    number, node = rest.as_coeff_Mul()
    if constant == 0 or abs(number) != abs(constant):
        return sp.S.Zero, sp.S.Zero, None
    return constant, number / constant, node


def _log_sigmoid(expr: sp.Expr) -> sp.Expr:
    """log(sigmoid(z)) is -softplus(-z)."""
    return expr.replace(
        lambda e: isinstance(e, sp.log) and isinstance(e.args[0], sigmoid), lambda e: -softplus(-e.args[0].args[0])
    )


def _log_sum(expr: sp.Expr) -> sp.Expr:
    """log(exp(a) + exp(b) + ...) is logaddexp(a, ...), and softplus where one of the terms is 1."""

    def rewrite(logarithm: sp.log) -> sp.Expr:
        terms = sp.Add.make_args(logarithm.args[0])
        exponents = [exponent for term in terms if (exponent := _weighted_exponent(term)) is not None]
        if not 2 <= len(terms) == len(exponents) or not any(e.free_symbols for e in exponents):
            return logarithm
        ones = [e for e in exponents if e == 0]
        others = sorted((e for e in exponents if e != 0), key=sp.default_sort_key)
        summed = reduce(logaddexp, others)
        return softplus(summed) if ones else summed

    return expr.replace(lambda e: isinstance(e, sp.log), rewrite)


def _weighted_exponent(term: sp.Expr) -> sp.Expr | None:
    """a + log(c), if the term is c*exp(a), c > 0."""
    number, rest = term.as_coeff_Mul()
    exponent = _exponent(rest)
    return sp.log(number) + exponent if exponent is not None and number > 0 else None


def _log_of_share(expr: sp.Expr) -> sp.Expr:
    """log(a/(a + b)) is -log1p(b/a), for positive a and b."""

    def rewrite(logarithm: sp.log) -> sp.Expr:
        share = logarithm.args[0]
        for power in sp.Mul.make_args(share):
            if power.is_Pow and power.exp == -1 and power.base.is_Add and len(power.base.args) == 2:
                first, second = power.base.args
                for part, rest in ((first, second), (second, first)):
                    if share / power == part and part.is_positive and rest.is_nonnegative:
                        return -log1p(rest / part)
        return logarithm

    return expr.replace(lambda e: isinstance(e, sp.log), rewrite)


def _log_of_one_plus(expr: sp.Expr) -> sp.Expr:
    """log(1 + z) is log1p(z)."""

    def rewrite(logarithm: sp.log) -> sp.Expr:
        constant, rest = logarithm.args[0].as_coeff_Add()
        return log1p(rest) if constant == 1 and rest != 0 else logarithm

    return expr.replace(lambda e: isinstance(e, sp.log), rewrite)


def _exp_less_one(expr: sp.Expr) -> sp.Expr:
    """exp(z) - 1 is expm1(z)."""

    def rewrite(total: sp.Add) -> sp.Expr:
        constant, sign, node = _one_and_a_node(total)
        return -constant * expm1(node.args[0]) if isinstance(node, sp.exp) and sign == -1 else total

    return expr.replace(lambda e: isinstance(e, sp.Add), rewrite)


def _one_fraction(expr: sp.Expr) -> sp.Expr:
    """1 - a/(a + b) is b/(a + b): a sum of quotients as one, if nothing is subtracted in it any more."""

    def rewrite(total: sp.Add) -> sp.Expr:
        has_quotient = any(power.exp.is_negative for power in total.atoms(sp.Pow))
        if not has_quotient or not total.is_rational_function(*total.free_symbols):
            return total
        fraction = sp.factor(total)
        # where a distance is 0 there may be no quotient; elsewhere the sign is plain once nothing is subtracted
        inside = fraction.xreplace({s: sp.Dummy(positive=True) for s in fraction.free_symbols if s.is_nonnegative})
        return fraction if inside.is_positive or inside.is_negative else total

    return expr.replace(lambda e: isinstance(e, sp.Add) and e.is_nonnegative is None, rewrite)


def _positive_part(expr: sp.Expr) -> sp.Expr:
    """max(0, z) as one node, whose derivative at the kink is ours to state."""

    def rewrite(maximum: sp.Max) -> sp.Expr:
        others = [argument for argument in maximum.args if argument != 0]
        return positive_part(others[0]) if len(others) == 1 and len(maximum.args) == 2 else maximum

    def mirrored(minimum: sp.Min) -> sp.Expr:
        others = [argument for argument in minimum.args if argument != 0]
        return -positive_part(-others[0]) if len(others) == 1 and len(minimum.args) == 2 else minimum

    return expr.replace(lambda e: isinstance(e, sp.Max), rewrite).replace(lambda e: isinstance(e, sp.Min), mirrored)


def _within_selection(expr: sp.Expr) -> sp.Expr:
    """min(a, b) - b is select(a - b, 0, a - b): what cancels where one of two values is selected is added to both."""

    def rewrite(total: sp.Add) -> sp.Expr:
        for term, other in permutations(total.args, 2):
            for node in (factor for factor in sp.Mul.make_args(term) if isinstance(factor, select)):
                z, *values = node.args
                parts = [term / node * value for value in values]
                if any(_terms(part + other) < _terms(part) for part in parts):
                    return total - term - other + select(z, *(part + other for part in parts))
        return total

    return expr.replace(lambda e: isinstance(e, sp.Add), rewrite)


def _terms(total: sp.Expr) -> int:
    return len(sp.Add.make_args(total)) if total != 0 else 0


_WITHIN_SELECTION = Rule(
    "sum within a selection", "what cancels where a value is selected is not added to it", _within_selection
)

RULES = (
    Rule(
        "softmax is a sigmoid",
        "divide above and below by the exponential above; nothing can overflow any more",
        _softmax,
    ),
    Rule("complement", "the two outputs of a softmax add up to 1, so nothing has to be subtracted", _complement),
    Rule(
        "log of a sigmoid",
        "the logarithm of a sigmoid is minus a softplus, which neither overflows nor cancels",
        _log_sigmoid,
    ),
    Rule(
        "log of a sum of exponentials",
        "take the largest exponential out; nothing can overflow any more",
        _log_sum,
    ),
    Rule("log of a share", "a share near 1 is not computed before its logarithm is taken", _log_of_share),
    Rule("log of one plus", "a small number keeps its digits if 1 is not added to it first", _log_of_one_plus),
    Rule("exponential less one", "a small difference from 1 keeps its digits if it is computed as one", _exp_less_one),
    Rule("one fraction", "nothing is subtracted that is nearly equal", _one_fraction),
    Rule("positive part", "the larger of 0 and a number is its positive part", _positive_part),
    Rule("absolute value", "its derivative at 0 is taken as 0", with_own_absolute),
    _WITHIN_SELECTION,
)


def _common_selection(expr: sp.Expr) -> sp.Expr:
    """a*select(...) - select(...) is (a - 1)*select(...)."""

    def rewrite(total: sp.Add) -> sp.Expr:
        factors = [set(sp.Mul.make_args(term)) for term in total.args]
        common = sorted((f for f in set.intersection(*factors) if isinstance(f, select)), key=sp.default_sort_key)
        return sp.Mul(*common[:1], sp.Add(*(term / common[0] for term in total.args))) if common else total

    return expr.replace(lambda e: isinstance(e, sp.Add), rewrite)


SIMPLER = (
    Rule("one fraction", "nothing is subtracted that is nearly equal", _one_fraction),
    _WITHIN_SELECTION,
    Rule("common factor", "the same value is selected in all terms", _common_selection),
    Rule(
        "step of a positive part",
        "the positive part is 0 where the step is",
        lambda expr: expr.replace(lambda e: isinstance(e, sp.Mul), _without_needless_steps),
    ),
)
"""Identities that make a slope shorter."""


def _without_needless_steps(product: sp.Mul) -> sp.Expr:
    parts = {
        factor.as_base_exp()[0].args for factor in product.args if isinstance(factor.as_base_exp()[0], positive_part)
    }
    return sp.Mul(*(f for f in product.args if not (isinstance(f, step) and f.args in parts)))
