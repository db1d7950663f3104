"""SymPy functions of our own, so that a stable form survives: SymPy does not know how to undo them.

Each node has a derivative (`fdiff`), a definition in elementary functions (`rewrite("definition")`), and a value at any
mpmath precision (`evaluate`). Targets print a node as a call of a small helper that is accurate over its whole range.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

import mpmath
import sympy as sp


class Node(sp.Function):  # type: ignore[misc] # SymPy has no types
    """A function with an elementary definition and a high-precision value."""

    is_real = True
    spelled_out = ""  # the definition of node(t), for people
    variables: tuple[str, ...] = ("t",)  # what the arguments are called there

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


def signed(z: sp.Expr) -> tuple[int, sp.Expr]:
    """`z` as a sign times the rest, which is the same of z and -z."""
    sign = -1 if z.could_extract_minus_sign() else 1
    return sign, sign * z


def _signed_factor(z: sp.Expr) -> tuple[int, sp.Expr, sp.Expr]:
    """`z` as a sign times a positive factor times the rest, a number being no rest."""
    sign, rest = signed(z)
    size = sp.Mul(*(f for f in sp.Mul.make_args(rest) if f.is_Symbol and f.is_positive))
    return sign, size, rest / size


class absolute(Node):  # noqa: N801
    """The absolute value, whose derivative at 0 is 0."""

    is_nonnegative = True
    spelled_out = "|t|"

    @classmethod
    def eval(cls, z: sp.Expr) -> sp.Expr | None:
        """|c*z| is |c|*|z| for a positive or negative c."""
        if z.is_extended_nonnegative:
            return z
        sign, size, rest = _signed_factor(z)
        return size * cls(rest) if (sign, size) != (1, 1) else None

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        return abs(values[0])

    def definition(self) -> sp.Expr:
        return sp.Abs(self.args[0])

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return signum(self.args[0])


def with_own_absolute(expr: sp.Expr) -> sp.Expr:
    """Without SymPy's absolute values, which it makes of sqrt(z^2), and of which second derivatives have no value."""
    return expr.replace(sp.Abs, absolute)


class signum(Node):  # noqa: N801
    """-1, 0 or 1; unlike SymPy's its derivative is 0, and no distribution."""

    spelled_out = "-1, 0 or 1"

    @classmethod
    def eval(cls, z: sp.Expr) -> sp.Expr | None:
        """It is that of z for c*z with a positive c, and minus that with a negative one."""
        sign, size, rest = _signed_factor(z)
        return sign * cls(rest) if (sign, size) != (1, 1) else None

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        return mpmath.sign(values[0])

    def definition(self) -> sp.Expr:
        return sp.sign(self.args[0])

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.S.Zero


class log1p(Node):  # noqa: N801
    """log(1 + z), with all digits where z is small."""

    spelled_out = "log(1 + t)"

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        return mpmath.log1p(values[0])

    def definition(self) -> sp.Expr:
        return sp.log(1 + self.args[0])

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return 1 / (1 + self.args[0])


class expm1(Node):  # noqa: N801
    """exp(z) - 1, with all digits where z is small."""

    spelled_out = "exp(t) - 1"

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        return mpmath.expm1(values[0])

    def definition(self) -> sp.Expr:
        return sp.exp(self.args[0]) - 1

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.exp(self.args[0])


class tanh(Node):  # noqa: N801
    """The hyperbolic tangent; its derivative is no difference from 1."""

    spelled_out = "(exp(2*t) - 1)/(exp(2*t) + 1)"

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        return mpmath.tanh(values[0])

    def definition(self) -> sp.Expr:
        (z,) = self.args
        return (sp.exp(2 * z) - 1) / (sp.exp(2 * z) + 1)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        (z,) = self.args
        return 4 * sigmoid(2 * z) * sigmoid(-2 * z)


class hypot(Node):  # noqa: N801
    """sqrt(a^2 + b^2), where the squares may be beyond the range of a type."""

    is_nonnegative = True
    spelled_out = "sqrt(a^2 + b^2)"
    variables = ("a", "b")

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        return mpmath.hypot(*values)

    def definition(self) -> sp.Expr:
        return sp.sqrt(self.args[0] ** 2 + self.args[1] ** 2)

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return self.args[argindex - 1] / self


class logaddexp(Node):  # noqa: N801
    """log(exp(a) + exp(b))."""

    spelled_out = "log(exp(a) + exp(b))"
    variables = ("a", "b")

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        return max(values) + mpmath.log1p(mpmath.exp(-abs(values[0] - values[1])))

    def definition(self) -> sp.Expr:
        return sp.log(sp.exp(self.args[0]) + sp.exp(self.args[1]))

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        own, other = self.args if argindex == 1 else reversed(self.args)
        return sigmoid(own - other)


class select(Node):  # noqa: N801
    """The first of two values where z > 0, the second elsewhere: how max, min and where are read.

    Its derivative is that of the value which it has, at a kink as well.
    """

    spelled_out = "a if t > 0, otherwise b"
    variables = ("t", "a", "b")

    @classmethod
    def eval(cls, z: sp.Expr, value: sp.Expr, otherwise: sp.Expr) -> sp.Expr | None:
        """What SymPy makes of it: nothing is left to select where the condition or the value is known."""
        if value == otherwise or z.is_nonpositive:
            return otherwise
        if value.is_nonpositive and otherwise.is_nonpositive:  # -1 or 0 is minus what 1 or 0 is
            return -cls(z, -value, -otherwise)
        return value if z.is_positive else None

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        return values[1] if values[0] > 0 else values[2]

    def definition(self) -> sp.Expr:
        z, value, otherwise = self.args
        return sp.Piecewise((value, z > 0), (otherwise, True))

    def _eval_is_nonnegative(self) -> bool | None:
        return True if all(value.is_nonnegative for value in self.args[1:]) else None

    def _eval_is_positive(self) -> bool | None:
        return True if all(value.is_positive for value in self.args[1:]) else None

    def _eval_derivative(self, variable: sp.Symbol) -> sp.Expr:
        z, value, otherwise = self.args
        first, second = value.diff(variable), otherwise.diff(variable)
        return first if first == second else select(z, first, second)


class attains(Node):  # noqa: N801
    """1 for a number that is the largest of some, m, and 0 for any other of them.

    Its derivative is 0: what is the largest stays so nearby, where it is alone.
    """

    is_nonnegative = True
    spelled_out = "1 if a >= m, otherwise 0"
    variables = ("a", "m")

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        return mpmath.mpf(values[0] >= values[1])

    def definition(self) -> sp.Expr:
        number, largest = self.args
        return sp.Piecewise((1, number >= largest), (0, True))

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

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        """0 where b = 0, as the ratio is."""
        a, b = self.args
        return masked_ratio(sp.S.One, b) if argindex == 1 else -masked_ratio(masked_ratio(a, b), b)


class masked_power(Node):  # noqa: N801
    """a^b, and 0 where a = 0 and b < 0: the convention for a second derivative that is infinite."""

    is_nonnegative = True
    variables = ("a", "b")

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        a, b = values
        return mpmath.mpf(0) if a == 0 and b < 0 else a**b

    def definition(self) -> sp.Expr:
        return self.args[0] ** self.args[1]


def finite_at_kinks(expr: sp.Expr, meanings: Mapping[sp.Symbol, sp.Expr] = MappingProxyType({})) -> sp.Expr:
    """An expression in which negative powers of what is 0 at a kink are 0 there.

    Such a power is in the second derivative of max(0, z)^(3/2). meanings: of the symbols that are in it.
    """

    def is_infinite(value: sp.Expr) -> bool:
        is_power = isinstance(value, sp.Pow) and value.exp.is_negative
        return is_power and isinstance(meanings.get(value.base, value.base), positive_part | absolute)

    return expr.replace(is_infinite, lambda power: masked_power(*power.args))


class quotient(Node):  # noqa: N801
    """a/b, divided where it stands: (a/b)/b must not become a/b^2, which may overflow."""

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        a, b = values
        return a / b

    def definition(self) -> sp.Expr:
        return self.args[0] / self.args[1]

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        a, b = self.args
        return 1 / b if argindex == 1 else -quotient(quotient(a, b), b)


class product(Node):  # noqa: N801
    """a*b, multiplied where it stands: a is computed before."""

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        a, b = values
        return a * b

    def definition(self) -> sp.Expr:
        return self.args[0] * self.args[1]

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return self.args[2 - argindex]


class rounded(Node):  # noqa: N801
    """A product that is rounded before it is used, so that it is the same number wherever it is computed.

    Compilers may make one operation of a product and a difference, in one pass over a row and not in another.
    """

    @classmethod
    def evaluate(cls, *values: Any) -> Any:
        return values[0]

    def definition(self) -> sp.Expr:
        return self.args[0]

    def fdiff(self, argindex: int = 1) -> sp.Expr:
        return sp.S.One


NODES = (
    *(sigmoid, softplus, positive_part, step, absolute, signum),
    *(log1p, expm1, tanh, hypot, logaddexp, select, attains, masked_ratio),
)
OF_ONE_ARGUMENT = (sigmoid, softplus, positive_part, step, absolute, signum, log1p, expm1, tanh)
"""Whose argument gets a name in a loss."""
IN_PIECES = (select, attains)
"""Which a document says in words."""


def expand_nodes(expr: sp.Expr) -> sp.Expr:
    """`expr` with every node of ours replaced by its definition, but for `IN_PIECES`, which have no formula."""
    return expr.replace(lambda e: isinstance(e, Node) and not isinstance(e, IN_PIECES), lambda e: e.definition())
