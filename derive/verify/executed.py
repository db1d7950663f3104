"""Verification of CUDA kernels by executing their PTX on the CPU, launched as the generated launchers do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from ..launches import FLOAT_TYPES, PACKS, THREADS, fused_launch
from ..targets.base import Product
from . import ptx
from .checks import EMBEDDINGS, remember, run_checks
from .nvrtc import Compiled
from .regimes import Array
from .report import Check

_SHAPES = ((1_003, 2), (3, 5_003))


def prepare(product: Product, dtype: str, thorough: bool) -> None:
    """Compute the reference that `execute` will need."""
    remember(product.objective, dtype, product.settings.values(product.objective), _dims(dtype, thorough))


def execute(product: Product, dtype: str, compiled: Compiled, thorough: bool) -> list[Check]:
    """Everything that is asked of executable code, of the kernels of one float type; and how they access memory.

    thorough: every kernel, instead of those that differ most.
    """
    parameters = product.settings.values(product.objective)
    runner = PtxRunner(product, ptx.load(compiled.ptx, compiled.names))
    checks = run_checks(
        product.objective,
        runner,
        [dtype],
        parameters,
        product.derivation.distance.translation_invariant,
        dims=_dims(dtype, thorough),
        shapes=_SHAPES if thorough else (),
        at_once=True,
    )
    widths = (FLOAT_TYPES[dtype].wide, 1) if thorough else (1,)
    return [
        *checks,
        Check("bytes moved", "rows in registers", dtype, runner.excess, 0, unit="beyond 6 * rows * dim"),
        _exactly("upstream gradient", dtype, lambda: _upstream(runner, dtype, parameters, widths)),
        _exactly("last of 2^28 rows", dtype, lambda: _far(runner, dtype, parameters)),
    ]


def _exactly(name: str, dtype: str, differing: Callable[[], int]) -> Check:
    """A check that no number differs; what a kernel may not do is a finding."""
    try:
        return Check(name, "bit for bit", dtype, differing(), 0, unit="numbers")
    except ptx.PtxError as error:
        return Check(name, "bit for bit", dtype, 1, 0, unit="errors", detail=str(error))


def _dims(dtype: str, thorough: bool) -> tuple[int, ...]:
    """Numbers of components with which every kernel is launched, or those that differ most."""
    wide, most = FLOAT_TYPES[dtype].wide, PACKS[-1]
    beyond = (32 * wide * most + wide, 32 * most + 1)  # a block for a row
    if not thorough:
        return beyond
    return (*(32 * wide * packs - wide for packs in PACKS), *(32 * packs - 1 for packs in PACKS), *beyond)


class PtxRunner:
    """A `checks.Runner`; what a kernel may not do raises `ptx.PtxError`.

    excess: by how much, relatively, any kernel that holds its row in registers moved more than it had to.
    """

    def __init__(self, product: Product, module: ptx.Module) -> None:
        self.stem, self.module = product.objective.stem, module
        self.names = [parameter.name for parameter in product.objective.parameters]
        self.weights = len(product.kernel.weights)
        self.excess = 0.0

    def __call__(
        self, x: Array, x_pos: Array, x_neg: Array, parameters: Mapping[str, float], reduction: str = "none"
    ) -> tuple[Any, Sequence[Array]]:
        factor = 1 / len(x) if reduction == "mean" else 1.0
        kernel, blocks = fused_launch(FLOAT_TYPES[x.dtype.name], *x.shape)
        layer = self.layer((x, x_pos, x_neg), parameters)
        launch = layer.fused(kernel, -(-blocks // 2), factor)  # any grid works: two rows for some blocks
        if "by_warp" in kernel:
            moved = sum(launch.traffic[buffer.name].bytes_read for buffer in layer.inputs)
            moved += sum(launch.traffic[buffer.name].bytes_written for buffer in layer.gradients)
            self.excess = max(self.excess, moved / (6 * x.nbytes) - 1)
        loss = layer.loss.array() if reduction == "none" else layer.reduced(factor)
        return loss, [gradient.array() for gradient in layer.gradients]

    def layer(
        self, batch: Sequence[Array], parameters: Mapping[str, float], upstream: Array | None = None, first: int = 0
    ) -> Layer:
        """The batch in the memory of a device of its own."""
        values = np.array([parameters[name] for name in self.names], batch[0].dtype)
        return Layer(self, batch, values, upstream, first)


class Layer:
    """A batch in the simulated memory, and the kernels on it.

    first: the number of its first row in a batch of which nothing else is there.
    """

    def __init__(
        self, runner: PtxRunner, batch: Sequence[Array], parameters: Array, upstream: Array | None, first: int
    ) -> None:
        self.runner, self.parameters = runner, parameters
        self.device, dtype = ptx.Device(), batch[0].dtype
        self.scalar = FLOAT_TYPES[dtype.name].name
        rows, dim = batch[0].shape
        self.shape = first + rows, dim

        def empty(name: str, *shape: int) -> ptx.Buffer:
            return self.device.empty(name, shape, dtype, offset=first * math.prod(shape[1:]))

        self.inputs = [
            self.device.buffer(name, array, offset=first * dim) for name, array in zip(EMBEDDINGS, batch, strict=True)
        ]
        self.upstream = None if upstream is None else self.device.buffer("upstream", upstream)
        self.loss, self.weights = empty("loss", rows), empty("weights", rows, runner.weights)
        self.gradients = [empty(f"grad_{name}", rows, dim) for name in EMBEDDINGS]

    def fused(self, kernel: str, blocks: int, factor: float = 1.0, only: Sequence[int] | None = None) -> ptx.Launch:
        arguments = [self.upstream, factor, self.loss, *self.gradients, *self.shape, self.parameters]
        return self._launch(kernel, blocks, arguments, only)

    def in_two(self, width: int, factor: float = 1.0) -> None:
        """Forward, then backward, reading `width` components at a time."""
        shape, (rows, _) = f"<{self.scalar}, {width}>", self.shape
        self._launch(f"forward_by_block{shape}", rows, [self.loss, self.weights, *self.shape, self.parameters])
        arguments = [self.weights, self.upstream, factor, *self.gradients, *self.shape]
        self._launch(f"backward_by_block{shape}", rows, arguments)

    def reduced(self, factor: float) -> Any:
        """`factor` times the sum of the losses."""
        total = self.device.empty("total", (1,), self.loss.array().dtype)
        kernel = self.runner.module.kernel(f"{self.runner.stem}::reduce_by_block<{self.scalar}>")
        self.device.launch(kernel, 1, THREADS, [self.loss, factor, total, self.shape[0]])
        return total.array()[0]

    def results(self) -> list[Array]:
        return [self.loss.array(), *(gradient.array() for gradient in self.gradients)]

    def _launch(
        self, kernel: str, blocks: int, arguments: Sequence[Any], only: Sequence[int] | None = None
    ) -> ptx.Launch:
        program = self.runner.module.kernel(f"{self.runner.stem}::{kernel}")
        return self.device.launch(program, blocks, THREADS, [*self.inputs, *arguments], blocks=only)


def _differing(found: Sequence[Array], wanted: Sequence[Array]) -> int:
    return sum(int(np.count_nonzero(a != b)) for a, b in zip(found, wanted, strict=True))


def _upstream(runner: PtxRunner, dtype: str, parameters: Mapping[str, float], widths: Iterable[int]) -> int:
    """How many numbers differ, in one kernel and in two, from gradients multiplied by powers of 2 afterwards."""
    random = np.random.Generator(np.random.PCG64(0))
    upstream, factor = np.array([1.0, 0.5, 4.0], dtype), 0.25
    differ = 0
    for width in widths:
        shape = f"<{FLOAT_TYPES[dtype].name}, {width}"
        batch = [random.uniform(-1, 1, (3, 24 * width)).astype(dtype) for _ in range(3)]
        plain = runner.layer(batch, parameters)
        plain.fused(f"forward_backward_by_block{shape}>", 3)
        loss, *gradients = plain.results()
        wanted = [loss, *(gradient * (factor * upstream)[:, None] for gradient in gradients)]
        for in_two in (True, False):
            layer = runner.layer(batch, parameters, upstream)
            if in_two:
                layer.in_two(width, factor)
            else:
                layer.fused(f"forward_backward_by_block{shape}>", 3, factor)
            differ += _differing(layer.results(), wanted)
    return differ


def _far(runner: PtxRunner, dtype: str, parameters: Mapping[str, float]) -> int:
    """How many numbers of the last rows of a batch of 2^34 elements differ from those of a small batch."""
    random = np.random.Generator(np.random.PCG64(0))
    batch = [random.uniform(-1, 1, (8, 64)).astype(dtype) for _ in range(3)]
    kernel, _ = fused_launch(FLOAT_TYPES[dtype], *batch[0].shape)
    near, far = runner.layer(batch, parameters), runner.layer(batch, parameters, first=2**28 - 8)
    near.fused(kernel, 1)
    far.fused(kernel, 2**28 // 8, only=[2**28 // 8 - 1])
    return _differing(near.results(), far.results())
