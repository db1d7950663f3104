"""The generated nets as text: what they hold, and that other readers than Caffe take them."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import mpmath
import numpy as np
import pytest
from objectives import COVER, NORMALIZED

from derive_triplet import (
    DISTANCES,
    DefinitionError,
    Loss,
    Objective,
    Product,
    UsageError,
    differentiate,
    generate,
)
from derive_triplet.derive.verify.caffe import build

OBJECTIVES = [*((*pair, False) for pair in COVER), *((*pair, True) for pair in NORMALIZED)]
objectives = pytest.mark.parametrize(("norm", "loss", "normalize"), OBJECTIVES)


def made(norm: str = "l2", loss: str = "softmax-mse", normalize: bool = False, **options: Any) -> Product:
    return generate(differentiate(norm, loss, normalize=normalize), "prototxt", **options)


def layers(text: str) -> list[str]:
    return re.findall(r"^layer \{\n.*?^\}\n", text, re.MULTILINE | re.DOTALL)


def values(layer: str, field: str) -> list[str]:
    return re.findall(rf'^  {field}: "(.*)"$', layer, re.MULTILINE)


# ---------------------------------------------------------------- the text


@objectives
def test_two_nets_are_written(norm: str, loss: str, normalize: bool) -> None:
    product = made(norm, loss, normalize)
    stem = product.objective.stem
    assert [file.path for file in product.files] == [
        f"prototxt/{stem}.prototxt",
        f"prototxt/{stem}_siamese.prototxt",
    ]
    for file in product.files:
        assert re.findall(r'^name: "(.*)"$', file.text, re.MULTILINE) == [file.path[9:-9]]


@objectives
def test_a_net_is_commented_and_laid_out_for_people(norm: str, loss: str, normalize: bool) -> None:
    for file in made(norm, loss, normalize).files:
        assert max(map(len, file.text.splitlines())) <= 144  # a formula is not broken
        assert not re.search(r"[ \t]$", file.text, re.MULTILINE)
        assert "\n\n\n" not in file.text
        assert file.text.endswith("}\n")
        assert not file.text.endswith("\n\n")
    computed = re.findall(
        r'^(.*)\nlayer \{\n(?!.*\n  type: "Input")', made(norm, loss, normalize).files[0].text, re.MULTILINE
    )
    assert len(computed) >= 8
    assert all(before.startswith("# ") for before in computed)


@objectives
def test_every_bottom_is_a_top_of_a_layer_before_and_only_towers_work_in_place(
    norm: str, loss: str, normalize: bool
) -> None:
    for file in made(norm, loss, normalize).files:
        known: set[str] = set()
        for layer in layers(file.text):
            bottoms, tops = values(layer, "bottom"), values(layer, "top")
            assert known.issuperset(bottoms)
            assert not known.intersection(tops) or values(layer, "type") == ["ReLU"]
            known.update(tops)
        assert values(layers(file.text)[-1], "top") == ["loss"]


@objectives
def test_what_a_net_warns_of_is_in_its_layers(norm: str, loss: str, normalize: bool) -> None:
    product = made(norm, loss, normalize)
    text = product.files[0].text
    assert ("#   - ties: " in text) == ('type: "Pooling"' in text)
    has_squares = "operation: SUMSQ" in text and not product.objective.of_units
    assert ("differences of components are squared" in text) == has_squares


def test_a_net_says_what_is_added_makes_of_its_numbers() -> None:
    def said(words: str, normalize: bool) -> list[Any]:
        found = re.search(words, made(normalize=normalize).files[0].text, re.DOTALL)
        assert found
        return list(map(mpmath.mpf, found.groups()))

    with mpmath.workdps(60):
        added, longer = said(r"Power adds (\S+) before.* A root r becomes r \+ (\S+)/r", False)
        assert abs((mpmath.sqrt(1 + added) - 1) / longer - 1) < 1e-6
        added, shorter, times = said(r"adds (\S+) to the squared.*than 1 by (\S+)/r\^2.*multiplied by (\S+),", True)
        assert abs((1 - 1 / mpmath.sqrt(1 + added)) / shorter - 1) < 1e-6
        assert abs(times * mpmath.sqrt(added) - 1) < 1e-6


def test_only_nets_without_weights_force_backward() -> None:
    for normalize in (False, True):
        forced = [re.findall("^force_backward: .*$", f.text, re.MULTILINE) for f in made(normalize=normalize).files]
        assert forced == [["force_backward: true"], []]


def test_no_file_of_a_normalized_objective_is_called_as_one_of_another() -> None:
    paths = [file.path for norm, loss, normalize in OBJECTIVES for file in made(norm, loss, normalize).files]
    assert len(set(paths)) == len(paths) == 2 * len(OBJECTIVES)


def test_what_is_deployed_is_what_the_distances_are_taken_of() -> None:
    for normalize, said in ((False, "one tower: anchor -> x."), (True, "its embedding: anchor -> unit_x.")):
        siamese = made(normalize=normalize).text("_siamese.prototxt")
        assert f"{said}\n" in siamese
        (pair,) = (values(layer, "bottom") for layer in layers(siamese) if "difference_pos" in values(layer, "name"))
        assert said.endswith(f"-> {pair[0]}.")


def test_the_towers_differ_in_names_only_and_share_every_weight() -> None:
    text = made().text("_siamese.prototxt")
    towers = text.split("# ---------------------------------------------------------------- ")[1:4]
    alike = {re.sub(r'^  (name|bottom|top): "\w+"$|^.*->.*', "", tower, flags=re.MULTILINE).strip() for tower in towers}
    assert len(alike) == 1
    weights = [re.findall(r'param \{ name: "(\w+)"', tower) for tower in towers]
    assert weights[0] == weights[1] == weights[2]
    assert len(set(weights[0])) == 6


@objectives
def test_the_siamese_net_ends_in_the_composed_loss(norm: str, loss: str, normalize: bool) -> None:
    product = made(norm, loss, normalize)
    own = layers(product.files[0].text)[3:]
    assert layers(product.text("_siamese.prototxt"))[-len(own) :] == own


def test_parameters_are_constants_of_the_nets() -> None:
    assert "power_param { shift: 0.5 }" in made(loss="hinge", parameters={"margin": 0.5}).files[0].text
    warm = made(parameters={"temperature": 0.5})
    for file in warm.files:
        assert file.text.count("power_param { scale: 2 }") == 2
        assert "# d_pos/temperature" in file.text
    assert "scale: 2 " not in made().files[0].text


def test_a_constant_that_caffe_cannot_hold_is_an_error_of_one_line() -> None:
    with pytest.raises(DefinitionError, match=r"^Caffe keeps the constants .* which cannot hold 1e\+?300$"):
        made(dtypes=["float64"], parameters={"temperature": 1e-300})


def test_what_caffe_has_no_layer_for_is_refused_by_name() -> None:
    power = Loss("power", "", "2**(d_pos - d_neg)", "made up")
    with pytest.raises(UsageError, match=r"^Caffe has no layer for a power .* constant: 2\^\(d_pos - d_neg\)$"):
        generate(differentiate(Objective(DISTANCES["l2-squared"], power)), "prototxt")


# ---------------------------------------------------------------- other readers


def encoded(text: str) -> subprocess.CompletedProcess[bytes]:
    caffe = build.find()
    assert caffe is not None
    command = ["protoc", f"-I{caffe.proto.parents[2]}", "--encode=caffe.NetParameter", str(caffe.proto)]
    return subprocess.run(command, input=text.encode(), capture_output=True, check=False)


@pytest.mark.needs("caffe")
@objectives
def test_protoc_accepts_every_net_as_a_net_parameter(norm: str, loss: str, normalize: bool) -> None:
    for file in made(norm, loss, normalize).files:
        done = encoded(file.text)
        assert done.returncode == 0, done.stderr.decode()
        assert done.stderr == b""
        assert b"loss" in done.stdout


@pytest.mark.needs("caffe")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("operation: SUMSQ", "operation: SUMSQR"),
        ("eltwise_param", "elementwise_param"),
        ("coeff: -1", 'coeff: "-1"'),
    ],
)
def test_protoc_refuses_what_is_not_in_caffe_proto(old: str, new: str) -> None:
    text = made().files[0].text
    assert old in text
    assert encoded(text.replace(old, new)).returncode != 0


class Total:
    """The layer that OpenCV does not have."""

    def __init__(self, parameters: dict[str, Any], blobs: Any) -> None:
        assert {**parameters, "operation": ""} == {"operation": "", "axis": 1}
        self.term = {"SUMSQ": np.square, "ASUM": np.abs}[parameters["operation"]]

    def getMemoryShapes(self, inputs: list[list[int]]) -> list[list[int]]:  # noqa: N802
        return [inputs[0][:1]]

    def forward(self, inputs: list[Any]) -> list[Any]:
        return [np.sum(self.term(inputs[0]), axis=1)]


def probabilities(text: str, batch: list[Any]) -> Any:
    """By OpenCV, whose importer of Caffe's nets has nothing in common with Caffe."""
    import cv2

    shaped = re.sub("dim: 64 dim: 128", "dim: {} dim: {}".format(*batch[0].shape), text)
    upto = shaped.index('top: "probabilities"')
    net = cv2.dnn.readNetFromCaffe(np.frombuffer(shaped[: shaped.index("}\n\n", upto) + 2].encode(), np.uint8))
    for name, array in zip(("x", "x_pos", "x_neg"), batch, strict=True):
        net.setInput(array, name)
    return net.forward("probabilities")


@pytest.mark.needs("opencv")
@pytest.mark.parametrize("temperature", [1.0, 0.5])
@pytest.mark.parametrize(
    "norm", [name for name in DISTANCES if name not in ("lp", "linf", "cosine")]
)  # of the layers that OpenCV has
def test_opencv_forwards_a_net_to_the_same_probabilities(norm: str, temperature: float) -> None:
    import cv2

    batch = list(np.random.default_rng(0).normal(size=(3, 4, 6)).astype(np.float32))
    u = np.array([batch[0] - other for other in batch[1:]])
    squares = np.sum(np.square(u), axis=2)
    of_norm = {
        "l2": np.sqrt(squares),
        "l2-squared": squares,
        "l2-smooth": np.hypot(np.sqrt(squares), 0.01) - 0.01,
        "l1": np.sum(np.abs(u), axis=2),
    }
    distances = of_norm[norm].T / temperature
    expected = 1 / (1 + np.exp(distances[:, ::-1] - distances))
    text = made(norm, parameters={"temperature": temperature}).files[0].text
    cv2.dnn_registerLayer("Reduction", Total)
    try:
        np.testing.assert_allclose(probabilities(text, batch), expected, rtol=1e-5)
        swapped = re.sub(r'(  bottom: "column_pos"\n)(  bottom: "column_neg"\n)', r"\2\1", text)
        assert np.max(np.abs(probabilities(swapped, batch) - expected)) > 0.01
    finally:
        cv2.dnn_unregisterLayer("Reduction")
