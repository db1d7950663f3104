"""Verification of CUDA kernels by executing them, launched as the generated launchers do."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from ..formats import FORMATS, from_bits, to_bits
from ..launches import (
    FLOAT_TYPES,
    REDUCTION_THREADS,
    THREADS,
    WARP,
    Start,
    fused_start,
    mask_start,
    qualified,
    reduction,
    single_start,
)
from ..rescale import rescale
from ..targets.base import Product
from . import gpu, ptx
from .checks import (
    BOUND,
    EMBEDDINGS,
    differing_beside_bad_rows,
    number_differing,
    remember,
    run_checks,
)
from .nvrtc import Compiled
from .regimes import Array
from .report import Check, exactly, measured
from .selection import SHORT, Depth, is_held, is_in_two, lengths
from .weighting import Asked, Results, weighting_checks

_SHAPES = ((1_003, 2), (3, 5_003))
_ROWS = 3


def prepare(product: Product, dtype: str, depth: Depth) -> None:
    """Compute the reference that `execute` will need."""
    parameters = product.settings.values(product.objective)
    remember(product.objective, dtype, parameters, lengths(dtype, depth), rescale(product.kernel).full_range)


def execute(product: Product, dtype: str, compiled: Compiled, depth: Depth) -> list[Check]:
    """Everything that is asked of executable code, of the kernels of one float type; and how they access memory.

    depth: how many of the kernels `compiled` holds.
    """
    parameters, full_range = product.settings.values(product.objective), rescale(product.kernel).full_range
    runner = on_cpu(product, dtype, compiled)
    wide = FLOAT_TYPES[dtype].wide
    held = [dim for dim in lengths(dtype, depth) if is_held(dtype, dim)]
    dims = (SHORT, *((24 * wide, WARP.reach * wide + wide, WARP.reach + 1) if depth is Depth.EVERY else ()))
    runs = _runs(depth)
    checks = [
        *_against_reference(product, runner, depth, at_once=True),
        measured("bytes moved", "rows in registers", dtype, 0, "beyond 6 * rows * dim", partial(_moved, runner, held)),
        exactly("upstream gradient", dtype, partial(_upstream, runner, runs, parameters, dims)),
        exactly("NaN stays in its row", dtype, partial(_isolated, runner, runs, parameters)),
        exactly("last of 2^28 rows", dtype, partial(_far, runner, parameters)),
        *weighting_checks(runner, dtype, parameters),
        exactly("more rows than threads", dtype, partial(_over_many_rows, runner)),
    ]
    if not (full_range and is_in_two(depth) and _far_exponent(dtype)):
        return checks
    in_two = partial(_far_in_two, runner, parameters)
    return [*checks, measured("forward, backward", "far scales", dtype, BOUND, "ulp", in_two)]


def execute_on_gpu(product: Product, dtype: str, compiled: Compiled, depth: Depth) -> list[Check]:
    """The same, but for what only a simulation sees, on the GPU; and how far the two differ.

    They may: the driver contracts a product and a sum to one operation where the PTX leaves that open, and hardware has
    approximations of its own. Neither is further from the reference than its bound.
    """
    parameters = product.settings.values(product.objective)
    runner, simulated = on_gpu(product, dtype, compiled), on_cpu(product, dtype, compiled)
    checks = [
        *_against_reference(product, runner, depth, at_once=False),
        exactly("NaN stays in its row", dtype, partial(_isolated, runner, _runs(depth), parameters)),
        measured("as simulated", "ordinary", dtype, 2 * BOUND, "ulp", partial(_apart, runner, simulated, parameters)),
        *weighting_checks(runner, dtype, parameters),
    ]
    return [replace(check, name=f"GPU {check.name}") for check in checks]


def _against_reference(product: Product, runner: KernelRunner, depth: Depth, at_once: bool) -> tuple[Check, ...]:
    """What is asked of any code that can be executed."""
    return run_checks(
        product.objective,
        runner,
        [runner.dtype],
        product.settings.values(product.objective),
        product.derivation.translation_invariant,
        dims=lengths(runner.dtype, depth),
        shapes=_SHAPES if depth is Depth.EVERY else (),
        full_range=rescale(product.kernel).full_range,
        at_once=at_once,
    )


def _runs(depth: Depth) -> tuple[Run, ...]:
    """The ways to losses and gradients that are executed."""
    return (Layer.fused, Layer.in_two) if is_in_two(depth) else (Layer.fused,)


def _apart(runner: KernelRunner, other: KernelRunner, parameters: Mapping[str, float]) -> float:
    """By how many ULPs of a row's largest gradient, and of its loss, two runners differ."""
    layers = [each.layer(each.batch(_ROWS, SHORT), parameters) for each in (runner, other)]
    for layer in layers:
        layer.fused()
    worst = 0.0
    for found, wanted in zip(*(layer.results() for layer in layers), strict=True):
        kept = FORMATS[runner.dtype if found.ndim > 1 else FORMATS[runner.dtype].computed_in]
        size = np.max(np.abs(wanted), axis=-1, keepdims=True).astype(np.float64)
        error = np.abs(found.astype(np.float64) - wanted) / (kept.eps * size + kept.tiny)
        worst = float(np.maximum(worst, np.max(np.where(np.isfinite(found), error, np.nan))))
    return worst


_Rows = tuple[int, Sequence[Array], Array | None, float]
"""The number of a batch, the batch, upstream gradients of its rows, and the factor of all of them."""


class KernelRunner:
    """A `WeightedRunner` on the kernels of one float type, on new devices of a kind: simulated ones, or the GPU.

    What a kernel may not do raises `ptx.PtxError`, where it is simulated.
    """

    def __init__(self, product: Product, dtype: str, module: Any, new_device: Callable[[], Any]) -> None:
        self.stem, self.dtype, self.module, self.new_device = product.objective.stem, dtype, module, new_device
        self.scalar = FLOAT_TYPES[dtype]
        self.names = [parameter.name for parameter in product.objective.parameters]
        self.weights = rescale(product.kernel).saved_count

    def __call__(
        self,
        x: Array,
        x_pos: Array,
        x_neg: Array,
        parameters: Mapping[str, float],
        reduction: str = "none",
        weights: Array | None = None,
    ) -> tuple[Any, Sequence[Array]]:
        (found,) = self.at_once([Asked(reduction, weights, (x, x_pos, x_neg))], parameters)
        return found

    def at_once(self, asked: Sequence[Asked], parameters: Mapping[str, float]) -> list[Results]:
        """The results for many batches of one dimension: the rows of all that are alike in one launch."""
        weights = {at: one.weights for at, one in enumerate(asked)}
        active = [at for at, one in enumerate(asked) if one.reduction == "mean-active"]
        for at, loss, _ in self._rowwise([(at, asked[at].batch, weights[at], 1.0) for at in active], parameters):
            weights[at] = self.share(loss, weights[at])
        factors = [1 / len(one.batch[0]) if one.reduction == "mean" else 1.0 for one in asked]
        rows = [(at, one.batch, weights[at], factors[at]) for at, one in enumerate(asked)]
        found: dict[int, Results] = {}
        for at, loss, gradients in self._rowwise(rows, parameters, busy=2):
            reduced = asked[at].reduction != "none"
            found[at] = self.reduced(loss, weights[at], factors[at]) if reduced else loss, gradients
        return [found[at] for at in range(len(asked))]

    def _rowwise(
        self, batches: Iterable[_Rows], parameters: Mapping[str, float], busy: int = 1
    ) -> Iterator[tuple[int, Array, list[Array]]]:
        """Losses and gradients of batches, each with its number; those with the same factor are launched together."""
        alike: dict[tuple[float, bool], list[_Rows]] = {}
        for rows in batches:
            _, _, upstream, factor = rows
            alike.setdefault((factor, upstream is None), []).append(rows)
        for (factor, without), members in alike.items():
            together = [np.concatenate(arrays) for arrays in zip(*(batch for _, batch, _, _ in members), strict=True)]
            upstream = None if without else np.concatenate([of for _, _, of, _ in members if of is not None])
            layer = self.layer(together, parameters, upstream)
            layer.fused(factor, busy)
            loss, gradients, start = layer.loss(), layer.gradients(), 0
            for at, batch, _, _ in members:
                own = slice(start, start := start + len(batch[0]))
                yield at, loss[own], [gradient[own] for gradient in gradients]

    def reduced(self, loss: Array, upstream: Array | None, factor: float) -> Any:
        """`factor` times the sum of the losses, each times its upstream gradient."""
        return self._over_rows("reduce", loss, upstream, 1, np.float64(factor))[0]

    def share(self, loss: Array, upstream: Array | None) -> Array:
        """The upstream gradients of the mean over the active rows."""
        return self._over_rows("active", loss, upstream, len(loss))

    def _over_rows(self, kernel: str, loss: Array, upstream: Array | None, size: int, *factor: np.float64) -> Array:
        device = self.new_device()
        given = None if upstream is None else device.buffer("upstream", upstream.astype(loss.dtype))
        results = device.empty("results", (size,), loss.dtype)
        arguments = [device.buffer("losses", loss), given, *factor, results, len(loss)]
        device.launch(self.kernel(reduction(self.scalar, kernel)), 1, REDUCTION_THREADS, arguments)
        held: Array = results.array()
        return held

    def kernel(self, name: str) -> Any:
        return self.module.kernel(qualified(self.stem, name))

    def layer(
        self, batch: Sequence[Array], parameters: Mapping[str, float], upstream: Array | None = None, first: int = 0
    ) -> Layer:
        """The batch in the memory of a device of its own."""
        # a struct of nothing is a byte long
        kind = FORMATS[self.dtype].computed_in if self.names else "u1"
        values = np.array([parameters[name] for name in self.names] or [0], kind)
        return Layer(self, batch, values, upstream, first)

    def batch(self, rows: int, dim: int) -> list[Array]:
        """Ordinary embeddings, the same ones on every run.

        Distances are of order 1, and that to the positive is the larger one, so that no loss is at rest.
        """
        random = np.random.Generator(np.random.PCG64(dim))
        x, x_pos, x_neg = (random.uniform(-1, 1, (rows, dim)) / math.sqrt(dim) for _ in EMBEDDINGS)
        return [FORMATS[self.dtype].rounded(array) for array in (x, x_pos, (x + x_neg) / 2)]


def on_cpu(product: Product, dtype: str, compiled: Compiled) -> KernelRunner:
    """Compiled kernels, simulated."""
    return KernelRunner(product, dtype, ptx.load(compiled.ptx, compiled.names), ptx.Device)


def on_gpu(product: Product, dtype: str, compiled: Compiled) -> KernelRunner:
    """Compiled kernels on the GPU."""
    return KernelRunner(product, dtype, gpu.load(compiled.ptx, compiled.names), gpu.Device)


class Layer:
    """A batch in a device's memory, and the kernels on it.

    first: the number of its first row in a batch of which nothing else is there.
    """

    def __init__(
        self, runner: KernelRunner, batch: Sequence[Array], parameters: Array, upstream: Array | None, first: int
    ) -> None:
        self.runner, self.parameters, self.device, self.first = runner, parameters, runner.new_device(), first
        rows, dim = batch[0].shape
        self.shape = first + rows, dim
        stored, computed = self._stored(batch[0]).dtype, np.dtype(FORMATS[runner.dtype].computed_in)

        def empty(name: str, dtype: Any, *shape: int) -> Any:
            return self.device.empty(name, shape, dtype, offset=first * math.prod(shape[1:]))

        self.inputs = [self.buffer(name, array) for name, array in zip(EMBEDDINGS, batch, strict=True)]
        self.upstream = None if upstream is None else self.device.buffer("upstream", upstream.astype(computed))
        self.losses, self.weights = empty("loss", computed, rows), empty("weights", computed, rows, runner.weights)
        self.outputs = [empty(f"grad_{name}", stored, rows, dim) for name in EMBEDDINGS]

    def _stored(self, array: Array) -> npt.NDArray[Any]:
        return to_bits(array) if self.runner.dtype == "bfloat16" else array

    def buffer(self, name: str, array: Array) -> Any:
        """Rows of the batch in the device's memory."""
        return self.device.buffer(name, self._stored(array), offset=self.first * array.shape[1])

    def loss(self) -> Array:
        held: Array = self.losses.array()
        return held

    def gradients(self) -> list[Array]:
        arrays = [output.array() for output in self.outputs]
        return [from_bits(array) for array in arrays] if self.runner.dtype == "bfloat16" else arrays

    def results(self) -> list[Array]:
        return [self.loss(), *self.gradients()]

    def fused(self, factor: float = 1.0, busy: int = 1, only: Sequence[int] | None = None) -> Any:
        """Loss and gradients at once; in fewer blocks than the launcher's, by `busy`, some of them take more rows."""
        start = fused_start(self.runner.scalar, *self.shape)
        arguments = [self.upstream, self.real(factor), self.losses, *self.outputs, *self.shape, self.parameters]
        launch = self.launch(Start(start.kernel, -(-start.blocks // busy)), [*self.inputs, *arguments], only)
        self.mask()
        return launch

    def in_two(self, factor: float = 1.0) -> None:
        """Forward, then backward."""
        forward, backward = (single_start(k, self.runner.scalar, *self.shape) for k in ("forward", "backward"))
        self.launch(forward, [*self.inputs, self.losses, self.weights, *self.shape, self.parameters])
        arguments = [self.weights, self.upstream, self.real(factor), *self.outputs, *self.shape]
        self.launch(backward, [*self.inputs, *arguments])
        self.mask()

    def mask(self) -> None:
        """What launchers do last that were given upstream gradients."""
        if self.upstream is not None:
            self.launch(mask_start(self.runner.scalar, *self.shape), [self.upstream, *self.outputs, *self.shape])

    def real(self, value: float) -> Any:
        """A number of the type that is computed in."""
        return self.losses.dtype.type(value)

    def launch(self, start: Start, arguments: Sequence[Any], only: Sequence[int] | None = None) -> Any:
        """Start a kernel; only: the blocks of it that are executed."""
        return self.device.launch(self.runner.kernel(start.kernel), start.blocks, THREADS, arguments, blocks=only)


Run = Callable[..., object]
"""A method of `Layer` that makes losses and gradients."""


def _moved(runner: KernelRunner, dims: Iterable[int]) -> float:
    """By how much, relatively, a kernel that holds its row in registers moves more than it has to."""
    parameters = _ones(runner)
    excess = 0.0
    for dim in (SHORT, *dims):
        layer = runner.layer(runner.batch(_ROWS, dim), parameters)
        traffic = layer.fused().traffic
        moved = sum(traffic[buffer.name].bytes_read for buffer in layer.inputs)
        moved += sum(traffic[buffer.name].bytes_written for buffer in layer.outputs)
        excess = max(excess, moved / (6 * _ROWS * dim * runner.scalar.size) - 1)
    return excess


def _ones(runner: KernelRunner) -> dict[str, float]:
    return dict.fromkeys(runner.names, 1.0)


def _upstream(runner: KernelRunner, runs: Iterable[Run], parameters: Mapping[str, float], dims: Iterable[int]) -> int:
    """How many numbers differ from those of rows that have the upstream gradient as factor.

    That a factor multiplies gradients is seen by the check of mean and sum. The gradients of a row more, that holds NaN
    and whose upstream gradient is 0, are 0.
    """
    upstream, factor = np.array([1.0, 0.5, 4.0, 0.0]), 4.0
    differ = 0
    for dim in dims:
        batch = runner.batch(_ROWS + 1, dim)
        batch[0][-1] = np.nan
        rows = []
        for row, other in enumerate(upstream[:_ROWS].tolist()):
            plain = runner.layer(batch, parameters)
            plain.fused(factor * other)
            rows.append([array[row] for array in plain.results()])
        wanted = [np.stack(parts) for parts in zip(*rows, strict=True)]
        for run in runs:
            layer = runner.layer(batch, parameters, upstream)
            run(layer, factor)
            differ += number_differing((array[:_ROWS] for array in layer.results()), wanted)
            differ += int(np.count_nonzero([gradient[_ROWS:] for gradient in layer.gradients()]))
    return differ


def _isolated(runner: KernelRunner, runs: Iterable[Run], parameters: Mapping[str, float]) -> int:
    """How many numbers are not right where rows of a batch hold NaN and infinity."""

    def results(run: Run, batch: Sequence[Array]) -> list[Array]:
        layer = runner.layer(batch, parameters)
        run(layer)
        return layer.results()

    return sum(differing_beside_bad_rows(partial(results, run), runner.batch(4, SHORT)) for run in runs)


def _over_many_rows(runner: KernelRunner) -> int:
    """How many numbers are wrong of the sum of losses, and of the upstream gradients of a mean over the active ones."""
    kind = np.dtype(FORMATS[FORMATS[runner.dtype].computed_in].dtype)
    losses = (np.arange(3 * REDUCTION_THREADS) % 3).astype(kind)
    share = kind.type(1) / kind.type(int(np.count_nonzero(losses)))
    found = [np.asarray([runner.reduced(losses, None, 1.0)]), runner.share(losses, None)]
    return number_differing(found, [np.asarray([losses.sum()]), np.where(losses == 0, 0, share)])


def _far(runner: KernelRunner, parameters: Mapping[str, float]) -> int:
    """How many numbers of the last rows of a batch of 2^28 differ from those of a small batch."""
    dim = 16 * runner.scalar.wide
    batch = runner.batch(8, dim)
    near, far = runner.layer(batch, parameters), runner.layer(batch, parameters, first=2**28 - 8)
    near.fused()
    far.fused(only=[2**28 // 8 - 1])
    return number_differing(near.results(), far.results())


def _far_exponent(dtype: str) -> int:
    """Where, in powers of 2, squares are far outside the range of what is computed in; 0 where no number is there."""
    exponent = 100 if FORMATS[dtype].computed_in == "float32" else 900
    return exponent if FORMATS[dtype].largest_exponent > exponent else 0


def _far_in_two(runner: KernelRunner, parameters: Mapping[str, float]) -> float:
    """By how many ULPs forward and backward differ from both at once, where sums of squares leave the range."""
    info, exponent = FORMATS[runner.dtype], _far_exponent(runner.dtype)
    scales = np.array([[2.0**-exponent], [2.0**exponent]])
    batch = [info.rounded(scales * array) for array in runner.batch(2, SHORT)]
    both, layer = runner.layer(batch, parameters), runner.layer(batch, parameters)
    both.fused()
    layer.in_two()
    worst = float(number_differing([layer.loss()], [both.loss()]))
    for found, wanted in zip(layer.gradients(), both.gradients(), strict=True):
        unit = info.eps * np.abs(wanted).astype(np.float64) + info.tiny
        with np.errstate(invalid="ignore"):  # what is beyond the type is so in both
            same = (found == wanted) | (np.isnan(found) & np.isnan(wanted))
            error = np.where(same, 0, np.abs(found.astype(np.float64) - wanted) / unit)
        worst = float(np.maximum(worst, np.max(error)))
    return worst
