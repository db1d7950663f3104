"""Learn to tell handwritten digits apart in real Caffe, with the loss composed of its layers and with the fused layer.

    pip install 'derive-triplet[caffe]' scikit-learn
    python -m derive_triplet.derive.verify.caffe    # builds Caffe, unless CAFFE_ROOT names one
    python examples/digits.py [--loss softmax-mse] [--norm l2] [--seeds 5] [--steps 600]

The 1797 digits of 8 x 8 pixels come with scikit-learn; a third, of another choice for each seed, is kept for the test.
The generated siamese net is trained on triplets of the others as it is, and with its loss replaced by the fused layer,
from the same weights on the same triplets. A test digit gets the label of the nearest training digit: by its pixels,
or by its embedding; once with all of these known, once with ten of each digit. Prints a Markdown table.
"""

from __future__ import annotations

import ctypes
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import click
import numpy as np
from sklearn.datasets import load_digits

from derive_triplet import differentiate, generate
from derive_triplet.derive.targets.caffe import layer_type
from derive_triplet.derive.verify.caffe.build import Caffe, find
from derive_triplet.derive.verify.caffe.layer import compiled, write

Array = np.ndarray[Any, Any]

_SOLVER = """
net: "{net}"
base_lr: 0.1
momentum: 0.9
lr_policy: "poly"
power: 1
max_iter: {steps}
random_seed: {seed}
snapshot_after_train: false
solver_mode: CPU
"""
_LOSS = "# ---------------------------------------------------------------- the loss"
_BATCH = 64


@dataclass(frozen=True)
class Split:
    """Images of shape (rows, 1, 8, 8) between 0 and 1 and their labels, to learn from and to test with."""

    images: Array
    labels: Array
    test_images: Array
    test_labels: Array


@dataclass(frozen=True)
class Outcome:
    """The loss before each step, and the parts of the test digits that got their own label."""

    losses: Array
    accuracies: tuple[float, float]


def split(seed: int) -> Split:
    """Two thirds of the digits to learn from, and the others."""
    digits = load_digits()
    images, labels = (digits.images / 16).astype(np.float32)[:, None], digits.target
    order = np.random.default_rng(seed).permutation(len(images))
    test, own = np.split(order, [len(order) // 3])
    return Split(images[own], labels[own], images[test], labels[test])


def triplets(data: Split, seed: int, steps: int) -> Iterator[tuple[Array, Array, Array]]:
    """Batches of an anchor, another of its digit, and one of another digit, each moved by up to a pixel."""
    random = np.random.default_rng(seed)
    of = [np.flatnonzero(data.labels == digit) for digit in range(10)]
    padded = np.pad(data.images, ((0, 0), (0, 0), (1, 1), (1, 1)))

    def shown(row: int) -> Array:
        down, right = random.integers(0, 3, 2)
        moved: Array = padded[row, :, down : down + 8, right : right + 8]
        return moved

    for _ in range(steps):
        own = random.integers(0, 10, _BATCH)
        other = (own + random.integers(1, 10, _BATCH)) % 10
        rows = [[random.choice(of[digit]) for digit in digits] for digits in (own, own, other)]
        anchor, positive, negative = (np.array([shown(row) for row in chosen]) for chosen in rows)
        yield anchor, positive, negative


def accuracies(known: Array, asked: Array, data: Split) -> tuple[float, float]:
    """How many of the asked have the label of the nearest known row: of all of these, and of ten of each digit."""
    known, asked = (rows.reshape(len(rows), -1).astype(np.float64) for rows in (known, asked))
    squares = np.sum(asked**2, axis=1)[:, None] - 2 * asked @ known.T + np.sum(known**2, axis=1)
    few = np.concatenate([np.flatnonzero(data.labels == digit)[:10] for digit in range(10)])

    def accuracy(chosen: Array) -> float:
        found = data.labels[chosen][np.argmin(squares[:, chosen], axis=1)]
        return float(np.mean(found == data.test_labels))

    return accuracy(np.arange(len(known))), accuracy(few)


def trained(caffe: Any, net: str, data: Split, seed: int, steps: int) -> Outcome:
    """A net, trained, and what its first tower is worth."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "net.prototxt").write_text(net, encoding="utf-8")
        solver_text = _SOLVER.format(net=folder / "net.prototxt", steps=steps, seed=seed + 1)
        (folder / "solver.prototxt").write_text(solver_text, encoding="utf-8")
        solver = caffe.SGDSolver(str(folder / "solver.prototxt"))
    blobs, losses = solver.net.blobs, []
    weight = float(solver.net.blob_loss_weights["loss"])
    for batch in triplets(data, seed, steps):
        for blob, images in zip(("anchor", "positive", "negative"), batch, strict=True):
            blobs[blob].data[...] = images
        solver.step(1)
        losses.append(weight * float(blobs["loss"].data))

    def embedded(images: Array) -> Array:
        found = []
        for at in range(0, len(images), _BATCH):
            part = images[at : at + _BATCH]
            blobs["anchor"].data[: len(part)] = part
            solver.net.forward()
            found.append(blobs["x"].data[: len(part)].copy())
        return np.concatenate(found)

    found = accuracies(embedded(data.images), embedded(data.test_images), data)
    return Outcome(np.array(losses), found)


def nets(caffe: Caffe, norm: str, loss: str, folder: Path) -> tuple[str, str]:
    """The generated siamese net, and the same with the fused layer, which is compiled and loaded."""
    derivation = differentiate(norm, loss)
    composed = generate(derivation, "prototxt").text("_siamese.prototxt")
    fused = generate(derivation, "caffe")
    write(fused, folder)
    ctypes.CDLL(str(compiled(caffe, fused, folder)), mode=ctypes.RTLD_GLOBAL)
    layer = (
        f'layer {{ name: "loss" type: "{layer_type(derivation.objective)}" '
        'bottom: "x" bottom: "x_pos" bottom: "x_neg" top: "loss" loss_weight: 1 }'
    )
    return composed, composed[: composed.index(_LOSS)] + layer


def imported(caffe: Caffe) -> Any:
    """pycaffe, which logs errors only."""
    os.environ.update(GLOG_minloglevel="2")
    sys.path.insert(0, str(caffe.python))
    import caffe as pycaffe

    return pycaffe


@click.command()
@click.option("--norm", default="l2", show_default=True)
@click.option("--loss", default="softmax-mse", show_default=True)
@click.option("--seeds", default=5, show_default=True)
@click.option("--steps", default=600, show_default=True)
def main(norm: str, loss: str, seeds: int, steps: int) -> None:
    """Train and test both nets for each seed."""
    caffe = find()
    if caffe is None:
        raise click.ClickException("no Caffe; python -m derive_triplet.derive.verify.caffe builds one")
    pycaffe = imported(caffe)
    click.echo("| seed | loss, first and last tenth | curves differ by | pixels: all known, ten | composed | fused |")
    click.echo("|--:|--:|--:|--:|--:|--:|")
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        both = nets(caffe, norm, loss, Path(folder))
        for seed in range(seeds):
            data = split(seed)
            composed, fused = (trained(pycaffe, net, data, seed, steps) for net in both)
            by_pixels = accuracies(data.images, data.test_images, data)
            rows.append((by_pixels, composed.accuracies, fused.accuracies))
            tenth = max(1, steps // 10)
            begun, ended = (float(np.mean(part)) for part in (fused.losses[:tenth], fused.losses[-tenth:]))
            differ = float(np.max(np.abs(composed.losses - fused.losses)))
            click.echo(f"| {seed} | {begun:.3f}, {ended:.3f} | {differ:.1g} | {_cells(rows[-1])} |")
    click.echo(f"| mean | | | {_cells(np.mean(rows, axis=0))} |")


def _cells(pairs: Iterable[Iterable[float]]) -> str:
    return " | ".join(", ".join(f"{accuracy:.1%}" for accuracy in pair) for pair in pairs)


if __name__ == "__main__":
    main()
