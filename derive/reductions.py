"""What terms are reduced by over the components of a vector: SymPy's `Sum`, and the largest of them.

The largest moves with the term that is the largest, by Danskin's theorem. Where several are, it has no derivative; we
take the mean of theirs. For the largest magnitude that is the element of its subdifferential of the least norm.
"""

from __future__ import annotations

import sympy as sp
from sympy.concrete.expr_with_limits import ExprWithLimits

from .functions import attains


class Maximum(ExprWithLimits):  # type: ignore[misc] # SymPy has no types
    """The largest of a term over an index: ``Maximum(term, (i, 1, n))``."""

    def __new__(cls, function: sp.Expr, *limits: sp.Tuple) -> Maximum:
        made: Maximum = ExprWithLimits.__new__(cls, function, *limits)
        return made

    def _eval_is_real(self) -> bool | None:
        return True if self.function.is_real else None

    def _eval_is_nonnegative(self) -> bool | None:
        return True if self.function.is_nonnegative else None

    def _eval_derivative(self, variable: sp.Expr) -> sp.Expr:
        ((index, *_),) = self.limits
        return sp.Sum(share(self, index, index) * self.function.diff(variable), *self.limits)


REDUCTIONS = (sp.Sum, Maximum)


def kind_of(total: sp.Expr) -> str:
    """What the language of the definitions calls a reduction."""
    return "max" if isinstance(total, Maximum) else "sum"


def term_of(total: sp.Expr, index: sp.Symbol) -> sp.Expr:
    """The term of a reduction at an index."""
    ((own, *_),) = total.limits
    return total.function.subs(own, index)


def share(total: sp.Expr, index: sp.Symbol, other: sp.Symbol) -> sp.Expr:
    """By how much a reduction grows with its term at an index: 1 of a sum.

    Of a maximum, 1 over the number of terms that are the largest for one of these, and 0 for any other; `other` is the
    index under which they are counted.
    """
    if not isinstance(total, Maximum):
        return sp.S.One
    ((_, low, high),) = total.limits
    count = sp.Sum(attains(term_of(total, other), total), (other, low, high))
    return attains(term_of(total, index), total) / count
