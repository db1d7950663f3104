"""Rewriting a loss to forms that are accurate over the whole range of doubles.

A definition such as exp(a)/(exp(a) + exp(b)) is infinity over infinity from a = 89 in float32. Each `Rule` here is an
identity that replaces such a form by a node of `functions`; a derivation applies them one by one, as checked steps.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import sympy as sp

from .functions import positive_part, sigmoid, softplus


@dataclass(frozen=True)
class Rule:
    """An identity, as a function that applies it wherever it fits in an expression."""

    name: str
    reason: str
    apply: Callable[[sp.Expr], sp.Expr]


def _softmax(expr: sp.Expr) -> sp.Expr:
    """exp(j*a)*exp(l*b) / (exp(a) + exp(b))**(j + l) is sigmoid(a - b)**j * sigmoid(b - a)**l."""

    def rewrite(product: sp.Mul) -> sp.Expr:
        for power in product.args:
            if not (isinstance(power, sp.Pow) and power.exp.is_Integer and power.exp.is_negative):
                continue
            match power.base.args:
                case [sp.exp(args=[a]), sp.exp(args=[b])] if isinstance(power.base, sp.Add):
                    for j in range(-power.exp, -1, -1):
                        exponentials = {sp.exp(j * a), sp.exp((-power.exp - j) * b)} - {sp.S.One}
                        if exponentials <= set(product.args):
                            sigmoids = sigmoid(_difference(a, b)) ** j * sigmoid(_difference(b, a)) ** (-power.exp - j)
                            return product / power / sp.Mul(*exponentials) * sigmoids
        return product

    return expr.replace(lambda e: isinstance(e, sp.Mul), rewrite)


def _difference(a: sp.Expr, b: sp.Expr) -> sp.Expr:
    """a - b, with a common denominator kept in one place: (d_pos - d_neg)/temperature."""
    return sp.together(sp.expand(a - b))


def _complement(expr: sp.Expr) -> sp.Expr:
    """1 - sigmoid(z) is sigmoid(-z): a difference of nearly equal numbers disappears."""

    def rewrite(total: sp.Add) -> sp.Expr:
        constant, rest = total.as_coeff_Add()
        if constant == 1 and isinstance(-rest, sigmoid):
            return sigmoid(_difference(0, (-rest).args[0]))
        if constant == -1 and isinstance(rest, sigmoid):
            return -sigmoid(_difference(0, rest.args[0]))
        return total

    return expr.replace(lambda e: isinstance(e, sp.Add), rewrite)


def _log_sigmoid(expr: sp.Expr) -> sp.Expr:
    """log(sigmoid(z)) is -softplus(-z)."""
    return expr.replace(
        lambda e: isinstance(e, sp.log) and isinstance(e.args[0], sigmoid), lambda e: -softplus(-e.args[0].args[0])
    )


def _positive_part(expr: sp.Expr) -> sp.Expr:
    """max(0, z) as one node, whose derivative at the kink is ours to state."""

    def rewrite(maximum: sp.Max) -> sp.Expr:
        others = [argument for argument in maximum.args if argument != 0]
        return positive_part(others[0]) if len(others) == 1 and len(maximum.args) == 2 else maximum

    return expr.replace(lambda e: isinstance(e, sp.Max), rewrite)


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
    Rule("positive part", "the larger of 0 and a number is its positive part", _positive_part),
)
