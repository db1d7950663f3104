"""Second derivatives against closed forms and against second differences of the definition, at 50 digits."""

from __future__ import annotations

import dataclasses
import itertools
import random
from typing import Any

import mpmath
import pytest
import sympy as sp
from objectives import COVER, OF_UNITS

from derive_triplet import DISTANCES, LOSSES, Distance, Objective, differentiate
from derive_triplet.derive import second, symbols
from derive_triplet.derive.differentiate import Derivation
from derive_triplet.derive.errors import StepError
from derive_triplet.derive.evaluate import Point, evaluate
from derive_triplet.derive.highprecision import objective_value
from derive_triplet.derive.steps import Chain, Lemma
from derive_triplet.derive.symbols import EMBEDDINGS, d, d_neg, d_pos, k, l, parameter

TINY = mpmath.mpf(10) ** -50
PAIRS = {(d_pos, d_pos): 1, (d_pos, d_neg): -1, (d_neg, d_neg): 1}  # phi depends on d_pos - d_neg only
CURVATURE = {
    "softmax-mse": lambda s, q, t: 4 * s**2 * q * (2 - 3 * s) / t**2,
    "softmax-nll": lambda s, q, t: s * q / t**2,
    "hinge": lambda s, q, t: mpmath.mpf(0),
}
each_objective = pytest.mark.parametrize(("norm", "loss"), COVER)


def twice(norm: str, loss: str) -> second.SecondDerivation:
    return second.differentiate_twice(differentiate(norm, loss))


def numbers(source: random.Random, count: int) -> list[Any]:
    return [mpmath.mpf(source.randrange(-(10**50), 10**50)) / 10**50 for _ in range(count)]


def test_every_loss_has_a_closed_form_here() -> None:
    assert set(CURVATURE) == set(LOSSES)


@pytest.mark.parametrize("loss", LOSSES)
def test_the_curvature_of_a_loss_is_the_closed_form_with_the_sign_of_its_pair(loss: str) -> None:
    derivation = differentiate("l2", loss)
    lemmas = twice("l2", loss).loss
    assert set(lemmas) == set(PAIRS)
    source = random.Random(71)
    with mpmath.workdps(80):
        for _ in range(8):
            near, far, t = (abs(number) + 1 for number in numbers(source, 3))
            scalars = {d_pos: near, d_neg: far, **{parameter(p): t for p in derivation.objective.parameters}}
            s = 1 / (1 + mpmath.exp((far - near) / t))
            q = 1 / (1 + mpmath.exp((near - far) / t))
            point = Point(1, scalars=scalars, abbreviations=derivation.loss.abbreviations)
            for pair, sign in PAIRS.items():
                assert abs(evaluate(lemmas[pair].result, point) - sign * CURVATURE[loss](s, q, t)) <= TINY, pair


@pytest.mark.parametrize("norm", ["l2", "l2-squared"])
@pytest.mark.parametrize("pair", ["xx", "xy", "yx", "yy"])
def test_the_curvature_of_a_distance_is_the_closed_form(norm: str, pair: str) -> None:
    derivation = differentiate(norm, "hinge").distance
    lemma, value = second._distance_curvature(derivation, *pair), derivation.value
    source = random.Random(72)
    with mpmath.workdps(80):
        u, y = numbers(source, 3), numbers(source, 3)
        length = mpmath.sqrt(mpmath.fsum(c * c for c in u))
        vectors = {"x": [a + b for a, b in zip(u, y, strict=True)], "y": y}
        for a, b in itertools.product(range(3), repeat=2):
            same = mpmath.mpf(a == b)
            closed = 2 * same if norm == "l2-squared" else same / length - u[a] * u[b] / length**3
            point = Point(3, vectors, {k: mpmath.mpf(a + 1), l: mpmath.mpf(b + 1)}, {d: value})
            assert abs(evaluate(lemma.result, point) - closed * (1 if pair[0] == pair[1] else -1)) <= TINY


def hessian_entry(
    objective: Objective, vectors: dict[str, list[Any]], first: tuple[str, int], then: tuple[str, int]
) -> Any:
    """One entry of the Hessian of L by second differences of its definition."""
    parameters = {p.name: mpmath.mpf(p.default) for p in objective.parameters}
    with mpmath.workdps(240):
        h = mpmath.mpf(10) ** -40

        def moved(a: int, b: int) -> Any:
            there = {name: list(vector) for name, vector in vectors.items()}
            there[first[0]][first[1]] += a * h
            there[then[0]][then[1]] += b * h
            return objective_value(objective, **there, parameters=parameters)

        return (moved(1, 1) - moved(1, -1) - moved(-1, 1) + moved(-1, -1)) / (4 * h**2)


def block_entry(derivation: Derivation, lemma: Lemma, vectors: dict[str, list[Any]], at: tuple[int, int]) -> Any:
    scalars = {parameter(p): mpmath.mpf(p.default) for p in derivation.objective.parameters}
    indices = {k: mpmath.mpf(at[0] + 1), l: mpmath.mpf(at[1] + 1)}
    (*_, last) = lemma.steps
    point = Point(len(vectors["x"]), vectors, {**scalars, **indices}, last.setting.abbreviations)
    return evaluate(lemma.result, point)


# moving both arguments by the same changes it, and its slope is no function of the distance
TILTED = Distance("tilted", "not invariant", "sum((x - 2*y)**2) + sqrt(1 + sum(x**2))", "made up")
DERIVATIONS = [differentiate(norm, loss) for norm, loss in COVER if norm not in OF_UNITS]
DERIVATIONS.append(differentiate(Objective(TILTED, LOSSES["softmax-mse"])))
each_derivation = pytest.mark.parametrize("derivation", DERIVATIONS, ids=lambda d: d.objective.stem)


@each_derivation
def test_the_blocks_are_second_differences_of_the_definition(derivation: Derivation) -> None:
    source = random.Random(73)
    blocks = second.differentiate_twice(derivation).blocks
    with mpmath.workdps(80):
        for dimension in (1, 3):
            vectors = {name: numbers(source, dimension) for name in EMBEDDINGS}
            for (first, then), lemma in blocks.items():
                for at in {(0, 0), (0, dimension - 1), (dimension - 1, 0)}:
                    expected = hessian_entry(derivation.objective, vectors, (first, at[0]), (then, at[1]))
                    found = block_entry(derivation, lemma, vectors, at)
                    assert abs(found - expected) <= TINY * max(abs(expected), 1), (first, then, at)


NORMALIZED = [
    differentiate("cosine", "softmax-mse"),
    differentiate(Objective(DISTANCES["l2"], LOSSES["softmax-mse"], normalize=True)),
    differentiate(Objective(DISTANCES["l2-squared"], LOSSES["softmax-nll"], normalize=True)),
    differentiate(Objective(TILTED, LOSSES["softmax-mse"], normalize=True)),
]
each_normalized = pytest.mark.parametrize("derivation", NORMALIZED, ids=lambda d: d.objective.stem)


@each_normalized
def test_the_raw_blocks_are_second_differences_of_the_normalized_definition(derivation: Derivation) -> None:
    source = random.Random(75)
    found = second.differentiate_twice(derivation)
    assert found.raw.keys() == found.blocks.keys()
    with mpmath.workdps(80):
        vectors = {name: numbers(source, 3) for name in EMBEDDINGS}
        for (first, then), lemma in found.raw.items():
            for at in ((0, 0), (0, 2), (2, 1)):
                expected = hessian_entry(derivation.objective, vectors, (first, at[0]), (then, at[1]))
                entry = block_entry(derivation, lemma, vectors, at)
                assert abs(entry - expected) <= TINY * max(abs(expected), 1), (first, then, at)


@each_normalized
def test_raw_blocks_with_one_embedding_twice_are_symmetric_and_map_it_to_minus_the_gradient(
    derivation: Derivation,
) -> None:
    # the gradient is the shorter the longer the embedding is: its derivative along the embedding is its negative
    source = random.Random(76)
    blocks = second.differentiate_twice(derivation).raw
    assert derivation.normalization
    with mpmath.workdps(80):
        vectors = {name: numbers(source, 3) for name in EMBEDDINGS}
        block = blocks["x_pos", "x_pos"]
        entries = [[block_entry(derivation, block, vectors, (a, b)) for b in range(3)] for a in range(3)]
        for a in range(3):
            assert all(abs(entries[a][b] - entries[b][a]) <= TINY for b in range(3))
            along = mpmath.fsum(entries[a][b] * vectors["x_pos"][b] for b in range(3))
            gradient = block_entry(derivation, derivation.normalization.gradients["x_pos"], vectors, (a, a))
            assert abs(along + gradient) <= TINY


def test_the_blocks_shown_are_those_from_which_all_others_follow() -> None:
    own = {("x_pos", "x_pos"), ("x_neg", "x_neg"), ("x_pos", "x_neg")}
    assert set(twice("l2", "hinge").blocks) == own
    assert set(twice("l2", "hinge").distance) == {"yy"}
    tilted = second.differentiate_twice(DERIVATIONS[-1])
    assert set(tilted.blocks) == own | {("x", "x"), ("x", "x_pos"), ("x", "x_neg")}
    assert set(tilted.distance) == {"xx", "xy", "yy"}


@each_derivation
def test_the_blocks_on_the_diagonal_are_symmetric(derivation: Derivation) -> None:
    source = random.Random(74)
    blocks = second.differentiate_twice(derivation).blocks
    with mpmath.workdps(80):
        vectors = {name: numbers(source, 4) for name in EMBEDDINGS}
        for name in ("x_pos", "x_neg"):
            one, other = (block_entry(derivation, blocks[name, name], vectors, at) for at in ((1, 3), (3, 1)))
            assert abs(one - other) <= TINY


# ---------------------------------------------------------------- planted errors


@each_objective
def test_no_step_can_be_replaced_by_a_wrong_one(norm: str, loss: str) -> None:
    found = twice(norm, loss)
    lemmas = (*found.distance.values(), *found.loss.values(), *found.blocks.values())
    steps = [step for lemma in lemmas for step in lemma.steps]
    assert steps
    for step in steps:
        with pytest.raises(StepError, match="is wrong"):
            dataclasses.replace(step, after=step.after + sp.Rational(1, 10**30))


@each_normalized
def test_no_step_to_the_raw_blocks_can_be_replaced_by_a_wrong_one(derivation: Derivation) -> None:
    for lemma in second.differentiate_twice(derivation).raw.values():
        for step in lemma.steps:
            with pytest.raises(StepError, match="is wrong"):
                dataclasses.replace(step, after=step.after + sp.Rational(1, 10**30))


def test_raw_blocks_that_keep_the_part_along_the_unit_vectors_raise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(second, "projection", lambda e, row, column: sp.KroneckerDelta(row, column))
    with pytest.raises(StepError, match="chain rule"):
        second.differentiate_twice(NORMALIZED[0])


@pytest.mark.parametrize("norm", ["l2", "l2-squared"])
def test_a_wrong_derivative_of_a_component_raises(norm: str, monkeypatch: pytest.MonkeyPatch) -> None:
    derivation = differentiate(norm, "softmax-mse")
    monkeypatch.setattr(symbols, "partial_derivative", lambda expr, component: sp.S.Zero)
    monkeypatch.setattr(second, "_distance_curvature", second._distance_curvature.__wrapped__)  # not what is known
    with pytest.raises(StepError, match="product rule"):
        second.differentiate_twice(derivation)


@pytest.mark.parametrize("forgotten", ["loss", "distance"])
def test_a_block_that_forgets_one_of_its_two_curvatures_raises(forgotten: str, monkeypatch: pytest.MonkeyPatch) -> None:
    derivation = differentiate("l2", "softmax-mse")

    def nothing(*_: object) -> Lemma:
        return Chain("nothing", sp.S.Zero, derivation.setting).qed()

    monkeypatch.setattr(second, f"_{forgotten}_curvature", nothing)
    with pytest.raises(StepError, match="chain rule"):
        second.differentiate_twice(derivation)
