"""What mutation testing found that no test saw; see docs/mutation.md."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import mpmath
import numpy as np
import pytest
import sympy as sp

from derive_triplet import DISTANCES, DefinitionError, Loss, Objective, differentiate, own_loss
from derive_triplet.derive.expression import FUNCTIONS, Algebra, Definition
from derive_triplet.derive.functions import attains, step
from derive_triplet.derive.lemmas import derive_distance, derive_loss
from derive_triplet.derive.lower import lower
from derive_triplet.derive.verify.checks import differing_beside_bad_rows, magnification, run_checks
from derive_triplet.derive.verify.reference import reference
from derive_triplet.derive.verify.regimes import Regime

# ---------------------------------------------------------------- expression


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_takes_its_own_number_of_arguments(name: str) -> None:
    arguments = ["a < 1" if name == "where" else "a", *["a"] * (FUNCTIONS[name] - 1)]
    Definition(f"{name}({', '.join(arguments)})", ("a",))
    with pytest.raises(DefinitionError, match=f"line 1, column 1: {name} takes {FUNCTIONS[name]} argument"):
        Definition(f"{name}({', '.join([*arguments, 'a'])})", ("a",))


@pytest.mark.parametrize(
    "text", ["1e200*1e200", "a + 9e299*2", "a*(-9e299 - 9e299)", "a + 10**64*10**64*10**64*10**64*1e99"]
)
def test_a_number_that_is_too_large_is_refused_before_it_is_computed(text: str) -> None:
    with pytest.raises(DefinitionError, match=r"line 1, column \d+: the number is too large"):
        Definition(text, ("a",))


@pytest.mark.parametrize("name", ["max", "min"])
def test_a_number_stands_first_so_that_its_slope_is_taken_at_a_kink(name: str) -> None:
    asked: list[tuple[Any, Any]] = []
    algebra = Algebra(
        number=float, functions={name: lambda *both: asked.append(both)}, reduce=lambda kind, term: term(0)
    )
    for text in (f"{name}(a, 0)", f"{name}(0, a)", f"{name}(a, b)"):
        Definition(text, ("a", "b")).read(algebra, {"a": "A", "b": "B"})
    assert asked == [(0, "A"), (0, "A"), ("A", "B")]


# ---------------------------------------------------------------- lemmas, units


@pytest.mark.parametrize("distance", DISTANCES.values(), ids=lambda distance: distance.name)
def test_weights_are_written_in_the_distance_and_not_in_its_sums(distance: Any) -> None:
    terms = derive_distance(distance).terms
    sums = {total for of in terms.values() for term in of for total in term.coefficient.atoms(sp.Sum)}
    assert all(isinstance(total.function, attains) for total in sums)  # how many components are the largest
    assert bool(sums) is (distance.name == "linf")


def test_a_slope_has_no_step_that_a_positive_part_makes_needless() -> None:
    lemma = derive_loss(own_loss("max(0, d_pos - d_neg + 1)**2", name="mine"))
    assert not any(slope.result.has(step) for slope in lemma.slopes.values())


def test_nothing_is_added_up_that_is_0_or_a_negative_of_something() -> None:
    kernel = lower(differentiate("l2", "hinge", normalize=True))
    assert all(r.term != 0 and not r.term.could_extract_minus_sign() for r in kernel.reductions)
    assert len({r.name for r in kernel.reductions}) == len(kernel.reductions)
    assert all(symbol.is_real for symbol in (*kernel.constants, *kernel.weights))


# ---------------------------------------------------------------- reference

UNEVEN = own_loss("d_pos**2 - 3*d_neg + 3*d_pos*d_neg/2", name="uneven")
"""Whose slopes in the two distances differ: 2*d_pos + 3*d_neg/2 and 3*d_pos/2 - 3."""
POINT = ([0.5, 1.0], [2.0, -0.25], [1.25, 3.0])


def of(loss: Loss, norm: str, *triplet: Sequence[float]) -> Any:
    return reference(Objective(DISTANCES[norm], loss), *triplet, {})


def test_scales_of_a_loss_whose_slopes_differ() -> None:
    found = of(UNEVEN, "l2-squared", *POINT)
    with mpmath.workdps(40):
        u, v = ([mpmath.mpf(a) - b for a, b in zip(POINT[0], other, strict=True)] for other in POINT[1:])
        p, n = (mpmath.fsum(c**2 for c in difference) for difference in (u, v))
        slope_p, slope_n = abs(2 * p + 1.5 * n), abs(1.5 * p - 3)
        swing_p, swing_n = slope_p + 2 * p + 1.5 * n, slope_n + 1.5 * p
        wanted = {
            "loss": ([abs(p**2 - 3 * n + 1.5 * p * n) + p * slope_p + n * slope_n], found.loss.scale),
            "x_pos": ([swing_p * abs(2 * c) for c in u], found.gradients["x_pos"].scale),
            "x_neg": ([swing_n * abs(2 * c) for c in v], found.gradients["x_neg"].scale),
        }
        for name, (exact, scale) in wanted.items():
            assert all(mpmath.almosteq(a, b, 1e-20) for a, b in zip(exact, scale, strict=True)), name


@pytest.mark.parametrize("x_pos", [POINT[1], [0.0, 0.0]])
def test_scales_of_second_order_where_units_round(x_pos: list[float]) -> None:
    found = of(UNEVEN, "cosine", POINT[0], x_pos, POINT[2])
    with mpmath.workdps(40):
        slope_p, slope_n = (abs(s) for s in _slopes_of_cosine(POINT[0], x_pos, POINT[2]))
        bend, length = mpmath.mpf(2 + 2 * 1.5), mpmath.norm(x_pos) or 1
        assert mpmath.almosteq(found.loss.second[0], slope_p + slope_n + bend, 1e-20)
        assert mpmath.almosteq(found.gradients["x_pos"].second[0], bend / length, 1e-20)


def _slopes_of_cosine(x: Sequence[float], *others: Sequence[float]) -> tuple[Any, Any]:
    units = [[mpmath.mpf(c) / (mpmath.norm(v) or 1) for c in v] for v in (x, *others)]
    p, n = (mpmath.fsum((a - b) ** 2 for a, b in zip(units[0], y, strict=True)) / 2 for y in units[1:])
    return 2 * p + 1.5 * n, 1.5 * p - 3


def test_a_small_difference_of_large_components_has_its_gradient() -> None:
    close = 1 + 2.0**-50
    found = of(UNEVEN, "l2", [1e20, 1.0], [1e20, close], [1e20, 3.0])
    with mpmath.workdps(40):
        p = mpmath.mpf(close) - 1
        assert mpmath.almosteq(found.gradients["x_pos"].value[1], 2 * p + 3, 1e-20)


def test_a_slope_beside_one_that_is_much_larger_is_exact() -> None:
    loss = own_loss("d_neg + log(1 + exp(-d_pos))", name="apart")
    found = of(loss, "l2", [0.0], [300.0], [1.0])
    with mpmath.workdps(40):
        assert abs(found.gradients["x_pos"].value[0] * (1 + mpmath.exp(300)) + 1) < 1e-20


def test_a_short_vector_beside_a_long_one_has_its_gradient() -> None:
    """Its unit vector turns far by a step that is small beside its own components."""
    long, short, tiny = [1e-30, 100.0, 1e-30], [1e-30, 1e-30, 0.0], [1.0, 1.0, 1.0]
    objective = Objective(DISTANCES["l2-squared"], UNEVEN, normalize=True)
    found = reference(objective, long, tiny, short, {}).gradients["x_neg"].value[2]
    with mpmath.workdps(60):
        units = [[mpmath.mpf(c) / mpmath.norm(v) for c in v] for v in (long, tiny, short)]
        p = mpmath.fsum((a - b) ** 2 for a, b in zip(units[0], units[1], strict=True))
        # of the cosine, by a component that is 0
        wanted = (mpmath.mpf(1.5) * p - 3) * -2 * units[0][2] / mpmath.norm(short)
        assert abs(found / wanted - 1) < 1e-20


# ---------------------------------------------------------------- checks

L2_HINGE = Objective(DISTANCES["l2"], own_loss("max(0, d_pos - d_neg + 1)", name="mine"))


def test_a_runner_that_raises_fails_and_says_what() -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise RuntimeError("out of order")

    (check,) = run_checks(L2_HINGE, broken, ["float64"], {}, True)
    assert not check.passed
    assert "RuntimeError: out of order" in check.detail


@pytest.mark.parametrize(
    ("x_pos", "parameters", "wanted"), [(101.0, {}, 1.0), (108.0, {}, 8.0), (101.0, {"a": 0.25, "b": 0.0}, 4.0)]
)
def test_what_a_gradient_magnifies_are_differences_over_parameters(
    x_pos: float, parameters: Mapping[str, float], wanted: float
) -> None:
    batch = [np.array([[value]]) for value in (100.0, x_pos, 99.0)]
    assert magnification(Regime("made", *batch, parameters)) == wanted


def test_rows_that_are_not_finite_are_seen_to_leak_or_to_be_hidden() -> None:
    batch = [np.ones((4, 4)), np.zeros((4, 4)), np.full((4, 4), 0.5)]

    def results(arrays: Sequence[Any], leak: float = 0.0, hide: bool = False) -> Sequence[Any]:
        x = np.nan_to_num(arrays[0], posinf=1) if hide else arrays[0]
        loss = x.sum(axis=1) + (leak * np.roll(x.sum(axis=1), 1) if leak else 0)
        return loss, x, x * 2, x * 3

    assert differing_beside_bad_rows(results, batch) == 0
    assert differing_beside_bad_rows(lambda arrays: results(arrays, leak=1.0), batch) > 0
    assert differing_beside_bad_rows(lambda arrays: results(arrays, hide=True), batch) > 0
    assert differing_beside_bad_rows(lambda arrays: results([np.where(np.isnan(a), 0, a) for a in arrays]), batch) > 0
