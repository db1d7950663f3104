"""Verification in real Caffe passes what is generated, fails on errors that people make, and says how far it got."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from objectives import COVER

from derive_triplet import Product, Report, UsageError, differentiate, generate, verify
from derive_triplet.derive.verify import nvcc
from derive_triplet.derive.verify.caffe import build, gpu, layer

OBJECTIVES = list(COVER)
DTYPES = {"float32", "float64"}

needs_caffe, needs_nvcc = pytest.mark.needs("caffe"), pytest.mark.needs("nvcc")


def made(norm: str = "l2", loss: str = "softmax-mse", **options: Any) -> Product:
    return generate(differentiate(norm, loss), "caffe", **options)


# ---------------------------------------------------------------- what is generated


@needs_caffe
@needs_nvcc
@pytest.mark.parametrize(("norm", "loss"), OBJECTIVES)
def test_every_layer_is_right_in_real_caffe_and_so_are_its_kernels(norm: str, loss: str) -> None:
    report = verify(made(norm, loss))
    assert report.passed, str(report)
    assert report.level == "run (Caffe); kernels run, PTX on the CPU (nvcc: sm_75)"
    assert report.notes == ()
    for name in ("gradient", ".cu gradient", "its own test"):
        assert {check.dtype for check in report.checks if check.name == name} == DTYPES


@needs_caffe
@needs_nvcc
def test_thorough_verification_takes_all_architectures() -> None:
    report = verify(made("l2-squared", "hinge"), thorough=True)
    assert report.passed, str(report)
    assert report.level.endswith("(nvcc: all major architectures)")


@needs_caffe
def test_one_float_type_is_verified_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvcc, "find", lambda: None)
    report = verify(made(dtypes=["float64"]))
    assert report.passed
    assert {check.dtype for check in report.checks} == {"float64"}


def test_without_caffe_it_says_rendered_and_how_to_get_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(build.ROOT_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    report = verify(made())
    assert (report.level, report.checks) == ("rendered", ())
    assert build.COMMAND in report.notes[0]
    assert build.ROOT_VARIABLE in report.notes[0]


def test_a_root_without_caffe_is_an_error(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(build.ROOT_VARIABLE, str(tmp_path))
    with pytest.raises(
        UsageError, match=r"no caffe/caffe.hpp in .*; CAFFE_ROOT names a folder in which Caffe was built"
    ):
        verify(made())


@needs_caffe
def test_without_nvcc_the_gpu_code_is_only_rendered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvcc, "find", lambda: None)
    report = verify(made())
    assert report.passed
    assert report.level == "run (Caffe); .cu rendered"
    assert "nvidia-cuda-nvcc" in report.notes[0]


# ---------------------------------------------------------------- planted errors


@dataclass(frozen=True)
class Plant:
    """In the file that ends in `suffix`, `old`, a regular expression, becomes `new`; `seen_by` names a check."""

    name: str
    suffix: str
    old: str
    new: str
    seen_by: str
    norm: str = "l2"
    loss: str = "softmax-mse"

    def into(self, product: Product) -> Product:
        text = product.text(self.suffix)
        wrong = re.sub(self.old, self.new, text, flags=re.MULTILINE)
        assert wrong != text, f"{self.name}: {self.old!r} is not in the text"
        return replace(product, files=tuple(replace(f, text=wrong) if f.text is text else f for f in product.files))


CPP, HPP, CU, OWN, TEST = "_layer.cpp", ".hpp", ".cu", "its own test", ""
ONE, TO_LOSS = r"top\[0\]->cpu_diff\(\)\[0\]", "top[0]->cpu_diff()[0]"
PLANTS = [
    Plant("sign of grad_x_pos flipped", HPP, "grad_x_pos = -u", "grad_x_pos = u", "gradient"),
    Plant("factor 2 of the loss missing", HPP, r"= T\(2\) \* s \* s", "= s * s", "loss"),
    Plant("factor 2 of the slope missing", HPP, r"T\(4\) \* q", "T(2) * q", "gradient"),
    Plant("1/d unmasked", HPP, r"b == T\(0\) \? T\(0\) : a / b", "a / b", "gradient"),
    Plant("naive softplus", HPP, r"positive_part\(z\) \+ .*", "log(1 + exp(z));", "loss", loss="softmax-nll"),
    Plant("derivative 1 at the kink", HPP, r"z > T\(0\) \? T\(1\)", "z >= T(0) ? T(1)", "gradient", loss="hinge"),
    Plant("parameter of the net ignored", CPP, r"CHECK\(value >> \*parameter", "double m; CHECK(value >> m", "loss"),
    Plant("positive and negative swapped", CPP, r"(x_\w+ = bottom\[)([12])", r"\1 3 - \2", "loss"),
    Plant("gradients swapped", CPP, r"(grad_x_\w+ =.*)bottom\[([12])", r"\1bottom[3 - \2", "gradient"),
    Plant("batch factor of the loss missing", CPP, "return sum / normalizer_", "return sum", "mean and sum"),
    Plant("batch factor of the gradients missing", CPP, f"{ONE} / normalizer_", TO_LOSS, "gradient"),
    Plant("loss_weight ignored", CPP, ONE, "Dtype(top.size())", "gradient"),
    Plant("weights of the first row for all", CPP, r"restore\(saved \+ i \* weight_count", "restore(saved", "gradient"),
    Plant("last component left out", CPP, r"k < end; (\+\+k\) \{\n      accumulate)", r"k < end - 1; \1", "loss"),
    Plant("last gradient left out", CPP, r"k < end; (\+\+k\) \{\n      propagate)", r"k < end - 1; \1", "gradient"),
    Plant("last lane left out", CPP, r"j < lanes; (\+\+j\) \{\n      sum_)", r"j < lanes - 1; \1", "any order"),
    Plant("gradient of the first row for all", CPP, r"\? grad_x \+ k", "? grad_x + k - i * dim", "gradient"),
    Plant("gradient added to what was there", CPP, r"grad_x_neg\[j\] =", "grad_x_neg[j] +=", "gradient"),
    # nets do not show these
    Plant("old gradients of masked rows", CPP, r"if \(grad_x_neg\) caffe_set.*", "", OWN),
    Plant("propagate_down ignored", CPP, r"propagate_down\[1\] \? (.*) : NULL", r"\1", OWN),
    Plant("shapes not compared", CPP, r"CHECK\(bottom\[i\]->shape\(\) == .*\)$", "CHECK(true)", OWN),
    Plant("empty batch taken", CPP, r"CHECK_GT\(bottom\[i\]->count\(\), 0\)", "CHECK_GT(1, 0)", OWN),
    Plant("unknown parameter taken", CPP, r"return NULL;", "return &parameters->temperature;", OWN),
    Plant("height and width left out", CPP, r"count\(1\)", "shape(1)", OWN),
    # compilers do
    Plant("syntax error", CPP, r"double sum = 0;", "double sum = ;", "compiles"),
    Plant("unused variable", CPP, r"double sum = 0;", r"double sum = 0; int unused;", "compiles"),
]  # fmt: skip


@needs_caffe
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_an_error_in_the_layer_is_seen(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvcc, "find", lambda: None)
    if plant.seen_by != OWN:  # it takes half of the time
        monkeypatch.setattr(layer, "compile_own_test", lambda *_: "left out")
    report = verify(plant.into(made(plant.norm, plant.loss)))
    assert plant.seen_by in {check.name for check in report.failures}, str(report)


GPU_PLANTS = [
    Plant("barrier missing", CU, r"^    __syncthreads\(\);$", "", ".cu runs"),
    Plant("half of the sums left out", CU, r"half = kThreads / 2", "half = kThreads / 4", ".cu loss"),
    Plant("components of other threads left out", CU, r"j \+= kThreads", "j += dim", ".cu loss"),
    Plant("row of the wrong component", CU, r"k / dim \*", "k % dim *", ".cu runs"),
    Plant("factor ignored", CU, r"weight_count, factor", "weight_count, Dtype(1)", ".cu mean and sum"),
    Plant("gradient in the wrong place", CU, r"grad_x_neg\[k\] = to_x_neg", "grad_x_neg[k] = to_x_pos", ".cu gradient"),
    Plant("sum of the negatives not added", CU, r"sums->sum_neg \+= others.sum_neg", "sums->sum_neg += 0", ".cu loss"),
    Plant("one component too many", CU, r"j < dim;", "j <= dim;", ".cu runs"),
    Plant("weights ignored", CU, r"factor \* by", "factor", ".cu weights"),
    Plant("masked rows left to their NaN", CU, r"if \(by != 0\)", "if (true)", ".cu weights"),
    Plant("a gradient nowhere", CU, r"if \(grad_x_neg\) ", "", ".cu gradient left out"),
    Plant("only both", CU, r"if \(grad_x_neg\)", "if (grad_x_pos)", ".cu gradient left out"),
    Plant("syntax error", CU, r"Dtype\* gradients\[3\];", "Dtype* gradients[;", ".cu compiles"),
    Plant("unused variable", CU, r"Dtype\* gradients\[3\];", "Dtype* gradients[3]; int unused;", ".cu compiles"),
]


@needs_caffe
@needs_nvcc
@pytest.mark.parametrize("plant", GPU_PLANTS, ids=lambda plant: plant.name)
def test_an_error_in_the_kernels_is_seen(plant: Plant, tmp_path: Path) -> None:
    caffe = build.find()
    assert caffe is not None
    product = plant.into(made(plant.norm, plant.loss))
    layer.write(product, tmp_path)
    verdict = gpu.verified(product, gpu.compiled(caffe, product, tmp_path, thorough=False), thorough=False)
    failed = [check for check in verdict.checks if not check.passed]
    assert plant.seen_by in {check.name for check in failed}, failed


TEST_PLANTS = [
    Plant("it expects another loss", TEST, r"^  \d\.\d+,$", "  -1,", "TestOrdinary"),
    Plant("it does not compile", TEST, "GradientChecker<Dtype> checker", "GradientChecker checker", "error: "),
    Plant("it tests nothing", TEST, r"(?s)^TYPED_TEST_CASE.*(?=^}  // namespace caffe$)", "", "no test"),
    Plant("it ends in a CHECK", TEST, r"EXPECT_DEATH\((.*?\)), \"the anchors.*", r"\1;", "the anchors are empty"),
]


@needs_caffe
@pytest.mark.parametrize("plant", TEST_PLANTS, ids=lambda plant: plant.name)
def test_an_error_in_its_own_test_is_not_passed_over(plant: Plant, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nvcc, "find", lambda: None)
    product = made(plant.norm, plant.loss)
    (*others, test) = product.files
    wrong = re.sub(plant.old, plant.new, test.text, flags=re.MULTILINE)
    assert wrong != test.text
    report = verify(replace(product, files=(*others, replace(test, text=wrong))))
    assert {check.name for check in report.failures} == {OWN}, str(report)
    assert all(plant.seen_by in check.detail for check in report.failures)


SEEN_BY_DIFFERENCES = ("sign of grad_x_pos flipped", "factor 2 of the slope missing", "gradients swapped")


@needs_caffe
@pytest.mark.parametrize("plant", [p for p in PLANTS if p.name in SEEN_BY_DIFFERENCES], ids=lambda plant: plant.name)
def test_caffes_gradient_checker_sees_errors_by_itself(plant: Plant, tmp_path: Path) -> None:
    caffe = build.find()
    assert caffe is not None
    product = plant.into(made(plant.norm, plant.loss))
    layer.write(product, tmp_path)
    library = layer.compiled(caffe, product, tmp_path)
    checks = layer.own_test(caffe, product, tmp_path, library, layer.compile_own_test(caffe, product, tmp_path))
    assert {check.dtype for check in checks if "TestGradient" in check.detail} == DTYPES


@needs_caffe
def test_a_failed_check_is_quoted_without_its_log() -> None:
    log = "W1124 09:01:02.123456 7 net.cpp:1] x\nF1124 09:01:02.123456 7 a.cpp:3] Check failed: a == b (1 vs. 2) why\n"
    assert (
        layer.complaint(f"{log}*** Check failure stack trace: ***\n    @ 0x7f\n")
        == "Check failed: a == b (1 vs. 2) why"
    )
    assert layer.complaint("killed") == "killed"
    caffe = build.find()
    assert caffe is not None
    with pytest.raises(layer.CaffeError, match=r"^Check failed: .*Unknown layer type: Nonsense"):
        layer.run_net(caffe, "layer { name: 'a' type: 'Nonsense' }", [np.zeros((1, 1))] * 3)


@needs_caffe
def test_a_report_of_a_layer_that_does_not_compile_has_no_level() -> None:
    report: Report = verify(PLANTS[-2].into(made()))
    assert str(report).endswith("verification FAILED")
    assert "error: " in report.failures[0].detail
