"""What the C target writes, and what it promises to C, to C++ and to other languages."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from objectives import COVER, NORMALIZED

from derive_triplet import (
    DISTANCES,
    LOSSES,
    Distance,
    Loss,
    Objective,
    Parameter,
    Product,
    UsageError,
    differentiate,
    generate,
    own_loss,
)
from derive_triplet.derive.targets.c import folded
from derive_triplet.derive.verify import c

STRICT = ("-std=c11", "-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Wshadow", "-Werror", "-fsyntax-only")
NO_PARAMETERS = Objective(DISTANCES["l2"], Loss("ratio", "squared over distance", "d_pos**2 / (1 + d_neg)", "made up"))
EVERY_FUNCTION = Objective(
    Distance("logarithm", "it grows slowly", "log(2 + sum((x - y)**2))", "made up"), LOSSES["softmax-nll"]
)
FLAT = Objective(DISTANCES["l1"], LOSSES["hinge"])
OBJECTIVES = [
    *(Objective(DISTANCES[norm], LOSSES[loss]) for norm, loss in COVER),
    *(Objective(DISTANCES[norm], LOSSES[loss], normalize=True) for norm, loss in NORMALIZED),
    *(NO_PARAMETERS, EVERY_FUNCTION, FLAT),
]

needs_cc = pytest.mark.needs("cc")


def made(objective: Objective, **options: Any) -> Product:
    return generate(differentiate(objective), "c", **options)


def complaint(command: list[str], product: Product, folder: Path, name: str) -> str:
    for file in product.files:
        (folder / Path(file.path).name).write_text(file.text, encoding="utf-8")
    return subprocess.run([*command, name], cwd=folder, capture_output=True, text=True, check=False).stderr


def test_the_default_exponent_is_a_constant_where_it_is_a_small_whole_number() -> None:
    """Then compilers make products of powers; of another one they cannot, and nothing is written twice."""
    lp, said = Objective(DISTANCES["lp"], LOSSES["hinge"]), "exponent_p == {}f"
    assert made(lp).text(".c").count(said.format("3.0")) == 2  # a sum, and what writes gradients
    for p, times in ((2.0, 2), (2.5, 0), (5.0, 0)):
        assert made(lp, parameters={"p": p}).text(".c").count(said.format(p)) == times


@needs_cc
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.stem)
def test_no_compiler_has_a_complaint(objective: Objective, tmp_path: Path) -> None:
    compiler = c.find()
    assert compiler is not None
    product = made(objective)
    for options in ((), ("-fopenmp",)):
        assert complaint([*compiler, *STRICT, *options], product, tmp_path, f"{objective.stem}.c") == ""


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.stem)
def test_lines_fit_and_names_are_those_of_the_objective(objective: Objective) -> None:
    product = made(objective)
    assert [file.path for file in product.files] == [f"c/{objective.stem}.h", f"c/{objective.stem}.c"]
    for file in product.files:
        own = [line for line in file.text.splitlines() if not line.startswith("//     ")]  # which are formulas
        assert max(map(len, own)) <= 120
        assert not re.search(r"[ \t]$|\n\n\n", file.text, re.MULTILINE)
    declared = set(re.findall(r"^int (\w+)\($", product.text(".h"), re.MULTILINE))
    assert declared == set(re.findall(r"^int (\w+)\($", product.text(".c"), re.MULTILINE))
    assert all(name.startswith(objective.stem) for name in declared)


@needs_cc
@pytest.mark.skipif(shutil.which("c++") is None, reason="no C++ compiler")
def test_the_header_is_one_of_cpp_as_well(tmp_path: Path) -> None:
    strict = ["c++", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-fsyntax-only", "-x", "c++"]
    product = made(OBJECTIVES[0])
    (tmp_path / "twice.cpp").write_text(f'#include "{OBJECTIVES[0].stem}.h"\n' * 2)
    assert complaint(strict, product, tmp_path, "twice.cpp") == ""


@needs_cc
def test_fast_math_is_refused(tmp_path: Path) -> None:
    compiler = c.find()
    assert compiler is not None
    for option in ("-ffast-math", "-ffinite-math-only"):
        said = complaint([*compiler, "-fsyntax-only", option], made(OBJECTIVES[0]), tmp_path, f"{OBJECTIVES[0].stem}.c")
        assert "compile without -ffast-math" in said


def test_one_float_type_has_functions_of_one() -> None:
    text = made(OBJECTIVES[0], dtypes=["float64"]).text(".c")
    assert "_f64(" in text
    assert not re.search(r"_f32|\bfloat\b|\d\.\d+f\b", text)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_other_float_types_are_refused(dtype: str) -> None:
    with pytest.raises(UsageError, match=dtype):
        made(OBJECTIVES[0], dtypes=[dtype])


@needs_cc
def test_parameters_may_have_names_that_the_source_uses(tmp_path: Path) -> None:
    """What is declared in a function that has parameters must not hide one."""
    compiler = c.find()
    assert compiler is not None
    parameters = dict.fromkeys(("i", "status", "bytes_of_row", "arrays", "scale", "streamed"), "1:>0")
    formula = "*".join(("d_pos/(1 + d_neg)", *parameters))
    loss = own_loss(formula, parameters, name="odd-names")
    product = generate(differentiate("l2", loss), "c")
    assert complaint([*compiler, *STRICT], product, tmp_path, f"{product.objective.stem}.c") == ""


def test_a_parameter_is_not_called_as_a_word_of_c() -> None:
    with pytest.raises(UsageError, match="cannot be called 'restrict'"):
        own_loss("d_pos/(restrict + d_neg)", {"restrict": "1:>0"})


def test_the_domain_of_a_parameter_is_tested_before_anything_else() -> None:
    scale = Parameter("scale", 2.0, "positive", "the unit of the distance")
    distance = Distance(
        "scaled-squared", "a squared distance with a unit", "scale * sum((x - y)**2)", "made up", (scale,)
    )
    text = made(Objective(distance, LOSSES["hinge"])).text(".c")
    assert "if (!(scale > 0 && isfinite(scale))) return TRIPLET_HINGE_SCALED_SQUARED_BAD_PARAMETER;" in text
    assert "if (!(margin >= 0 && isfinite(margin)))" in text


def test_long_lines_are_broken_after_commas_and_before_operators() -> None:
    assert folded("    f(aaaa, bbbb, cccc);\n", 18) == "    f(aaaa, bbbb,\n        cccc);\n"
    assert folded("return aaaa || bbbb;\n", 16) == "return aaaa\n    || bbbb;\n"
    assert folded("f(aaaa, bbbb);\n", len("f(aaaa, bbbb);")) == "f(aaaa, bbbb);\n"
    assert folded("// aaaa, bbbb, cccc\n", 10) == "// aaaa, bbbb, cccc\n"
