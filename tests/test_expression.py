"""The formula language: what it accepts and means, what it refuses and where, and that nothing is ever executed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from typing import Any

import mpmath
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from derive_triplet.derive.errors import DefinitionError, UsageError
from derive_triplet.derive.expression import MAX_DEPTH, MAX_EXPONENT, MAX_LENGTH, Algebra, Definition

A, B = Fraction(5, 7), Fraction(-3, 2)
V, W = (Fraction(1, 3), Fraction(-2), Fraction(4, 5)), (Fraction(2), Fraction(1, 2), Fraction(-1))


def uninterpreted(name: str) -> Callable[..., Any]:
    """A function that refuses to be called, for formulas that do not use it."""

    def called(*_: Any) -> Any:
        raise AssertionError(f"{name} was called")

    return called


EXACT = Algebra(
    number=Fraction,
    functions={"abs": abs, "max": max, **{name: uninterpreted(name) for name in ("exp", "log", "sqrt")}},
    reduce=lambda kind, term: {"sum": sum, "max": max}[kind](term(k) for k in range(len(V))),
)


def read(text: str) -> Any:
    vectors = {"v": V.__getitem__, "w": W.__getitem__}
    return Definition(text, ("a", "b"), ("v", "w")).read(EXACT, {"a": A, "b": B}, vectors)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("0.1", Fraction(1, 10)),
        ("1.5e-3", Fraction(3, 2000)),
        ("a - b - 2", A - B - 2),
        ("a - (b - 2)", A - (B - 2)),
        ("a / b / 3", A / B / 3),
        ("a / (b / 3)", A / (B / 3)),
        ("a + b * 2", A + B * 2),
        ("-a**2", -(A**2)),
        ("(-a)**2", A**2),
        ("2**3**2", Fraction(512)),
        ("a**-2", 1 / A**2),
        ("--a", A),
        ("abs(b)", -B),
        ("max(a, b)", A),
        ("max(0, b)", Fraction(0)),
        ("sum(v)", sum(V)),
        ("sum((v - w)**2)", sum((p - q) ** 2 for p, q in zip(V, W, strict=True))),
        ("sum(a * v) / 2 + b", A * sum(V) / 2 + B),
        ("max(abs(v - w))", max(abs(p - q) for p, q in zip(V, W, strict=True))),
        ("max(sum(v), sum(w))", max(sum(V), sum(W))),
        ("sum(v * sum(w))", sum(V) * sum(W)),
        ("s = a + b\nt = s * s\nt - s", (A + B) ** 2 - (A + B)),
        ("\n    s = a\n    s + 1\n", A + 1),
        ("(a +\n b)  # a comment", A + B),
    ],
)
def test_accepted_formulas_mean_what_they_mean_in_mathematics(text: str, value: Fraction) -> None:
    assert read(text) == value


def test_what_is_said_more_than_once_is_computed_once_per_reading_and_component() -> None:
    calls: list[Any] = []

    def noted(value: Any) -> Any:
        calls.append(value)
        return value

    algebra = Algebra(Fraction, {**EXACT.functions, "exp": noted}, EXACT.reduce)
    formula = Definition("s = exp(a)*exp(a)\ns + exp(a) + sum(exp(v)*exp(v)) + sum(exp(v))", ("a",), ("v",))
    for a in (A, B):
        calls.clear()
        value = formula.read(algebra, {"a": a}, {"v": V.__getitem__})
        assert value == a * a + a + sum(v * v + v for v in V)
        assert calls == [a, *V, *V]


def test_numbers_that_are_equal_as_floats_only_are_not_the_same() -> None:
    assert read("0.1*a - 0.10000000000000000001*a") == Fraction(-1, 10**20) * A


def test_a_name_on_a_line_of_its_own_is_bound_to_what_the_reader_says() -> None:
    bound: dict[str, Any] = {}

    def bind(name: str, value: Any) -> Any:
        bound[name] = value
        return Fraction(10)

    assert Definition("s = a + 1\ns * 2", ("a",)).read(EXACT, {"a": A}, bind=bind) == 20
    assert bound == {"s": A + 1}


@pytest.mark.parametrize(
    ("text", "line", "column", "reason"),
    [
        ("a + c", 1, 5, "unknown name 'c'; known: a, b, v, w"),
        ("s = a\nt + s", 2, 1, "unknown name 't'"),
        ("s = t\nt = a\nt", 1, 5, "unknown name 't'"),
        ("a + exp", 1, 5, "unknown name 'exp'"),
        ("a + v", 1, 5, "the vector 'v' may only appear inside"),
        ("sum(v) + v", 1, 10, "the vector 'v' may only appear inside"),
        ("max(sum(v), w)", 1, 13, "the vector 'w' may only appear inside"),
        ("s = v\nsum(s)", 1, 5, "the vector 'v' may only appear inside"),
        ("a = b\na", 1, 1, "'a' already has a meaning"),
        ("v = b\na", 1, 1, "'v' already has a meaning"),
        ("exp = b\na", 1, 1, "'exp' already has a meaning"),
        ("s = a\ns = b\ns", 2, 1, "'s' already has a meaning"),
        ("s += a\na", 1, 1, "only 'name = expression'"),
        ("s = t = a\na", 1, 1, "only 'name = expression'"),
        ("s, t = a\na", 1, 1, "only 'name = expression'"),
        ("import os\na", 1, 1, "only 'name = expression'"),
        ("a; b", 1, 1, "only 'name = expression'"),
        ("a + sin(b)", 1, 5, "'sin' is not one of the functions"),
        ("eval(a)", 1, 1, "'eval' is not one of the functions"),
        ("max(a, b, 1)", 1, 1, "max takes 2 arguments, not 3"),
        ("exp(a, b)", 1, 1, "exp takes 1 argument, not 2"),
        ("a.real", 1, 1, "Attribute is not part"),
        ("a[0]", 1, 1, "Subscript is not part"),
        ("(lambda: a)()", 1, 1, "not part"),
        ("[a]", 1, 1, "List is not part"),
        ("a if b else 1", 1, 1, "IfExp is not part"),
        ("a < b", 1, 1, "Compare is not part"),
        ("a and b", 1, 1, "BoolOp is not part"),
        ("sum(v for v in w)", 1, 4, "GeneratorExp is not part"),
        ("exp(*[a])", 1, 5, "Starred is not part"),
        ("(s := a)", 1, 2, "NamedExpr is not part"),
        ("a // b", 1, 1, "not part"),
        ("a % b", 1, 1, "not part"),
        ("~a", 1, 1, "not part"),
        ("not a", 1, 1, "not part"),
        ("a + 'b'", 1, 5, "only numbers are constants"),
        ("f'{a}'", 1, 1, "JoinedStr is not part"),
        ("True", 1, 1, "only numbers are constants"),
        ("2j", 1, 1, "only numbers are constants"),
        ("a**'b'", 1, 4, "only numbers are constants"),
        ("a +", 1, 4, "invalid syntax"),
        ("1 = a", 1, 1, "cannot assign"),
    ],
)
def test_refusals_name_the_position_and_the_reason(text: str, line: int, column: int, reason: str) -> None:
    with pytest.raises(DefinitionError) as refusal:
        Definition(text, ("a", "b"), ("v", "w"))
    message = str(refusal.value)
    assert f"line {line}, column {column}" in message
    assert reason in message


@pytest.mark.parametrize("text", ["", "   ", "# nothing", "s = a"])
def test_a_formula_without_a_value_is_refused(text: str) -> None:
    with pytest.raises(DefinitionError, match="its last line must be an expression"):
        Definition(text, ("a",))


@pytest.mark.parametrize(("text", "name"), [("sum()", "sum"), ("sum(v, w)", "sum"), ("exp(a=a)", "exp")])
def test_a_wrong_call_of_a_known_function_is_not_called_unknown(text: str, name: str) -> None:
    with pytest.raises(DefinitionError, match="line 1, column 1") as refusal:
        Definition(text, ("a",), ("v", "w"))
    assert f"{name!r} is not one of" not in str(refusal.value)


def test_a_null_byte_is_refused_without_a_made_up_position() -> None:
    with pytest.raises(DefinitionError) as refusal:
        Definition("a\0", ("a",))
    assert "None" not in str(refusal.value)


# ---------------------------------------------------------------- limits


def test_length_is_limited() -> None:
    Definition("a" + " " * (MAX_LENGTH - 1), ("a",))
    with pytest.raises(DefinitionError, match=f"at most {MAX_LENGTH}"):
        Definition("a" + " " * MAX_LENGTH, ("a",))


@pytest.mark.parametrize("wrap", ["-", "exp(", "1 + ("])
def test_depth_is_limited(wrap: str) -> None:
    def nested(times: int) -> str:
        return wrap * times + "a" + ")" * (times * wrap.count("("))

    Definition(nested(MAX_DEPTH), ("a",))
    with pytest.raises(DefinitionError, match=f"nested deeper than {MAX_DEPTH}"):
        Definition(nested(MAX_DEPTH + 1), ("a",))


def test_brackets_beyond_what_python_can_parse_are_refused() -> None:
    with pytest.raises(DefinitionError):
        Definition("(" * 900 + "a" + ")" * 900, ("a",))


@pytest.mark.parametrize("exponent", ["{}", "-{}", "(-{})", "{}.0"])
def test_exponents_are_limited_whatever_their_sign(exponent: str) -> None:
    Definition("a**" + exponent.format(MAX_EXPONENT), ("a",))
    with pytest.raises(DefinitionError, match=f"exponents go up to {MAX_EXPONENT}"):
        Definition("a**" + exponent.format(MAX_EXPONENT + 1), ("a",))


@pytest.mark.parametrize("text", ["9**64**64", "a**(60 + 60)", "1e999999999", "1e-999999999"])
def test_a_short_formula_cannot_ask_for_an_enormous_number(text: str) -> None:
    with pytest.raises(DefinitionError, match="line 1, column"):
        Definition(text, ("a",))


@pytest.mark.parametrize("text", ["0x10", "0b11", "0o17"])
def test_a_number_that_is_accepted_can_be_read(text: str) -> None:
    try:
        definition = Definition(text)
    except DefinitionError:
        return  # refusing is as good
    assert definition.read(EXACT, {}) == int(text, 0)


@pytest.mark.parametrize("text", ["sum(a)", "max(a)"])
def test_a_reduction_with_nothing_to_run_over_is_refused(text: str) -> None:
    with pytest.raises(DefinitionError, match="line 1, column 1"):
        Definition(text, ("a",))


# ---------------------------------------------------------------- never evaluated


def test_reading_applies_only_the_algebra() -> None:
    class Text(str):
        __slots__ = ()

        def __add__(self, other: str) -> Text:
            return Text(f"({self} + {other})")

        def __mul__(self, other: object) -> Text:
            return Text(f"({self} * {other})")

        def __pow__(self, other: str) -> Text:
            return Text(f"({self} ** {other})")

        def __neg__(self) -> Text:
            return Text(f"(-{self})")

    algebra = Algebra(Text, {"exp": lambda z: Text(f"exp({z})")}, lambda kind, term: Text(f"{kind}_k {term('k')}"))
    found = Definition("2*3 + exp(-0.10)**2 + sum(v)", (), ("v",)).read(algebra, {}, {"v": lambda k: Text(f"v[{k}]")})
    assert found == "(((2 * 3) + (exp((-0.10)) ** 2)) + sum_k v[k])"


def test_nothing_is_computed_before_a_formula_is_read() -> None:
    definition = Definition("1 / 0")
    with pytest.raises(ZeroDivisionError):
        definition.read(EXACT, {})


@pytest.mark.parametrize(
    "attempt",
    [
        "open({path!r}, 'w')",
        "__import__('pathlib').Path({path!r}).touch()",
        "exp(open({path!r}, 'w'))",
        "s = open({path!r}, 'w')\n1",
        "[open({path!r}, 'w') for s in (1,)][0]",
        "exp.__globals__['open']({path!r}, 'w')",
        "f'{{open({path!r}, \"w\")}}'",
        "(lambda: open({path!r}, 'w'))()",
    ],
)
def test_a_hostile_formula_is_refused_and_has_no_effect(attempt: str, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    exec(compile(f"open({str(victim)!r}, 'w').close()", "planted", "exec"))
    assert victim.exists(), "the attempt would be seen if it were executed"
    victim.unlink()
    with pytest.raises(DefinitionError):
        Definition(attempt.format(path=str(victim)), ("a",)).read(EXACT, {"a": A})
    assert not victim.exists()


def test_the_language_uses_no_evaluator_of_python_or_sympy() -> None:
    watch = """
import sys
from derive_triplet.derive.expression import Algebra, Definition
events = []
sys.addaudithook(lambda event, arguments: events.append((event, arguments)))
definition = Definition("s = sqrt(sum((v - w)**2))\\nlog(1 + exp(s / 2))", (), ("v", "w"))
algebra = Algebra(float, {"sqrt": abs, "log": abs, "exp": abs}, lambda kind, term: sum(map(term, range(3))))
definition.read(algebra, {}, {"v": float, "w": abs})
executed = [event for event, _ in events if event in ("exec", "import", "open")]
sys.exit(repr(executed) if executed or "sympy" in sys.modules else 0)
"""
    found = subprocess.run([sys.executable, "-c", watch], capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stderr


_WORDS = st.sampled_from(
    [*"av()[]=,+-*/.:;#\\\n\0é12 ", "exp", "sum", "max", "**", "0.5", "1e9", "2j", "'t'", "None", "if"]
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(_WORDS, max_size=12).map("".join))
def test_any_text_is_either_read_or_refused_with_a_definition_error(text: str) -> None:
    try:
        definition = Definition(text, ("a",), ("v",))
    except DefinitionError as refusal:
        assert isinstance(refusal, UsageError)
        return
    algebra = Algebra(
        lambda number: mpmath.mpc(float(number)),
        {name: lambda *_: mpmath.mpc(1) for name in ("exp", "log", "sqrt", "abs", "max")},
        lambda _, term: term(0) + term(1),
    )
    with suppress(ZeroDivisionError, OverflowError):  # a value that does not exist is for the algebra to report
        definition.read(algebra, {"a": mpmath.mpc(2)}, {"v": lambda k: mpmath.mpc(k + 1)})
