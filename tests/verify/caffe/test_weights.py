"""Weights and normalization of a layer in real Caffe: what a net may ask for, and that errors of both are seen."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest

from derive_triplet import differentiate, generate
from derive_triplet.derive.targets.caffe import layer_type
from derive_triplet.derive.targets.numpy import load
from derive_triplet.derive.verify.caffe import build
from derive_triplet.derive.verify.caffe.layer import CaffeError, LayerRunner, run_net
from derive_triplet.derive.verify.weighting import weighting_checks

pytestmark = pytest.mark.needs("caffe")

HINGE = differentiate("l2", "hinge")
MARGIN = {"margin": 0.2}


@dataclass(frozen=True)
class Plant:
    """In the layer's source `old`, a regular expression, becomes `new`."""

    name: str
    old: str = ""
    new: str = ""


PLANTS = [
    Plant("loss without weights", r"static_cast<double>\(weight\) \* losses", "losses"),
    Plant("gradients without weights", r"factor \* counted\[i\]", "factor"),
    Plant("one gradient without weights", r"restore\(saved .*", r"\g<0> row.weight_neg /= counted[i];"),
    Plant("a product for the loss", r"weight == 0 \? 0 : ", ""),
    Plant("a product for the gradients", r"if \(counted\[i\] == 0\) \{", "if (false) {"),
    Plant("all rows counted as active", r"active \+= loss != 0", "++active"),
    Plant("division by no active rows", r"std::max\(active, 1\)", "active"),
    Plant("weights of the first row for all", r"weights\[i\] :", "weights[0] :"),
    Plant("a sum divided", r"(NONE\)) normalizer_ = 1", r"\1 normalizer_ = rows"),
]
RIGHT = Plant("nothing wrong")


@pytest.fixture(scope="module")
def runners(tmp_path_factory: pytest.TempPathFactory) -> dict[str, LayerRunner]:
    """The layer with each error, under names of their own in one library: most of a compilation is Caffe's headers."""
    caffe, folder = build.find(), tmp_path_factory.mktemp("weights")
    assert caffe is not None
    product = generate(HINGE, "caffe")
    stem, layer = product.objective.stem, layer_type(product.objective)
    (headers := folder / "caffe/layers").mkdir(parents=True)
    for at, plant in enumerate([RIGHT, *PLANTS]):
        header, source = (
            re.sub(plant.old, plant.new, product.text(suffix))
            .replace(stem, f"{stem}_{at}")
            .replace(layer, f"{layer}{at}")
            .replace(stem.upper(), f"{stem}_{at}".upper())
            for suffix in (".hpp", "_layer.cpp")
        )
        (headers / f"{stem}_{at}_layer.hpp").write_text(header)
        (folder / f"{at}.cpp").write_text(source)
        assert not plant.old or re.search(plant.old, product.text("_layer.cpp")), plant.name
    (folder / "all.cpp").write_text("".join(f'#include "{at}.cpp"\n' for at in range(len(PLANTS) + 1)))
    library = folder / "all.so"
    caffe.compile("-O0", "-shared", "-I.", "all.cpp", "-o", library, folder=folder)
    return {plant.name: LayerRunner(caffe, library, f"{layer}{at}") for at, plant in enumerate([RIGHT, *PLANTS])}


def test_right_code_passes(runners: dict[str, LayerRunner]) -> None:
    for dtype in ("float32", "float64"):
        assert all(check.passed for check in weighting_checks(runners[RIGHT.name], dtype, MARGIN))


@pytest.mark.parametrize("plant", PLANTS, ids=lambda plant: plant.name)
def test_an_error_is_seen(runners: dict[str, LayerRunner], plant: Plant) -> None:
    assert not all(check.passed for check in weighting_checks(runners[plant.name], "float64", MARGIN))


def triplet(rows: int) -> list[np.ndarray]:
    random = np.random.default_rng(rows)
    return [random.normal(size=(rows, 3)) for _ in range(3)]


@pytest.mark.parametrize("reduction", ["sum", "mean", "mean-active"])
def test_it_is_what_the_numpy_module_computes(runners: dict[str, LayerRunner], reduction: str) -> None:
    batch, weights = triplet(12), np.arange(12) % 4 / 2
    loss, gradients = load(generate(HINGE, "numpy")).value_and_grad(*batch, reduction=reduction, weights=weights)
    x, x_pos, x_neg = batch
    found, of = runners[RIGHT.name](x, x_pos, x_neg, MARGIN, reduction, weights)
    np.testing.assert_allclose(found, loss, rtol=1e-14)
    np.testing.assert_allclose(of, gradients, rtol=1e-12, atol=1e-15)


NORMALIZATIONS = {
    "": "mean",
    "normalization: FULL": "mean",
    "normalization: BATCH_SIZE": "mean",
    "normalization: NONE": "sum",
    "normalization: VALID": "mean-active",
    "normalize: true": "mean-active",
    "normalize: false": "mean",
    "normalize: true normalization: NONE": "sum",
}


def net(layer: str, loss_param: str, weights: str = "", rows: int = 6) -> str:
    """The text of a net with the layer. weights: their shape; '' for none."""
    embedding = f"shape {{ dim: {rows} dim: 3 }}"
    tops = ("x", "x_pos", "x_neg") + ("weights",) * bool(weights)
    shapes = " ".join([embedding] * 3 + [f"shape {{ {weights} }}"] * bool(weights))
    return (
        f"force_backward: true layer {{ name: 'triplets' type: 'Input' {' '.join(f'top: {t!r}' for t in tops)} "
        f"input_param {{ {shapes} }} }} layer {{ name: 'loss' type: '{layer}' top: 'loss' "
        f"{' '.join(f'bottom: {t!r}' for t in tops)} loss_param {{ {loss_param} }} }}"
    )


@pytest.mark.parametrize(("said", "reduction"), NORMALIZATIONS.items())
def test_normalization_is_that_of_caffe_but_the_mean_where_nothing_is_said(
    runners: dict[str, LayerRunner], said: str, reduction: str
) -> None:
    run, batch = runners[RIGHT.name], triplet(6)
    (found,), _ = run_net(run.caffe, net(run.layer, said), batch, [run.library])
    module = load(generate(HINGE, "numpy"))
    wanted = {r: module.value(*batch, reduction=r) for r in ("mean", "sum", "mean-active")}
    assert len(set(wanted.values())) == 3
    assert found == pytest.approx(wanted[reduction], rel=1e-14)


@pytest.mark.parametrize(
    ("shape", "weights", "message"),
    [
        ("dim: 5", np.ones(5), r"the weights have the shape 5 \(5\); expected one for each triplet"),
        ("dim: 6 dim: 2", np.ones(12), r"the weights have the shape 6 2 \(12\); expected one for each triplet"),
        ("dim: 6", np.array([1, 1, -1, 1, 1, 1]), "the weight of triplet 2 is -1; expected a finite number"),
        ("dim: 6 dim: 1", np.array([1, 1, 1, 1, 1, np.nan]), "the weight of triplet 5 is -?nan; expected a finite"),
        (
            "dim: 6 dim: 1 dim: 1",
            np.array([np.inf, 1, 1, 1, 1, 1]),
            "the weight of triplet 0 is inf; expected a finite",
        ),
    ],
)
def test_weights_that_cannot_be_are_refused(
    runners: dict[str, LayerRunner], shape: str, weights: np.ndarray, message: str
) -> None:
    run = runners[RIGHT.name]
    # the harness hands over as many weights as the net takes
    with pytest.raises(CaffeError, match=f"{run.layer} layer 'loss': {message}"):
        run_net(run.caffe, net(run.layer, "", shape), triplet(6), [run.library], weights[:6])


def test_nothing_is_taken_beside_the_weights(runners: dict[str, LayerRunner]) -> None:
    run = runners[RIGHT.name]
    more = net(run.layer, "", "dim: 6").replace("bottom: 'weights'", "bottom: 'weights' bottom: 'x'")
    with pytest.raises(CaffeError, match="Layer takes at most 4 bottom"):
        run_net(run.caffe, more, triplet(6), [run.library], np.ones(6))


def test_weights_that_are_learned_are_refused(runners: dict[str, LayerRunner]) -> None:
    run = runners[RIGHT.name]
    learned = net(run.layer, "", "dim: 6 dim: 1").replace("bottom: 'weights'", "bottom: 'learned'")
    learned = learned.replace(
        "layer { name: 'loss'",
        "layer { name: 'learned' type: 'InnerProduct' bottom: 'weights' top: 'learned' inner_product_param "
        "{ num_output: 1 bias_filler { value: 1 } } } layer { name: 'loss'",
    )
    with pytest.raises(CaffeError, match="the weights get no gradient"):
        run_net(run.caffe, learned, triplet(6), [run.library], np.ones(6))
