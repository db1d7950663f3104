"""The generated CUDA kernels are executed without a GPU, and an error planted into them is found by that."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import pytest

from derive_triplet import DISTANCES, LOSSES, Product, Report, differentiate, generate, verify
from derive_triplet.derive.launches import FLOAT_TYPES, PACKS, THREADS, fused_launch, kernel_names
from derive_triplet.derive.verify import executed, ptx

pytestmark = pytest.mark.needs("nvrtc")


@cache
def made(norm: str = "l2", loss: str = "softmax-mse", dtype: str = "float32") -> Product:
    return generate(differentiate(norm, loss), "cuda", dtypes=[dtype])


def planted(product: Product, pattern: str, replacement: str) -> Product:
    header, launchers = product.files
    text, count = re.subn(pattern, replacement, header.text)
    assert count, f"{pattern} does not occur"
    return replace(product, files=(replace(header, text=text), launchers))


# ---------------------------------------------------------------- right code


@pytest.mark.parametrize(("norm", "loss"), list(itertools.product(DISTANCES, LOSSES)))
def test_the_generated_kernels_are_right(norm: str, loss: str) -> None:
    report = verify(generate(differentiate(norm, loss), "cuda"))
    assert report.passed, str(report)
    assert report.level.startswith("run, PTX on the CPU (NVRTC ")
    assert {check.dtype for check in report.checks if check.name == "gradient"} == {"float32", "float64"}


@pytest.mark.parametrize("parameters", [{"temperature": 0.07}, {"temperature": 1e-5}, {"temperature": 30.0}])
def test_the_kernels_are_right_at_other_parameters(parameters: Mapping[str, float]) -> None:
    report = verify(generate(differentiate("l2", "softmax-mse"), "cuda", parameters=parameters))
    assert report.passed, str(report)


# ---------------------------------------------------------------- every kernel is launched


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_a_thorough_verification_launches_every_kernel(dtype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launched = set()
    launch = executed.Layer._launch
    reduced = executed.Layer.reduced

    def noted(self: executed.Layer, kernel: str, *rest: object) -> ptx.Launch:
        launched.add(kernel)
        return launch(self, kernel, *rest)  # type: ignore[arg-type]

    def noted_reduction(self: executed.Layer, factor: float) -> object:
        launched.add(f"reduce_by_block<{self.scalar}>")
        return reduced(self, factor)

    monkeypatch.setattr(executed.Layer, "_launch", noted)
    monkeypatch.setattr(executed.Layer, "reduced", noted_reduction)
    monkeypatch.setattr("derive_triplet.derive.verify.nvrtc.architectures", lambda: ("sm_75",))
    report = verify(made("l2", "hinge", dtype), thorough=True)
    assert report.passed, str(report)
    assert {f"triplet_hinge_l2::{kernel}" for kernel in launched} == set(kernel_names("triplet_hinge_l2", [dtype]))


@pytest.mark.parametrize("dtype", FLOAT_TYPES)
def test_the_kernel_launched_is_the_one_that_holds_the_row(dtype: str) -> None:
    scalar = FLOAT_TYPES[dtype]
    for dim in range(1, 3000):
        kernel, blocks = fused_launch(scalar, 1000, dim)
        width, *held = map(int, re.findall(r", (\d+)", kernel))
        assert width == (scalar.wide if dim % scalar.wide == 0 else 1)
        if held:
            assert held[0] in PACKS
            assert 32 * width * held[0] >= dim
            assert held[0] == PACKS[0] or 32 * width * PACKS[PACKS.index(held[0]) - 1] < dim
            assert blocks == 1000 * 32 // THREADS
        else:
            assert dim > 32 * width * PACKS[-1]
            assert blocks == 1000
        assert f"<{scalar.name}, 1" in fused_launch(scalar, 1000, dim, aligned=False)[0]


# ---------------------------------------------------------------- errors planted into the kernels


@dataclass(frozen=True)
class Plant:
    """What is wrong, the text it replaces by what, and the check that sees it."""

    what: str
    pattern: str
    replacement: str
    seen_by: str
    norm: str = "l2"
    dtype: str = "float32"


PLANTS = [
    # mathematics
    Plant("sign of the positive's gradient", r"grad_x_pos = -", "grad_x_pos = ", "gradient"),
    Plant("factor 2 of the loss", r"loss = T\(2\) \* ", "loss = ", "loss"),
    Plant("factor 4 of the slope", r"slope = T\(4\) \* ", "slope = T(2) * ", "gradient"),
    Plant("1/d not masked", r"b == T\(0\) \? T\(0\) : a / b", "a / b", "gradient"),
    Plant(
        "x_pos and x_neg exchanged",
        r"accumulate\(sums, x\.at\[j\], x_pos\.at\[j\], x_neg\.at\[j\]\)",
        "accumulate(sums, x.at[j], x_neg.at[j], x_pos.at[j])",
        "loss",
    ),
    Plant("temperature ignored", r" / parameters\.temperature", "", "loss"),
    Plant("1 - s instead of q", r"q = sigmoid\(-z\)", "q = T(1) - s", "gradient"),
    Plant("an exponential that overflows", r"-magnitude\(z\)", "-z", "gradient"),
    Plant("factor 2 of the squared distance", r"weight = T\(2\) \* ", "weight = ", "gradient", norm="l2-squared"),
    Plant("a double in single precision", r"return sqrt\(z\)", "return sqrtf(float(z))", "loss", dtype="float64"),
    # kernels
    Plant("no barrier before a read", r"(partial\[warp\] = sums;\n)    __syncthreads\(\);\n", r"\1", "runs"),
    Plant("no barrier after a read", r"    __syncthreads\(\);  // the partial.*\n", "", "runs"),
    Plant("a pack too many", r"pack < packs", "pack <= packs", "runs"),
    Plant("a pack too few", r"pack < packs", "pack < packs - 1", "runs"),
    Plant("a pack too many in a long row", r"pack < dim / V", "pack <= dim / V", "runs"),
    Plant("a pack too few in a long row", r"pack < dim / V", "pack < dim / V - 1", "runs"),
    Plant("half of the shuffle mask", r"0xffffffffu", "0x0000ffffu", "runs"),
    Plant("a sum over half a warp", r"lanes = 16", "lanes = 8", "loss"),
    Plant("all lanes write the loss", r"if \(lane == 0\) loss", "loss", "runs"),
    Plant("loss of the first row only", r"loss\[i\] = row\.loss", "loss[0] = row.loss", "runs"),
    Plant("the wrong row", r"start = i \* dim", "start = (i ^ 1) * dim", "runs"),
    Plant("an element's index in 32 bits", r"index_t start = i \*", "int start = int(i) * (int)", "last of 2^28 rows"),
    Plant("a row's index in 32 bits", r"index_t\(blockIdx\.x\)", "int(blockIdx.x)", "last of 2^28 rows"),
    Plant("upstream gradient ignored", r"upstream \? factor \* upstream\[i\] :", "", "upstream gradient"),
    Plant("factor ignored beside it", r"factor \* upstream\[i\]", "upstream[i]", "upstream gradient"),
    Plant("factor ignored", r"\*= factor", "*= T(1)", "mean and sum"),
    Plant("weights in the wrong place", r"weights\[i \* weight_count \+ 1\] =", "weights[i] =", "upstream gradient"),
    Plant("rows read twice", r"gradients\(row, a\[n\],", "gradients(row, load<T, V>(x + start, pack),", "bytes moved"),
    Plant("mean not divided", r"T\(factor \* sum\)", "T(sum)", "mean and sum"),
    Plant("a row left out of the mean", r"i < rows; i \+= block", "i < rows - 1; i += block", "mean and sum"),
]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_an_error_planted_into_the_kernels_is_found(plant: Plant) -> None:
    report: Report = verify(planted(made(plant.norm, dtype=plant.dtype), plant.pattern, plant.replacement))
    assert plant.seen_by in {check.name for check in report.failures}, str(report)
