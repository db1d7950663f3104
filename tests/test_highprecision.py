"""The definitions at mpmath numbers, as accurate as the precision says wherever they are evaluated."""

from __future__ import annotations

import mpmath
import pytest

from derive_triplet.derive.catalogue import DISTANCES, LOSSES, Loss, Objective
from derive_triplet.derive.highprecision import distance_between, distances_of, loss_value

GROWTH = Loss(name="growth", title="an exponential", definition="exp(d_pos - d_neg)", reference="")


@pytest.mark.parametrize("digits", [30, 450, 900])
@pytest.mark.parametrize(
    "argument", ["0", "1", "0.75", "1e-30", "1e4", "18446744073709551615", "36893488147419103233.5", "1e30", "1e150"]
)
@pytest.mark.parametrize("sign", [1, -1])
def test_exponentials_have_all_digits_whatever_their_size(argument: str, sign: int, digits: int) -> None:
    with mpmath.workdps(digits):
        size = mpmath.mpf(argument)
        found = loss_value(GROWTH, *((size, mpmath.mpf(0)) if sign > 0 else (mpmath.mpf(0), size)), {})
    with mpmath.workdps(digits + 200):
        wanted = mpmath.exp(sign * size)
        assert abs(found - wanted) <= wanted * mpmath.mpf(10) ** (1 - digits)


def test_exponentials_of_what_is_not_finite_are_as_mpmath_has_them() -> None:
    assert loss_value(GROWTH, mpmath.inf, mpmath.mpf(0), {}) == mpmath.inf
    assert loss_value(GROWTH, mpmath.mpf(0), mpmath.inf, {}) == 0
    assert mpmath.isnan(loss_value(GROWTH, mpmath.nan, mpmath.mpf(0), {}))


@pytest.mark.parametrize("digits", [80, 400])
@pytest.mark.parametrize("name", DISTANCES)
def test_distances_are_exactly_0_where_directions_coincide_and_nowhere_else(name: str, digits: int) -> None:
    objective = Objective(DISTANCES[name], LOSSES["hinge"], normalize=name != "cosine")
    x = [mpmath.mpf(c) for c in (1, -7, 3)]
    beside = [x[0], x[1], x[2] * (1 + mpmath.mpf(2) ** -52)]
    with mpmath.workdps(digits):
        parallel, near = distances_of(objective, (x, [3 * c for c in x], beside), {})
        assert parallel == 0 < near
        finer = distance_between(objective, x, beside, {})
    with mpmath.workdps(900):
        exact = distance_between(objective, x, beside, {})
    assert abs(near - exact) <= exact * mpmath.mpf(10) ** -30
    assert near == finer  # what has digits enough is not computed again
