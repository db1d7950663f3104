"""The kernels on a GPU itself, through CuPy: the PTX that `ptx` executes on the CPU, compiled by the driver.

    device = gpu.Device()
    x, y = device.buffer("x", values), device.empty("y", values.shape, values.dtype)
    device.launch(gpu.load(compiled.ptx, compiled.names).kernel("scale<float>"), grid, block, [x, y, factor, size])

Devices, buffers and kernels are used as those of `ptx`; arguments that are numbers are NumPy scalars of their type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from .regimes import Array


def find() -> str:
    """The name of the GPU that kernels would run on; '' where there is none, or no CuPy."""
    if find_spec("cupy") is None:
        return ""
    import cupy

    try:
        if not cupy.cuda.runtime.getDeviceCount():
            return ""
        return str(cupy.cuda.runtime.getDeviceProperties(0)["name"].decode())
    except cupy.cuda.runtime.CUDARuntimeError:  # no driver
        return ""


@dataclass(frozen=True)
class Buffer:
    """An array on the GPU."""

    name: str
    on_device: Any

    @property
    def dtype(self) -> np.dtype[Any]:
        kept: np.dtype[Any] = np.dtype(self.on_device.dtype)
        return kept

    def array(self) -> Array:
        """Its values now."""
        import cupy

        return np.asarray(cupy.asnumpy(self.on_device))


class Module:
    """The kernels of a PTX text, by their C++ names."""

    def __init__(self, text: str, names: Mapping[str, str]) -> None:
        import cupy

        self._module = cupy.cuda.function.Module()
        self._module.load(text.encode() + b"\0")
        self._names = dict(names)

    def kernel(self, name: str) -> Any:
        return self._module.get_function(self._names[name])


def load(text: str, names: Mapping[str, str]) -> Module:
    """Have the driver compile PTX for the GPU."""
    return Module(text, names)


class Device:
    """Memory of the GPU, and launches on it. What was not written holds NaN, or the largest integer."""

    def buffer(self, name: str, values: Array, offset: int = 0) -> Buffer:
        """An array with values. offset: there is none; batches are whole on a GPU."""
        import cupy

        _refuse(offset)
        return Buffer(name, cupy.asarray(np.ascontiguousarray(values)))

    def empty(self, name: str, shape: int | tuple[int, ...], dtype: Any, offset: int = 0) -> Buffer:
        kind = np.dtype(dtype)
        unwritten = np.nan if kind.kind == "f" else np.iinfo(kind).max
        return self.buffer(name, np.full(shape, unwritten, kind), offset)

    def launch(
        self, kernel: Any, grid: int, block: int, arguments: Sequence[Any], *, blocks: Sequence[int] | None = None
    ) -> None:
        """Execute a kernel, and wait for it."""
        import cupy

        if blocks is not None:
            raise ValueError("a GPU executes all blocks of a grid")
        kernel((grid,), (block,), tuple(_argument(argument) for argument in arguments))
        cupy.cuda.runtime.deviceSynchronize()


def _refuse(offset: int) -> None:
    if offset:
        raise ValueError("a GPU holds whole batches")


def _argument(value: Any) -> Any:
    if value is None:
        return np.uint64(0)  # a null pointer
    if isinstance(value, Buffer):
        return value.on_device
    if isinstance(value, np.ndarray):  # a structure of numbers of one type
        return value[0] if value.size == 1 else value.view(np.dtype((np.void, value.nbytes)))[0]
    return np.int64(value) if isinstance(value, int) else value
