"""Derivation -> document: what a proof shows, as equations that are checked steps and numbers computed here.

The words that connect them stand in the template of the target `latex`; a formula never does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache
from typing import TypeVar

import sympy as sp

from . import symbols
from .catalogue import DISTANCES, PAIRS, Distance, Objective
from .dictionary import dictionary_of
from .differentiate import Derivation, differentiate
from .functions import IN_PIECES, Node, attains
from .functions import step as step_function
from .kernel import RowKernel
from .latex import (
    EMBEDDINGS,
    UNITS,
    WIDE,
    aligned,
    broken,
    escape,
    partial,
    second_partial,
    to_latex,
    width,
)
from .lemmas import DistanceDerivation, LossDerivation, abbreviated, times
from .normalization import at_units, setting_at_units, stated_at_units
from .properties import Bound, Kink
from .second import SecondDerivation, differentiate_twice
from .stabilise import RULES
from .steps import Chain, Lemma, Setting, Step
from .symbols import d_pos, definition_of, i, k, n
from .table import Row, table_of

K = TypeVar("K")


@dataclass(frozen=True)
class Line:
    """One displayed equality: `left` is empty where it continues the line above.

    right: the right-hand side, in as many pieces as it has to be broken into.
    wide: whether a piece leaves no room for the reason beside it.
    """

    left: str
    right: tuple[str, ...]
    rule: str
    reason: str
    step: Step
    wide: bool


@dataclass(frozen=True)
class Proof:
    """All that the template shows. Formulas are LaTeX for use inside mathematics.

    chains: the lemmas as displays, by name.
    formulas: single expressions, by name.
    companion: the same loss on the distance squared, or not squared.
    dictionary: the names in the generated code, what the document calls them, and their values.
    """

    derivation: Derivation
    second: SecondDerivation
    chains: Mapping[str, tuple[Line, ...]]
    formulas: Mapping[str, str]
    abbreviations: tuple[str, ...]
    companion: Derivation | None
    companion_formulas: Mapping[str, str]
    dictionary: tuple[tuple[str, str, str], ...]
    table: tuple[Row, ...]

    def __post_init__(self) -> None:
        for step in self.steps:  # once more: what is displayed is what holds, wherever the derivation came from
            step.check()

    @property
    def notation(self) -> tuple[tuple[str, str], ...]:
        """The functions that a display uses, each with its definition, but for those which take words."""
        kinds = sorted(self._functions - {step_function, *IN_PIECES}, key=lambda kind: kind.__name__)
        named = [kind(*map(_variable, kind.variables)) for kind in kinds]
        shown = ((to_latex(node), to_latex(node.definition())) for node in named)
        return tuple((name, definition) for name, definition in shown if name != definition)

    @property
    def indicators(self) -> tuple[str, ...]:
        """The conditions of the indicator functions that a display uses, in variables of their own."""
        conditions = {step_function: "z > 0", attains: "a = b"}
        return tuple(condition for kind, condition in conditions.items() if kind in self._functions)

    @property
    def _functions(self) -> set[type[Node]]:
        return {type(node) for step in self.steps for side in (step.before, step.after) for node in side.atoms(Node)}

    @property
    def all_symbolic(self) -> bool:
        """Whether SymPy could decide every displayed equality."""
        return not any(step.numeric for step in self.steps) and all(step.symbolic for step in self.steps)

    @property
    def steps(self) -> tuple[Step, ...]:
        """Every displayed equality."""
        return tuple(line.step for chain in self.chains.values() for line in chain)


def _variable(name: str) -> sp.Symbol:
    return sp.Symbol(name.replace("t", "z"), real=True)


@cache
def prove(derivation: Derivation, kernel: RowKernel, parameters: tuple[tuple[str, float], ...]) -> Proof:
    """The proof of a derivation, with its numbers at `parameters`.

    Raises `StepError` if any displayed equality is wrong.
    """
    second = differentiate_twice(derivation)
    companion = _companion(derivation.objective)
    return Proof(
        derivation,
        second,
        _chains(derivation, second, companion),
        _formulas(derivation),
        tuple(symbol.name for symbol in derivation.loss.used),
        companion,
        _formulas(companion) if companion else {},
        dictionary_of(kernel),
        table_of(derivation, dict(parameters)),
    )


def _companion(objective: Objective) -> Derivation | None:
    """The same loss on the distance that is this one squared, or of which this one is the square."""
    name = objective.distance.name
    other = name.removesuffix("-squared") if name.endswith("-squared") else f"{name}-squared"
    return differentiate(replace(objective, distance=DISTANCES[other], like="")) if other in DISTANCES else None


def entering(derivation: Derivation) -> Mapping[str, str]:
    """What a display calls the vectors that the distances are taken of: the embeddings, or their unit vectors."""
    return UNITS if derivation.normalization else EMBEDDINGS


# ---------------------------------------------------------------- equations


def _chains(
    derivation: Derivation, second: SecondDerivation, companion: Derivation | None
) -> dict[str, tuple[Line, ...]]:
    distance, loss = derivation.distance, derivation.loss

    def lines(lemma: Lemma, left: str, chain: str = "") -> tuple[Line, ...]:
        named = names_in(chain, derivation)
        sides = [left, *[""] * len(lemma.steps)]
        return tuple(_line(step, side, named) for step, side in zip(lemma.steps, sides, strict=False))

    chains = {f"distance {v}": lines(distance.gradients[v], partial("d", f"{v}_k")) for v in "xy"}
    chains["length"] = lines(distance.gradient_norm, _LENGTH)
    for name, lemma in quotient_lemmas(loss).items():
        chains[f"quotient {name}"] = lines(lemma, partial(to_latex(name), "d_{+}"))
    chains["stable"] = lines(loss.value, to_latex(loss.definition))
    for which, lemma in loss.slopes.items():
        chains[f"slope {which}"] = lines(lemma, partial("L", to_latex(which)))
    vectors = entering(derivation)
    for name, lemma in _at_vectors(derivation, derivation.gradients).items():
        chains[f"gradient {name}"] = lines(lemma, partial("L", f"{vectors[name]}_k"))
    if derivation.normalization:
        if directions := derivation.normalization.distance:
            chains[_DIRECTIONS] = lines(directions, "d(x, x^{+})", _DIRECTIONS)
        chains["unit"] = lines(derivation.normalization.unit, partial(f"{UNITS['x']}_l", "x_k"))
        for name, lemma in derivation.normalization.gradients.items():
            chains[f"raw gradient {name}"] = lines(lemma, partial("L", f"{EMBEDDINGS[name]}_k"))
    for pair, lemma in second.distance.items():
        chains[f"curvature {pair}"] = lines(lemma, second_partial("d", f"{pair[0]}_k", f"{pair[1]}_l"))
    for (a, b), lemma in second.loss.items():
        chains[f"curvature {a} {b}"] = lines(lemma, second_partial("L", to_latex(a), to_latex(b)))
    for kind, blocks, of in (
        ("block", _at_vectors(derivation, second.blocks), vectors),
        ("raw block", second.raw, EMBEDDINGS),
    ):
        for (first, then), lemma in blocks.items():
            left = second_partial("L", f"{of[first]}_k", f"{of[then]}_l")
            chains[f"{kind} {first} {then}"] = lines(lemma, left)
    if companion:
        roots = [one for one in (distance, companion.distance) if not one.distance.name.endswith("-squared")]
        cancelled = _cancelled(roots[0])
        chains["cancelled"] = lines(cancelled, to_latex(cancelled.subject))
    return chains


def _at_vectors(derivation: Derivation, lemmas: Mapping[K, Lemma]) -> Mapping[K, Lemma]:
    """Lemmas on the vectors that the distances are taken of, by the names that a display calls these."""
    if not derivation.normalization:
        return lemmas
    setting = setting_at_units(derivation.setting)
    return {key: stated_at_units(lemma, setting) for key, lemma in lemmas.items()}


def _cancelled(distance: DistanceDerivation) -> Lemma:
    """Where the factor of a root meets that of a square, with the distance written out."""
    *_, delta, last = distance.gradients["x"].steps
    chain = Chain("the factors 2", distance.gradients["x"].subject, last.setting)
    chain.then("Kronecker delta", delta.after, "a single term of the sum is left")
    return chain.then("cancel", last.setting.spell_out(last.after), "one factor above, one below").qed()


_DIRECTIONS = "directions"


def names_in(chain: str, derivation: Derivation) -> dict[sp.Expr, str]:
    """What a chain of this name writes instead of an expression; one shows the distances themselves."""
    return {} if chain == _DIRECTIONS else distances_by_name(derivation)


def distances_by_name(derivation: Derivation) -> dict[sp.Expr, str]:
    """What a display writes instead of the distances."""
    setting = setting_at_units(derivation.setting) if derivation.normalization else derivation.setting
    return {setting.abbreviations[which]: to_latex(which) for which in derivation.loss.slopes}


def _line(step: Step, left: str, named: Mapping[sp.Expr, str]) -> Line:
    pieces = broken(step.after, named)
    wide = max(map(width, pieces)) > WIDE
    return Line(left, pieces, escape(step.rule), escape(step.reason), step, wide)


@cache
def quotient_lemmas(loss: LossDerivation) -> Mapping[sp.Symbol, Lemma]:
    """For each name in the definition of a loss that is a quotient, its derivative in d_pos by the quotient rule."""
    parameters = tuple(symbols.parameter(p) for p in loss.loss.parameters)
    setting = Setting((), (*loss.slopes, *parameters), loss.abbreviations)
    fractions = {name: value.as_numer_denom() for name, value in loss.introduced.items()}
    return {
        name: _by_quotient_rule(name, above, below, setting)
        for name, (above, below) in fractions.items()
        if below.has(d_pos)
    }


def _by_quotient_rule(name: sp.Symbol, above: sp.Expr, below: sp.Expr, setting: Setting) -> Lemma:
    chain = Chain(f"slope of {name} in d_pos", sp.Derivative(above / below, d_pos), setting)
    first, second = sp.diff(above, d_pos), sp.diff(below, d_pos)
    crossed = sp.Mul(-1, above, second, evaluate=False)
    if first != 0:
        crossed = sp.Add(times(below, first), crossed, evaluate=False)
    chain.then("quotient rule", sp.Mul(crossed, below**-2, evaluate=False), "the derivative of a quotient")
    chain.then("collect", sp.factor(sp.together(chain.reached.doit())), "equal terms cancel")
    stable = chain.reached
    for rule in RULES:
        stable = rule.apply(stable)
    chain.then("softmax is a sigmoid", abbreviated(stable, setting.abbreviations), "name the two outputs")
    return chain.qed()


_LENGTH = rf"\sum_{{k=1}}^{{n}} \left({partial('d', 'x_k')}\right)^{{2}}"


def _formulas(derivation: Derivation) -> dict[str, str]:
    distance, loss = derivation.distance, derivation.loss
    gradients = {name: lemma.result for name, lemma in derivation.gradients.items()}
    if derivation.normalization:
        gradients = {name: at_units(gradient) for name, gradient in gradients.items()}
    formulas = {
        "distance": to_latex(distance.value),
        "definition of the distance": to_latex(definition_of(distance.distance, symbols.x, symbols.y)),
        "loss": to_latex(loss.definition),
        "stable": to_latex(loss.value.result),
        **{f"define {name}": to_latex(value) for name, value in loss.introduced.items()},
        **{f"slope {which}": to_latex(lemma.result) for which, lemma in loss.slopes.items()},
        **{f"gradient {name}": to_latex(gradient) for name, gradient in gradients.items()},
        "length of the gradient": _LENGTH,
        "length": to_latex(distance.gradient_norm.result),
    }
    rows = sp.Symbol("B", positive=True)
    for name, lemma in derivation.outcome.gradients.items():
        formulas[f"mean {name}"] = aligned(broken(times(1 / rows, lemma.result)))
    if normalization := derivation.normalization:
        for name, of in (("unit", symbols.UNITS["x"][k]), ("norm", symbols.NORMS["x"])):
            formulas[name] = to_latex(normalization.setting.abbreviations[of])
        for name, lemma in normalization.gradients.items():
            formulas[f"raw gradient {name}"] = to_latex(lemma.result)
    for symbol, meaning in loss.abbreviations.items():
        formulas[symbol.name] = to_latex(meaning)
    return formulas


_BESIDE = 48  # the width of two formulas that fit beside each other, and beside a name


def side_by_side(proof: Proof) -> tuple[tuple[tuple[str, Mapping[str, str]], ...], ...]:
    """The formulas of both distances by name: in one group if they fit beside each other, otherwise in one each."""
    ours = (proof.derivation.objective.distance.name, proof.formulas)
    assert proof.companion is not None
    theirs = (proof.companion.objective.distance.name, proof.companion_formulas)
    gradients = [f"gradient {name}" for name in EMBEDDINGS]
    widest = sum(max(width(formulas[name]) for name in gradients) for _, formulas in (ours, theirs))
    return ((ours, theirs),) if widest <= _BESIDE else ((ours,), (theirs,))


def fit_beside(proof: Proof, *names: str) -> bool:
    """Whether formulas of these names fit beside each other, with what they are formulas of."""
    return sum(width(proof.formulas[name]) for name in names) <= _BESIDE


def anchor_cancels(proof: Proof) -> bool:
    """Whether the gradient in the anchor, on one of the distances compared, does not hold the anchor's component."""
    derivations = [derivation for derivation in (proof.derivation, proof.companion) if derivation]
    return any(not derivation.gradients["x"].result.has(symbols.x) for derivation in derivations)


# ---------------------------------------------------------------- words that hold a formula


def apart(distance: Distance, vectors: Mapping[str, str]) -> str:
    """Where a distance has a gradient, as LaTeX: not where it is singular; `vectors` are what to call x and y."""
    words = {**_with_components(vectors), "some": r"\text{all }", "several": r"\text{one }"}
    return "$, $".join(_named(of.where, words).replace("=", r"\neq") for of in distance.singularities)


def where(kink: Kink) -> str:
    """The points of a kink as LaTeX."""
    if kink.locus is not None:
        return f"{to_latex(kink.locus)} = 0"
    vectors = {**EMBEDDINGS, **{f"unit_{name}": latex for name, latex in UNITS.items()}}
    scalars = {name: to_latex(sp.Symbol(name)) for name in (*PAIRS, "margin", "temperature")}
    several = {word: rf"\text{{{word} }}" for word in ("some", "several")}
    words = {**_with_components(vectors), **scalars, "or": r"\text{ or }", **several}
    return _named(kink.where, words).replace(", ", r",\ ")


def _with_components(vectors: Mapping[str, str]) -> dict[str, str]:
    """The names of vectors and of their k-th components, and the words between a component and its k, as LaTeX."""
    words = {"largest": "$ is largest$", "for": r"\text{ for }"}
    return {**vectors, **{f"{v}_k": f"{latex}_{{k}}" for v, latex in vectors.items()}, **words}


def _named(text: str, words: Mapping[str, str]) -> str:
    """`text` with words by what they are called in a document."""
    named = re.sub(r"\w+", lambda word: words.get(word[0], word[0]), text)
    return re.sub(r"\b1e-(\d+)\b", r"10^{-\1}", named)


def farthest_units(distance: DistanceDerivation) -> sp.Expr | None:
    """The largest distance of two unit vectors, where the distance is a power of the Euclidean one, or a multiple.

    By the triangle inequality they are at most 2 apart, and opposite ones are.
    """
    factor, power = distance.value.as_coeff_Mul()
    base, exponent = power.as_base_exp()
    euclidean = sp.Sum((symbols.x[i] - symbols.y[i]) ** 2, (i, 1, n))
    return factor * sp.Integer(4) ** exponent if base == euclidean and exponent.is_positive else None


def bounded(bound: Bound) -> str:
    """A bound as LaTeX."""
    of = EMBEDDINGS.get(bound.variable)
    quantity = rf"\norm{{\nabla_{{{of}}} L}}" if of else rf"\left| {partial('L', 'd_{+}')} \right|"
    return rf"{quantity} \le {to_latex(bound.limit)}"


def approached(bound: Bound) -> str:
    """Where a bound is attained or approached."""
    if bound.s is None:
        return "attained wherever the loss is active"
    value = f"{bound.s}"
    return f"attained at $s = {value}$" if bound.is_attained else rf"approached as $s \to {value}$"
