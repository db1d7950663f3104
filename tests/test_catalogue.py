"""The catalogue says what the literature says, and nothing about how it is computed."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from itertools import product
from typing import Any

import mpmath
import pytest

from derive_triplet.derive.catalogue import (
    DISTANCES,
    LOSSES,
    PAIRS,
    PARAMETERS,
    Distance,
    Loss,
    Objective,
    Parameter,
    Singularity,
)
from derive_triplet.derive.errors import DefinitionError, UsageError
from derive_triplet.derive.highprecision import distance_value, locus_value, loss_value, objective_value

ENTRIES = [*DISTANCES.values(), *LOSSES.values()]
OBJECTIVES = [Objective(distance, loss) for distance, loss in product(DISTANCES.values(), LOSSES.values())]


def m(values: list[float]) -> list[Any]:
    return [mpmath.mpf(value) for value in values]


def test_the_issue_s_distances_and_losses_are_there() -> None:
    assert {"l2", "l2-squared"} <= set(DISTANCES)
    assert {"softmax-mse", "softmax-nll", "hinge"} <= set(LOSSES)
    assert [p.name for p in LOSSES["softmax-mse"].parameters] == ["temperature"]
    assert [p.name for p in LOSSES["softmax-nll"].parameters] == ["temperature"]
    assert [p.name for p in LOSSES["hinge"].parameters] == ["margin"]


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_every_entry_is_complete(entry: Distance | Loss) -> None:
    assert {**DISTANCES, **LOSSES}[entry.name] is entry
    assert entry.title
    assert any(year.isdigit() and len(year) == 4 for year in entry.reference.replace(",", " ").split())
    assert entry.formula.text == entry.definition
    for parameter in entry.parameters:
        assert PARAMETERS[parameter.name] == parameter
        assert parameter.check(parameter.default) == parameter.default
        assert parameter.meaning
    for singularity in entry.singularities:
        assert entry.parse(singularity.locus)
        assert singularity.where
        assert singularity.why


def test_stems_are_distinct_identifiers() -> None:
    stems = [objective.stem for objective in OBJECTIVES]
    assert len(set(stems)) == len(OBJECTIVES)
    assert all(stem.isidentifier() and stem.islower() for stem in stems)
    assert Objective(DISTANCES["l2-squared"], LOSSES["softmax-mse"]).stem == "triplet_softmax_mse_l2_squared"


def test_the_catalogue_cannot_be_changed_by_accident() -> None:
    for catalogue in (DISTANCES, LOSSES):
        with pytest.raises(TypeError):
            catalogue["l3"] = None  # type: ignore[index]
    with pytest.raises(dataclasses.FrozenInstanceError):
        DISTANCES["l2"].name = "l3"  # type: ignore[misc]


def test_a_definition_needs_no_computer_algebra() -> None:
    code = (
        "import sys, derive_triplet.derive.catalogue as c; c.LOSSES['hinge'].formula; sys.exit('sympy' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# ---------------------------------------------------------------- the definitions are those of the literature


@pytest.mark.parametrize(("name", "value"), [("l2", 13), ("l2-squared", 169)])
def test_distances_of_a_pythagorean_triple(name: str, value: int) -> None:
    assert distance_value(DISTANCES[name], m([1, -2, 5]), m([4, 2, -7]), {}) == value


def paper(delta: Any, loss: str, temperature: Any, margin: Any) -> Any:
    """The loss as a function of the difference of the distances, as in the table of the design."""
    sigmoid = 1 / (1 + mpmath.exp(-delta / temperature))
    return {
        "softmax-mse": 2 * sigmoid**2,
        "softmax-nll": mpmath.log(1 + mpmath.exp(delta / temperature)),
        "hinge": max(mpmath.mpf(0), delta + margin),
    }[loss]


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize(("d_pos", "d_neg"), [("0", "0"), ("1.25", "0.5"), ("0.5", "2.75"), ("3", "2.9"), ("0.1", "9")])
def test_losses_are_functions_of_the_difference_of_the_distances(name: str, d_pos: str, d_neg: str) -> None:
    with mpmath.workdps(60):
        p, n, temperature, margin = (mpmath.mpf(text) for text in (d_pos, d_neg, "0.7", "0.3"))
        found = loss_value(LOSSES[name], p, n, {"temperature": temperature, "margin": margin})
        assert mpmath.almosteq(found, paper(p - n, name, temperature, margin), mpmath.mpf(10) ** -50)


@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.stem)
def test_collapsed_embeddings_have_the_loss_of_the_table(objective: Objective) -> None:
    with mpmath.workdps(50):
        expected = {"softmax-mse": mpmath.mpf("0.5"), "softmax-nll": mpmath.log(2), "hinge": mpmath.mpf("0.75")}
        x = m([0.25, -3])
        found = objective_value(objective, x, x, x, {"margin": 0.75, "temperature": 0.1})
        assert mpmath.almosteq(found, expected[objective.loss.name], mpmath.mpf(10) ** -45)


def test_it_is_the_difference_of_the_distances_that_matters_and_not_their_ratio() -> None:
    # the erratum: the paper says that the loss goes to 0 if and only if the ratio does
    loss = LOSSES["softmax-mse"]
    with mpmath.workdps(1000):
        assert loss_value(loss, *m([1000, 2000]), {}) < 1e-300
        assert abs(loss_value(loss, *m([1e-6, 1e-3]), {}) - 0.4995) < 1e-5


def test_linf_is_singular_where_several_components_are_the_largest() -> None:
    _, ties = DISTANCES["linf"].singularities
    locus = dataclasses.replace(DISTANCES["linf"], definition=ties.locus)
    for y, tied in (([3, 0, 4], True), ([3, 1, 4], False), ([3, 4, 1], True), ([1, 2, 3], True)):
        assert (distance_value(locus, m([1, 2, 3]), m(y), {}) == 0) is tied


@pytest.mark.parametrize("name", [name for name, distance in DISTANCES.items() if distance.singularities])
def test_distances_are_singular_where_the_points_coincide_and_only_there(name: str) -> None:
    singularity = DISTANCES[name].singularities[0]
    locus = dataclasses.replace(DISTANCES[name], definition=singularity.locus)
    assert distance_value(locus, m([1, 2]), m([1, 2]), {}) == 0
    assert distance_value(locus, m([1, 2]), m([1, 3]), {}) != 0


def test_the_hinge_is_singular_where_it_becomes_active() -> None:
    (singularity,) = LOSSES["hinge"].singularities
    for d_neg, at_the_kink in ((1.5, True), (1.25, False)):
        assert (locus_value(LOSSES["hinge"], singularity.locus, *m([1, d_neg]), {"margin": 0.5}) == 0) is at_the_kink


# ---------------------------------------------------------------- parameters and errors


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), -1.0, -5e-324])
@pytest.mark.parametrize("parameter", PARAMETERS.values(), ids=lambda parameter: parameter.name)
def test_parameters_outside_their_domain_are_refused_by_name(parameter: Parameter, value: float) -> None:
    with pytest.raises(UsageError, match=f"{parameter.name} must be a finite {parameter.number}, not {value}"):
        parameter.check(value)


def test_zero_is_nonnegative_but_not_positive() -> None:
    domains = {parameter.domain: parameter for parameter in PARAMETERS.values()}
    assert domains["nonnegative"].check(0.0) == 0.0
    with pytest.raises(UsageError, match="not 0"):
        domains["positive"].check(0.0)


@pytest.mark.parametrize("kind", [Distance, Loss])
def test_an_error_in_an_entry_names_the_entry(kind: type[Distance] | type[Loss]) -> None:
    entry = kind(name="typo", title="", definition="sqrt(z)", reference="")
    with pytest.raises(DefinitionError, match=f"^{kind.__name__.lower()} 'typo': line 1, column 6: unknown name 'z'"):
        _ = entry.formula


def test_a_distance_knows_no_distances_and_a_loss_no_vectors() -> None:
    with pytest.raises(DefinitionError, match="'d_pos'"):
        DISTANCES["l2"].parse("sum(x) + d_pos")
    with pytest.raises(DefinitionError, match="'x'"):
        LOSSES["hinge"].parse("d_pos + x")


def test_a_formula_sees_the_parameters_of_its_own_entry_only() -> None:
    loss = Loss(
        "made-up", "", "d_pos*width", "", (Parameter("width", 1.0, "positive", ""),), (Singularity("d_pos", "", ""),)
    )
    assert loss_value(loss, *m([3, 1]), {"width": 2, "margin": 5}) == 6
    assert loss_value(loss, *m([3, 1]), {}) == 3
    with pytest.raises(DefinitionError, match="'margin'"):
        loss.parse("d_pos + margin")


def test_a_parameter_of_no_domain_or_outside_its_own_is_refused() -> None:
    with pytest.raises(UsageError, match="the domain is 'negative'; expected positive, nonnegative, at least 1, real"):
        Parameter("offset", 1.0, "negative", "")
    with pytest.raises(UsageError, match="scale must be a finite positive number, not 0"):
        Parameter("scale", 0.0, "positive", "")


@pytest.mark.parametrize("name", ["x", "y", *PAIRS, "rows", "weight_pos", "t1"])
def test_a_parameter_that_is_called_as_a_variable_is_refused(name: str) -> None:
    loss = Loss("made-up", "", f"d_pos - {name}*d_neg", "", (Parameter(name, 1.0, "positive", ""),))
    with pytest.raises(UsageError, match=f"^loss 'made-up': a parameter cannot be called '{name}'"):
        _ = loss.formula


def test_a_parameter_of_both_a_distance_and_a_loss_is_refused() -> None:
    scale = Parameter("scale", 1.0, "positive", "")
    distance = Distance("scaled", "", "scale*sum((x - y)**2)", "", (scale,))
    loss = Loss("scaled", "", "scale*(d_pos - d_neg)", "", (scale,))
    with pytest.raises(UsageError, match="both have a parameter 'scale'"):
        Objective(distance, loss)
