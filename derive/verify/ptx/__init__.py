"""Executes PTX on the CPU: what NVRTC makes of CUDA source runs anywhere, and is watched while it does.

    module = ptx.load(compiled.ptx, compiled.names)
    device = ptx.Device()
    x, y = device.buffer("x", values), device.empty("y", values.shape, values.dtype)
    launch = device.launch(module.kernel("scale<float>"), grid, block, [x, y, 2.0, values.size])
    y.array(), launch.traffic["x"].bytes_read

`parse` reads the text, `program` makes a kernel ready to run from the table in `instructions` (whose floating point is
`arithmetic`), `memory` and `frame` hold the state, and `execute` runs it.

Reported, with kernel, thread, line and instruction: accesses out of bounds or misaligned, races in global and shared
memory, reads of what was never written, shuffles and barriers that not all come to, and what is not supported.

Limits:

- PTX is executed as it stands, every operation rounded as it says. ptxas may still fuse a `mul` and an `add` that have
  no rounding modifier; and .approx instructions are rounded results of the double precision functions, which hardware
  misses by an ULP or two (`rcp.approx.ftz.f64`, by far more there too, has the 21 digits that hardware gives).
- Registers are not watched: one that is read before it is written holds NaN, or the largest integer.
- Barriers are for whole blocks, whatever their number, and a thread that has ended misses them. A shuffle joins threads
  at the same instruction only. `bar.warp.sync` orders memory for all that execute it, whatever its mask.
- Atomics are executed in the order of the threads, and blocks, some together, in the order of the grid: a kernel that
  waits for another block may be endless here. Fences do nothing: to races, only barriers and atomics count.
- Not supported: tensor cores, textures, surfaces, asynchronous copies, clusters, carries (`add.cc`), packed 8-bit
  arithmetic, indirect branches and calls, `printf`. It is an error when a thread gets there, not before.
"""

from __future__ import annotations

from collections.abc import Mapping

from . import parse
from .errors import (
    DivergenceError,
    EndlessError,
    ExecutionError,
    LaunchError,
    MisalignedError,
    OutOfBoundsError,
    PtxError,
    RaceError,
    TrapError,
    UninitializedError,
    UnsupportedError,
)
from .execute import Device, Launch
from .memory import Buffer, Checks, Traffic
from .program import Program


class Module:
    """The kernels of a PTX text."""

    def __init__(self, parsed: parse.Module, names: Mapping[str, str]) -> None:
        self.target = parsed.target
        self._parsed = parsed
        self._names = dict(names)
        self._programs: dict[str, Program] = {}

    def kernel(self, name: str) -> Program:
        """A kernel, by its name in the PTX text or by the C++ name that `load` was told."""
        mangled = self._names.get(name, name)
        if mangled not in self._parsed.names:
            there = sorted(self._names or self._parsed.names)
            raise LaunchError(f"there is no kernel {name}; there are {', '.join(there) or 'none'}")
        if mangled not in self._programs:
            self._programs[mangled] = Program(self._parsed.kernel(mangled), name)
        return self._programs[mangled]


def load(text: str, names: Mapping[str, str] | None = None) -> Module:
    """Read PTX. names: from C++ names of kernels to those in the text, as `nvrtc.Compiled.names` holds them."""
    return Module(parse.parse(text), names or {})


__all__ = [
    "Buffer",
    "Checks",
    "Device",
    "DivergenceError",
    "EndlessError",
    "ExecutionError",
    "Launch",
    "LaunchError",
    "MisalignedError",
    "Module",
    "OutOfBoundsError",
    "Program",
    "PtxError",
    "RaceError",
    "Traffic",
    "TrapError",
    "UninitializedError",
    "UnsupportedError",
    "load",
]
