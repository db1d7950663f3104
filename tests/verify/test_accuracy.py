"""Accuracy, measured: generated code keeps its bound, what is naive is seen to be so, and errors are seen."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result

from derive_triplet import (
    DISTANCES,
    LOSSES,
    Accuracy,
    DeriveTripletError,
    UsageError,
    accuracy,
    differentiate,
    generate,
    own_loss,
)
from derive_triplet.cli import main
from derive_triplet.derive.requests import executable_targets
from derive_triplet.derive.targets.numpy import NumpyTarget
from derive_triplet.derive.verify import gpu, naive, nvrtc, ptx
from derive_triplet.derive.verify.accuracy import Column, measure
from derive_triplet.derive.verify.caffe import layer
from derive_triplet.derive.verify.checks import BOUND, QUANTITIES, Worst, differing_beside_bad_rows, worst_errors
from derive_triplet.derive.verify.regimes import Array, regimes

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:torch")

DTYPES = ("float32", "float64")
OBJECTIVES = [("l2", "softmax-mse", False), ("l2-squared", "hinge", False), ("l2", "softmax-nll", True)]


@pytest.fixture
def _no_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naive, "find_spec", lambda name: None)


@cache
def measured(norm: str = "l2", loss: str = "softmax-mse", normalize: bool = False) -> Accuracy:
    """With NumPy, and without PyTorch, which some of the tests have no use for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(naive, "find_spec", lambda name: None)
        return accuracy(differentiate(norm, loss, normalize=normalize))


def errors_of(column: Column, regime: str) -> dict[str, Worst]:
    (errors,) = (errors for name, errors in column.errors if name == regime)
    return {worst.of: worst for worst in errors}


def planted(pattern: str, replacement: str) -> Accuracy:
    """The accuracy of the paper's loss on l2 with an error in the module's text."""
    product = generate(differentiate("l2", "softmax-mse"), "numpy")
    (file,) = product.files
    text = re.sub(pattern, replacement, file.text)
    assert text != file.text
    return measure([replace(product, files=(replace(file, text=text),))])


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, ["--accuracy", *arguments], catch_exceptions=False)


# ---------------------------------------------------------------- ours


@pytest.mark.parametrize(("norm", "loss", "normalize"), OBJECTIVES)
def test_generated_code_keeps_the_bound_in_every_regime(norm: str, loss: str, normalize: bool) -> None:
    found = measured(norm, loss, normalize)
    assert found.passed
    assert found.bound == BOUND
    assert found.dtypes == DTYPES
    for dtype in DTYPES:
        column = found.of("numpy", dtype)
        values = {parameter.name: parameter.default for parameter in found.objective.parameters}
        visited = [regime.name for regime in regimes(found.objective, dtype, values, full_range=True)]
        assert [name for name, _ in column.errors] == visited
        assert {"collapsed, x = x_pos = x_neg", "nearly equal distances", "|delta| about 1e+04", "subnormal"} <= set(
            visited
        )
        assert all([worst.of for worst in errors] == list(QUANTITIES) for _, errors in column.errors)
        assert max(worst.error for _, errors in column.errors for worst in errors) == column.worst.error <= BOUND
        assert column.beside_bad_rows == 0


@pytest.mark.needs("nvrtc")
def test_cuda_keeps_the_bound_in_every_type() -> None:
    found = accuracy(differentiate("l2", "softmax-mse"), "cuda", dtypes=["float32", "bfloat16"])
    assert found.passed
    assert found.of("cuda", "float32").worst.error > 0
    assert found.of("cuda", "bfloat16").method.about.startswith("the generated kernels, PTX of NVRTC")


@pytest.mark.needs("nvrtc")
@pytest.mark.usefixtures("_no_torch")
def test_kernels_on_a_gpu_have_a_column_of_their_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu, "find", lambda: "a GPU that is simulated")
    monkeypatch.setattr(gpu, "load", ptx.load)
    monkeypatch.setattr(gpu, "Device", ptx.Device)
    found = accuracy(differentiate("l2-squared", "hinge"), "cuda", dtypes=["float32"])
    assert [column.method.name for column in found.columns] == ["cuda", "cuda on GPU", "naive"]
    assert found.of("cuda on GPU", "float32").method.about.endswith("executed on a GPU that is simulated")
    assert found.of("cuda on GPU", "float32").errors == found.of("cuda", "float32").errors


@pytest.mark.needs("caffe")
def test_caffe_keeps_the_bound() -> None:
    found = accuracy(differentiate("l2", "softmax-mse"), ["numpy", "caffe"], dtypes=["float32"])
    assert found.passed
    assert [column.method.name for column in found.columns][:3] == ["numpy", "caffe", "naive"]


def test_an_objective_and_a_loss_of_ones_own_are_measured() -> None:
    own = own_loss("where(d_pos < d_neg, tanh(d_pos - d_neg), (d_pos - d_neg)/tau)", {"tau": "1:>0"}, name="bent")
    derivation = differentiate("l2", own)
    found = accuracy(derivation.objective, dtypes=["float64"])
    assert found.passed, str(found)
    assert not found.of("naive", "float64").is_within(BOUND)
    assert "not judged, because" in str(found)


# ---------------------------------------------------------------- what it is compared with


@pytest.mark.parametrize(("norm", "loss"), [(norm, loss) for norm in DISTANCES for loss in LOSSES])
@pytest.mark.parametrize("normalize", [False, True])
def test_naive_formulas_are_right_at_ordinary_points(norm: str, loss: str, normalize: bool) -> None:
    derivation = differentiate(norm, loss, normalize=normalize)
    values = {parameter.name: parameter.default for parameter in derivation.objective.parameters}
    ordinary = [r for r in regimes(derivation.objective, "float64", values) if r.name == "ordinary, n = 7"]
    (regime,) = ordinary
    errors = worst_errors(derivation.objective, naive.naive(derivation, "float64"), regime, "float64")
    assert max(worst.error for worst in errors) < 16


def test_what_is_naive_is_seen_where_it_is_not_finite_and_where_it_is_wrong() -> None:
    column = measured().of("naive", "float32")
    assert not column.method.ours
    assert {worst.shown for worst in errors_of(column, "|delta| about 1e+04").values()} == {"nan"}
    tiny = errors_of(column, "far, scale 1e-30")
    assert tiny["loss"].error < 1  # of a loss that is 1/2, whatever the distances are
    assert {tiny[f"dL/d{name}"].shown for name in ("x_pos", "x_neg")} == {"-inf"}
    assert errors_of(column, "|delta| about 1e+01")["loss"].error > 1e4  # 1 - q
    assert np.isnan(errors_of(column, "x = x_pos")["dL/dx_pos"].error)
    assert measured().passed  # whatever they are
    verdicts = re.findall(r"^(\w+) +\S+ +(ok, at most 4|EXCEEDS 4|no bound) ", str(measured()), re.MULTILINE)
    assert verdicts == [("numpy", "ok, at most 4"), ("naive", "no bound")] * len(DTYPES)


@pytest.mark.needs("torch")
def test_autograd_of_pytorch_is_measured() -> None:
    found = accuracy(differentiate("l2", "softmax-mse"), dtypes=["float32"])
    column = found.of("torch", "float32")
    assert max(worst.error for worst in errors_of(column, "ordinary, n = 7").values()) < 16
    assert {worst.shown for worst in errors_of(column, "|delta| about 1e+04").values()} == {"nan"}
    assert "autograd of PyTorch" in str(found)


def test_a_missing_pytorch_is_named() -> None:
    found = measured()
    (missing,) = found.lacking
    assert missing.name == "torch"
    assert "torch  missing: PyTorch is not installed; pip install torch brings it" in str(found).splitlines()
    assert found.as_dict()["missing"] == {"torch": missing.lacks}


def test_a_broken_pytorch_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(naive, "find_spec", lambda name: True)
    monkeypatch.setitem(sys.modules, "torch", None)  # which is how an import is forbidden
    assert naive.lacks_torch().startswith("PyTorch cannot be imported: ")


# ---------------------------------------------------------------- errors are seen


@pytest.mark.usefixtures("_no_torch")
@pytest.mark.parametrize(
    ("pattern", "replacement", "regime"),
    [
        (r"np\.copyto\(ratio, 0\.0, .*", "pass", "x = x_pos"),
        (r"if not _are_one\(.*\):", "if False:", "far, scale"),
        (r"b / \(a \+ b\)", "1 - a / (a + b)", "|delta| about"),
        (r"= 4 \* q", "= 4.00001 * q", ""),
    ],
)
def test_a_planted_error_exceeds_the_bound(pattern: str, replacement: str, regime: str) -> None:
    found = planted(pattern, replacement)
    assert not found.passed
    assert {column.method.name for column in found.failures} == {"numpy"}
    assert "EXCEEDS 4" in str(found)
    assert "beyond the bound of 4 ULPs" in found.complaints[-1]
    assert regime in found.complaints[-1]


@pytest.mark.usefixtures("_no_torch")
def test_a_row_that_spoils_others_is_seen() -> None:
    found = planted(r"delta = d_pos - d_neg", "delta = d_pos - d_neg + 0 * np.sum(d_pos)")
    assert len(found.failures) == 2
    for column in found.failures:
        assert column.beside_bad_rows > 0
        assert "numbers are wrong beside rows of NaN and Inf" in column.complaint(np.inf)


def test_the_count_of_numbers_beside_bad_rows_has_those_that_hide_nan() -> None:
    batch = [np.ones((4, 7)) for _ in range(3)]

    def results(batch: Sequence[Array]) -> list[Array]:
        return [batch[0].sum(axis=1), *batch[0:1] * 3]

    assert differing_beside_bad_rows(results, batch) == 0
    assert differing_beside_bad_rows(lambda b: [np.nan_to_num(a) for a in results(b)], batch) == 4
    assert differing_beside_bad_rows(lambda b: [a + a.sum() for a in results(b)], batch) == 2 + 3 * 2 * 7


@pytest.mark.usefixtures("_no_torch")
def test_a_module_that_raises_is_one_clear_line() -> None:
    with pytest.raises(DeriveTripletError, match=r"^numpy, float32: ValueError: planted$"):
        planted(r"delta = d_pos - d_neg", "raise ValueError('planted')")


def test_infinity_where_a_number_is_right_is_no_number_and_neither_is_the_reverse() -> None:
    assert Worst("loss", np.inf, found=-np.inf).shown == "-inf"
    assert Worst("loss", np.nan, found=np.nan).shown == "nan"
    assert Worst("loss", np.inf, found=1.0).shown == "finite"
    assert Worst("loss", 0.625).shown == "0.62"


# ---------------------------------------------------------------- the command


@pytest.mark.usefixtures("_no_torch")
def test_the_command_prints_tables_and_writes_nothing(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    result = run("--norm", "l2")
    assert result.exit_code == 0
    assert result.stdout == f"{measured()}\n"
    assert [line for line in result.stdout.splitlines() if "largest errors" in line] == [
        f"softmax-mse on l2, {dtype}: largest errors in ULPs" for dtype in DTYPES
    ]
    table = result.stdout.partition("\n\n")[2].partition("\n\n")[0].splitlines()
    assert table[0].split() == ["regime", "of", "numpy", "naive"]
    assert len({len(line) for line in table}) == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("_no_torch")
def test_the_command_in_json() -> None:
    result = run("--loss", "hinge", "--margin", "0.5", "--dtype", "float32", "--json")
    assert result.exit_code == 0
    parsed = json.loads(result.stdout)
    assert parsed["ok"]
    (found,) = parsed["accuracy"]
    assert (found["loss"], found["bound"], found["passed"]) == ("hinge", BOUND, True)
    ours, other = found["columns"]
    assert (ours["method"], ours["passed"], other["method"], other["passed"]) == ("numpy", True, "naive", None)
    assert other["worst"] == "nan"
    assert {"regime", *QUANTITIES} == ours["errors"][0].keys()


@pytest.mark.usefixtures("_no_torch")
def test_the_command_fails_where_the_bound_is_exceeded_and_accepts_what_it_is_told_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    real = NumpyTarget.generate

    def wrong(self: NumpyTarget, *arguments: Any) -> Any:
        product = real(self, *arguments)
        (file,) = product.files
        return replace(product, files=(replace(file, text=file.text.replace("4 * q", "4.00001 * q")),))

    monkeypatch.setattr(NumpyTarget, "generate", wrong)
    result = run("--dtype", "float32")
    assert result.exit_code == 1
    assert "EXCEEDS 4" in result.stdout
    assert re.fullmatch(r"Error: softmax-mse on l2, numpy, float32: .* ULPs, beyond the bound of 4 .*\n", result.stderr)
    assert run("--dtype", "float32", "--accept-accuracy", "100").exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--check"], "--accuracy measures and writes nothing; it does not go with --check"),
        (["--force"], "it does not go with --force"),
        (["--verify"], "it does not go with --verify"),
        (["--no-verify"], "it does not go with --no-verify"),
        (["-o", "-"], "it does not go with -o -"),
        (["--target", "latex"], "latex has no code whose accuracy can be measured; choose from numpy, c, cuda, caffe"),
        (["--target", "nump"], "no target is called 'nump'; did you mean 'numpy'?"),
        (["--dtype", "float16"], "no dtype of numpy is called 'float16'"),
    ],
)
def test_a_wrong_combination_is_one_clear_line(arguments: list[str], said: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert re.fullmatch(r"Error: [^\n]*\n", result.stderr)
    assert said in result.stderr


def test_what_is_not_executable_is_refused_in_python() -> None:
    with pytest.raises(UsageError, match="latex has no code"):
        accuracy(differentiate("l2", "hinge"), "latex")
    with pytest.raises(UsageError, match="no target was given"):
        accuracy(differentiate("l2", "hinge"), [])


def test_all_means_each_that_is_executable_and_each_is_measured_once() -> None:
    assert executable_targets(["c", "numpy", "c"]) == ["c", "numpy"]
    assert executable_targets(["c", "all"]) == ["numpy", "c", "cuda", "caffe"]


@pytest.mark.usefixtures("_no_torch")
def test_targets_whose_tool_is_missing_are_named_and_alone_they_fail(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(layer, "find", lambda: None)
    monkeypatch.setattr(nvrtc, "is_available", lambda: False)
    result = run("--target", "all", "--dtype", "float32", "--loss", "hinge")
    assert result.exit_code == 0
    assert re.search(r"^cuda +missing: pip install .* brings the compiler NVRTC", result.stdout, re.MULTILINE)
    assert re.search(r"^caffe +missing: '.*' builds Caffe", result.stdout, re.MULTILINE)
    result = run("--target", "caffe")
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: nothing to measure: caffe: [^\n]*\n", result.stderr)
