"""The program of a Hessian-vector product: what it computes, what shape it has, and that a wrong one is not made."""

from __future__ import annotations

import random
from dataclasses import replace
from itertools import chain
from typing import Any

import mpmath
import numpy as np
import pytest
import sympy as sp

from derive_triplet import DISTANCES, LOSSES, Distance, Objective, Product, differentiate, generate
from derive_triplet.derive import hvp as module
from derive_triplet.derive.catalogue import is_reserved
from derive_triplet.derive.errors import StepError
from derive_triplet.derive.evaluate import Point
from derive_triplet.derive.functions import expand_nodes, masked_power, masked_ratio, quotient
from derive_triplet.derive.highprecision import objective_value
from derive_triplet.derive.hvp import DIRECTION, hessian_product
from derive_triplet.derive.kernel import INPUTS, RowKernel, run
from derive_triplet.derive.lower import lower
from derive_triplet.derive.symbols import parameter
from derive_triplet.derive.targets.numpy import load

# each distance and each loss, raw and normalized
PAIRS = [(norm, "softmax-mse", normalize) for norm in DISTANCES for normalize in (False, True)]
PAIRS += [("l2", loss, False) for loss in LOSSES if loss != "softmax-mse"]
HALF = Distance("half-l2", "half the distance", "sqrt(sum((x - y)**2)) / 2", "made up")
LOGARITHM = Distance("logarithm", "it grows slowly", "log(2 + sum((x - y)**2))", "made up")
TILTED = Distance("tilted", "not invariant", "sum((x - 2*y)**2) + sqrt(1 + sum(x**2))", "made up")


def objective(norm: str, loss: str, normalize: bool = False) -> Objective:
    return Objective(DISTANCES[norm], LOSSES[loss], normalize=normalize)


def lowered(norm: str = "l2", loss: str = "softmax-mse", normalize: bool = False) -> RowKernel:
    return lower(differentiate(objective(norm, loss, normalize)))


def made(norm: str = "l2", loss: str = "softmax-mse", normalize: bool = False) -> Product:
    return generate(differentiate(objective(norm, loss, normalize)), "numpy")


def drawn(of: Objective, scales: Any = (), dimension: int = 3, seed: int = 5) -> Point:
    source = random.Random(seed)

    def number() -> Any:
        return mpmath.mpf(source.randrange(-(10**60), 10**60)) / 10**60

    vectors = {name: [number() for _ in range(dimension)] for name in (*INPUTS, *DIRECTION)}
    scalars = {parameter(p): abs(number()) / 2 + mpmath.mpf(p.default) / 4 for p in of.parameters}
    scalars |= {parameter(p): 1 + scalars[parameter(p)] for p in of.parameters if p.domain == "at least 1"}
    return Point(dimension, vectors, {**scalars, **{scale: abs(number()) + 1 for scale in scales}})


def directional(of: Objective, point: Point) -> list[Any]:
    """Mixed second differences of the definition, in a component and in the direction."""
    parameters = {symbol.name: value for symbol, value in point.scalars.items()}
    h = mpmath.mpf(10) ** -30

    def value(along: Any, name: str, at: int, amount: Any) -> Any:
        moved = {
            embedding: [
                a + along * b + amount * (embedding == name and at == k)
                for k, (a, b) in enumerate(zip(point.vectors[embedding], point.vectors[f"d{embedding}"], strict=True))
            ]
            for embedding in INPUTS
        }
        return objective_value(of, *moved.values(), parameters)

    return [
        (value(h, *of_k, h) - value(h, *of_k, -h) - value(-h, *of_k, h) + value(-h, *of_k, -h)) / (4 * h * h)
        for of_k in ((name, at) for name in INPUTS for at in range(point.dimension))
    ]


@pytest.mark.parametrize(("norm", "loss", "normalize"), PAIRS)
def test_the_program_gives_second_differences_of_the_definition(norm: str, loss: str, normalize: bool) -> None:
    of, program = objective(norm, loss, normalize), hessian_product(lowered(norm, loss, normalize))
    with mpmath.workdps(140):
        point = drawn(of, program.scales.values())
        _, found = run(program.kernel, point, {**INPUTS, **DIRECTION})
        bare = replace(point, scalars={s: v for s, v in point.scalars.items() if s not in program.scales.values()})
        for a, b in zip(chain(*found.values()), directional(of, bare), strict=True):
            assert abs(a - b) <= mpmath.mpf(10) ** -40 * max(abs(b), 1)


@pytest.mark.parametrize("distance", [HALF, LOGARITHM, TILTED], ids=lambda d: d.name)
def test_distances_of_other_shapes_have_products(distance: Distance) -> None:
    of = Objective(distance, LOSSES["softmax-nll"])
    program = hessian_product(lower(differentiate(of)))
    with mpmath.workdps(140):
        point = drawn(of, program.scales.values())
        _, found = run(program.kernel, point, {**INPUTS, **DIRECTION})
        bare = replace(point, scalars={s: v for s, v in point.scalars.items() if s not in program.scales.values()})
        for a, b in zip(chain(*found.values()), directional(of, bare), strict=True):
            assert abs(a - b) <= mpmath.mpf(10) ** -40 * max(abs(b), 1)


@pytest.mark.parametrize("normalize", [False, True])
def test_its_size_does_not_depend_on_the_length_and_it_has_the_scales_of_the_kernel(normalize: bool) -> None:
    kernel = lowered(normalize=normalize)
    program = hessian_product(kernel)
    assert len(program.kernel.stages) == len(kernel.stages) + 1
    assert list(program.scales) == [f"sum_{side}" for side in ("pos", "neg")] or normalize
    assert [m.name for m in program.kernel.maps] == ["h_x", "h_x_pos", "h_x_neg"]
    assert program.full_range


def test_products_of_squared_distances_take_one_pass_more_than_none() -> None:
    program = hessian_product(lowered("l2-squared"))
    assert [r.name for r in program.kernel.reductions] == ["delta", "rate_delta"]
    assert len(program.kernel.stages) == 1


def test_scales_are_divided_by_last() -> None:
    (turn,) = (a.value for a in hessian_product(lowered("l2-squared")).kernel.scalars if a.name == "turn")
    for _ in range(3):
        assert isinstance(turn, quotient)
        turn, scale = turn.args
        assert scale.name == "scale_delta"
    assert turn.is_Symbol


def test_a_product_that_is_0_needs_nothing_of_a_row() -> None:
    program = hessian_product(lowered("l1", "hinge"))
    assert (program.kernel.stages, program.kernel.weights, dict(program.scales)) == ((), (), {})
    assert [m.value for m in program.kernel.maps] == [0, 0, 0]
    x = np.ones((2, 3))
    for part in load(made("l1", "hinge")).hvp(x, 2 * x, 3 * x, x, 2 * x, 5 * x):
        assert part.tolist() == [[0, 0, 0], [0, 0, 0]]


def test_the_maps_are_linear_in_the_weights() -> None:
    for norm, loss, normalize in PAIRS:
        kernel = hessian_product(lowered(norm, loss, normalize)).kernel
        twice = {weight: 2 * weight for weight in kernel.weights}
        weighted = {c.symbol: expand_nodes(c.value) for c in kernel.components if c.value.free_symbols & twice.keys()}
        for of in kernel.maps:
            value = expand_nodes(of.value).xreplace(weighted)
            assert sp.expand(value.xreplace(twice) - 2 * value) == 0


def test_products_of_maxima_add_up_the_rates_of_the_largest_beside_counting_them() -> None:
    first, second = hessian_product(lowered("linf")).kernel.stages
    assert [r.name for r in first.reductions] == ["max_pos", "max_neg"]
    rates = ["scaled_rate_max_neg", "scaled_rate_max_pos"]
    assert [r.name for r in second.reductions] == ["count_pos", "count_neg", *rates]
    assert [m.value for m in hessian_product(lowered("linf", "hinge")).kernel.maps] == [0, 0, 0]


def test_the_rate_of_a_masked_ratio_is_0_where_it_is_masked() -> None:
    a, b = sp.symbols("a b", real=True)
    for variable in (a, b):
        slope = masked_ratio(a, b).diff(variable)
        assert slope.replace(lambda e: isinstance(e, masked_ratio), lambda e: masked_ratio.evaluate(1.0, 0.0)) == 0
        assert sp.simplify(slope.replace(masked_ratio, lambda c, d: c / d) - (a / b).diff(variable)) == 0
        assert (
            sp.simplify(quotient(a, b).diff(variable).replace(quotient, lambda c, d: c / d) - (a / b).diff(variable))
            == 0
        )


@pytest.mark.parametrize(
    ("norm", "old", "new"),
    [
        ("l2", "turn_pos", lambda value: -value),
        ("l2", "rate_pos", lambda value: 2 * value),
        ("l2", "inverse_neg", lambda value: value**2),
        ("linf", "rate_pos", lambda value: -value),
        ("linf", "rate_pos", lambda value: value * named(value, "count_pos")),  # seen at ties only
        ("linf", "turn_neg", lambda value: value * named(value, "count_neg")),
    ],
)
def test_a_wrong_program_is_not_made(norm: str, old: str, new: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    right = module._without_dead_code

    def planted(program: Any) -> Any:
        found = right(program)
        assert old in {a.name for a in found.kernel.scalars}
        stages = tuple(
            replace(s, scalars=tuple(replace(a, value=new(a.value)) if a.name == old else a for a in s.scalars))
            for s in found.kernel.stages
        )
        return replace(found, kernel=replace(found.kernel, stages=stages))

    monkeypatch.setattr(module, "_without_dead_code", planted)
    with pytest.raises(StepError, match=f"triplet_softmax_mse_{norm} is not the rate"):
        module.hessian_product.__wrapped__(lowered(norm))


def named(expr: sp.Expr, name: str) -> sp.Symbol:
    (symbol,) = (symbol for symbol in expr.free_symbols if symbol.name == name)
    return symbol


def test_no_parameter_can_have_the_name_of_what_a_product_computes() -> None:
    for norm, loss, normalize in PAIRS:
        program = hessian_product(lowered(norm, loss, normalize))
        of = program.kernel
        named = [*of.components, *of.reductions, *of.scalars, *of.maps]
        names = {*(one.name for one in named), *map(str, program.scales.values()), *DIRECTION, "v_pos", "v_neg"}
        assert not {name for name in names if not is_reserved(name)}


# ---------------------------------------------------------------- the NumPy function


def batch(dtype: str = "float64", rows: int = 4, dim: int = 3) -> list[Any]:
    random = np.random.default_rng(3)
    return [random.normal(size=(rows, dim)).astype(dtype) for _ in range(6)]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
def test_products_are_differences_of_gradients(dtype: str, reduction: str) -> None:
    numpy = load(made("l2", "softmax-nll"))
    triplet = batch(dtype)
    found = numpy.hvp(*triplet, reduction=reduction, temperature=0.5)
    wide = [array.astype(np.float64) for array in triplet]
    ahead, behind = (
        numpy.value_and_grad(
            *(e + h * v for e, v in zip(wide[:3], wide[3:], strict=True)), reduction=reduction, temperature=0.5
        )[1]
        for h in (1e-6, -1e-6)
    )
    for part, a, b in zip(found, ahead, behind, strict=True):
        assert part.dtype == dtype and part.shape == (4, 3)
        np.testing.assert_allclose(part, (a - b) / 2e-6, rtol=0, atol=1e-5 if dtype == "float32" else 1e-8)


def test_a_p_norm_of_2_has_the_products_of_the_euclidean_one_also_where_components_are_equal() -> None:
    triplet = batch()
    triplet[1][:, 0], triplet[2][1] = triplet[0][:, 0], triplet[0][1]
    found = load(made("lp")).hvp(*triplet, p=2.0)
    for part, wanted in zip(found, load(made("l2")).hvp(*triplet), strict=True):
        np.testing.assert_allclose(part, wanted, rtol=0, atol=1e-14)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_p_norm_of_1_has_the_products_of_the_manhattan_one(dtype: str) -> None:
    triplet = batch(dtype)
    triplet[1][:, 0] = triplet[0][:, 0]
    triplet[0][3], triplet[1][3] = [0, 1, 2], [4 * np.finfo(dtype).smallest_subnormal, 3, 4]  # of which 1/u overflows
    found = load(made("lp")).hvp(*triplet, p=1.0)
    for part, wanted in zip(found, load(made("l1")).hvp(*triplet), strict=True):
        np.testing.assert_allclose(part, wanted, rtol=0, atol=4 * np.finfo(dtype).eps)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("p", [1.0, 1.01, 1.5, 2.0, 3.0])
def test_nothing_that_overflows_is_multiplied_by_0(dtype: str, p: float) -> None:
    """Neither the weights of an inactive hinge are, nor a direction of 0, by the power of a component that is small."""
    least = np.finfo(dtype).smallest_subnormal
    x, x_pos, x_neg = np.array([[[0, 1], [0, 0]], [[least, 2], [least, least]], [[9, 9], [9, 9]]], dtype)
    module, v = load(made("lp", "hinge")), np.array([[1, 0], [1, 1]], dtype)
    for direction in ([v, -v, v], [0 * v, 0 * v, 0 * v]):
        for margin in (0.0, 99.0):
            found = np.array(module.hvp(x, x_pos, x_neg, *direction, p=p, margin=margin))
            if margin:  # that of the other row is beyond the type, if it is not 0
                found = found[:, : 1 + (not direction[0].any())]
            assert not np.isnan(found).any()
            assert not found.any() or (margin and direction[0].any())


def test_an_infinite_second_derivative_is_taken_as_0() -> None:
    triplet = batch()
    triplet[1][:, 0] = triplet[0][:, 0]
    module = load(made("lp", "hinge"))
    for p, none in ((1.5, True), (2.0, False), (2.5, True)):
        _, of_x_pos, _ = module.hvp(*triplet, p=p, margin=9.0)
        assert np.isfinite(of_x_pos).all()
        assert np.all((of_x_pos[:, 0] == 0) == none)
    assert [masked_power.evaluate(mpmath.mpf(0), b) for b in (-1, 0, 1)] == [0, 1, 0]
    assert masked_power.evaluate(mpmath.mpf(4), -1) == 0.25


def test_out_is_filled_and_returned_and_inputs_are_left_alone() -> None:
    numpy, triplet = load(made()), batch()
    kept = [array.copy() for array in triplet]
    out = tuple(np.full((4, 3), np.nan) for _ in range(3))
    found = numpy.hvp(*triplet, out=out)
    assert all(a is b for a, b in zip(found, out, strict=True))
    for part, wanted in zip(out, numpy.hvp(*triplet), strict=True):
        np.testing.assert_array_equal(part, wanted)
    for array, before in zip(triplet, kept, strict=True):
        np.testing.assert_array_equal(array, before)


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        ({4: np.ones((4, 2))}, ValueError, r"v_pos has shape \(4, 2\), x \(4, 3\)"),
        ({3: np.ones((4, 3), "float32")}, TypeError, "v is float32, x float64"),
        ({5: np.ones(3)}, ValueError, "v_neg has one dimension"),
        ({"out": (np.ones((4, 3)),) * 2}, ValueError, "out has 2 arrays; expected 3"),
        ({"out": "v"}, ValueError, r"out\[0\] shares memory with an input"),
        ({"reduction": "max"}, ValueError, "reduction is 'max'"),
        ({"temperature": 0.0}, ValueError, "temperature is 0.0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changed: Any, error: type[Exception], message: str) -> None:
    triplet: list[Any] = batch()
    options = {key: value for key, value in changed.items() if isinstance(key, str)}
    for key in changed.keys() - options.keys():
        triplet[key] = changed[key]
    if options.get("out") == "v":
        options["out"] = (triplet[3], np.ones((4, 3)), np.ones((4, 3)))
    with pytest.raises(error, match=message):
        load(made()).hvp(*triplet, **options)


def test_no_rows_have_empty_products() -> None:
    assert [part.shape for part in load(made()).hvp(*batch(rows=0))] == [(0, 3)] * 3


def test_no_line_of_a_module_is_long() -> None:
    for norm, loss, normalize in PAIRS:
        text = made(norm, loss, normalize).text(".py")
        code = text.partition('"""')[2].partition('"""')[2]
        assert max(map(len, code.splitlines())) <= 100
