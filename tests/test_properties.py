"""What is true of every distance and loss, on generated NumPy modules: identities that no reference is needed for.

A property takes a module and a batch. Most batches are of multiples of 1/64, of which differences, squares and sums are
exact in double, so that many identities hold bit for bit. The last tests plant errors that the properties have to see.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from types import ModuleType
from typing import Any

import mpmath
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from objectives import COVER, EVERY, NORMALIZED

from derive_triplet import DISTANCES, LOSSES, Objective, Settings, differentiate, generate
from derive_triplet.cli import main
from derive_triplet.derive.expression import Algebra, Definition
from derive_triplet.derive.highprecision import distance_between, loss_value, unit
from derive_triplet.derive.requests import requests_for
from derive_triplet.derive.targets.numpy import load, runner
from derive_triplet.derive.text import formulas
from derive_triplet.derive.verify.checks import BOUND, worst_errors
from derive_triplet.derive.verify.regimes import Regime

EPS = float(np.finfo(np.float64).eps)
CASES = (*((*pair, False) for pair in COVER), *((*pair, True) for pair in NORMALIZED))
DEGREES = {"l2": 1, "l1": 1, "lp": 1, "linf": 1, "l2-smooth": 1, "l2-squared": 2}
"""Of homogeneity, where a length that is a parameter grows with the embeddings."""
QUIET = settings(
    derandomize=True, deadline=None, database=None, report_multiple_bugs=False, phases=(Phase.explicit, Phase.generate)
)

Batch = Any
"""x, x_pos and x_neg, an array of shape (3, rows, dim)."""


@dataclass(frozen=True)
class Made:
    """A generated module, and what it is of."""

    objective: Objective
    module: ModuleType

    @property
    def defaults(self) -> dict[str, float]:
        return {p.name: p.default for p in self.objective.parameters}

    def run(self, batch: Batch, **options: Any) -> tuple[Any, Any]:
        """Losses and gradients of rows, shapes (rows,) and (3, rows, dim)."""
        loss, gradients = self.module.value_and_grad(*batch, **{"reduction": "none"} | options)
        return loss, np.array(gradients)

    def distances(self, batch: Batch) -> tuple[Any, Any]:
        """d_pos and d_neg of each row, by the definition."""
        return self.distance(batch[0], batch[1]), self.distance(batch[0], batch[2])

    def distance(self, x: Any, y: Any) -> Any:
        vectors = {"x": (of := self.units(np.stack([x, y])))[0].T.__getitem__, "y": of[1].T.__getitem__}
        return self.objective.distance.derived.read(FLOATS[x.shape[1]], self.defaults, vectors)

    def units(self, embeddings: Any) -> Any:
        """What the distance is of: directions, or the embeddings as they are."""
        norms = np.linalg.norm(embeddings, axis=2, keepdims=True)
        return embeddings / np.where(norms, norms, 1) if self.objective.of_units else embeddings


FLOATS: Any = {
    dim: Algebra(
        number=float,
        functions={"sqrt": np.sqrt, "abs": abs, "exp": np.exp, "log": np.log, "max": max},
        reduce=lambda kind, term, dim=dim: {"sum": np.sum, "max": np.max}[kind]([term(k) for k in range(dim)], axis=0),
    )
    for dim in range(9)
}


@cache
def made(norm: str, loss: str, normalize: bool, old: str = "", new: str = "") -> Made:
    """The module of a case; with `old`, a regular expression, replaced in its text."""
    product = generate(differentiate(norm, loss, normalize=normalize), "numpy")
    if not old:
        return Made(product.objective, load(product))
    wrong, text = ModuleType("wrong"), re.sub(old, new, product.text(".py"))
    assert text != product.text(".py")
    exec(text, wrong.__dict__)
    return Made(product.objective, wrong)


def batches(rows: tuple[int, int] = (1, 4)) -> st.SearchStrategy[Batch]:
    """Multiples of 1/64 up to 8."""
    shapes = st.tuples(st.just(3), st.integers(*rows), st.integers(1, 5))
    return shapes.flatmap(lambda shape: arrays(np.int64, shape, elements=st.integers(-512, 512))).map(lambda a: a / 64)


def close(found: Any, wanted: Any, size: Any, units: float = 64) -> bool:
    """Whether numbers differ by some roundings of a size."""
    return bool(np.all(np.abs(found - wanted) <= units * EPS * size))


# ---------------------------------------------------------------- properties: of a module, a batch, and a number


def gradients_sum_to_0(made: Made, batch: Batch, number: int) -> None:
    if not made.objective.of_units:
        _, gradients = made.run(batch)
        assert close(gradients.sum(axis=0), 0, np.abs(gradients).max(axis=0))


def a_common_shift_changes_nothing(made: Made, batch: Batch, number: int) -> None:
    if not made.objective.of_units:
        for found, wanted in zip(made.run(batch + number), made.run(batch), strict=True):
            np.testing.assert_array_equal(found, wanted)


def lengths_do_not_matter_to_directions(made: Made, batch: Batch, number: int) -> None:
    if made.objective.of_units:
        factors = 2.0 ** np.array([number, -number, number // 2])[:, None, None]
        (loss, gradients), (scaled_loss, scaled) = made.run(batch), made.run(batch * factors)
        np.testing.assert_array_equal(scaled_loss, loss)
        np.testing.assert_array_equal(scaled * factors, gradients)
        other, _ = made.run(batch * (np.array([1, 3, 7])[:, None, None] / 3))
        assert close(other, loss, 16 + np.abs(loss))


def no_gradient_is_along_a_direction(made: Made, batch: Batch, number: int) -> None:
    if made.objective.of_units:
        _, gradients = made.run(batch)
        assert close((batch * gradients).sum(axis=2), 0, 16)


def swapped_embeddings_negate_the_difference(made: Made, batch: Batch, number: int) -> None:
    (loss, _), (swapped, _) = made.run(batch), made.run(batch[[0, 2, 1]])
    d_pos, d_neg = made.distances(batch)
    delta, size = d_pos - d_neg, 1 + d_pos + d_neg
    match made.objective.loss.name:
        case "softmax-mse":
            assert close(np.sqrt(loss / 2) + np.sqrt(swapped / 2), 1, size)
        case "softmax-nll":
            assert close(loss - swapped, delta / made.defaults["temperature"], size)
        case "hinge":
            margin = made.defaults["margin"]
            assert close(loss - swapped, delta + np.clip(delta, -margin, margin), size)


def components_may_be_permuted(made: Made, batch: Batch, number: int) -> None:
    order = np.random.default_rng(number + 99).permutation(batch.shape[2])
    (loss, gradients), (permuted_loss, permuted) = made.run(batch), made.run(batch[:, :, order])
    exact = not made.objective.of_units and made.objective.distance.name != "lp"  # of which powers round
    size = np.abs(gradients).max(axis=(0, 2))[:, None]
    assert close(permuted_loss, loss, 0 if exact else 16 + np.abs(loss))
    assert close(permuted, gradients[:, :, order], 0 if exact else 16 + 16 * size)


def rows_may_be_permuted(made: Made, batch: Batch, number: int) -> None:
    order = np.random.default_rng(number + 99).permutation(batch.shape[1])
    (loss, gradients), (permuted_loss, permuted) = made.run(batch), made.run(batch[:, order])
    np.testing.assert_array_equal(permuted_loss, loss[order])
    np.testing.assert_array_equal(permuted, gradients[:, order])


def scaled_embeddings_scale_distances(made: Made, batch: Batch, number: int) -> None:
    objective, factor = made.objective, 2.0**number
    if not objective.of_units:
        grown = factor ** DEGREES[objective.distance.name]
        own = {p.name: p.default * factor for p in objective.distance.parameters if p.name == "epsilon"}
        own |= {p.name: p.default * grown for p in objective.loss.parameters}
        (loss, gradients), (scaled_loss, scaled) = made.run(batch), made.run(batch * factor, **own)
        if objective.loss.name == "hinge":
            loss, gradients = loss * grown, gradients * grown
        np.testing.assert_array_equal(scaled_loss, loss)
        np.testing.assert_array_equal(scaled * factor, gradients)


def slopes_are_bounded(made: Made, batch: Batch, number: int) -> None:
    """By 16/(27*temperature), 1/temperature and 1, where the distance's gradient has length 1 at most."""
    if made.objective.distance.name in ("l2", "l2-smooth") and not made.objective.of_units:
        temperature = 2.0 ** (number / 4)
        softmax = "temperature" in made.defaults
        bound = {"softmax-mse": 16 / 27 / temperature, "softmax-nll": 1 / temperature, "hinge": 1}
        _, gradients = made.run(batch, **{"temperature": temperature} if softmax else {})
        lengths = np.linalg.norm(gradients[1:], axis=2)
        assert np.all(lengths <= bound[made.objective.loss.name] * (1 + 8 * EPS))


def the_loss_rises_with_d_pos_and_falls_with_d_neg(made: Made, batch: Batch, number: int) -> None:
    other = batch[:, ::-1]
    for which, sign in ((1, 1), (2, -1)):
        changed = batch.copy()
        changed[which] = other[which]
        before, after = made.distance(batch[0], batch[which]), made.distance(batch[0], changed[which])
        loss, changed_loss = made.run(batch)[0], made.run(changed)[0]
        size = 64 * EPS * (1 + before + after)
        assert np.all((after < before - size) | (sign * (changed_loss - loss) >= -size))


def float32_is_float64_rounded(made: Made, batch: Batch, number: int) -> None:
    (loss, gradients), (narrow_loss, narrow) = made.run(batch), made.run(batch.astype(np.float32))
    # unit vectors are made of components that are float32, and so are the shares that p-norms raise to p = 3
    in_units = float(np.finfo(np.float32).eps) / EPS * (3 if made.objective.distance.name == "lp" else 1)
    assert close(narrow_loss, loss, 1e-30 + np.abs(loss) + 16 * made.objective.of_units, units=in_units)
    if not made.objective.of_units:
        assert close(narrow, gradients, 1e-30 + np.abs(gradients).max(axis=(0, 2))[:, None], units=2 * in_units)


def gradients_are_slopes(made: Made, batch: Batch, number: int) -> None:
    """A central difference along a random direction, away from kinks, where distances are not small."""
    random = np.random.default_rng(number + 99)
    direction, h = random.uniform(-1, 1, batch.shape), 1e-5
    loss, gradients = made.run(batch)
    ahead, behind = made.run(batch + h * direction)[0], made.run(batch - h * direction)[0]
    linear = (gradients * direction).sum(axis=(0, 2))
    d_pos, d_neg = made.distances(batch)
    units = made.units(batch)
    u = units[0] - units[1:]
    smooth = (np.abs(u).min(axis=(0, 2)) > 1e-3) & (np.minimum(d_pos, d_neg) > 0.1)
    smooth &= np.linalg.norm(batch, axis=2).min(axis=0) > 0.25
    smooth &= np.abs(d_pos - d_neg + made.defaults.get("margin", 99)) > 0.01
    error = np.abs((ahead - behind) / (2 * h) - linear)
    assert np.all(error[smooth] <= 1e-6 * (1 + np.abs(loss) + np.abs(gradients).sum(axis=(0, 2)))[smooth])


def reductions_are_of_the_rows(made: Made, batch: Batch, number: int) -> None:
    rows = batch.shape[1]
    loss, gradients = made.run(batch)
    total, of_total = made.run(batch, reduction="sum")
    mean, of_mean = made.run(batch, reduction="mean")
    assert close(total, loss.sum(), np.abs(loss).sum(), units=2)
    assert mean == total / rows
    np.testing.assert_array_equal(of_total, gradients)
    size = np.abs(gradients).max(axis=(0, 2))[:, None] + 64 * made.objective.of_units  # which is 1/|x| at most
    assert close(of_mean, gradients / rows, size, units=4)


def outputs_that_are_given_get_the_same_numbers(made: Made, batch: Batch, number: int) -> None:
    out = np.full_like(batch, np.nan)
    loss, gradients = made.run(batch)
    again, returned = made.run(batch, out=tuple(out))
    np.testing.assert_array_equal(again, loss)
    np.testing.assert_array_equal(out, gradients)
    np.testing.assert_array_equal(returned, gradients)


PROPERTIES: tuple[Callable[[Made, Batch, int], None], ...] = (
    gradients_sum_to_0,
    a_common_shift_changes_nothing,
    lengths_do_not_matter_to_directions,
    no_gradient_is_along_a_direction,
    swapped_embeddings_negate_the_difference,
    components_may_be_permuted,
    rows_may_be_permuted,
    scaled_embeddings_scale_distances,
    slopes_are_bounded,
    the_loss_rises_with_d_pos_and_falls_with_d_neg,
    float32_is_float64_rounded,
    gradients_are_slopes,
    reductions_are_of_the_rows,
    outputs_that_are_given_get_the_same_numbers,
)


def assert_holds(properties: tuple[Callable[[Made, Batch, int], None], ...], of: Made) -> None:
    @settings(QUIET, max_examples=24)
    @given(batches(), st.integers(-20, 20))
    def on_examples(batch: Batch, number: int) -> None:
        for holds in properties:
            holds(of, batch, number)

    on_examples()


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_property_holds(case: tuple[str, str, bool]) -> None:
    assert_holds(PROPERTIES, made(*case))


# ---------------------------------------------------------------- the range of a type


def anywhere(dtype: str) -> st.SearchStrategy[Batch]:
    """One row of numbers from the smallest subnormal one to the largest."""
    elements = st.floats(width=np.dtype(dtype).itemsize * 8, allow_nan=False, allow_infinity=False)
    shapes = st.tuples(st.just(3), st.just(1), st.integers(1, 3))
    return shapes.flatmap(lambda shape: arrays(dtype, shape, elements=elements))


def has_an_answer(of: Made, batch: Batch, dtype: str) -> bool:
    """Whether differences and distances are numbers of the type, and rounding decides neither a side nor everything.

    It decides a side where d_pos - d_neg, or a hinge's or a component's kink, is within the rounding of its terms, and
    everything between directions that are nearly, but not quite, the same.
    """
    least = float(np.finfo(dtype).tiny)
    largest, rounding = mpmath.mpf(float(np.finfo(dtype).max)), 64 * float(np.finfo(dtype).eps)
    with mpmath.workdps(700):
        vectors = [[mpmath.mpf(float(c)) for c in embedding[0]] for embedding in batch]
        d_pos, d_neg = (distance_between(of.objective, vectors[0], y, of.defaults) for y in vectors[1:])
        parts = [unit(v) for v in vectors] if of.objective.of_units else vectors
        pairs = [pair for y in parts[1:] for pair in zip(parts[0], y, strict=True)]
        delta, size = abs(d_pos - d_neg), rounding * (d_pos + d_neg)
        has_kinks = of.objective.distance.name == "l1" and of.objective.of_units
        if has_kinks and any(0 < abs(a - b) <= max(least, rounding * (abs(a) + abs(b))) for a, b in pairs):
            return False
        for y in parts[1:] if of.objective.distance.name == "linf" else []:
            second, first = sorted([0, *(abs(a - b) for a, b in zip(parts[0], y, strict=True))])[-2:]
            tied = second == first and not of.objective.of_units  # of unit vectors rounding decides which are
            if first and not tied and first - second <= max(least, rounding * (1 if of.objective.of_units else first)):
                return False
        angles = [mpmath.norm([a - b for a, b in zip(parts[0], y, strict=True)]) for y in parts[1:]]
        if of.objective.of_units and any(0 < angle < mpmath.sqrt(rounding) for angle in angles):
            return (
                False  # rounding turns the direction from one unit vector to the other, by its square over the angle's
            )
        if abs(d_pos - d_neg + of.defaults.get("margin", mpmath.inf)) <= size:
            return False
        return max(d_pos, d_neg, *(abs(a - b) for a, b in pairs)) <= largest and (delta > size or size < 1)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_where_the_answer_is_a_number_so_is_ours(case: tuple[str, str, bool], dtype: str) -> None:
    of = made(*case)

    @settings(QUIET, max_examples=20)
    @given(anywhere(dtype))
    def on_examples(batch: Batch) -> None:
        if has_an_answer(of, batch, dtype):
            regime = Regime("drawn", *batch, of.defaults)
            for worst in worst_errors(of.objective, runner(of.module), regime, dtype):
                assert worst.error <= BOUND, worst

    with np.errstate(all="ignore"):
        on_examples()


# ---------------------------------------------------------------- what is printed and said, read again

MP: Any = Algebra(
    number=mpmath.mpf,
    functions={
        **{name: getattr(mpmath, name) for name in ("exp", "log", "sqrt")},
        "max": max,
        "where": lambda z, value, otherwise: value() if z > 0 else otherwise(),
    },
    reduce=lambda kind, term: term(0),
)
GRADIENT = "dL/dx_pos[k]"


def program(rows: Mapping[str, str], last: str) -> str:
    """Printed formulas as lines of the language; what they call is written out."""
    meanings = {name[:-3]: meaning for name, meaning in rows.items() if name.endswith("(t)")}

    def spelled(text: str) -> str:
        for name, meaning in meanings.items():
            condition = re.fullmatch(r"(.*) if (.*), otherwise (.*)", meaning)
            inside = "where({1}, {0}, {2})".format(*condition.groups()) if condition else meaning
            of_argument = re.sub(r"\bt\b", r"(\\1)", inside)
            text = re.sub(rf"\b{name}\((-?\w+)\)", f"({of_argument})", text)
        return text.replace("[k]", "_k").replace("^", "**")

    lines = [f"{name} = {spelled(meaning)}" for name, meaning in rows.items() if re.fullmatch(r"[zsq]\d*", name)]
    return "\n".join([*lines, spelled(rows[last])])


POSITIVE = st.floats(0.0625, 8).map(mpmath.mpf)


@pytest.mark.parametrize(("norm", "loss"), [("l2", loss) for loss in LOSSES] + [("l2-squared", "softmax-nll")])
def test_printed_formulas_are_read_again_as_what_they_are(norm: str, loss: str) -> None:
    derivation = differentiate(norm, loss)
    rows = dict(formulas(derivation))
    parameters = tuple(p.name for p in derivation.objective.parameters)
    value = Definition(program(rows, "L"), ("d_pos", "d_neg", *parameters))
    slope = Definition(program(rows, GRADIENT), ("d_pos", "d_neg", "x_k", "x_pos_k", *parameters))

    @settings(QUIET, max_examples=20)
    @given(POSITIVE, POSITIVE, POSITIVE)
    def on_examples(d_pos: Any, d_neg: Any, parameter: Any) -> None:
        own = dict.fromkeys(parameters, parameter)
        with mpmath.workdps(40):
            h = mpmath.mpf(10) ** -15

            def exact(d_pos: Any) -> Any:
                return loss_value(LOSSES[loss], d_pos, d_neg, own)

            here = {"d_pos": d_pos, "d_neg": d_neg, **own}
            assert mpmath.almosteq(value.read(MP, here), exact(d_pos), 1e-30, 1e-30)
            if abs(d_pos - d_neg + own.get("margin", 1)) > h:  # of one component, |x - x_pos| is d_pos, or its square
                u = d_pos if norm == "l2" else mpmath.sqrt(d_pos)
                moved = [exact((u + t) ** (1 if norm == "l2" else 2)) for t in (h, -h)]
                found = slope.read(MP, {**here, "x_k": u, "x_pos_k": mpmath.mpf(0)})
                assert mpmath.almosteq(-found, (moved[0] - moved[1]) / (2 * h), 1e-20, 1e-20)

    on_examples()


@pytest.mark.parametrize(("norm", "loss"), EVERY)
def test_settings_are_what_their_arguments_say(norm: str, loss: str) -> None:
    objective = Objective(DISTANCES[norm], LOSSES[loss])
    numbers = st.floats(1e-6, 1e6)
    values = st.fixed_dictionaries({}, optional={p.name: numbers for p in objective.parameters})
    dtypes = st.sampled_from([("float32",), ("float64",), ("float32", "float64")])

    @settings(QUIET, max_examples=10)
    @given(dtypes, values, st.sampled_from([0.0, 4.5, 1e300]))
    def on_examples(dtypes: tuple[str, ...], values: dict[str, float], accuracy: float) -> None:
        said = Settings(dtypes, values, accuracy=accuracy)
        arguments = shlex.split(" ".join(said.arguments(objective)))
        read = main.make_context("derive-triplet", arguments).params
        given_values = {p.name: read[p.name] for p in objective.parameters if read[p.name] is not None}
        (request,) = requests_for([norm], [loss], ["numpy"], read["dtypes"], given_values, read["accept_accuracy"])
        assert request.settings.dtypes == said.dtypes
        assert request.settings.values(objective) == said.values(objective)
        assert request.settings.accuracy == said.accuracy
        assert request.settings.arguments(objective) == said.arguments(objective)

    on_examples()


# ---------------------------------------------------------------- do the properties see errors?

SOFTMAX, UNITS = ("l2", "softmax-mse", False), ("l2", "softmax-mse", True)
PLANTS: tuple[tuple[Callable[[Made, Batch, int], None], tuple[str, str, bool], str, str], ...] = (
    (gradients_sum_to_0, SOFTMAX, r"add\(grad_x_neg, grad_x_pos", "subtract(grad_x_neg, grad_x_pos"),
    (a_common_shift_changes_nothing, SOFTMAX, r"subtract\(x, x_pos,", "subtract(x, 0.999 * x_pos,"),
    (lengths_do_not_matter_to_directions, UNITS, r"inverse_x_pos = .*", "inverse_x_pos = np.ones_like(square_x)"),
    (no_gradient_is_along_a_direction, UNITS, "along_x = ", "along_x = 0 * "),
    (swapped_embeddings_negate_the_difference, SOFTMAX, r"= delta / ", "= 1e-9 + delta / "),
    (swapped_embeddings_negate_the_difference, ("l2", "hinge", False), r"delta \+ margin", "delta"),
    (swapped_embeddings_negate_the_difference, ("l1", "softmax-nll", False), r"maximum\(z, 0\.0", "maximum(z, 1e-6"),
    (components_may_be_permuted, SOFTMAX, r"_sum_of_squares\(u\)", "_sum(u * u[:, :1])"),
    (rows_may_be_permuted, SOFTMAX, r"2 \* s \* s", "np.sort(2 * s * s)"),
    (scaled_embeddings_scale_distances, SOFTMAX, r"np\.sqrt\(sum_pos\)", "np.sqrt(sum_pos + 1e-12)"),
    (scaled_embeddings_scale_distances, ("l2-smooth", "hinge", False), r"epsilon\)", "0.01)"),
    (slopes_are_bounded, SOFTMAX, r"= 4 \* q", "= 5 * q"),
    (the_loss_rises_with_d_pos_and_falls_with_d_neg, SOFTMAX, r"2 \* s \* s", "2 * s * s * q"),
    (float32_is_float64_rounded, SOFTMAX, "delta = .*", "delta = d_pos.astype(x.dtype) - d_neg.astype(x.dtype)"),
    (gradients_are_slopes, SOFTMAX, r"= 4 \* q", "= 4.001 * q"),
    (gradients_are_slopes, ("cosine", "softmax-mse", False), "along_x = ", "along_x = 0.99 * "),
    (reductions_are_of_the_rows, SOFTMAX, r"loss\.sum\(\) / ", "1.0000001 * loss.sum() / "),
    (outputs_that_are_given_get_the_same_numbers, SOFTMAX, r"_checked_outputs\(out, \(", "_checked_outputs(None, ("),
)


@pytest.mark.parametrize(("holds", "case", "old", "new"), PLANTS)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_planted_errors_are_seen(
    holds: Callable[[Made, Batch, int], None], case: tuple[str, str, bool], old: str, new: str
) -> None:
    with np.errstate(all="ignore"), pytest.raises(AssertionError):
        assert_holds((holds,), made(*case, old, new))


def test_every_property_has_a_plant() -> None:
    assert {holds for holds, *_ in PLANTS} == set(PROPERTIES)
