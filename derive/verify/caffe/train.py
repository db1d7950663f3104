"""Trains a siamese net for some steps, in pycaffe: ``python -m ...train NET`` prints what became of it, as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np

NO_PYCAFFE = 3
"""The exit status where pycaffe, or what it needs, is not installed."""

STEPS = 30
ENDS = ("", "_pos", "_neg")
"""How the names of the layers of each tower end."""

_SOLVER = """
net: "{net}"
type: "SGD"
base_lr: 0.01
momentum: 0.9
lr_policy: "fixed"
random_seed: 1
snapshot_after_train: false
solver_mode: CPU
"""


def train(path: str) -> dict[str, Any]:
    """Fit one batch of triplets of ten noisy images.

    unequal: numbers in which the weights of two towers differ. unmoved: blobs of weights that are as they were.
    first, last: the loss.
    """
    import caffe

    Path("solver.prototxt").write_text(_SOLVER.format(net=path), encoding="utf-8")
    solver = caffe.SGDSolver("solver.prototxt")
    net = solver.net
    towers = [[blob for name in net.params if name in _names(net, end) for blob in net.params[name]] for end in ENDS]
    begun = [blob.data.copy() for blob in towers[0]]
    _fill(net)
    losses = []
    for _ in range(STEPS):
        solver.step(1)
        losses.append(float(net.blobs["loss"].data))
    unequal = sum(
        int(np.sum(blob.data != other.data))
        for tower in towers[1:]
        for blob, other in zip(towers[0], tower, strict=True)
    )
    unmoved = sum(bool(np.array_equal(blob.data, before)) for blob, before in zip(towers[0], begun, strict=True))
    return {"unequal": unequal, "unmoved": unmoved, "first": losses[0], "last": losses[-1]}


def _names(net: Any, end: str) -> list[str]:
    """The layers with weights in one tower."""
    others = tuple(other for other in ENDS if other and other != end)
    return [name for name in net.params if name.endswith(end) and not name.endswith(others)]


def _fill(net: Any) -> None:
    """Anchors and positives show the same of ten images, negatives another."""
    random = np.random.Generator(np.random.PCG64(0))
    shape = net.blobs["anchor"].data.shape
    images = random.uniform(0, 1, (10, *shape[1:]))
    own = random.integers(0, 10, shape[0])
    other = (own + random.integers(1, 10, shape[0])) % 10
    for name, shown in (("anchor", own), ("positive", own), ("negative", other)):
        net.blobs[name].data[...] = images[shown] + random.normal(0, 0.3, shape)


if __name__ == "__main__":
    try:
        print(json.dumps(train(sys.argv[1])))
    except ImportError as error:
        print(error, file=sys.stderr)
        sys.exit(NO_PYCAFFE)
