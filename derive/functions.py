"""SymPy functions of our own, so that a stable form survives: SymPy does not know how to undo them.

Each node has a derivative (`fdiff`), a definition in elementary functions (`rewrite("definition")`), and a value at any
mpmath precision (`evaluate`). Targets print a node as a call of a small helper that is accurate over its whole range.
"""

from __future__ import annotations

from typing import Any

import mpmath
import sympy as sp


class Node(sp.Function):  # type: ignore[misc] # SymPy has no types
    """A function with an elementary definition and a high-precision value."""

    is_real = True
    spelled_out = ""  # the definition of node(t), for people

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        """The value at mpmath numbers, at the current mpmath precision."""
        raise NotImplementedError

    def definition(self) -> sp.Expr:
        """The same in SymPy's elementary functions."""
        raise NotImplementedError


class sigmoid(Node):  # noqa: N801 - SymPy functions are named as they print
    """1/(1 + exp(-z)), so that 1 - sigmoid(z) = sigmoid(-z)."""

    is_positive = True
    spelled_out = "1/(1 + exp(-t))"

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        (z,) = values
        return 1 / (1 + mpmath.exp(-z)) if z >= 0 else mpmath.exp(z) / (1 + mpmath.exp(z))

    def definition(self) -> sp.Expr:
        return 1 / (1 + sp.exp(-self.args[0]))

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        (z,) = self.args
        return sigmoid(z) * sigmoid(-z)


class softplus(Node):  # noqa: N801
    """log(1 + exp(z))."""

    is_positive = True
    spelled_out = "log(1 + exp(t))"

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        (z,) = values
        return (z if z > 0 else 0) + mpmath.log1p(mpmath.exp(-abs(z)))

    def definition(self) -> sp.Expr:
        return sp.log(1 + sp.exp(self.args[0]))

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sigmoid(self.args[0])


class positive_part(Node):  # noqa: N801
    """max(0, z)."""

    is_nonnegative = True
    spelled_out = "max(0, t)"

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        (z,) = values
        return z if z > 0 else mpmath.mpf(0)

    def definition(self) -> sp.Expr:
        return sp.Max(0, self.args[0])

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return step(self.args[0])


class step(Node):  # noqa: N801
    """1 for z > 0, otherwise 0; the convention at the kink is 0 (SymPy's Heaviside says 1/2)."""

    is_nonnegative = True
    spelled_out = "1 if t > 0, otherwise 0"

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        return mpmath.mpf(values[0] > 0)

    def definition(self) -> sp.Expr:
        return sp.Heaviside(self.args[0], 0)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.S.Zero


class masked_ratio(Node):  # noqa: N801
    """a/b, and 0 where b = 0: the convention at a singular point, without ever computing 0/0."""

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        a, b = values
        return a / b if b != 0 else mpmath.mpf(0)

    def definition(self) -> sp.Expr:
        return self.args[0] / self.args[1]


NODES = (sigmoid, softplus, positive_part, step, masked_ratio)


def expand_nodes(expr: sp.Expr) -> sp.Expr:
    """`expr` with every node of ours replaced by its definition."""
    return expr.replace(lambda e: isinstance(e, Node), lambda e: e.definition())
