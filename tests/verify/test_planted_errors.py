"""Verification fails on errors that people make: each is planted into the rendered text of a product.

A plant names the loss and the distance it is for, where it is not for all, and the check that has to see it.
"""

from __future__ import annotations

import re
import shutil
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import pytest
from objectives import COVER

from derive_triplet import DISTANCES, LOSSES, Product, Report, differentiate, generate, verify
from derive_triplet.derive.lower import lower
from derive_triplet.derive.targets.base import Settings
from derive_triplet.derive.targets.numpy import NumpyTarget
from derive_triplet.derive.verify import nvcc, nvrtc

OBJECTIVES = list(COVER)


@dataclass(frozen=True)
class Plant:
    """`old` is what the text says, as a regular expression, and `new` what it says instead.

    norm: the distances that it is for, all if there is none.
    """

    name: str
    old: str
    new: str
    norm: str = ""
    loss: str = ""
    seen_by: str = ""

    def into(self, product: Product, suffix: str) -> Product:
        text = product.text(suffix)
        wrong = re.sub(self.old, self.new, text, flags=re.MULTILINE)
        assert wrong != text, f"{self.name}: {self.old!r} is not in the text"
        files = tuple(replace(file, text=wrong) if file.text is text else file for file in product.files)
        return replace(product, files=files)


EXACT = "l2 l2-squared"  # distances that can be put exactly on the kink of a hinge, so that none rounds off it
PLANTS = [
    # signs
    Plant("sign of grad_x_pos flipped", r"(_finish\(gradients)", r"into[1][...] *= -1; \1"),
    Plant("sign of grad_x_neg flipped", r"(_finish\(gradients)", r"into[2][...] *= -1; \1"),
    Plant("sign of grad_x flipped", r"(_finish\(gradients)", r"into[0][...] *= -1; \1"),
    Plant("sign of a weight flipped", r"-weight_pos", "weight_pos", norm="l2"),
    Plant("terms of grad_x subtracted", r"add\(grad_x_neg, grad_x_pos", "subtract(grad_x_neg, grad_x_pos", norm="l2"),
    Plant("distances subtracted the wrong way", "d_pos - d_neg$", "d_neg - d_pos", norm="l2"),
    Plant("components subtracted the wrong way", r"subtract\(x_neg, x_pos", "subtract(x_pos, x_neg", norm="l2-squared"),
    # factors
    Plant("factor 2 of the squared distance missing", r"= 2 \* slope", "= slope", norm="l2-squared"),
    Plant("factor 2 of the loss missing", r"= 2 \* s \* s", "= s * s", loss="softmax-mse", seen_by="loss"),
    Plant("factor 2 of the slope missing", r"= 4 \* q", "= 2 * q", loss="softmax-mse", seen_by="gradient"),
    Plant("a power of s missing", r"q \* s \* s", "q * s", loss="softmax-mse", seen_by="gradient"),
    Plant("batch factor of the gradients missing", r"return weights / .*", "return weights", seen_by="mean and sum"),
    Plant("batch factor of the loss missing", r"loss\.sum\(\) / .*\)", "loss.sum())", seen_by="mean and sum"),
    Plant("sum averaged", r'reduction == "sum":', 'reduction == "total":', seen_by="mean and sum"),
    Plant("mean not a number", r"loss\.sum\(\) / ", "np.nan / ", seen_by="mean and sum"),
    Plant("square root missing", r"np\.sqrt\(sum_neg\)", "sum_neg", norm="l2"),
    # singular points
    Plant("1/d unmasked", r"where=b == 0", "where=False", norm="l2"),
    Plant("1/d with an epsilon", r"np\.divide\(a, b\)", "np.divide(a, b + 1e-12)", norm="l2"),
    Plant("distance with an epsilon", r"np\.sqrt\(sum_pos\)", "np.sqrt(sum_pos + 1e-12)", norm="l2"),
    Plant("derivative 1 at the kink", r"heaviside\(z, 0\.0\)", "heaviside(z, 1.0)", EXACT, "hinge", seen_by="gradient"),
    Plant(
        "derivative 1/2 at the kink", r"heaviside\(z, 0\.0\)", "heaviside(z, 0.5)", EXACT, "hinge", seen_by="gradient"
    ),
    Plant("hinge never inactive", r"np\.heaviside\(z, 0\.0\)", "np.ones_like(z)", loss="hinge", seen_by="gradient"),
    # distances of other kinds
    Plant(
        "the rounding not subtracted", r"d_pos = .*", "d_pos = np.hypot(root_pos, epsilon)", "l2-smooth", seen_by="loss"
    ),
    Plant("the rounding missing in a weight", r"\(d_neg \+ epsilon\)", "d_neg", norm="l2-smooth", seen_by="gradient"),
    Plant("the rounding not squared", r"np\.hypot\(root_pos, epsilon\)", "np.hypot(root_pos, epsilon**2)", "l2-smooth"),
    Plant("a component instead of its sign", r"np\.sign\(u\)", "u", norm="l1", seen_by="gradient"),
    Plant("sign of 0", r"np\.sign\(v\)", "np.where(v < 0, -1.0, 1.0)", norm="l1", seen_by="gradient"),
    Plant("absolute value missing", r"np\.abs\(v\)", "v", norm="l1", seen_by="loss"),
    Plant("p not lessened", r"exponent_p - 1\)", "exponent_p)", norm="lp", seen_by="gradient"),
    Plant("root of another p", r"np\.power\(sum_pos, 1 / p\)", "np.sqrt(sum_pos)", norm="lp"),
    Plant("the first for all", r"np\.max\(terms, axis=1\)", "0 * terms[:, 0]", norm="lp", seen_by="loss"),
    Plant("shares not multiplied back", r"d_pos = .*", "d_pos = root_pos", norm="lp", seen_by="loss"),
    Plant("coincident points unmasked", r"where=b == 0", "where=False", norm="lp", seen_by="gradient"),
    Plant("each of several takes all", r"count_pos = .*", "count_pos = 1.0", norm="linf", seen_by="gradient"),
    Plant("all components pull", r"_attains\(np\.abs\(u\), d_pos.*\) \* ", "1 * ", norm="linf", seen_by="gradient"),
    Plant("magnitudes added up", r"np\.max\(terms, axis=1\)", "np.sum(terms, axis=1)", norm="linf", seen_by="loss"),
    Plant(
        "the largest component, not magnitude", r"_largest\(np\.abs\(u\)\)", "_largest(u)", norm="linf", seen_by="loss"
    ),
    Plant("sign of the largest missing", r"np\.sign\(v\)", "1", norm="linf", seen_by="gradient"),
    Plant("the other count", r"slope / count_pos", "slope / count_neg", norm="linf", seen_by="gradient"),
    Plant("the count of a row for all", r"count_pos = .*", "count_pos = 2.0", norm="linf", seen_by="gradient"),
    Plant("part along the anchor left", "along_x = ", "along_x = 0 * ", norm="cosine", seen_by="gradient"),
    Plant("norm not squared out", r"np\.sqrt\(square_x_pos\)", "square_x_pos", norm="cosine"),
    Plant("half of the square missing", r"\(u \+ v\) / 2", "(u + v)", norm="cosine", seen_by="loss"),
    Plant("zero vector unmasked", r"where=b == 0", "where=False", norm="cosine", seen_by="gradient"),
    # parameters
    Plant("temperature ignored", "delta / temperature", "delta", loss="softmax-mse"),
    Plant("temperature ignored", "delta / temperature", "delta", loss="softmax-nll"),
    Plant("1/temperature of the slope missing", r"(slope = .*) / temperature", r"\1", loss="softmax-mse"),
    Plant("1/temperature of the slope missing", r"(slope = .*) / temperature", r"\1", loss="softmax-nll"),
    Plant("margin dropped", r"delta \+ margin", "delta", norm="l2", loss="hinge"),
    Plant("margin dropped", r"margin \+ unscaled", "unscaled", norm="l2-squared", loss="hinge"),
    Plant("margin subtracted", r"delta \+ margin", "delta - margin", norm="l2", loss="hinge"),
    Plant("margin subtracted", r"margin \+ unscaled", "-margin + unscaled", norm="l2-squared", loss="hinge"),
    # stability
    Plant("1 - s", r"b / \(a \+ b\)", "1 - a / (a + b)", norm="l2", loss="softmax-mse", seen_by="gradient"),
    Plant("1 - q", r" s = _sigmoid\(z\)", " s = 1 - _sigmoid(-z)", loss="softmax-nll", seen_by="gradient"),
    Plant("naive ratio", r"a, b = .*", "a, b = np.exp(z), 1", "l2", "softmax-mse"),
    Plant("naive ratio", r"return np\.exp\(np\.min.*", "return np.exp(z) / (1 + np.exp(z))", loss="softmax-nll"),
    Plant("naive softplus", r"return np\.maximum\(z.*", "return np.log(1 + np.exp(z))", loss="softmax-nll"),
    Plant("softplus without log1p", r"np\.log1p\(", "np.log(1 + ", loss="softmax-nll", seen_by="loss"),
    Plant("s and q swapped", r"s, q = ", "q, s = ", loss="softmax-mse"),
    Plant("s and q swapped", r" s = _sigmoid\(z\)", " s = _sigmoid(-z)", loss="softmax-nll", seen_by="gradient"),
    Plant(
        "squared distances by their Gram expansion",
        r"_sum_of_squares\(u\)",
        "np.sum(x**2, axis=1) - 2*np.sum(x*x_pos, axis=1) + np.sum(x_pos**2, axis=1)",
        norm="l2",
    ),
    # the wrong data
    Plant("positive and negative swapped", r"block = x\[rows\], .*", "block = x[rows], x_neg[rows], x_pos[rows]"),
    Plant("anchor and positive swapped", r"block = x\[rows\], .*", "block = x_pos[rows], x[rows], x_neg[rows]"),
    Plant("gradients returned in the wrong order", r"(x\.dtype\), gradients)", r"\1[::-1]", seen_by="gradient"),
    Plant("wrong index read", r"= x\[rows\], x_pos\[rows\]", "= x[rows], np.roll(x_pos[rows], 1, axis=1)"),
    Plant("wrong index read", r"= x\[rows\], x_pos\[rows\]", "= x[rows], x_pos[rows][:, :1] + 0 * x[rows]"),
    Plant("wrong index written", r"(_finish\(gradients)", r"into[2][...] = np.roll(into[2], 1, axis=1); \1"),
    Plant("wrong embedding", r"= (x\[rows\], x_pos\[rows\]), x_neg", r"= \1, x_pos"),
    Plant("output not written", r"^( +)(np.*out=grad_x_pos\)|grad_x_pos\[\.\.\.\] = .*)$", r"\1pass"),
    Plant(
        "value takes positive for negative",
        r"(def _losses[\s\S]*?block = x\[rows\]), x_pos\[rows\], x_neg",
        r"\1, x_neg[rows], x_pos",
    ),
    # rows whose sums leave the range
    Plant("second pass left out", r"if not _are_one\(", "if False and not _are_one(", norm="l2", seen_by="gradient"),
    Plant("scales ignored", r"np\.multiply\(a, scale.*", "a", norm="l2", seen_by="gradient"),
    Plant("a distance left scaled", r"scaled_pos / scale_sum_pos", "scaled_pos", norm="l2", seen_by="loss"),
    Plant("too small a scale", r"2\.0\*\*106", "2.0**57", norm="l2", seen_by="gradient"),
    Plant("squares below the threshold", r"2\.0\*\*-(126|102)", "2.0**-149", norm="l2", seen_by="gradient"),
    Plant("many squares below the threshold", r"2\.0\*\*-(102|969)", "0.0", norm="l2", seen_by="gradient"),
    Plant("an overflow not noticed", r"<= largest", "<= np.inf", norm="l2", seen_by="gradient"),
    # blocks of rows and pieces of columns
    Plant("last row of a block left out", r"min\(first \+ rows, end\)", "min(first + rows, end) - 1"),
    Plant("rows beyond a block taken for its own", r"gradient\[rows\] for", "gradient[:rows.stop - rows.start] for"),
    Plant("column of the next piece counted twice", r"terms\[:, whole:\]", "terms[:, whole - 1 :]", norm="l2"),
    Plant("sum of the last piece only", r"return sums \+ ", "return ", norm="l2"),
]

CASES = [
    pytest.param(norm, loss, plant, id=f"{norm}, {loss}: {plant.name}")
    for plant in PLANTS
    for norm, loss in OBJECTIVES
    if norm in (plant.norm.split() or [norm]) and plant.loss in ("", loss)
]


def numpy_product(norm: str, loss: str) -> Product:
    return generate(differentiate(norm, loss), "numpy")


@pytest.mark.parametrize(("norm", "loss"), OBJECTIVES)
def test_verification_passes_without_an_error(norm: str, loss: str) -> None:
    assert verify(numpy_product(norm, loss)).passed


@pytest.mark.parametrize(("norm", "loss", "plant"), CASES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_verification_fails_on_an_error_in_the_module(norm: str, loss: str, plant: Plant) -> None:
    report = verify(plant.into(numpy_product(norm, loss), ".py"))
    assert not report.passed
    if plant.seen_by:
        assert {check.name for check in report.failures} & {plant.seen_by}, str(report)
    assert "FAILED" in str(report)


def test_every_distance_and_loss_has_plants_of_its_own() -> None:
    assert {norm for plant in PLANTS for norm in plant.norm.split()} >= set(DISTANCES)
    assert {plant.loss for plant in PLANTS} >= set(LOSSES)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("again + maps", "again + maps[:-1]"),
        ("again + maps", "again + maps | map('replace', 'weight_neg', 'weight_pos') | list"),
        ("= _{{ function }}({{ name }}, x.dtype)", "= 1.0"),
        ("_row(*block, ", "_row(*block[::-1], "),
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_verification_fails_on_an_error_in_a_template(tmp_path: Path, old: str, new: str) -> None:
    root = tmp_path / "templates"
    shutil.copytree(str(files("derive_triplet") / "templates" / "numpy"), root / "numpy")
    texts = {path: path.read_text(encoding="utf-8") for path in root.rglob("*.jinja")}
    (template,) = (path for path, text in texts.items() if old in text and not path.name.startswith("hvp"))
    template.write_text(texts[template].replace(old, new), encoding="utf-8")

    class Mistaken(NumpyTarget):
        template_root = root  # type: ignore[assignment]

    derivation = differentiate("l2", "softmax-mse")
    product = Mistaken().generate(derivation, lower(derivation), Settings())
    assert product.text(".py") != numpy_product("l2", "softmax-mse").text(".py")
    assert not Mistaken().verify(product).passed


# ---------------------------------------------------------------- CUDA, as far as compiling it goes

CUDA_PLANTS = [
    Plant("syntax error", r"T z = ", "T z == ", seen_by="compiles"),
    Plant("type error", r"sums\.sum_pos \+=", "sums +=", seen_by="compiles"),
    Plant("kernel missing", r"forward_backward_long\(", "for_long_rows(", seen_by="compiles"),
    Plant(
        "unused variable", r"\(float z\) \{ return sqrtf", "(float z) { int unused; return sqrtf", seen_by="warnings"
    ),
    Plant("too few registers", r"__launch_bounds__\(256, .*\)\n", "__launch_bounds__(1024)\n", seen_by="spilled"),
    Plant("row not in registers", r"(#pragma unroll)\n(?= +for \(int n )", r"\1 1\n"),
]


@pytest.fixture(scope="module")
def cuda_product() -> Product:
    return generate(differentiate("l2", "softmax-mse"), "cuda", dtypes=["float32"])


@pytest.mark.needs("nvrtc")
def test_verification_of_cuda_passes_without_an_error(cuda_product: Product) -> None:
    report = verify(cuda_product)
    assert report.passed
    assert report.level.startswith("run, PTX on the CPU (NVRTC")
    assert {check.name for check in report.checks} >= {
        *("kernels compiled", "warnings", "gradient"),
        *("Hessian times v", "Hessian times v: upstream gradient"),
    }


@pytest.mark.needs("nvrtc")
@pytest.mark.parametrize("plant", CUDA_PLANTS, ids=lambda plant: plant.name)
def test_verification_fails_on_an_error_in_the_header(
    cuda_product: Product, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    oldest = nvrtc.architectures()[:1]
    monkeypatch.setattr(nvrtc, "architectures", lambda: oldest)
    monkeypatch.setattr(nvcc, "find", lambda: None)
    report = verify(plant.into(cuda_product, ".cuh"), thorough=True)  # all kernels, also those that need most registers
    assert not report.passed
    assert all(check.name.startswith(plant.seen_by) and check.detail for check in report.failures)


LAUNCHER_PLANTS = [
    Plant("syntax error", r"return launch\(", "return launch((", seen_by="expected"),
    Plant("wrong argument", r"rows, dim, parameters\);", "rows, parameters);", seen_by="launch"),
    Plant("unused variable", r"( *)index_t blocks;", r"\1const int unused = 1;\n\g<0>", seen_by="unused"),
]


@pytest.mark.needs("nvcc")
@pytest.mark.parametrize("plant", LAUNCHER_PLANTS, ids=lambda plant: plant.name)
def test_verification_by_nvcc_fails_on_an_error_in_the_launchers(
    cuda_product: Product, plant: Plant, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(nvrtc, "is_available", lambda: False)
    report = verify(plant.into(cuda_product, ".cu"))
    assert [check.name for check in report.failures] == ["nvcc"]
    assert plant.seen_by in report.failures[0].detail


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_a_failed_report_is_never_given_a_level() -> None:
    report: Report = verify(PLANTS[0].into(numpy_product("l2", "hinge"), ".py"))
    assert str(report).endswith("verification FAILED")
    assert report.summary.startswith("FAILED")
    assert report.as_dict()["passed"] is False
