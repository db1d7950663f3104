"""Printing expressions with infix operators: the one printer that text, Python and C-like languages share.

SymPy's own code printers are not used, because they reorder and rewrite: `log1p(exp(-x)*exp(y))` is what they make of a
stable form. This one prints what it is given, in an order that depends on nothing but the expression.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sympy as sp

    from .kernel import Assignment

ADD, MUL, UNARY, POWER, ATOM = range(5)
"""How tightly a printed expression binds."""


class InfixPrinter:
    """Prints sums, products, powers, calls and names; a language overrides what differs.

    names: what a symbol is called, where that is not its own name.
    functions: what a function is called, where that is not its own name.
    """

    times = " * "
    over = " / "
    functions: Mapping[str, str] = {}

    def __init__(self, names: Mapping[str, str] | None = None) -> None:
        self.names = names or {}

    def __call__(self, expr: sp.Expr) -> str:
        return self._print(expr)[0]

    def at_least(self, expr: sp.Expr, precedence: int) -> str:
        """`expr`, in parentheses unless it binds as tightly as `precedence`."""
        text, binds = self._print(expr)
        return text if binds >= precedence else f"({text})"

    def assignments(self, assignments: Iterable[Assignment]) -> list[tuple[str, str]]:
        """Name and printed value of each."""
        return [(assignment.name, self(assignment.value)) for assignment in assignments]

    def reduction(self, term: sp.Expr, kind: str) -> str:
        """What stands for a term reduced over the components; where a loop does that, the term."""
        return self(term)

    def _print(self, expr: sp.Expr) -> tuple[str, int]:
        for kind in type(expr).__mro__:
            if rule := getattr(self, f"_print_{kind.__name__}", None):
                return rule(expr)  # type: ignore[no-any-return]
        raise NotImplementedError(f"{type(self).__name__} cannot print {type(expr).__name__}: {expr}")

    # ------------------------------------------------------------ atoms

    def _print_Symbol(self, expr: sp.Symbol) -> tuple[str, int]:
        return self.names.get(expr.name, expr.name), ATOM

    def _print_Integer(self, expr: sp.Integer) -> tuple[str, int]:
        return str(int(expr)), ATOM if expr >= 0 else UNARY

    def _print_Rational(self, expr: sp.Rational) -> tuple[str, int]:
        if digits := decimals(expr):
            return self.decimal(f"{expr.p}e-{digits}"), ATOM if expr > 0 else UNARY
        return f"{self.integer(expr.p)}{self.over}{self.integer(expr.q)}", MUL

    def decimal(self, text: str) -> str:
        """A number with a power of ten, such as 1e-6."""
        return text

    def integer(self, value: int) -> str:
        """An integer where it must not divide as integers do."""
        return str(value)

    # ------------------------------------------------------------ operators

    def _print_Add(self, expr: sp.Add) -> tuple[str, int]:
        return " ".join(self.terms(expr)), ADD

    def terms(self, expr: sp.Add) -> tuple[str, ...]:
        """The terms of a sum, each but the first with its sign and a space in front."""
        # positive terms first, so that no sum begins with a minus sign that it need not have
        terms = sorted((self._signed(term) for term in _ordered(expr)), key=lambda term: term[0])
        (negative, text), *rest = terms
        return (("-" * negative) + text, *(f"{'-' if minus else '+'} {term}" for minus, term in rest))

    def _print_Mul(self, expr: sp.Mul) -> tuple[str, int]:
        negative, text = self._signed(expr)
        return ("-" * negative) + text, MUL

    def _signed(self, term: sp.Expr) -> tuple[bool, str]:
        """Whether a term of a sum is negative, and its absolute value printed to stand in a product or sum."""
        if not term.is_Mul:
            negative = bool(term.is_Rational and term < 0)
            return negative, self.at_least(-term if negative else term, MUL)
        negative, above, below = _taken_apart(term)
        return negative, self.quotient(list(above), list(below))

    def quotient(self, above: list[sp.Expr], below: list[sp.Expr]) -> str:
        """The product of `above` over the product of `below`; either may be empty."""
        text = self.times.join(self.at_least(factor, MUL) for factor in above) or self.integer(1)
        if len(below) == 1:
            text += f"{self.over}{self.at_least(below[0], UNARY)}"
        elif below:
            text += f"{self.over}({self.times.join(self.at_least(factor, MUL) for factor in below)})"
        return text

    def _print_Pow(self, expr: sp.Pow) -> tuple[str, int]:
        if expr.exp.is_Rational and expr.exp < 0:
            return f"{self.integer(1)}{self.over}{self.at_least(1 / expr, POWER)}", MUL
        if expr.exp.is_Rational and (expr.exp.p, expr.exp.q) == (1, 2):
            return self.call("sqrt", expr.base), ATOM
        return self.power(expr.base, expr.exp)

    def power(self, base: sp.Expr, exponent: sp.Expr) -> tuple[str, int]:
        """`base` to a positive or symbolic power."""
        if exponent.is_Integer and exponent <= 4:
            return self.times.join([self.at_least(base, UNARY)] * int(exponent)), MUL
        return self.call("pow", base, exponent), ATOM

    # ------------------------------------------------------------ calls

    def call(self, name: str, *arguments: sp.Expr) -> str:
        return f"{self.functions.get(name, name)}({', '.join(self(argument) for argument in arguments)})"

    def _print_quotient(self, expr: Any) -> tuple[str, int]:
        above, below = expr.args
        return f"{self.at_least(above, MUL)}{self.over}{self.at_least(below, UNARY)}", MUL

    def _print_product(self, expr: Any) -> tuple[str, int]:
        first, second = expr.args
        return f"{self.at_least(first, ATOM)}{self.times}{self.at_least(second, UNARY)}", MUL

    def _print_rounded(self, expr: Any) -> tuple[str, int]:
        return self._print(expr.args[0])

    def _print_Function(self, expr: Any) -> tuple[str, int]:
        return self.call(type(expr).__name__, *expr.args), ATOM


class ShortLines(InfixPrinter):
    """Takes assignments apart that are too long for a line: ``h = a + b``, then ``h = h - c``.

    room: for a name and its value.
    """

    room = 100

    def assignments(self, assignments: Iterable[Assignment]) -> list[tuple[str, str]]:
        return [line for a in assignments for line in self.lines(a.name, a.value)]

    def lines(self, name: str, value: sp.Expr, last: str = "") -> list[tuple[str, str]]:
        """Assignments that make `value` of a name step by step; of the last one `last` is the name, if it is given."""
        from sympy import Mul, Symbol

        from .functions import product, quotient

        last, so_far = last or name, Symbol(name)
        if len(f"{last} = {self(value)}") <= self.room:
            return [(last, self(value))]
        if isinstance(value, product | quotient):
            inner, factor = value.args
            return [*self.lines(name, inner), (last, self(value.func(so_far, factor)))]
        if value.is_Mul:
            total = max((factor for factor in value.args if factor.is_Add), key=lambda a: len(self(a)), default=None)
            _, _, below = _taken_apart(value)  # SymPy would take exponentials apart as well
            inner = total if total is not None and 2 * len(self(total)) > self.room else Mul(value, *below)
            if inner != value:
                return [*self.lines(name, inner), (last, self(value / inner * so_far))]
            *others, factor = _factors(value)  # a quotient of exponentials would not become shorter
            return [*self.lines(name, Mul(*others)), (last, self(factor * so_far))]
        if not value.is_Add:
            return [(last, self(value))]
        texts: list[str] = []
        for term in self.terms(value):
            if texts and len(f"{last} = {texts[-1]} {term}") <= self.room:
                texts[-1] += f" {term}"
            else:
                texts.append(f"{self(so_far)} {term}" if texts else term)
        return [*((name, text) for text in texts[:-1]), (last, texts[-1])]


_MANY_DIGITS = 4


def decimals(number: sp.Rational) -> int:
    """n, for a whole number over the n-th power of ten that is read more easily as a decimal; otherwise 0."""
    digits = len(str(number.q)) - 1
    return digits if digits >= _MANY_DIGITS and number.q == 10**digits else 0


@cache  # SymPy sorts anew each time, and every target prints the same
def _ordered(expr: sp.Add) -> tuple[sp.Expr, ...]:
    return tuple(expr.as_ordered_terms())


@cache
def _taken_apart(term: sp.Mul) -> tuple[bool, tuple[sp.Expr, ...], tuple[sp.Expr, ...]]:
    """Whether a product is negative, and what is above and below the line."""
    above: list[sp.Expr] = []
    below: list[sp.Expr] = []
    negative = False
    for factor in _factors(term):
        if factor.is_Rational:
            negative ^= bool(factor < 0)
            numerator, denominator = abs(factor).as_numer_denom()
            above += [numerator] * (numerator != 1)
            below += [denominator] * (denominator != 1)
        elif factor.is_Pow and factor.exp.is_Rational and factor.exp < 0:
            below.append(1 / factor)
        else:
            above.append(factor)
    # numbers, then names and calls, then sums
    above.sort(key=lambda factor: (not factor.is_number, factor.is_Add))
    return negative, tuple(above), tuple(below)


def _factors(expr: sp.Mul) -> list[sp.Expr]:
    """The factors of a product in SymPy's canonical order, those of nested unevaluated products included."""
    flat: list[sp.Expr] = []
    for factor in expr.as_ordered_factors():
        flat += _factors(factor) if factor.is_Mul else [factor]
    return flat


class TextPrinter(InfixPrinter):
    """For people: ``4*q*s^2*(x[k] - x_pos[k])/(d_pos*temperature)``."""

    times = "*"
    over = "/"
    functions = {"absolute": "abs", "signum": "sign"}

    def power(self, base: sp.Expr, exponent: sp.Expr) -> tuple[str, int]:
        return f"{self.at_least(base, ATOM)}^{self.at_least(exponent, ATOM)}", POWER

    def _print_Indexed(self, expr: sp.Indexed) -> tuple[str, int]:
        return f"{expr.base.label}[{self(expr.indices[0])}]", ATOM

    def _print_Sum(self, expr: sp.Sum) -> tuple[str, int]:
        return f"sum_{expr.limits[0][0]}({self(expr.function)})", ATOM

    def _print_Maximum(self, expr: Any) -> tuple[str, int]:
        return f"max_{expr.limits[0][0]}({self(expr.function)})", ATOM

    def _print_Derivative(self, expr: sp.Derivative) -> tuple[str, int]:
        return f"d/d{self(expr.variables[0])}({self(expr.expr)})", ATOM

    def _print_KroneckerDelta(self, expr: sp.KroneckerDelta) -> tuple[str, int]:
        return self.call("delta", *expr.args), ATOM
