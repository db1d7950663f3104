"""The state of some blocks while they are executed: registers, shared and local memory, and who is where."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache, cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import UnsupportedError
from .memory import Access, Memory, Region, Space, place
from .parse import Variable
from .types import Array

WARP = 32
Dim = tuple[int, int, int]
_Lanes = npt.NDArray[np.int64]
_Mask = npt.NDArray[np.bool_]
_FULL = 0xFFFFFFFF


class Group:
    """Threads that go on together: lanes of the frame, in order."""

    def __init__(self, frame: Frame, lanes: _Lanes) -> None:
        self.frame = frame
        self.lanes = lanes
        self.count = len(lanes)
        # of all lanes, arrays need no gathering
        self.at: slice | _Lanes = slice(None) if self.count == frame.lanes else lanes

    @cached_property
    def warps(self) -> int:
        """How many warps have a thread in the group."""
        if self.count == self.frame.lanes:
            return self.count // WARP
        return int(np.count_nonzero(np.diff(self.lanes // WARP))) + 1

    @cached_property
    def lane(self) -> _Lanes:
        """Where in its warp each thread is."""
        return self.lanes % WARP

    @cached_property
    def first(self) -> _Lanes:
        """The lane of the frame with which the warp of each thread begins."""
        return self.lanes - self.lane

    @cached_property
    def here(self) -> _Mask:
        """Which lanes of the frame are in the group."""
        here = np.zeros(self.frame.lanes, bool)
        here[self.at] = True
        return here

    @cached_property
    def bits(self) -> Array:
        """For each warp of the frame, which of its lanes are in the group."""
        return packed(self.here)

    def synchronise(self) -> None:
        """Let time pass at a barrier of the threads' warps: what they access from now on is later."""
        self.frame.times[self.lanes] += 1
        for cached in ("access", "block_access", "lane_access"):
            self.__dict__.pop(cached, None)

    @cached_property
    def access(self) -> Access:
        # as it is now: what a barrier changes is for later accesses
        return Access(self.lanes, self.frame.threads[self.at], self.frame.times[self.lanes])

    @cached_property
    def block_access(self) -> Access:
        """To memory that each block has its own copy of."""
        return Access(self.lanes, self.access.threads, self.access.times, self.lanes // self.frame.block)

    @cached_property
    def lane_access(self) -> Access:
        """To memory that each thread has its own copy of."""
        return Access(self.lanes, self.access.threads, self.access.times, self.lanes)

    def where(self, condition: _Mask) -> Group:
        """The threads for which it holds."""
        if condition.all():
            return self
        return Group(self.frame, self.lanes[np.broadcast_to(condition, self.count)])

    def split(self, condition: _Mask) -> tuple[Group, Group | None]:
        """The threads for which it holds, and the others, if there are any."""
        if condition.all():
            return self, None
        holds = np.broadcast_to(condition, self.count)
        return Group(self.frame, self.lanes[holds]), Group(self.frame, self.lanes[~holds])


class Frame:
    """Some blocks of a launch, while they are executed: their registers, shared and local memory."""

    def __init__(
        self,
        variables: Iterable[Variable],
        offsets: Mapping[str, int],
        memory: Memory,
        shape: Shape,
        blocks: _Lanes,
        parameters: bytes,
    ) -> None:
        self.memory = memory
        self.shape = shape
        self.blocks = blocks
        self.block = shape.padded
        self.lanes = len(blocks) * self.block
        self.parameters = np.frombuffer(parameters, np.uint8)
        self.registers: dict[str, Array] = {}
        self.specials: dict[str, Array] = {}
        within = np.tile(np.arange(self.block), len(blocks))
        self.within = within
        self.threads = np.repeat(blocks, self.block) * self.block + within
        self.times = np.zeros(self.lanes, np.int64)
        self.exists = within < shape.threads
        self.alive = self.exists.copy()
        self.shared = Space("shared", 24)
        self.local = Space("local", 24)
        self.symbols = dict(offsets)
        for variable in variables:
            self._place(variable, shape.shared_bytes)

    def _place(self, variable: Variable, shared_bytes: int) -> None:
        if variable.space in ("shared", "local"):
            space = self.shared if variable.space == "shared" else self.local
            copies = len(self.blocks) if variable.space == "shared" else self.lanes
            size = variable.size or shared_bytes
            name = f"shared memory {variable.name}" if variable.space == "shared" else "local memory"
            unit = max(1, min(variable.type.size, size)) if variable.type.size > 1 else 4
            region = Region(name, place(space, max(variable.align, 16)), size, unit, copies)
            if variable.space == "shared":
                region.begin(self.block, self.memory.checks)
            space.regions.append(region)
            self.symbols[variable.name] = region.base
        else:
            self.symbols[variable.name] = self.memory.variable(variable).address

    def register(self, name: str, stored: np.dtype[Any], count: int = 0) -> Array:
        """The array of a register, of which `count` lanes are to be written now.

        Before it is written it holds NaN and the like.
        """
        held = self.registers.get(name)
        if held is None:
            every = count == self.lanes
            held = np.empty(self.lanes, stored) if every else np.full(self.lanes, _unwritten(stored), stored)
            self.registers[name] = held
        return held

    def special(self, name: str) -> Array:
        """A special register, as 32 bits per lane."""
        if name not in self.specials:
            self.specials[name] = np.ascontiguousarray(self._special(name), np.uint32)
        return self.specials[name]

    def _special(self, name: str) -> Array:
        shape, lane = self.shape, self.within % WARP
        what, _, axis = name[1:].partition(".")
        if axis in ("x", "y", "z") and what in ("tid", "ntid", "ctaid", "nctaid"):
            number = "xyz".index(axis)
            if what == "tid":
                return _coordinate(self.within, shape.block, number)
            if what == "ctaid":
                return np.repeat(_coordinate(self.blocks, shape.grid, number), self.block)
            return np.full(self.lanes, (shape.block if what == "ntid" else shape.grid)[number])
        one = np.uint64(1)
        below = (one << lane.astype(np.uint64)) - one
        values: dict[str, Callable[[], Array]] = {
            "laneid": lambda: lane,
            "warpid": lambda: self.within // WARP,
            "nwarpid": lambda: np.full(self.lanes, self.block // WARP),
            "lanemask_lt": lambda: below,
            "lanemask_le": lambda: 2 * below + one,
            "lanemask_eq": lambda: below + one,
            "lanemask_gt": lambda: _FULL - (2 * below + one),
            "lanemask_ge": lambda: _FULL - below,
            "dynamic_smem_size": lambda: np.full(self.lanes, shape.shared_bytes),
        }
        if what not in values:
            raise UnsupportedError(f"the special register {name}")
        return values[what]()

    def bits(self, lanes: _Lanes) -> Array:
        """For each warp of the frame, which of its lanes are there."""
        here = np.zeros(self.lanes, bool)
        here[lanes] = True
        return packed(here)

    def thread(self, lane: int) -> tuple[Dim, Dim]:
        """The coordinates of block and thread."""
        return self.shape.thread(int(self.threads[lane]))


@cache
def _unwritten(stored: np.dtype[Any]) -> int:
    return 0 if stored.kind == "b" else int(np.iinfo(stored).max)


def packed(here: _Mask) -> Array:
    return np.packbits(here.reshape(-1, WARP), axis=1, bitorder="little").view(np.uint32)[:, 0]


def _coordinate(number: Array, extents: Dim, axis: int) -> Array:
    return (
        number // int(np.prod(extents[:axis], dtype=np.int64)) % extents[axis]
        if axis < 2
        else (number // (extents[0] * extents[1]))
    )


@dataclass(frozen=True)
class Shape:
    grid: Dim
    block: Dim
    shared_bytes: int

    @property
    def threads(self) -> int:
        return self.block[0] * self.block[1] * self.block[2]

    @property
    def padded(self) -> int:
        """Threads of a block in whole warps."""
        return -(-self.threads // WARP) * WARP

    def thread(self, number: int) -> tuple[Dim, Dim]:
        block, within = divmod(number, self.padded)
        return _split(block, self.grid), _split(within, self.block)


def _split(number: int, extents: Dim) -> Dim:
    return number % extents[0], number // extents[0] % extents[1], number // (extents[0] * extents[1])
