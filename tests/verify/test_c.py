"""Verification of C passes what is generated, fails on errors that people make, and says how far it got."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from objectives import COVER, NORMALIZED

from derive_triplet import DISTANCES, LOSSES, Objective, Product, UsageError, differentiate, generate, verify
from derive_triplet.derive.verify import c, c_library

DTYPES = {"float32", "float64"}
THOROUGH = ("l2", "softmax-mse")
OBJECTIVES = [
    *(Objective(DISTANCES[norm], LOSSES[loss]) for norm, loss in COVER if (norm, loss) != THOROUGH),
    *(Objective(DISTANCES[norm], LOSSES[loss], normalize=True) for norm, loss in NORMALIZED[1:]),
]
WATCHED = [
    Objective(DISTANCES["lp"], LOSSES["softmax-mse"]),
    Objective(DISTANCES["l1"], LOSSES["hinge"]),  # whose Hessian is 0
    Objective(DISTANCES["linf"], LOSSES["hinge"], normalize=True),
]

needs_cc = pytest.mark.needs("cc")


def made(norm: str = "l2", loss: str = "softmax-mse", **options: Any) -> Product:
    return generate(differentiate(norm, loss), "c", **options)


# ---------------------------------------------------------------- what is generated


@needs_cc
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.stem)
def test_every_layer_is_right(objective: Objective) -> None:
    report = verify(generate(differentiate(objective), "c"))
    assert report.passed, str(report)
    assert report.level.startswith("run (")
    # which unit components are the largest may be a matter of rounding
    assert bool(report.notes) == (objective.normalize and objective.distance.name == "linf")
    for name in ("gradient", "weights", "calls"):
        assert {check.dtype for check in report.checks if check.name == name} == DTYPES


@needs_cc
def test_thorough_verification_takes_threads_and_sanitizers() -> None:
    report = verify(made(*THOROUGH), thorough=True)
    assert report.passed, str(report)
    assert report.notes == ()
    assert any(check.regime == "4 of 5003 components" for check in report.checks)
    for name in ("threads, vectors, streams", "sanitizers"):
        assert {check.dtype for check in report.checks if check.name == name} == DTYPES


@needs_cc
def test_what_the_compiler_does_not_take_is_left_out_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(c.Build, "takes", lambda self, option: option == "-march=native")
    report = verify(made("l2-squared", "hinge", dtypes=["float32"]), thorough=True)
    assert report.passed, str(report)
    assert [note.partition(":")[0].split()[-1] for note in report.notes] == ["-fopenmp", "-fsanitize=address,undefined"]
    assert "sanitizers" not in {check.name for check in report.checks}


@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_arrays_begin_with_a_line_of_the_cache(dtype: str) -> None:
    arrays = [c_library._aligned(size, dtype) for size in range(1, 100)]
    assert [array.size for array in arrays] == list(range(1, 100))
    assert {array.ctypes.data % 64 for array in arrays} == {0}


def build(product: Product, folder: Path) -> c.Build:
    compiler = c.find()
    assert compiler is not None
    return c.Build(compiler, product, folder)


@needs_cc
@pytest.mark.parametrize("objective", WATCHED, ids=lambda objective: objective.stem)
def test_sanitizers_have_no_complaint(objective: Objective, tmp_path: Path) -> None:
    checks = c.sanitized(build(generate(differentiate(objective), "c"), tmp_path))
    assert all(check.passed for check in checks), checks


@needs_cc
def test_one_float_type_is_verified_alone() -> None:
    report = verify(made("l2-squared", "hinge", dtypes=["float64"]))
    assert report.passed
    assert {check.dtype for check in report.checks} == {"float64", ""}


def test_without_a_compiler_it_says_rendered_and_how_to_get_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(c.COMPILER_VARIABLE, raising=False)
    monkeypatch.setenv("PATH", "")
    report = verify(product := made())
    assert (report.level, report.checks) == ("rendered", ())
    assert "cc, gcc, clang on the PATH" in report.notes[0]
    with c.methods(product) as (method,):
        assert method.lacks == report.notes[0]


def test_a_compiler_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(c.COMPILER_VARIABLE, "no-such-cc -m64")
    with pytest.raises(UsageError, match="CC is 'no-such-cc -m64', but there is no no-such-cc"):
        verify(made())


@needs_cc
def test_the_compiler_may_have_options(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv(c.COMPILER_VARIABLE, "cc -ffast-math")
    with pytest.raises(UsageError, match="compile without -ffast-math"):
        build(made(), tmp_path).library("fast", ())


# ---------------------------------------------------------------- planted errors


@dataclass(frozen=True)
class Plant:
    """In the source `old`, a regular expression, becomes `new`; `seen_by` names a check, or one of two."""

    name: str
    old: str
    new: str
    seen_by: str
    norm: str = "l2"
    loss: str = "softmax-mse"

    def into(self, product: Product) -> Product:
        text = product.text(".c")
        wrong = re.sub(self.old, self.new, text, flags=re.MULTILINE)
        assert wrong != text, f"{self.name}: {self.old!r} is not in the text"
        return replace(product, files=tuple(replace(f, text=wrong) if f.text is text else f for f in product.files))


PLANTS = [
    Plant("sign flipped", r"grad_x_pos = -u", "grad_x_pos = u", "gradient"),
    Plant("factor 2 of the loss missing", r"= 2\.0f? \* s \* s", "= s * s", "loss"),
    Plant("1/d unmasked", r"b == 0\.0f? \? 0\.0f? : a / b", "a / b", "gradient"),
    Plant("wrong index", r"= row->x_neg\[k\]", "= row->x_pos[k]", "loss"),
    Plant("last component left out", r"^ +(accumulate_f\d+\(row, k,)", r"if (k + 1 < end) \1", "loss"),
    Plant("last gradient left out", r"for \(; k < row->dim; \+\+k\)", "for (; k + 1 < row->dim; ++k)", "gradient"),
    Plant("one gradient too many", r"for \(; k < row->dim; \+\+k\)", "for (; k <= row->dim; ++k)", "runs or calls"),
    Plant("scales missing", r"^ +if \((product_)?leave_the_range.*$", "", "loss"),
    Plant("scaled rows written without", r"if \(unscaled\) \{", "if (unscaled || true) {", "gradient"),
    Plant("the usual power for another", r"= 3\.0f;  // to the", "= 4.0f;  // to the", "loss", norm="lp"),
    Plant("batch factor ignored", r"&row, factor \* weight", "&row, weight + 0 * factor", "mean and sum"),
    Plant("weights ignored", r"&row, factor \* weight", "&row, factor", "weights"),
    Plant("masked rows left to their NaN", r"weight == 0\.0(f?)\) \{", r"weight == 9.0\1) {", "weights"),
    Plant("turn of the Hessian missing", r"^ +row->turn_pos = rate_slope.*$", "row->turn_pos = 0;", "Hessian times v"),
    Plant("row of the neighbour", r"row\.x_pos \+= i \* dim", "row.x_pos += (i ? i - 1 : i) * dim", "gradient"),
    Plant("null pointers taken", r"if \(!arrays\[i\]\.data\)", "if (0)", "calls"),
    Plant("overlaps taken", r"at_b - at_a < a\.bytes", "false", "calls"),
    Plant("totals among the losses taken", r"\{ total, sizeof \*total, true \}", "{ total, 1, false }", "calls"),
    Plant("sizes of sums not tested", r"!is_shape\(rows, 1, sizeof \*loss\)", "0", "calls"),
    Plant("the largest batch refused", r"rows <= PTRDIFF_MAX", "rows < PTRDIFF_MAX", "calls"),
    Plant("no words for a status", r"^ +case \w+_NULL_POINTER: return .*$", "", "calls"),
    Plant("parameters not tested", r" && isfinite\(temperature\)", "", "calls"),
    Plant("last of the rows left out", r"i < rows; \+\+i\) \{\n( +)struct", r"i + 1 < rows; ++i) {\n\1struct", "loss"),
    Plant("lanes in another order of magnitude", r"\(a\[3\] \+ a\[7\]\)", "a[3]", "any order"),
    Plant("unused variable", r"size_t k = 0;", "size_t k = 0; int unused;", "compiles"),
]  # fmt: skip


@needs_cc
@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_an_error_in_the_source_is_seen(plant: Plant) -> None:
    dtypes = ["float64" if plant.seen_by == "Hessian times v" else "float32"]
    report = verify(plant.into(made(plant.norm, plant.loss, dtypes=dtypes)))
    assert {*plant.seen_by.split(" or ")} & {check.name for check in report.failures}, str(report)


SANITIZED = [
    Plant("a component too many is read", r"k < end; \+\+j, \+\+k", "k <= end; ++j, ++k", "buffer-overflow"),
    Plant("a gradient too many", r"; k < row->dim; \+\+k", "; k <= row->dim; ++k", "buffer-overflow"),
    Plant("more partial sums than there are", r"sums\[i % 8\]", "sums[i / 8]", "insufficient space"),
    Plant("lanes out of bounds", r"a\[3\] \+ a\[7\]", "a[3] + a[8]", "insufficient space"),
    Plant("misaligned pointers taken", r"\.data % size\b", ".data % (size / size)", "misaligned address"),
]  # fmt: skip


@needs_cc
@pytest.mark.parametrize("plant", SANITIZED, ids=lambda plant: plant.name)
def test_sanitizers_see_errors(plant: Plant, tmp_path: Path) -> None:
    (check,) = c.sanitized(build(plant.into(made(dtypes=["float64"])), tmp_path))
    assert plant.seen_by in check.detail


BY_BUILD = [
    Plant("another gradient is streamed", r"(m_f32\(grad_x \+ k, of_grad_x)\)", r"\1_pos)", ""),
    Plant("another order of sums with OpenMP", r"^#if defined\(_OPENMP\)$", r"\g<0>\n#define TURNS 1", ""),
    Plant("aligned writes anywhere", r"places % \d+ == 0", "places % 4 == 0", ""),
]  # fmt: skip


@needs_cc
@pytest.mark.parametrize("plant", BY_BUILD, ids=lambda plant: plant.name)
def test_results_that_depend_on_how_it_is_compiled_are_seen(plant: Plant, tmp_path: Path) -> None:
    product = plant.into(made(dtypes=["float32"]))
    built = build(product, tmp_path)
    check = c.as_plain(product, "float32", built.library("plain", c.PLAIN), built.library("fast", c.FAST))
    assert check.name == "threads, vectors, streams"
    assert not check.passed
