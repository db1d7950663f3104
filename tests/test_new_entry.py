"""A distance or loss of one's own is one entry: derivation, kernel, every target and verification follow."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import mpmath
import numpy as np
import pytest

from derive_triplet import (
    DISTANCES,
    LOSSES,
    Distance,
    Loss,
    Objective,
    Parameter,
    Product,
    Singularity,
    UsageError,
    differentiate,
    generate,
    verify,
)
from derive_triplet.derive.evaluate import Point
from derive_triplet.derive.highprecision import objective_value
from derive_triplet.derive.kernel import run
from derive_triplet.derive.lower import lower
from derive_triplet.derive.symbols import EMBEDDINGS, parameter
from derive_triplet.derive.targets.numpy import load
from derive_triplet.derive.targets.registry import targets

MARGIN = Parameter("margin", 0.75, "nonnegative", "how far apart negatives have to be")
SCALE = Parameter("scale", 2.0, "positive", "the unit of the distance")
COINCIDE = Singularity("sum((x - y)**2)", "x = y", "a cone point")
KINK = Singularity("margin - d_neg", "d_neg = margin", "a kink of the positive part")

HALF = Distance("half-squared", "half the squared distance", "sum((x - y)**2) / 2", "made up")
SCALED = Distance("scaled-squared", "a squared distance with a unit", "scale * sum((x - y)**2)", "made up", (SCALE,))
RMS = Distance("half-l2", "half the distance", "sqrt(sum((x - y)**2)) / 2", "made up", (), (COINCIDE,))
INNER = Distance("inner", "negative inner product", "-sum(x * y)", "made up")

# none of these is a function of d_pos - d_neg
RATIO = Loss("ratio", "squared over distance", "d_pos**2 / (1 + d_neg)", "made up")
CONTRASTIVE = Loss("contrastive", "pull and push", "d_pos + max(0, margin - d_neg)", "made up", (MARGIN,), (KINK,))
SQUARED = Loss(
    "contrastive-squared", "pull and push", "d_pos**2 / 2 + max(0, margin - d_neg)**2 / 2", "made up", (MARGIN,)
)
PRODUCT = Loss("product", "a saddle", "(d_pos - 1) * (d_neg - 1)", "made up")

OBJECTIVES = [
    Objective(HALF, LOSSES["softmax-mse"]),
    Objective(HALF, LOSSES["hinge"]),
    Objective(SCALED, LOSSES["softmax-nll"]),
    Objective(RMS, LOSSES["softmax-mse"]),
    Objective(DISTANCES["l2"], RATIO),
    Objective(DISTANCES["l2"], SQUARED),
    Objective(DISTANCES["l2-squared"], CONTRASTIVE),
    Objective(RMS, CONTRASTIVE),
]
objectives = pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.stem)


@cache
def product(objective: Objective, target: str) -> Product:
    return generate(differentiate(objective), target)


@objectives
def test_code_is_generated_with_the_parameters_of_the_entry(objective: Objective) -> None:
    for target, suffix in (("numpy", ".py"), ("cuda", ".cuh"), ("caffe", ".hpp")):
        made = product(objective, target)
        assert all(file.path.startswith(f"{target}/") and objective.stem in file.path for file in made.files)
        assert all(parameter.name in made.text(suffix) for parameter in objective.parameters)


@pytest.mark.parametrize("target", targets())
def test_every_registered_target_makes_its_files(target: str) -> None:
    objective = Objective(SCALED, RATIO)
    made = product(objective, target)
    assert made.files
    assert all(file.content and objective.stem in file.path for file in made.files)


@objectives
def test_the_generated_numpy_module_is_verified(objective: Objective) -> None:
    report = verify(product(objective, "numpy"))
    assert report.passed, str(report)
    assert report.level.startswith("run")
    assert {check.dtype for check in report.checks} >= {"float32", "float64"}


@pytest.mark.needs("nvrtc")
def test_the_generated_cuda_source_compiles() -> None:
    report = verify(product(Objective(SCALED, LOSSES["softmax-nll"]), "cuda"))
    assert report.passed, str(report)
    assert report.level.startswith("run, PTX on the CPU")


@pytest.mark.needs("caffe")
@pytest.mark.parametrize("objective", OBJECTIVES[2:], ids=lambda objective: objective.stem)
def test_the_generated_caffe_layer_is_verified(objective: Objective) -> None:
    report = verify(product(objective, "caffe"))
    assert report.passed, str(report)
    assert report.level.startswith("run (Caffe)")


LOGARITHM = Distance("logarithm", "it grows slowly", "log(2 + sum((x - y)**2))", "made up")


@pytest.mark.parametrize("distance", [LOGARITHM], ids=lambda distance: distance.name)
def test_every_function_of_the_language_is_verified_in_numpy(distance: Distance) -> None:
    report = verify(product(Objective(distance, LOSSES["softmax-nll"]), "numpy"))
    assert report.passed, str(report)


@pytest.mark.needs("nvrtc")
@pytest.mark.parametrize("distance", [LOGARITHM], ids=lambda distance: distance.name)
def test_every_function_of_the_language_compiles_as_cuda(distance: Distance) -> None:
    report = verify(product(Objective(distance, LOSSES["softmax-nll"]), "cuda"))
    assert report.passed, str(report)


@pytest.mark.needs("caffe")
@pytest.mark.parametrize("distance", [LOGARITHM], ids=lambda distance: distance.name)
def test_every_function_of_the_language_is_verified_in_caffe(distance: Distance) -> None:
    report = verify(product(Objective(distance, LOSSES["softmax-nll"]), "caffe"))
    assert report.passed, str(report)


def test_a_parameter_that_would_have_to_be_known_to_every_component_is_refused() -> None:
    inside = Distance("inside", "", "sum((x - y)**2 / (scale + (x - y)**2))", "made up", (SCALE,))
    with pytest.raises(UsageError, match=r"inside: .* the parameter scale inside sum\(...\) yet; write it outside"):
        product(Objective(inside, LOSSES["hinge"]), "numpy")


def test_verification_fails_for_a_new_entry_whose_module_was_changed() -> None:
    right = product(Objective(DISTANCES["l2"], LOSSES["softmax-mse"]), "numpy")
    (file,) = right.files
    wrong = file.text.replace("-weight_pos, out=grad_x_pos", "weight_pos, out=grad_x_pos")
    assert wrong != file.text
    assert not verify(replace(right, files=(replace(file, text=wrong),))).passed


# ---------------------------------------------------------------- the kernel of a new entry, independently


def differences(
    objective: Objective, vectors: dict[str, Sequence[Any]], parameters: dict[str, Any]
) -> dict[str, list[Any]]:
    with mpmath.workdps(180):
        h = mpmath.mpf(10) ** -40

        def moved(name: str, at: int, amount: Any) -> Any:
            there = {**vectors, name: [c + amount * (at == index) for index, c in enumerate(vectors[name])]}
            return objective_value(objective, **there, parameters=parameters)

        return {
            name: [(moved(name, at, h) - moved(name, at, -h)) / (2 * h) for at in range(len(vector))]
            for name, vector in vectors.items()
        }


def assert_kernel_gives_differences(objective: Objective, vectors: dict[str, Sequence[Any]]) -> None:
    parameters = {p.name: mpmath.mpf(p.default) for p in objective.parameters}
    scalars = {parameter(p): parameters[p.name] for p in objective.parameters}
    kernel = lower(differentiate(objective))
    with mpmath.workdps(70):
        _, found = run(kernel, Point(len(vectors["x"]), vectors, scalars))
        expected = differences(objective, vectors, parameters)
        for name in EMBEDDINGS:
            for a, b in zip(found[name], expected[name], strict=True):
                assert abs(a - b) <= mpmath.mpf(10) ** -50 * max(abs(b), mpmath.mpf(10) ** -3), name


@pytest.mark.parametrize(
    "objective", [*OBJECTIVES, Objective(INNER, LOSSES["hinge"]), Objective(HALF, PRODUCT)], ids=lambda o: o.stem
)
def test_the_kernel_gives_the_differences_of_the_definition(objective: Objective) -> None:
    source = random.Random(41)
    with mpmath.workdps(70):
        for dimension in (1, 3):
            vectors = {name: [mpmath.mpf(source.random()) - 0.5 for _ in range(dimension)] for name in EMBEDDINGS}
            assert_kernel_gives_differences(objective, vectors)


# points at which one slope vanishes but the other does not
ORIGIN, NEAR, UNIT, FAR = ([mpmath.mpf(a), mpmath.mpf(b)] for a, b in ((0, 0), (0.5, 0.25), (0.6, 0.8), (2, 1)))


@pytest.mark.parametrize(
    ("objective", "vectors"),
    [
        (Objective(DISTANCES["l2-squared"], SQUARED), {"x": ORIGIN, "x_pos": ORIGIN, "x_neg": NEAR}),
        (Objective(DISTANCES["l2-squared"], RATIO), {"x": ORIGIN, "x_pos": ORIGIN, "x_neg": NEAR}),
        (
            Objective(DISTANCES["l2-squared"], PRODUCT),
            {"x": ORIGIN, "x_pos": FAR, "x_neg": [mpmath.mpf(1), mpmath.mpf(0)]},
        ),
        (
            Objective(DISTANCES["l2-squared"], PRODUCT),
            {"x": ORIGIN, "x_pos": [mpmath.mpf(0), mpmath.mpf(-1)], "x_neg": FAR},
        ),
    ],
    ids=lambda value: value.stem if isinstance(value, Objective) else "",
)
def test_where_one_slope_vanishes_the_other_still_pulls(
    objective: Objective, vectors: dict[str, Sequence[Any]]
) -> None:
    assert_kernel_gives_differences(objective, vectors)


def test_a_loss_that_smooths_the_cone_point_of_its_distance_has_no_kink_there() -> None:
    # d_pos**2 is smooth at x = x_pos, although d_pos is not; the distance states its cone point all the same
    kinks = differentiate(Objective(DISTANCES["l2"], RATIO)).kinks
    assert "x = x_pos" not in [kink.where for kink in kinks]


@pytest.mark.parametrize("name", ["delta", "z", "slope", "weight", "x", "d_pos", "n", "reduction", "out", "rows"])
def test_a_parameter_may_have_any_name_or_is_refused(name: str) -> None:
    own = Parameter(name, 0.25, "nonnegative", "a margin by another name")
    renamed = Loss("renamed-hinge", "", f"max(0, d_pos - d_neg + {name})", "made up", (own,))
    x, x_pos, x_neg = np.random.default_rng(0).normal(size=(3, 4, 5))
    hinge = load(product(Objective(DISTANCES["l2-squared"], LOSSES["hinge"]), "numpy"))
    expected, gradients = hinge.value_and_grad(x, x_pos, x_neg, margin=0.25)
    assert expected > 0
    try:
        module = load(product(Objective(DISTANCES["l2-squared"], renamed), "numpy"))
    except UsageError as refusal:
        assert repr(name) in str(refusal)
        return
    found, own_gradients = module.value_and_grad(x, x_pos, x_neg)
    assert found == expected
    assert np.array_equal(own_gradients, gradients)
