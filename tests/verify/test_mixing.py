"""Batches with rows of all sizes: right code passes, what decides for a whole batch fails."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from derive_triplet import Product, differentiate, generate
from derive_triplet.derive.rescale import rescale
from derive_triplet.derive.targets.numpy import load, product_runner, runner
from derive_triplet.derive.verify.mixing import mixing_checks

GRADIENTS, PRODUCTS = "rows of all sizes", "Hessian times v: rows of all sizes"
BOTH = {GRADIENTS, PRODUCTS}
TINIEST = r"np\.where\(sums < tiniest, most,"


def failing(of: Product, text: str) -> set[str]:
    module = load(replace(of, files=(replace(of.files[0], text=text),)))
    parameters, full_range = of.settings.values(of.objective), rescale(of.kernel).full_range
    checks = mixing_checks(
        of.objective, runner(module), "float32", parameters, full_range, products=product_runner(module)
    )
    assert {check.name for check in checks} == BOTH
    return {check.name for check in checks if not check.passed}


@pytest.mark.parametrize(("norm", "normalize"), [("l2", False), ("lp", False), ("l1", True)])
def test_right_code_passes(norm: str, normalize: bool) -> None:
    of = generate(differentiate(norm, "softmax-nll", normalize=normalize), "numpy")
    assert not failing(of, of.text(".py"))


@pytest.mark.parametrize(
    ("old", "new", "seen_by"),
    [
        (TINIEST, "np.where(np.any(sums < tiniest), most,", BOTH),
        (r"<= sums.min\(\)", "<= sums.max()", BOTH),
        (r"sums.max\(\) <=", "sums.min() <=", BOTH),
        (r"scale\[:, None\]", "np.max(scale)", BOTH),
        (r"scale\[:, None\]", "scale[-1]", BOTH),
        (r"return not any\(isinstance.*", "return not isinstance(scales[0], np.ndarray)", BOTH),
        (r"d_pos = scaled_pos", "d_pos = (scaled_pos if np.ptp(scale_sum_pos) == 0 else np.nan)", BOTH),
        (r"d_pos = scaled_pos / scale_sum_pos", "d_pos = scaled_pos / np.min(scale_sum_pos)", BOTH),
        (r"rate_pos = scaled_rate_pos / (scale_\w+)", r"rate_pos = scaled_rate_pos / np.max(\1)", {PRODUCTS}),
        (r"inputs = _checked_inputs\(x, x_pos, x_neg, v, .*", "raise ValueError(x)", {PRODUCTS}),
    ],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_what_is_decided_for_all_rows_is_seen(old: str, new: str, seen_by: set[str]) -> None:
    of = generate(differentiate("l2", "softmax-nll"), "numpy")
    wrong = re.sub(old, new, of.text(".py"))
    assert wrong != of.text(".py")
    assert failing(of, wrong) == seen_by
