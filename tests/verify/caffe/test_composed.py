"""Composed nets in real Caffe: right where their verification says so, which fails on errors that people make."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pytest
from objectives import COVER, NORMALIZED

from derive_triplet import (
    DISTANCES,
    LOSSES,
    Distance,
    Loss,
    Objective,
    Parameter,
    Product,
    Singularity,
    differentiate,
    generate,
    own_loss,
    verify,
)
from derive_triplet.derive.targets.caffe import layer_type
from derive_triplet.derive.targets.numpy import load
from derive_triplet.derive.targets.numpy import runner as numpy_runner
from derive_triplet.derive.verify.caffe import build, composed, layer, train
from derive_triplet.derive.verify.caffe.composed import NetRunner
from derive_triplet.derive.verify.regimes import regimes

OBJECTIVES = [*((*pair, False) for pair in COVER), *((*pair, True) for pair in NORMALIZED)]
TRAINED = [(*COVER[0], False), (*NORMALIZED[0], True), ("l2-squared", "hinge", False), ("cosine", "softmax-mse", False)]
objectives = pytest.mark.parametrize(("norm", "loss", "normalize"), OBJECTIVES)
DTYPES = ("float32", "float64")
EXACT: dict[str, dict[str, float]] = {"temperature": {"temperature": 0.5}, "margin": {"margin": 0.25}}
ROUNDED = {"epsilon": 2.0**-7, "p": 2.0}

needs_caffe = pytest.mark.needs("caffe")
Batch = list[npt.NDArray[Any]]


def made(norm: str = "l2", loss: str = "softmax-mse", normalize: bool = False, **options: Any) -> Product:
    return generate(differentiate(norm, loss, normalize=normalize), "prototxt", **options)


def runner(text: str) -> NetRunner:
    caffe = build.find()
    assert caffe is not None
    return NetRunner(caffe, text)


# ---------------------------------------------------------------- what is generated


@needs_caffe
@objectives
def test_every_net_is_right_in_real_caffe(norm: str, loss: str, normalize: bool) -> None:
    report = verify(made(norm, loss, normalize))
    assert report.passed, str(report)
    assert report.level == "run (Caffe)"
    regimes = {(check.name, check.regime) for check in report.checks}
    assert regimes >= {
        ("gradient", "x = x_pos"),
        ("gradient", "x = x_neg"),
        ("gradient", "collapsed, x = x_pos = x_neg"),
    }
    without_direction = {("gradient", f"{name} = 0") for name in ("x", "x_pos", "x_neg")}
    of_units = normalize or norm == "cosine"
    assert without_direction & regimes == (without_direction if of_units else set())
    # where nothing but finite gradients is asked for
    finite = {check.regime for check in report.checks if check.unit == "not finite"}
    tiny_or_huge = {regime for regime in finite if re.match("tiny|huge", regime)}
    ties = {"ties of components"} if norm == "linf" else set()  # of which Pooling takes the first
    assert finite - tiny_or_huge == {regime for _, regime in without_direction & regimes} | ties
    names = {check.name for check in report.checks}
    assert names >= {"mean over the batch", "shape (N, C, H, W)", "siamese: first step"}
    assert {check.dtype for check in report.checks} == set(DTYPES)


@needs_caffe
@objectives
def test_with_constants_that_single_precision_holds_double_is_judged_as_double(
    norm: str, loss: str, normalize: bool
) -> None:
    (parameter,) = LOSSES[loss].parameters
    rounded = {p.name: ROUNDED[p.name] for p in DISTANCES[norm].parameters if p.name in ROUNDED}
    exact = {**rounded, **EXACT[parameter.name]}
    report = verify(made(norm, loss, normalize, dtypes=["float64"], parameters=exact))
    assert report.passed, str(report)
    assert report.notes == ()
    inexact = verify(made(norm, loss, normalize, dtypes=["float64"], parameters={**rounded, parameter.name: 0.3}))
    assert inexact.passed, str(inexact)
    assert "judged in ulp of float32" in inexact.notes[0]


@needs_caffe
@pytest.mark.parametrize(("norm", "margin"), [("l2", 0.25), ("l2-squared", 0.3125)])
def test_on_its_kink_the_hinge_has_the_derivative_0(norm: str, margin: float) -> None:
    report = verify(made(norm, "hinge", parameters={"margin": margin}))
    assert report.passed, str(report)
    on_it = [check for check in report.checks if check.regime == "on the kink"]
    assert {(check.name, check.worst) for check in on_it} == {("loss", 0.0), ("gradient", 0.0)}


# none of these is a difference of distances, and some need layers that the catalogue's losses do not
MARGIN = Parameter("margin", 0.75, "nonnegative", "how far apart negatives have to be")
SCALE = Parameter("scale", 2.0, "positive", "the unit of the distance")
KINK = Singularity("margin - d_neg", "d_neg = margin", "a kink of the positive part")
CORNERS = Singularity("sum(abs(x - y))", "x_k = y_k for some k", "a component has a kink there")
SQUARED, L2 = DISTANCES["l2-squared"], DISTANCES["l2"]
SCALED = Distance("scaled", "", "scale * sum((x - y)**2) / 3", "made up", (SCALE,))
INNER = Distance("inner", "", "2 - sum(x * y) / 100", "made up")
CITYBLOCK = Distance("cityblock", "", "sum(abs(x - y))", "made up", (), (CORNERS,))
LOGARITHM = Distance("logarithm", "", "log(2 + sum((x - y)**2))", "made up")
CONTRASTIVE = Loss("contrastive", "", "d_pos + max(0, margin - d_neg)", "made up", (MARGIN,), (KINK,))
SQUARES = Loss("squares", "", "d_pos**2 / 2 + max(0, margin - d_neg)**2 / 2", "made up", (MARGIN,))
RATIO = Loss("ratio", "", "d_pos**2 / (1 + d_neg)", "made up")
BUMP = Loss("bump", "", "d_pos * exp(-d_neg / 4) + 1", "made up")
SOFT = own_loss("log(1 + exp((d_pos - d_neg)/tau))", {"tau": "0.5:>0"}, name="soft")
OWN = [
    Objective(L2, RATIO),
    Objective(SQUARED, CONTRASTIVE),
    Objective(L2, SQUARES),
    Objective(SQUARED, BUMP),
    Objective(L2, SOFT),
    Objective(SCALED, LOSSES["softmax-mse"]),
    Objective(LOGARITHM, LOSSES["softmax-nll"]),
    Objective(CITYBLOCK, LOSSES["hinge"]),
    Objective(INNER, LOSSES["hinge"]),
]


@needs_caffe
@pytest.mark.parametrize("objective", OWN, ids=lambda objective: objective.stem)
def test_an_entry_of_ones_own_is_composed_by_the_same_rules(objective: Objective) -> None:
    text = generate(differentiate(objective), "prototxt").files[0].text
    kernel = generate(differentiate(objective), "numpy")
    batch = list(np.random.default_rng(0).normal(size=(3, 4, 5)))
    losses, gradients = runner(text).run(batch, 1)
    expected, slopes = load(kernel).value_and_grad(*batch, reduction="none")
    np.testing.assert_allclose(losses, expected, rtol=1e-6)
    np.testing.assert_allclose(gradients, slopes, rtol=1e-6, atol=1e-7)


@needs_caffe
@pytest.mark.parametrize("objective", [own for own in OWN if own.distance is not INNER], ids=lambda own: own.stem)
def test_an_entry_of_ones_own_is_verified(objective: Objective) -> None:
    report = verify(generate(differentiate(objective), "prototxt"))
    assert report.passed, str(report)
    assert report.level == "run (Caffe)"


# ---------------------------------------------------------------- planted errors


@dataclass(frozen=True)
class Plant:
    """In the file that ends in `suffix`, `old`, a regular expression, becomes `new`; `seen_by` names a check."""

    name: str
    old: str
    new: str
    seen_by: str
    norm: str = "l2"
    loss: str = "softmax-mse"
    normalize: bool = False
    suffix: str = ".prototxt"
    count: int = 1  # 0 for everywhere

    def into(self, product: Product) -> Product:
        text = product.text(self.suffix)
        wrong = re.sub(self.old, self.new, text, count=self.count, flags=re.MULTILINE)
        assert wrong != text, f"{self.name}: {self.old!r} is not in the text"
        return replace(product, files=tuple(replace(f, text=wrong) if f.text is text else f for f in product.files))


SIAMESE = "_siamese.prototxt"
PLANTS = [
    Plant("the same bottom twice", 'bottom: "x_pos"', 'bottom: "x"', "loss"),
    Plant("distances of the wrong pair", 'bottom: "x_neg"', 'bottom: "x_pos"', "loss"),
    Plant("added, not subtracted", "coeff: 1 coeff: -1", "coeff: 1 coeff: 1", "loss"),
    Plant("no Reshape", r'bottom: "column_(...)"(?=\n  (bottom|top: "columns"))', r'bottom: "d_\1"', "runs", count=0),
    Plant("Reshape to a row", "dim: 0 dim: 1 ", "dim: 1 dim: 0 ", "runs"),
    Plant("columns exchanged", r'(  bottom: "column_pos"\n)(  bottom: "column_neg"\n)', r"\2\1", "loss"),
    Plant("targets exchanged", r'(  bottom: "target_pos"\n)(  bottom: "target_neg"\n)', r"\2\1", "loss"),
    Plant("no loss_weight", r"  loss_weight: 2\n", "", "loss"),
    Plant("no loss_weight", r"  loss_weight: 1\n", "", "loss", loss="hinge"),
    Plant("loss_weight 1", "loss_weight: 2", "loss_weight: 1", "gradient"),
    Plant("no Power shift", " shift: 1e-36", "", "gradient"),
    Plant("no Power shift", " shift: 1e-36", "", "gradient", loss="hinge"),
    Plant("a large Power shift", "shift: 1e-36", "shift: 1e-06", "loss"),
    Plant("squared instead of root", "power: 0.5 ", "", "loss"),
    Plant("root instead of squared", "operation: SUMSQ", "operation: ASUM", "loss", norm="l2-squared"),
    Plant("sum over the batch too", "axis: 1 }", "axis: 0 }", "runs"),
    Plant("no force_backward", "^force_backward: true\n", "", "gradient"),
    Plant("label of the positive", "scale: 0 shift: 1", "scale: 0 shift: 0", "loss", loss="softmax-nll"),
    Plant("label with gradient", "(  propagate_.*\n)+", "", "siamese: trains", loss="softmax-nll", suffix=SIAMESE),
    Plant("margin left out", "shift: 0.2", "shift: 0", "loss", loss="hinge"),
    Plant("no ReLU", "ReLU", "AbsVal", "loss", loss="hinge"),
    Plant("sum instead of mean", "operation: MEAN", "operation: SUM", "mean over the batch", loss="hinge"),
    Plant("normalized by the squared length", "power: -0.5", "power: -1", "loss", normalize=True),
    Plant("length of another", '"inverse_length_x_pos"$', '"inverse_length_x"', "runs", normalize=True, count=0),
    Plant("no shift of the length", " shift: 1e-12", "", "gradient", normalize=True, count=0),
    Plant("a large shift of the length", "shift: 1e-12", "shift: 1e-06", "loss", normalize=True),
    Plant("not normalized", 'bottom: "unit_x_pos"', 'bottom: "x_pos"', "loss", normalize=True),
    Plant("sum of magnitudes as length", "operation: SUMSQ", "operation: ASUM", "loss", normalize=True),
    Plant("loss_weight 1", "loss_weight: 2", "loss_weight: 1", "gradient", normalize=True),
    Plant("loss_weight 1", "loss_weight: 2", "loss_weight: 1", "siamese: begins", suffix=SIAMESE),
    Plant("not normalized", 'bottom: "unit_x"', 'bottom: "x"', "siamese: begins", normalize=True, suffix=SIAMESE),
    Plant("own weights", '(?s)("conv2_neg".*?)conv2_filters', r"\1own", "siamese: unequal weights", suffix=SIAMESE),
    Plant("rates of its own", "lr_mult: 1", "lr_mult: 3", "siamese: trains", suffix=SIAMESE),
    Plant("weights that stay", 's" lr_mult: 1', 's" lr_mult: 0', "siamese: blobs that stay", suffix=SIAMESE, count=0),
    Plant("another rate", 'biases" lr_mult: 2', 'biases" lr_mult: 9', "siamese: first step", suffix=SIAMESE, count=0),
]  # fmt: skip


@needs_caffe
@pytest.mark.parametrize(
    "plant", PLANTS, ids=lambda plant: f"{plant.name}, {plant.loss}{', normalized' * plant.normalize}"
)
def test_an_error_in_the_net_is_seen(plant: Plant) -> None:
    report = verify(plant.into(made(plant.norm, plant.loss, plant.normalize)))
    assert plant.seen_by in {check.name for check in report.failures}, str(report)
    assert str(report).endswith("verification FAILED")


# ---------------------------------------------------------------- what the comments say


def at_distance(d: float, dtype: str) -> Batch:
    """Two triplets whose positive is so far from the anchor, and whose negative is at 2."""
    x = np.zeros((2, 3), dtype)
    return [x, x + np.array([d, 0, 0], dtype), x + np.array([0, 2, 0], dtype)]


@pytest.mark.parametrize(("factor", "is_right"), [(1.0, True), (1 + 1e-9, False)])
def test_normalized_embeddings_are_judged_in_units_of_what_makes_them_shorter(factor: float, is_right: bool) -> None:
    product = generate(differentiate("l2", "softmax-mse", normalize=True), "numpy")
    compute, values = numpy_runner(load(product)), {"temperature": 1.0}

    class Net:
        def run(self, batch: Batch, rows: int) -> tuple[Any, Batch]:
            losses, gradients = compute(*batch, values)
            return losses * factor, [gradient * factor for gradient in gradients]

    (regime,) = (r for r in regimes(product.objective, "float64", values) if r.name == "ordinary, n = 7")
    checks = composed._against_reference(
        product.objective, cast(NetRunner, Net()), regime, made(normalize=True).facts["layers"], "float64", "float64"
    )
    assert {check.name: check.passed for check in checks} == {"loss": is_right, "gradient": is_right}


@needs_caffe
@pytest.mark.parametrize(("dtype", "seen"), [("float32", 3e-15), ("float64", 7e-11)])
def test_the_shift_is_seen_where_the_header_says(dtype: str, seen: float) -> None:
    text = made("l2", "hinge", parameters={"margin": 4.0}).files[0].text
    assert f"below {seen:.0e} in" in text.replace("\n#     ", " ")

    def slope(d: float) -> float:
        """The length of dL/dx_pos, exactly 1 away from 0."""
        return float(np.linalg.norm(runner(text).run(at_distance(d, dtype), 1)[1][1][0].astype(np.float64)))

    eps = float(np.finfo(dtype).eps)
    assert abs(slope(seen) - 1) <= 4 * eps
    assert 1 - slope(seen / 10) > 4 * eps
    assert 0.6 < slope(1e-18) < 0.8
    assert slope(0.0) == 0


def of_length(r: float, dtype: str) -> Batch:
    """One triplet whose anchor is so long; the loss and its gradient change with the directions."""
    return [r * np.array([[0.6, 0.8, 0]], dtype), np.array([[0, 1, 0]], dtype), np.array([[0, 0, 1]], dtype)]


@needs_caffe
def test_a_unit_vector_is_shorter_than_1_by_what_the_header_says() -> None:
    text = made("l2-squared", "hinge", normalize=True, parameters={"margin": 4.0}).files[0].text
    assert "its unit vector is shorter than 1 by 5e-13/r^2" in text
    right, opposite = np.array([[0, 0, 1.0]]), np.array([[-0.6, -0.8, 0]])
    for r in (1e-3, 1e-2):
        (loss,), _ = runner(text).run([of_length(r, "float64")[0], right, opposite], 1)
        shorter = 5e-13 / r**2
        # squared distances: 1 + 1 at a right angle, and of opposites (1 + 1)^2
        expected = 4 + (1 + (1 - shorter) ** 2) - (1 + (1 - shorter)) ** 2
        assert loss == pytest.approx(expected, abs=0.01 * shorter)


@needs_caffe
@pytest.mark.parametrize(("dtype", "longest"), [("float32", 4e12), ("float64", 3e102)])
def test_gradients_of_normalized_embeddings_are_orthogonal_up_to_where_the_header_says(
    dtype: str, longest: float
) -> None:
    text = made("l2", "hinge", normalize=True, parameters={"margin": 4.0}).files[0].text
    assert f"{longest:.0e}".replace("+", "") in text

    def along(r: float) -> float:
        """The part of the anchor's gradient along it, of its whole."""
        batch = of_length(r, dtype)
        gradient = runner(text).run(batch, 1)[1][0][0].astype(np.float64)
        return abs(float(gradient @ [0.6, 0.8, 0])) / float(np.linalg.norm(gradient))

    assert along(longest) <= 16 * float(np.finfo(dtype).eps)
    assert along(1e6 * longest) > 0.1


@needs_caffe
def test_what_comes_down_to_zeros_is_multiplied_by_what_the_header_says() -> None:
    text = made("l2-squared", "hinge", normalize=True, parameters={"margin": 4.0}).files[0].text
    assert "it is multiplied by 1e+06" in text
    _, gradients = runner(text).run(of_length(0.0, "float64"), 1)
    np.testing.assert_allclose(gradients[0], [[0, -2e6, 2e6]], rtol=1e-6)


@needs_caffe
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shift", ["1e-12", "1e-30", "1e-36", "0"])
def test_every_shift_but_none_gives_finite_gradients_and_the_least_is_the_most_accurate(dtype: str, shift: str) -> None:
    text = made("l2", "hinge", parameters={"margin": 4.0}).files[0].text.replace("shift: 1e-36", f"shift: {shift}")
    losses, gradients = runner(text).run(at_distance(0.0, dtype), 2)
    assert np.all(np.isfinite(gradients)) == (shift != "0")
    if float(shift):
        assert abs(losses[0] - (4 - 2)) <= 2 * float(shift) ** 0.5 + 4 * np.finfo(dtype).eps


@needs_caffe
def test_a_loss_of_a_softmax_stops_where_its_comment_says() -> None:
    text = made("l2", "softmax-nll").files[0].text
    (said,) = re.findall(r"no loss is more than ([\d.]+)", text)
    for dtype in DTYPES:
        x = np.zeros((1, 1), dtype)
        losses, gradients = runner(text).run([x, x + 1000, x], 1)
        assert losses[0] == pytest.approx(float(said), abs=0.005)
        assert gradients[1][0] == pytest.approx(1)


SHOW_BLOBS = """
import json, sys
import caffe
net = caffe.Net(sys.argv[1], caffe.TRAIN)
print(json.dumps({name: blob.data.shape for name, blob in net.blobs.items()}))
"""


@needs_caffe
@objectives
def test_the_memory_is_what_the_header_says(norm: str, loss: str, normalize: bool, tmp_path: Path) -> None:
    caffe = build.find()
    assert caffe is not None
    text = made(norm, loss, normalize).files[0].text
    (tmp_path / "net.prototxt").write_text(text)
    command = [sys.executable, "-c", SHOW_BLOBS, "net.prototxt"]
    done = subprocess.run(command, cwd=tmp_path, env=caffe.environment, capture_output=True, text=True, check=True)
    blobs = [name for name, shape in json.loads(done.stdout).items() if len(shape) > 1 and shape[1] > 2]
    (own, copies) = re.findall(r"(\d+) (?:blobs as large|gradients more)", text)
    assert len(blobs) == 3 + int(own) + int(copies)
    assert sum("_split_" in name for name in blobs) == int(copies)


# ---------------------------------------------------------------- in training


@needs_caffe
def test_the_composed_and_the_fused_net_train_alike(tmp_path: Path) -> None:
    """A hundred steps of SGD from the same weights on the same batch."""
    caffe = build.find()
    assert caffe is not None
    for norm, loss, normalize in TRAINED:
        folder = tmp_path / f"{norm} {loss} {normalize}"
        folder.mkdir()
        fused = generate(differentiate(norm, loss, normalize=normalize), "caffe")
        layer.write(fused, folder)
        library = layer.compiled(caffe, fused, folder)
        siamese = made(norm, loss, normalize).text(SIAMESE)
        towers = siamese[: siamese.index("# ---------------------------------------------------------------- the loss")]
        inputs = " ".join(f'bottom: "{name}"' for name in ("x", "x_pos", "x_neg"))
        own = f'layer {{ name: "loss" type: "{layer_type(fused.objective)}" {inputs} top: "loss" loss_weight: 1 }}'
        curves = [
            composed.trained(caffe, text, steps=100, rate=0.02, libraries=libraries)["losses"]
            for text, libraries in ((siamese, ()), (towers + own, (library,)))
        ]
        # of one normalized net, training magnifies rounding to 3e-4: so it does a change of the rate by 1e-7
        np.testing.assert_allclose(curves[0], curves[1], rtol=1e-3 if fused.objective.of_units else 1e-4, atol=1e-6)
        assert curves[1][-1] < 0.5 * curves[1][0]


# ---------------------------------------------------------------- without Caffe


def test_without_caffe_it_says_rendered_and_how_to_get_more(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(build.ROOT_VARIABLE, raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    report = verify(made())
    assert (report.level, report.checks) == ("rendered", ())
    assert build.COMMAND in report.notes[0]
    assert build.ROOT_VARIABLE in report.notes[0]


@needs_caffe
def test_without_pycaffe_a_note_says_that_nothing_was_trained(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "__name__", "derive_triplet.derive.verify.caffe.nowhere")
    assert "siamese: trains" in {check.name for check in verify(made()).failures}
    monkeypatch.undo()
    caffe = build.find()
    assert caffe is not None
    monkeypatch.setattr(composed, "find", lambda: replace(caffe, python=Path("nowhere")))
    report = verify(made())
    assert report.passed
    assert report.notes == (
        "The siamese net was not trained (No module named 'caffe'): pip install 'derive-triplet[caffe]'",
    )
