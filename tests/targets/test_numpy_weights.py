"""What the generated NumPy module promises of weights, and of the mean over the active rows."""

from __future__ import annotations

import warnings
from dataclasses import replace
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from derive_triplet import differentiate, generate
from derive_triplet.derive.targets.numpy import load

REDUCTIONS = ("mean", "sum", "none", "mean-active")


@pytest.fixture(scope="module")
def module() -> ModuleType:
    return load(generate(differentiate("l2", "hinge"), "numpy"))


def batch(rows: int, dim: int, dtype: str = "float64") -> list[Any]:
    """Ordinary triplets; about half of them are active for a hinge."""
    random = np.random.default_rng(rows)
    return [(random.normal(size=(rows, dim)) / dim**0.5).astype(dtype) for _ in range(3)]


def three_rows() -> list[Any]:
    """Distances 1 and 0, 0 and 1, 3 and 0: with margin 0 the losses are 1, 0 and 3."""
    return [np.zeros((3, 2)), np.array([[1.0, 0], [0, 0], [3, 0]]), np.array([[0.0, 0], [0, 1], [0, 0]])]


def test_the_reductions_by_hand(module: ModuleType) -> None:
    weights = np.array([0.5, 2.0, 4.0])
    of = {r: module.value_and_grad(*three_rows(), reduction=r, weights=weights, margin=0.0) for r in REDUCTIONS}
    assert {r: loss.tolist() for r, (loss, _) in of.items()} == {
        "sum": 12.5,
        "mean": 12.5 / 3,  # by the number of rows, whatever their weights
        "mean-active": 12.5 / 2,
        "none": [0.5, 0.0, 12.0],
    }
    for reduction, divisor in (("sum", 1), ("mean", 3), ("mean-active", 2), ("none", 1)):
        np.testing.assert_array_equal(of[reduction][1][1], [[0.5 / divisor, 0], [0, 0], [4 / divisor, 0]])
    assert {r: module.value(*three_rows(), reduction=r, weights=weights, margin=0.0).tolist() for r in REDUCTIONS} == {
        r: loss.tolist() for r, (loss, _) in of.items()
    }


def test_the_weighted_mean_is_a_sum_with_weights_that_sum_to_1(module: ModuleType) -> None:
    weights = np.array([0.5, 2.0, 4.0])
    loss, gradients = module.value_and_grad(*three_rows(), reduction="sum", weights=weights / weights.sum(), margin=0.0)
    assert loss == pytest.approx(12.5 / 6.5)
    assert gradients[1][2, 0] == pytest.approx(4 / 6.5)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_a_mask_takes_rows_away(module: ModuleType, reduction: str, dtype: str) -> None:
    triplet, mask = batch(700, 97, dtype), np.arange(700) % 3 > 0  # several blocks
    assert len(triplet[0]) * triplet[0][0].nbytes > module._BLOCKS[0]
    for embedding in triplet:
        embedding[~mask] = np.nan
    loss, gradients = module.value_and_grad(*triplet, reduction=reduction, weights=mask)
    as_numbers = module.value(*triplet, reduction=reduction, weights=mask.astype(dtype))
    np.testing.assert_array_equal(loss, as_numbers, strict=True)
    rest, of_rest = module.value_and_grad(*(embedding[mask] for embedding in triplet), reduction=reduction)
    share = np.mean(mask) if reduction == "mean" else 1
    np.testing.assert_allclose(loss[mask] if reduction == "none" else loss, share * rest, rtol=1e-6)
    for gradient, wanted in zip(gradients, of_rest, strict=True):
        np.testing.assert_array_equal(gradient[~mask], 0)
        np.testing.assert_allclose(gradient[mask], share * wanted, rtol=1e-6, atol=1e-6 * np.max(np.abs(wanted)))


@pytest.mark.parametrize("loss", ["hinge", "softmax-nll"])
def test_all_weights_1_change_nothing(loss: str) -> None:
    module, triplet = load(generate(differentiate("l2-squared", loss), "numpy")), batch(9, 5, "float32")
    for reduction in REDUCTIONS:
        plain, of_plain = module.value_and_grad(*triplet, reduction=reduction)
        found, of_found = module.value_and_grad(*triplet, reduction=reduction, weights=np.ones(9, "float32"))
        np.testing.assert_array_equal(found, plain)
        np.testing.assert_array_equal(of_found, of_plain)
    mean = module.value(*triplet)
    assert (module.value(*triplet, reduction="mean-active") == mean) == (loss == "softmax-nll")


@pytest.mark.parametrize("weights", [None, np.zeros(3), np.zeros(3, bool), np.array([0.0, 1.0, 0.0])])
def test_no_active_row_gives_0(module: ModuleType, weights: Any) -> None:
    triplet = [np.repeat(embedding[1:2], 3, axis=0) for embedding in three_rows()]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        out = [np.full((3, 2), np.nan) for _ in range(3)]
        loss, _ = module.value_and_grad(*triplet, reduction="mean-active", weights=weights, margin=0.0, out=out)
        assert loss == module.value(*triplet, reduction="mean-active", weights=weights, margin=0.0) == 0
    np.testing.assert_array_equal(out, 0)


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_no_rows_have_no_weights(module: ModuleType, reduction: str) -> None:
    empty = [np.empty((0, 4), "float32")] * 3
    for weights in (None, np.empty(0, "float32"), np.empty(0, bool)):
        loss, gradients = module.value_and_grad(*empty, reduction=reduction, weights=weights)
        assert np.sum(loss) == 0
        assert [gradient.shape for gradient in gradients] == [(0, 4)] * 3


def test_out_may_have_any_strides_where_rows_are_masked(module: ModuleType) -> None:
    triplet, mask = batch(6, 4), np.arange(6) != 2
    whole = np.full((3, 4, 12), np.nan)
    module.value_and_grad(*triplet, weights=mask, out=[part[:, ::-2].T for part in whole])
    _, wanted = module.value_and_grad(*triplet, weights=mask)
    np.testing.assert_array_equal(whole[:, :, ::-2].transpose(0, 2, 1), wanted)
    assert np.all(np.isnan(whole[:, :, ::2]))


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        (np.ones(2), ValueError, r"weights has shape \(2,\); expected \(3,\)"),
        (np.ones((3, 1)), ValueError, r"weights has shape \(3, 1\); expected \(3,\)"),
        (1.0, ValueError, r"weights has shape \(\); expected \(3,\)"),
        (np.ones(3, "float32"), TypeError, "weights is float32; expected float64 or bool"),
        ([1, 0, 1], TypeError, "weights is int64; expected float64 or bool"),
        ([1.0, -0.5, 1.0], ValueError, r"weights has -0\.5; expected finite numbers >= 0"),
        ([1.0, np.nan, 1.0], ValueError, "weights has nan; expected finite numbers >= 0"),
        ([1.0, 0.0, np.inf], ValueError, "weights has inf; expected finite numbers >= 0"),
    ],
)
def test_weights_that_do_not_fit_are_refused(
    module: ModuleType, weights: Any, error: type[Exception], message: str
) -> None:
    out = [np.full((3, 2), 7.0) for _ in range(3)]
    with pytest.raises(error, match=message):
        module.value(*three_rows(), weights=weights)
    with pytest.raises(error, match=message):
        module.value_and_grad(*three_rows(), weights=weights, out=out)
    np.testing.assert_array_equal(out, 7.0)


def test_lists_are_taken_as_weights(module: ModuleType) -> None:
    assert module.value(*three_rows(), weights=[True, False, True], reduction="sum", margin=0.0) == 4
    assert module.value(*three_rows(), weights=[0.5, 0.0, 2.0], reduction="sum", margin=0.0) == 6.5


def test_weights_of_other_blocks_are_seen() -> None:
    """An error that a batch of one block does not show, but the test of masks does."""
    product = generate(differentiate("l2", "hinge"), "numpy")
    for right, wrong in (("factors[rows] * s", "factors[:1] * s"), ("into, factors[rows])", "into, factors[-1:])")):
        assert right in product.text(".py")
        module = ModuleType("wrong")
        exec(product.text(".py").replace(right, wrong), module.__dict__)
        with pytest.raises((AssertionError, IndexError)):
            test_a_mask_takes_rows_away(module, "sum", "float64")


# ---------------------------------------------------------------- products of the Hessian


def assert_products_are_rates(module: ModuleType, reduction: str, dtype: str) -> None:
    """The products of a weighted batch that holds rows of NaN are those of its rows, times what gradients are."""
    triplet, mask = batch(700, 97, dtype), np.arange(700) % 3 > 0
    weights = np.where(mask, 0.5, 0.0).astype(dtype)
    direction = [embedding[::-1].copy() for embedding in triplet]
    gradients = module.value_and_grad(*triplet, reduction=reduction, weights=weights)[1]
    alone = module.value_and_grad(*triplet, reduction="none")[1]
    own = module.hvp(*triplet, *direction, reduction="none")
    for embedding in triplet:
        embedding[~mask] = np.nan
    products = module.hvp(*triplet, *direction, reduction=reduction, weights=weights)
    active = np.any(alone[0] != 0, axis=1)
    share = np.max(np.abs(gradients[0][active])) / np.max(np.abs(alone[0][active & mask]))
    for product, wanted in zip(products, own, strict=True):
        np.testing.assert_array_equal(product[~mask], 0)
        np.testing.assert_allclose(product[mask], share * wanted[mask], rtol=1e-5, atol=1e-5 * share)
        assert np.any(product[mask])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_products_are_weighted_as_gradients_are(module: ModuleType, reduction: str, dtype: str) -> None:
    assert_products_are_rates(module, reduction, dtype)


@pytest.mark.parametrize(
    ("old", "new", "reduction"),
    [
        ("into, factors[rows])", "into, 1 + factors[rows])", "sum"),
        ("np.asarray(factors[rows] * n,", "np.asarray(n,", "none"),
        (
            "factors = _factors(*inputs[:3], weights, reduction",
            'factors = _factors(*inputs[:3], weights, "sum"',
            "mean-active",
        ),
    ],
)
def test_an_error_in_weights_of_products_is_seen(old: str, new: str, reduction: str) -> None:
    product = generate(differentiate("l2", "hinge"), "numpy")
    wrong = product.text(".py").replace(old, new)
    assert wrong != product.text(".py")
    changed = load(replace(product, files=(replace(product.files[0], text=wrong),)))
    with pytest.raises(AssertionError):
        assert_products_are_rates(changed, reduction, "float64")
