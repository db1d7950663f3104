"""Expressions as LaTeX, in the notation of the proofs."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import mpmath
import sympy as sp

from .printing import ATOM, MUL, POWER, UNARY, InfixPrinter, decimals

if TYPE_CHECKING:
    from .differentiate import Derivation

_GREEK = {
    name: rf"\{name}"
    for name in (
        *(
            "alpha",
            "beta",
            "gamma",
            "epsilon",
            "zeta",
            "eta",
            "theta",
            "kappa",
            "mu",
            "nu",
            "xi",
            "rho",
            "sigma",
            "tau",
        ),
        *("phi", "chi", "psi", "omega"),
    )
}
EMBEDDINGS = {"x": "x", "x_pos": "x^{+}", "x_neg": "x^{-}"}
UNITS = {name: latex.replace("x", r"\hat{x}") for name, latex in EMBEDDINGS.items()}
AT_UNITS = {name: latex.replace("x", "g") for name, latex in EMBEDDINGS.items()}
NORMS = {name: rf"\lVert {latex} \rVert" for name, latex in EMBEDDINGS.items()}
_SYMBOLS = {
    "d_pos": "d_{+}",
    "d_neg": "d_{-}",
    "d_swap": r"d_{\pm}",
    "temperature": "T",
    "margin": "m",
    **{f"norm_{name}": latex for name, latex in NORMS.items()},
}
_VECTORS = {
    **EMBEDDINGS,
    **{f"unit_{name}": latex for name, latex in UNITS.items()},
    **{f"g_{name}": latex for name, latex in AT_UNITS.items()},
}
_CURVATURES = {f"h_{a}_{b}": (UNITS[a], UNITS[b]) for a in EMBEDDINGS for b in EMBEDDINGS}
_ESCAPES = {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    **{character: f"\\{character}" for character in "&%$#_{}"},
}


def escape(text: str) -> str:
    """`text` as LaTeX shows it, whatever characters it holds."""
    return "".join(_ESCAPES.get(character, character) for character in text)


def partial(function: str, variable: str) -> str:
    """A partial derivative, of a function and in a variable that are LaTeX already."""
    return rf"\frac{{\partial {function}}}{{\partial {variable}}}"


def second_partial(function: str, first: str, then: str) -> str:
    """A second partial derivative."""
    return rf"\frac{{\partial^2 {function}}}{{\partial {first}\,\partial {then}}}"


def number(value: Any, digits: int) -> str:
    """A number to that many digits: as a decimal near 1, otherwise with a power of ten."""
    text = mpmath.nstr(mpmath.mpf(value), digits, min_fixed=-5, max_fixed=7, strip_zeros=False)
    mantissa, _, exponent = str(text).partition("e")
    return rf"{mantissa} \cdot 10^{{{int(exponent)}}}" if exponent else mantissa


def exactly(value: float) -> str:
    """A number as its user wrote it, with all digits that tell it from other doubles."""
    mantissa, _, exponent = repr(float(value)).partition("e")
    mantissa = mantissa.removesuffix(".0")
    power = f"10^{{{int(exponent)}}}" if exponent else ""
    return power if power and mantissa == "1" else rf"{mantissa} \cdot {power}" if power else mantissa


WIDE = 34
"""The width, as `width` counts, beyond which a formula is broken, or takes a whole line of a page."""


def width(latex: str) -> int:
    """About how many letters wide a formula is: a fraction is as wide as the wider of its halves."""
    while (fraction := re.search(r"\\frac\{((?:[^{}]|\{[^{}]*\})*)\}\{((?:[^{}]|\{[^{}]*\})*)\}", latex)) is not None:
        wider = max(fraction.groups(), key=width)
        latex = latex[: fraction.start()] + wider + latex[fraction.end() :]
    seen = re.sub(r"\\(?:left|right)(?![a-z])|\\,", "", latex)
    return len(re.sub(r"[{}_^ ]", "", re.sub(r"\\[a-zA-Z]+", "m", seen)))


class LatexPrinter(InfixPrinter):
    """Mathematics for a document; an expression in `named` is written by its name."""

    times = r"\,"

    def __init__(self, named: Mapping[sp.Expr, str] | None = None) -> None:
        super().__init__(_SYMBOLS | _GREEK)
        self.named = named or {}

    def at_least(self, expr: sp.Expr, precedence: int) -> str:
        text, binds = self._print(expr)
        return text if binds >= precedence else rf"\left({text}\right)"

    def _print(self, expr: sp.Expr) -> tuple[str, int]:
        if (name := self.named.get(expr)) is not None:
            return name, POWER if "^" in name else ATOM
        return super()._print(expr)

    def quotient(self, above: list[sp.Expr], below: list[sp.Expr]) -> str:
        if not below:
            return self.times.join(self.at_least(factor, MUL) for factor in above)
        # a sum stands beside a fraction that is there anyway, and on it otherwise
        sums = [factor for factor in above if factor.is_Add or factor.is_Derivative or factor.is_Mul]
        top = [factor for factor in above if factor not in sums]
        if not top and len(sums) == 1:
            top, sums = sums, []
        fraction = rf"\frac{{{self._product(top)}}}{{{self._product(below)}}}"
        return self.times.join([fraction, *(self.at_least(factor, MUL) for factor in sums)])

    def _product(self, factors: list[sp.Expr]) -> str:
        alone = len(factors) == 1
        return self.times.join(self(f) if alone else self.at_least(f, MUL) for f in factors) or "1"

    # ------------------------------------------------------------ atoms

    def _print_Symbol(self, expr: sp.Symbol) -> tuple[str, int]:
        if expr.name in self.names or len(expr.name) == 1:
            return super()._print_Symbol(expr)
        return rf"\mathit{{{escape(expr.name)}}}", ATOM

    def _print_Indexed(self, expr: sp.Indexed) -> tuple[str, int]:
        name = expr.base.label.name
        indices = [self(index) for index in expr.indices]
        if name in _CURVATURES:
            of = (f"{vector}_{{{index}}}" for vector, index in zip(_CURVATURES[name], indices, strict=True))
            return second_partial("L", *of), ATOM
        shown = _VECTORS.get(name, name)
        return f"{shown}_{{{indices[0]}}}", POWER if "^" in shown else ATOM

    def _print_Rational(self, expr: sp.Rational) -> tuple[str, int]:
        if digits := decimals(expr):
            power = f"10^{{-{digits}}}"
            return (power, POWER) if expr.p == 1 else (rf"{expr.p} \cdot {power}", MUL)
        return rf"\frac{{{expr.p}}}{{{expr.q}}}", MUL

    def _print_KroneckerDelta(self, expr: sp.KroneckerDelta) -> tuple[str, int]:
        return r"\delta_{" + "".join(map(self, expr.args)) + "}", ATOM

    # ------------------------------------------------------------ operators

    def _print_Sum(self, expr: sp.Sum) -> tuple[str, int]:
        outermost_first = reversed(expr.limits)
        sums = (rf"\sum_{{{self(index)}={self(low)}}}^{{{self(high)}}} " for index, low, high in outermost_first)
        return f"{''.join(sums)}{self._operand(expr.function)}", UNARY - 1

    def _print_Maximum(self, expr: Any) -> tuple[str, int]:
        return rf"\max_{{{self(expr.limits[0][0])}}} {self._operand(expr.function)}", UNARY - 1

    def _operand(self, expr: sp.Expr) -> str:
        """What a sum or a derivative is taken of: a product without a sign, or in parentheses."""
        text = self.at_least(expr, MUL)
        return rf"\left({text}\right)" if text.startswith("-") else text

    def _print_Derivative(self, expr: sp.Derivative) -> tuple[str, int]:
        variable = self(expr.variables[0])
        if expr.expr in self.named:
            return rf"\frac{{\partial {self.named[expr.expr]}}}{{\partial {variable}}}", ATOM
        return rf"\frac{{\partial}}{{\partial {variable}}} {self._operand(expr.expr)}", MUL

    def _print_Pow(self, expr: sp.Pow) -> tuple[str, int]:
        if expr.exp.is_Rational and expr.exp < 0:
            return rf"\frac{{1}}{{{self(1 / expr)}}}", MUL
        return super()._print_Pow(expr)

    def power(self, base: sp.Expr, exponent: sp.Expr) -> tuple[str, int]:
        if type(base).__name__ == "sigmoid":
            return rf"\sigma^{{{self(exponent)}}}{self._argument(base)}", ATOM
        return f"{self.at_least(base, ATOM)}^{{{self(exponent)}}}", POWER

    # ------------------------------------------------------------ functions

    def call(self, name: str, *arguments: sp.Expr) -> str:
        if name == "sqrt":
            return rf"\sqrt{{{self(arguments[0])}}}"
        return rf"\operatorname{{{escape(name)}}}\left({', '.join(map(self, arguments))}\right)"

    def _argument(self, expr: Any) -> str:
        text = self(expr.args[0])
        return f"({text})" if r"\frac" not in text else rf"\left({text}\right)"

    def _print_exp(self, expr: sp.exp) -> tuple[str, int]:
        numerator, denominator = expr.args[0].as_numer_denom()
        inside = (
            self(numerator)
            if denominator == 1
            else f"{self.at_least(numerator, MUL)}/{self.at_least(denominator, POWER)}"
        )
        return f"e^{{{inside}}}", POWER

    def _print_log(self, expr: sp.log) -> tuple[str, int]:
        return rf"\log{self._argument(expr)}", UNARY

    def _print_Max(self, expr: sp.Max) -> tuple[str, int]:
        ordered = sorted(expr.args, key=lambda argument: not argument.is_number)
        return rf"\max\left({', '.join(map(self, ordered))}\right)", ATOM

    def _print_Min(self, expr: sp.Min) -> tuple[str, int]:
        ordered = sorted(expr.args, key=lambda argument: not argument.is_number)
        return rf"\min\left({', '.join(map(self, ordered))}\right)", ATOM

    def _print_Abs(self, expr: Any) -> tuple[str, int]:
        return rf"\left|{self(expr.args[0])}\right|", ATOM

    _print_absolute = _print_Abs

    def _print_signum(self, expr: Any) -> tuple[str, int]:
        return rf"\operatorname{{sign}}{self._argument(expr)}", ATOM

    _print_sign = _print_signum

    def _print_logaddexp(self, expr: Any) -> tuple[str, int]:
        first, second = (sp.exp(argument, evaluate=False) for argument in expr.args)
        return rf"\log\left({self(first)} + {self(second)}\right)", ATOM

    def _print_select(self, expr: Any) -> tuple[str, int]:
        """As the max or min that it may come from, or as it stands in a definition."""
        z, value, otherwise = expr.args
        for name, difference in (("max", value - otherwise), ("min", otherwise - value)):
            if z == difference:
                return rf"\{name}\left({self(otherwise)}, {self(value)}\right)", ATOM
        cases = rf"{self(value)} & {self(z)} > 0 \\ {self(otherwise)} & \text{{otherwise}}"
        return rf"\begin{{cases}} {cases} \end{{cases}}", ATOM

    def _print_sigmoid(self, expr: Any) -> tuple[str, int]:
        return rf"\sigma{self._argument(expr)}", ATOM

    def _print_softplus(self, expr: Any) -> tuple[str, int]:
        return rf"\operatorname{{softplus}}{self._argument(expr)}", ATOM

    def _print_positive_part(self, expr: Any) -> tuple[str, int]:
        return rf"\left[{self(expr.args[0])}\right]_{{+}}", ATOM

    def _print_attains(self, expr: Any) -> tuple[str, int]:
        number, largest = expr.args
        return rf"\mathbf{{1}}_{{{self(number)} = {self(largest)}}}", ATOM

    def _print_step(self, expr: Any) -> tuple[str, int]:
        return rf"\mathbf{{1}}_{{{self(expr.args[0])} > 0}}", ATOM


_PAGE = 55
"""The width of a page, which no formula leaves that can be broken."""


def broken(expr: sp.Expr, named: Mapping[sp.Expr, str] | None = None) -> tuple[str, ...]:
    """`expr` in one piece, or a sum that is too wide in one piece for each of its terms, signs in front.

    So is a product with a sum that is wider than a page.
    """
    printer = LatexPrinter(named)
    whole = printer(expr)
    terms = printer.terms(expr) if width(whole) > WIDE and expr.is_Add else (whole,)
    return tuple(piece for term in terms for piece in _broken_inside(term))


def _broken_inside(formula: str) -> tuple[str, ...]:
    """A formula that is wider than a page, broken before the terms of the first sum in parentheses; whole if narrower.

    These become delimiters of a fixed size: no line ends between delimiters that grow.
    """
    if width(formula) <= _PAGE:
        return (formula,)
    depth, opened, places = 0, -1, list[int]()
    for token in re.finditer(r"\\(?:left|right).|[{}()]| (?=[-+] )", formula):
        if token[0] == " ":
            places += [token.start()] if depth == 1 and opened >= 0 else []
        elif token[0] in ("{", "(") or token[0].startswith(r"\left"):
            opened = token.start() if depth == 0 and token[0] == r"\left(" else opened
            depth += 1
        else:
            depth -= 1
            if depth == 0 and opened >= 0 and places:
                end = token.start()
                inside = formula[opened + len(r"\left(") : end]
                at = [0, *(place - opened - len(r"\left(") for place in places), len(inside)]
                first, *rest = (inside[one:other].strip() for one, other in pairwise(at))
                after = formula[end + len(r"\right)") :]
                *rest, last = rest
                return (rf"{formula[:opened]}\bigl({first}", *rest, rf"{last}\bigr){after}")
            if depth == 0:
                opened, places = -1, []
    return (formula,)


def aligned(pieces: Sequence[str]) -> str:
    """The pieces of a broken formula below each other, for use in a display."""
    lines = r" \\ & ".join(pieces)
    return lines if len(pieces) == 1 else rf"\begin{{aligned}}[t] & {lines} \end{{aligned}}"


def to_latex(expr: sp.Expr, named: Mapping[sp.Expr, str] | None = None) -> str:
    """`expr` for use inside mathematics; an expression in `named` is written by its name."""
    return LatexPrinter(named)(expr)


def in_a_notebook(derivation: Derivation) -> str:
    """The loss and its gradients, and all that they are written in, as one display."""
    from .normalization import at_units

    rows = [("d(x, y)", to_latex(derivation.distance.value))]
    if derivation.normalization:
        rows += [(unit, rf"\frac{{{EMBEDDINGS[name]}}}{{{NORMS[name]}}}") for name, unit in UNITS.items()]
        rows += [(d, f"d({UNITS['x']}, {UNITS[of]})") for d, of in (("d_{+}", "x_pos"), ("d_{-}", "x_neg"))]
    rows += [(to_latex(symbol), to_latex(meaning)) for symbol, meaning in derivation.loss.used.items()]
    rows.append(("L", to_latex(derivation.loss.value.result)))
    if derivation.normalization:
        given = derivation.gradients.items()
        rows += [(f"{AT_UNITS[name]}_k", to_latex(at_units(lemma.result))) for name, lemma in given]
    for name, lemma in derivation.outcome.gradients.items():
        rows.append((partial("L", f"{EMBEDDINGS[name]}_k"), to_latex(lemma.result)))
    lines = (f"{left} &= {right}" for left, right in rows)
    return "$$\\begin{aligned}" + r" \\ ".join(lines) + "\\end{aligned}$$"
