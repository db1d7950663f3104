"""Derivations against closed forms written by hand, and everything else that a derivation claims."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping
from dataclasses import replace
from functools import cache
from itertools import product
from typing import Any

import mpmath
import pytest
import sympy as sp
from objectives import EVERY, OF_UNITS, Vector, closed_distance, code_of, length

from derive_triplet.derive import lemmas, symbols
from derive_triplet.derive.catalogue import DISTANCES, LOSSES, Distance, Loss, Objective, Parameter, Singularity
from derive_triplet.derive.differentiate import Derivation, differentiate
from derive_triplet.derive.errors import StepError
from derive_triplet.derive.evaluate import Point, evaluate
from derive_triplet.derive.functions import attains, sigmoid
from derive_triplet.derive.highprecision import loss_value
from derive_triplet.derive.reductions import Maximum
from derive_triplet.derive.stabilise import Rule
from derive_triplet.derive.symbols import EMBEDDINGS, d_neg, d_pos, k, n, parameter

PAIRS = list(
    product(
        ["l2", "l2-squared", "l2-smooth", "l1", "lp", "linf", "cosine"],
        ["softmax-mse", "softmax-nll", "hinge"],
    )
)
pairs = pytest.mark.parametrize(("norm", "loss"), PAIRS)
invariant_pairs = pytest.mark.parametrize(("norm", "loss"), [pair for pair in PAIRS if pair[0] not in OF_UNITS])
TOLERANCE = mpmath.mpf(10) ** -50


@cache
def derived(norm: str, loss: str) -> Derivation:
    return differentiate(Objective(DISTANCES[norm], LOSSES[loss]))


# ---------------------------------------------------------------- closed forms, by hand


def slope(loss: str, delta: Any, temperature: Any, margin: Any) -> Any:
    """phi'(delta) of the design's table, for distances that are divided by the temperature."""
    s, q = 1 / (1 + mpmath.exp(-delta / temperature)), 1 / (1 + mpmath.exp(delta / temperature))
    return {
        "softmax-mse": 4 * s**2 * q / temperature,
        "softmax-nll": s / temperature,
        "hinge": mpmath.mpf(delta + margin > 0),
    }[loss]


def closed_form(
    norm: str, loss: str, vectors: Mapping[str, Vector], temperature: Any, margin: Any, epsilon: Any = None
) -> dict[str, Vector]:
    d_pos, toward, of_pos = closed_distance(norm, vectors["x"], vectors["x_pos"], epsilon)
    d_neg, away, of_neg = closed_distance(norm, vectors["x"], vectors["x_neg"], epsilon)
    rate = slope(loss, d_pos - d_neg, temperature, margin)
    return {
        "x": [rate * (a - b) for a, b in zip(toward, away, strict=True)],
        "x_pos": [rate * a for a in of_pos],
        "x_neg": [-rate * b for b in of_neg],
    }


def points(derivation: Derivation, seed: int = 20, count: int = 4) -> list[Point]:
    """Points that the derivation's own checks have not seen, with parameters of their own."""
    source = random.Random(seed)

    def number(low: int, high: int) -> Any:
        return mpmath.mpf(source.randrange(low * 10**60, high * 10**60)) / 10**60

    made = []
    for dimension in range(1, count + 1):
        vectors = {name: tuple(number(-2, 2) for _ in range(dimension)) for name in EMBEDDINGS}
        scalars = {
            symbols.parameter(p): number(0, 1) / 2 + mpmath.mpf(p.default) / 8 for p in derivation.objective.parameters
        }
        made.append(Point(dimension, vectors, scalars, derivation.outcome.setting.abbreviations))
    return made


def values_of(derivation: Derivation, point: Point) -> tuple[Any, Any]:
    """Temperature and margin at a point; 1 where the loss has none."""
    by_name = {symbol.name: value for symbol, value in point.scalars.items()}
    return by_name.get("temperature", mpmath.mpf(1)), by_name.get("margin", mpmath.mpf(1))


def epsilon_of(point: Point) -> Any:
    return next((value for symbol, value in point.scalars.items() if symbol.name in ("epsilon", "p")), None)


def gradients(derivation: Derivation, point: Point) -> dict[str, Vector]:
    def component(result: sp.Expr, index: int) -> Any:
        return evaluate(result, point.bind(k, mpmath.mpf(index + 1)))

    return {
        name: [component(lemma.result, index) for index in range(point.dimension)]
        for name, lemma in derivation.outcome.gradients.items()
    }


def agree(found: Mapping[str, Vector], expected: Mapping[str, Vector]) -> bool:
    pairs_of_numbers = ((a, b) for name in EMBEDDINGS for a, b in zip(found[name], expected[name], strict=True))
    return all(abs(a - b) <= TOLERANCE * max(abs(b), mpmath.mpf(10) ** -3) for a, b in pairs_of_numbers)


def test_the_tests_cover_the_catalogue() -> None:
    # a new entry needs its closed form here
    assert set(PAIRS) == set(EVERY)


@pairs
def test_gradients_equal_the_closed_forms_at_50_digits(norm: str, loss: str) -> None:
    derivation = derived(norm, loss)
    with mpmath.workdps(70):
        for point in points(derivation):
            expected = closed_form(norm, loss, point.vectors, *values_of(derivation, point), epsilon_of(point))
            assert agree(gradients(derivation, point), expected)


@pairs
def test_terms_add_up_to_the_gradients(norm: str, loss: str) -> None:
    derivation = derived(norm, loss)
    with mpmath.workdps(70):
        for drawn in points(derivation, seed=21):
            point = replace(drawn, abbreviations=derivation.setting.abbreviations)  # of any vectors, not of units alone
            summed = {
                name: [
                    mpmath.fsum(
                        evaluate(term.coefficient * term.elementwise, point.bind(k, mpmath.mpf(index + 1)))
                        for term in terms
                    )
                    for index in range(point.dimension)
                ]
                for name, terms in derivation.terms.items()
            }
            inside = OF_UNITS.get(norm, norm)
            assert agree(
                summed, closed_form(inside, loss, point.vectors, *values_of(derivation, point), epsilon_of(point))
            )


@pytest.mark.parametrize("norm", ["l2", "l2-squared"])
def test_the_random_points_see_a_hinge_on_and_off(norm: str) -> None:
    derivation = derived(norm, "hinge")
    with mpmath.workdps(70):
        for tested in (points(derivation), list(derivation.setting.points())):
            assert {evaluate(derivation.loss.slopes[d_pos].result, point) for point in tested} == {0, 1}
        settings = [made.setting for made in derivation.loss.slopes[d_pos].steps]
        for setting in settings:
            z = derivation.loss.abbreviations[sp.Symbol("z", real=True)]
            assert {bool(evaluate(z, point) > 0) for point in setting.points()} == {True, False}


def test_the_comparison_with_closed_forms_sees_every_planted_error() -> None:
    derivation = derived("l2", "softmax-mse")
    with mpmath.workdps(70):
        point = points(derivation)[2]
        right = gradients(derivation, point)
        assert agree(
            right, closed_form("l2", "softmax-mse", point.vectors, *values_of(derivation, point), epsilon_of(point))
        )
        for wrong in (
            {**right, "x_pos": right["x_neg"], "x_neg": right["x_pos"]},
            {**right, "x": [-c for c in right["x"]]},
            {**right, "x_neg": [c / 2 for c in right["x_neg"]]},
            {**right, "x": [right["x"][0] * (1 + 2 * TOLERANCE), *right["x"][1:]]},
        ):
            assert not agree(
                wrong, closed_form("l2", "softmax-mse", point.vectors, *values_of(derivation, point), epsilon_of(point))
            )


@pairs
def test_the_stable_value_is_that_of_the_definition(norm: str, loss: str) -> None:
    derivation = derived(norm, loss)
    with mpmath.workdps(70):
        for point in points(derivation, seed=22):
            parameters = {symbol.name: value for symbol, value in point.scalars.items()}
            expected = loss_value(LOSSES[loss], evaluate(d_pos, point), evaluate(d_neg, point), parameters)
            assert mpmath.almosteq(evaluate(derivation.loss.value.result, point), expected, TOLERANCE)


# ---------------------------------------------------------------- steps


@pairs
def test_every_step_is_decided_symbolically_and_explained(norm: str, loss: str) -> None:
    for step in derived(norm, loss).steps:
        assert step.symbolic or norm in (*OF_UNITS, "lp"), step
        assert step.rule
        assert step.reason
        assert step.before != step.after


@pairs
def test_lemmas_lead_from_derivatives_of_the_definition_to_the_gradients(norm: str, loss: str) -> None:
    derivation = derived(norm, loss)
    assert derivation.loss.value.subject == derivation.loss.definition == symbols.loss_of(LOSSES[loss])[0]
    for name, lemma in derivation.gradients.items():
        assert isinstance(lemma.subject, sp.Derivative)
        assert lemma.subject.variables == (EMBEDDINGS[name][k],)
        assert lemma.steps
        counts = {total for total in lemma.result.atoms(sp.Sum) if isinstance(total.function, attains)}
        assert bool(counts) is (norm == "linf")  # a sum that is no derivative of one
        assert not lemma.result.xreplace(dict.fromkeys(counts, sp.S.One)).has(sp.Derivative, sp.Sum, sp.KroneckerDelta)
    for name, lemma in derivation.distance.gradients.items():
        assert lemma.subject == sp.Derivative(
            symbols.distance_of(DISTANCES[norm], symbols.x, symbols.y), getattr(symbols, name)[k]
        )
    assert all(step in derivation.steps for lemma in derivation.lemmas for step in lemma.steps)


@pairs
def test_the_dimension_stays_a_symbol(norm: str, loss: str) -> None:
    derivation = derived(norm, loss)
    assert {limits[2] for total in derivation.distance.value.atoms(sp.Sum, Maximum) for limits in total.limits} == {n}


@pairs
def test_matrix_calculus_is_not_used(norm: str, loss: str) -> None:
    for step in derived(norm, loss).steps:
        for expr in (step.before, step.after):
            assert not any(isinstance(e, (sp.MatrixExpr, sp.MatrixBase, sp.Trace)) for e in sp.preorder_traversal(expr))


def test_matrix_calculus_would_have_been_silently_wrong() -> None:
    # when SymPy mends this, the warning in the design has had its day
    first, second = sp.MatrixSymbol("X", n, 1), sp.MatrixSymbol("Y", n, 1)
    assert ((first - second).T * (first - second))[0, 0].diff(first) == sp.ZeroMatrix(n, 1)


def fresh(norm: str, loss: str) -> Objective:
    """An objective that nothing has been remembered of."""
    return Objective(replace(DISTANCES[norm], title="planted"), replace(LOSSES[loss], title="planted"))


def test_a_wrong_rule_is_caught_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = Rule(
        "a wrong rule", "", lambda expr: expr.replace(lambda e: isinstance(e, sigmoid), lambda e: sigmoid(-e.args[0]))
    )
    monkeypatch.setattr(lemmas, "RULES", (*lemmas.RULES, wrong))
    with pytest.raises(StepError, match="'a wrong rule' is wrong"):
        differentiate(fresh("l2", "softmax-mse"))


def test_a_wrong_derivative_of_a_node_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sigmoid, "fdiff", lambda self, argindex=1: sigmoid(self.args[0]) ** 2)
    sp.core.cache.clear_cache()
    try:
        with pytest.raises(StepError, match="'chain rule' is wrong"):
            differentiate(fresh("l2", "softmax-mse"))
    finally:
        sp.core.cache.clear_cache()


@pytest.mark.parametrize("wrong", ["sign", "first component", "last component", "sum"])
def test_a_wrong_collapse_of_the_delta_is_caught(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    collapse = lemmas.collapse_deltas
    planted = {
        "sign": lambda expr: -collapse(expr),
        "first component": lambda expr: collapse(expr).subs(k, 1),
        "last component": lambda expr: collapse(expr).subs(k, symbols.n),
        "sum": lambda expr: expr.xreplace({sp.KroneckerDelta(symbols.i, k): sp.Integer(1)}),
    }
    monkeypatch.setattr(lemmas, "collapse_deltas", planted[wrong])
    with pytest.raises(StepError, match="'Kronecker delta' is wrong"):
        differentiate(fresh("l2-squared", "hinge"))


# ---------------------------------------------------------------- invariants and bounds


@invariant_pairs
def test_gradients_sum_to_zero_for_translation_invariant_distances(norm: str, loss: str) -> None:
    derivation = derived(norm, loss)
    assert derivation.distance.translation_invariant
    (total,) = derivation.invariants
    assert total.after == 0
    assert sp.expand(total.before - sp.Add(*(lemma.result for lemma in derivation.gradients.values()))) == 0
    with mpmath.workdps(70):
        for point in points(derivation, seed=23):
            for components in zip(*gradients(derivation, point).values(), strict=True):
                assert abs(mpmath.fsum(components)) <= TOLERANCE * max(map(abs, components))


@pytest.mark.parametrize("norm", OF_UNITS)
@pytest.mark.parametrize("loss", LOSSES)
def test_gradients_of_a_distance_of_directions_are_orthogonal_to_the_embeddings(norm: str, loss: str) -> None:
    derivation = derived(norm, loss)
    assert len(derivation.invariants) == 3
    with mpmath.workdps(70):
        for point in points(derivation, seed=23):
            for name, gradient in gradients(derivation, point).items():
                parts = [a * b for a, b in zip(gradient, point.vectors[name], strict=True)]
                assert abs(mpmath.fsum(parts)) <= TOLERANCE * max(map(abs, (*parts, 1)))


def test_a_distance_that_is_not_translation_invariant_is_not_said_to_be() -> None:
    inner = Distance("inner", "negative inner product", "-sum(x * y)", "made up")
    derivation = differentiate(Objective(inner, LOSSES["softmax-nll"]))
    assert not derivation.distance.translation_invariant
    assert not derivation.invariants
    with mpmath.workdps(70):
        for point in points(derivation, seed=24):
            x, x_pos, x_neg = (point.vectors[name] for name in EMBEDDINGS)
            delta = mpmath.fsum(a * (c - b) for a, b, c in zip(x, x_pos, x_neg, strict=True))
            rate = slope("softmax-nll", delta, *values_of(derivation, point))
            expected = {
                "x": [rate * (c - b) for b, c in zip(x_pos, x_neg, strict=True)],
                "x_pos": [-rate * a for a in x],
                "x_neg": [rate * a for a in x],
            }
            assert agree(gradients(derivation, point), expected)


def limits(norm: str, loss: str) -> dict[str, sp.Expr]:
    return {bound.quantity: bound.limit for bound in derived(norm, loss).bounds}


@pairs
def test_bounds_are_the_suprema_of_the_closed_forms(norm: str, loss: str) -> None:
    temperature = sp.Symbol("temperature", positive=True)
    largest = {
        # 4 s^2 (1 - s) has its maximum at s = 2/3
        "softmax-mse": sp.Rational(16, 27) / temperature,
        "softmax-nll": 1 / temperature,
        "hinge": sp.Integer(1),
    }[loss]
    assert limits(norm, loss)["|dL/dd_pos|"] == largest
    # the gradient of l2 has length 1; that of l2-squared has no bound
    assert limits(norm, loss).get("|dL/dx_pos|") == (largest if norm == "l2" else None)


@pytest.mark.parametrize("loss", ["softmax-mse", "softmax-nll", "hinge"])
def test_no_random_gradient_is_longer_than_the_bound(loss: str) -> None:
    derivation = derived("l2", loss)
    with mpmath.workdps(30):
        for point in points(derivation, seed=25, count=12):
            limit = evaluate(limits("l2", loss)["|dL/dx_pos|"], point)
            length = mpmath.sqrt(mpmath.fsum(c**2 for c in gradients(derivation, point)["x_pos"]))
            assert length <= limit * (1 + mpmath.mpf(10) ** -25)


@pytest.mark.parametrize(
    ("loss", "where"),
    [("softmax-mse", "at s = 2/3"), ("softmax-nll", "as s -> 1"), ("hinge", "wherever the loss is active")],
)
def test_it_is_told_where_a_bound_is_attained_or_approached(loss: str, where: str) -> None:
    bounds = derived("l2", loss).bounds
    assert {bound.approached for bound in bounds} == {where}
    assert all(bound.is_attained == (loss != "softmax-nll") for bound in bounds)


def test_the_bound_of_softmax_mse_is_attained_where_it_is_said_to_be() -> None:
    derivation = derived("l2", "softmax-mse")
    assert {bound.approached for bound in derivation.bounds} == {"at s = 2/3"}
    temperature = symbols.parameter(derivation.objective.parameters[0])
    with mpmath.workdps(70):
        t = mpmath.mpf("0.3")
        for factor, attained in ((1, True), (mpmath.mpf("1.01"), False), (mpmath.mpf("0.99"), False)):
            # s = 2/3 where delta/t = log 2
            far = 1 + t * mpmath.log(2) * factor
            vectors = {
                "x": (mpmath.mpf(0),) * 2,
                "x_pos": (far * 3 / 5, far * 4 / 5),
                "x_neg": (mpmath.mpf(1), mpmath.mpf(0)),
            }
            point = Point(2, vectors, {temperature: t}, derivation.setting.abbreviations)
            length = mpmath.sqrt(mpmath.fsum(c**2 for c in gradients(derivation, point)["x_pos"]))
            limit = mpmath.mpf(16) / 27 / t
            assert (abs(length - limit) <= TOLERANCE * limit) is attained
            assert length <= limit * (1 + TOLERANCE)


# ---------------------------------------------------------------- singular points


@pairs
def test_kinks_are_where_they_should_be_and_of_the_right_shape(norm: str, loss: str) -> None:
    found = {kink.where: kink.convex for kink in derived(norm, loss).kinks}
    # the loss rises with d_pos, which has a minimum at x = x_pos, and falls with d_neg
    expected: dict[str, bool | None] = {
        "l2": {"x = x_pos": True, "x = x_neg": False},
        "lp": {"x = x_pos": True, "x = x_neg": False},
        "linf": {
            "x = x_pos": True,
            "x = x_neg": False,
            "|x_k - x_pos_k| largest for several k": True,
            "|x_k - x_neg_k| largest for several k": False,
        },
        "l1": {"x_k = x_pos_k for some k": True, "x_k = x_neg_k for some k": False},
        "cosine": {"x = 0, x_pos = 0 or x_neg = 0": None},
    }.get(norm, {})
    assert found == expected | ({"d_pos - d_neg + margin = 0": True} if loss == "hinge" else {})
    for kink in derived(norm, loss).kinks:
        assert kink.shape.startswith({True: "convex", False: "concave", None: "jump"}[kink.convex])
        assert ("Clarke" in kink.shape) is (kink.convex is False and not kink.taken)
        assert bool(kink.taken) is ("several" in kink.where)
        assert kink.why


def test_a_distance_that_falsely_states_a_singularity_is_refused() -> None:
    singular = replace(DISTANCES["l2-squared"], singularities=DISTANCES["l2"].singularities)
    with pytest.raises(StepError, match="l2-squared: stated as singular at x = y"):
        differentiate(Objective(singular, LOSSES["hinge"]))


def test_a_loss_that_falsely_states_a_singularity_is_refused() -> None:
    stated = Singularity("d_pos - d_neg", "d_pos = d_neg", "it is not")
    smooth = replace(LOSSES["softmax-nll"], singularities=(stated,))
    with pytest.raises(StepError, match="stated as singular at d_pos = d_neg"):
        differentiate(Objective(DISTANCES["l2"], smooth))


def test_a_kink_stated_in_the_wrong_place_is_refused() -> None:
    (right,) = LOSSES["hinge"].singularities
    misplaced = replace(right, locus="d_pos - d_neg")
    with pytest.raises(StepError, match="stated as singular"):
        differentiate(Objective(DISTANCES["l2"], replace(LOSSES["hinge"], singularities=(misplaced,))))


def test_a_concave_kink_of_a_loss_is_said_to_be_concave() -> None:
    kinks = (Singularity("d_pos - 1/2", "d_pos = 1/2", "the slope falls there"),)
    capped = Loss("capped", "", "d_pos - max(0, d_pos - 1/2) - d_neg / 4", "made up", (), kinks)
    (kink,) = differentiate(Objective(DISTANCES["l2-squared"], capped)).kinks
    assert not kink.convex


def test_a_kink_is_named_by_what_y_stands_for() -> None:
    kinks = (Singularity("sum(abs(x - y))", "x_k = y_k for any k, not y alone", "each component has a kink"),)
    cityblock = Distance("cityblock", "", "sum(abs(x - y))", "made up", (), kinks)
    where = [kink.where for kink in differentiate(Objective(cityblock, LOSSES["softmax-nll"])).kinks]
    assert where == [f"x_k = {other}_k for any k, not {other} alone" for other in ("x_pos", "x_neg")]


def test_a_bound_does_not_depend_on_what_a_parameter_is_called() -> None:
    bounds = []
    for name in ("a", "scale", "quantile", "zoom"):
        factor = Parameter(name, 2.0, "positive", "")
        of = Objective(DISTANCES["l2"], Loss("scaled", "", f"{name}*max(0, d_pos - d_neg)", "made up", (factor,)))
        bounds.append([bound.limit.subs(parameter(factor), 3) for bound in differentiate(of).bounds])
    assert bounds == [[3, 3]] * 4


@pytest.mark.parametrize(
    ("limit", "at"),
    [(sp.Rational(1, 100), sp.Rational(2, 3)), (sp.Integer(1), sp.Rational(2, 3)), (sp.Rational(16, 27), sp.S.Half)],
    ids=["exceeded", "not close", "elsewhere"],
)
def test_a_wrong_bound_can_not_be_stated(limit: sp.Expr, at: sp.Expr) -> None:
    right = derived("l2", "softmax-mse").bounds[0]
    temperature = parameter(LOSSES["softmax-mse"].parameters[0])
    assert replace(right, limit=sp.Rational(16, 27) / temperature, s=sp.Rational(2, 3)) == right
    with pytest.raises(StepError, match="does not bound"):
        replace(right, limit=limit / temperature, s=at)


# ---------------------------------------------------------------- what people see


@pairs
def test_the_repr_is_a_program_that_computes_the_gradients(norm: str, loss: str) -> None:
    derivation = derived(norm, loss)
    whole = re.sub(r"(?<=[*/])\n +|\n +(?=[-+] )", " ", repr(derivation))  # long formulas take several lines
    lines = whole.splitlines()
    assert lines[0] == f"{loss} on {norm}: {len(derivation.steps)} checked steps"
    rows = [re.split(r"\s*= ", line, maxsplit=1) for line in lines if re.match(r"(z|s|q|L|\S+\[k\])\s*= ", line)]
    assert [name for name, _ in rows[-3:]] == ["dL/dx[k]", "dL/dx_pos[k]", "dL/dx_neg[k]"]
    with mpmath.workdps(70):
        for point in points(derivation, seed=26):
            expected = closed_form(norm, loss, point.vectors, *values_of(derivation, point), epsilon_of(point))
            names: dict[str, Any] = {
                **{symbol.name: value for symbol, value in point.scalars.items()},
                **point.vectors,
                **{f"unit_{name}": [c / length(vector) for c in vector] for name, vector in point.vectors.items()},
                **{f"norm_{name}": length(vector) for name, vector in point.vectors.items()},
                "sigmoid": lambda z: 1 / (1 + mpmath.exp(-z)),
                "softplus": lambda z: mpmath.log(1 + mpmath.exp(z)),
                "positive_part": lambda z: max(mpmath.mpf(0), z),
                "step": lambda z: mpmath.mpf(z > 0),
                "attains": lambda number, largest: mpmath.mpf(number >= largest),
                "sign": mpmath.sign,
                "abs": abs,
                "total": lambda term, count=point.dimension: mpmath.fsum(map(term, range(count))),
            }
            for which in ("pos", "neg"):
                pair = point.vectors["x"], point.vectors[f"x_{which}"]
                names[f"d_{which}"] = closed_distance(norm, *pair, epsilon_of(point))[0]
            for name, text in rows:
                components = [eval(code_of(text), {**names, "k": at}) for at in range(point.dimension)]
                names[name.removesuffix("[k]")] = components if name.endswith("[k]") else components[0]
            found = {name: names[f"dL/d{name}"] for name in EMBEDDINGS}
            assert agree(found, expected)


@pairs
def test_the_repr_tells_bounds_invariants_and_singular_points(norm: str, loss: str) -> None:
    lines = repr(derived(norm, loss)).splitlines()

    def is_told(*parts: str) -> bool:
        return any(all(part in line for part in parts) for line in lines)

    assert is_told("orthogonal" if norm in OF_UNITS else "sum to 0")
    for kink in derived(norm, loss).kinks:
        assert is_told(kink.where, kink.shape)
    assert is_told("|dL/dx_pos| <= 16/(27*temperature)", "s = 2/3") is ((norm, loss) == ("l2", "softmax-mse"))
    assert is_told("x = x_pos", "convex") is is_told("x = x_neg", "concave") is (norm in ("l2", "lp", "linf"))


@pairs
def test_notebooks_get_one_line_of_latex_per_gradient(norm: str, loss: str) -> None:
    latex = derived(norm, loss)._repr_latex_()
    assert latex.startswith("$$")
    assert latex.endswith("$$")
    assert latex.count("{") == latex.count("}")
    assert latex.count(r"\begin{aligned}") == latex.count(r"\end{aligned}") == 1
    *before, x, x_pos, x_neg = latex.removesuffix("\\end{aligned}$$").split(r" \\ ")
    for line, name in zip((x, x_pos, x_neg), ("x", "x^{+}", "x^{-}"), strict=True):
        assert line.startswith(rf"\frac{{\partial L}}{{\partial {name}_k}} &= ")
    assert not re.search("pos|neg|temperature|margin", latex), "names of the code in mathematics"
    used = set(re.findall(r"(?<![a-z\\])[sqzd](?![a-z])", x + x_pos + x_neg))
    assert used - {"d"} <= {line.split(" &=")[0] for line in before}, "a symbol that is not defined"
