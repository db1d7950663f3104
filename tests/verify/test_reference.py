"""The reference against closed forms, against differences of the whole objective, and for its independence."""

from __future__ import annotations

import ast
import inspect
import itertools
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import mpmath
import pytest
from objectives import COVER, EVERY, closed_distance

from derive_triplet import DISTANCES, LOSSES, Loss, objective, own_loss
from derive_triplet.derive.highprecision import loss_value, objective_value
from derive_triplet.derive.verify import differences
from derive_triplet.derive.verify import reference as reference_module
from derive_triplet.derive.verify.differences import loss_slopes
from derive_triplet.derive.verify.reference import Reference, reference, values

OBJECTIVES = list(COVER)
PARAMETERS = {"temperature": 0.75, "margin": 0.25, "epsilon": 0.0625, "p": 2.5}
DERIVING = {"differentiate", "lemmas", "stabilise", "kernel", "lower", "functions", "steps", "symbols", "properties"}

# floats without short expansions, so that nothing comes out right by luck
X, X_POS, X_NEG = [0.1, -0.7, 0.3], [0.4, 0.2, -0.6], [-0.3, 0.5, 0.2]


def own(norm: str, loss: str, **changed: float) -> dict[str, float]:
    return {p.name: changed.get(p.name, PARAMETERS[p.name]) for p in objective(norm, loss).parameters}


def closed_form(
    norm: str, loss: str, triplet: Sequence[Sequence[float]], parameters: Mapping[str, float]
) -> tuple[Any, dict[str, list[Any]]]:
    """DESIGN's table: phi(delta) and phi'(delta), and the gradient of each distance, 0 where there is none."""
    x, x_pos, x_neg = ([mpmath.mpf(c) for c in embedding] for embedding in triplet)

    def distance(y: list[Any]) -> tuple[Any, Sequence[Any], Sequence[Any]]:
        if x == y and norm in ("l2", "lp"):
            zero = [mpmath.mpf(0)] * len(x)
            return mpmath.mpf(0), zero, zero
        return closed_distance(norm, x, y, mpmath.mpf(parameters.get("p", parameters.get("epsilon", 0))))

    (d_pos, toward_pos, of_pos), (d_neg, toward_neg, of_neg) = distance(x_pos), distance(x_neg)
    value, slope = phi(loss, d_pos - d_neg, parameters)[:2]
    return value, {
        "x": [slope * (a - b) for a, b in zip(toward_pos, toward_neg, strict=True)],
        "x_pos": [slope * a for a in of_pos],
        "x_neg": [-slope * b for b in of_neg],
    }


def phi(loss: str, delta: Any, parameters: Mapping[str, float]) -> tuple[Any, Any, Any]:
    """A loss as a function of the difference of the distances, with two derivatives."""
    if loss == "hinge":
        z = delta + mpmath.mpf(parameters["margin"])
        return max(z, mpmath.mpf(0)), mpmath.mpf(z > 0), mpmath.mpf(0)
    t = mpmath.mpf(parameters["temperature"])
    s, q = 1 / (1 + mpmath.exp(-delta / t)), 1 / (1 + mpmath.exp(delta / t))
    return {
        "softmax-mse": (2 * s**2, 4 * s**2 * q / t, 4 * s**2 * q * (2 - 3 * s) / t**2),
        "softmax-nll": (mpmath.log1p(mpmath.exp(delta / t)), s / t, s * q / t**2),
    }[loss]


def assert_close(found: Any, exact: Any, beside: Any = 0) -> None:
    """Equal to 25 digits; `beside` is what terms were subtracted from each other to give it."""
    assert abs(found - exact) <= abs(exact) / 10**25 + abs(beside) / 10**390, mpmath.nstr((found, exact), 20)


def assert_closed_form(
    norm: str, loss: str, triplet: Sequence[Sequence[float]], parameters: Mapping[str, float]
) -> Reference:
    found = reference(objective(norm, loss), *triplet, parameters)
    least = min(max(map(abs, embedding)) for embedding in triplet)
    with mpmath.workdps(400):
        value, gradients = closed_form(norm, loss, triplet, parameters)
        assert_close(found.loss.value[0], value)
        for name, components in gradients.items():
            for component, exact in zip(found.gradients[name].value, components, strict=True):
                assert_close(component, exact, beside=1 / mpmath.mpf(least) if norm == "cosine" else 0)
    return found


# ---------------------------------------------------------------- closed forms


@pytest.mark.parametrize(("norm", "loss"), OBJECTIVES)
@pytest.mark.parametrize(
    "triplet", [(X, X_POS, X_NEG), (X, X_NEG, X_POS), ([0.1], [0.4], [0.2]), ([0.5, 1e-9], [0.5, 0.7], [0.2, 3.0])]
)
def test_ordinary_points_have_the_closed_forms(norm: str, loss: str, triplet: Sequence[Sequence[float]]) -> None:
    assert_closed_form(norm, loss, triplet, own(norm, loss))


@pytest.mark.parametrize(("norm", "loss"), OBJECTIVES)
def test_gradients_are_those_of_the_whole_objective(norm: str, loss: str) -> None:
    of, parameters = objective(norm, loss), own(norm, loss)
    found = reference(of, X, X_POS, X_NEG, parameters)
    with mpmath.workdps(80):
        h = mpmath.mpf(10) ** -30
        embeddings = {"x": X, "x_pos": X_POS, "x_neg": X_NEG}
        exact = {name: [mpmath.mpf(c) for c in embedding] for name, embedding in embeddings.items()}
        assert_close(found.loss.value[0], objective_value(of, *exact.values(), parameters))
        for name, k in itertools.product(exact, range(3)):

            def moved(by: Any, name: str = name, k: int = k) -> Any:
                shifted = [c + by * (at == k) for at, c in enumerate(exact[name])]
                return objective_value(of, *({**exact, name: shifted}).values(), parameters)

            slope = (moved(h) - moved(-h)) / (2 * h)
            assert_close(found.gradients[name].value[k], slope if abs(slope) > mpmath.mpf(10) ** -45 else 0)


# ---------------------------------------------------------------- singular points


@pytest.mark.parametrize(("norm", "loss"), OBJECTIVES)
@pytest.mark.parametrize(
    ("triplet", "zero"),
    [((X, X, X_NEG), ["x_pos"]), ((X, X_POS, X), ["x_neg"]), ((X, X, X), ["x", "x_pos", "x_neg"])],
    ids=["x = x_pos", "x = x_neg", "collapsed"],
)
def test_the_derivative_of_a_distance_is_0_where_it_vanishes(
    norm: str, loss: str, triplet: Sequence[Sequence[float]], zero: list[str]
) -> None:
    found = assert_closed_form(norm, loss, triplet, own(norm, loss, margin=4.0, temperature=2.0))
    for name in zero:
        # of unit vectors that are rounded, to hundreds of digits
        assert all(abs(c) <= mpmath.mpf(10) ** -390 * (norm == "cosine") for c in found.gradients[name].value)
    if len(zero) < 3:
        assert any(found.gradients["x"].value)


@pytest.mark.parametrize(("loss", "collapsed"), [("softmax-mse", "0.5"), ("softmax-nll", "log(2)"), ("hinge", "0.25")])
@pytest.mark.parametrize("norm", DISTANCES)
def test_collapsed_embeddings_have_the_loss_of_the_literature(norm: str, loss: str, collapsed: str) -> None:
    with mpmath.workdps(60):
        expected = {"0.5": mpmath.mpf("0.5"), "log(2)": mpmath.log(2), "0.25": mpmath.mpf("0.25")}[collapsed]
        assert_close(reference(objective(norm, loss), X, X, X, own(norm, loss)).loss.value[0], expected)


ON_A_LINE = ([0.0], [0.5], [0.75])
IN_A_PLANE = ([1.0, 0.0], [0.0, 1.0], [-1.0, 0.0])


@pytest.mark.parametrize(
    ("norm", "triplet", "d_pos", "d_neg"),
    [
        ("l2", ON_A_LINE, 0.5, 0.75),
        ("l2-squared", ON_A_LINE, 0.25, 0.5625),
        ("l1", ON_A_LINE, 0.5, 0.75),
        ("lp", ON_A_LINE, 0.5, 0.75),
        ("linf", ON_A_LINE, 0.5, 0.75),
        (
            "l2-smooth",
            ([0.0], [5 / 16], [9 / 16]),
            1 / 16,
            3 / 16,
        ),  # with 12/16, right triangles 5, 12, 13 and 9, 12, 15
        ("cosine", IN_A_PLANE, 1.0, 2.0),
    ],
)
def test_the_derivative_at_the_kink_of_the_hinge_is_0_and_beside_it_is_not(
    norm: str, triplet: Sequence[Sequence[float]], d_pos: float, d_neg: float
) -> None:
    for beyond, active in ((0.0, False), (2.0**-52, True), (-(2.0**-52), False)):
        margin = own(norm, "hinge", margin=d_neg - d_pos + beyond, epsilon=12 / 16)
        found = reference(objective(norm, "hinge"), *triplet, margin)
        assert found.loss.value == [max(beyond, 0.0)]
        assert any(any(g.value) for g in found.gradients.values()) == active
        if active:
            assert_closed_form(norm, "hinge", triplet, margin)


# ---------------------------------------------------------------- scales


@pytest.mark.parametrize("exponent", [-300, -150, -18, 18, 150])
@pytest.mark.parametrize(("norm", "loss"), OBJECTIVES)
def test_extreme_scales_have_the_closed_forms(norm: str, loss: str, exponent: int) -> None:
    # the distances themselves are kept comparable to the parameters, or the loss would only saturate
    triplet = [[c * 10.0**exponent for c in embedding] for embedding in (X, X_POS, X_NEG)]
    degree = {"l2-squared": 2, "cosine": 0}.get(norm, 1)
    size = 10.0 ** max(min(degree * exponent, 300), -300)
    parameters = own(norm, loss, temperature=size, margin=size, epsilon=size)
    found = assert_closed_form(norm, loss, triplet, parameters)
    assert any(found.gradients["x_pos"].value)


@pytest.mark.parametrize("p", [1.0, 1.0001, 40.0, 100.0])
def test_powers_of_any_exponent_have_the_closed_forms(p: float) -> None:
    """The gradient of the smallest difference beside the largest is 1e-3 to the power of p - 1."""
    triplet = ([0.1, -0.7, 0.3], [0.101, 0.3, -0.6], [-0.3, 0.5, 0.3001])
    found = assert_closed_form("lp", "softmax-nll", triplet, own("lp", "softmax-nll", p=p))
    assert p == 1 or all(map(all, (g.value for g in found.gradients.values())))


def test_derivatives_of_a_loss_that_vanish_are_exactly_0() -> None:
    loss = own_loss("d_pos**3 - d_neg**4 + d_pos*d_neg", name="flat")
    zero = mpmath.mpf(0)
    found = loss_slopes(lambda: partial(loss_value_of, loss), [zero, zero], mpmath.mpf(10) ** -30)
    assert found.first == [0, 0]
    assert found.second == [[0, 1], [1, 0]]
    saturated = own_loss("log(1 + exp(d_pos - 90*(d_neg + 1)))", name="saturated")
    (slope, _) = loss_slopes(lambda: partial(loss_value_of, saturated), [zero, zero], mpmath.mpf(10) ** -32).first
    with mpmath.workdps(60):
        assert_close(slope, 1 / (1 + mpmath.exp(90)))


def loss_value_of(loss: Loss, d_pos: Any, d_neg: Any) -> Any:
    return loss_value(loss, d_pos, d_neg, {})


@pytest.mark.parametrize("delta", [-1000, -700, -360, -300, -100, -40, 40, 89, 100, 300, 700, 1000])
@pytest.mark.parametrize("loss", LOSSES)
def test_saturated_slopes_are_exact_as_far_as_they_are_representable(loss: str, delta: int) -> None:
    near, far = [1.0], [1.0 + abs(delta)]
    triplet = ([0.0], far, near) if delta > 0 else ([0.0], near, far)
    found = reference(objective("l2", loss), *triplet, parameters := own("l2", loss, temperature=1.0))
    with mpmath.workdps(1000):
        value, slope, curvature = phi(loss, mpmath.mpf(delta), parameters)
        far_apart = abs(slope) + (2 + abs(delta)) * abs(curvature)
        pairs = [
            (found.loss.value[0], value),
            (found.gradients["x_pos"].value[0], slope),
            (found.gradients["x_neg"].value[0], -slope),
            (found.gradients["x_pos"].scale[0], far_apart),
            (found.gradients["x_neg"].scale[0], far_apart),
            (found.loss.scale[0], abs(value) + (2 + abs(delta)) * abs(slope)),
        ]
        smallest = mpmath.mpf(2) ** -1074
        for number, exact in pairs:
            # what no double can tell from 0 may be anything that no double can tell from 0
            assert abs(number - exact) <= abs(exact) / 10**20 + smallest / 100, mpmath.nstr((number, exact), 10)


@pytest.mark.parametrize(("norm", "loss"), OBJECTIVES)
def test_a_scale_is_never_below_its_number(norm: str, loss: str) -> None:
    found = reference(objective(norm, loss), X, X_POS, X_NEG, own(norm, loss))
    with mpmath.workdps(100):  # or comparing would round
        for exact in (found.loss, *found.gradients.values()):
            assert all(scale >= abs(value) for value, scale in zip(exact.value, exact.scale, strict=True))


def test_a_scale_grows_where_terms_cancel() -> None:
    close = reference(objective("l2", "hinge"), [0.0], [1e6], [1e6 - 0.125], {"margin": 0.0})
    assert close.loss.value == [0.125]
    assert_close(close.loss.scale[0], mpmath.mpf(2e6))


# ---------------------------------------------------------------- independence


def test_the_reference_imports_nothing_that_derives() -> None:
    imported: set[str] = set()
    nodes = [node for of in (reference_module, differences) for node in ast.walk(ast.parse(inspect.getsource(of)))]
    for node in nodes:
        if isinstance(node, ast.ImportFrom):
            imported |= {*(node.module or "").split("."), *(alias.name for alias in node.names)}
        elif isinstance(node, ast.Import):
            imported |= {part for alias in node.names for part in alias.name.split(".")}
    assert "catalogue" in imported  # the walk sees relative imports
    assert not imported & (DERIVING | {"sympy"})


def test_a_process_that_uses_the_reference_has_loaded_nothing_that_derives() -> None:
    program = """
import sys
from derive_triplet.derive.catalogue import DISTANCES, LOSSES, Objective
from derive_triplet.derive.verify.reference import reference
for loss in LOSSES.values():
    reference(Objective(DISTANCES["l2"], loss), [0.0], [1.0], [2.0], {p.name: p.default for p in loss.parameters})
print(*sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = run.stdout.split()
    assert "derive_triplet.derive.verify.reference" in loaded
    assert not [name for name in loaded if name.split(".")[0] == "sympy"]
    assert not [name for name in loaded if name.startswith("derive_triplet") and name.split(".")[-1] in DERIVING]


@pytest.mark.parametrize(("norm", "loss"), EVERY)
def test_the_numbers_alone_are_those_of_the_reference(norm: str, loss: str) -> None:
    of = objective(norm, loss)
    parameters = {p.name: p.default for p in of.parameters}
    a, b, c, zero = (0.5, -0.25), (1.0, 2.0), (-3.0, 0.125), (0.0, 0.0)
    for row in ((a, b, c), (a, a, b), (a, b, a), (b, b, b), (zero, a, b), (a, zero, (1e200, 1e-200))):
        exact, found = reference(of, *row, parameters), values(of, *row, parameters)
        assert found.loss == exact.loss.value[0]
        assert found.gradients == {name: list(gradient.value) for name, gradient in exact.gradients.items()}
