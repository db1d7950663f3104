"""Execution of the kernel of second derivatives, launched as the generated launcher does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from ..launches import Start, product_start
from ..rescale import rescale
from ..targets.base import Product
from .checks import EMBEDDINGS, number_differing
from .curvature import remember_products, run_product_checks
from .executed import KernelRunner
from .regimes import Array
from .report import Check, exactly
from .selection import SHORT, Depth, product_lengths

_ROWS = 3


def prepare_products(product: Product, dtype: str, depth: Depth) -> None:
    """Compute the reference that `execute_products` will need."""
    parameters, full_range = product.settings.values(product.objective), rescale(product.kernel).full_range
    remember_products(product.objective, dtype, parameters, product_lengths(depth), full_range)


def execute_products(product: Product, runner: KernelRunner, depth: Depth) -> list[Check]:
    """Everything that is asked of products, of the kernels of one float type."""
    parameters = product.settings.values(product.objective)

    def run(
        embeddings: Sequence[Array],
        direction: Sequence[Array],
        parameters: Mapping[str, float],
        reduction: str = "none",
    ) -> list[Array]:
        factor = 1 / len(embeddings[0]) if reduction == "mean" else 1.0
        return _products(runner, embeddings, direction, parameters, factor, busy=2)

    return list(
        run_product_checks(
            product.objective,
            run,
            [runner.dtype],
            parameters,
            product.derivation.translation_invariant,
            dims=product_lengths(depth),
            full_range=rescale(product.kernel).full_range,
        )
    )


def launch_checks(product: Product, runner: KernelRunner, depth: Depth) -> list[Check]:
    """That products take upstream gradients, and batches of any size; nothing of short rows."""
    if depth is Depth.SHORT:
        return []
    parameters = product.settings.values(product.objective)
    checks = (("upstream gradient", _upstream), ("last of 2^28 rows", _far))
    return [
        exactly(f"Hessian times v: {name}", runner.dtype, partial(count, runner, parameters)) for name, count in checks
    ]


def _products(
    runner: KernelRunner,
    embeddings: Sequence[Array],
    direction: Sequence[Array],
    parameters: Mapping[str, float],
    factor: float = 1.0,
    upstream: Array | None = None,
    *,
    busy: int = 1,
    first: int = 0,
    only: Sequence[int] | None = None,
) -> list[Array]:
    """The products of a batch, which has the memory of a device of its own.

    In fewer blocks than the launcher's, by `busy`, some of them take more rows. first, only: the number of the first
    row in a batch of which nothing else is there, and the blocks that are executed.
    """
    layer = runner.layer(embeddings, parameters, upstream, first)
    start = product_start(runner.scalar, *layer.shape)
    along = [layer.buffer(f"v of {name}", part) for name, part in zip(EMBEDDINGS, direction, strict=True)]
    arguments = [*along, layer.upstream, layer.real(factor), *layer.outputs, *layer.shape, layer.parameters]
    layer.launch(Start(start.kernel, -(-start.blocks // busy)), [*layer.inputs, *arguments], only)
    layer.mask()
    return layer.gradients()


def _upstream(runner: KernelRunner, parameters: Mapping[str, float]) -> int:
    """How many numbers differ from those of rows that have the upstream gradient as factor.

    The products of a row more, that holds NaN and whose upstream gradient is 0, are 0.
    """
    upstream, factor = np.array([1.0, 0.5, 4.0, 0.0]), 4.0
    batch = runner.batch(_ROWS + 1, SHORT)
    batch[0][-1] = np.nan
    direction = batch[::-1]
    found = _products(runner, batch, direction, parameters, factor, upstream)
    differing = int(np.count_nonzero([part[_ROWS:] for part in found]))
    for row, other in enumerate(upstream[:_ROWS].tolist()):
        wanted = _products(runner, batch, direction, parameters, factor * other)
        differing += number_differing([part[row] for part in found], [part[row] for part in wanted])
    return differing


def _far(runner: KernelRunner, parameters: Mapping[str, float]) -> int:
    """How many numbers of the last rows of a batch of 2^28 differ from those of a small batch."""
    batch, direction = runner.batch(8, 64), runner.batch(8, 64)[::-1]
    near = _products(runner, batch, direction, parameters)
    far = _products(runner, batch, direction, parameters, first=2**28 - 8, only=[2**28 // 8 - 1])
    return number_differing(near, far)
