"""A proof shows its checked steps, nothing else, and all that it promises."""

from __future__ import annotations

import copy
import dataclasses
import itertools
import re
from collections.abc import Mapping, Sequence
from importlib.resources import files

import mpmath
import pytest
import sympy as sp
from objectives import COVER, named

from derive_triplet import (
    DISTANCES,
    LOSSES,
    Distance,
    Loss,
    Objective,
    Parameter,
    Product,
    differentiate,
    generate,
    own_loss,
    verify,
)
from derive_triplet.derive.differentiate import Derivation
from derive_triplet.derive.errors import StepError
from derive_triplet.derive.kernel import Reduction, RowKernel
from derive_triplet.derive.latex import to_latex
from derive_triplet.derive.lower import lower
from derive_triplet.derive.normalization import at_units
from derive_triplet.derive.proof import Proof, farthest_units, prove, where
from derive_triplet.derive.steps import DIGITS, Lemma
from derive_triplet.derive.symbols import d_neg, d_pos, distances_of
from derive_triplet.derive.table import EXAMPLE, least_on_units, loss_at, table_of
from derive_triplet.derive.targets.latex import LatexTarget
from derive_triplet.derive.verify.reference import reference

RAW = named(COVER)
NORMALIZED = [
    Objective(DISTANCES["l2"], LOSSES["softmax-mse"], normalize=True),
    Objective(DISTANCES["l2-squared"], LOSSES["hinge"], normalize=True),
]
OBJECTIVES = [*RAW, *NORMALIZED]
normalized = pytest.mark.parametrize("objective", NORMALIZED, ids=lambda objective: objective.stem)
objectives = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.stem)
PAPER = Objective(DISTANCES["l2"], LOSSES["softmax-mse"])
FRESH = 977  # a seed with which no step was checked when it was made


def document(objective: Objective) -> Product:
    return generate(differentiate(objective), "latex")


def proof_of(objective: Objective) -> Proof:
    proof = document(objective).facts["proof"]
    assert isinstance(proof, Proof)
    return proof


def text_of(objective: Objective) -> str:
    """The document with every space and line break as one space."""
    return re.sub(r"\s+", " ", document(objective).files[0].text)


def hats(objective: Objective, latex: str) -> str:
    """What was printed of x, x_pos and x_neg, said of the vectors that the distances are taken of."""
    return re.sub(r"(?<![a-z])x(?=[_^])", lambda _: r"\hat{x}", latex) if objective.of_units else latex


def whole(pieces: Sequence[str]) -> str:
    """A formula that is broken, in one piece."""
    return " ".join(pieces).replace(r"\bigl(", r"\left(").replace(r"\bigr)", r"\right)")


# ---------------------------------------------------------------- what is displayed is a checked step


@objectives
def test_every_displayed_step_holds_at_fresh_points(objective: Objective) -> None:
    steps = proof_of(objective).steps
    assert len(steps) > 20
    assert all(step.check(FRESH) <= mpmath.mpf(10) ** -DIGITS for step in steps)


@objectives
def test_a_displayed_line_is_its_step_and_stands_in_the_document(objective: Objective) -> None:
    said = at_units if objective.of_units else sp.sympify
    named = {said(expr): to_latex(symbol) for symbol, expr in distances_of(objective).items()}
    text = text_of(objective)
    for name, chain in proof_of(objective).chains.items():
        for line in chain:
            assert whole(line.right) == to_latex(line.step.after, {} if name == "directions" else named)
            assert line.rule == line.step.rule
            assert all(f" {re.sub(r'[ ]+', ' ', piece)} " in text for piece in line.right)


@objectives
def test_each_line_begins_where_the_one_above_ends(objective: Objective) -> None:
    for name, chain in proof_of(objective).chains.items():
        if name == "length" and not chain:
            continue  # it is no function of the distance
        assert [bool(line.left) for line in chain] == [True, *[False] * (len(chain) - 1)], name
        for above, below in itertools.pairwise(chain):
            assert below.step.before == above.step.after, name


@objectives
def test_the_results_stated_are_the_ends_of_the_chains(objective: Objective) -> None:
    proof, text = proof_of(objective), text_of(objective)
    boxed = "raw gradient" if objective.of_units else "gradient"
    names = ["slope d_pos", "slope d_neg", "stable"]
    names += [f"{kind} {name}" for kind in {"gradient", boxed} for name in ("x", "x_pos", "x_neg")]
    for name in names:
        assert proof.formulas[name] == whole(proof.chains[name][-1].right)
    for embedding, latex in (("x", "x"), ("x_pos", "x^{+}"), ("x_neg", "x^{-}")):
        left = rf"\frac{{\partial L}}{{\partial {latex}_{{k}}}}"
        formula = proof.formulas[f"{boxed} {embedding}"]
        pieces = proof.chains[f"{boxed} {embedding}"][-1].right
        inside = formula if len(pieces) == 1 else rf"\begin{{aligned}}[t] & {' BREAK '.join(pieces)} \end{{aligned}}"
        assert rf"\boxed{{\;{left} = {inside}\;}}".replace("BREAK", r"\\ &\qquad") in text


@normalized
def test_the_theorem_at_unit_vectors_is_that_of_the_raw_objective_with_hats(objective: Objective) -> None:
    raw, proof, text = (
        proof_of(dataclasses.replace(objective, normalize=False)),
        proof_of(objective),
        text_of(objective),
    )
    for name, latex in (("x", r"\hat{x}"), ("x_pos", r"\hat{x}^{+}"), ("x_neg", r"\hat{x}^{-}")):
        formula = hats(objective, raw.formulas[f"gradient {name}"])
        assert proof.formulas[f"gradient {name}"] == formula
        assert rf"\frac{{\partial L}}{{\partial {latex}_{{k}}}} = {formula}" in text
    for chain in (name for name in raw.chains if name.startswith(("gradient", "block"))):
        lines = zip(proof.chains[chain], raw.chains[chain], strict=True)
        assert all(one.right == tuple(hats(objective, piece) for piece in other.right) for one, other in lines), chain


@objectives
def test_no_step_can_be_replaced_by_a_wrong_one(objective: Objective) -> None:
    for step in proof_of(objective).steps:
        with pytest.raises(StepError, match="is wrong"):
            dataclasses.replace(step, after=step.after + sp.Rational(1, 10**30))


def with_lemma(derivation: Derivation, where: str, name: str) -> Derivation:
    """The derivation with the result of one lemma negated, by a step that was never checked."""

    def tampered(lemmas: Mapping[object, Lemma]) -> dict[object, Lemma]:
        (key,) = (key for key in lemmas if str(key) == name)
        *before, last = lemmas[key].steps
        wrong = copy.copy(last)
        object.__setattr__(wrong, "after", -last.after)
        return {**lemmas, key: Lemma(lemmas[key].name, lemmas[key].subject, (*before, wrong))}

    if where == "distance":
        distance = dataclasses.replace(derivation.distance, gradients=tampered(derivation.distance.gradients))
        return dataclasses.replace(derivation, distance=distance)
    if where == "loss":
        return dataclasses.replace(
            derivation, loss=dataclasses.replace(derivation.loss, slopes=tampered(derivation.loss.slopes))
        )
    if where == "raw gradient":
        normalization = derivation.normalization
        assert normalization
        part = dataclasses.replace(normalization, gradients=tampered(normalization.gradients))
        return dataclasses.replace(derivation, normalization=part)
    return dataclasses.replace(derivation, gradients=tampered(derivation.gradients))


LEMMAS = [
    ("distance", "x"),
    ("distance", "y"),
    ("loss", "d_pos"),
    ("loss", "d_neg"),
    ("gradient", "x"),
    ("gradient", "x_pos"),
    ("gradient", "x_neg"),
]


@pytest.mark.parametrize(("where", "name"), LEMMAS)
def test_a_wrong_lemma_makes_the_build_fail(where: str, name: str) -> None:
    wrong = with_lemma(differentiate(PAPER), where, name)
    with pytest.raises(StepError):
        generate(wrong, "latex")


@pytest.mark.parametrize("where", ["gradient", "raw gradient"])
@pytest.mark.parametrize("name", ["x", "x_pos", "x_neg"])
def test_a_wrong_gradient_of_normalized_embeddings_makes_the_build_fail(where: str, name: str) -> None:
    wrong = with_lemma(differentiate(NORMALIZED[0]), where, name)
    with pytest.raises(StepError):
        prove(wrong, lower(differentiate(NORMALIZED[0])), (("temperature", 1.0),))


@objectives
def test_a_proof_with_a_wrong_line_can_not_be_made(objective: Objective) -> None:
    proof = proof_of(objective)
    for name, chain in proof.chains.items():
        for at, line in enumerate(chain):
            wrong = copy.copy(line.step)
            object.__setattr__(wrong, "after", line.step.after + sp.Rational(1, 10**30))
            lines = (*chain[:at], dataclasses.replace(line, step=wrong), *chain[at + 1 :])
            with pytest.raises(StepError, match="is wrong"):
                dataclasses.replace(proof, chains={name: lines})


def test_a_wrong_gradient_can_not_reach_the_table() -> None:
    right = differentiate(PAPER)
    with pytest.raises(StepError):
        prove(with_lemma(right, "gradient", "x"), lower(right), (("temperature", 1.0),))


# ---------------------------------------------------------------- no formula is written by hand

INSERTED = re.compile(r"<<.*?>>|<%.*?%>|<#.*?#>", re.DOTALL)
DISPLAYS = re.compile(r"\\\[(.*?)\\\]|\\begin\{align\*\}(.*?)\\end\{align\*\}", re.DOTALL)
SPACING = re.compile(r"\\\\\*?\[[-\d.]+ex\]|\\begin\{gathered\}|\\end\{gathered\}")


def hand_written(template: str) -> list[str]:
    """Displays in which something stands to the right of '=' that is not inserted, or a number anywhere."""
    words = INSERTED.sub(lambda inserted: "@" if inserted[0].startswith("<<") else "", template)
    displays = [display[0] for display in DISPLAYS.finditer(SPACING.sub("", words))]
    return [display for display in displays if re.search(r"=(?!\s*@)|\d", display)]


TEMPLATES = sorted(
    entry.name for entry in (files("derive_triplet") / "templates" / "latex").iterdir() if entry.name.endswith(".jinja")
)


@pytest.mark.parametrize("name", TEMPLATES)
def test_no_displayed_formula_is_written_in_a_template(name: str) -> None:
    template = (files("derive_triplet") / "templates" / "latex" / name).read_text(encoding="utf-8")
    assert hand_written(template) == []
    cells = re.findall(r"\$\\displaystyle(.*?)\$", INSERTED.sub("@", template))
    assert all(re.fullmatch(r"\s*(@|\\(sum|frac)\b[^=]*)\s*", cell) for cell in cells)


@pytest.mark.parametrize(
    "planted",
    [
        r"\[ L = 2 s^{2} \]",
        r"\[ \frac{\partial L}{\partial d_{+}} = << f.slope >>, \qquad \frac{\partial L}{\partial d_{-}} = -s q \]",
        r"\begin{align*} << line.left >> &= 4 << line.right >> \end{align*}",
        "\\[\\begin{gathered}\n \\boxed{L = \\sigma(z)} \\end{gathered}\\]",
    ],
)
def test_a_formula_written_in_a_template_is_seen(planted: str) -> None:
    assert hand_written(planted)


def test_the_displays_of_the_template_are_seen_at_all() -> None:
    template = (files("derive_triplet") / "templates" / "latex" / "proof.tex.jinja").read_text(encoding="utf-8")
    assert len(DISPLAYS.findall(template)) >= 7


# ---------------------------------------------------------------- the numbers

TRIPLET = (EXAMPLE["x"], EXAMPLE["x_pos"], EXAMPLE["x_neg"])


def read(shown: str) -> mpmath.mpf:
    """The number that a cell of the table shows."""
    return mpmath.mpf(re.sub(r" \\cdot 10\^\{(-?\d+)\}", r"e\1", shown))


@objectives
def test_the_table_has_the_numbers_of_the_reference(objective: Objective) -> None:
    exact = reference(objective, *TRIPLET, {p.name: p.default for p in objective.parameters})
    expected = [value for name in ("x", "x_pos", "x_neg") for value in exact.gradients[name].value]
    table, text = proof_of(objective).table, text_of(objective)
    assert r"At $x = (1, 2, 3)$, $x^{+} = (1.5, 1, 2.25)$, $x^{-} = (0.5, 2.5, 3.75)$, " in text
    assert TRIPLET == ((1, 2, 3), (1.5, 1, 2.25), (0.5, 2.5, 3.75))
    shown = any if objective.distance.name == "linf" else all  # only the largest component of a difference pulls
    assert shown(expected), "an example that vanishes somewhere shows less"
    assert len(table) == len(expected) == 9
    for row, value in zip(table, expected, strict=True):
        for shown in (row.formula, row.definition):
            assert abs(read(shown) - value) <= mpmath.mpf("1e-11") * max(abs(value), mpmath.mpf("1e-9"))
        assert f"${row.name}$ & ${row.formula}$ & ${row.definition}$ & ${row.difference}$" in text
        power = re.fullmatch(r"< 10\^\{-(\d+)\}", row.difference)
        assert power and int(power[1]) >= 25


def test_the_rows_name_the_components_in_order() -> None:
    names = [row.name for row in proof_of(PAPER).table]
    assert names == [rf"\partial L / \partial {of}_{{{k}}}" for of in ("x", "x^{+}", "x^{-}") for k in (1, 2, 3)]


def test_the_table_is_computed_with_the_parameters_of_the_product() -> None:
    half = generate(differentiate(PAPER), "latex", parameters={"temperature": 0.5})
    exact = reference(PAPER, *TRIPLET, {"temperature": 0.5})
    for shown, value in zip(half.facts["proof"].table, exact.gradients["x"].value, strict=False):
        assert abs(read(shown.formula) - value) <= mpmath.mpf("1e-11")
    assert half.facts["proof"].table != proof_of(PAPER).table


@pytest.mark.parametrize("temperature", [1e-12, 1e-3, 1e12])
def test_a_difference_is_above_that_of_the_numbers_shown(temperature: float) -> None:
    rows = generate(differentiate(PAPER), "latex", parameters={"temperature": temperature}).facts["proof"].table
    for row in rows:
        bound = read(row.difference.removeprefix("< ").replace("10^", "1 \\cdot 10^"))
        assert abs(read(row.formula) - read(row.definition)) <= max(bound, mpmath.mpf("1e-11") * abs(read(row.formula)))
        assert "e" not in row.formula + row.definition, "an e in mathematics is a variable"


@pytest.mark.parametrize("off", [mpmath.mpf(1), mpmath.mpf("1e-20")], ids=["gross", "fine"])
@pytest.mark.parametrize("name", ["x", "x_pos", "x_neg"])
def test_numbers_that_disagree_are_refused(name: str, off: mpmath.mpf) -> None:
    right = differentiate(PAPER)
    lemma = right.gradients[name]
    *before, last = lemma.steps
    wrong = copy.copy(last)
    object.__setattr__(wrong, "after", last.after + sp.Rational(str(off)))
    gradients = {**right.gradients, name: Lemma(lemma.name, lemma.subject, (*before, wrong))}
    assert len(table_of(right, {"temperature": 1.0})) == 9
    with pytest.raises(StepError, match=f"gradient of L in {name}: component 1 at the example"):
        table_of(dataclasses.replace(right, gradients=gradients), {"temperature": 1.0})


@pytest.mark.parametrize("name", ["x", "x_pos", "x_neg"])
def test_numbers_of_normalized_embeddings_that_disagree_are_refused(name: str) -> None:
    wrong = with_lemma(differentiate(NORMALIZED[0]), "raw gradient", name)
    with pytest.raises(StepError, match=f"gradient of L in {name}, .*: component 1 at the example"):
        table_of(wrong, {"temperature": 1.0})


@pytest.mark.parametrize("value", [0.5, 123456.789, 1e-12, 2.5e-7, 1e20])
def test_the_document_states_the_value_of_a_parameter_exactly_and_as_mathematics(value: float) -> None:
    text = generate(differentiate(PAPER), "latex", parameters={"temperature": value}).files[0].text
    (shown,) = re.findall(r"\$T = ([^$]*)\$, +the formulas above", text)
    assert not re.search(r"\de", shown), "an e in mathematics is a variable"
    number = re.sub(r"\s*\\cdot\s*10\^\{(-?\d+)\}", r"e\1", shown)
    number = re.sub(r"^10\^\{(-?\d+)\}", r"1e\1", number)
    assert float(number) == value


def test_the_counterexamples_of_the_erratum() -> None:
    with mpmath.workdps(1000):
        far = 2 * mpmath.exp(-2000) / (1 + mpmath.exp(-1000)) ** 2
        near = 2 / (1 + mpmath.exp(mpmath.mpf("1e-3") - mpmath.mpf("1e-6"))) ** 2
    shown = re.fullmatch(r"([\d.]+) \\cdot 10\^\{(-\d+)\}", loss_at(PAPER, "1000", "2000"))
    assert shown
    digits = len(shown[1].replace(".", ""))
    assert digits >= 2
    assert mpmath.mpf(f"{shown[1]}e{shown[2]}") == mpmath.mpf(mpmath.nstr(far, digits))
    assert loss_at(PAPER, "1e-6", "1e-3") == mpmath.nstr(near, 4) == "0.4995"


UNIT, FAR = (1.0, 0.0, 0.0), (-2.0, 0.0, 0.0)  # a vector, and one on the opposite ray


@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_the_least_loss_on_unit_vectors_is_that_of_the_best_triplet(loss: Loss) -> None:
    for distance, farthest in (("l2", 2), ("l2-squared", 4)):
        objective = Objective(DISTANCES[distance], loss, normalize=True)
        assert farthest_units(differentiate(objective).distance) == farthest
        for values in ({}, {"temperature": 0.5, "margin": 4.5}):
            parameters = {p.name: values.get(p.name, p.default) for p in objective.parameters}
            shown = least_on_units(objective, sp.Integer(farthest), parameters)
            value = reference(objective, UNIT, UNIT, FAR, parameters).loss.value[0]
            assert (shown == "") == (value == 0)
            assert not shown or abs(read(shown) - value) <= mpmath.mpf("1e-3") * value


def test_the_floor_of_the_paper_on_unit_vectors_is_stated() -> None:
    assert "the loss is $0.02842$ at $T = 1$" in text_of(NORMALIZED[0])
    assert "as good as a triplet can be" not in text_of(NORMALIZED[1]), "there it is 0"


def test_the_largest_distance_is_that_of_opposite_units() -> None:
    fourth = Distance("fourth", "a power", "sum((x - y)**2)**2 / 2", "made up")
    assert farthest_units(differentiate(Objective(fourth, LOSSES["hinge"])).distance) == 2**4 // 2


def test_no_largest_distance_is_claimed_of_other_distances() -> None:
    for definition in (
        "sum((x - 2*y)**2)",
        "sum((x - y)**4)",
        "sum((x - y)**2) + sum((x - y)**4)",
        "1/sum((x - y)**2)",
    ):
        objective = Objective(Distance("other", "another", definition, "made up"), LOSSES["hinge"])
        assert farthest_units(differentiate(objective).distance) is None


@normalized
def test_what_is_said_of_opposite_embeddings_and_of_longer_ones(objective: Objective) -> None:
    parameters = {p.name: p.default for p in objective.parameters}
    beside, near = (0.25, 0.5, -1.25), (1.0, 0.5, 0.0)
    opposite = reference(objective, UNIT, FAR, beside, parameters).gradients["x_pos"].value
    assert all(abs(component) <= mpmath.mpf("1e-25") for component in opposite)
    once, thrice = (
        reference(objective, UNIT, tuple(c * b for b in beside), near, parameters).gradients["x_pos"].value
        for c in (1, 3)
    )
    assert any(once)
    with mpmath.workdps(DIGITS):
        assert all(abs(a - 3 * b) <= mpmath.mpf("1e-25") for a, b in zip(once, thrice, strict=True))


# ---------------------------------------------------------------- the contents

SECTIONS = (
    "Setting",
    "The distance",
    "The scalar loss",
    "The gradient",
    "Where there is no gradient",
    "How large it can be",
    "Second derivatives",
    "From symbols to code",
    "Numbers",
    "For users of Caffe",
)
ALWAYS = (
    "Kronecker delta",
    r"\delta_{ik}$ is 1 for $i = k$ and 0 otherwise",
    "for embeddings of any length~$n$",
    r"\begin{theorem}",
    r"\begin{corollary}",
    "the mean of the losses of $B$ triplets",
    r"\frac{\partial^2 d}{\partial y_k\,\partial y_l}",
    r"\frac{\partial^2 L}{\partial x^{+}_k\,\partial x^{-}_l}",
    "central differences of the \\emph{definition}",
    "softmax-mse} solid",
    r"\begin{tikzpicture}",
)
OF_PAIRS = (r"\section{Squared or not}", "May one cancel the 2s?")
OF_RAW = ("The gradient vanishes", "Moving all three points together")
OF_NORMALIZED = (
    r"\section{Through the normalization}",
    r"\hat{x}_{k} = \frac{x_{k}}{\lVert x \rVert}",
    r"put $d_{+} = d(\hat{x}, \hat{x}^{+})$",
    r"\frac{\partial \hat{x}_{l}}{\partial x_{k}}",
    r"At $x = 0,\ x^{+} = 0 \text{ or } x^{-} = 0$",
    "The loss jumps",
    "A zero vector has no direction",
    "the generated code takes $0$",
    "Each gradient is orthogonal to its embedding",
    r"\frac{\partial^2 L}{\partial \hat{x}^{+}_k\,\partial \hat{x}^{-}_l}",
    r"\texttt{inverse\_x} & $\lVert x \rVert^{-1}$",
    r"\langle g, \hat{x} \rangle",
)
OF_UNITS_BY_CHOICE = (r"\\ of normalized embeddings}", "It moves around the origin")
BY_NAME = {
    "l2": (
        "At $x = x^{+}$",
        "At $x = x^{-}$",
        "the closed unit ball",
        "Fr\\'echet subdifferential is empty",
        "element of Clarke's",
        "element of least norm is $0$",
        "convex} kink",
        "concave} kink",
    ),
    "l2-squared": ("its gradient is defined everywhere",),
    "l2-smooth": (r"$\epsilon$ is the \emph{epsilon}", r"{d_{+} + \epsilon}"),
    "l1": (
        r"At $x_{k} = x^{+}_{k} \text{ for } \text{some } k$",
        r"At $x_{k} = x^{-}_{k} \text{ for } \text{some } k$",
        "its subdifferential is [-1, 1]",
        "convex} kink",
        "concave} kink",
        r"\operatorname{sign}",
    ),
    "lp": ("At $x = x^{+}$", "Here $p$ is a number of at least 1", "convex} kink", "concave} kink"),
    "linf": (
        "Danskin's theorem",
        r"For $x \neq y$, $|x_{k} - y_{k}| $ is largest$ \text{ for } \text{one } k$",
        r"At $|x_{k} - x^{+}_{k}| $ is largest$ \text{ for } \text{several } k$",
        r"does not take $0$: the mean of the derivatives of the largest components is taken",
        r"$\mathbf{1}_{a = b}$ is 1 for $a = b$ and 0 otherwise",
        r"\max_{j} \left|x_{j} - y_{j}\right|",
        r"\mathbf{1}_{\left|x_{k} - y_{k}\right| = d}",
    ),
    "cosine": ("The loss depends on their directions only", "Where both arguments are unit vectors, $d(x, y) = "),
    "softmax-mse": (
        "An erratum to the paper",
        "$(d_{+}, d_{-}) = (1000, 2000)$",
        "$(10^{-6}, 10^{-3})$",
        "0.4995",
        "A factor of 2",
        "the mean over the two outputs",
        r"\texttt{EuclideanLoss} halves the sum",
        "quotient rule",
        r"Does the output of \texttt{Softmax} go to \texttt{EuclideanLoss}? Yes",
        "the constant target $(0, 1)$",
        "The order of the columns matters",
        r"\frac{16}{27\,T}",
        "arXiv:1412.6622",
    ),
    "softmax-nll": (
        "SoftmaxWithLoss",
        r"Does the output of \texttt{Softmax} go to \texttt{EuclideanLoss}?",
        "quotient rule",
        "arXiv:1703.07737",
    ),
    "hinge": (
        "Why 0 on the kink of the hinge",
        "the subdifferential is the interval $[0, 1]$",
        r"\texttt{ReLU}",
        "arXiv:1503.03832",
    ),
}


def lacking(text: str, objective: Objective) -> list[str]:
    wanted = [rf"\section{{{title}}}" for title in SECTIONS]
    wanted += [*ALWAYS, *BY_NAME[objective.distance.name], *BY_NAME[objective.loss.name]]
    # one that is called like its symbol is that
    wanted += [rf"\emph{{{p.name}}}" if len(p.name) > 1 else f"Here ${p.name}$" for p in objective.parameters]
    wanted += OF_PAIRS if objective.distance.name in ("l2", "l2-squared") else ()
    wanted += OF_NORMALIZED if objective.of_units else OF_RAW
    wanted += OF_UNITS_BY_CHOICE if objective.normalize else ()
    if objective.normalize:
        wanted = [re.sub(r"At \$x = x\^(\{.\})\$", r"At $\\hat{x} = \\hat{x}^\1$", phrase) for phrase in wanted]
    return [phrase for phrase in wanted if phrase not in text]


@objectives
def test_the_document_has_all_that_it_promises(objective: Objective) -> None:
    text = text_of(objective)
    assert lacking(text, objective) == []
    assert text.count(r"\boxed{") == 3
    assert [text.index(rf"\section{{{title}}}") for title in SECTIONS] == sorted(
        text.index(rf"\section{{{title}}}") for title in SECTIONS
    )


def test_a_part_that_is_lost_is_missed() -> None:
    text = text_of(PAPER)
    for lost in (r"\section{Squared or not}", "0.4995", "the closed unit ball"):
        assert lost in lacking(text.replace(lost, ""), PAPER)


@pytest.mark.parametrize("normalize", [False, True])
def test_the_points_of_a_kink_are_mathematics(normalize: bool) -> None:
    derivation = differentiate(Objective(DISTANCES["l2"], LOSSES["hinge"], normalize))
    shown = [where(kink) for kink in derivation.kinks]
    pair, zero = r"{0} = {0}^{{{1}}}", r"x = 0,\ x^{+} = 0 \text{ or } x^{-} = 0"
    vector = r"\hat{x}" if normalize else "x"
    assert shown == [*(pair.format(vector, sign) for sign in "+-"), "d_{+} + m - d_{-} = 0", *[zero] * normalize]


@objectives
def test_remarks_stand_only_where_they_belong(objective: Objective) -> None:
    text = text_of(objective)
    assert ("erratum" in text) == (objective.loss.name == "softmax-mse")
    assert ("closed unit ball" in text) == (objective.distance.name == "l2")
    assert ("kink of the hinge" in text) == (objective.loss.name == "hinge")


@pytest.mark.parametrize(("norm", "loss", "decided"), [("l2", "hinge", True), ("lp", "softmax-mse", False)])
def test_the_abstract_says_whether_all_was_decided_symbolically(norm: str, loss: str, decided: bool) -> None:
    objective = Objective(DISTANCES[norm], LOSSES[loss])
    assert all(step.symbolic for step in proof_of(objective).steps) is decided
    assert ("and symbolically where possible." in text_of(objective)) is not decided


@pytest.mark.parametrize(("formula", "does"), [("d_pos - d_neg", True), ("d_pos**2 - d_neg", False)])
def test_the_anchor_is_said_to_cancel_only_where_it_does(formula: str, does: bool) -> None:
    text = text_of(Objective(DISTANCES["l2"], own_loss(formula, name="own")))
    assert ("the anchor itself cancels" in text) is does


def test_nothing_is_added_to_0_by_the_quotient_rule() -> None:
    quotients = [chain for name, chain in proof_of(PAPER).chains.items() if name.startswith("quotient ")]
    assert len(quotients) == 2
    assert not [piece for chain in quotients for line in chain for piece in line.right if re.search(r"\b0\b", piece)]


@pytest.mark.parametrize(
    "objective",
    [o for o in OBJECTIVES if o.distance.name.startswith("l2") and not o.distance.parameters],
    ids=lambda objective: objective.stem,
)
def test_the_gradients_of_both_norms_stand_side_by_side(objective: Objective) -> None:
    other = next(distance for distance in DISTANCES.values() if distance is not objective.distance)
    companion = differentiate(dataclasses.replace(objective, distance=other))
    comparison = text_of(objective).partition(r"\section{Squared or not}")[2].partition(r"\section")[0]
    for derivation in (differentiate(objective), companion):
        for lemma in derivation.gradients.values():
            assert rf"$\displaystyle {hats(objective, to_latex(lemma.result))}$" in comparison


@objectives
def test_the_dictionary_has_every_name_of_the_kernel_with_its_value(objective: Objective) -> None:
    kernel: RowKernel = lower(differentiate(objective))
    entries = (*kernel.components, *kernel.reductions, *kernel.scalars, *kernel.maps)
    names = [entry.name for entry in entries]
    rows = proof_of(objective).dictionary
    order = [row[0].replace(r"\_", "_") for row in rows]
    assert sorted(order) == sorted(names)
    for entry in entries:
        value = entry.term if isinstance(entry, Reduction) else entry.value
        before = {symbol.name for symbol in value.free_symbols} & set(names)
        assert all(order.index(name) < order.index(entry.name) for name in before), entry.name
    assert {"grad_x", "grad_x_pos", "grad_x_neg", "loss"} <= set(names)
    text = text_of(objective)
    for name, symbol, value in rows:
        assert rf"\texttt{{{name}}} & ${symbol}$ & $\displaystyle {value}$" in text


@pytest.mark.parametrize(
    ("norm", "loss", "layers"),
    [
        ("l2-squared", "hinge", "Eltwise and Reduction with SUMSQ for each distance"),
        (
            "l2-smooth",
            "hinge",
            "Eltwise, Reduction with SUMSQ, Power with exponent 0.5 and shift 0.0001 and Power with shift -0.01 for",
        ),
        ("linf", "hinge", "Eltwise, AbsVal, Reshape, Pooling with MAX and Reshape for each distance"),
        ("cosine", "softmax-mse", "takes Eltwise, Reduction with SUMSQ and Power with factor 0.5; "),
    ],
)
def test_the_layers_of_a_distance_are_told(norm: str, loss: str, layers: str) -> None:
    text = text_of(Objective(DISTANCES[norm], LOSSES[loss]))
    assert layers in re.sub(r"\\texttt\{(\w+)\}|\$", r"\1", text)


@pytest.mark.parametrize("norm", ["l2", "cosine"])
def test_an_inner_product_is_the_sum_that_it_is_called(norm: str) -> None:
    rows = proof_of(Objective(DISTANCES[norm], LOSSES["softmax-mse"], normalize=norm == "l2")).dictionary
    named = [(re.fullmatch(r"\\langle (.*), (\w) \\rangle", symbol), value) for _, symbol, value in rows]
    found = [(*called.groups(), value) for called, value in named if called]
    assert len(found) >= 3
    for unit, other, value in found:
        factors = (rf"{unit}_{{k}}", other)
        assert value in {rf"\sum_{{k=1}}^{{n}} {a}\,{b}" for a, b in itertools.permutations(factors)}


@objectives
def test_the_document_says_how_it_was_made_and_not_when(objective: Objective) -> None:
    text = text_of(objective)
    command = document(objective).command.replace("--", "-{}-")
    assert rf"with SymPy {sp.__version__}: \texttt{{{command}}}." in text
    assert r"\date{}" in text
    assert not re.search(r"\\today|\b20\d\d-\d\d-\d\d\b", text)


@objectives
def test_the_document_is_the_same_when_it_is_made_again(objective: Objective) -> None:
    derivation = differentiate(objective)
    prove.cache_clear()
    settings = document(objective).settings
    assert LatexTarget().generate(derivation, lower(derivation), settings).files == document(objective).files


# ---------------------------------------------------------------- a distance of one's own

SCALE = Parameter("unit_scale", 2.0, "positive", "the unit of the distance")
BIAS = Parameter("bias", 0.5, "nonnegative", "what is added")
WIDE = Distance(
    "wide",
    "a sum of many terms",
    "sum((x - y)**2/unit_scale + bias*(x - y)**4 + (x - 2*y)**6/unit_scale**2 + bias**2*x**2*y**2)",
    "made up",
    (SCALE, BIAS),
)


def test_a_result_that_is_broken_is_stated_whole() -> None:
    objective = Objective(WIDE, LOSSES["softmax-mse"])
    proof, text = proof_of(objective), text_of(objective)
    last = proof.chains["distance x"][-1]
    assert len(last.right) > 1, "not wide enough for this test"
    lemma = text.partition(r"\label{distance}")[2].partition(r"\end{lemma}")[0]
    assert all(piece in lemma for piece in last.right)


def test_each_of_several_parameters_has_a_sentence_of_its_own() -> None:
    text = text_of(Objective(WIDE, LOSSES["softmax-mse"]))
    setting = text.partition("Here ")[2].partition("The loss is that of")[0]
    for parameter in (SCALE, BIAS, LOSSES["softmax-mse"].parameters[0]):
        assert re.search(rf"{parameter.meaning}\s?[.;,]", setting), setting


def test_a_distance_whose_slope_is_not_written_in_the_distance_has_a_proof() -> None:
    # d of the sum is no power, so that the coefficient of its gradient is written in the sum
    smooth = Distance("smooth", "smooth at 0", "sqrt(1 + sum((x - y)**2)) + log(1 + sum((x - y)**2))", "made up")
    assert verify(document(Objective(smooth, LOSSES["softmax-mse"]))).passed


def test_slopes_have_their_own_chain() -> None:
    assert {f"slope {d_pos}", f"slope {d_neg}"} <= set(proof_of(PAPER).chains)
