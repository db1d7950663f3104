"""The public names, the three calls, and what they refuse."""

from __future__ import annotations

import doctest
import math
import re
import subprocess
import sys
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest

import derive_triplet
from derive_triplet import (
    DISTANCES,
    LOSSES,
    Derivation,
    DeriveTripletError,
    Distance,
    Loss,
    Objective,
    Product,
    UsageError,
    differentiate,
    generate,
    objective,
    verify,
)
from derive_triplet.derive.targets.numpy import load

SOURCES = Path(__file__).parents[1] / "derive"


def python(code: str) -> str:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return done.stdout.strip()


# ---------------------------------------------------------------- names


@pytest.mark.parametrize("name", derive_triplet.__all__)
def test_public_name_is_there_and_documented(name: str) -> None:
    value = getattr(derive_triplet, name)
    assert name in dir(derive_triplet)
    if callable(value):
        assert value.__doc__


def test_star_import_brings_every_public_name() -> None:
    namespace: dict[str, object] = {}
    exec("from derive_triplet import *", namespace)
    assert set(derive_triplet.__all__) <= namespace.keys()
    assert len(set(derive_triplet.__all__)) == len(derive_triplet.__all__)


def test_name_that_is_not_public_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'gradient'"):
        _ = derive_triplet.gradient


@pytest.mark.parametrize(
    ("use", "loaded"),
    [("pass", "False"), ("derive_triplet.DISTANCES", "False"), ("derive_triplet.differentiate", "True")],
)
def test_names_are_imported_on_first_use(use: str, loaded: str) -> None:
    assert python(f"import sys, derive_triplet; {use}; print('sympy' in sys.modules)") == loaded


# ---------------------------------------------------------------- the three calls


@pytest.mark.parametrize("norm", DISTANCES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("target", ["numpy", "cuda"])
def test_names_lead_to_the_objective_and_its_files(norm: str, loss: str, target: str) -> None:
    derivation = differentiate(norm, loss)
    assert isinstance(derivation, Derivation)
    assert derivation.objective == objective(norm, loss) == Objective(DISTANCES[norm], LOSSES[loss])
    product = generate(derivation, target)
    assert isinstance(product, Product)
    stem = f"{target}/triplet_{loss}_{norm}".replace("-", "_")
    assert {file.path.partition(".")[0] for file in product.files} == {stem}


def test_defaults_are_the_papers_loss_on_l2_as_numpy() -> None:
    product = generate(differentiate())
    assert (product.objective, product.target) == (objective("l2", "softmax-mse"), "numpy")


def test_generate_writes_nothing_and_gives_the_same_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    first, second = (generate(differentiate("l2", "hinge"), "cuda") for _ in range(2))
    assert first.files == second.files
    assert [*tmp_path.iterdir()] == []


def test_settings_reach_the_code() -> None:
    product = generate(differentiate("l2", "hinge"), dtypes=["float32"], parameters={"margin": 0.75})
    x = np.zeros((1, 2), np.float32)
    assert load(product).value(x, x, x) == 0.75  # all embeddings collapsed: the margin
    with pytest.raises(TypeError, match="float64"):
        load(product).value(*[x.astype(np.float64)] * 3)


@pytest.mark.parametrize(
    ("definition", "value", "slope"),
    [("-log(exp(d_neg) / (exp(d_pos) + exp(d_neg)))/2", math.log(2) / 2, 0.25), ("d_pos - d_neg", 0, 1)],
)
def test_objective_of_ones_own_needs_no_entry_in_the_catalogue(definition: str, value: float, slope: float) -> None:
    """Expected are the value and the slope where both distances are equal."""
    fifth = Distance(name="fifth", title="a fifth", definition="sum((x - y)**2)/5", reference="this test")
    mine = Objective(fifth, Loss(name="mine", title="mine", definition=definition, reference="this test"))
    product = generate(differentiate(mine))
    x, x_pos, x_neg = np.array([[[1.0, 2.0]], [[0.0, 2.0]], [[1.0, 3.0]]])
    loss, (_, grad_pos, grad_neg) = load(product).value_and_grad(x, x_pos, x_neg)
    assert loss == pytest.approx(value)
    assert grad_pos == pytest.approx(-slope * 2 / 5 * (x - x_pos))
    assert grad_neg == pytest.approx(slope * 2 / 5 * (x - x_neg))
    assert verify(product).passed


@pytest.mark.parametrize(
    ("right", "wrong"), [("-weight_pos", "weight_pos"), ("dtype.type(loss.sum()", "dtype.type(-loss.sum()")]
)
def test_verify_sees_an_error_in_the_text(right: str, wrong: str) -> None:
    product = generate(differentiate("l2", "softmax-nll"))
    (file,) = product.files
    assert right in file.text
    broken = type(file)(file.path, file.text.replace(right, wrong))
    assert not verify(Product(**{**vars(product), "files": (broken,)})).passed


def test_objects_are_shown_usefully() -> None:
    derivation = differentiate("l2", "hinge")
    product = generate(derivation)
    for shown in (repr(derivation), repr(product), repr(verify(product))):
        assert len(shown) < 2000
        assert " object at 0x" not in shown
    assert "hinge" in repr(derivation)
    assert "l2" in repr(derivation)
    assert "numpy" in repr(product)
    assert "\n" in str(verify(product))
    assert "FAILED" not in repr(verify(product))
    assert product._repr_latex_() == derivation._repr_latex_()


def test_a_report_that_failed_does_not_look_like_success() -> None:
    product = generate(differentiate("l2", "hinge"))
    (file,) = product.files
    wrong = replace(product, files=(replace(file, text=file.text.replace("-weight_pos", "weight_pos")),))
    report = verify(wrong)
    assert not report.passed
    assert "FAILED" in repr(report)
    assert "FAILED" in str(report)


def test_derivation_has_latex_for_notebooks() -> None:
    latex = differentiate("l2", "softmax-mse")._repr_latex_()
    assert latex.startswith("$")
    assert latex.endswith("$")
    assert "\\partial" in latex


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("norm", "loss", "hint"),
    [
        ("l2squared", "hinge", "did you mean 'l2-squared'"),
        ("", "hinge", "choose from l2, l2-squared"),
        ("l2", "hinges", "did you mean 'hinge'"),
        ("l2", "zzz", "choose from softmax-mse"),
    ],
)
def test_unknown_objective(norm: str, loss: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        objective(norm, loss)
    with pytest.raises(UsageError, match=hint):
        differentiate(norm, loss)


def test_unknown_target() -> None:
    with pytest.raises(UsageError, match="no target is called 'cude'; did you mean 'cuda'"):
        generate(differentiate(), "cude")


def test_one_dtype_may_be_given_alone() -> None:
    assert generate(differentiate(), dtypes="float32").settings.dtypes == ("float32",)


def test_an_objective_has_its_loss() -> None:
    with pytest.raises(UsageError, match="an objective has its loss, 'hinge'"):
        differentiate(objective("l2", "hinge"), "softmax-nll")
    assert differentiate("l2").objective == objective("l2", "softmax-mse")
    with pytest.raises(UsageError, match="an objective says itself whether it normalizes"):
        differentiate(objective("l2", "hinge"), normalize=True)


@pytest.mark.parametrize(
    ("loss", "parameters", "dtype"),
    [
        ("hinge", {"margin": 1e300}, "float32"),
        ("softmax-mse", {"temperature": 1e-60}, "float32"),
        ("softmax-mse", {"temperature": 1e39}, "float32"),
    ],
)
def test_a_default_that_a_float_type_does_not_have_is_refused(
    loss: str, parameters: dict[str, float], dtype: str
) -> None:
    derivation = differentiate("l2", loss)
    with pytest.raises(UsageError, match=f"in {dtype}; choose another, or --dtype"):
        generate(derivation, parameters=parameters)
    assert generate(derivation, parameters=parameters, dtypes=["float64"]).settings.parameters == parameters


@pytest.mark.parametrize("dtypes", [["float16"], ["float32", "float46"], [], "float46"])
def test_unknown_or_no_dtype(dtypes: list[str]) -> None:
    with pytest.raises(UsageError, match="dtype"):
        generate(differentiate(), dtypes=dtypes)


def test_dtypes_may_be_an_iterator() -> None:
    with pytest.raises(UsageError, match="dtype"):
        generate(differentiate(), dtypes=iter(["float32", "float16"]))
    assert generate(differentiate(), dtypes=iter(["float32"])).settings.dtypes == ("float32",)


@pytest.mark.parametrize("target", ["numpy", "cuda"])
@pytest.mark.parametrize(
    ("loss", "parameters"),
    [
        ("hinge", {"temperature": 1.0}),
        ("softmax-mse", {"margin": 0.2}),
        ("softmax-mse", {"temprature": 1.0}),
        *(("softmax-mse", {"temperature": value}) for value in (0.0, -1.0, math.nan, math.inf)),
        *(("hinge", {"margin": value}) for value in (-0.1, math.nan, math.inf)),
    ],
)
def test_unknown_parameter_or_value_outside_its_domain(loss: str, parameters: dict[str, float], target: str) -> None:
    with pytest.raises(UsageError, match=next(iter(parameters))):
        generate(differentiate("l2", loss), target, parameters=parameters)


def test_every_error_is_a_derive_triplet_error() -> None:
    errors = [
        value for name in derive_triplet.__all__ if name.endswith("Error") and (value := getattr(derive_triplet, name))
    ]
    assert len(errors) >= 4
    assert all(issubclass(error, DeriveTripletError) for error in errors)


# ---------------------------------------------------------------- documentation


def modules_with_examples() -> list[str]:
    found = [path for path in SOURCES.rglob("*.py") if ">>> " in path.read_text(encoding="utf-8")]
    names = [".".join(path.relative_to(SOURCES.parent).with_suffix("").parts) for path in sorted(found)]
    return ["derive_triplet", *(f"derive_triplet.{name}" for name in names)]


def test_examples_are_found() -> None:
    assert {"derive_triplet", "derive_triplet.derive.api"} <= set(modules_with_examples())


@pytest.mark.parametrize("name", modules_with_examples())
def test_examples_in_docstrings_hold(name: str) -> None:
    result = doctest.testmod(import_module(name))
    assert result.attempted > 0
    assert result.failed == 0


def test_the_map_of_the_library_names_every_module() -> None:
    root = Path(import_module("derive_triplet.derive").__file__ or "").parent
    modules = {path.stem for path in root.glob("*.py")} | {path.parent.name for path in root.glob("*/*.py")}
    described = set(re.findall(r"[a-z]+", import_module("derive_triplet.derive").__doc__ or ""))
    assert modules - described == {"__init__"}
