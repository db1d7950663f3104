"""Where verification looks: that it looks there whatever the parameters."""

from __future__ import annotations

import pytest

from derive_triplet import objective
from derive_triplet.derive.verify.regimes import regimes


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.25, 0.3125, 1.0])
@pytest.mark.parametrize(("norm", "on_it"), [("l2", 0.25), ("l2-squared", 0.3125)])
def test_the_kink_is_visited_for_every_default(norm: str, margin: float, on_it: float) -> None:
    found = [r.parameters for r in regimes(objective(norm, "hinge"), "float32", {"margin": margin}) if "kink" in r.name]
    assert found == [{"margin": on_it}]
