"""A compiled C product, its functions called through ctypes."""

from __future__ import annotations

import ctypes
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UsageError
from ..targets.base import Product
from ..targets.c import C_TYPES
from .checks import EMBEDDINGS
from .regimes import Array

_REALS = {"float32": ctypes.c_float, "float64": ctypes.c_double}
_LINE = 64
_GUARD = 32  # numbers on each side of what is written
_UNTOUCHED = 12345.0


class Library:
    """A `WeightedRunner` on the functions of a shared library.

    Raises `UsageError` for a call that is refused, and for a number written beside an array. The loss is NaN where
    forward does not give that of forward_backward.
    """

    def __init__(self, path: Path, product: Product) -> None:
        self.functions, self.stem = ctypes.CDLL(str(path)), product.objective.stem
        self.names = [parameter.name for parameter in product.objective.parameters]

    def __call__(
        self,
        x: Array,
        x_pos: Array,
        x_neg: Array,
        parameters: Mapping[str, float],
        reduction: str = "none",
        weights: Array | None = None,
    ) -> tuple[Any, Sequence[Array]]:
        batch, rows = (x, x_pos, x_neg), len(x)
        factor = 1 / rows if reduction == "mean" else 1.0
        (alone,) = self.call("forward", batch, parameters, outputs=[(rows,)])
        if reduction == "mean-active":
            (weights,) = self._over_rows("active", alone, weights, rows)
        loss, *gradients = self.call("forward_backward", batch, parameters, self._outputs(x, 1), weights, factor)
        loss = np.where(loss == alone, loss, np.nan)
        if reduction != "none":
            return self._over_rows("reduce", loss, weights, 1, factor)[0][0], gradients
        return loss, gradients

    def products(
        self,
        embeddings: Sequence[Array],
        direction: Sequence[Array],
        parameters: Mapping[str, float],
        reduction: str = "none",
    ) -> list[Array]:
        """A `ProductRunner` on hvp."""
        factor = 1 / len(embeddings[0]) if reduction == "mean" else 1.0
        outputs = self._outputs(embeddings[0], 0)
        return self.call("hvp", [*embeddings, *direction], parameters, outputs, None, factor)

    def everything(
        self, batch: Sequence[Array], parameters: Mapping[str, float], upstream: Array, offset: int = 0
    ) -> list[Array]:
        """What forward_backward and hvp make of a batch that is so many numbers off a line."""
        outputs = self._outputs(batch[0], 1)
        found = self.call("forward_backward", batch, parameters, outputs, upstream, 0.5, offset)
        return found + self.call("hvp", [*batch, *batch[::-1]], parameters, outputs[1:], upstream, 0.5, offset)

    def use_threads(self, count: int) -> None:
        """How many threads share the rows, in a library with OpenMP."""
        if hasattr(self.functions, "omp_set_num_threads"):
            self.functions.omp_set_num_threads(count)

    def _outputs(self, like: Array, losses: int) -> list[tuple[int, ...]]:
        return [*[(len(like),)] * losses, *[like.shape] * len(EMBEDDINGS)]

    def call(
        self,
        name: str,
        inputs: Sequence[Array],
        parameters: Mapping[str, float],
        outputs: Sequence[tuple[int, ...]],
        upstream: Array | None = None,
        factor: float | None = None,
        offset: int = 0,
    ) -> list[Array]:
        """The outputs of these shapes that a function of the header writes for a batch."""
        dtype, (rows, dim) = inputs[0].dtype, inputs[0].shape
        real = _REALS[dtype.name]
        given = [_placed(array, offset) for array in inputs]
        weights = None if upstream is None else _placed(upstream.astype(dtype), offset)
        written = [_Guarded(shape, dtype, offset) for shape in outputs]
        middle = [] if factor is None else [_address(weights), real(factor)]
        self._checked(
            f"{name}_{C_TYPES[dtype.name].suffix}",
            *map(_address, given),
            *middle,
            *(_address(one.array) for one in written),
            ctypes.c_size_t(rows),
            ctypes.c_size_t(dim),
            *(real(parameters[name]) for name in self.names),
        )
        return [one.taken(name) for one in written]

    def _over_rows(self, name: str, loss: Array, weights: Array | None, size: int, *factor: float) -> list[Array]:
        """What reduce or active makes of losses."""
        loss = np.ascontiguousarray(loss)
        upstream = None if weights is None else np.ascontiguousarray(weights, loss.dtype)
        written = _Guarded((size,), loss.dtype, 0)
        self._checked(
            f"{name}_{C_TYPES[loss.dtype.name].suffix}",
            _address(loss),
            _address(upstream),
            *map(ctypes.c_double, factor),
            _address(written.array),
            ctypes.c_size_t(len(loss)),
        )
        return [written.taken(name)]

    def _checked(self, name: str, *arguments: Any) -> None:
        if status := getattr(self.functions, f"{self.stem}_{name}")(*arguments):
            message = getattr(self.functions, f"{self.stem}_message")
            message.restype = ctypes.c_char_p
            raise UsageError(f"{name} returned {status}: {message(status).decode()}")


class _Guarded:
    """An array to be written, and numbers on both sides of it that must stay as they are."""

    def __init__(self, shape: tuple[int, ...], dtype: Any, offset: int) -> None:
        size = int(np.prod(shape))
        self.all = _aligned(size + 2 * _GUARD + offset, dtype)
        self.all[:] = _UNTOUCHED
        self.start, self.stop = _GUARD + offset, _GUARD + offset + size
        self.array = self.all[self.start : self.stop].reshape(shape)

    def taken(self, name: str) -> Array:
        """The array; raises `UsageError` if anything beside it has changed."""
        beside = self.all[: self.start], self.all[self.stop :]
        if any(np.any(part != _UNTOUCHED) for part in beside):
            raise UsageError(f"{name} writes outside of its arrays")
        return self.array


def _aligned(size: int, dtype: Any) -> Array:
    """Numbers that begin with a line of the cache."""
    itemsize = np.dtype(dtype).itemsize
    held = np.empty(size + _LINE // itemsize, dtype)
    start = -held.ctypes.data % _LINE // itemsize
    return held[start : start + size]


def _placed(array: Array, offset: int) -> Array:
    """A copy, so many numbers after the beginning of a line."""
    held = _aligned(array.size + offset, array.dtype)[offset:].reshape(array.shape)
    held[...] = array
    return held


def _address(array: Array | None) -> ctypes.c_void_p:
    return ctypes.c_void_p(None if array is None else array.ctypes.data)
