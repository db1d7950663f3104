"""Layers as text: what Caffe reads is what the data says, in single precision."""

from __future__ import annotations

import re

import numpy as np
import pytest

from derive_triplet import DefinitionError
from derive_triplet.derive.layers import Layer, Word, constants, of_embedding_size, single, split

DIFFERENCE = Layer("Eltwise", "u", ("x", "y"), {"eltwise_param": {"operation": Word("SUM"), "coeff": (1.0, -1.0)}})
NET = (
    DIFFERENCE,
    Layer("Power", "w", ("u",), {"power_param": {"power": 0.1}}),
    Layer("Reduction", "a", ("u",), {"reduction_param": {"operation": Word("SUM"), "axis": 1}}),
    Layer("Power", "b", ("a",), {"power_param": {"shift": 2.5}, "loss_weight": 3.0}),
)


def test_fields_are_printed_as_protocol_buffers_are() -> None:
    assert DIFFERENCE.fields == ["eltwise_param { operation: SUM coeff: 1 coeff: -1 }"]
    nested = Layer(
        "Reshape", "r", ("a",), {"reshape_param": {"shape": {"dim": (0, 1)}}, "propagate_down": (True, False)}
    )
    assert nested.fields == [
        "reshape_param { shape { dim: 0 dim: 1 } }",
        "propagate_down: true",
        "propagate_down: false",
    ]


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.0, "1"),
        (-1.0, "-1"),
        (0.2, "0.2"),
        (10 / 3, "3.3333333"),
        (1e-36, "1e-36"),
        (0.0, "0"),
        (2.5e10, "2.5e+10"),
    ],
)
def test_numbers_have_the_digits_of_single_precision(value: float, text: str) -> None:
    assert single(value) == text
    assert np.float32(single(value)) == np.float32(value)


@pytest.mark.parametrize("value", [1e39, -1e39, 1e-60, float("nan"), float("inf")])
def test_a_number_that_single_precision_cannot_hold_is_refused(value: float) -> None:
    with pytest.raises(DefinitionError, match=re.escape(f"in single precision, which cannot hold {value}")):
        single(value)


@pytest.mark.parametrize("bottoms", [("x", "x"), ("x",), ("x", "y", "x")])
def test_an_eltwise_of_a_blob_with_itself_is_refused(bottoms: tuple[str, ...]) -> None:
    with pytest.raises(DefinitionError, match="u: Eltwise needs different bottoms"):
        Layer("Eltwise", "u", bottoms)


def test_large_blobs_are_those_before_a_reduction() -> None:
    assert of_embedding_size(NET, ("x", "y")) == ("u", "w")
    assert split(NET, ("x", "y", "u", "w")) == ("u", "u")
    assert split(NET, ("x", "y")) == ()


def test_constants_are_the_numbers_that_are_rounded() -> None:
    assert constants(NET) == {1.0, -1.0, 0.1, 2.5, 3.0}  # not the axis
