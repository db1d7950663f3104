"""Simulated memory: regions of bytes that know what was written, by whom, and how much was moved.

An address says which region it means even when it is far outside of it: regions of global memory are 2^40 bytes
apart, those of shared memory 2^24. So an index that is off, by one or by 2^32, is never another array's element.
Behind a buffer may be a *window* of a much larger array: the rest has addresses, but no bytes, and may not be touched.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .errors import Fault, LaunchError, MisalignedError, OutOfBoundsError, RaceError, UninitializedError
from .parse import Variable
from .types import Array, unsigned

SECTOR = 32
"""Bytes that a GPU moves at once."""

_Ints = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Checks:
    """What is reported, besides accesses out of bounds or misaligned, which always are.

    races: two threads access an element without synchronisation, and one of them writes.
    equal_writes: races include writes of the value that is there already.
    between_blocks: races include those of threads of different blocks, which only atomics can synchronise: kernels
        that do so have to turn this off.
    uninitialized: reads of memory that was never written.
    """

    races: bool = True
    equal_writes: bool = True
    between_blocks: bool = True
    uninitialized: bool = True


@dataclass
class Traffic:
    """Bytes and 32-byte sectors that were read and written; a sector counts once per warp and access."""

    bytes_read: int = 0
    bytes_written: int = 0
    sectors_read: int = 0
    sectors_written: int = 0


@dataclass(frozen=True)
class Access:
    """One instruction's access by several threads.

    lanes: where the threads are in the frame, for error messages. threads: their numbers in the launch.
    times: what they have synchronised with, see `Shadow`. copies: which copy of the region each one sees.
    """

    lanes: _Ints
    threads: _Ints
    times: _Ints
    copies: _Ints | None = None

    def take(self, at: npt.NDArray[Any]) -> Access:
        copies = None if self.copies is None else self.copies[at]
        return Access(self.lanes[at], self.threads[at], self.times[at], copies)


class Region:
    """Bytes from address `base` on, in `copies` that do not see each other (one per block, or one per thread)."""

    def __init__(
        self, name: str, base: int, size: int, unit: int, copies: int = 1, initial: bytes | None = None, first: int = 0
    ) -> None:
        """first: where the bytes begin, after `base`; before it there are none. unit: size of an element."""
        self.name = name
        self.base = base
        self.size = size
        self.first = first
        self.low = (base + first) % SECTOR  # so that data[0] is at a multiple of the sector size
        self.high = self.low + size
        self.origin = base + first - self.low
        self.stride = -(-self.high // SECTOR) * SECTOR
        self.data: npt.NDArray[np.uint8] = np.full(copies * self.stride, 0xFF, np.uint8)
        self.defined: npt.NDArray[np.uint8] | None = np.zeros_like(self.data)
        if initial is not None:
            self.data.reshape(copies, -1)[:, self.low : self.high] = np.frombuffer(initial, np.uint8)
            self.defined = None
        self.unit = unit
        self.traffic = Traffic()
        self.shadow: Shadow | None = None

    def locate(self, addresses: _Ints, size: int, access: Access) -> _Ints:
        """Where in `data` the accesses of `size` bytes begin."""
        at = addresses - self.origin
        outside = (at < self.low) | (at > self.high - size)
        if outside.any():
            worst = int(np.argmax(outside))
            raise Fault(OutOfBoundsError, self.complaint(int(at[worst]), size), int(access.lanes[worst]))
        return at if access.copies is None else at + access.copies * self.stride

    def complaint(self, at: int, size: int) -> str:
        held = f"bytes {self.first} to {self.first + self.size - 1}" if self.size else "no bytes"
        return f"{size} bytes at offset {at - self.low + self.first} of {self.name}, which has {held}"

    def read(self, at: _Ints, width: int, count: int, access: Access, checks: Checks) -> Array:
        """`count` elements of `width` bytes each, as one row per thread."""
        index = _elements(at, width, count)
        if self.defined is not None and checks.uninitialized:
            missing = self.defined.view(unsigned(width))[index] != int.from_bytes(b"\1" * width, "little")
            if missing.any():
                worst = int(np.argmax(missing.any(axis=1)))
                offset = int(at[worst] % self.stride) - self.low + self.first
                message = f"{self.name} is read at offset {offset}, which was never written"
                raise Fault(UninitializedError, message, int(access.lanes[worst]))
        if self.shadow and checks.races:
            self.shadow.note_read(*_per_element(index, width, access))
        self.traffic.bytes_read += index.size * width
        self.traffic.sectors_read += _sectors(at, access.threads)
        result: Array = self.data.view(unsigned(width))[index]
        return result

    def write(self, at: _Ints, values: Array, access: Access, checks: Checks) -> None:
        width, count = values.itemsize, values.shape[1]
        index = _elements(at, width, count)
        data = self.data.view(unsigned(width))
        if self.shadow and checks.races:
            same = None if checks.equal_writes else (data[index] == values).ravel()
            self.shadow.note_write(*_per_element(index, width, access), same)
        data[index] = values
        if self.shadow and checks.races and not checks.equal_writes and (data[index] != values).any():
            worst = int(np.argmax((data[index] != values).any(axis=1)))
            raise Fault(RaceError, f"two threads write different values to {self.name}", int(access.lanes[worst]))
        if self.defined is not None:
            self.defined.view(unsigned(width))[index] = int.from_bytes(b"\1" * width, "little")
        self.traffic.bytes_written += index.size * width
        self.traffic.sectors_written += _sectors(at, access.threads)

    def update(self, at: _Ints, width: int, access: Access, checks: Checks) -> Array:
        """A view of all elements for an atomic operation, and its bookkeeping."""
        index = _elements(at, width, 1)
        if self.shadow and checks.races:
            self.shadow.note_write(*_per_element(index, width, access), None, atomic=True)
        if self.defined is not None and checks.uninitialized and not self.defined[at].all():
            worst = int(np.argmin(self.defined[at]))
            message = f"an atomic operation on {self.name}, which was never written there"
            raise Fault(UninitializedError, message, int(access.lanes[worst]))
        for moved in ("read", "written"):
            setattr(self.traffic, f"bytes_{moved}", getattr(self.traffic, f"bytes_{moved}") + index.size * width)
            sectors = getattr(self.traffic, f"sectors_{moved}") + _sectors(at, access.threads)
            setattr(self.traffic, f"sectors_{moved}", sectors)
        return self.data.view(unsigned(width))

    def begin(self, block: int, checks: Checks) -> None:
        """A launch with `block` threads per block, which knows nothing of the one before."""
        self.traffic = Traffic()
        self.shadow = Shadow(self, block, checks)


def _elements(at: _Ints, width: int, count: int) -> _Ints:
    """Indices of elements of `width` bytes, a row per thread."""
    return (at // width)[:, None] + np.arange(count)


def _per_element(index: _Ints, width: int, access: Access) -> tuple[_Ints, int, _Ints, _Ints, _Ints]:
    count = index.shape[1]
    if count == 1:
        return index[:, 0], width, access.threads, access.times, access.lanes
    repeated = [np.repeat(values, count) for values in (access.threads, access.times, access.lanes)]
    return index.ravel(), width, repeated[0], repeated[1], repeated[2]


def _sectors(at: _Ints, threads: _Ints) -> int:
    """How many sectors the warps touch; aligned accesses of up to 32 bytes lie in one."""
    sector, warp = at // SECTOR, threads // 32
    new_warp = warp[1:] != warp[:-1]
    steps = np.diff(sector)
    if (new_warp | (steps >= 0)).all():  # in order, as they mostly are
        return int(np.count_nonzero(new_warp | (steps != 0))) + 1
    return len(np.unique((warp - warp.min() << 36) + sector))  # a region has fewer than 2^36 sectors


# ---------------------------------------------------------------- races

_ONE, _WARP, _BLOCK, _ANY = range(4)


class Shadow:
    """Who read and wrote each element of a region last, in one launch.

    A time is (barriers passed by the block) * 2^32 + (warp barriers passed by the warp). Two accesses are ordered if
    they are one thread's, if a barrier of their block came between, or a warp barrier of their warp. Of the readers
    one is remembered, with how far apart those since the last order are: one thread, one warp, one block, or any.
    As most buffers are read and never written, reads are only listed until the first write.
    """

    def __init__(self, region: Region, block: int, checks: Checks) -> None:
        self.region = region
        self.block = block
        self.checks = checks
        self.unit = region.unit
        self.pending: list[tuple[_Ints, int, _Ints, _Ints, _Ints]] | None = []
        self.writer = self.written = self.reader = self.seen = np.empty(0, np.int64)
        self.spread: npt.NDArray[np.int8] = np.empty(0, np.int8)
        self.atomic: npt.NDArray[np.bool_] = np.empty(0, bool)

    def note_read(self, index: _Ints, width: int, threads: _Ints, times: _Ints, lanes: _Ints) -> None:
        if self.pending is not None:
            self.pending.append((index, width, threads, times, lanes))
            return
        at, threads, times, lanes = self._units(index, width, threads, times, lanes)
        writer = self.writer[at]
        suspect = (writer >= 0) & (writer != threads)
        if suspect.any():
            self._refuse(suspect & ~self._ordered(writer, self.written[at], threads, times), writer, lanes, "writes")
        last, seen, spread = self.reader[at], self.seen[at], self.spread[at]
        distance = np.where(last < 0, _ONE, self._distance(last, threads))
        by_block = (distance < _ANY) & (seen >> 32 < times >> 32)
        by_warp = (distance < _BLOCK) & (seen < times)
        forgets = (last < 0) | (by_block & (spread < _ANY)) | (by_warp & (spread < _BLOCK))
        self.spread[at] = np.where(forgets, _ONE, np.maximum(spread, distance))
        self.reader[at] = threads
        self.seen[at] = times
        others = self.reader[at]  # of several that read one element now, one was kept
        if (others != threads).any():
            np.maximum.at(self.spread, at, self._distance(others, threads).astype(np.int8))

    def note_write(
        self,
        index: _Ints,
        width: int,
        threads: _Ints,
        times: _Ints,
        lanes: _Ints,
        same: npt.NDArray[np.bool_] | None,
        atomic: bool = False,
    ) -> None:
        """same: where the value is there already, which then is no race with whoever wrote it."""
        if self.pending is not None:
            self._begin()
        per_index = len(index)
        at, threads, times, lanes = self._units(index, width, threads, times, lanes)
        if same is not None:
            same = np.repeat(same, len(at) // per_index)
        writer = self.writer[at]
        suspect = (writer >= 0) & (writer != threads)
        if suspect.any():
            harmless = self._ordered(writer, self.written[at], threads, times)
            if same is not None:
                harmless |= same
            if atomic:
                harmless |= self.atomic[at]
            self._refuse(suspect & ~harmless, writer, lanes, "writes")
        reader = self.reader[at]
        spread = self.spread[at]
        suspect = (reader >= 0) & ((reader != threads) | (spread > _ONE))
        if suspect.any():
            distance = np.maximum(self._distance(reader, threads), spread)
            by_block = (distance < _ANY) & (self.seen[at] >> 32 < times >> 32)
            by_warp = (distance < _BLOCK) & (self.seen[at] < times)
            allowed = by_block | by_warp
            if not self.checks.between_blocks:
                allowed |= distance == _ANY
            if same is not None:
                allowed |= same
            self._refuse(suspect & ~allowed, reader, lanes, "reads")
        self.writer[at] = threads
        self.written[at] = times
        self.atomic[at] = atomic
        if not atomic and same is None:
            others = self.writer[at]
            clash = others != threads
            if clash.any():
                self._refuse(clash & ~self._ordered(others, times, threads, times), others, lanes, "writes")

    def _begin(self) -> None:
        """The first write: now the reads before it matter."""
        listed, self.pending = self.pending or [], None
        units = len(self.region.data) // self.unit
        self.writer, self.written, self.reader, self.seen = (np.full(units, -1, np.int64) for _ in range(4))
        self.spread, self.atomic = np.zeros(units, np.int8), np.zeros(units, bool)
        for read in listed:
            self.note_read(*read)

    def _units(
        self, index: _Ints, width: int, threads: _Ints, times: _Ints, lanes: _Ints
    ) -> tuple[_Ints, _Ints, _Ints, _Ints]:
        """Indices of units, instead of elements of `width` bytes; units become smaller where they have to."""
        if width < self.unit:
            finer = self.unit // width
            for name in ("writer", "written", "reader", "seen", "spread", "atomic"):
                setattr(self, name, np.repeat(getattr(self, name), finer))
            self.unit = width
        many = width // self.unit
        if many == 1:
            return index, threads, times, lanes
        at = (index[:, None] * many + np.arange(many)).ravel()
        return at, np.repeat(threads, many), np.repeat(times, many), np.repeat(lanes, many)

    def _distance(self, one: _Ints, other: _Ints) -> npt.NDArray[Any]:
        distance = np.where(one // 32 == other // 32, _WARP, np.where(self._blocks_equal(one, other), _BLOCK, _ANY))
        return np.where(one == other, _ONE, distance)

    def _blocks_equal(self, one: _Ints, other: _Ints) -> npt.NDArray[np.bool_]:
        equal: npt.NDArray[np.bool_] = one // self.block == other // self.block
        return equal

    def _ordered(self, earlier: _Ints, then: _Ints, later: _Ints, now: _Ints) -> npt.NDArray[np.bool_]:
        block = self._blocks_equal(earlier, later)
        warp = earlier // 32 == later // 32
        by_barrier = block & (then >> 32 < now >> 32)
        ordered: npt.NDArray[np.bool_] = (earlier == later) | by_barrier | (warp & (then < now))
        return ordered if self.checks.between_blocks else ordered | ~block

    def _refuse(self, races: npt.NDArray[np.bool_], others: _Ints, lanes: _Ints, verb: str) -> None:
        if races.any():
            worst = int(np.argmax(races))
            raise RaceFault(self.region.name, verb, int(others[worst]), int(lanes[worst]))


class RaceFault(Fault):
    """A race with thread number `other` of the launch, whose coordinates only the executor knows."""

    def __init__(self, region: str, verb: str, other: int, lane: int) -> None:
        super().__init__(RaceError, f"an element of {region} that {{other}} {verb} without synchronisation", lane)
        self.other = other


# ---------------------------------------------------------------- spaces


class Space:
    """Regions at addresses 2^shift apart."""

    def __init__(self, name: str, shift: int) -> None:
        self.name = name
        self.shift = shift
        self.regions: list[Region] = []

    def next_base(self) -> int:
        return (len(self.regions) + 1) << self.shift

    def parts(
        self, addresses: _Ints, width: int, count: int, access: Access
    ) -> Sequence[tuple[Region, npt.NDArray[Any] | None, _Ints, Access]]:
        """The regions that are accessed: which threads (None for all), where in the region's data, their access."""
        size = width * count
        misaligned = addresses % size != 0
        if misaligned.any():
            worst = int(np.argmax(misaligned))
            message = f"{size} bytes at {self.describe(int(addresses[worst]))}, which is not a multiple of {size}"
            raise Fault(MisalignedError, message, int(access.lanes[worst]))
        number = (addresses + (1 << (self.shift - 1))) >> self.shift
        first = int(number[0])
        if (number == first).all():
            region = self._region(first, addresses, size, access)
            return [(region, None, region.locate(addresses, size, access), access)]
        parts = []
        for one in np.unique(number).tolist():
            at = np.nonzero(number == one)[0]
            part = access.take(at)
            region = self._region(one, addresses[at], size, part)
            parts.append((region, at, region.locate(addresses[at], size, part), part))
        return parts

    def _region(self, number: int, addresses: _Ints, size: int, access: Access) -> Region:
        if 1 <= number <= len(self.regions):
            return self.regions[number - 1]
        address = int(addresses[0])
        what = "the null pointer" if address == 0 else f"address {address:#x}"
        message = f"{size} bytes at {what}, which is no {self.name} memory"
        raise Fault(OutOfBoundsError, message, int(access.lanes[0]))

    def describe(self, address: int) -> str:
        number = (address + (1 << (self.shift - 1))) >> self.shift
        if 1 <= number <= len(self.regions):
            region = self.regions[number - 1]
            return f"address {address:#x}, offset {address - region.base} of {region.name}"
        return f"address {address:#x}"


class Buffer(Region):
    """An array in global memory. `address`: of its first element, which is what a kernel is given."""

    def __init__(
        self, name: str, base: int, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int, values: Array | None
    ) -> None:
        size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
        initial = None if values is None else values.tobytes()
        super().__init__(name, base, size, dtype.itemsize, initial=initial, first=offset * dtype.itemsize)
        self.shape = shape
        self.dtype = dtype

    @property
    def address(self) -> int:
        return self.base

    @property
    def written(self) -> npt.NDArray[np.bool_]:
        """Which elements have a value."""
        if self.defined is None:
            return np.ones(self.shape, bool)
        held = self.defined[self.low : self.high].reshape(*self.shape, self.dtype.itemsize)
        return np.asarray(held.all(axis=-1))

    def array(self) -> Array:
        """A copy of the values; `UninitializedError` if some have none."""
        missing = ~self.written
        if missing.any():
            where = tuple(map(int, np.argwhere(missing)[0]))
            count = np.count_nonzero(missing)
            raise UninitializedError(
                f"{count} of {missing.size} elements of {self.name} were never written, the first at {where}"
            )
        return self.peek()

    def peek(self) -> Array:
        """A copy of the values; what was never written is all bits set, of floats NaN."""
        return self.data[self.low : self.high].copy().view(self.dtype).reshape(self.shape)

    def __repr__(self) -> str:
        return f"Buffer({self.name!r}, {self.shape}, {self.dtype}, address={self.address:#x})"


class Memory:
    """Global memory: buffers by their names."""

    def __init__(self, checks: Checks = Checks()) -> None:
        self.checks = checks
        self.space = Space("global", 40)
        self.buffers: dict[str, Buffer] = {}

    def buffer(self, name: str, values: npt.ArrayLike, *, offset: int = 0, alignment: int = 256) -> Buffer:
        """Global memory with these values.

        offset: elements of a larger array that come before them and have no memory; the address is the array's.
        alignment: of the address, which is no multiple of anything larger.
        """
        array = np.asarray(values)
        return self._buffer(name, array.shape, array.dtype, offset, alignment, array)

    def empty(
        self, name: str, shape: int | tuple[int, ...], dtype: npt.DTypeLike, *, offset: int = 0, alignment: int = 256
    ) -> Buffer:
        """Global memory that was never written."""
        extents = (shape,) if isinstance(shape, int) else shape
        return self._buffer(name, extents, np.dtype(dtype), offset, alignment, None)

    def _buffer(
        self, name: str, shape: tuple[int, ...], dtype: np.dtype[Any], offset: int, alignment: int, values: Array | None
    ) -> Buffer:
        if name in self.buffers:
            raise LaunchError(f"there is a buffer {name} already")
        made = Buffer(name, place(self.space, alignment), shape, dtype, offset, values)
        self.space.regions.append(made)
        self.buffers[name] = made
        return made

    def variable(self, variable: Variable) -> Buffer:
        """The memory of a variable of the module, made when it is first needed."""
        if variable.name not in self.buffers:
            # what has no initial value is 0
            initial = np.frombuffer(variable.initial or bytes(variable.size), np.uint8)
            self._buffer(variable.name, initial.shape, initial.dtype, 0, max(variable.align, 16), initial)
        return self.buffers[variable.name]


def place(space: Space, alignment: int) -> int:
    """An address for the next region that is a multiple of `alignment` and of nothing larger."""
    if alignment < 1 or alignment & (alignment - 1):
        raise LaunchError(f"the alignment {alignment} is not a power of 2")
    return space.next_base() + alignment
