"""Pictures show what they say: curves against closed forms, arrows against the gradients of DESIGN section 4."""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Callable

import pytest
from objectives import COVER, closed_distance

from derive_triplet import DISTANCES, LOSSES, Objective
from derive_triplet.derive import pictures
from derive_triplet.derive.pictures import Arrow, curves, field

LIMIT = 4.0
X_POS, X_NEG = (-1.0, 0.0), (1.0, 0.0)
DECIMALS = re.compile(r"-?\d+\.\d{3}")
HALF_A_DIGIT = 0.00051


def sigmoid(z: float) -> float:
    return 1 / (1 + math.exp(-z))


# at the default parameters, T = 1 and m = 0.2
VALUE: dict[str, Callable[[float], float]] = {
    "softmax-mse": lambda z: 2 * sigmoid(z) ** 2,
    "softmax-nll": lambda z: math.log1p(math.exp(z)),
    "hinge": lambda z: max(0.0, z + 0.2),
}
SLOPE: dict[str, Callable[[float], float]] = {
    "softmax-mse": lambda z: 4 * sigmoid(z) ** 2 * sigmoid(-z),
    "softmax-nll": sigmoid,
    "hinge": lambda z: float(z + 0.2 > 0),
}


def points(path: str) -> list[tuple[float, float]]:
    pairs = re.findall(r"\((\S+?),(\S+?)\)", path)
    assert " ".join(f"({a},{b})" for a, b in pairs) == path
    assert all(DECIMALS.fullmatch(b) for _, b in pairs)
    return [(float(a), float(b)) for a, b in pairs]


def test_there_is_a_curve_for_every_loss_in_the_order_of_the_catalogue() -> None:
    assert [curve.name for curve in curves(LIMIT)] == list(LOSSES) == list(VALUE)


@pytest.mark.parametrize("at", range(len(LOSSES)), ids=LOSSES)
def test_curves_are_the_closed_forms(at: int) -> None:
    curve = curves(LIMIT)[at]
    for path, closed in ((curve.value, VALUE[curve.name]), (curve.slope, SLOPE[curve.name])):
        shown = points(path)
        assert all(abs(y - closed(x)) < HALF_A_DIGIT for x, y in shown)
        expected = [x / 4 for x in range(-24, 25) if closed(x / 4) <= LIMIT]
        assert [x for x, _ in shown] == expected


def test_another_curve_is_not_taken_for_it() -> None:
    mse, nll, _ = curves(LIMIT)
    assert any(abs(y - VALUE["softmax-nll"](x)) > HALF_A_DIGIT for x, y in points(mse.value))
    assert any(abs(y - SLOPE["softmax-mse"](x)) > HALF_A_DIGIT for x, y in points(nll.slope))


def test_a_curve_ends_where_it_leaves_the_picture() -> None:
    low = curves(1.0)
    assert all(y <= 1 for curve in low for y in (y for _, y in points(curve.value)))
    assert len(points(low[1].value)) < len(points(curves(LIMIT)[1].value))


# ---------------------------------------------------------------- the field


def descent(norm: str, loss: str, x: float, y: float) -> tuple[float, float]:
    """Minus the gradient of L in the anchor, from the closed forms; where the distances are 0 it takes the 0."""

    epsilon = next((p.default for p in DISTANCES[norm].parameters), None)

    def distance_and_gradient(other: tuple[float, float]) -> tuple[float, list[float]]:
        if ((x, y) == other and norm in ("l2", "cosine")) or (norm == "cosine" and not (x or y)):
            # a zero vector is its own unit vector, half of 1 away from others
            return (0.5 if norm == "cosine" and (x, y) != other else 0.0), [0.0, 0.0]
        value, first, _ = closed_distance(norm, (x, y), other, epsilon)
        return float(value), [float(c) for c in first]

    (near, toward), (far, away) = distance_and_gradient(X_POS), distance_and_gradient(X_NEG)
    slope = SLOPE[loss](near - far)
    return -slope * (toward[0] - away[0]), -slope * (toward[1] - away[1])


FIELDS = COVER
each_field = pytest.mark.parametrize(("norm", "loss"), FIELDS)


def arrows_of(norm: str, loss: str) -> tuple[Arrow, ...]:
    objective = Objective(DISTANCES[norm], LOSSES[loss])
    return field(objective, tuple((p.name, p.default) for p in objective.parameters))


def drawn(norm: str, loss: str) -> list[tuple[float, float, float, float]]:
    return [(float(a.x), float(a.y), float(a.dx), float(a.dy)) for a in arrows_of(norm, loss)]


@each_field
def test_arrows_point_along_minus_the_gradient(norm: str, loss: str) -> None:
    for x, y, dx, dy in drawn(norm, loss):
        gx, gy = descent(norm, loss, x, y)
        length = math.hypot(dx, dy)
        assert gx * dx + gy * dy > 0
        assert abs(gx * dy - gy * dx) <= 0.001 * math.hypot(gx, gy), (x, y)  # the arrow's rounding
        assert 0 < length <= 0.501


@each_field
def test_lengths_are_square_roots_of_the_gradients_in_units_of_the_longest(norm: str, loss: str) -> None:
    arrows = drawn(norm, loss)
    strengths = [math.hypot(*descent(norm, loss, x, y)) for x, y, *_ in arrows]
    longest = max(strengths)
    for (_, _, dx, dy), strength in zip(arrows, strengths, strict=True):
        assert math.hypot(dx, dy) == pytest.approx(0.5 * math.sqrt(strength / longest), abs=0.001)


@each_field
def test_an_arrow_is_missing_only_where_there_is_next_to_no_gradient(norm: str, loss: str) -> None:
    ticks = [-2.2 + 0.55 * at for at in range(9)]
    grid = list(itertools.product(ticks, ticks))
    longest = max(math.hypot(*descent(norm, loss, x, y)) for x, y in grid)
    shown = {(f"{x:.3f}", f"{y:.3f}") for x, y, *_ in drawn(norm, loss)}
    strong = [at for at in grid if math.hypot(*descent(norm, loss, *at)) > 0.006 * longest]
    assert strong
    assert {(pictures._rounded(x), pictures._rounded(y)) for x, y in strong} <= shown


@pytest.mark.parametrize(("norm", "loss"), [("l2", "softmax-mse"), ("l2-squared", "hinge")])
def test_normalized_arrows_are_the_part_across_the_anchor_over_its_norm(norm: str, loss: str) -> None:
    objective = Objective(DISTANCES[norm], LOSSES[loss], normalize=True)
    arrows = field(objective, tuple((p.name, p.default) for p in objective.parameters))
    assert len(arrows) > 20
    found = []
    for arrow in arrows:
        x, y, dx, dy = (float(part) for part in (arrow.x, arrow.y, arrow.dx, arrow.dy))
        r, length = math.hypot(x, y), math.hypot(dx, dy)
        gx, gy = descent(norm, loss, x / r, y / r)
        across = (gy * x - gx * y) / r**2
        assert abs(x * dx + y * dy) <= 0.003 * r  # the arrow's rounding
        assert (dy * x - dx * y) * across > 0
        found.append((length, math.sqrt(abs(across))))
    longest = max(strength for _, strength in found)
    assert all(length == pytest.approx(0.5 * strength / longest, abs=0.002) for length, strength in found)


def test_turned_arrows_are_not_taken_for_right_ones() -> None:
    for x, y, dx, dy in drawn("l2", "softmax-mse"):
        gx, gy = descent("l2", "softmax-mse", x, y)
        assert gx * -dx + gy * -dy < 0


@each_field
def test_coordinates_have_three_decimals_and_no_negative_zero(norm: str, loss: str) -> None:
    for arrow in arrows_of(norm, loss):
        for text in (arrow.x, arrow.y, arrow.dx, arrow.dy):
            assert DECIMALS.fullmatch(text)
            assert text != "-0.000"


@pytest.mark.parametrize(
    ("value", "text"), [(-1e-9, "0.000"), (-0.0, "0.000"), (-0.0006, "-0.001"), (0.12345, "0.123"), (2, "2.000")]
)
def test_numbers_are_rounded_as_they_should_be(value: float, text: str) -> None:
    assert pictures._rounded(value) == text


@pytest.mark.parametrize("make", [curves, field], ids=["curves", "field"])
def test_pictures_are_the_same_when_they_are_made_again(make: Callable[..., object]) -> None:
    objective = Objective(DISTANCES["l2"], LOSSES["hinge"])
    arguments = (LIMIT,) if make is curves else (objective, (("margin", 0.2),))
    once = make(*arguments)
    make.cache_clear()  # type: ignore[attr-defined]
    assert make(*arguments) == once
