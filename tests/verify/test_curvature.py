"""The checks of products fail on errors that people make, and their reference is that of the definition."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import Any

import mpmath
import numpy as np
import pytest

from derive_triplet import DISTANCES, LOSSES, Objective, Product, differentiate, generate, own_loss
from derive_triplet.derive.highprecision import objective_value
from derive_triplet.derive.launches import qualified
from derive_triplet.derive.rescale import rescale
from derive_triplet.derive.targets.numpy import load, product_runner
from derive_triplet.derive.verify import nvrtc
from derive_triplet.derive.verify.checks import EMBEDDINGS
from derive_triplet.derive.verify.curvature import run_product_checks
from derive_triplet.derive.verify.executed import on_cpu
from derive_triplet.derive.verify.executed_products import execute_products, launch_checks
from derive_triplet.derive.verify.products import product
from derive_triplet.derive.verify.report import Check
from derive_triplet.derive.verify.selection import Depth, kernels_to_execute

OWN = {
    "squares": own_loss("max(0, d_pos - d_neg + m)**2", {"m": "0.5:>=0"}, name="squares"),
    "nearest": own_loss("min(d_pos, d_neg) + d_pos*d_neg - d_neg", name="nearest"),
    "steep": own_loss("max(0, d_pos - d_neg + m)**1.5", {"m": "0.5:>=0"}, name="steep"),
    "capped": own_loss("min(d_pos, c) - min(d_neg, c)", {"c": "1:>0"}, name="capped"),
    "leaky": own_loss("max(d_pos - d_neg, 0.1*(d_pos - d_neg))", name="leaky"),
    "softened": own_loss("sqrt(d_pos**2 + e) - sqrt(d_neg**2 + e)", {"e": "0.5:>0"}, name="softened"),
    "apart": own_loss("abs(d_pos - d_neg)**1.5", name="apart"),
}
REGIMES = {
    *("ordinary", "other parameters", "near-collapsed", "nearly equal distances", "one component equal"),
    *("|delta| about 10", "short and long directions", "far scales"),
}


def made(norm: str, loss: str, normalize: bool = False, target: str = "numpy", **options: Any) -> Product:
    of = Objective(DISTANCES[norm], {**LOSSES, **OWN}[loss], normalize=normalize)
    return generate(differentiate(of), target, **options)


def checked(text: str, of: Product, dtypes: tuple[str, ...] = ("float32", "float64")) -> tuple[Check, ...]:
    changed = replace(of, files=(replace(of.files[0], text=text),))
    return run_product_checks(
        of.objective,
        product_runner(load(changed)),
        dtypes,
        of.settings.values(of.objective),
        of.derivation.translation_invariant,
        full_range=rescale(of.kernel).full_range,
    )


def failing(checks: Any) -> set[str]:
    return {check.name.removeprefix("Hessian times v: ") for check in checks if not check.passed}


# ---------------------------------------------------------------- right code


@pytest.mark.parametrize(
    ("norm", "loss", "normalize"),
    [(norm, "softmax-nll", False) for norm in DISTANCES]
    + [("l2", "softmax-mse", True), ("l1", "hinge", True), ("l2", "hinge", False), ("l2", "squares", False)]
    + [("lp", "hinge", True), ("linf", "softmax-nll", True)]
    + [("l2", "nearest", False), ("cosine", "nearest", False), ("l2", "steep", False), ("l2", "apart", False)]
    + [("l2", "softened", False)],
)
def test_right_code_passes(norm: str, loss: str, normalize: bool) -> None:
    of = made(norm, loss, normalize)
    checks = checked(of.text(".py"), of)
    assert not failing(checks), [check for check in checks if not check.passed]
    unjudged = {"nearly equal distances"} if loss in ("nearest", "apart") else set()  # the kink is where they are equal
    assert {check.regime for check in checks} >= REGIMES - unjudged
    assert max(check.worst for check in checks if check.unit == "ulp") > 0.01


@pytest.mark.parametrize(("norm", "loss", "regime"), [("l2", "capped", "on the kink"), ("l1", "leaky", "ordinary")])
def test_what_cancels_altogether_is_judged_at_the_size_of_its_terms(norm: str, loss: str, regime: str) -> None:
    of = made(norm, loss)
    checks = checked(of.text(".py"), of)
    assert regime in {check.regime for check in checks}
    assert not failing(checks), [check for check in checks if not check.passed]
    wrong = re.sub(r"( +_write_products\(.*\*into\)\n)", r"\1        into[0][...] += 2.0**-20\n", of.text(".py"))
    assert wrong != of.text(".py")
    assert regime in {check.regime for check in checked(wrong, of) if not check.passed}


def test_an_infinite_second_derivative_that_is_not_masked_is_seen() -> None:
    of = made("l2", "apart")
    masked = "np.where((a == 0) & (b < 0), 0.0, np.power(a, np.full(a.shape, b)))"
    assert of.text(".py").count(masked) == 1
    assert failing(checked(of.text(".py").replace(masked, "np.power(a, b)"), of)) == {"Hessian times v"}


@pytest.mark.parametrize("p", [1.0, 1.0001, 40.0, 100.0])
def test_p_norms_of_any_exponent_pass(p: float) -> None:
    of = made("lp", "softmax-mse", parameters={"p": p})
    checks = checked(of.text(".py"), of)
    assert not failing(checks), [check for check in checks if not check.passed]


# ---------------------------------------------------------------- the reference


@pytest.mark.parametrize(("norm", "normalize"), [("l2", False), ("l2", True), ("cosine", False)])
def test_the_reference_is_a_mixed_difference_of_the_definition(norm: str, normalize: bool) -> None:
    of = Objective(DISTANCES[norm], LOSSES["softmax-mse"], normalize=normalize)
    parameters = {p.name: p.default for p in of.parameters}
    random = np.random.default_rng(8)
    embeddings, direction = (random.normal(size=(3, 2)).tolist() for _ in range(2))
    exact = product(of, embeddings, direction, parameters)
    h = mpmath.mpf(10) ** -25

    def value(along: Any, place: tuple[int, int], amount: Any) -> Any:
        moved = [
            [a + along * b + amount * ((e, k) == place) for k, (a, b) in enumerate(zip(x, v, strict=True))]
            for e, (x, v) in enumerate(zip(embeddings, direction, strict=True))
        ]
        return objective_value(of, *moved, parameters)

    with mpmath.workdps(110):
        for at, name in enumerate(EMBEDDINGS):
            for k, (found, scale) in enumerate(zip(exact.of[name].value, exact.of[name].scale, strict=True)):
                four = [a * b * value(a * h, (at, k), b * h) for a in (1, -1) for b in (1, -1)]
                assert abs(found - mpmath.fsum(four) / (4 * h * h)) <= mpmath.mpf(10) ** -25
                assert scale >= abs(found)


def test_the_reference_follows_the_convention_where_a_distance_has_no_gradient() -> None:
    of = Objective(DISTANCES["l2"], LOSSES["softmax-mse"])
    x, other, v = [1.0, 2.0], [0.5, -1.0], [[1.0, 2.0], [3.0, 5.0], [-1.0, 4.0]]
    parts = product(of, [x, x, other], v, {"temperature": 1.0}).of
    assert parts["x_pos"].value == [0, 0]
    for a, b in zip(parts["x"].value, parts["x_neg"].value, strict=True):
        assert abs(a + b) < 1e-14 < abs(a)
    smooth = Objective(DISTANCES["l2-squared"], LOSSES["softmax-nll"])
    (found, _) = product(smooth, [x, x, x], v, {"temperature": 1.0}).of["x_pos"].value
    assert abs(found - 2 * 0.5 * (3 - 1)) < 1e-25


# ---------------------------------------------------------------- planted errors


@dataclass(frozen=True)
class Plant:
    """`old` is what the text says of products, as a regular expression, and `new` what it says instead."""

    name: str
    old: str
    new: str
    norm: str = "l2"
    loss: str = "softmax-mse"
    normalize: bool = False
    seen_by: str = ""


FIRST = "count_pos[:, None] * du * pick_pos * (np.cumsum(pick_pos != 0, axis=1) == 1)"
PLANTS = [
    Plant("sign of one product flipped", r"np\.negative\(h_x_pos, out=h_x_pos\)", "pass"),
    Plant("sign of a rate flipped", r"rate_delta = rate_pos - rate_neg", "rate_delta = rate_neg - rate_pos"),
    Plant("tangent of a distance dropped", r"(turn_pos = rate_slope) - .*", r"\1"),
    Plant("tangent of the slope dropped", r"turn_pos = rate_slope - ", "turn_pos = -"),
    Plant("tangent of the factor dropped", r"du \* weight_pos", "0 * du"),
    Plant("curvature of the loss without its second factor", r" \* \(2 \* q - s\)", ""),
    Plant("a factor 2 missing", r"4 \* q \* rate_z", "2 * q * rate_z"),
    Plant("1/temperature missing", r"rate_z = rate_delta / temperature", "rate_z = rate_delta"),
    Plant(
        "v_pos and v_neg swapped",
        r"block = \[array\[rows\] for array in inputs\]",
        "block = [inputs[i][rows] for i in (0, 1, 2, 3, 5, 4)]",
    ),
    Plant(
        "x_pos and x_neg swapped",
        r"block = \[array\[rows\] for array in inputs\]",
        "block = [inputs[i][rows] for i in (0, 2, 1, 3, 4, 5)]",
    ),
    Plant(
        "v and x swapped",
        r"block = \[array\[rows\] for array in inputs\]",
        "block = [inputs[i][rows] for i in (3, 1, 2, 0, 4, 5)]",
    ),
    Plant("1/d unmasked", r"where=b == 0", "where=False"),
    Plant("1/d with an epsilon", r"np\.divide\(a, b\)", "np.divide(a, b + 1e-12)"),
    Plant("batch factor missing", r"factors = _factors\(.*", "factors = np.ones(len(x))", seen_by="mean and sum"),
    Plant("scales ignored", r"np\.multiply\(a, scale.*", "a"),
    Plant("a rate left scaled", r"rate_pos = scaled_rate_pos / scale_sum_pos", "rate_pos = scaled_rate_pos"),
    Plant("the direction left unscaled", r"_scaled\(du, scale_sum_pos, out=du\)", "pass"),
    Plant("not linear in v", r"rate_pos = scaled_rate_pos", "rate_pos = 1e-9 + scaled_rate_pos", seen_by="linear in v"),
    Plant("not 0 for a shift", r"(direction_pos \* du)\)", r"\1 + 1e-9 * dx)", seen_by="0 for a shift"),
    Plant("not symmetric", r"np\.add\(h_x_neg, h_x_pos", "np.add(2 * h_x_neg, h_x_pos", seen_by="symmetric"),
    Plant(
        "a row for all",
        r"    rate_z = ",
        "    rate_z = 0 * np.sum(x) + ",
        seen_by="NaN stays in its row",
    ),
    Plant("a product of squares dropped", r"dw \* \(u \+ v\)", "0 * u", norm="l2-squared"),
    Plant(
        "scales of squares not divided by",
        r"= scaled_turn / .*",
        "= scaled_turn",
        norm="l2-squared",
    ),
    Plant(
        "the second derivative of a squared distance dropped",
        r"np\.multiply\(dw, weight",
        "np.multiply(dw, 0 * weight",
        norm="l2-squared",
        loss="hinge",
    ),
    Plant("rate of a norm dropped", r" - rate_x \* u\b", "", normalize=True),
    Plant(
        "rate of a unit vector dropped",
        r"dunit_x\[\.\.\.\] = (.*) - rate_x\[:, None\] \* unit_x",
        r"dunit_x[...] = \1",
        normalize=True,
    ),
    Plant("part along an embedding dropped", r" - turn_along_x \* unit_x\b", "", normalize=True),
    Plant("a norm not squared", r"rate_x = inverse_x \* stretch_x", "rate_x = stretch_x", normalize=True),
    Plant(
        "slope beyond the kink", r"np\.heaviside\(z, 0\.0\)", "np.heaviside(z, 1.0)", norm="l2-squared", loss="hinge"
    ),
    Plant("a power of 0 unmasked", r"np\.where\(\(a == 0\).*", "np.power(a, np.full(a.shape, b))", norm="lp"),
    Plant("a power of 0 that is always 0", r"\(a == 0\) & \(b < 0\)", "a == 0", norm="lp"),
    Plant("a power more", r"exponent_p\[:, None\] / 2 - 1", "exponent_p[:, None] / 2", norm="lp"),
    Plant("an exponent dropped", r"du \* \(exponent_p - 1\)", "du", norm="lp"),
    Plant("another exponent", r"rate_pos \* t\d", "rate_pos * p", norm="lp"),
    Plant("tangent of a p-norm dropped", r"slope \* _masked_ratio\(pull_pos.*", "0", norm="lp"),
    Plant("tangent not over the distance", r"(pull_pos), root_pos", r"\1, 1.0", norm="lp"),
    Plant("the other maximum", r"over_pos = largest_pos", "over_pos = largest_neg", norm="lp"),
    Plant("no maximum", r"largest_pos = max_pos", "largest_pos = np.ones(len(x))", norm="lp"),
    Plant("sign of a power dropped", r" \* np\.sign\(u\)", "", norm="lp"),
    Plant("rate of a power dropped", r"dpower_pos \* unit_x \+ ", "", norm="lp", normalize=True),
    Plant("a rate not over the count", r"(scaled_rate_max_pos) / count_pos", r"\1", norm="linf"),
    Plant("a turn not over the count", r"(turn_neg = rate_slope) / count_neg", r"\1", norm="linf"),
    Plant("the other count", r"(scaled_rate_max_pos) / count_pos", r"\1 / count_neg", norm="linf"),
    Plant("rates of all components", r"_sum\(du \* pick_pos\)", "_sum(du * np.sign(u))", norm="linf"),
    Plant("magnitudes of the rates", r"_sum\(dv \* pick_neg\)", "_sum(np.abs(dv * pick_neg))", norm="linf"),
    Plant("one of several moves it", r"_sum\(du \* pick_pos\)", f"_sum({FIRST})", norm="linf"),
    Plant(
        "rate of a unit vector that is the largest dropped",
        r"_sum\(dunit_x \* pick_pos\)",
        "0.0",
        norm="linf",
        loss="hinge",
        normalize=True,
    ),
    Plant("sign of a component at 0", r"np\.sign\(u\)", "np.where(u >= 0, 1.0, -1.0)", norm="l1", loss="softmax-nll"),
]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_checks_fail_on_an_error_in_a_module(plant: Plant) -> None:
    of = made(plant.norm, plant.loss, plant.normalize)
    before, mark, after = of.text(".py").partition("def hvp(")
    wrong = re.sub(plant.old, plant.new, after)
    assert wrong != after, f"{plant.old!r} is not in the text"
    found = failing(checked(before + mark + wrong, of))
    assert found
    assert plant.seen_by in {"", *found}


def test_code_that_raises_is_a_finding() -> None:
    of = made("l2", "hinge")
    (check,) = checked(of.text(".py").replace("def hvp(", "def product("), of, ("float32",))
    assert not check.passed
    assert check.detail.startswith("AttributeError")


# ---------------------------------------------------------------- CUDA

CUDA_PLANTS = [
    ("", "", set()),
    (r"row\.turn_neg \*= factor;", "", {"mean and sum"}),
    (r"direction_neg \* dv", "direction_neg * v", {"linear in v"}),
    (r"_sum\(sums\.scaled_rate_pos\)", "_sum(sums.scaled_rate_neg)", {"symmetric"}),
    (r"factor_of_row\(upstream, factor, i\)\);\n(?= +place)", "factor);\n", {"upstream gradient"}),
    (r"if \(upstream\[i\] != Real<S>\(0\)\) continue;", "continue;", {"upstream gradient"}),
    (r"narrow\(h_x_neg\[k\], of_x_neg\)", "narrow(h_x_neg[k + 1], of_x_neg)", {"Hessian times v"}),
    (
        r"const index_t start = i \* dim;\n(?= +const product)",
        "const int start = int(i) * int(dim);\n",
        {"last of 2^28 rows"},
    ),
]


@pytest.mark.needs("nvrtc")
@pytest.mark.parametrize(
    ("old", "new", "seen_by"), CUDA_PLANTS, ids=["right", *(old[:20] for old, *_ in CUDA_PLANTS[1:])]
)
def test_checks_fail_on_an_error_in_a_kernel(old: str, new: str, seen_by: set[str]) -> None:
    of = made("l2", "softmax-mse", target="cuda", dtypes=["float32"])
    text = re.sub(old, new, of.text(".cuh")) if old else of.text(".cuh")
    assert (text != of.text(".cuh")) == bool(old)
    names = [k for k in kernels_to_execute("float32", Depth.MOST) if k.startswith(("hvp", "mask"))]
    assert len(names) == 3
    compiled = nvrtc.compile_source(
        text, nvrtc.virtual(nvrtc.architectures()[0]), [qualified(of.objective.stem, k) for k in names], "x"
    )
    runner = on_cpu(of, "float32", compiled)
    found = failing([*execute_products(of, runner, Depth.MOST), *launch_checks(of, runner, Depth.MOST)])
    assert found >= seen_by
    assert bool(found) == bool(seen_by)
