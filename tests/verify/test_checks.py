"""The measures and the checks of verification: each sees the one error that it is there for."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import mpmath
import numpy as np
import pytest

from derive_triplet import LOSSES, Check, Report, UsageError, differentiate, generate, objective
from derive_triplet.derive.formats import FORMATS
from derive_triplet.derive.targets.numpy import load, runner
from derive_triplet.derive.verify import checks, report
from derive_triplet.derive.verify.checks import BOUND, Runner, run_checks, ulps
from derive_triplet.derive.verify.reference import Exact
from derive_triplet.derive.verify.regimes import regimes

DTYPES = ("float32", "float64")
EPS = {dtype: float(np.finfo(dtype).eps) for dtype in DTYPES}
PARAMETERS = {"temperature": 1.0}

Batch = tuple[Any, Any, Any]
Result = tuple[Any, list[Any]]


# ---------------------------------------------------------------- ulps


def exactly(value: Any, scale: Any = None) -> Exact:
    return Exact([mpmath.mpf(value)], [mpmath.mpf(abs(value) if scale is None else scale)])


@pytest.mark.parametrize("dtype", DTYPES)
def test_an_ulp_is_the_spacing_of_the_float_type_at_the_scale(dtype: str) -> None:
    one = np.ones((), dtype)[()]
    assert ulps([one], exactly(1), dtype) == [0]
    assert ulps([np.nextafter(one, one * 2)], exactly(1), dtype) == pytest.approx([1])
    assert ulps([one], exactly(1 + 3 * mpmath.mpf(EPS[dtype]), 1), dtype) == pytest.approx([3])
    assert ulps([1024 * one], exactly(1024 * (1 - mpmath.mpf(EPS[dtype])), 1024), dtype) == pytest.approx([1])
    assert ulps([one], exactly(1 + mpmath.mpf(EPS[dtype]), 8), dtype) == pytest.approx([1 / 8])


@pytest.mark.parametrize("dtype", DTYPES)
def test_below_the_normal_range_an_ulp_is_the_smallest_subnormal(dtype: str) -> None:
    smallest = np.finfo(dtype).smallest_subnormal
    assert ulps([0 * smallest], exactly(0), dtype) == [0]
    assert ulps([5 * smallest], exactly(0), dtype) == [5]
    assert ulps([5 * smallest], exactly(2 * mpmath.mpf(float(smallest))), dtype) == pytest.approx([3])


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_number_that_is_not_finite_is_never_within_a_bound(dtype: str) -> None:
    wrong = np.array([np.nan, np.inf, -np.inf], dtype)
    nan, *infinite = ulps(wrong, Exact([mpmath.mpf(1)] * 3, [mpmath.mpf(1)] * 3), dtype)
    assert math.isnan(nan)
    assert infinite == [math.inf, math.inf]
    assert not any(Check("", "", dtype, error, BOUND).passed for error in (nan, *infinite))


@pytest.mark.parametrize("dtype", FORMATS)
def test_infinity_is_right_where_the_exact_result_is_rounded_to_it(dtype: str) -> None:
    """And there nothing else is, not even the largest number; nor infinity below."""
    largest, limit = FORMATS[dtype].largest, mpmath.mpf(2) ** (FORMATS[dtype].largest_exponent + 1)
    with mpmath.workdps(50):
        half_way = (largest + limit) / 2
        below = largest + (half_way - largest) * 0.999
    for exact in (half_way, limit, 1e9 * limit):
        assert ulps([math.inf], exactly(exact), dtype) == [0]
        assert ulps([-math.inf], exactly(-exact), dtype) == [0]
        assert ulps([largest], exactly(exact), dtype) == [math.inf]
        assert ulps([-math.inf], exactly(exact), dtype) == [math.inf]
        assert math.isnan(*ulps([math.nan], exactly(exact), dtype))
    assert ulps([largest], Exact([below], [limit]), dtype)[0] < 1
    assert ulps([math.inf], exactly(below), dtype) == [math.inf]
    assert ulps([-largest], exactly(-mpmath.mpf(largest)), dtype) == [0]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_what_is_kept_in_16_bits_is_rounded_to_nearest_and_judged_in_the_type_it_is_computed_in(dtype: str) -> None:
    kept, computed = FORMATS[dtype].eps, EPS["float32"]
    least = FORMATS[dtype].smallest_subnormal
    tie = 1 + mpmath.mpf(kept) / 2
    assert ulps([1, 1 + kept], Exact([tie, tie], [tie, tie]), dtype) == [0, 0]
    # the next number to the nearest, that is to one which was cut off
    assert ulps([1.0], exactly(1 + mpmath.mpf(kept) * 3 / 4, 1), dtype) == pytest.approx([kept / computed / 4])
    assert ulps([1.0], exactly(tie + 3 * mpmath.mpf(computed), 1), dtype) == pytest.approx([3])
    assert ulps([0.0, least], Exact([mpmath.mpf(least) / 2] * 2, [mpmath.mpf(least)] * 2), dtype) == [0, 0]
    assert ulps([0.0], exactly(mpmath.mpf(least) * 0.75), dtype)[0] > BOUND


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_floor_magnifies_what_is_lost_below_the_normal_range(dtype: str) -> None:
    smallest = float(np.finfo(dtype).smallest_subnormal)
    assert ulps([500 * smallest], exactly(0), dtype, floor=100) == pytest.approx([5])
    assert ulps([1 + 4 * EPS[dtype]], exactly(1), dtype, floor=100) == pytest.approx([4])


# ---------------------------------------------------------------- reports


def test_a_finding_fails_whatever_was_said_and_what_is_raised_is_told_with_its_type() -> None:
    silent, raised = Check.finding("runs", "all", "float32", ""), Check.finding("runs", "all", "", ValueError("why"))
    assert not silent.passed
    assert not raised.passed
    assert (raised.worst, raised.bound, raised.unit, raised.detail) == (1, 0, "errors", "ValueError: why")
    assert Check.finding("compiles", "", "", "", there=False).passed


def test_what_is_refused_is_a_finding_and_other_errors_are_not() -> None:
    def refused() -> int:
        raise UsageError("no such thing")

    assert report.exactly("same", "float32", lambda: 0).passed
    assert not report.exactly("same", "float32", lambda: 1).passed
    found = report.exactly("same", "float32", refused)
    assert (found.name, found.regime, found.detail, found.passed) == ("same", "bit for bit", "no such thing", False)
    with pytest.raises(ZeroDivisionError):
        report.exactly("same", "float32", lambda: 1 // 0)


def test_a_check_holds_up_to_its_bound() -> None:
    worst = {4.0: True, 4.0001: False, 0.0: True, math.inf: False, math.nan: False}
    assert {error: Check("loss", "", "float32", error, 4.0).passed for error in worst} == worst


CHECKS = (
    Check("loss", "ordinary", "float32", 0.5, 4),
    Check("loss", "ordinary", "float64", 4.5, 4, detail="row 1, component 0"),
    Check("Taylor remainder", "ordinary", "float64", 0.001, 0.1, unit="of order 2"),
)


def test_a_report_passes_when_all_its_checks_do() -> None:
    assert Report("numpy", "run", (CHECKS[0], CHECKS[2])).passed
    assert Report("numpy", "rendered").passed
    failed = Report("numpy", "run", CHECKS)
    assert not failed.passed
    assert failed.failures == (CHECKS[1],)
    assert failed.summary == "FAILED: 1 of 3 checks"
    assert Report("numpy", "run (somewhere)", CHECKS[:1]).summary == "run (somewhere); 1 checks"


def test_the_table_has_a_line_per_property_and_a_column_per_float_type() -> None:
    header, loss, taylor, detail, verdict = str(Report("numpy", "run", CHECKS)).splitlines()
    assert header.split() == ["check", "regime", "float32", "float64", "bound"]
    assert loss.split() == ["loss", "ordinary", "0.5", "4.5", "4", "ulp", "FAILED"]
    assert taylor.split() == ["Taylor", "remainder", "ordinary", "0.001", "0.1", "of", "order", "2", "ok"]
    assert loss.index("4.5") + 3 == taylor.index("0.001") + 5 == header.index("float64") + 7
    assert detail == "loss, ordinary, float64: row 1, component 0"
    assert verdict == "verification FAILED"


def test_numbers_are_to_the_right_in_columns_of_any_width_and_words_to_the_left() -> None:
    wide = replace(CHECKS[0], worst=-1.25e-100), replace(CHECKS[2], dtype="float32", bound=12345678)
    _, loss, taylor, _ = str(Report("numpy", "run", wide)).splitlines()
    assert loss.index("-1.3e-100") + 9 == taylor.index("0.001") + 5
    assert loss.index("4 ulp") == taylor.index("1.23457e+07 of order 2")


def test_only_errors_of_losses_and_gradients_are_accepted_up_to_more() -> None:
    checks = (
        *CHECKS,
        replace(CHECKS[0], name="gradient"),
        replace(CHECKS[0], unit="numbers"),
        replace(CHECKS[0], name="w"),
    )
    bounds = [check.bound for check in Report("numpy", "run", checks).accepting(5).checks]
    assert bounds == [5, 5, 0.1, 5, 4, 4]
    assert Report("numpy", "run", CHECKS).accepting(3).checks == CHECKS


def test_a_passed_report_ends_in_its_notes_and_level() -> None:
    text = str(Report("cuda", "compiled (here)", CHECKS[:1], notes=("more with X",)))
    assert text.splitlines()[-2:] == ["more with X", "verified to level: compiled (here)"]


def test_a_report_as_data_is_json_with_the_verdict_of_each_check() -> None:
    data = json.loads(json.dumps(Report("numpy", "run", CHECKS, ("a note",)).as_dict()))
    assert (data["target"], data["level"], data["passed"], data["notes"]) == ("numpy", "run", False, ["a note"])
    assert [check["passed"] for check in data["checks"]] == [True, False, True]
    assert data["checks"][2] == {
        "name": "Taylor remainder",
        "regime": "ordinary",
        "dtype": "float64",
        "worst": 0.001,
        "bound": 0.1,
        "unit": "of order 2",
        "detail": "",
        "passed": True,
    }


# ---------------------------------------------------------------- a runner that is wrong in one respect


def right(norm: str = "l2", loss: str = "softmax-mse") -> Runner:
    return runner(load(generate(differentiate(norm, loss), "numpy")))  # type: ignore[no-any-return]


def wrong(change: Callable[[Batch, str, Any, list[Any]], Result]) -> Runner:
    """The right results, changed."""
    inner = right()

    def run(x: Any, x_pos: Any, x_neg: Any, parameters: Mapping[str, float], reduction: str = "none") -> Result:
        loss, gradients = inner(x, x_pos, x_neg, parameters, reduction)
        return change((x, x_pos, x_neg), reduction, loss, list(gradients))

    return run


def failed(run: Runner, dtype: str) -> set[str]:
    of = objective("l2", "softmax-mse")
    checks = run_checks(of, run, [dtype], PARAMETERS, translation_invariant=True)
    assert {check.dtype for check in checks} == {dtype}
    return {check.name for check in checks if not check.passed}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_right_runner_passes_every_check(dtype: str) -> None:
    assert failed(right(), dtype) == set()
    assert failed(wrong(lambda batch, reduction, loss, gradients: (loss, gradients)), dtype) == set()


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_loss_check_sees_a_loss_that_is_off(dtype: str) -> None:
    far = 1 + 16 * EPS[dtype]
    assert failed(wrong(lambda b, reduction, loss, g: (loss * np.asarray(far, dtype), g)), dtype) == {"loss"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_gradient_check_sees_gradients_that_are_off_together(dtype: str) -> None:
    far = np.asarray(1 + 64 * EPS[dtype], dtype)
    assert failed(wrong(lambda b, reduction, loss, g: (loss, [far * part for part in g])), dtype) == {"gradient"}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_sum_check_sees_gradients_that_all_lean_one_way(dtype: str) -> None:
    def lean(batch: Batch, reduction: str, loss: Any, gradients: list[Any]) -> Result:
        ordinary = len(batch[0]) == 3
        return loss, [g + np.asarray(2.2 * EPS[dtype] * ordinary, dtype) * np.abs(g) for g in gradients]

    assert failed(wrong(lean), dtype) == {"gradients sum to 0"}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("factor", [3.0, 1.0001, math.nan, math.inf])
@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_reduction_check_sees_a_wrong_loss_or_gradient(reduction: str, factor: float, dtype: str) -> None:
    scale = np.asarray(factor, dtype)

    def off_loss(batch: Batch, chosen: str, loss: Any, gradients: list[Any]) -> Result:
        return (loss * scale if chosen == reduction else loss), gradients

    def off_gradient(batch: Batch, chosen: str, loss: Any, gradients: list[Any]) -> Result:
        return loss, [*gradients[:2], gradients[2] * scale] if chosen == reduction else gradients

    assert failed(wrong(off_loss), dtype) == {"mean and sum"}
    assert failed(wrong(off_gradient), dtype) == {"mean and sum"}


@pytest.mark.parametrize("bad", [lambda x: 1e-4 * x[:, 0], lambda x: math.nan * x[:, 0]], ids=["slope", "NaN"])
def test_the_taylor_check_sees_a_loss_that_the_gradients_do_not_belong_to(bad: Callable[[Any], Any]) -> None:
    # the loss is right at every point that is compared with the reference, and nowhere else
    of = objective("l2", "softmax-mse")
    known = {row.tobytes() for regime in regimes(of, "float64", PARAMETERS, checks.DIMS) for row in regime.x}

    def off_between(batch: Batch, reduction: str, loss: Any, gradients: list[Any]) -> Result:
        elsewhere = np.array([row.tobytes() not in known for row in batch[0]])
        return (loss + np.where(elsewhere, bad(batch[0]), 0) if reduction == "none" else loss), gradients

    found = failed(wrong(off_between), "float64")
    assert "Taylor remainder" in found
    assert not found & {"loss", "gradient"}


def test_the_taylor_check_sees_a_remainder_of_first_order() -> None:
    assert "Taylor remainder" in failed(wrong(lambda b, reduction, loss, g: (loss, [1.001 * p for p in g])), "float64")


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("row", [0, 1, 2])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_number_that_is_not_finite_is_seen_wherever_it_stands(bad: float, row: int, dtype: str) -> None:
    """And is not forgotten over the finite numbers after it."""

    def in_loss(batch: Batch, reduction: str, loss: Any, gradients: list[Any]) -> Result:
        if reduction == "none" and row < len(loss):
            loss = loss.copy()
            loss[row] = bad
        return loss, gradients

    def in_gradient(batch: Batch, reduction: str, loss: Any, gradients: list[Any]) -> Result:
        if reduction == "none" and row < len(gradients[0]):
            gradients[0][row, 0] = bad
        return loss, gradients

    with np.errstate(invalid="ignore"):
        assert "loss" in failed(wrong(in_loss), dtype)
        assert {"gradient", "gradients sum to 0"} <= failed(wrong(in_gradient), dtype)


def test_a_failure_says_where_it_is() -> None:
    def off(batch: Batch, reduction: str, loss: Any, gradients: list[Any]) -> Result:
        if batch[0].shape == (3, 7):
            gradients[1][2, 4] *= 1.01
        return loss, gradients

    of = objective("l2", "softmax-mse")
    checks = run_checks(of, wrong(off), ["float64"], PARAMETERS, translation_invariant=False)
    found = [(check.name, check.regime, check.detail) for check in checks if check.name == "gradient"]
    assert ("gradient", "ordinary, n = 7", "dL/dx_pos, row 2, component 4") in found
    assert [name for name, _, _ in found if name == "gradients sum to 0"] == []


def test_only_what_is_true_of_the_distance_is_asked() -> None:
    names = [
        {check.name for check in run_checks(objective(), right(), ["float32"], PARAMETERS, translation_invariant=asked)}
        for asked in (True, False)
    ]
    assert names[0] - names[1] == {"gradients sum to 0"}


# ---------------------------------------------------------------- where verification looks


def batches(loss: str, dtype: str) -> dict[str, Sequence[Any]]:
    of = objective("l2", loss)
    return {regime.name: regime.embeddings for regime in regimes(of, dtype, {p.name: p.default for p in of.parameters})}


@pytest.mark.parametrize(("loss", "dtype"), list(itertools.product(LOSSES, DTYPES)))
def test_the_singular_points_are_looked_at(loss: str, dtype: str) -> None:
    at = batches(loss, dtype)
    x, x_pos, x_neg = at["x = x_pos"]
    assert np.array_equal(x, x_pos)
    assert not np.array_equal(x, x_neg)
    x, x_pos, x_neg = at["x = x_neg"]
    assert np.array_equal(x, x_neg)
    assert not np.array_equal(x, x_pos)
    assert all(np.array_equal(at["collapsed, x = x_pos = x_neg"][0], e) for e in at["collapsed, x = x_pos = x_neg"])


@pytest.mark.parametrize(("loss", "dtype", "size"), list(itertools.product(LOSSES, DTYPES, (1e1, 1e2, 1e4))))
def test_differences_of_both_signs_far_beyond_the_range_of_exp_are_looked_at(
    loss: str, dtype: str, size: float
) -> None:
    (embeddings,) = (e for name, e in batches(loss, dtype).items() if name == f"|delta| about {size:.0e}")
    x, x_pos, x_neg = (e.astype(np.float64) for e in embeddings)
    delta = np.linalg.norm(x - x_pos, axis=1) - np.linalg.norm(x - x_neg, axis=1)
    assert delta.min() < -size / 2
    assert delta.max() > size / 2


@pytest.mark.parametrize(("loss", "dtype"), list(itertools.product(LOSSES, DTYPES)))
def test_scales_at_which_the_squares_are_still_representable_are_looked_at(loss: str, dtype: str) -> None:
    scale = {"float32": 1e18, "float64": 1e150}[dtype]
    sizes = [float(np.max(np.abs(e))) for e in batches(loss, dtype).values()]
    assert max(sizes) > scale / 10
    assert min(size for size in sizes if size) < 10 / scale


def far_batches(dtype: str, full_range: bool) -> dict[str, Any]:
    plain, full = (
        {r.name: r.embeddings for r in regimes(objective(), dtype, PARAMETERS, full_range=f)} for f in (False, True)
    )
    assert list(full)[: len(plain)] == list(plain)
    return {name: embeddings for name, embeddings in full.items() if full_range and name not in plain}


@pytest.mark.parametrize("dtype", ["float32", "float64", "bfloat16"])
def test_full_range_is_looked_at_from_subnormal_differences_to_the_largest_distances(dtype: str) -> None:
    computed = FORMATS[FORMATS[dtype].computed_in]
    assert far_batches(dtype, full_range=False) == {}
    sizes = {}
    for name, embeddings in far_batches(dtype, full_range=True).items():
        x, x_pos, x_neg = (np.longdouble(e) for e in embeddings)
        sizes[name] = [float(np.max(np.abs(x - other))) for other in (x_pos, x_neg)]
        assert all(0 < size <= FORMATS[dtype].largest for size in sizes[name]), name
    assert max(sizes["subnormal"]) < FORMATS[dtype].tiny
    assert min(sizes["the largest"]) > FORMATS[dtype].largest / 8
    for size in sizes["subnormal squares"]:
        assert computed.smallest_subnormal < size**2 < computed.tiny
    tiny, huge = computed.smallest_subnormal**0.5, computed.largest**0.5
    kinds = {
        tuple("tiny" if size < tiny else "huge" if size > huge else "ordinary" for size in pair)
        for pair in sizes.values()
    }
    both = {(a, b) for a in ("tiny", "huge", "ordinary") for b in ("tiny", "huge", "ordinary")}
    assert kinds == both - {("huge", "ordinary"), ("ordinary", "huge")}


@pytest.mark.parametrize("norm", ["l2", "l2-squared"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_batch_lies_exactly_on_the_kink(norm: str, dtype: str) -> None:
    (kink,) = (r for r in regimes(objective(norm, "hinge"), dtype, {"margin": 0.2}) if r.name == "on the kink")
    x, x_pos, x_neg = (float(e[0, 0]) for e in kink.embeddings)
    power = {"l2": 1, "l2-squared": 2}[norm]
    assert abs(x - x_pos) ** power - abs(x - x_neg) ** power + kink.parameters["margin"] == 0


def test_the_batches_are_the_same_every_time() -> None:
    for first, second in zip(batches("hinge", "float32").items(), batches("hinge", "float32").items(), strict=True):
        assert first[0] == second[0]
        assert all(np.array_equal(a, b) for a, b in zip(first[1], second[1], strict=True))
