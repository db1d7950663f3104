"""Weights of rows and the mean over the active ones: right code passes, errors that people make fail verification."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pytest

from derive_triplet import Product, differentiate, generate, own_loss, verify
from derive_triplet.derive.targets.numpy import load, runner
from derive_triplet.derive.verify.weighting import REDUCTIONS, weighting_checks


@dataclass(frozen=True)
class Plant:
    """In a product's file that ends in `suffix`, `old`, a regular expression, becomes `new`; `seen_by` is a regime."""

    name: str
    old: str
    new: str
    seen_by: str

    def into(self, product: Product, suffix: str) -> Product:
        text = product.text(suffix)
        wrong = re.sub(self.old, self.new, text, flags=re.MULTILINE)
        assert wrong != text, f"{self.name}: {self.old!r} is not in the text"
        return replace(product, files=tuple(replace(f, text=wrong) if f.text is text else f for f in product.files))


ANY, POWERS, NONE = "any", "powers of 2", "no row is active"
MASKED, HIDDEN, WITHOUT = "0 for rows of NaN and Inf", "NaN in other rows", "none given"

PLANTS = [
    Plant("one gradient without weights", r"factors\[rows\] \* s\b", "(s is saved[0] or factors[rows]) * s", ANY),
    Plant("no gradient with weights", r"^    return weights$", "    return np.ones(len(x))", POWERS),
    Plant("loss without weights", r"weights \* loss", "loss", ANY),
    Plant("a product for the loss", r"np\.where\(weights == 0, 0\.0, (.*)\)", r"\1", MASKED),
    Plant("a product for the gradients", r"found\[factors == 0\] = 0", "pass", MASKED),
    Plant("the other rows masked", r"\[factors == 0\]", "[factors != 0]", MASKED),
    Plant("NaN is not active", r"(\.astype\(x\.dtype\)) != 0", r"\1 > 0", HIDDEN),
    Plant("NaN is no loss", r"np\.where\(weights == 0,", "np.where(~(weights * loss > 0),", HIDDEN),
    Plant("all rows counted for the loss", r"np\.count_nonzero\(loss\.astype\(dtype\)\)", "len(loss)", ANY),
    Plant("all rows counted for the gradients", r"np\.count_nonzero\(weights \* active\)", "len(active)", ANY),
    Plant("masked NaN counted", r"np\.count_nonzero\(weights \* active\)", "np.count_nonzero(active)", MASKED),
    Plant("rows with a weight counted", r"np\.count_nonzero\(weights \* active\)", "np.count_nonzero(weights)", ANY),
    Plant("mean over the weights", r"weights / max\(len\(x\), 1\)", "weights / weights.sum()", ANY),
    Plant("division of the loss by 0", r"max\(n, 1\)", "n", NONE),
    Plant("division of the gradients by 0", r"max\((np\.count_nonzero\(weights \* active\)), 1\)", r"\1", NONE),
    Plant("weights refused", r"weights = _checked_weights\(weights, x\)", "raise TypeError(weights)", "all"),
]  # fmt: skip


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_an_error_in_the_module_fails_verification(plant: Plant) -> None:
    report = verify(plant.into(generate(differentiate("l2", "hinge"), "numpy"), ".py"))
    assert plant.seen_by in {check.regime for check in report.failures}, str(report)


@pytest.mark.parametrize("normalize", [False, True])
@pytest.mark.parametrize("loss", ["softmax-mse", "softmax-nll", "hinge"])
def test_right_code_passes_and_every_check_is_made(loss: str, normalize: bool) -> None:
    product = generate(differentiate("l2-squared", loss, normalize=normalize), "numpy")
    for dtype in product.settings.dtypes:
        checks = weighting_checks(runner(load(product)), dtype, product.settings.values(product.objective))
        assert [check for check in checks if not check.passed] == []
        assert [check.regime for check in checks] == [ANY, POWERS, MASKED, HIDDEN, NONE, WITHOUT]


@pytest.mark.parametrize("parameter", [1e-5, 0.07, 1e10])
def test_right_code_passes_at_other_parameters(parameter: float) -> None:
    for loss, name in (("softmax-mse", "temperature"), ("softmax-nll", "temperature"), ("hinge", "margin")):
        run = runner(load(generate(differentiate("l2", loss), "numpy")))
        assert all(check.passed for check in weighting_checks(run, "float32", {name: parameter}))


def test_rows_that_come_to_no_number_are_not_judged() -> None:
    """The logarithm of a ratio is infinite at rest."""
    product = generate(differentiate("l2", own_loss("log(1 + d_pos/(1 + d_neg))", {})), "numpy")
    assert verify(product).passed

    def never(*arrays: Any, **_: Any) -> Any:
        return np.full(len(arrays[0]), np.nan), [np.full_like(array, np.nan) for array in arrays[:3]]

    assert weighting_checks(never, "float64", {}) == ()


def test_a_mean_over_the_active_rows_that_takes_all_of_them_where_no_weights_are_given_is_seen() -> None:
    right = runner(load(generate(differentiate("l2", "hinge"), "numpy")))

    def wrong(*arguments: Any) -> Any:
        (*batch, parameters, reduction, weights) = arguments if len(arguments) == 6 else (*arguments, "none", None)
        if weights is None and reduction == "mean-active":
            reduction = "mean"
        return right(*batch, parameters, reduction, weights)

    failed = [check.regime for check in weighting_checks(wrong, "float64", {"margin": 0.2}) if not check.passed]
    assert failed == [WITHOUT]


def test_as_many_rows_are_not_active_as_are_would_hide_an_error() -> None:
    plant = Plant("the others counted", r"np\.count_nonzero\(weights \* active\)", "np.sum(weights * active == 0)", ANY)
    report = verify(plant.into(generate(differentiate("l2", "hinge"), "numpy"), ".py"))
    assert plant.seen_by in {check.regime for check in report.failures}, str(report)


def test_what_raises_is_a_finding() -> None:
    def refusing(*arrays: Any, **_: Any) -> Any:
        raise ValueError("no weights here")

    (check,) = weighting_checks(refusing, "float64", {})
    assert not check.passed
    assert check.detail == "ValueError: no weights here"


def test_rows_at_rest_have_weights_but_are_not_active() -> None:
    """Else the mean over the active rows would not be told from others."""
    calls: list[tuple[str, int, int]] = []
    module = load(generate(differentiate("l2", "hinge"), "numpy"))

    def noted(*arguments: Any) -> Any:
        if len(arguments) == 6:
            (*batch, _, reduction, weights) = arguments
            losses = module.value(*batch, reduction="none", weights=weights)
            calls.append((reduction, np.count_nonzero(weights), np.count_nonzero(losses)))
        return runner(module)(*arguments)

    assert all(check.passed for check in weighting_checks(noted, "float64", {"margin": 0.2}))
    assert {calls[at][0] for at in range(3)} == set(REDUCTIONS)
    assert all(1 < active < weighted < 9 for _, weighted, active in calls[:3])
