"""A user's own loss: what is refused and where, what is found in it, and that it goes the way of the catalogue's."""

from __future__ import annotations

import dataclasses
import importlib.util
import inspect
import json
import shlex
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from types import ModuleType

import mpmath
import pytest
from click.testing import CliRunner, Result
from hypothesis import given, settings
from hypothesis import strategies as st

from derive_triplet import (
    DISTANCES,
    DefinitionError,
    Loss,
    Objective,
    Product,
    UsageError,
    differentiate,
    generate,
    own_loss,
    verify,
)
from derive_triplet.cli import main
from derive_triplet.derive.custom import is_expression, losses_from
from derive_triplet.derive.highprecision import smooth_piece
from derive_triplet.derive.text import describe
from derive_triplet.derive.verify.reference import reference

ROOT = Path(__file__).parents[1]
GALLERY = sorted((ROOT / "examples" / "losses").glob("*.toml"))
SOFT = "log(1 + exp((d_pos - d_neg)/tau))"


def run(*arguments: str) -> Result:
    return CliRunner().invoke(main, arguments)


def refusal(expression: str, parameters: Mapping[str, str] | None = None, name: str = "mine") -> str:
    with pytest.raises(UsageError) as refused:
        own_loss(expression, parameters, name=name)
    return str(refused.value)


@cache
def of_gallery(path: Path) -> Loss:
    (loss,), _ = losses_from([str(path)])
    assert isinstance(loss, Loss)
    return loss


@cache
def product(loss: Loss, norm: str, target: str) -> Product:
    return generate(differentiate(norm, loss), target)


# ---------------------------------------------------------------- refused, with the place and the reason


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("d_pos - d_meg", "line 1, column 9: unknown name 'd_meg'; known: d_neg, d_pos; a parameter is declared by"),
        ("d_pos - d_neg/tau", "line 1, column 15: unknown name 'tau'"),
        ("max(0, d_pos - sin(d_neg))", "line 1, column 16: 'sin' is not one of the functions"),
        ("d_pos ^ 2 - d_neg", "line 1, column 1: BitXor is not part of the formula language; a power is written a**b"),
        ("d_pos < d_neg", "line 1, column 1: Compare is not part of the formula language, but for where("),
        ("where(d_pos, d_pos, d_neg)", "line 1, column 7: the condition of where(...) is one comparison"),
        ("where(0 < d_pos < 1, d_pos, d_neg)", "line 1, column 7: the condition of where(...) is one comparison"),
        ("where(d_pos == 1, d_pos, d_neg)", "line 1, column 7: the condition of where(...) is one comparison"),
        ("where(d_pos < 1, d_neg)", "line 1, column 1: where takes 3 arguments, not 2"),
        ("s = d_pos\nmin(s, d_neg, 1)", "line 2, column 1: min takes 2 arguments, not 3"),
        ("d_pos - d_neg**99", "line 1, column 16: exponents go up to 64"),
        ("d_pos - ", "not a formula at line 1, column 9"),
        ("__import__('os').system('true')", "line 1, column 1:"),
        ("d_pos.__class__ - d_neg", "line 1, column 1: Attribute is not part of the formula language"),
    ],
)
def test_a_formula_is_refused_with_the_place_and_the_reason(expression: str, message: str) -> None:
    assert f"loss 'mine': {message}" in refusal(expression)


@pytest.mark.parametrize(
    ("expression", "message"),
    [
        ("log(d_pos - d_neg)", "line 1, column 1: log of a negative number at d_pos = 0, d_neg = 1"),
        ("d_neg + sqrt(d_pos - 1)", "line 1, column 9: sqrt of a negative number at d_pos = 0, d_neg = 0"),
        ("log1p(-d_pos) + d_neg", "line 1, column 1: log1p of a number below -1 at d_pos = 1.5"),
        ("(d_pos - d_neg)**0.5", "line 1, column 1: a fractional power of a negative number at d_pos = 0, d_neg = 1"),
        ("1/(d_pos - d_neg)", "line 1, column 1: division by zero at d_pos = 1, d_neg = 1"),
        ("d_neg/(d_pos - 1.23)", "division by zero, d_pos - 1.23 = 0, at d_pos = 1.23, d_neg = 1"),
        ("where(d_pos > d_neg, 2*d_pos, d_neg)", "it jumps, from 1 to 2, where d_pos = d_neg, at d_pos = 1, d_neg = 1"),
        (
            "max(0, d_pos - d_neg)**0.5",
            "its slope is infinite where d_pos - d_neg = 0, at d_pos = 1, d_neg = 1",
        ),
        ("abs(d_pos - d_neg)**0.8", "its slope is infinite where d_pos - d_neg = 0, at d_pos = 1, d_neg = 1"),
        ("1/2 + 1/3", "d_pos does not appear; a loss without it pulls no positive nearer"),
        ("d_pos**2", "d_neg does not appear; a loss without it pushes no negative away"),
        ("d_pos - d_pos + d_neg - d_neg", "it is constant, so its gradient is 0 everywhere"),
        ("d_pos + 0*d_neg", "it does not depend on d_neg"),
    ],
)
def test_what_cannot_be_a_loss_is_told_with_a_point(expression: str, message: str) -> None:
    assert refusal(expression) == f"loss 'mine': {message}" or message in refusal(expression)


@pytest.mark.parametrize(
    ("expression", "parameters", "message"),
    [
        (SOFT, {"tau": "0.5:>0", "m": "1"}, "the parameter m is not used"),
        (SOFT, {"tau": "0:>0"}, "tau must be a finite positive number, not 0.0"),
        (SOFT, {"tau": "-1:>=0"}, "tau must be a finite nonnegative number, not -1.0"),
        (SOFT, {"tau": "inf"}, "tau must be a finite real number, not inf"),
        (SOFT, {"tau": "half:>0"}, "'half' is not a number"),
        (SOFT, {"tau": "1:<0"}, "the domain is '<0'; expected '>0', '>=0', or none"),
        (SOFT, {"tau": "1:>=0"}, "division by zero at tau = 0, d_pos = 1, d_neg = 1"),
        (SOFT, {"Tau": "1:>0"}, "a name is of lower-case letters, digits and underscores"),
        (SOFT, {"class": "1:>0"}, "a parameter cannot be called 'class'"),
        (SOFT, {"template": "1:>0"}, "a parameter cannot be called 'template'"),
        (SOFT, {"len": "1:>0"}, "a parameter cannot be called 'len'"),
        (SOFT, {"exp": "1:>0"}, "a parameter cannot be called 'exp'"),
        (SOFT, {"z1": "1:>0"}, "a parameter cannot be called 'z1'"),
        ("d_pos - rows*d_neg", {"rows": "1:>0"}, "a parameter cannot be called 'rows'"),
        ("log(shift + d_pos) - d_neg", {"shift": "1"}, "log of a negative number at shift = -1, d_pos = 0"),
    ],
)
def test_parameters_are_refused_for_a_reason(expression: str, parameters: dict[str, str], message: str) -> None:
    assert message in refusal(expression, parameters)


@pytest.mark.parametrize("name", ["hinge", "all", "Upper", "under_score", "a--b", "1st", "a" * 61])
def test_names_that_files_cannot_have_are_refused(name: str) -> None:
    assert repr(name) in refusal("d_pos - d_neg", name=name)


def test_a_formula_that_explodes_when_it_is_written_out_is_refused() -> None:
    lines = ["s0 = d_pos - d_neg", *(f"s{i} = s{i - 1} * s{i - 1}" for i in range(1, 20))]
    assert "more than 2000 parts when its names are written out" in refusal("\n".join([*lines, "s19"]))


_WORDS = st.sampled_from(
    [
        *"()+-*/.,=<>\n\\#0 ",
        *(
            "d_pos",
            "d_neg",
            "tau",
            "exp(",
            "log(",
            "log1p(",
            "sqrt(",
            "abs(",
            "tanh(",
            "max(",
            "min(",
            "where(",
            "sum(",
        ),
        *("**", "0.5", "1e300", "2", ", ", ") ", "d_pos - d_neg", "(d_pos + d_neg)", "< d_neg, d_pos, "),
    ]
)


@settings(max_examples=300, deadline=None, derandomize=True, database=None)
@given(st.lists(_WORDS, max_size=14).map("".join))
def test_any_text_is_a_loss_or_refused_in_one_line(text: str) -> None:
    try:
        loss = own_loss(text, {"tau": "0.5:>0"} if "tau" in text else {})
    except UsageError as error:
        assert str(error)
        return
    again, _ = losses_from(*arguments_of(loss))
    assert again == [loss]


def arguments_of(loss: Loss) -> tuple[list[str], list[str], str]:
    """What follows --loss, --param and --name in the command of a loss."""
    options = loss.options({p.name: p.default for p in loss.parameters})
    said = list(zip(options[::2], options[1::2], strict=True))
    by = {name: [value for option, value in said if option == name] for name in ("--loss", "--param", "--name")}
    return by["--loss"], by["--param"], "".join(by["--name"])


# ---------------------------------------------------------------- what is found


@pytest.mark.parametrize(
    ("expression", "kinks"),
    [
        ("max(0, d_pos - d_neg + 1)", ["d_pos - d_neg + 1 = 0  convex kink: 0 is a subgradient"]),
        ("max(2, d_pos - d_neg)", ["d_pos - d_neg = 2  convex kink: 0 is a subgradient"]),
        ("1e9*max(0, d_pos - d_neg)", ["d_pos - d_neg = 0  convex kink: 0 is a subgradient"]),  # and no jump
        ("max(0, d_pos - d_neg + 1)**2", []),
        ("min(d_pos - d_neg, 0)", ["d_pos - d_neg = 0  concave kink: 0 is only a Clarke subgradient"]),
        ("abs(d_pos - d_neg)", ["d_pos - d_neg = 0  convex kink: 0 is a subgradient"]),
        (
            "max(d_pos, 2*d_neg)",
            ["2 * d_neg = d_pos  convex kink: the slope of max(d_pos, 2 * d_neg) is taken as that of d_pos"],
        ),
        ("d_pos - min(1, d_neg)", ["d_neg = 1  convex kink: the slope of min(1, d_neg) is taken as 0"]),
        (
            "where(d_pos > d_neg, 2*(d_pos - d_neg), d_pos - d_neg)",
            ["d_pos = d_neg  convex kink: the slope of the value that holds there is taken"],
        ),
        ("where(d_pos > d_neg, (d_pos - d_neg)**2, 0)", []),
        ("max(d_pos, -1 - d_neg) - d_neg", []),
    ],
)
def test_kinks_are_found_and_said(expression: str, kinks: list[str]) -> None:
    text = describe(differentiate("l2-squared", own_loss(expression, name="mine")))
    assert [line for line in kinks if " ".join(line.split()) not in " ".join(text.split())] == []
    assert ("kink" in text) == bool(kinks)


@pytest.mark.parametrize(
    ("expression", "told"),
    [
        ("d_pos / (d_pos + d_neg)", ["d_pos = d_neg = 0: division by zero"]),
        ("d_pos - log(d_neg)", ["d_neg = 0: the value is infinite"]),
        ("log(d_pos) - log(d_neg)", ["d_pos = 0: the value is infinite", "d_neg = 0: the value is infinite"]),
        ("sqrt(d_pos) - d_neg", ["d_pos = 0: the slope is infinite"]),
        ("sqrt(d_pos**2 + d_neg**2) - d_neg", ["d_pos = d_neg = 0: the slope depends on the direction"]),
        ("d_pos**1.5 - d_neg", ["d_pos = 0: there is no formula for negative distances to compare with"]),
        ("max(d_pos, d_neg)", []),
    ],
)
def test_points_without_a_value_or_a_slope_are_told(expression: str, told: list[str]) -> None:
    loss = own_loss(expression, name="mine")
    assert [f"{of.where}: {of.why}" for of in loss.undefined] == told
    text = describe(differentiate("l2", loss))
    assert all(f"not defined, and not verified, at {line}" in text for line in told)
    assert all(line in product(loss, "l2", "numpy").text(".py") for line in told)


def test_at_a_kink_the_reference_takes_the_piece_that_the_code_takes() -> None:
    loss = own_loss(
        "max(d_pos, 2*d_neg) + abs(d_pos - 2*d_neg) + where(d_pos <= 2*d_neg, 3*d_pos, 6*d_neg)", name="mine"
    )
    with mpmath.workdps(30):
        piece = smooth_piece(loss, mpmath.mpf(2), mpmath.mpf(1), {})
        assert (piece(3, 1) - piece(2, 1), piece(2, 2) - piece(2, 1)) == (4, 0)
    exact = reference(Objective(DISTANCES["l2-squared"], loss), (0.0, 0.0), (1.0, 1.0), (1.0, 0.0), {})
    assert [float(c) for c in exact.gradients["x_pos"].value] == pytest.approx([8, 8])
    module = module_of(product(loss, "l2-squared", "numpy"))
    import numpy as np

    _, (_, grad_pos, grad_neg) = module.value_and_grad(*np.array([[[0.0, 0.0]], [[1.0, 1.0]], [[1.0, 0.0]]]))
    assert grad_pos.tolist() == [[8, 8]]
    assert np.all(grad_neg == 0)


def module_of(made: Product) -> ModuleType:
    module = ModuleType("made")
    exec(compile(made.files[0].text, made.files[0].path, "exec"), module.__dict__)
    return module


# ---------------------------------------------------------------- the same path as the catalogue's


@pytest.mark.parametrize("norm", DISTANCES)
@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_a_loss_from_the_literature_is_derived_and_verified(path: Path, norm: str) -> None:
    loss = of_gallery(path)
    assert loss.reference
    assert loss.title
    report = verify(product(loss, norm, "numpy"))
    assert report.passed, str(report)
    assert not report.inaccurate


def test_the_gallery_has_ten_losses_and_its_page_is_what_its_script_finds() -> None:
    assert len(GALLERY) >= 10
    spec = importlib.util.spec_from_file_location("gallery", ROOT / "examples" / "losses" / "gallery.py")
    assert spec
    assert spec.loader
    gallery = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(gallery)
    assert (ROOT / "examples" / "losses" / "README.md").read_text(encoding="utf-8") == gallery.page()


@pytest.mark.needs("nvrtc")
@pytest.mark.parametrize(
    "name", ["smooth-hinge", "t-stochastic-triplet", "boundary-margin", "neighbourhood-components"]
)
def test_kernels_of_own_losses_are_executed(name: str) -> None:
    report = verify(product(of_gallery(ROOT / "examples" / "losses" / f"{name}.toml"), "l2", "cuda"))
    assert report.passed, str(report)
    assert report.level.startswith("run, PTX on the CPU")


EVERY_FUNCTION = own_loss(  # no slope of a term takes one of another away
    "log(exp(d_pos) + exp(-d_neg)) + tanh(d_pos - d_neg) + log1p(d_pos) + 3*(d_pos - d_neg) + abs(d_pos - d_neg)/8"
    " + max(d_pos, 1 - d_neg) + min(2, d_pos) + sqrt(1 + d_pos) + 1 - exp(-shift**2*d_pos)"
    " + where(d_pos >= d_neg, (d_pos - d_neg)**2, 0)",
    {"shift": "-0.5"},
    name="every-function",
)


def test_every_function_is_verified_in_numpy() -> None:
    report = verify(product(EVERY_FUNCTION, "l2", "numpy"))
    assert report.passed, str(report)


@pytest.mark.needs("cc")
def test_every_function_is_run_in_c() -> None:
    report = verify(product(EVERY_FUNCTION, "l2", "c"))
    assert report.passed, str(report)


@pytest.mark.needs("nvrtc")
def test_every_function_is_executed_in_kernels() -> None:
    report = verify(product(EVERY_FUNCTION, "l2", "cuda"))
    assert report.passed, str(report)
    assert "parameters.shift > -INFINITY" in product(EVERY_FUNCTION, "l2", "cuda").text(".cu")


@pytest.mark.needs("caffe")
@pytest.mark.parametrize("loss", [EVERY_FUNCTION, of_gallery(GALLERY[2])], ids=lambda loss: loss.name)
def test_own_losses_are_layers_in_caffe(loss: Loss) -> None:
    report = verify(product(loss, "l2", "caffe"))
    assert report.passed, str(report)
    assert report.level.startswith("run (Caffe)")


@pytest.mark.parametrize("name", ["smooth-hinge", "boundary-margin", "ratio-margin"])
def test_the_proof_of_an_own_loss_is_verified(name: str) -> None:
    report = verify(product(of_gallery(ROOT / "examples" / "losses" / f"{name}.toml"), "l2", "latex"))
    assert report.passed, str(report)
    assert report.notes == ()  # no rows of numbers are left out


def test_a_parameter_may_be_any_real_number_but_no_infinity() -> None:
    import numpy as np

    module = module_of(product(EVERY_FUNCTION, "l2", "numpy"))
    batch = np.ones((3, 2, 4))
    assert np.isfinite(module.value(*batch, shift=-3.0))
    with pytest.raises(ValueError, match="shift is -inf; expected a real number"):
        module.value(*batch, shift=-np.inf)


def test_a_weight_whose_divisor_cancels_is_not_masked_for_the_other_distance() -> None:
    import numpy as np

    loss = own_loss("log(1 + exp(d_pos**2 - d_neg**2))", name="mine")
    x, x_neg = np.array([[1.0, 2.0]]), np.array([[1.5, 1.0]])
    _, (grad_x, _, grad_neg) = module_of(product(loss, "l2", "numpy")).value_and_grad(x, x, x_neg)
    assert np.all(grad_x != 0)
    assert np.array_equal(grad_x, -grad_neg)


# ---------------------------------------------------------------- accuracy that is lost is told

ROOTS = "sqrt(1 + d_pos) - sqrt(1 + d_neg)"


def test_lost_accuracy_fails_and_names_the_regime_and_the_point(tmp_path: Path) -> None:
    result = run("--loss", ROOTS, "--name", "roots", "-o", str(tmp_path))
    assert result.exit_code == 1
    (line,) = (
        line for line in result.output.splitlines() if line.startswith("loses accuracy: near-collapsed, float64")
    )
    assert "loss 1.6e+04 ulp at d_pos = 7.05016e-6, d_neg = 1.17915e-5" in line
    assert not list(tmp_path.iterdir())


def test_lost_accuracy_that_is_accepted_is_told_and_recorded(tmp_path: Path) -> None:
    result = run("--loss", ROOTS, "--name", "roots", "--accept-accuracy", "1e40", "-o", str(tmp_path))
    assert result.exit_code == 0, result.output
    assert "loses accuracy: near-collapsed, float64" in result.output
    assert "--accept-accuracy 1e+40" in (tmp_path / "numpy" / "triplet_roots_l2.py").read_text()
    assert run("--check", "-o", str(tmp_path)).exit_code == 0


def test_an_accepted_error_is_a_bound_too(tmp_path: Path) -> None:
    result = run("--loss", ROOTS, "--name", "roots", "--accept-accuracy", "100", "-o", str(tmp_path))
    assert result.exit_code == 1
    assert "100 ulp" in result.output


@pytest.mark.parametrize(
    ("expression", "norm", "normalize"),
    [
        ("d_pos/d_neg", "l2", False),
        ("d_pos/d_neg", "l2", True),  # pictures come to where the anchor is the negative
        ("exp(-d_neg/d_pos)", "cosine", False),  # as good as a triplet can be, there is no value
        ("tanh(d_pos/d_neg)", "l2", True),  # flat where the negative is near
        ("where(d_pos < d_neg, d_pos/d_neg, 2 - d_neg/d_pos)", "l2", False),
        ("1/d_neg + d_pos", "l2", False),  # products have a cube below
        ("max(0, d_pos - d_neg + 1)**1.5", "l2", False),
    ],
)
def test_losses_with_poles_and_steep_ones_have_documents_and_right_code(
    expression: str, norm: str, normalize: bool
) -> None:
    of = Objective(DISTANCES[norm], own_loss(expression, name="odd"), normalize=normalize)
    derivation = differentiate(of)
    (document,) = generate(derivation, "latex").files
    assert ("masked\\_power" in document.text) == ("1.5" in expression)
    report = verify(generate(derivation, "numpy", dtypes=["float64"]))
    assert report.passed, str(report)


def test_what_is_not_judged_is_told() -> None:
    report = verify(product(own_loss("d_pos / (d_pos + d_neg)", name="ratio"), "l2", "numpy"))
    assert report.passed, str(report)
    (note,) = report.notes
    assert "not judged" in note
    assert "collapsed, x = x_pos = x_neg (float64)" in note


# ---------------------------------------------------------------- command, file, manifest


def made_by(path: Path) -> str:
    """The command in the header of a generated file."""
    return path.read_text(encoding="utf-8").splitlines()[1].removeprefix("#").strip()


def again(command: str, root: Path) -> Sequence[str]:
    return [*shlex.split(command)[1:], "--check", "-o", str(root)]


@pytest.mark.parametrize(
    "arguments",
    [
        ("--loss", SOFT, "--param", "tau=0.5:>0"),
        ("--loss", SOFT, "--param", "tau = 0.1 : > 0", "--name", "soft"),
        (
            "--loss",
            "s = d_pos - d_neg  # the difference\nmax(0,\n  s + (\n m))",
            "--param",
            "m=-0.25",
            "--name",
            "lines",
        ),
        ("--loss", str(ROOT / "examples" / "losses" / "smooth-hinge.toml")),
        ("--loss", str(ROOT / "examples" / "losses" / "soft-margin.toml"), "--param", "tau=0.25"),
        ("--loss", str(ROOT / "examples" / "losses" / "soft-margin.toml"), "--name", "renamed"),
    ],
)
def test_the_header_and_the_manifest_hold_the_loss_exactly(arguments: tuple[str, ...], tmp_path: Path) -> None:
    result = run(*arguments, "-o", str(tmp_path), "--no-verify")
    assert result.exit_code == 0, result.output
    (file,) = (tmp_path / "numpy").iterdir()
    assert run("--check", "-o", str(tmp_path)).output.endswith("all files of 1 product are as generated\n")
    assert run(*again(made_by(file), tmp_path)).exit_code == 0
    file.write_text(file.read_text(encoding="utf-8").replace("grad_x", "grad_y"), encoding="utf-8")
    drifted = run("--check", "-o", str(tmp_path))
    assert drifted.exit_code == 1
    assert made_by(file) in drifted.output


def test_a_changed_default_of_a_file_is_that_of_the_code(tmp_path: Path) -> None:
    given = ("--loss", str(ROOT / "examples" / "losses" / "soft-margin.toml"), "--param", "tau=0.25")
    assert run(*given, "-o", str(tmp_path), "--no-verify").exit_code == 0
    (file,) = (tmp_path / "numpy").iterdir()
    assert "--param tau=0.25" in made_by(file)
    module = ModuleType("made")
    exec(file.read_text(encoding="utf-8"), module.__dict__)
    assert inspect.signature(module.value).parameters["tau"].default == 0.25


def test_a_file_that_changed_is_drift_and_one_that_is_gone_is_named(tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text('expression = "max(0, d_pos - d_neg + m)"\nparameters.m = 1\n')
    out = str(tmp_path / "out")
    assert run("--loss", str(file), "-o", out, "--no-verify").exit_code == 0
    file.write_text('expression = "max(0, d_pos - d_neg + m)"\nparameters.m = 2\n')
    assert run("--check", "-o", out).exit_code == 1
    file.unlink()
    gone = run("--check", "-o", out)
    assert gone.exit_code == 1
    assert f"a loss cannot be made again: {file}: there is no such file" in gone.output


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("expression = ", "not a TOML file"),
        ("", "it has no expression"),
        ("expression = 3", "expression is not a string"),
        ('expression = "d_pos - d_neg"\ncolour = 1', "unknown key 'colour'"),
        ('expression = "d_pos - d_neg"\nparameters = 1', "parameters is not a table"),
        ('expression = "d_pos - m*d_neg"\nparameters.m = "1"', "parameter m: its default is not a number"),
        ('expression = "d_pos - m*d_neg"\nparameters.m = true', "parameter m: its default is not a number"),
        ('expression = "d_pos - m*d_neg"\nparameters.m = {domain = ">0"}', "parameter m: its default is not a number"),
        ('expression = "d_pos - m*d_neg"\nparameters.m = {default = 1, unit = 2}', "parameter m: unknown key 'unit'"),
        ('expression = "d_pos - m*d_neg"\nparameters.m = {default = -1, domain = ">0"}', "m must be a finite positive"),
        ('expression = "d_pos - m"', "unknown name 'm'"),
    ],
)
def test_files_are_refused_in_one_line_that_names_them(content: str, message: str, tmp_path: Path) -> None:
    file = tmp_path / "mine.toml"
    file.write_text(content)
    result = run("--loss", str(file))
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert str(file) in line
    assert message in line


def test_a_changed_default_of_a_file_is_in_the_domain_of_its_own_parameter(tmp_path: Path) -> None:
    path = tmp_path / "two.toml"
    path.write_text(
        'expression = "d_pos/scale - d_neg + shift*d_neg**2"\n'
        '[parameters]\nscale = {default = 1, domain = ">0"}\nshift = 0.5\n'
    )
    assert losses_from([str(path)], ["shift=-1"])[1] == {"shift": -1.0}
    with pytest.raises(UsageError, match="scale must be a finite positive number, not -1"):
        losses_from([str(path)], ["scale=-1"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--loss", "softmax-mes"), "no loss is called 'softmax-mes'; did you mean 'softmax-mse'?"),
        (("--loss", "d-pos"), "no loss is called 'd-pos'"),
        (("--loss", "d_pos-d_meg"), "unknown name 'd_meg'"),
        (("--loss", "hinge", "--param", "m=1"), "--param belongs to a loss of your own"),
        (("--loss", "hinge", "--name", "mine"), "--name belongs to a loss of your own"),
        (("--loss", "d_pos-d_neg", "--loss", "d_neg-d_pos", "--name", "mine"), "there are 2 of your own"),
        (("--loss", "d_pos-d_neg", "--param", "m=1"), "--param m=1: no loss has the parameter 'm'"),
        (("--loss", "d_pos-m*d_neg", "--param", "m"), "expected NAME=DEFAULT or NAME=DEFAULT:DOMAIN"),
        (("--loss", "d_pos-m*d_neg", "--param", "m=1", "--param", "m=2"), "the parameter m is declared twice"),
        (("--loss", "absent.toml"), "absent.toml: there is no such file"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_status_2(arguments: tuple[str, ...], message: str) -> None:
    result = run(*arguments)
    assert result.exit_code == 2
    (line,) = result.output.splitlines()
    assert message in line


@pytest.mark.parametrize(
    ("text", "expression"),
    [("hinge", False), ("softmax-mes", False), ("d_pos", True), ("d_pos-d_neg", True), ("max(0, d_pos)", True)],
)
def test_a_word_is_a_name_and_anything_else_a_formula(text: str, expression: bool) -> None:
    assert is_expression(text) is expression


def test_own_losses_stand_beside_those_of_the_catalogue(tmp_path: Path) -> None:
    result = run(
        *("--loss", "hinge", "--loss", "d_pos - d_neg", "--name", "plain", "--norm", "all", "--json"),
        *("-o", str(tmp_path), "--no-verify", "--margin", "0.5"),
    )
    assert result.exit_code == 0, result.output
    products = json.loads(result.output)["products"]
    assert [p["loss"] for p in products] == ["hinge"] * len(DISTANCES) + ["plain"] * len(DISTANCES)
    checked = run("--check", "-o", str(tmp_path))
    assert checked.exit_code == 0, checked.output


def test_default_names_differ_where_formulas_do() -> None:
    names = {
        own_loss(text).name for text in ("d_pos - d_neg", "d_pos - 2*d_neg", "(d_pos - d_neg)/2", "d_pos - d_neg/2")
    }
    assert len(names) == 4
    assert (
        own_loss("d_pos - d_neg").name == own_loss("d_pos - d_neg").name == "d-pos-d-neg-" + names_hash("d_pos - d_neg")
    )


def names_hash(text: str) -> str:
    import hashlib

    return hashlib.sha256(text.encode()).hexdigest()[:6]


def test_an_own_loss_is_a_definition_error_when_it_is_wrong() -> None:
    with pytest.raises(DefinitionError):
        own_loss("d_pos")


@pytest.mark.parametrize(("norm", "expression"), [("l2", "d_pos/(d_pos + d_neg)"), ("lp", "d_pos*d_neg")])
def test_losses_of_unit_vectors_may_have_poles_and_be_0_where_these_coincide(norm: str, expression: str) -> None:
    """Of a single component unit vectors coincide or are opposite: then a distance is 0 but for rounding."""
    derivation = differentiate(norm, own_loss(expression), normalize=True)
    assert verify(generate(derivation, "numpy", dtypes=["float32"])).passed


def test_a_gradient_through_coinciding_unit_vectors_that_is_wrong_is_seen() -> None:
    derivation = differentiate("l2", own_loss("d_pos*d_neg"), normalize=True)
    right = generate(derivation, "numpy", dtypes=["float32"])
    (file,) = right.files
    wrong = file.text.replace("loss = d_neg * d_pos", "loss = d_neg * d_pos + 1e-3 * (d_pos == 0)")
    assert wrong != file.text
    report = verify(dataclasses.replace(right, files=(dataclasses.replace(file, text=wrong),)))
    assert {check.name for check in report.failures} >= {"loss"}
