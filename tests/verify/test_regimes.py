"""Where verification looks: that it looks there whatever the parameters."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest

from derive_triplet import DISTANCES, Objective, objective, own_loss
from derive_triplet.derive.highprecision import distance_between
from derive_triplet.derive.verify.regimes import TIES, Regime, regimes, unjudged


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.25, 0.3125, 1.0])
@pytest.mark.parametrize(("norm", "on_it"), [("l2", 0.25), ("l2-squared", 0.3125)])
def test_the_kink_is_visited_for_every_default(norm: str, margin: float, on_it: float) -> None:
    found = [r.parameters for r in regimes(objective(norm, "hinge"), "float32", {"margin": margin}) if "kink" in r.name]
    assert found == [{"margin": on_it}]


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("norm", ["l2", "l2-squared"])
def test_distances_are_nearly_equal_and_no_kink_is_decided_by_rounding(norm: str, normalize: bool) -> None:
    of = objective(norm, "hinge", normalize)
    for dtype, margin, there in (("float32", 0.2, 1), ("float64", 0.2, 1), ("float32", 0.0, 0)):
        found = [r for r in regimes(of, dtype, {"margin": margin}) if r.name == "nearly equal distances"]
        assert len(found) == there
        for regime in found:
            x, x_pos, x_neg = ([mpmath.mpf(float(c)) for c in embedding[0]] for embedding in regime.embeddings)
            d_pos, d_neg = distance_between(of, x, x_pos, {}), distance_between(of, x, x_neg, {})
            assert 0 < abs(d_pos - d_neg) < 1e-5 * d_pos


def by_name(norm: str, dims: tuple[int, ...] = ()) -> dict[str, Regime]:
    found = regimes(objective(norm, "hinge"), "float32", {"margin": 0.2}, dims, full_range=True)
    return {regime.name: regime for regime in found}


def test_rows_are_what_their_regime_is_called() -> None:
    found = by_name("cosine")
    for name, zeros in {"x = 0": [0], "x_pos = 0": [1], "x_neg = 0": [2], "ordinary, n = 7": []}.items():
        assert [at for at, embedding in enumerate(found[name].embeddings) if not embedding.any()] == zeros
    for name, equal in {"x = x_pos": [1], "x = x_neg": [2], "collapsed, x = x_pos = x_neg": [1, 2]}.items():
        x, *others = found[name].embeddings
        assert [at for at, other in enumerate(others, start=1) if np.array_equal(x, other)] == equal


def test_so_many_differences_are_the_largest() -> None:
    x, *others = map(np.array, TIES)
    sizes = [np.abs(x - other) for other in others]
    assert [[int(np.sum(row == row.max())) for row in size] for size in sizes] == [[2, 2], [3, 4]]


@pytest.mark.parametrize(("norm", "adds_up"), [("l2", True), ("linf", False), ("cosine", False)])
def test_all_components_of_long_rows_count_where_they_add_up(norm: str, adds_up: bool) -> None:
    found = by_name(norm, (64,))
    assert ("many subnormal squares" in found) == adds_up
    long = found["4 of 64 components"]
    assert long.copies == (60 if adds_up else 0)
    assert np.all(long.x_pos != 0) == adds_up


@pytest.mark.parametrize("normalize", [False, True])
def test_a_kink_that_is_as_far_as_units_are_rounded_is_not_judged(normalize: bool) -> None:
    """Raw distances of coincident points are 0, and equal; those of their units may be off, and so on either side."""
    apart = Objective(DISTANCES["l2"], own_loss("abs(d_pos - d_neg)", name="apart"), normalize=normalize)
    left_out = unjudged(apart, ["float32"], {})
    assert ("collapsed, x = x_pos = x_neg (float32)" in left_out) == normalize
