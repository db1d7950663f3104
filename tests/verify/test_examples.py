"""The examples that generated tests hold are what they are called, and far enough from kinks for differences."""

from __future__ import annotations

import numpy as np
import pytest
from objectives import EVERY, named

from derive_triplet import DISTANCES, LOSSES, Objective, differentiate, generate, own_loss
from derive_triplet.derive.targets.numpy import load
from derive_triplet.derive.verify.examples import DIM, ROWS, examples

OBJECTIVES = named(EVERY)
POLES = [Objective(DISTANCES["l2"], own_loss(text)) for text in ("d_pos/d_neg", "d_pos/(d_pos + d_neg)")]


@pytest.mark.parametrize("objective", [*OBJECTIVES, *POLES], ids=lambda objective: objective.stem)
def test_they_are_what_the_numpy_module_computes(objective: Objective) -> None:
    module = load(generate(differentiate(objective), "numpy"))
    defaults = {p.name: p.default for p in objective.parameters}
    found = examples(objective, defaults)
    assert [example.title for example in found] == ["Ordinary", "Coincident", "OtherParameters"][: len(found)]
    for example in found:
        inputs = [np.array(embedding).reshape(ROWS, DIM) for embedding in example.inputs]
        loss, gradients = module.value_and_grad(*inputs, **example.parameters)
        np.testing.assert_allclose(loss, example.loss, rtol=1e-14)
        losses = module.value(*inputs, reduction="none", **example.parameters)
        np.testing.assert_allclose(losses, example.losses, rtol=1e-14)
        np.testing.assert_allclose(np.ravel(gradients), np.ravel(example.gradients), rtol=1e-13, atol=1e-17)
    assert found[0].parameters == defaults
    assert (len(found) == 3) == bool(defaults)
    assert all(example.parameters != defaults for example in found[2:])


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.stem)
@pytest.mark.parametrize("value", [0.0625, 0.5, 3.0, 1e6])
def test_half_of_the_rows_are_active_whatever_the_parameters(objective: Objective, value: float) -> None:
    values = {p.name: value if p.holds(value) else p.default for p in objective.parameters}
    ordinary, coincident, *_ = examples(objective, values)
    to_positive, to_negative = (np.reshape(g, (ROWS, DIM)) for g in ordinary.gradients[1:])
    if value < 3:
        assert np.count_nonzero(np.any(to_positive, axis=1)) >= ROWS // 2
        assert np.count_nonzero(np.any(to_negative, axis=1)) >= ROWS // 2
    x, x_pos, x_neg = (np.reshape(embedding, (ROWS, DIM)) for embedding in coincident.inputs)
    assert [np.array_equal(a, b) for a, b in zip(x, x_pos, strict=True)] == [True, False, True, False]
    assert [np.array_equal(a, b) for a, b in zip(x, x_neg, strict=True)] == [False, True, True, False]


@pytest.mark.parametrize("norm", DISTANCES)
def test_no_row_is_near_the_kink(norm: str) -> None:
    objective = Objective(DISTANCES[norm], LOSSES["hinge"])
    for margin in (0.0, 0.2, 1.0, 2.5):
        ordinary = examples(objective, {"margin": margin})[0]
        x, x_pos, x_neg = (np.reshape(embedding, (ROWS, DIM)) for embedding in ordinary.inputs)
        squared = [np.sum((x - other) ** 2, axis=1) for other in (x_pos, x_neg)]
        d_pos, d_neg = squared if norm == "l2-squared" else np.sqrt(squared)
        assert np.all(np.abs(d_pos - d_neg + margin) > 0.125)
