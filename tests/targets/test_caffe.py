"""What a generated layer promises a net, in real Caffe: shapes, parameters, loss_weight, propagate_down, training."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from objectives import COVER, named

from derive_triplet import DISTANCES, LOSSES, Distance, Loss, Objective, Parameter, Product, differentiate, generate
from derive_triplet.derive.targets.caffe import layer_type
from derive_triplet.derive.targets.numpy import load
from derive_triplet.derive.verify.caffe import build, layer
from derive_triplet.derive.verify.caffe.build import Caffe
from derive_triplet.derive.verify.caffe.layer import CaffeError, run_net

SCALE = Parameter("scale", 2.0, "positive", "the unit of the distance")
SCALED = Distance("scaled-squared", "a squared distance with a unit", "scale * sum((x - y)**2)", "made up", (SCALE,))
RATIO = Loss("ratio", "squared over distance", "d_pos**2 / (1 + d_neg)", "made up")

MSE = Objective(DISTANCES["l2"], LOSSES["softmax-mse"])
HINGE = Objective(DISTANCES["l2-squared"], LOSSES["hinge"])
TWO_PARAMETERS = Objective(SCALED, LOSSES["hinge"])
NO_PARAMETERS = Objective(DISTANCES["l2"], RATIO)
OBJECTIVES = [MSE, HINGE, TWO_PARAMETERS, NO_PARAMETERS]
CATALOGUE = named(COVER)
DTYPES = ["float32", "float64"]

needs_caffe = pytest.mark.needs("caffe")


def made(objective: Objective) -> Product:
    return generate(differentiate(objective), "caffe")


# ---------------------------------------------------------------- the text


@pytest.mark.parametrize("objective", CATALOGUE, ids=lambda objective: objective.stem)
def test_files_and_types_are_named_as_caffe_names_them(objective: Objective) -> None:
    stem = objective.stem
    assert [file.path for file in made(objective).files] == [
        f"caffe/{stem}_layer.hpp",
        f"caffe/{stem}_layer.cpp",
        f"caffe/{stem}_layer.cu",
        f"caffe/test_{stem}_layer.cpp",
    ]
    name = layer_type(objective)
    assert name.lower() == stem.replace("_", "")
    assert f"class {name}Layer : public LossLayer<Dtype>" in made(objective).text(".hpp")
    assert f"REGISTER_LAYER_CLASS({name});" in made(objective).text("_layer.cpp")
    assert f"INSTANTIATE_LAYER_GPU_FUNCS({name}Layer);" in made(objective).text(".cu")


def test_the_header_states_the_memory_and_where_parameters_come_from() -> None:
    mse, hinge, ratio = (made(objective).text(".hpp") for objective in (MSE, HINGE, NO_PARAMETERS))
    assert "Memory, besides the bottoms: 6 numbers for each triplet, however long it is." in mse
    assert 'python_param { param_str: "temperature=1.0" }' in mse
    assert "contrastive_loss_param" not in mse
    assert "contrastive_loss_param { margin: ... }" in hinge
    assert "param_str" not in ratio


README = (Path(__file__).parents[2] / "README.md").read_text(encoding="utf-8")

# ---------------------------------------------------------------- in nets


@pytest.fixture(scope="module")
def caffe() -> Caffe:
    found = build.find()
    assert found is not None
    return found


@pytest.fixture(scope="module")
def library(caffe: Caffe, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Several layers in one library, which therefore do not stand in each other's way."""
    folder = tmp_path_factory.mktemp("caffe")
    for objective in OBJECTIVES:
        one = folder / objective.stem
        layer.write(made(objective), one)
    sources = [f"{o.stem}/{o.stem}_layer.cpp" for o in OBJECTIVES]
    folders = [f"-I{o.stem}" for o in OBJECTIVES]
    caffe.compile("-O0", "-shared", *folders, *sources, "-o", "layers.so", folder=folder)
    return folder / "layers.so"


def net(objective: Objective, shapes: Sequence[Sequence[int]], options: str = "") -> str:
    """A net of one layer, whose inputs have the shapes."""
    named = ("x", "x_pos", "x_neg")
    inputs = "".join(
        f"layer {{ name: '{name}' type: 'Input' top: '{name}' input_param {{ shape {{ "
        f"{' '.join(f'dim: {extent}' for extent in shape)} }} }} }} "
        for name, shape in zip(named, shapes, strict=True)
    )
    return (
        f"force_backward: true {inputs} layer {{ name: 'the loss' type: '{layer_type(objective)}' "
        f"bottom: 'x' bottom: 'x_pos' bottom: 'x_neg' top: 'loss' {options} }}"
    )


def batch(dtype: str = "float64", rows: int = 4, dim: int = 6) -> list[Any]:
    return list(np.random.default_rng(3).normal(size=(3, rows, dim)).astype(dtype))


def expected(objective: Objective, triplets: Sequence[Any], **parameters: float) -> tuple[Any, Any]:
    module = load(generate(differentiate(objective), "numpy"))
    loss, gradients = module.value_and_grad(*(e.astype("float64") for e in triplets), **parameters)
    return loss, gradients


def assert_agrees(found: tuple[Any, Any], wanted: tuple[Any, Any], dtype: str = "float64") -> None:
    tolerance = 64 * float(np.finfo(dtype).eps)  # a temperature of 0.1 magnifies the rounding of distances by 10
    np.testing.assert_allclose(found[0], [wanted[0]], rtol=tolerance)
    np.testing.assert_allclose(found[1], wanted[1], rtol=tolerance, atol=tolerance * np.max(np.abs(wanted[1])))


@needs_caffe
@pytest.mark.parametrize("objective", OBJECTIVES, ids=lambda objective: objective.stem)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(4, 6), (4, 3, 2, 1), (4, 6, 1), (4, 1, 2, 3)], ids=str)
def test_an_embedding_is_all_that_follows_the_first_axis(
    caffe: Caffe, library: Path, objective: Objective, dtype: str, shape: tuple[int, ...]
) -> None:
    found = run_net(caffe, net(objective, [shape] * 3), batch(dtype), [library])
    assert_agrees(found, expected(objective, batch(dtype)), dtype)


@needs_caffe
def test_the_layer_of_the_readme_does_what_it_says(caffe: Caffe, library: Path) -> None:
    (shown,) = re.findall(r"^```protobuf\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    for bottom, name in (("anchor", "x"), ("positive", "x_pos"), ("negative", "x_neg")):
        assert f'bottom: "{bottom}"' in shown
        shown = shown.replace(f'bottom: "{bottom}"', f'bottom: "{name}"')
    inputs = net(HINGE, [(4, 6)] * 3).rpartition("layer {")[0]
    found = run_net(caffe, inputs + shown.replace("TripletHingeL2", layer_type(HINGE)), batch(), [library])
    assert_agrees(found, expected(HINGE, batch(), margin=0.5))


@needs_caffe
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weight", [0.25, -3.0, 100.0])
def test_the_loss_weight_multiplies_loss_and_gradients(caffe: Caffe, library: Path, dtype: str, weight: float) -> None:
    text = net(MSE, [(4, 6)] * 3, f"loss_weight: {weight}")
    loss, gradients = expected(MSE, batch(dtype))
    wanted = weight * loss, [weight * gradient for gradient in gradients]
    assert_agrees(run_net(caffe, text, batch(dtype), [library]), wanted, dtype)


@needs_caffe
@pytest.mark.parametrize("off", range(3))
def test_a_bottom_to_which_nothing_is_propagated_is_left_alone(caffe: Caffe, library: Path, off: int) -> None:
    options = " ".join(f"propagate_down: {'false' if at == off else 'true'}" for at in range(3))
    text = net(MSE, [(4, 6)] * 3, options).replace("force_backward: true", "")  # which would be the stronger
    for name in ("x", "x_pos", "x_neg"):  # a bottom asks for gradients if there is something to learn below it
        text = text.replace(f"bottom: '{name}'", f"bottom: 'learned {name}'")
    inputs, _, loss_layer = text.rpartition("layer {")
    scales = "".join(
        f"layer {{ name: '{name}s' type: 'Scale' bottom: '{name}' top: 'learned {name}' propagate_down: true }} "
        for name in ("x", "x_pos", "x_neg")
    )
    text = f"{inputs}{scales}layer {{{loss_layer}"
    loss, gradients = run_net(caffe, text, batch(), [library])
    wanted_loss, wanted = expected(MSE, batch())
    wanted = [np.zeros_like(g) if at == off else g for at, g in enumerate(wanted)]
    assert_agrees((loss, gradients), (wanted_loss, wanted))


@needs_caffe
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_that_coincide_have_finite_gradients(caffe: Caffe, library: Path, dtype: str) -> None:
    x, x_pos, x_neg = batch(dtype)
    x_pos[0], x_neg[1], x_pos[2], x_neg[2] = x[0], x[1], x[2], x[2]
    loss, gradients = run_net(caffe, net(MSE, [(4, 6)] * 3), [x, x_pos, x_neg], [library])
    assert np.isfinite(loss).all()
    assert np.isfinite(gradients).all()
    assert not gradients[1][0].any()
    assert not gradients[2][1].any()
    assert not np.array(gradients)[:, 2].any()


@needs_caffe
def test_a_row_that_is_not_a_number_leaves_the_gradients_of_others_alone(caffe: Caffe, library: Path) -> None:
    x, x_pos, x_neg = batch()
    x_pos[1, 2] = np.nan
    loss, gradients = run_net(caffe, net(MSE, [(4, 6)] * 3), [x, x_pos, x_neg], [library])
    assert np.isnan(loss).all()
    assert np.isnan(np.array(gradients)[:, 1]).any()
    others = [0, 2, 3]
    np.testing.assert_allclose(np.array(gradients)[:, others], np.array(expected(MSE, batch())[1])[:, others])


# ---------------------------------------------------------------- parameters


@needs_caffe
@pytest.mark.parametrize(
    ("objective", "options", "parameters"),
    [
        (MSE, "python_param { param_str: 'temperature=0.1' }", {"temperature": 0.1}),
        (MSE, "python_param { param_str: ' temperature=2.5e-1, ' }", {"temperature": 0.25}),
        (HINGE, "contrastive_loss_param { margin: 0.75 }", {"margin": 0.75}),
        (HINGE, "contrastive_loss_param { margin: 0 }", {"margin": 0}),
        (HINGE, "contrastive_loss_param { legacy_version: true }", {}),  # its default of 1 is not ours
        (HINGE, "python_param { param_str: 'margin=0.75' }", {"margin": 0.75}),
        (TWO_PARAMETERS, "python_param { param_str: 'scale=3,margin=4' }", {"scale": 3, "margin": 4}),
        (TWO_PARAMETERS, "python_param { param_str: 'margin=4 scale=3' }", {"scale": 3, "margin": 4}),
        (
            TWO_PARAMETERS,
            "contrastive_loss_param { margin: 4 } python_param { param_str: 'scale=3' }",
            {"scale": 3, "margin": 4},
        ),
    ],
)
def test_parameters_of_the_net_replace_those_of_the_generator(
    caffe: Caffe, library: Path, objective: Objective, options: str, parameters: dict[str, float]
) -> None:
    found = run_net(caffe, net(objective, [(4, 6)] * 3, options), batch(), [library])
    assert_agrees(found, expected(objective, batch(), **parameters))


WRONG = [
    (MSE, "python_param { param_str: 'margin=1' }", "no parameter 'margin'; expected temperature"),
    (TWO_PARAMETERS, "python_param { param_str: 'x=1' }", "no parameter 'x'; expected scale or margin"),
    (MSE, "python_param { param_str: 'temperature' }", "'temperature' is not name=value, without spaces"),
    (MSE, "python_param { param_str: 'temperature = 1' }", "'temperature' is not name=value, without spaces"),
    (MSE, "python_param { param_str: 'temperature=' }", "'temperature=' does not end in a number"),
    (MSE, "python_param { param_str: 'temperature=1x' }", "'temperature=1x' does not end in a number"),
    (MSE, "python_param { param_str: 'temperature=1=2' }", "'temperature=1=2' does not end in a number"),
    (MSE, "python_param { param_str: 'temperature=nan' }", "'temperature=nan' does not end in a number"),
    (MSE, "python_param { param_str: 'temperature=1e999' }", "'temperature=1e999' does not end in a number"),
    (MSE, "python_param { param_str: 'temperature=0' }", "temperature is 0; expected a positive number"),
    (MSE, "python_param { param_str: 'temperature=-1' }", "temperature is -1; expected a positive number"),
    (MSE, "python_param { param_str: 'temperature=1 temperature=2' }", "temperature is given twice"),
    (HINGE, "contrastive_loss_param { margin: -1 }", "margin is -1; expected a nonnegative number"),
    (HINGE, "contrastive_loss_param { margin: inf }", "margin is inf; expected a nonnegative number"),
    (HINGE, "contrastive_loss_param { margin: 1 } python_param { param_str: 'margin=1' }", "margin is given twice"),
    (NO_PARAMETERS, "python_param { param_str: 'margin=1' }", "it has no parameters, but a param_str"),
]


@needs_caffe
@pytest.mark.parametrize(("objective", "options", "message"), WRONG, ids=[message for _, _, message in WRONG])
def test_parameters_that_cannot_be_are_refused_with_the_name_of_the_layer(
    caffe: Caffe, library: Path, objective: Objective, options: str, message: str
) -> None:
    with pytest.raises(CaffeError) as refusal:
        run_net(caffe, net(objective, [(4, 6)] * 3, options), batch(), [library])
    assert f"{layer_type(objective)} layer 'the loss': " in str(refusal.value)
    assert str(refusal.value).endswith(message)


SHAPES = [
    ([(4, 6), (4, 5), (4, 6)], "the positives have the shape 4 5 (20), the anchors 4 6 (24)"),
    ([(4, 6), (4, 6), (3, 6)], "the negatives have the shape 3 6 (18), the anchors 4 6 (24)"),
    ([(4, 6), (4, 6), (4, 6, 1)], "the negatives have the shape 4 6 1 (24), the anchors 4 6 (24)"),
    ([(4, 6), (6, 4), (4, 6)], "the positives have the shape 6 4 (24), the anchors 4 6 (24)"),
    ([(0, 6), (0, 6), (0, 6)], "the anchors are empty: 0 6 (0)"),
    ([(4, 0), (4, 0), (4, 0)], "the anchors are empty: 4 0 (0)"),
    ([(), (), ()], "the anchors have no axis; expected N x C or N x C x H x W"),
]


@needs_caffe
@pytest.mark.parametrize(("shapes", "message"), SHAPES, ids=[message for _, message in SHAPES])
def test_shapes_that_do_not_match_are_refused_with_the_name_of_the_layer(
    caffe: Caffe, library: Path, shapes: list[tuple[int, ...]], message: str
) -> None:
    with pytest.raises(CaffeError) as refusal:
        run_net(caffe, net(MSE, shapes), batch(), [library])
    assert f"TripletSoftmaxMseL2 layer 'the loss': {message}" in str(refusal.value)


# ---------------------------------------------------------------- training, by pycaffe

TOWERS = """
import ctypes, json, sys
import caffe, numpy
library, model, solver, inputs = sys.argv[1:]
ctypes.CDLL(library, ctypes.RTLD_GLOBAL)
caffe.set_random_seed(1)
solver = caffe.SGDSolver(solver)
x, weights = json.loads(inputs)
for name, value in zip(("x", "x_pos", "x_neg"), x):
    solver.net.blobs[name].data[...] = value
solver.net.params["tower_x"][0].data[...] = weights
losses = []
for _ in range(20):
    solver.step(1)
    losses.append(float(solver.net.blobs["loss"].data))
print(json.dumps([losses, solver.net.params["tower_x"][0].data.tolist()]))
"""


@needs_caffe
def test_three_towers_that_share_their_weights_train_as_the_formula_says(
    caffe: Caffe, library: Path, tmp_path: Path
) -> None:
    random, rows, dim, features, rate = np.random.default_rng(5), 8, 5, 3, 0.5
    x, weights = random.normal(size=(3, rows, dim)), random.normal(size=(features, dim))
    towers = "".join(
        f"layer {{ name: '{name}' type: 'Input' top: '{name}' "
        f"input_param {{ shape {{ dim: {rows} dim: {dim} }} }} }}\n"
        f"layer {{ name: 'tower_{name}' type: 'InnerProduct' bottom: '{name}' top: 'embedded_{name}' "
        f"param {{ name: 'weights' }} inner_product_param {{ num_output: {features} bias_term: false }} }}\n"
        for name in ("x", "x_pos", "x_neg")
    )
    loss = (
        "layer { name: 'loss' type: 'TripletSoftmaxMseL2' bottom: 'embedded_x' bottom: 'embedded_x_pos' "
        "bottom: 'embedded_x_neg' top: 'loss' }"
    )
    model, solver = tmp_path / "net.prototxt", tmp_path / "solver.prototxt"
    model.write_text(towers + loss)
    solver.write_text(f"net: '{model}' base_lr: {rate} lr_policy: 'fixed' max_iter: 20 snapshot_after_train: false")
    command = [sys.executable, "-c", TOWERS, library, model, solver, json.dumps([x.tolist(), weights.tolist()])]
    done = subprocess.run(command, env=caffe.environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found_losses, found_weights = json.loads(done.stdout)

    module = load(generate(differentiate(MSE), "numpy"))
    losses = []
    for _ in range(20):
        value, gradients = module.value_and_grad(*(embedding @ weights.T for embedding in x))
        losses.append(value)
        weights = weights - rate * sum(g.T @ embedding for g, embedding in zip(gradients, x, strict=True))
    np.testing.assert_allclose(found_losses, losses, rtol=1e-4)
    np.testing.assert_allclose(found_weights, weights, rtol=1e-3)
    assert losses[-1] < 0.9 * losses[0]
