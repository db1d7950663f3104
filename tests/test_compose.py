"""From definitions to layers: what each expression becomes, and what is refused."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import pytest

from derive_triplet import DISTANCES, LOSSES, DefinitionError, Distance, Loss, Objective, Parameter, differentiate
from derive_triplet.derive.compose import INVERSE_SHIFT, SHIFT, compose, normalize
from derive_triplet.derive.layers import Layer

L2, SQUARED, HINGE = DISTANCES["l2"], DISTANCES["l2-squared"], LOSSES["hinge"]
MARGIN = Parameter("margin", 0.75, "nonnegative", "how far apart negatives have to be")


def net(distance: Distance, loss: Loss, normalize: bool = False, **values: float) -> tuple[Layer, ...]:
    objective = Objective(distance, loss, normalize)
    return compose(differentiate(objective), {p.name: values.get(p.name, p.default) for p in objective.parameters})


def own_net(definition: str, distance: Distance = SQUARED) -> tuple[Layer, ...]:
    return net(distance, Loss("own", "", definition, "made up", (MARGIN,) if "margin" in definition else ()))


def types(layers: Iterable[Layer]) -> list[str]:
    return [layer.type for layer in layers]


def named(layers: Iterable[Layer], name: str) -> Layer:
    return next(layer for layer in layers if layer.name == name)


def param(layer: Layer) -> dict[str, Any]:
    """The message of a layer's own parameters."""
    return dict(next(value for name, value in layer.parameters.items() if name.endswith("_param")))


# ---------------------------------------------------------------- the catalogue

PAIR = ["Eltwise", "Reduction", "Power", "Reshape"]


def test_the_paper_s_loss_is_a_softmax_with_half_the_squared_error_twice() -> None:
    layers = net(L2, LOSSES["softmax-mse"])
    assert types(layers) == [*PAIR, *PAIR, "Concat", "Softmax", "Power", "Power", "Concat", "EuclideanLoss"]
    assert named(layers, "columns").bottoms == ("column_pos", "column_neg")
    assert named(layers, "target").bottoms == ("target_pos", "target_neg")
    assert param(named(layers, "target_pos")) == {"scale": 0.0, "shift": 0.0}
    assert param(named(layers, "target_neg")) == {"scale": 0.0, "shift": 1.0}
    assert layers[-1].bottoms == ("probabilities", "target")
    assert layers[-1].parameters == {"propagate_down": (True, False), "loss_weight": 2.0}


def test_the_likelihood_is_that_of_the_column_of_the_negative() -> None:
    layers = net(L2, LOSSES["softmax-nll"])
    assert types(layers) == [*PAIR, *PAIR, "Concat", "Power", "SoftmaxWithLoss"]
    assert named(layers, "columns").bottoms == ("column_pos", "column_neg")
    assert param(named(layers, "label")) == {"scale": 0.0, "shift": 1.0}
    assert layers[-1].bottoms == ("columns", "label")
    assert layers[-1].parameters["propagate_down"] == (True, False)  # Caffe aborts if a label is to have a gradient


def test_the_hinge_is_a_relu_of_the_difference() -> None:
    layers = net(L2, HINGE)
    assert types(layers) == [*PAIR[:3], *PAIR[:3], "Eltwise", "Power", "ReLU", "Reduction"]
    assert param(named(layers, "z")) == {"shift": 0.2}
    assert param(layers[-1]) == {"operation": "MEAN", "axis": 0}
    assert layers[-1].parameters["loss_weight"] == 1.0  # a Reduction is no loss without one


def test_a_difference_is_of_two_blobs_and_its_squares_are_summed() -> None:
    for distance, loss in itertools.product((L2, SQUARED), LOSSES.values()):
        layers = net(distance, loss)
        for end in ("pos", "neg"):
            difference = named(layers, f"difference_{end}")
            assert difference.bottoms == ("x", f"x_{end}")
            assert param(difference) == {"operation": "SUM", "coeff": (1.0, -1.0)}
            (reduction,) = (layer for layer in layers if layer.bottoms == (f"difference_{end}",))
            assert param(reduction) == {"operation": "SUMSQ", "axis": 1}


def test_only_a_root_has_a_power_and_its_shift() -> None:
    for loss in LOSSES.values():
        assert param(named(net(L2, loss), "d_pos")) == {"power": 0.5, "shift": SHIFT}
        assert named(net(SQUARED, loss), "d_pos").type == "Reduction"


def test_parameters_are_constants_and_take_no_layer_where_they_change_nothing() -> None:
    plain, warm = net(SQUARED, LOSSES["softmax-mse"]), net(SQUARED, LOSSES["softmax-mse"], temperature=0.25)
    assert [layer for layer in warm if layer.name.startswith("scaled")] != []
    assert param(named(warm, "scaled_pos")) == {"scale": 4.0}
    assert types(warm) != types(plain)
    assert "Power" not in types(net(SQUARED, HINGE, margin=0.0))


def test_a_temperature_whose_inverse_is_no_float_is_refused() -> None:
    layers = net(SQUARED, LOSSES["softmax-mse"], temperature=1e-39)
    with pytest.raises(DefinitionError, match="in single precision, which cannot hold"):
        _ = [layer.fields for layer in layers]


# ---------------------------------------------------------------- the order of the columns is that of the definition


SWAPPED = """
    near = exp(d_neg) / (exp(d_pos) + exp(d_neg))
    far = exp(d_pos) / (exp(d_pos) + exp(d_neg))
    {}
"""


@pytest.mark.parametrize(
    ("value", "targets", "weight"),
    [
        ("(far - 1)**2 + near**2", (1.0, 0.0), 2.0),
        ("3 * near**2 + 3 * (1 - far)**2", (1.0, 0.0), 6.0),
        ("(2*far - 2)**2 / 8 + near**2 / 2", (1.0, 0.0), 1.0),
    ],
)
def test_targets_stand_where_their_outputs_do(value: str, targets: tuple[float, float], weight: float) -> None:
    layers = own_net(SWAPPED.format(value))
    assert layers[-1].type == "EuclideanLoss"
    assert layers[-1].parameters["loss_weight"] == weight
    assert tuple(param(named(layers, f"target_{end}"))["shift"] for end in ("pos", "neg")) == targets


@pytest.mark.parametrize(("value", "column", "weight"), [("-log(far)", 0, 1.0), ("-2 * log(near)", 1, 2.0)])
def test_a_label_is_the_column_of_its_output(value: str, column: int, weight: float) -> None:
    layers = own_net(SWAPPED.format(value))
    assert layers[-1].type == "SoftmaxWithLoss"
    assert layers[-1].parameters["loss_weight"] == weight
    assert param(named(layers, "label"))["shift"] == column


@pytest.mark.parametrize("value", ["far**2", "far**3", "far**2 - near**2", "2 * (far - 1)**2"])
def test_what_is_no_squared_error_of_all_outputs_is_taken_in_its_stable_form(value: str) -> None:
    found = types(own_net(SWAPPED.format(value)))
    assert found[-1] == "Reduction"
    assert "Sigmoid" in found


# ---------------------------------------------------------------- expressions


@pytest.mark.parametrize(
    ("definition", "tail"),
    [
        ("log(1 + exp(d_pos - d_neg))", ["Eltwise", "BNLL", "Reduction"]),
        ("-log(exp(d_neg) / (exp(d_pos) + exp(d_neg)))", ["Eltwise", "BNLL", "Reduction"]),
        ("abs(d_pos - d_neg)", ["Eltwise", "AbsVal", "Reduction"]),
        ("log(exp(d_pos) * d_neg + 2)", ["Exp", "Eltwise", "Log", "Reduction"]),
        ("d_pos * exp(-d_neg)", ["Exp", "Eltwise", "Reduction"]),
        ("d_pos / (1 + d_neg)", ["Power", "Eltwise", "Reduction"]),
        ("d_pos + max(0, margin - d_neg)", ["Power", "ReLU", "Eltwise", "Reduction"]),
        ("2 * d_pos - 3 * d_neg", ["Eltwise", "Reduction"]),
    ],
)
def test_an_expression_becomes_these_layers(definition: str, tail: list[str]) -> None:
    assert types(own_net(definition)) == ["Eltwise", "Reduction", "Eltwise", "Reduction", *tail]


def test_a_power_that_divides_has_a_shift_of_its_own_unless_it_adds_something() -> None:
    assert [param(layer) for layer in own_net("d_pos / d_neg") if layer.type == "Power"] == [
        {"power": -1.0, "shift": INVERSE_SHIFT}
    ]
    assert [param(layer) for layer in own_net("d_pos / (1 + 2*d_neg)") if layer.type == "Power"] == [
        {"power": -1.0, "scale": 2.0, "shift": 1.0}
    ]


def test_a_blob_is_made_once_and_every_layer_has_a_name_of_its_own() -> None:
    layers = own_net("d_pos**2 + d_pos * d_neg + exp(d_pos) * exp(-d_neg) + d_neg**2", L2)
    names = [layer.name for layer in layers]
    assert len(set(names)) == len(names)
    assert len(set(map(repr, ((layer.type, layer.bottoms, layer.parameters) for layer in layers)))) == len(layers)


def test_every_bottom_was_made_before() -> None:
    for layers in (net(L2, loss) for loss in LOSSES.values()):
        known = {"x", "x_pos", "x_neg"}
        for layer in layers:
            assert known.issuperset(layer.bottoms)
            known.add(layer.name)
        assert layers[-1].name == "loss"


@pytest.mark.parametrize(
    ("definition", "message"),
    [
        ("margin ** d_pos", r"Caffe has no layer for a power that is not a constant: pow|\^"),
        ("d_pos ** d_neg", "Caffe has no layer for a power that is not a constant"),
    ],
)
def test_what_caffe_has_no_layer_for_is_refused(definition: str, message: str) -> None:
    with pytest.raises(DefinitionError, match=message):
        own_net(f"{definition} + d_neg")


# ---------------------------------------------------------------- normalization


def test_normalization_is_three_layers_an_embedding() -> None:
    layers = normalize(("x", "x_neg"))
    assert types(layers) == 2 * ["Reduction", "Power", "Scale"]
    assert [layer.name for layer in layers[2::3]] == ["unit_x", "unit_x_neg"]
    assert layers[1].bottoms == ("squares_x",)
    assert param(layers[1]) == {"power": -0.5, "shift": INVERSE_SHIFT}
    assert layers[2].bottoms == ("x", "inverse_length_x")
    assert param(layers[2]) == {"axis": 0}


@pytest.mark.parametrize(
    ("distance", "loss"),
    list(itertools.product([d for d in DISTANCES.values() if not d.on_units], LOSSES.values())),
)
def test_a_normalized_loss_is_the_same_on_unit_vectors(distance: Distance, loss: Loss) -> None:
    plain, normalized = net(distance, loss), net(distance, loss, normalize=True)
    first, rest = normalized[:9], normalized[9:]
    assert first == normalize(("x", "x_pos", "x_neg"))
    assert [(layer.type, layer.name, layer.parameters) for layer in rest] == [
        (layer.type, layer.name, layer.parameters) for layer in plain
    ]
    assert rest[0].bottoms == ("unit_x", "unit_x_pos")
    index = "j" if distance.name == "linf" else "i"
    assert rest[0].comments == (f"unit_x[{index}] - unit_x_pos[{index}]",)
    assert not {"x", "x_pos", "x_neg"}.intersection(*(layer.bottoms for layer in rest))


def test_a_distance_of_directions_is_normalized_anyway() -> None:
    plain = net(DISTANCES["cosine"], HINGE)
    assert plain[:9] == normalize(("x", "x_pos", "x_neg"))
    assert plain == net(DISTANCES["cosine"], HINGE, normalize=True)


def test_a_layer_of_the_loss_does_not_take_the_name_of_one_that_normalizes() -> None:
    own = Loss("own", "", "squares_x = exp(d_pos - d_neg)\nsquares_x + squares_x**2", "made up")
    names = [layer.name for layer in net(SQUARED, own, normalize=True)]
    assert len(set(names)) == len(names)
    assert names.count("squares_x") == 1
