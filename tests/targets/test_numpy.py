"""What the generated NumPy module promises, checked on its rendered text."""

from __future__ import annotations

import inspect
import itertools
import subprocess
import sys
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from objectives import COVER

from derive_triplet import Product, differentiate, generate, verify
from derive_triplet.derive.targets.numpy import load
from derive_triplet.derive.targets.numpy_rows import in_pairs

OBJECTIVES = list(COVER)
DTYPES = ("float32", "float64")
NAMES = ("x", "x_pos", "x_neg")
BAD_PARAMETERS = {"positive": (0.0, -1.0, np.nan, np.inf), "nonnegative": (-1.0, np.nan, np.inf)}
BAD_PARAMETERS["at least 1"] = (0.5, *BAD_PARAMETERS["positive"])

Triplet = tuple[Any, Any, Any]


@pytest.fixture(scope="module", params=OBJECTIVES, ids="-".join)
def product(request: pytest.FixtureRequest) -> Product:
    return generate(differentiate(*request.param), "numpy")


@pytest.fixture(scope="module")
def module(product: Product) -> ModuleType:
    return load(product)


def planted(product: Product, old: str, new: str) -> ModuleType:
    """The module with an error in its text."""
    text = product.text(".py").replace(old, new)
    assert text != product.text(".py")
    wrong = ModuleType("wrong")
    exec(text, wrong.__dict__)
    return wrong


def batch(rows: int, dim: int, dtype: str, seed: int = 1) -> Triplet:
    """Triplets whose distances are of order 1, whatever their dimension."""
    random = np.random.default_rng(seed)
    x, x_pos, x_neg = (random.normal(size=(rows, dim)) / dim**0.5 for _ in NAMES)
    return x.astype(dtype), x_pos.astype(dtype), x_neg.astype(dtype)


def norms(embeddings: Any) -> Any:
    return np.sqrt(np.sum(embeddings * embeddings, axis=1, keepdims=True))


def of_difference(value: Callable[[Any], tuple[Any, Any]]) -> Callable[[Any, Any], tuple[Any, ...]]:
    """A distance that is a function of x - y, given with its gradient in that."""

    def distance(x: Any, y: Any) -> tuple[Any, ...]:
        d, gradient = value(x - y)
        return d, gradient, -gradient, np.abs(gradient), np.abs(gradient)

    return distance


def cubic(u: Any) -> tuple[Any, Any]:
    """The norm of lp at its default, p = 3, and its gradient."""
    norm = np.cbrt(np.sum(np.abs(u) ** 3, axis=1, keepdims=True))
    return norm, u * np.abs(u) / norm**2


def largest(u: Any) -> tuple[Any, Any]:
    """The norm of linf, and its gradient, of which all components that are the largest have a share."""
    norm = np.max(np.abs(u), axis=1, keepdims=True)
    are = np.abs(u) == norm
    return norm, np.where(are, np.sign(u), 0) / np.sum(are, axis=1, keepdims=True)


def cosine(x: Any, y: Any) -> tuple[Any, ...]:
    x_unit, y_unit = x / norms(x), y / norms(y)
    c = np.sum(x_unit * y_unit, axis=1, keepdims=True)
    of_x, of_y = (c * x_unit - y_unit) / norms(x), (c * y_unit - x_unit) / norms(y)
    return 1 - c, of_x, of_y, np.abs(y_unit) / norms(x), np.abs(x_unit) / norms(y)


DISTANCES = {
    "l2": of_difference(lambda u: (norms(u), u / norms(u))),
    "l2-squared": of_difference(lambda u: (norms(u) ** 2, 2 * u)),
    "l2-smooth": of_difference(lambda u: (np.hypot(norms(u), 0.01) - 0.01, u / np.hypot(norms(u), 0.01))),
    "l1": of_difference(lambda u: (np.sum(np.abs(u), axis=1, keepdims=True), np.sign(u))),
    "lp": of_difference(cubic),
    "linf": of_difference(largest),
    "cosine": cosine,
}
"""By the closed forms, of rows: the distance, the gradients in x and y, and the sizes of the terms of these."""


def closed_form(product: Product, triplet: Triplet) -> tuple[Any, Triplet, Triplet]:
    """Losses and gradients of rows by the closed forms of the literature, for default parameters.

    And the sizes of the terms that these gradients are sums of.
    """
    wider = np.float64 if triplet[0].dtype == np.float32 else np.longdouble
    x, x_pos, x_neg = (embedding.astype(wider) for embedding in triplet)
    distance = DISTANCES[product.objective.distance.name]
    d_pos, toward_pos, of_pos, *sizes_pos = distance(x, x_pos)
    d_neg, toward_neg, of_neg, *sizes_neg = distance(x, x_neg)
    delta = d_pos - d_neg
    s, q = 1 / (1 + np.exp(-delta)), 1 / (1 + np.exp(delta))
    loss, slope = {
        "softmax-mse": (2 * s**2, 4 * s**2 * q),
        "softmax-nll": (-np.log(q), s),
        "hinge": (np.maximum(0, delta + 0.2), 1.0 * (delta + 0.2 > 0)),
    }[product.objective.loss.name]
    sizes = (np.maximum(sizes_pos[0], sizes_neg[0]), sizes_pos[1], sizes_neg[1])
    return (
        loss[:, 0],
        (slope * (toward_pos - toward_neg), slope * of_pos, -slope * of_neg),
        (slope * sizes[0], slope * sizes[1], slope * sizes[2]),
    )


def assert_closed_form(
    module: ModuleType, product: Product, triplet: Triplet, reduction: str = "none", ulps: float = 64
) -> None:
    # by default loose enough for any order of summation; one component of a row too many is 1e-5 of it
    loss, gradients = module.value_and_grad(*triplet, reduction=reduction)
    rows = len(triplet[0])
    losses, expected, sizes = closed_form(product, triplet)
    factor = np.longdouble(1) / rows if reduction == "mean" else 1
    wanted = losses if reduction == "none" else factor * losses.sum()
    tolerance = ulps * np.finfo(triplet[0].dtype).eps
    assert np.max(np.abs(loss - wanted)) <= tolerance * np.max(np.abs(wanted))
    for name, found, exact, size in zip(NAMES, gradients, expected, sizes, strict=True):
        assert found.shape == exact.shape
        assert np.max(np.abs(found - factor * exact)) <= tolerance * np.max(factor * size), f"grad_{name}"


# ---------------------------------------------------------------- what is computed


def test_verification_runs_the_text_and_passes(product: Product) -> None:
    report = verify(product)
    assert report.passed, str(report)
    assert report.level == f"run (NumPy {np.__version__})"
    assert {check.dtype for check in report.checks} == set(DTYPES)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_loss_and_gradients_are_the_closed_forms(
    module: ModuleType, product: Product, dtype: str, reduction: str
) -> None:
    for rows, dim in ((1, 1), (5, 3), (2, 1000)):
        assert_closed_form(module, product, batch(rows, dim, dtype), reduction)


@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("dtype", DTYPES)
def test_value_is_the_loss_of_value_and_grad(module: ModuleType, dtype: str, reduction: str) -> None:
    triplet = batch(1400, 97, dtype)  # several blocks
    assert triplet[0].nbytes > module._BLOCKS[0]
    loss, _ = module.value_and_grad(*triplet, reduction=reduction)
    np.testing.assert_array_equal(module.value(*triplet, reduction=reduction), loss, strict=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_results_have_the_float_type_of_the_inputs(module: ModuleType, dtype: str) -> None:
    for reduction, shape in (("mean", ()), ("sum", ()), ("none", (4,))):
        loss, gradients = module.value_and_grad(*batch(4, 3, dtype), reduction=reduction)
        assert (loss.dtype, loss.shape) == (np.dtype(dtype), shape)
        assert [(g.dtype, g.shape) for g in gradients] == [(np.dtype(dtype), (4, 3))] * 3


def test_the_mean_is_the_default(module: ModuleType) -> None:
    triplet = batch(4, 3, "float64")
    loss, gradients = module.value_and_grad(*triplet)
    mean, of_mean = module.value_and_grad(*triplet, reduction="mean")
    assert loss == mean == module.value(*triplet) != module.value(*triplet, reduction="sum")
    np.testing.assert_array_equal(gradients, of_mean)


def test_all_functions_have_the_same_options_and_defaults(module: ModuleType) -> None:
    value, with_gradients, with_products = (
        {name: of.default for name, of in inspect.signature(function).parameters.items() if of.kind is of.KEYWORD_ONLY}
        for function in (module.value, module.value_and_grad, module.hvp)
    )
    assert with_products == with_gradients == {**value, "out": None}
    assert value.items() >= {"reduction": "mean", "weights": None, "threads": 1}.items()


def test_default_parameters_are_those_asked_for(product: Product) -> None:
    triplet = batch(4, 3, "float64")
    for parameter in product.objective.parameters:
        changed = {parameter.name: 1.375}
        module = load(generate(product.derivation, "numpy", parameters=changed))
        assert module.value(*triplet) == load(product).value(*triplet, **changed) != load(product).value(*triplet)


# ---------------------------------------------------------------- blocks of rows, pieces of columns


def assert_right_at_row_blocks(module: ModuleType, product: Product, dtype: str) -> None:
    dim, block = 64, 512
    module._BLOCKS = (block * dim * np.dtype(dtype).itemsize,)
    for rows in (block - 1, block, block + 1, 2 * block + 1):
        assert_closed_form(module, product, batch(rows, dim, dtype))


def assert_right_at_column_pieces(module: ModuleType, product: Product, dtype: str) -> None:
    piece = getattr(module, "_PIECE", 256)
    for dim in (piece - 1, piece, piece + 1, 2 * piece, 2 * piece + 1):
        assert_closed_form(module, product, batch(3, dim, dtype))


def assert_the_same_in_all_blocks_and_threads(module: ModuleType, product: Product, dtype: str) -> None:
    """Bit for bit: every row is on its own."""
    triplet, direction = batch(61, 300, dtype), batch(61, 300, dtype, seed=2)
    module._BLOCKS = (1 << 30,)
    loss, gradients = module.value_and_grad(*triplet)
    products = module.hvp(*triplet, *direction)
    for module._BLOCKS, threads in (((1,), 1), ((4096,), 2), ((4096, 8192), 3), ((1 << 14,), 1)):
        module._trials.clear()
        found, others = module.value_and_grad(*triplet, threads=threads)
        assert found == loss == module.value(*triplet, threads=threads)
        np.testing.assert_array_equal(others, gradients)
        if products:
            np.testing.assert_array_equal(module.hvp(*triplet, *direction, threads=threads), products)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    "right",
    [assert_right_at_row_blocks, assert_right_at_column_pieces, assert_the_same_in_all_blocks_and_threads],
    ids=["rows", "columns", "threads"],
)
def test_blocks_pieces_and_threads(product: Product, right: Callable[..., None], dtype: str) -> None:
    right(load(product), product, dtype)


def test_blocks_are_of_the_size_that_was_fastest(module: ModuleType) -> None:
    sizes, row = module._BLOCKS, 1024
    trials: list[tuple[float, int]] = []
    slices = list(module._blocks(0, 10**5, row, trials))
    assert [size for _, size in trials] == [size for size in sizes for _ in range(3)]
    assert [(rows.start, rows.stop) for rows in slices] == list(
        itertools.pairwise([0, *(rows.stop for rows in slices)])
    )
    assert slices[-1].stop == 10**5
    for fastest in sizes:
        trials[:] = [(1.0 + (size != fastest), size) for size in sizes for _ in range(3)]
        assert {rows.stop - rows.start for rows in module._blocks(0, 8 * 1024, row, trials)} == {fastest // row}
    assert list(module._blocks(3, 5, 10**9, [])) == [slice(3, 4), slice(4, 5)]


def test_small_batches_are_one_block_and_no_trial(module: ModuleType) -> None:
    trials: list[tuple[float, int]] = []
    assert list(module._blocks(0, 63, 1024, trials)) == [slice(0, 63)]
    assert trials == []


def test_the_buffers_of_numpy_are_left_as_they_were(module: ModuleType) -> None:
    usual = np.getbufsize()
    module.value_and_grad(*batch(2, module._BUFFER, "float32"))
    with pytest.raises(IndexError):
        module._in_blocks(lambda rows: [][0], np.ones((2, module._BUFFER)), 1)
    assert np.getbufsize() == usual


@pytest.mark.parametrize("threads", [0, -1, 1.5, "2", None])
def test_a_number_of_threads_that_is_none_is_refused(module: ModuleType, threads: Any) -> None:
    with pytest.raises(ValueError, match=r"threads is .*; expected an integer >= 1"):
        module.value(*three(), threads=threads)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("components", ["random", "constant"])
def test_a_row_of_a_million_components_is_accurate(
    module: ModuleType, product: Product, components: str, dtype: str
) -> None:
    # where all terms are equal, the roundings of a running sum go one way: float32 has to be summed in something wider
    triplet = batch(1, 10**6, dtype)
    if components == "constant":
        triplet = tuple(np.full_like(e, c) for e, c in zip(triplet, (1e-4, 1.1e-3, -0.6e-3), strict=True))
    assert_closed_form(module, product, triplet, ulps={"float32": 8, "float64": 64}[dtype])


def test_one_short_text_serves_every_dimension(module: ModuleType, product: Product) -> None:
    for dim in (1, 2, 3, 10_007):
        assert_closed_form(module, product, batch(2, dim, "float64"))
    assert len(product.text(".py").splitlines()) < 650


def test_sigmoids_of_a_number_and_its_negative_are_one_call_and_nothing_else_is() -> None:
    s, q = ("s", "_sigmoid(z)"), ("q", "_sigmoid(-z)")
    assert in_pairs([("z", "delta"), s, q, ("loss", "2 * s")]) == [
        ("z", "delta"),
        ("s, q", "_sigmoids(z)"),
        ("loss", "2 * s"),
    ]
    for others in ([s], [q, s], [s, ("t", "1"), q], [s, ("q", "_sigmoid(-y)")], [s, ("q", "2 * _sigmoid(-z)")]):
        assert in_pairs(others) == others
    assert in_pairs([("s", "2 * _sigmoid(z)"), ("q", "2 * _sigmoid(-z)")])[0] == ("s", "2 * _sigmoid(z)")


# ---------------------------------------------------------------- arguments


def three(dtype: str = "float64", **changed: Any) -> Triplet:
    arrays = {name: np.ones((3, 2), dtype) for name in NAMES} | changed
    return arrays["x"], arrays["x_pos"], arrays["x_neg"]


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        (three(x=np.ones(2)), ValueError, r"x has one dimension; .*x\[None, :\]"),
        (three(x_neg=np.ones(2)), ValueError, r"x_neg has one dimension; .*x_neg\[None, :\]"),
        (three(x=np.ones((3, 2, 1))), ValueError, r"x has shape \(3, 2, 1\); expected \(rows, dim\)"),
        (three(x=np.float64(1)), ValueError, r"x has shape \(\); expected \(rows, dim\)"),
        ((np.ones((3, 0)),) * 3, ValueError, r"x has shape \(3, 0\); expected \(rows, dim\)"),
        (three(x_pos=np.ones((1, 2))), ValueError, r"x_pos has shape \(1, 2\).* x .*\(3, 2\)"),
        (three(x_neg=np.ones((3, 1))), ValueError, r"x_neg has shape \(3, 1\).* x .*\(3, 2\)"),
        (three(x_pos=np.ones((3, 2), "int32")), TypeError, "x_pos is int32; expected float32 or float64"),
        (three("float16"), TypeError, "x is float16; expected float32 or float64"),
        (three("complex128"), TypeError, "x is complex128; expected float32 or float64"),
        (three("float32", x_neg=np.ones((3, 2))), TypeError, "x_neg is float64.* x .*float32"),
        (three(x=[["a", "b"]]), TypeError, "x is <U1; expected float32 or float64"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(
    module: ModuleType, inputs: Triplet, error: type[Exception], message: str
) -> None:
    for function in (module.value, module.value_and_grad):
        with pytest.raises(error, match=message):
            function(*inputs)


def test_options_outside_their_domain_are_refused(module: ModuleType, product: Product) -> None:
    for function in (module.value, module.value_and_grad):
        with pytest.raises(ValueError, match=r"reduction is 'max'; expected .*mean.*sum.*none"):
            function(*three(), reduction="max")
        for parameter in product.objective.parameters:
            for bad in BAD_PARAMETERS[parameter.domain]:
                expected = f"{parameter.name} is {bad}; expected a {parameter.number}"
                with pytest.raises(ValueError, match=expected):
                    function(*three(), **{parameter.name: bad})
            if parameter.domain == "nonnegative":
                assert np.isfinite(module.value(*three(), **{parameter.name: 0.0}))


def test_lists_of_floats_are_taken(module: ModuleType) -> None:
    triplet = batch(2, 3, "float64")
    assert module.value(*(e.tolist() for e in triplet)) == module.value(*triplet)


@pytest.mark.parametrize(("dtype", "other"), [DTYPES, DTYPES[::-1]])
def test_a_module_for_one_float_type_refuses_the_other(product: Product, dtype: str, other: str) -> None:
    module = load(generate(product.derivation, "numpy", dtypes=[dtype]))
    assert module.value(*three(dtype)).dtype == dtype
    with pytest.raises(TypeError, match=f"x is {other}; expected {dtype}$"):
        module.value(*three(other))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("dim", [1, 4097])
def test_no_rows_have_loss_0_and_empty_gradients(module: ModuleType, dim: int, dtype: str) -> None:
    empty = (np.empty((0, dim), dtype),) * 3
    for reduction in ("mean", "sum"):
        loss, gradients = module.value_and_grad(*empty, reduction=reduction)
        wanted = np.empty(0, dtype) if reduction == "none" else np.asarray(0, dtype)
        np.testing.assert_array_equal(np.asarray(loss), wanted, strict=True)
        np.testing.assert_array_equal(np.asarray(module.value(*empty, reduction=reduction)), wanted, strict=True)
        assert [(g.shape, g.dtype) for g in gradients] == [((0, dim), np.dtype(dtype))] * 3


# ---------------------------------------------------------------- out=


@pytest.mark.parametrize("dtype", DTYPES)
def test_out_is_filled_and_returned(module: ModuleType, dtype: str) -> None:
    triplet = batch(300, 130, dtype)
    loss, expected = module.value_and_grad(*triplet)
    out = tuple(np.full_like(e, np.nan) for e in triplet)
    found, gradients = module.value_and_grad(*triplet, out=out)
    assert found == loss
    assert all(gradient is array for gradient, array in zip(gradients, out, strict=True))
    np.testing.assert_array_equal(out, expected)


def test_out_may_have_any_strides(module: ModuleType) -> None:
    triplet = batch(300, 130, "float64")
    _, expected = module.value_and_grad(*triplet)
    whole = np.full((3, 130, 600), np.nan)
    module.value_and_grad(*triplet, out=[part[:, ::-2].T for part in whole])
    np.testing.assert_array_equal(whole[:, :, ::-2].transpose(0, 2, 1), expected)
    assert np.all(np.isnan(whole[:, :, ::2]))  # what lies between is untouched


def _read_only(array: Any) -> Any:
    array.flags.writeable = False
    return array


@pytest.mark.parametrize(
    ("out", "error", "message"),
    [
        (lambda g, x: g[:2], ValueError, "out has 2 arrays; expected 3"),
        (lambda g, x: [*g, g[0]], ValueError, "out has 4 arrays; expected 3"),
        (lambda g, x: [g[0], g[1][:2], g[2]], ValueError, r"out\[1\] has shape \(2, 2\); expected \(3, 2\)"),
        (lambda g, x: [g[0], g[1], g[2].T], ValueError, r"out\[2\] has shape \(2, 3\); expected \(3, 2\)"),
        (lambda g, x: [g[0].astype("float32"), *g[1:]], TypeError, r"out\[0\] is not an array of float64"),
        (lambda g, x: [g[0], g[1].tolist(), g[2]], TypeError, r"out\[1\] is not an array of float64"),
        (lambda g, x: [*g[:2], _read_only(g[2])], ValueError, r"out\[2\] is read-only"),
        (lambda g, x: [x[0], *g[1:]], ValueError, r"out\[0\] shares memory with an input or another output"),
        (lambda g, x: [*g[:2], x[1][::-1]], ValueError, r"out\[2\] shares memory with an input or another output"),
        (lambda g, x: [g[0], g[1], g[0]], ValueError, r"out\[2\] shares memory with an input or another output"),
    ],
)
def test_out_that_does_not_fit_is_refused_and_left_alone(
    module: ModuleType, out: Callable[..., Any], error: type[Exception], message: str
) -> None:
    inputs, arrays = batch(3, 2, "float64"), [np.full((3, 2), 7.0) for _ in NAMES]
    before = [e.copy() for e in inputs]
    with pytest.raises(error, match=message):
        module.value_and_grad(*inputs, out=out(arrays, inputs))
    np.testing.assert_array_equal(arrays, 7.0)
    np.testing.assert_array_equal(inputs, before)


# ---------------------------------------------------------------- memory


LAYOUTS: dict[str, Callable[[Any], Any]] = {
    "transposed": lambda e: np.ascontiguousarray(e.T).T,
    "every other column": lambda e: np.repeat(e, 2, axis=1)[:, ::2],
    "every other row": lambda e: np.repeat(e, 2, axis=0)[1::2],
    "negative strides": lambda e: np.ascontiguousarray(e[::-1, ::-1])[::-1, ::-1],
    "unaligned": lambda e: np.frombuffer(b"?" + e.tobytes(), e.dtype, offset=1).reshape(e.shape),
    "read-only": lambda e: _read_only(e.copy()),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
@pytest.mark.parametrize("dtype", DTYPES)
def test_layout_in_memory_does_not_matter(
    module: ModuleType, product: Product, layout: Callable[[Any], Any], dtype: str
) -> None:
    triplet = batch(150, 300, dtype)
    laid_out = tuple(layout(e) for e in triplet)
    np.testing.assert_array_equal(laid_out, triplet)
    assert_closed_form(module, product, laid_out)
    np.testing.assert_array_equal(laid_out, triplet)


def test_one_anchor_may_be_broadcast_over_all_rows(module: ModuleType, product: Product) -> None:
    x, x_pos, x_neg = batch(6, 5, "float64")
    anchors = np.broadcast_to(x[:1], x.shape)
    assert anchors.strides[0] == 0
    assert_closed_form(module, product, (anchors, x_pos, x_neg), "mean")


@pytest.mark.parametrize("norm", DISTANCES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_parallel_embeddings_are_close_whatever_their_lengths(norm: str, dtype: str) -> None:
    """Their unit vectors differ by rounding, and by the same in the distance as in the gradient that it divides."""
    x, _, x_neg = batch(50, 7, dtype)
    x = np.round(64 * x) / 64  # so that 3*x is exact
    made = generate(differentiate(norm, "softmax-nll", normalize=norm != "cosine"), "numpy")

    def longest(module: ModuleType) -> Any:
        triplet = x, 3 * x, x_neg
        _, gradients = module.value_and_grad(*triplet, reduction="none")
        return max(np.max(norms(g) * norms(e)) for g, e in zip(gradients, triplet, strict=True))

    bound = 2 * 7**0.5  # of l1, whose gradient has length sqrt(n)
    assert longest(load(made)) <= bound
    # as if they were computed anew for the gradient, in float32; in float32 rows that short have a scale
    if norm == "l2":
        wrong = planted(made, '"""The gradients of each row."""', "u += 1e-7 * unit_x")
        assert bool(longest(wrong) > bound) == (dtype == "float64")


@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_are_not_modified(module: ModuleType, dtype: str) -> None:
    triplet = batch(300, 130, dtype)
    before = [e.copy() for e in triplet]
    module.value(*triplet)
    _, gradients = module.value_and_grad(*triplet)
    np.testing.assert_array_equal(triplet, before)
    assert not any(np.shares_memory(g, e) for g in gradients for e in triplet)


# ---------------------------------------------------------------- not finite, and warnings


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("where", range(3), ids=NAMES)
def test_a_row_that_is_not_finite_stays_in_its_row(module: ModuleType, where: int, bad: float, dtype: str) -> None:
    triplet = batch(5, 4, dtype)
    clean_loss, clean_gradients = module.value_and_grad(*triplet, reduction="none")
    triplet[where][2, 1] = bad
    loss, gradients = module.value_and_grad(*triplet, reduction="none")
    others = [0, 1, 3, 4]
    np.testing.assert_array_equal(loss[others], clean_loss[others])
    np.testing.assert_array_equal(np.array(gradients)[:, others], np.array(clean_gradients)[:, others])
    if np.isnan(bad):  # and is not hidden by a 0
        assert np.isnan(loss[2])
        assert all(np.isnan(g[2]).any() for g in gradients)


EXTREME: dict[str, Callable[[Any], Triplet]] = {
    "coincident": lambda info: ([[1.0, 2.0]], [[1.0, 2.0]], [[1.0, 2.0]]),
    "loss below the normal range": lambda info: ([[0.0, 0.0]], [[1.0, 0.0]], [[1.0 - np.log(info.tiny), 1.0]]),
    "far positive": lambda info: ([[0.0, 0.0]], [[1e5, 0.0]], [[1.0, 1.0]]),
    "far negative": lambda info: ([[0.0, 0.0]], [[1.0, 0.0]], [[1e5, 1.0]]),
    "subnormal": lambda info: ([[0.0, 0.0]], [[info.tiny / 4, 0.0]], [[0.0, info.tiny / 2]]),
    "squares underflow": lambda info: ([[0.0, 0.0]], [[info.tiny, 0.0]], [[0.0, 3 * info.tiny]]),
    "squares overflow": lambda info: ([[0.0, 0.0]], [[info.max / 2, 0.0]], [[1.0, 1.0]]),
    "differences overflow": lambda info: ([[info.max, 0.0]], [[-info.max, 0.0]], [[1.0, 1.0]]),
    "sum over rows overflows": lambda info: ([[0.0]] * 2, [[0.9 * info.max**0.5]] * 2, [[0.0]] * 2),
    "infinite": lambda info: ([[np.inf, 0.0]], [[1.0, 0.0]], [[1.0, 1.0]]),
    "NaN": lambda info: ([[0.0, 0.0]], [[np.nan, 0.0]], [[1.0, 1.0]]),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", EXTREME.values(), ids=EXTREME.keys())
def test_nothing_warns_or_raises_for_extreme_inputs(
    module: ModuleType, case: Callable[[Any], Triplet], dtype: str
) -> None:
    # warnings are errors in this test suite
    triplet = [np.array(e, dtype=dtype) for e in case(np.finfo(dtype))]
    for reduction in ("mean", "sum"):
        with np.errstate(all="raise"):
            strict = module.value(*triplet, reduction=reduction)
            module.value_and_grad(*triplet, reduction=reduction)
        with np.errstate(all="warn"):
            np.testing.assert_array_equal(module.value(*triplet, reduction=reduction), strict)
            module.value_and_grad(*triplet, reduction=reduction)


# ---------------------------------------------------------------- the range of a type


@pytest.mark.parametrize(("dtype", "far"), [("float32", 1e30), ("float64", 1e300)])
def test_rows_outside_the_range_of_their_squares_and_others_do_not_touch_each_other(
    module: ModuleType, dtype: str, far: float
) -> None:
    scales = np.array([1, 1 / far, far, 1, 1 / far])[:, None].astype(dtype)
    rows = [embedding * scales for embedding in batch(len(scales), 4, dtype)]
    loss, gradients = module.value_and_grad(*rows, reduction="none")
    for row in range(len(scales)):
        alone, own = module.value_and_grad(*(embedding[[row]] for embedding in rows), reduction="none")
        assert loss[row] == alone[0]
        for gradient, wanted in zip(gradients, own, strict=True):
            np.testing.assert_array_equal(gradient[row], wanted[0])


# ---------------------------------------------------------------- the text


def test_the_text_is_formatted_and_compiles_without_warnings(tmp_path: Path) -> None:
    variants: list[dict[str, Any]] = [{}, {"dtypes": ["float32"]}, {"dtypes": ["float64"]}]
    for (norm, loss), normalize in itertools.product(OBJECTIVES, (False, True)):
        derivation = differentiate(norm, loss, normalize=normalize)
        digits, parameters = 1.2345678901234567, derivation.objective.parameters
        long_default = {p.name: digits * 1e-5 if p.holds(1e-5) else digits for p in parameters}
        for at, variant in enumerate([*variants, {"parameters": long_default}]):
            product = generate(derivation, "numpy", **variant)
            (tmp_path / f"{product.objective.stem}_{at}.py").write_text(product.text(".py"), encoding="utf-8")

    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, *arguments, str(tmp_path)], capture_output=True, text=True, check=False)

    formatted = run("-m", "ruff", "format", "--check", "--isolated", "--no-cache")
    assert formatted.returncode == 0, formatted.stdout + formatted.stderr
    compiled = run("-W", "error", "-m", "compileall", "-q", "-f")
    assert compiled.returncode == 0, compiled.stdout + compiled.stderr

    (tmp_path / "planted.py").write_text("if 1 is  1: print( 'a' )\n")
    assert "planted.py" in run("-m", "ruff", "format", "--check", "--isolated", "--no-cache").stdout
    assert "planted.py" in run("-W", "error", "-m", "compileall", "-q", "-f").stdout


# ---------------------------------------------------------------- do these tests see errors?


def _far(module: ModuleType, product: Product) -> None:
    test_rows_outside_the_range_of_their_squares_and_others_do_not_touch_each_other(module, "float32", 1e30)


def _not_finite(module: ModuleType, product: Product) -> None:
    test_a_row_that_is_not_finite_stays_in_its_row(module, 1, np.nan, "float32")


def _extreme(module: ModuleType, product: Product) -> None:
    test_nothing_warns_or_raises_for_extreme_inputs(module, EXTREME["far negative"], "float32")


def _layout(module: ModuleType, product: Product) -> None:
    test_layout_in_memory_does_not_matter(module, product, LAYOUTS["transposed"], "float32")


def _shared_out(module: ModuleType, product: Product) -> None:
    error = pytest.raises(ValueError, match="shares memory")
    with error:
        module.value_and_grad(*(inputs := batch(3, 2, "float64")), out=inputs)


ERRORS: list[tuple[Callable[..., None], str, str]] = [
    (assert_right_at_row_blocks, "min(first + rows, end)", "min(first + rows, end) - 1"),
    (assert_right_at_row_blocks, "while first < end", "while first + 1 < end"),
    (assert_right_at_row_blocks, "gradient[rows] for", "gradient[:rows.stop - rows.start] for"),
    (assert_right_at_column_pieces, "terms[:, whole:]", "terms[:, whole - 1 :]"),
    (assert_right_at_column_pieces, "if whole < columns", "if whole < columns - 1"),
    (assert_right_at_column_pieces, "return sums + ", "return "),
    (assert_the_same_in_all_blocks_and_threads, "share + 1)", "share + 1 - (share > 0))"),
    (assert_the_same_in_all_blocks_and_threads, "= np.sqrt(sum_pos)", "= np.sqrt(sum_pos) + 1e-6 * len(x)"),
    (test_value_is_the_loss_of_value_and_grad, "*kept, *parameters)[0]", "*kept, *parameters)[0] + 1e-9"),
    (test_results_have_the_float_type_of_the_inputs, "return loss.astype(dtype)", "return loss"),
    (test_the_mean_is_the_default, 'reduction="mean",', 'reduction="sum",'),
    (test_no_rows_have_loss_0_and_empty_gradients, "max(n, 1)", "n"),
    (test_out_is_filled_and_returned, "x.dtype), gradients", "x.dtype), tuple(g.copy() for g in gradients)"),
    (test_out_may_have_any_strides, "array[rows] = found", "pass"),
    (_shared_out, "if any(np.shares", "if not any(np.shares"),
    (_layout, "block = x[rows],", 'block = x.ravel(order="K").reshape(x.shape)[rows],'),
    (test_inputs_are_not_modified, "loss = np.empty(len(x))", "loss = np.empty(len(x)); x *= 2"),
    (_not_finite, "return loss, saved", "return np.nan_to_num(loss), list(map(np.nan_to_num, saved))"),
    (_not_finite, "return loss, saved", "return loss + 0 * loss.sum(), [every + 0 * every.sum() for every in saved]"),
    (_far, "scale[:, None]", "np.roll(scale, 1)[:, None]"),
    (_extreme, '@np.errstate(all="ignore")', ""),
]


@pytest.mark.parametrize(("check", "old", "new"), ERRORS)
def test_planted_errors_are_seen(check: Callable[..., None], old: str, new: str) -> None:
    product = generate(differentiate("l2", "softmax-mse"), "numpy")
    wrong = planted(product, old, new)
    given = {"module": wrong, "product": product, "dtype": "float32", "reduction": "none", "dim": 1}
    arguments = {name: given[name] for name in inspect.signature(check).parameters}
    with (
        np.errstate(),
        warnings.catch_warnings(),
        pytest.raises((AssertionError, FloatingPointError, pytest.fail.Exception)),
    ):
        warnings.simplefilter("ignore", RuntimeWarning)  # what is asserted has to fail, not a warning
        check(**arguments)


# ---------------------------------------------------------------- verified at other parameters than the defaults


@pytest.mark.parametrize(
    ("norm", "loss", "parameter", "values"),
    [
        ("l2", "softmax-mse", "temperature", (1e-5, 0.003, 0.07, 30.0, 1e10)),
        ("l2-squared", "softmax-mse", "temperature", (0.005, 0.09, 0.18)),
        ("l2", "softmax-nll", "temperature", (1e-5, 0.003)),
        ("l2-squared", "softmax-nll", "temperature", (1e-5, 0.09)),
        ("l2", "hinge", "margin", (0.0, 1e-6, 1e6)),
        ("l2-squared", "hinge", "margin", (0.0, 1e-6, 1e6)),
    ],
)
def test_right_code_passes_at_every_parameter(norm: str, loss: str, parameter: str, values: Sequence[float]) -> None:
    for value in values:
        report = verify(generate(differentiate(norm, loss), "numpy", parameters={parameter: value}))
        assert report.passed, f"{parameter} {value}\n{report}"


@pytest.mark.parametrize("temperature", [0.003, 0.07, 30.0])
def test_wrong_code_fails_at_every_parameter(temperature: float) -> None:
    product = generate(differentiate("l2", "softmax-mse"), "numpy", parameters={"temperature": temperature})
    (file,) = product.files
    for right, wrong in (("= 4 * q", "= 3.999 * q"), ("= 2 * s * s", "= 2.001 * s * s"), ("u * weight", "-u * weight")):
        assert right in file.text
        planted = replace(product, files=(replace(file, text=file.text.replace(right, wrong)),))
        assert not verify(planted).passed, wrong
