"""The generated CUDA kernels are executed without a GPU, and an error planted into them is found by that."""

from __future__ import annotations

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cache

import numpy as np
import pytest
from objectives import COVER

from derive_triplet import Product, Report, differentiate, generate, verify
from derive_triplet.derive.launches import FLOAT_TYPES, qualified
from derive_triplet.derive.verify import executed, nvrtc
from derive_triplet.derive.verify.selection import Depth, kernels_to_execute

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


@pytest.mark.parametrize(("norm", "loss"), COVER)
def test_the_generated_kernels_are_right(norm: str, loss: str) -> None:
    report = verify(generate(differentiate(norm, loss), "cuda", dtypes=FLOAT_TYPES))
    assert report.passed, str(report)
    assert report.level.startswith("run, PTX on the CPU (NVRTC ")
    assert {check.dtype for check in report.checks if check.name == "gradient"} == set(FLOAT_TYPES)


def test_kernels_that_compare_components_of_unit_vectors_are_right() -> None:
    report = verify(generate(differentiate("linf", "hinge", normalize=True), "cuda", dtypes=["float64"]))
    assert report.passed, str(report)


@pytest.mark.parametrize("parameters", [{"temperature": 0.07}, {"temperature": 1e-5}, {"temperature": 30.0}])
def test_the_kernels_are_right_at_other_parameters(parameters: Mapping[str, float]) -> None:
    report = verify(generate(differentiate("l2", "softmax-mse"), "cuda", parameters=parameters))
    assert report.passed, str(report)


SIXTEEN_BITS = list(
    itertools.product(["l2/softmax-mse", "l2-squared/softmax-nll", "l2/hinge"], ["float16", "bfloat16"])
)


@pytest.mark.parametrize(("name", "dtype"), SIXTEEN_BITS)
@pytest.mark.parametrize("architecture", ["compute_75", "compute_90"])
def test_types_of_16_bits_are_right_on_architectures_that_have_them_and_that_do_not(
    name: str, dtype: str, architecture: str
) -> None:
    """bfloat16 is rounded by an instruction from sm_90 on, and by integer arithmetic before."""
    product = made(*name.split("/"), dtype)
    names = [qualified(product.objective.stem, kernel) for kernel in kernels_to_execute(dtype, Depth.MOST)]
    compiled = nvrtc.compile_source(product.text(".cuh"), architecture, names)
    assert ("cvt.rn.bf16.f32" in compiled.ptx) == (dtype == "bfloat16" and architecture == "compute_90")
    checks = executed.execute(product, dtype, compiled, Depth.MOST)
    assert {"loss", "gradient", "mean and sum", "bytes moved", "NaN stays in its row"} <= {c.name for c in checks}
    assert [check for check in checks if not check.passed] == []


@pytest.mark.parametrize("pattern", ["", r" \+ odd"], ids=["right", "ties up"])
def test_bfloat16_is_rounded_to_even_where_two_numbers_are_as_near(pattern: str) -> None:
    product = planted(made("l2-squared", "hinge", "bfloat16"), pattern or "^", "")
    names = [qualified(product.objective.stem, kernel) for kernel in kernels_to_execute("bfloat16", Depth.SHORT)]
    compiled = nvrtc.compile_source(product.text(".cuh"), "compute_75", names)
    layer = executed.on_cpu(product, "bfloat16", compiled).layer(
        [np.full((1, 1), component, np.float32) for component in (0.0, 0.5, 0.0)], {"margin": 1.0}
    )
    found = []
    for step in (1, 3, -1, -3):
        layer.fused((1 + abs(step) * 2.0**-8) * np.sign(step))  # is the gradient of x_pos
        found.append(float(layer.gradients()[1][0, 0]))
    assert (found == [1, 1 + 2.0**-6, -1, -1 - 2.0**-6]) == (not pattern)


# ---------------------------------------------------------------- errors planted into the kernels


@dataclass(frozen=True)
class Plant:
    """What is wrong, the text it replaces by what, and the check that sees it."""

    what: str
    pattern: str
    replacement: str
    seen_by: str
    norm: str = "l2"
    loss: str = "softmax-mse"
    dtype: str = "float32"


PLANTS = [
    # mathematics
    Plant("sign of the positive's gradient", r"grad_x_pos = -", "grad_x_pos = ", "gradient"),
    Plant("factor 2 of the loss", r"loss = T\(2\) \* ", "loss = ", "loss"),
    Plant("factor 4 of the slope", r"slope = T\(4\) \* ", "slope = T(2) * ", "gradient"),
    Plant("1/d not masked", r"b == T\(0\) \? T\(0\) : a / b", "a / b", "gradient"),
    Plant(
        "x_pos and x_neg exchanged",
        r"widen\(x_pos\.at\[j\]\), widen\(x_neg\.at\[j\]\)\);",
        "widen(x_neg.at[j]), widen(x_pos.at[j]));",
        "loss",
    ),
    Plant("temperature ignored", r" / parameters\.temperature", "", "loss"),
    Plant("1 - s instead of q", r"const T q = sigmoid\(-z\)", "const T q = T(1) - s", "gradient"),
    Plant("an exponential that overflows", r"-magnitude\(z\)", "-z", "gradient"),
    Plant("factor 2 of the squared distance", r"weight = T\(2\) \* ", "weight = ", "gradient", norm="l2-squared"),
    Plant("a double in single precision", r"return sqrt\(z\)", "return sqrtf(float(z))", "loss", dtype="float64"),
    Plant(
        "NaN taken for no loss",
        r"z <= T\(0\) \? T\(0\) : z;",
        "z > T(0) ? z : T(0);",
        "NaN stays in its row",
        loss="hinge",
    ),
    Plant(
        "NaN taken for no slope",
        r"z <= T\(0\) \? T\(0\) : z;\n}\n\n// -1",
        "T(0);\n}\n\n// -1",
        "NaN stays in its row",
        "l2-squared",
        "hinge",
    ),
    # rows whose sums leave the range
    Plant("scaled pass left out", r"if \(leave_the_range\(sums, scale\)\)", "if (false)", "gradient"),
    Plant("scaled pass adds to the first", r"sums = \{\};", "", "gradient"),
    Plant("scaled pass not added up", r"(InMemory<Team, S, 1>.*\n)\s+sums = Team::sum\(sums\);", r"\1", "gradient"),
    Plant("scaled pass without scales", r"(InMemory.*)row, scale\}", r"\1row, unscaled<Real<S>>()}", "gradient"),
    Plant("a scale for one of two", r"(?s)(false;\n.*?)scaled \|= scale\.sum_pos != T\(1\);", r"\1", "gradient"),
    Plant("a scale for the other of two", r"(?s)(false;\n.*?)scaled \|= scale\.sum_neg != T\(1\);", r"\1", "gradient"),
    Plant("a distance left scaled", r"d_pos / scale\.sum_pos", "d_pos", "loss"),
    Plant("a square unscaled once", r"delta / scale\.delta / scale", "delta / scale", "loss", "l2-squared", "hinge"),
    Plant("differences in the gradient not scaled", r"(?s)(gradient\(.*?u = )scale\.sum_pos \* ", r"\1", "gradient"),
    Plant("weights saved without their scales", r"= scale\.sum_pos;", "= T(1);", "forward, backward"),
    Plant("squares below the threshold", r"sum < [0-9.e-]+f", "sum < 1e-45f", "gradient"),
    Plant("an overflow not noticed", r"magnitude\(sum\) <= 3[0-9.e+]+f", "sum == sum", "gradient"),
    Plant("too large a scale", r"1.26217\d+e-29f", "8.67e-19f", "gradient"),
    Plant("too small a scale", r"8.11296\d+e\+31f", "1.44e+17f", "gradient"),
    # types of 16 bits
    Plant("bfloat16 cut off", r"bits \+ 0x7fff \+ odd", "bits + 0 * odd", "gradient", dtype="bfloat16"),
    Plant("float16 cut off", r"cvt\.rn\.f16", "cvt.rz.f16", "gradient", dtype="float16"),
    Plant(
        "float16 read as bfloat16",
        r'asm\("cvt\.f32\.f16 .*',
        "wide = __uint_as_float(unsigned(value.bits) << 16);",
        "loss",
        dtype="float16",
    ),
    Plant("lower half of a float", r"unsigned\(value\.bits\) << 16", "unsigned(value.bits)", "loss", dtype="bfloat16"),
    Plant(
        "a NaN that is rounded to infinity",
        r"value == value \? (.*) : 0x7fff",
        r"true ? \1 : 0x7fff",
        "NaN stays in its row",
        dtype="bfloat16",
    ),
    # kernels
    Plant("no barrier before a read", r"(partial\[warp\] = value;\n)\s+__syncthreads\(\);\n", r"\1", "runs"),
    Plant("no barrier after a read", r"    __syncthreads\(\);  // the partial.*\n", "", "runs"),
    Plant(
        "all of 32 warps", r"lane < Threads / 32 \? partial\[lane\]", "true ? partial[lane % (Threads / 32)]", "loss"
    ),
    Plant("the last warp left out", r"lane < Threads / 32", "lane < Threads / 32 - 1", "gradient"),
    Plant("warps of 33", r"lane = threadIdx\.x % 32", "lane = threadIdx.x % 33", "more rows than threads"),
    Plant("a pack too many", r"pack < packs", "pack <= packs", "runs"),
    Plant("a pack too few", r"pack < packs", "pack < packs - 1", "runs"),
    Plant("a pack too many in a long row", r"pack < row\.dim / V", "pack <= row.dim / V", "runs"),
    Plant("a pack too few in a long row", r"pack < row\.dim / V", "pack < row.dim / V - 1", "runs"),
    Plant("half of the shuffle mask", r"0xffffffffu", "0x0000ffffu", "runs"),
    Plant("a sum over half a warp", r"lanes = 16", "lanes = 8", "runs"),
    Plant("all threads write the loss", r"if \(Team::rank\(\) == 0\) \*loss", "*loss", "runs"),
    Plant("loss of the first row only", r"loss \+ i,", "loss,", "runs"),
    Plant("the wrong row", r"start = i \* dim", "start = (i ^ 1) * dim", "runs"),
    Plant("rows taken twice", r"index_t\(gridDim\.x\) \* \(blockDim\.x / 32\)", "gridDim.x", "runs"),
    Plant("an element's index in 32 bits", r"index_t start = i \*", "int start = int(i) * (int)", "last of 2^28 rows"),
    Plant("a row's index in 32 bits", r"index_t\(blockIdx\.x\)", "int(blockIdx.x)", "last of 2^28 rows"),
    Plant("upstream gradient ignored", r"upstream \? factor \* upstream\[i\] :", "", "upstream gradient"),
    Plant("factor ignored beside it", r"factor \* upstream\[i\]", "upstream[i]", "upstream gradient"),
    Plant("factor ignored", r"\*= factor", "*= T(1)", "mean and sum"),
    Plant(
        "weights read in the wrong place",
        r"restore\(weights \+ i \* weight_count",
        "restore(weights + i",
        "upstream gradient",
    ),
    Plant(
        "weights saved in the wrong place",
        r"loss \+ i, weights \+ i \* weight_count",
        "loss + i, weights + i",
        "upstream gradient",
    ),
    Plant("rows read twice", r"end\(source, row", "end(InMemory<Team, S, 1>{place}, row", "bytes moved"),
    Plant("masked rows left to their NaN", r"if \(upstream\[i\] != Real<S>\(0\)\) ", "", "upstream gradient"),
    Plant("other rows masked", r"upstream\[i\] != Real<S>\(0\)", "upstream[i] == Real<S>(0)", "upstream gradient"),
    Plant("the rest of a masked row left", r"dim / V; (.*\n.*store\(grad_x \+ i)", r"32; \1", "upstream gradient"),
    Plant("masked rows in the sum", r"upstream\[i\] == T\(0\) \? 0\.0 : ", "", "weights"),
    Plant("a sum without weights", r"double\(upstream\[i\]\) \*", "", "weights"),
    Plant("all rows counted as active", r"count \+= .* != 0;", "count += 1;", "weights"),
    Plant("the other rows counted as active", r"(count \+= .*) != 0;", r"\1 == 0;", "weights"),
    Plant("shares of 2 where there are no weights", r"upstream\[i\] : T\(1\)", "upstream[i] : T(2)", "weights"),
    Plant("division by no active rows", r"weighted.* != 0 \? (own / .*) : T\(0\)", r"\1", "weights", loss="hinge"),
    Plant("shares without weights", r"upstream \? upstream\[i\] : T\(1\)", "T(1)", "weights"),
    Plant("mean not divided", r"T\(factor \* sum\)", "T(sum)", "mean and sum"),
    Plant("a row left out of the mean", r"i < rows; i \+= Team::size", "i < rows - 1; i += Team::size", "mean and sum"),
]


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.what)
def test_an_error_planted_into_the_kernels_is_found(plant: Plant) -> None:
    product = made(plant.norm, plant.loss, plant.dtype)
    report: Report = verify(planted(product, plant.pattern, plant.replacement))
    assert plant.seen_by in {check.name for check in report.failures}, str(report)
