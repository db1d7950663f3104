"""Verification of composed nets: their text, run in real Caffe, and the siamese one trained.

A net has the accuracy of Caffe's layers. Where one of them saturates, its results still have the rounding of 1, so
errors are judged at the scale of the exact result plus that of a loss or slope of 1; where none does, as those of any
code. Where the shift of Power is not small beside the squares, or where several components are the largest, gradients
need only be finite. Embeddings that are normalized are shortened by it, which is granted as rounding is, in every
component.
"""

from __future__ import annotations

import json
import math
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ...catalogue import Objective
from ...compose import INVERSE_SHIFT, SHIFT
from ...layers import Layer, constants
from ...targets.base import Product
from ..checks import BOUND, EMBEDDINGS, cached_reference, magnification, ulps
from ..reference import Exact
from ..regimes import Array, Regime, has_ties, regimes
from ..report import Check, Report
from . import train
from .build import COMMAND, ROOT_VARIABLE, Caffe, find
from .layer import CaffeError, complaint, run_net

_MORE = (
    f"'{COMMAND}' builds Caffe in about a minute, and {ROOT_VARIABLE} names one that is there: then the nets are run"
)

_CEILINGS = {"SoftmaxWithLoss": -math.log(float(np.finfo("float32").tiny))}
"""Type of a layer -> the largest loss that it gives for a row."""

_SATURATING = {"Softmax", "SoftmaxWithLoss", "Sigmoid", "BNLL", "Exp", "Log"}
"""Types of layers whose results may be close to a constant, and rounded like it."""

_MORE_ROUNDING = 64.0  # ulp; planted errors are off by factors


def verify_composed(product: Product) -> Report:
    """Run the nets of a product, if there is a Caffe, in single and in double precision."""
    caffe = find()
    if caffe is None:
        return Report(product.target, "rendered", notes=(_MORE,))
    checks: list[Check] = []
    for dtype in product.settings.dtypes:
        try:
            with np.errstate(all="ignore"):
                checks += _checks_of_type(caffe, product, dtype)
        except CaffeError as error:
            checks.append(Check.finding("runs", "all", dtype, str(error)))
    siamese, notes = _trained(caffe, product)
    if not _are_exact(product.facts["layers"]):
        notes += ("Caffe rounds the constants of a net to single precision, so float64 is judged in ulp of float32.",)
    compared = [(dtype, _compared(product.objective, regime)) for dtype, regime in _regimes(product)]
    degree = _degree(product.facts["layers"])
    if left_out := [f"{regime.name} in {dtype}" for dtype, regime in compared if _overflows(regime, degree)]:
        notes += (f"A net overflows there, and was not run: {', '.join(left_out)}.",)
    return Report(product.target, "run (Caffe)", (*checks, *siamese), notes)


def _regimes(product: Product, dtypes: Sequence[str] = ()) -> Iterator[tuple[str, Regime]]:
    """With each float type, the regimes of the product's own parameters: the constants of a net are in its text."""
    values = product.settings.values(product.objective)
    for dtype in dtypes or product.settings.dtypes:
        of_type = regimes(product.objective, dtype, values)
        yield from ((dtype, regime) for regime in of_type if regime.parameters == values)


def _divisors(objective: Objective, regime: Regime) -> Array:
    """By what each embedding is divided, shape (3, rows): its length, or 1 if it is taken as it is."""
    embeddings = np.asarray(regime.embeddings, np.float64)
    return np.linalg.norm(embeddings, axis=2) if objective.of_units else np.ones(embeddings.shape[:2])


def _compared(objective: Objective, regime: Regime) -> Regime:
    """The vectors that the distances are taken of."""
    divisors = _divisors(objective, regime)
    vectors = np.asarray(regime.embeddings) / np.where(divisors > 0, divisors, 1)[..., None]
    x, x_pos, x_neg = vectors.astype(regime.x.dtype)
    return replace(regime, x=x, x_pos=x_pos, x_neg=x_neg)


def _degree(layers: Sequence[Layer]) -> float:
    """The largest power that a net raises components to; it squares them at least."""
    powers = [
        message["power"]
        for layer in layers
        for message in layer.parameters.values()
        if isinstance(message, Mapping) and "power" in message
    ]
    return max(map(float, [2, *powers]))


def _overflows(regime: Regime, degree: float) -> bool:
    """Whether such a power of a distance does, or one over a small parameter."""
    with np.errstate(over="ignore"):
        raised = [np.abs(2.0 * embedding) ** regime.x.dtype.type(degree) for embedding in regime.embeddings]
        longest = max(np.max(np.sum(power, axis=1)) for power in raised)
    divisor = min([1.0, *(value for value in regime.parameters.values() if value > 0)])
    return bool(2 * longest > divisor * np.finfo(regime.x.dtype).max)


@dataclass(frozen=True)
class NetRunner:
    """Runs the text of a net, whose inputs it shapes for a batch."""

    caffe: Caffe
    text: str

    def run(self, batch: Sequence[Array], *shape: int) -> tuple[Array, list[Array]]:
        """As `run_net`; `shape` begins with the number of rows, and the rest is that of a row if it is not flat."""
        dims = " ".join(f"dim: {size}" for size in (shape if len(shape) > 1 else (*shape, batch[0].shape[1])))
        shaped = re.sub(r"input_param \{.*\}", f"input_param {{ shape {{ {dims} }} }}", self.text)
        return run_net(self.caffe, shaped, batch)


def _checks_of_type(caffe: Caffe, product: Product, dtype: str) -> Iterator[Check]:
    objective, layers = product.objective, product.facts["layers"]
    judged = dtype if _are_exact(layers) else "float32"
    runner = NetRunner(caffe, product.files[0].text)
    for _, regime in _regimes(product, [dtype]):
        compared = _compared(objective, regime)
        if _overflows(compared, _degree(layers)):
            continue
        beyond = _is_below_shift(compared, layers) or _is_out_of_reach(_divisors(objective, regime), dtype)
        if beyond or has_ties(objective, regime):  # of which Pooling takes the first
            yield _finite("gradient", regime.name, dtype, runner.run(regime.embeddings, 1)[1])
        else:
            yield from _against_reference(objective, runner, regime, layers, dtype, judged)
        if regime.name == "ordinary, n = 7":
            yield _mean(runner, regime, dtype)
            if objective.of_units:
                yield from _without_direction(runner, regime, dtype)
    yield _images(runner, dtype)


def _are_exact(layers: Sequence[Layer]) -> bool:
    """Whether single precision holds the constants of a net; otherwise it is no more accurate than that."""
    return all(float(np.float32(value)) == value for value in constants(layers) - {SHIFT, INVERSE_SHIFT})


def _is_below_shift(regime: Regime, layers: Sequence[Layer]) -> bool:
    """Whether what is added before a root is seen beside the squares of some row."""
    if SHIFT not in constants(layers):
        return False
    pairs = [np.abs(np.asarray(other - regime.x, np.float64)) for other in (regime.x_pos, regime.x_neg)]
    degree = _degree(layers)
    return any(np.any((np.sum(u, axis=1) > 0) & (np.sum(u**degree, axis=1) < 1e16 * SHIFT)) for u in pairs)


def _is_out_of_reach(lengths: Array, dtype: str) -> bool:
    """Whether what is added to a squared length is not small beside it, or 1/length^3 underflows."""
    longest = float(np.finfo(dtype).tiny) ** (-1 / 3)
    return bool(np.any(np.square(lengths) < 1e4 * INVERSE_SHIFT) or np.any(lengths > longest))


def _without_direction(runner: NetRunner, regime: Regime, dtype: str) -> Iterator[Check]:
    """An embedding of zeros cannot be normalized, and gets a gradient without NaN all the same."""
    for name in EMBEDDINGS:
        batch = [embedding * (other != name) for other, embedding in zip(EMBEDDINGS, regime.embeddings, strict=True)]
        yield _finite("gradient", f"{name} = 0", dtype, runner.run(batch, len(regime.x))[1])


def _finite(name: str, regime: str, dtype: str, gradients: Sequence[Array]) -> Check:
    return Check(name, regime, dtype, int(np.sum(~np.isfinite(gradients))), 0, unit="not finite")


def _against_reference(
    objective: Objective, runner: NetRunner, regime: Regime, layers: Sequence[Layer], dtype: str, judged: str
) -> Iterator[Check]:
    """The largest errors of the losses and gradients of the rows of a batch, run one by one.

    In units of the last place, which are larger where the shift makes normalized embeddings shorter than rounding does.
    """
    losses, gradients = runner.run(regime.embeddings, 1)
    coarse = _coarseness(objective, layers, judged)
    steepest, divisors = magnification(_compared(objective, regime)), _divisors(objective, regime)
    worst = {"loss": 0.0, "gradient": 0.0}
    for row, loss in enumerate(losses):
        exact = cached_reference(objective, regime, row)
        wanted = replace(exact.loss, value=[min(*exact.loss.value, _ceiling(layers))])
        shorter = objective.of_units * INVERSE_SHIFT / (2 * float(np.min(divisors[:, row])) ** 2)
        unit = 1 + shorter / float(np.finfo(judged).eps)
        at = _also_at(coarse, wanted, unit)
        errors = {"loss": ulps([loss], at, judged, range_of=dtype), "gradient": list[float]()}
        for name, gradient, divisor in zip(EMBEDDINGS, gradients, divisors[:, row], strict=True):
            slope = steepest / float(divisor)
            at = _also_at(coarse * slope, exact.gradients[name], unit)
            errors["gradient"] += ulps(gradient[row], at, judged, max(1, slope), range_of=dtype)
        worst = {what: float(np.max([worst[what], *errors[what]])) for what in worst}  # NaN is the largest
    for what, error in worst.items():
        yield Check(what, regime.name, dtype, error, BOUND)


def _ceiling(layers: Sequence[Layer]) -> float:
    """The largest loss of a row."""
    return min((_CEILINGS[layer.type] for layer in layers if layer.type in _CEILINGS), default=math.inf)


def _coarseness(objective: Objective, layers: Sequence[Layer], judged: str) -> float:
    """At what scale a loss or slope of 0 is rounded.

    1 if a layer saturates, or if unit vectors are compared: equal ones differ by rounding. A root of 0 is 1e-18, by
    what is added to it.
    """
    at_one = objective.of_units or any(layer.type in _SATURATING for layer in layers)
    shifted = SHIFT in constants(layers)
    return at_one + shifted * math.sqrt(SHIFT) / float(np.finfo(judged).eps)


def _also_at(size: float, exact: Exact, unit: float) -> Exact:
    """With errors judged at the scale of `size` as well, and in units so many times as large."""
    return replace(exact, scale=[unit * (scale + size) for scale in exact.scale])


def _mean(runner: NetRunner, regime: Regime, dtype: str) -> Check:
    """A batch has the mean of the losses of its rows, and gradients divided by their number."""
    rows = len(regime.x)
    losses, alone = runner.run(regime.embeddings, 1)
    (mean,), together = runner.run(regime.embeddings, rows)
    wanted, steepest = np.mean(losses, dtype=np.float64), np.max(np.abs(alone))
    errors = abs(mean - wanted) / max(wanted, 1), np.max(np.abs(np.multiply(rows, together) - alone)) / max(steepest, 1)
    return Check("mean over the batch", regime.name, dtype, float(np.max(errors) / np.finfo(dtype).eps), _MORE_ROUNDING)


def _images(runner: NetRunner, dtype: str) -> Check:
    """Embeddings of shape (N, C, H, W) give what they give as vectors, bit for bit."""
    shape = (3, 2, 3, 2)
    random = np.random.Generator(np.random.PCG64(0))
    batch = [random.uniform(-1, 1, (shape[0], math.prod(shape[1:]))).astype(dtype) for _ in EMBEDDINGS]
    flat, images = (runner.run(batch, *of) for of in (shape[:1], shape))
    differ = sum(int(np.sum(~(a == b))) for a, b in zip((flat[0], *flat[1]), (images[0], *images[1]), strict=True))
    return Check("shape (N, C, H, W)", "bit for bit", dtype, differ, 0, unit="numbers")


# ---------------------------------------------------------------- training


def _trained(caffe: Caffe, product: Product) -> tuple[list[Check], tuple[str, ...]]:
    """Some steps of SGD: the towers keep the same weights, all of which move, and the loss falls; else why not.

    The first step is small: the loss has to fall as its gradient in all the weights says.
    """
    unit = min([1.0, *(v for v in product.settings.values(product.objective).values() if v > 0)])
    try:
        outcome = trained(caffe, product.text("_siamese.prototxt"), brightness=math.sqrt(unit))
    except CaffeError as error:
        return [Check.finding("siamese: trains", "SGD", "", str(error))], ()
    except ImportError as error:
        return [], (f"The siamese net was not trained ({error}): pip install 'derive-triplet[caffe]'",)
    before, after, *_, last = outcome["losses"]
    missed = abs(1 - (before - after) / outcome["predicted"])
    return [
        _begun(NetRunner(caffe, product.files[0].text), outcome["embeddings"], before),
        Check("siamese: unequal weights", "SGD", "float32", outcome["unequal"], 0, unit="numbers"),
        Check("siamese: blobs that stay", "SGD", "float32", outcome["unmoved"], 0, unit="blobs"),
        Check("siamese: first step", "SGD", "float32", missed, 0.02, unit="of its gradient"),
        Check("siamese: loss", "SGD", "float32", last / before, 0.998, unit="of the first"),
    ], ()


def _begun(runner: NetRunner, embeddings: Sequence[Any], loss: float) -> Check:
    """The siamese net ends in the other one, which has the same loss of the embeddings that it begins with."""
    batch = [np.array(embedding, "float32") for embedding in embeddings]
    try:
        (alone,), _ = runner.run(batch, len(batch[0]))
    except CaffeError as error:
        return Check.finding("siamese: begins", "SGD", "float32", str(error))
    apart = abs(loss - float(alone)) / max(loss, 1)
    return Check("siamese: begins", "SGD", "float32", apart / float(np.finfo("float32").eps), _MORE_ROUNDING)


def trained(
    caffe: Caffe,
    text: str,
    *,
    steps: int = 5,
    rate: float = 1e-3,
    brightness: float = 1.0,
    libraries: Sequence[Path] = (),
) -> dict[str, Any]:
    """What `train.train` says of a net, in a process of its own.

    Raises `CaffeError` for what Caffe refuses, and `ImportError` where pycaffe cannot be imported.
    """
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "net.prototxt").write_text(text, encoding="utf-8")
        arguments = ("net.prototxt", steps, rate, brightness, *libraries)
        command = [sys.executable, "-m", train.__name__, *map(str, arguments)]
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=caffe.environment, check=False)
    if done.returncode == train.NO_PYCAFFE:
        raise ImportError(done.stderr.strip())
    if done.returncode:
        raise CaffeError(complaint(done.stderr))
    outcome: dict[str, Any] = json.loads(done.stdout)
    return outcome
