"""Any text as a loss, and any words as a command: an answer or one line that says why not, and nothing else."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mpmath
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st

from derive_triplet import DefinitionError, Loss, UsageError, own_loss
from derive_triplet.cli import main
from derive_triplet.derive.custom import losses_from
from derive_triplet.derive.expression import MAX_LENGTH, Definition
from derive_triplet.derive.highprecision import loss_value

QUIET = settings(derandomize=True, deadline=None, database=None)
SECONDS = 5  # no answer takes so long, whatever is asked
OF_THE_WHOLE = (
    rf"the formula has no value|the formula has \d+ characters|more than {MAX_LENGTH} parts|not a formula: "
    "|does not appear|is not used|it is constant|it does not depend|cannot be called|is declared twice"
)
"""Reasons to refuse a formula that have no place in it."""

WORDS = [
    *"()[]{}+-*/%@.,:;=<>!&|^~\\#'\"`$?0123456789 \n\t\r\f\0_exé√∞ｄ",
    *("d_pos", "d_neg", "tau", "x", "**", "//", "<=", "==", "->", ":=", "...", "0x1F", "1e999", "1e-999", "1_0", "1j"),
    *("exp(", "log(", "log1p(", "sqrt(", "abs(", "tanh(", "max(", "min(", "where(", "sum(", "sin(", "__import__("),
    *("lambda", " if ", " else ", " for ", " in ", " and ", " not ", "def ", "await ", "None", "True", "f'{d_pos}'"),
    *("d_pos - d_neg", "(d_pos + d_neg)", "max(0, d_pos - d_neg)", "**64", "**65", "**-2", "**0.5", "s = ", "\ns"),
]
SOUP = st.lists(st.sampled_from(WORDS), max_size=14).map("".join)


def calls(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
    """Formulas made of formulas."""
    two = st.tuples(inner, inner)
    return st.one_of(
        st.tuples(inner, st.sampled_from([" + ", " - ", "*", " / "]), inner).map("".join).map("({})".format),
        st.tuples(st.sampled_from(["exp", "tanh", "abs", "log1p", "sqrt", "log", "-"]), inner).map(
            lambda parts: "{}({})".format(*parts)
        ),
        st.tuples(inner, st.sampled_from(["2", "3", "-1", "0.5"])).map(lambda parts: "({})**{}".format(*parts)),
        st.tuples(st.sampled_from(["max", "min"]), two).map(lambda parts: f"{parts[0]}({', '.join(parts[1])})"),
        st.tuples(st.sampled_from(["<", "<=", ">", ">="]), two, two).map(
            lambda parts: f"where({parts[0].join(parts[1])}, {', '.join(parts[2])})"
        ),
    )


LEAVES = st.sampled_from(["d_pos", "d_neg", "d_pos - d_neg", "1", "0.1", "2.5e-1", "3"])
FORMULAS = st.recursive(LEAVES, calls, max_leaves=6)


@st.composite
def mutated(draw: st.DrawFn) -> str:
    """A formula with a few characters taken out, repeated, or put in."""
    text = draw(FORMULAS)
    for _ in range(draw(st.integers(1, 3))):
        at, until = sorted(draw(st.tuples(*[st.integers(0, len(text))] * 2)))
        text = text[:at] + draw(st.sampled_from(["", text[at:until] * 2, *WORDS])) + text[until:]
    return text


ANYTHING = st.one_of(
    SOUP,
    mutated(),
    st.text(max_size=30),
    st.text(st.characters(codec=None), max_size=8),  # with lone surrogates, as bytes that are no UTF-8 become
    st.binary(max_size=30).map(lambda raw: raw.decode("latin-1")),
)


def answer(of: Callable[[], Any]) -> Any:
    """What is returned, or the refusal; nothing else is raised, no warning given, and it does not take long."""
    began = time.process_time()
    with warnings.catch_warnings(record=True) as given_warnings:
        warnings.simplefilter("always")
        try:
            found = of()
        except UsageError as error:
            found = error
            said = str(error)
            assert said
            assert said == " ".join(said.splitlines())
            said.encode()  # it can be printed
    assert [str(warning.message) for warning in given_warnings] == []
    assert time.process_time() - began < SECONDS
    return found


# ---------------------------------------------------------------- the parser


@settings(QUIET, max_examples=200)
@given(ANYTHING)
def test_any_text_is_a_formula_or_refused_with_a_place(text: str) -> None:
    refusal = answer(lambda: Definition(text, ("d_pos", "d_neg", "tau"), ("x",)))
    if isinstance(refusal, UsageError):
        assert isinstance(refusal, DefinitionError)
        assert re.search(rf"line \d+, column \d+: |{OF_THE_WHOLE}", str(refusal)), refusal


@settings(QUIET, max_examples=100)
@given(ANYTHING)
def test_any_text_is_a_loss_or_refused_with_a_place_or_a_point(text: str) -> None:
    refusal = answer(lambda: own_loss(text, {"tau": "0.5:>0"} if "tau" in text else {}))
    assert isinstance(refusal, Loss) or re.search(
        rf"line \d+, column \d+: |at .*d_pos = .*, d_neg = |{OF_THE_WHOLE}", str(refusal)
    ), refusal


@settings(QUIET, max_examples=100)
@given(
    st.lists(st.one_of(SOUP, st.sampled_from(["tau=1", "tau=0.5:>0", "m=-1", "a\n=1", "=", "tau=nan:>=0"])), max_size=2)
)
def test_any_parameters_are_taken_or_refused(declared: list[str]) -> None:
    answer(lambda: losses_from(["d_pos - d_neg/tau"], declared))


@settings(QUIET, max_examples=60)
@given(st.one_of(SOUP, st.text(st.characters(codec=None), max_size=12)))
def test_any_name_is_taken_or_refused(name: str) -> None:
    answer(lambda: own_loss("d_pos - d_neg", name=name))


@pytest.mark.parametrize(
    "text",
    [
        "(" * 900 + "d_pos" + ")" * 900,
        "-" * 1900 + "d_pos",
        "d_pos" + "+d_pos" * 320,
        "exp(" * 300 + "d_pos" + ")" * 300,
        "d_pos - d_neg" + "**2" * 600,
        "9" * 1900,
        "2**" * 600 + "2",
        "s = d_pos\n"
        + "".join(f"s{i} = s{i - 1 if i else ''}*s{i - 1 if i else ''}\n" for i in range(90))
        + "s89 - d_neg",
        "0" + "1" * 1900 + " - d_pos",
        "[" * 1999,
        "\\\n" * 900 + "d_pos",
    ],
)
def test_long_and_deep_texts_are_refused_at_once(text: str) -> None:
    assert isinstance(answer(lambda: own_loss(text)), DefinitionError)


# ---------------------------------------------------------------- what is accepted means what it says

SPELLED: dict[str, Any] = {
    **{name: getattr(mpmath, name) for name in ("exp", "log", "log1p", "sqrt", "tanh")},
    "abs": abs,
    "max": max,
    "min": min,
    "mpf": mpmath.mpf,
}


def by_python(text: str, **values: Any) -> Any:
    """The value of a formula as Python reads it, with exact decimal numbers."""
    exact = re.sub(r"(?<![\w.])(\d[\d.]*(?:e[+-]?\d+)?)", r"mpf('\1')", text)
    lazy = re.sub(r"\bwhere\(", "where(lambda: ", exact)
    return eval(_with_lambdas(lazy), {**SPELLED, **values, "where": lambda c, a, b: a() if c() else b()})


def _with_lambdas(text: str) -> str:
    """`where` with its last two arguments as functions: what is not taken may have no value."""
    depths: list[tuple[str, int]] = []
    out = []
    for at, character in enumerate(text):
        if character == "(":
            depths.append(("where" if text[:at].endswith("where") else "", 0))
        elif character == ")":
            depths.pop()
        out.append(character + " lambda:" if character == "," and depths[-1][0] else character)
    return "".join(out)


@settings(QUIET, max_examples=40)
@given(FORMULAS, st.floats(0.125, 4), st.floats(0.125, 4))
def test_an_accepted_formula_has_the_value_that_python_gives_it(text: str, d_pos: float, d_neg: float) -> None:
    loss = answer(lambda: own_loss(text, name="mine"))
    if not isinstance(loss, Loss):
        return
    with mpmath.workdps(60):
        at = {"d_pos": mpmath.mpf(d_pos), "d_neg": mpmath.mpf(d_neg)}
        try:
            wanted = by_python(text, **at)
        except (ArithmeticError, ValueError):
            wanted = mpmath.nan
        if isinstance(wanted, mpmath.mpf) and mpmath.isfinite(wanted):
            assert mpmath.almosteq(loss_value(loss, at["d_pos"], at["d_neg"], {}), wanted, 1e-25, 1e-25)
            (again,), _ = losses_from([loss.definition], (), "mine")
            assert again == loss


# ---------------------------------------------------------------- the command

VALUES = [
    *(
        "l2",
        "l1",
        "hinge",
        "numpy",
        "prototxt",
        "float32",
        "all",
        "0.5",
        "-1",
        "nan",
        "1e999",
        "é",
        "\udcff",
        "a\nb",
        "",
    ),
    *(
        "d_pos - d_neg",
        "d_pos -",
        "max(0, d_pos - d_neg + m)",
        "m=1",
        "m=1:>0",
        "m\n=1",
        "mine",
        "no\n.toml",
        "l2.toml",
    ),
]
OPTIONS = [
    "--norm",
    "--loss",
    "--target",
    "--dtype",
    "--margin",
    "--temperature",
    "--param",
    "--name",
    "--accept-accuracy",
]
FLAGS = ["--normalize", "--json", "--check", "--force", "--list", "--version", "--accuracy", "--nonsense", "-x"]
ARGUMENTS = st.lists(
    st.one_of(
        st.tuples(st.sampled_from(OPTIONS), st.sampled_from(VALUES)),
        st.tuples(st.sampled_from(OPTIONS), st.sampled_from(VALUES)),
        st.tuples(st.sampled_from(FLAGS)),
    ),
    max_size=4,
)


def command_answers(arguments: list[str], folder: Path) -> None:
    """That a command ends with 0, 1 or 2, without a traceback, with one line for an error, and writes where it may."""
    outside = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and "out" not in path.parts}
    result = CliRunner().invoke(main, arguments)
    assert isinstance(result.exception, SystemExit | None), repr(result.exception)
    assert result.exit_code in (0, 1, 2)
    assert "Traceback" not in result.output
    lines = result.stderr.splitlines()
    if result.exit_code == 2:
        assert lines[-1].startswith("Error: ")
        assert len(lines) == 1 or lines[0].startswith("Usage: ")
    assert sum(line.startswith("Error: ") for line in lines) <= 1
    assert outside == {p: p.read_bytes() for p in folder.rglob("*") if p.is_file() and "out" not in p.parts}


def test_any_words_are_a_command_or_refused_in_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("kept.txt").write_text("mine\n")

    @settings(QUIET, max_examples=60)
    @given(ARGUMENTS, st.sampled_from(["out", "out", "-", "out/below", "kept.txt", "kept.txt/below"]))
    def on_examples(options: list[tuple[str, ...]], output: str) -> None:
        words = [word for option in options for word in option]
        words += ["--norm", "l1"] * ("--check" in words)  # and not all that there is
        command_answers([*words, "--no-verify", "-o", output], tmp_path)

    on_examples()


@pytest.mark.parametrize(
    "arguments",
    [
        ["--loss", "no\n.toml"],
        ["--loss", "\udcff.toml"],
        ["--loss", "d_pos - d_neg", "--param", "a\n=1"],
        ["--loss", "d_pos - d_neg", "--param", "\udcff"],
        ["--loss", "d_pos - \udcff"],
        ["--loss", "2if d_pos"],
        ["--loss", "-*"],
        ["--norm", "a\nb"],
        ["-o", "a\nb", "--check", "--norm", "l1"],
    ],
)
def test_what_cannot_be_printed_on_a_line_is_refused_in_one(
    arguments: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    command_answers(arguments, tmp_path)
