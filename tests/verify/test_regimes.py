"""Where verification looks: that it looks there whatever the parameters."""

from __future__ import annotations

import mpmath
import pytest

from derive_triplet import objective
from derive_triplet.derive.highprecision import distance_between
from derive_triplet.derive.verify.regimes import regimes


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
