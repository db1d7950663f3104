"""Printed LaTeX means what the expression means: it is read back as mathematics, and its value is compared."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any

import mpmath
import pytest
import sympy as sp
from hypothesis import given, settings
from hypothesis import strategies as st
from objectives import COVER, named

from derive_triplet import DISTANCES, LOSSES, Objective, differentiate, generate
from derive_triplet.derive import symbols
from derive_triplet.derive.evaluate import Point, evaluate
from derive_triplet.derive.functions import absolute, attains, positive_part, sigmoid, signum, softplus, step
from derive_triplet.derive.latex import WIDE, aligned, broken, escape, to_latex, width
from derive_triplet.derive.proof import Line
from derive_triplet.derive.reductions import Maximum
from derive_triplet.derive.steps import DIGITS, Setting
from derive_triplet.derive.symbols import d_neg, d_pos, i, j, k, l, n, x, x_neg, x_pos, y

PRECISION = DIGITS + 20
FRESH = 20261  # a seed with which no step was checked when it was made

# ---------------------------------------------------------------- a reader of the mathematics that is printed


class Reader:
    """LaTeX -> SymPy, by the rules of people: a sum or derivative reaches as far as the product it begins.

    Refuses what TeX refuses or what people misread: a sign inside of a product, a second superscript.
    """

    TOKEN = re.compile(
        r"\\frac|\\partial|\\hat\{x\}|\\[lr]Vert|\\sqrt|\\sum|\\delta|\\sigma|\\log|\\max|\\epsilon|\\operatorname\{(?:softplus|sign)\}|\\mathbf\{1\}"
        r"|\\left[(\[|]|\\right[)\]|]|\\mathit\{\w+\}|\d+|[a-zA-Z]|[-+/^_{}(),=>]|\\,"
    )
    ENDS = frozenset(("+", "-", "}", ")", ",", "=", ">", "/", r"\right)", r"\right]", r"\right|", ""))

    def __init__(self, text: str, names: Mapping[str, sp.Expr]) -> None:
        text = text.replace(r"\bigl(", r"\left(").replace(r"\bigr)", r"\right)")
        self.tokens, self.names = [*self.TOKEN.findall(text), ""], names
        assert not re.sub(r"\s", "", self.TOKEN.sub("", text)), f"not understood: {text}"

    def read(self) -> sp.Expr:
        value = self.sum()
        self.take("")
        return value

    def take(self, *expected: str) -> str:
        token = self.tokens.pop(0)
        assert not expected or token in expected, f"{token!r} instead of {expected} before {self.tokens}"
        return token

    def braced(self, inside: Callable[[], Any] | None = None) -> Any:
        self.take("{")
        value = (inside or self.sum)()
        self.take("}")
        return value

    def sum(self) -> sp.Expr:
        negative = self.tokens[0] == "-" and self.take("-")
        terms = [-self.product() if negative else self.product()]
        while self.tokens[0] in ("+", "-"):
            terms.append(self.product() if self.take() == "+" else -self.product())
        return sp.Add(*terms)

    def product(self) -> sp.Expr:
        assert self.tokens[0] not in self.ENDS, f"a factor is missing before {self.tokens}"
        value = sp.S.One
        while self.tokens[0] not in self.ENDS:
            value *= self.factor()
            if self.tokens[0] == r"\,":
                self.take()
                assert self.tokens[0] not in self.ENDS, f"a factor is missing before {self.tokens}"
        return value / self.factor() if self.tokens[0] == "/" and self.take("/") else value

    def factor(self) -> sp.Expr:
        base = self.atom()
        if self.tokens[0] == "^":
            base **= self.superscript()
        assert self.tokens[0] != "^", "a second superscript"
        return base

    def superscript(self) -> sp.Expr:
        self.take("^")
        return self.braced()

    def argument(self) -> sp.Expr:
        close = {"(": ")", r"\left(": r"\right)"}[self.take("(", r"\left(")]
        value = self.sum()
        self.take(close)
        return value

    def atom(self) -> sp.Expr:
        token = self.tokens[0]
        if token in ("(", r"\left("):
            return self.argument()
        if token in ("e",) and self.take():
            return sp.exp(self.superscript())
        if token in _ATOMS and self.take():
            return _ATOMS[token](self)
        return self.name(self.take())

    def name(self, token: str) -> sp.Expr:
        if token.isdigit():
            return sp.Integer(token)
        signed = self.tokens[:2] == ["^", "{"] and self.tokens[2] in ("+", "-")
        if (token in ("x", r"\hat{x}", "g") and signed) or (token == "d" and self.tokens[0] == "_"):
            token += "".join(self.tokens[:4])
            del self.tokens[:4]
        assert token in self.names, f"{token!r} is no name"
        found = self.names[token]
        if isinstance(found, sp.IndexedBase):
            self.take("_")
            return found[self.braced() if self.tokens[0] == "{" else self.name(self.take())]
        return found

    def frac(self) -> sp.Expr:
        if self.tokens[:2] != ["{", r"\partial"]:
            return self.braced() / self.braced()
        del self.tokens[:2]
        if second := self.tokens[0] == "^":
            del self.tokens[:2]
        function = None if self.tokens[0] == "}" else self.atom()
        self.take("}")

        def variable() -> sp.Expr:
            self.take(r"\partial")
            return self.atom()

        def variables() -> tuple[sp.Expr, sp.Expr]:
            return variable(), self.take(r"\,") and variable()

        if second:  # of the loss, by the name of the block that it is an entry of
            one, other = self.braced(variables)
            embeddings = (component.base.label.name.removeprefix("unit_") for component in (one, other))
            return symbols.CURVATURES[tuple(embeddings)][one.indices[0], other.indices[0]]
        in_variable = self.braced(variable)
        return sp.Derivative(self.product() if function is None else function, in_variable)

    def total(self) -> sp.Expr:
        def limits() -> tuple[sp.Expr, sp.Expr]:
            index = self.name(self.take())
            self.take("=")
            return index, self.sum()

        self.take("_")
        index, low = self.braced(limits)
        high = self.superscript()
        return sp.Sum(self.product(), (index, low, high))

    def norm(self) -> sp.Expr:
        token = self.take()
        while self.tokens[0] != r"\rVert":
            token += self.take()
        self.take()
        return self.names[f"|{token}|"]

    def sigmoid(self) -> sp.Expr:
        power = self.superscript() if self.tokens[0] == "^" else sp.S.One
        return sigmoid(self.argument()) ** power

    def delta(self) -> sp.Expr:
        self.take("_")
        return sp.KroneckerDelta(*self.braced(lambda: (self.name(self.take()), self.name(self.take()))))

    def positive_part(self) -> sp.Expr:
        inside = self.sum()
        for token in (r"\right]", "_", "{", "+", "}"):
            self.take(token)
        return positive_part(inside)

    def absolute(self) -> sp.Expr:
        inside = self.sum()
        self.take(r"\right|")
        return absolute(inside)

    def step(self) -> sp.Expr:
        def condition() -> sp.Expr:
            left = self.sum()
            if self.take(">", "=") == "=":
                return attains(left, self.sum())
            self.take("0")
            return step(left)

        self.take("_")
        return self.braced(condition)

    def maximum(self) -> sp.Expr:
        if self.tokens[0] == "_":
            self.take("_")
            index = self.braced(lambda: self.name(self.take()))
            return Maximum(self.product(), (index, 1, symbols.n))
        self.take(r"\left(")
        first = self.sum()
        self.take(",")
        second = self.sum()
        self.take(r"\right)")
        return sp.Max(first, second)


_ATOMS: dict[str, Callable[[Reader], sp.Expr]] = {
    r"\frac": Reader.frac,
    r"\sum": Reader.total,
    r"\lVert": Reader.norm,
    r"\sigma": Reader.sigmoid,
    r"\delta": Reader.delta,
    r"\left[": Reader.positive_part,
    r"\left|": Reader.absolute,
    r"\mathbf{1}": Reader.step,
    r"\max": Reader.maximum,
    r"\sqrt": lambda reader: sp.sqrt(reader.braced()),
    r"\log": lambda reader: sp.log(reader.argument()),
    r"\operatorname{softplus}": lambda reader: softplus(reader.argument()),
    r"\operatorname{sign}": lambda reader: signum(reader.argument()),
}

WRITTEN = {"temperature": "T", "margin": "m", "epsilon": r"\epsilon", "d_pos": "d_{+}", "d_neg": "d_{-}"}
EMBEDDINGS = {"x": "x", "x_pos": "x^{+}", "x_neg": "x^{-}"}
UNITS = {latex.replace("x", r"\hat{x}"): symbols.UNITS[e] for e, latex in EMBEDDINGS.items()}
COMPONENTS = {
    "x": x,
    "y": y,
    "x^{+}": x_pos,
    "x^{-}": x_neg,
    "i": i,
    "j": j,
    "k": k,
    "l": l,
    "n": n,
    "L": sp.Symbol("L"),
    **UNITS,
    **{latex.replace("x", "g"): symbols.AT_UNITS[e] for e, latex in EMBEDDINGS.items()},
    **{f"|{latex}|": symbols.NORMS[e] for e, latex in EMBEDDINGS.items()},
}


def read(text: str, scalars: tuple[sp.Symbol, ...] = (), more: Mapping[str, sp.Expr] | None = None) -> sp.Expr:
    names = {WRITTEN.get(symbol.name, symbol.name): symbol for symbol in scalars}
    return Reader(text, {**COMPONENTS, **names, **(more or {})}).read()


# ---------------------------------------------------------------- printing

A, B, C = sp.symbols("a b c", positive=True)
VALUES = {A: mpmath.mpf(5) / 7, B: mpmath.mpf(11) / 3, C: mpmath.mpf(2) / 13}


def powers(of: st.SearchStrategy[sp.Expr]) -> st.SearchStrategy[sp.Expr]:
    exponents = st.sampled_from([sp.Integer(2), sp.Integer(-1), sp.Integer(-2), sp.Rational(1, 2), sp.Rational(-1, 2)])
    return st.builds(sp.Pow, of.map(lambda base: sp.exp(base / 8) if base.is_negative else base**2 + 1), exponents)


leaves = st.sampled_from([A, B, C, sp.Integer(2), sp.Integer(-3), sp.Rational(3, 4), sp.Rational(-1, 2)])
expressions = st.recursive(
    leaves,
    lambda inner: st.one_of(
        st.builds(sp.Add, inner, inner),
        st.builds(lambda a, b: a - b, inner, inner),
        st.builds(sp.Mul, inner, inner),
        st.builds(lambda a, b: sp.Mul(-1, a, b, evaluate=False), inner, inner),
        st.builds(lambda a, b: sp.Mul(a, sp.Add(b, 1, evaluate=False), evaluate=False), inner, inner),
        powers(inner),
        st.builds(lambda a: sigmoid(a) ** 2, inner),
        st.builds(softplus, inner),
        st.builds(positive_part, inner),
        st.builds(lambda a: sp.exp(A * (a**2 + 1) / 4), inner),
        st.builds(lambda a: sp.log(a**2 + 1), inner),
    ),
    max_leaves=6,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(expressions)
def test_printed_text_reads_back_as_the_same_value(expr: sp.Expr) -> None:
    with mpmath.workdps(PRECISION):
        point = Point(1, scalars=VALUES)
        expected, found = evaluate(expr, point), evaluate(read(to_latex(expr), (A, B, C)), point)
        assert abs(found - expected) <= mpmath.mpf(10) ** -DIGITS * max(abs(expected), 1), to_latex(expr)


SUMS = sp.Sum((x[i] - y[i]) ** 2, (i, 1, n))
DELICATE = {
    "minus a sum": A - (B + C),
    "minus a difference": sp.Add(A, sp.Mul(-1, B - C, evaluate=False), evaluate=False),
    "power of a sum": (A + B) ** 2,
    "power of a product": sp.Pow(A * B, 2, evaluate=False),
    "power of a negative": sp.Pow(sp.Mul(-1, A, evaluate=False), 2, evaluate=False),
    "power of a quotient": sp.Pow(A / B, 3, evaluate=False),
    "power of a power": sp.Pow(sp.Pow(A, 2, evaluate=False), 3, evaluate=False),
    "power of an exponential": sp.Pow(sp.exp(A), 2, evaluate=False),
    "power of a component": x_pos[k] ** 2,
    "power of a sigmoid": sigmoid(A - B) ** 2,
    "power of a root": sp.sqrt(A + B) ** 3,
    "power of a sum of components": SUMS**2,
    "sum before a term": SUMS + A,
    "sum times a name": SUMS * A,
    "sum of a sum of terms": sp.Sum(x[i] + y[i], (i, 1, n)),
    "sum of a negative": sp.Sum(-x[i] * y[i], (i, 1, n)),
    "derivative of a negative": sp.Derivative(-SUMS, x[k]),
    "sum of absolute values": sp.Sum(absolute(x[i] - y[i]), (i, 1, n)),
    "sign of a difference": A * signum(x[k] - y[k]),
    "product of sums": sp.Mul(A + B, B - C),
    "sum over a name": (A + B) / C,
    "quotient of sums": (A + B) / (B + C),
    "quotient of sums times a name": A * (A + B) / (B + C),
    "negative quotient": -(A - B) / C,
    "one over a root": 1 / sp.sqrt(A + B),
    "two over three": sp.Rational(2, 3) * A,
    "minus two over three in a product": sp.Mul(A, sp.Rational(-2, 3), B, evaluate=False),
    "exponential of a quotient of sums": sp.exp((A - B) / C),
    "exponential of a quotient of products": sp.exp(A / (B * C)),
    "exponential of a negative": sp.exp(-A),
    "logarithm of a quotient": sp.log(A / B),
    "indicator": step(A - B) + 1,
    "positive part squared": positive_part(B - A) ** 2,
    "maximum": sp.Max(0, A - B),
    "derivative of a sum": sp.Derivative(SUMS, x[k]) / A,
    "derivative and a term": sp.Derivative(SUMS, x[k]) + A,
    "derivative of a product": A * sp.Derivative(B * SUMS, x[k]),
    "derivative of a difference": sp.Derivative(sp.sqrt(SUMS) - SUMS, x[k]),
}


@pytest.mark.parametrize("name", DELICATE)
def test_parentheses_stand_where_the_meaning_needs_them(name: str) -> None:
    expr = DELICATE[name]
    with mpmath.workdps(PRECISION):
        vectors = {v: tuple(mpmath.mpf(at * at + 1) / (7 + j) for at in range(3)) for j, v in enumerate(("x", "y"))}
        vectors["x_pos"] = vectors["y"]
        point = Point(3, vectors, {**VALUES, k: mpmath.mpf(2)})
        expected, found = evaluate(expr, point), evaluate(read(to_latex(expr), (A, B, C)), point)
        assert abs(found - expected) <= mpmath.mpf(10) ** -DIGITS * max(abs(expected), 1), to_latex(expr)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (r"a - b + c", A - B + C),
        (r"a\,b + c", A * B + C),
        (r"\frac{a}{b}\,\left(b - c\right)", A / B * (B - C)),
        (r"\sum_{i=1}^{n} x_{i}\,a + b", sp.Sum(x[i] * A, (i, 1, n)) + B),
        (r"e^{a/b}", sp.exp(A / B)),
        (r"2\,\sigma^{2}(a)", 2 * sigmoid(A) ** 2),
        (r"\left(x^{+}_{k}\right)^{2}", x_pos[k] ** 2),
    ],
)
def test_the_reader_reads_as_people_do(text: str, value: sp.Expr) -> None:
    assert read(text, (A, B, C)) == value


@pytest.mark.parametrize("text", ["a^{2}^{3}", r"a\,-b", "a +", "a / ", r"\left(a", "a)", "a?", "x_{k}^{2}^{2}"])
def test_the_reader_refuses_what_is_not_mathematics(text: str) -> None:
    with pytest.raises(AssertionError):
        read(text, (A, B, C))


@pytest.mark.parametrize(("right", "wrong"), [(A - (B + C), "a - b + c"), ((A + B) ** 2, "a + b^{2}")])
def test_a_missing_parenthesis_changes_what_is_read(right: sp.Expr, wrong: str) -> None:
    with mpmath.workdps(PRECISION):
        point = Point(1, scalars=VALUES)
        assert abs(evaluate(read(wrong, (A, B, C)), point) - evaluate(right, point)) > mpmath.mpf(1) / 100


# ---------------------------------------------------------------- the documents


def proof_of(objective: Objective) -> Any:
    return generate(differentiate(objective), "latex").facts["proof"]


OBJECTIVES = named(COVER)
OBJECTIVES += [
    Objective(DISTANCES["l2"], LOSSES["softmax-mse"], normalize=True),
    Objective(DISTANCES["l2-squared"], LOSSES["hinge"], normalize=True),
]
objectives = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.stem)


def mathematics(line: Line) -> sp.Expr:
    return read(" ".join(line.right), scalars_of(line.step.setting))


def scalars_of(setting: Setting) -> tuple[sp.Symbol, ...]:
    return (*setting.scalars, *(name for name in setting.abbreviations if name.is_Symbol))


def disagreement(text: sp.Expr, meant: sp.Expr, setting: Setting) -> Any:
    with mpmath.workdps(PRECISION):
        pairs = [(evaluate(text, point), evaluate(meant, point)) for point in setting.points(FRESH)]
        return max(abs(a - b) / max(abs(a), abs(b), mpmath.mpf(10) ** -6) for a, b in pairs)


@objectives
def test_every_displayed_line_as_text_equals_the_line_before_it_at_fresh_points(objective: Objective) -> None:
    for chain in proof_of(objective).chains.values():
        for line in chain:
            assert disagreement(mathematics(line), line.step.before, line.step.setting) <= 10.0**-DIGITS, line.right


def test_a_sign_lost_in_print_is_seen() -> None:
    line = proof_of(OBJECTIVES[0]).chains["gradient x_pos"][-1]
    assert line.right[0].startswith("-")
    wrong = read(line.right[0][1:], scalars_of(line.step.setting))
    assert disagreement(wrong, line.step.before, line.step.setting) > 1


DISTANCE_SYMBOLS = {"d_{+}": d_pos, "d_{-}": d_neg}
VARIABLES = {"x": x, "y": y, "x^{+}": x_pos, "x^{-}": x_neg, **UNITS}


def variables_of(left: str) -> list[sp.Expr]:
    """What a partial derivative is taken in: the denominator of the left side."""
    names = left.partition("}{")[2][:-1].replace(r"\,", "").split(r"\partial ")[1:]
    return [DISTANCE_SYMBOLS.get(name) or component(name) for name in names]


def component(name: str) -> sp.Expr:
    embedding, _, index = name.rpartition("_")
    return VARIABLES[embedding][{"k": k, "l": l}[index]]


def by_differences(expr: sp.Expr, variables: list[sp.Expr], point: Point) -> Any:
    if not variables:
        return evaluate(expr, point)
    first, *rest = variables
    h = mpmath.mpf(10) ** -40
    ahead, behind = (by_differences(expr, rest, point.shift(first, sign * h)) for sign in (1, -1))
    return (ahead - behind) / (2 * h)


@objectives
def test_the_left_side_of_every_chain_is_the_derivative_that_it_says(objective: Objective) -> None:
    definition, introduced = symbols.loss_of(objective.loss)
    loss = definition.xreplace(introduced)
    distance = symbols.distance_of(objective.distance, x, y)
    functions = {"L": loss, "d": distance, **{symbol.name: value for symbol, value in introduced.items()}}
    functions[r"\hat{x}_l"] = x[l] / sp.sqrt(sp.Sum(x[j] ** 2, (j, 1, n)))
    seen = 0
    for chain in proof_of(objective).chains.values():
        first, *others = chain or [None]
        assert not any(line.left for line in others)
        partial = first and re.match(r"\\frac\{\\partial(?:\^2)? (\w|\\hat\{x\}_l)\}", first.left)
        if not partial:
            continue
        variables = variables_of(first.left)
        assert len(variables) == 1 + ("^2" in first.left), first.left
        for point in first.step.setting.points(FRESH):
            with mpmath.workdps(240):
                expected = by_differences(functions[partial[1]], variables, point)
                found = evaluate(mathematics(first), point)
                assert abs(found - expected) <= mpmath.mpf(10) ** -DIGITS * max(abs(expected), 1), first.left
        seen += 1
    assert seen >= 11  # two of the distance and its curvature, two slopes, three gradients, three blocks


@objectives
def test_no_symbol_has_two_superscripts(objective: Objective) -> None:
    text = generate(differentiate(objective), "latex").files[0].text
    twice = re.compile(r"\^(?:\{[^{}]*\}|.)(?:_(?:\{[^{}]*\}|.))?\^")
    assert not twice.findall(text)
    assert twice.search("x^{+}_{k}^{2}")


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("character", "\\_%{}#&~^$")
def test_no_special_character_is_left_for_tex(character: str) -> None:
    text = escape(f"a{character}b")
    assert text.startswith("a") and text.endswith("b")
    assert not re.sub(r"\\text[a-z]+\{\}|\\[_%{}#&$]", "", text)[1:-1], text


def test_ordinary_text_is_not_changed() -> None:
    assert escape("softmax-mse: 1 + 1 = 2 (l2)") == "softmax-mse: 1 + 1 = 2 (l2)"


def test_escaped_backslashes_are_not_escaped_again() -> None:
    assert escape("\\{") == r"\textbackslash{}\{"


def test_a_long_symbol_is_printed_as_one_word() -> None:
    assert to_latex(sp.Symbol("unit_scale") ** 2) == r"\mathit{unit\_scale}^{2}"


# ---------------------------------------------------------------- widths


@pytest.mark.parametrize(
    ("narrow", "wide"),
    [("a", "a + b"), (r"\frac{a}{b}", "a + b"), (r"\frac{a + b}{c}", r"\frac{a + b + c}{c}"), (r"\sigma", "abc")],
)
def test_more_is_wider(narrow: str, wide: str) -> None:
    assert width(narrow) < width(wide)


@pytest.mark.parametrize("commands", [r"\left(a\right)", "(a)"])
def test_only_what_is_seen_has_a_width(commands: str) -> None:
    assert width(commands) == 3


def test_a_fraction_is_as_wide_as_its_wider_half() -> None:
    assert width(r"\frac{a}{b + c}") == width(r"\frac{b + c}{a}") == width("b + c")
    assert width(r"\frac{\frac{a + b}{c}}{d}") == width("a + b")


LONG = sp.Add(*(sp.Symbol(f"{name}") * sigmoid(A - B) * (-1) ** at for at, name in enumerate("ghjprtuvw")))


def test_a_wide_sum_is_broken_before_its_signs_and_a_narrow_one_is_not() -> None:
    assert width(to_latex(LONG)) > WIDE
    pieces = broken(LONG)
    assert len(pieces) == len(LONG.args)
    assert all(piece.startswith(("+ ", "- ")) for piece in pieces[1:])
    assert " ".join(pieces) == to_latex(LONG)
    assert broken(A + B) == (to_latex(A + B),)


def test_a_product_with_a_sum_is_broken_within_it_if_it_is_wider_than_a_page() -> None:
    product = sp.Mul(2, LONG, evaluate=False)
    first, *rest = broken(product)
    assert len(rest) == len(LONG.args) - 1
    assert all(piece[:2] in ("+ ", "- ") for piece in rest)
    assert " ".join([first, *rest]).replace("\\bigl", "\\left").replace("\\bigr", "\\right") == to_latex(product)
    for narrow in (sp.Mul(2, A + B, evaluate=False), sp.exp(-LONG), sp.sqrt(LONG)):
        assert broken(narrow) == (to_latex(narrow),)


def test_only_what_is_broken_is_aligned() -> None:
    assert aligned(("a + b",)) == "a + b"
    assert aligned(("a", "+ b")) == r"\begin{aligned}[t] & a \\ & + b \end{aligned}"


# ---------------------------------------------------------------- notebooks


@pytest.mark.parametrize("loss", LOSSES)
def test_a_notebook_shows_the_gradients_of_normalized_embeddings_in_both(loss: str) -> None:
    derivation = differentiate(Objective(DISTANCES["l2"], LOSSES[loss], normalize=True))
    shown = derivation._repr_latex_()
    raw = differentiate("l2", loss)
    assert r"\hat{x}^{+} &= \frac{x^{+}}{\lVert x^{+} \rVert}" in shown
    assert r"d_{+} &= d(\hat{x}, \hat{x}^{+})" in shown
    assert f"L &= {to_latex(derivation.loss.value.result)} " in shown
    for name, latex in EMBEDDINGS.items():
        assert (
            rf"\frac{{\partial L}}{{\partial {latex}_k}} &= {to_latex(derivation.outcome.gradients[name].result)}"
            in shown
        )
        inner = re.sub(r"(?<![a-z])x(?=[_^])", lambda _: r"\hat{x}", to_latex(raw.gradients[name].result))
        assert f"{latex.replace('x', 'g')}_k &= {inner}" in shown
    assert r"\norm" not in shown, "a notebook does not know the macros of a document"
    assert r"\hat" not in raw._repr_latex_()
