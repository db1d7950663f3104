"""Trains a siamese net in pycaffe, and prints what became of it as JSON.

    python -m derive_triplet.derive.verify.caffe.train NET STEPS RATE BRIGHTNESS [LIBRARY...]

NET is a file, and each LIBRARY holds layers that Caffe does not have. One of the STEPS of SGD, at the RATE 0.01, would
lower a linear loss by a hundredth. BRIGHTNESS is the largest value of an image, but for noise.
"""

from __future__ import annotations

import ctypes
import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

NO_PYCAFFE = 3
"""The exit status where pycaffe, or what it needs, is not installed."""

ENDS = ("", "_pos", "_neg")
"""How the names of the layers of each tower end."""

_SOLVER = """
net: "{net}"
base_lr: {rate!r}
lr_policy: "fixed"
random_seed: 1
snapshot_after_train: false
solver_mode: CPU
"""


def train(path: str, steps: int, rate: float, brightness: float, libraries: Iterable[str] = ()) -> dict[str, Any]:
    """Fit one batch of triplets of ten noisy images.

    losses: before each step and after the last. embeddings: x, x_pos and x_neg before the first, of which the net takes
    the first loss. predicted: by how much the first step lowers a linear loss.
    unequal: numbers in which the weights of two towers differ. unmoved: blobs of weights that are as they were; biases
    do not count, because no distance between two embeddings depends on what is added to both if none is normalized.
    """
    import caffe

    for library in libraries:
        ctypes.CDLL(library, mode=ctypes.RTLD_GLOBAL)
    loss, slope = _begin(caffe, path, 0.0, brightness)[1:]
    solver, _, _ = _begin(caffe, path, rate * loss / slope, brightness)
    towers = [_weights(solver.net, end) for end in ENDS]
    begun = [blob.data.copy() for blob in towers[0]]
    _loss(solver.net)
    embeddings = [solver.net.blobs[f"x{end}"].data.tolist() for end in ENDS]
    losses = []
    for _ in range(steps):
        losses.append(_loss(solver.net))
        solver.step(1)
    losses.append(_loss(solver.net))
    pairs = [pair for tower in towers[1:] for pair in zip(towers[0], tower, strict=True)]
    return {
        "losses": losses,
        "embeddings": embeddings,
        "predicted": rate * loss,
        "unequal": sum(int(np.sum(blob.data != other.data)) for blob, other in pairs),
        "unmoved": sum(
            before.ndim > 1 and bool(np.array_equal(blob.data, before))
            for blob, before in zip(towers[0], begun, strict=True)
        ),
    }


def _begin(caffe: Any, path: str, rate: float, brightness: float) -> tuple[Any, float, float]:
    """A solver with its net filled, for a learning rate; the loss, and by how much it falls per unit of the rate."""
    Path("solver.prototxt").write_text(_SOLVER.format(net=path, rate=rate), encoding="utf-8")
    solver = caffe.SGDSolver("solver.prototxt")
    _fill(solver.net, brightness)
    loss = _loss(solver.net)
    solver.net.clear_param_diffs()
    solver.net.backward()
    # biases learn twice as fast as other weights
    slope = sum(
        factor * float(np.sum(np.square(blob.diff, dtype=np.float64)))
        for blobs in (solver.net.params[name] for name in _names(solver.net, ""))
        for blob, factor in zip(blobs, (1, 2), strict=True)
    )
    return solver, loss, slope


def _loss(net: Any) -> float:
    """The weighted loss of the batch that a net is filled with."""
    net.forward()
    return float(net.blobs["loss"].data) * float(net.blob_loss_weights["loss"])


def _weights(net: Any, end: str) -> list[Any]:
    """The blobs of weights of one tower."""
    return [blob for name in _names(net, end) for blob in net.params[name]]


def _names(net: Any, end: str) -> list[str]:
    """The layers with weights in one tower."""
    others = tuple(other for other in ENDS if other and other != end)
    return [name for name in net.params if name.endswith(end) and not name.endswith(others)]


def _fill(net: Any, brightness: float) -> None:
    """Anchors and positives show the same of ten images, negatives another."""
    random = np.random.Generator(np.random.PCG64(0))
    shape = net.blobs["anchor"].data.shape
    images = random.uniform(0, 1, (10, *shape[1:]))
    own = random.integers(0, 10, shape[0])
    other = (own + random.integers(1, 10, shape[0])) % 10
    for name, shown in (("anchor", own), ("positive", own), ("negative", other)):
        net.blobs[name].data[...] = brightness * (images[shown] + random.normal(0, 0.3, shape))


if __name__ == "__main__":
    try:
        print(json.dumps(train(sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), float(sys.argv[4]), sys.argv[5:])))
    except ImportError as error:
        print(error, file=sys.stderr)
        sys.exit(NO_PYCAFFE)
