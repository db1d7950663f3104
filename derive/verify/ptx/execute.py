"""Runs kernels: who executes which instruction when.

Threads that are at the same place go on together, as one NumPy operation over all of them; of several places the
first in the text goes on, so threads that parted at a branch meet again where their ways join. Threads that have to
meet wait: for the members of a shuffle's mask at that shuffle, for the block at a barrier. When nobody can go on,
barriers that all threads of a block have reached open, and anybody else who waits is an error.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .errors import DivergenceError, EndlessError, ExecutionError, Fault, LaunchError, UnsupportedError
from .frame import WARP, Dim, Frame, Group, Shape, packed
from .memory import Buffer, Memory, RaceFault, Traffic
from .parse import Instruction, Variable
from .program import Code, Program
from .types import Array

LANES = 1 << 15
"""Threads that are executed together: blocks are taken until there are so many."""
LOCAL_BYTES = 1 << 26
"""Local memory of the threads that are executed together."""
STEPS = 10_000_000
"""Instructions that may be issued for the blocks that are executed together, before a kernel counts as endless."""

Argument = Buffer | int | float | np.generic | np.ndarray | bytes | None
_Lanes = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Launch:
    """What one launch did.

    instructions: executed by threads, those included that a predicate then turned off. warp_instructions: the same,
    counted once per warp. opcodes: instructions by their full name. traffic: by the name of the buffer.
    """

    kernel: str
    instructions: int
    warp_instructions: int
    opcodes: Mapping[str, int] = field(repr=False)
    traffic: Mapping[str, Traffic] = field(repr=False)


class Device(Memory):
    """Simulated global memory, and the launches on it.

    Buffers come from `buffer`, with values, and `empty`, never written; the package's docstring has an example.
    """

    def launch(
        self,
        kernel: Program,
        grid: int | tuple[int, ...],
        block: int | tuple[int, ...],
        arguments: Sequence[Argument],
        *,
        shared_bytes: int = 0,
        blocks: Iterable[int] | None = None,
        steps: int = STEPS,
    ) -> Launch:
        """Execute a kernel.

        arguments: buffers, addresses, numbers; a structure is given as its bytes, or as an array or NumPy scalar.
        shared_bytes: of dynamic shared memory. blocks: the only blocks of the grid to execute, all if None.
        Raises `ExecutionError` for what the kernel does wrong, `UnsupportedError` for what is not supported,
        `LaunchError` for arguments that do not fit.
        """
        shape = Shape(_dim(grid), _dim(block), shared_bytes)
        if shape.threads > 1024:
            raise LaunchError(f"{shape.threads} threads per block, of which there may be 1024")
        parameters = _pack(kernel, arguments)
        chosen = (
            np.arange(int(np.prod(shape.grid, dtype=np.int64))) if blocks is None else np.array([*blocks], np.int64)
        )
        for region in self.space.regions:
            region.begin(shape.padded, self.checks)
        run = _Run(kernel, self, shape, steps)
        local = sum(variable.size for variable in kernel.kernel.variables if variable.space == "local")
        together = max(1, min(LANES, LOCAL_BYTES // max(1, local)) // shape.padded)
        with np.errstate(all="ignore"):
            for start in range(0, len(chosen), together):
                chunk = chosen[start : start + together]
                run.execute(Frame(kernel.kernel.variables, kernel.offsets, self, shape, chunk, parameters))
        return run.result()


def _dim(extents: int | tuple[int, ...]) -> Dim:
    given = (extents,) if isinstance(extents, int) else tuple(extents)
    x, y, z = (*given, 1, 1, 1)[:3]
    if len(given) > 3 or min(x, y, z) < 1:
        raise LaunchError(f"{extents} is no size of a grid or a block")
    return x, y, z


def _pack(kernel: Program, arguments: Sequence[Argument]) -> bytes:
    parameters = kernel.kernel.parameters
    if len(arguments) != len(parameters):
        raise LaunchError(f"{kernel.name} takes {len(parameters)} arguments, not {len(arguments)}")
    packed = bytearray(kernel.parameter_bytes)
    for number, (parameter, argument) in enumerate(zip(parameters, arguments, strict=True)):
        start = kernel.offsets[parameter.name]
        raw = _argument_bytes(parameter, argument)
        if raw is None or len(raw) != parameter.size:
            wanted = f"{parameter.size} bytes, {parameter.type.name}"
            raise LaunchError(f"argument {number} of {kernel.name} is {argument!r}; it takes {wanted}")
        packed[start : start + parameter.size] = raw
    return bytes(packed)


def _argument_bytes(parameter: Variable, argument: Argument) -> bytes | None:
    """The bytes of an argument, None where it does not fit."""
    type_ = parameter.type
    if argument is None:
        argument = 0
    if isinstance(argument, Buffer):
        argument = argument.address
    if isinstance(argument, bytes):
        return argument
    if isinstance(argument, np.generic | np.ndarray):
        raw: bytes = argument.tobytes()
        return raw
    if parameter.size != type_.size or type_.count != 1 or type_.kind == "bf":
        return None
    if type_.kind == "f" and isinstance(argument, int | float):
        return np.array(argument, type_.dtype).tobytes()
    bits = 8 * parameter.size
    if not isinstance(argument, int) or not -(1 << (bits - 1)) <= argument < 1 << bits:
        return None
    return (argument & ((1 << bits) - 1)).to_bytes(parameter.size, "little")


class _Run:
    """One launch: executes frames, and counts."""

    def __init__(self, program: Program, device: Device, shape: Shape, steps: int) -> None:
        self.program = program
        self.device = device
        self.shape = shape
        self.allowed = steps
        self.threads = [0] * len(program)
        self.warps = [0] * len(program)

    def result(self) -> Launch:
        opcodes: Counter[str] = Counter()
        for instruction, count in zip(self.program.kernel.instructions, self.threads, strict=True):
            if count:
                opcodes[".".join((instruction.opcode, *instruction.modifiers))] += count
        traffic = {name: buffer.traffic for name, buffer in self.device.buffers.items()}
        return Launch(self.program.name, sum(self.threads), sum(self.warps), dict(opcodes), traffic)

    def execute(self, frame: Frame) -> None:
        self.steps = self.allowed
        pending = {0: np.nonzero(frame.exists)[0]}
        parked: dict[int, _Lanes] = {}
        while pending or parked:
            if pending:
                at = min(pending)
                self.advance(frame, at, pending.pop(at), pending, parked)
            elif not self.release(frame, pending, parked):
                self.open_barriers(frame, pending, parked)

    def advance(
        self, frame: Frame, at: int, lanes: _Lanes, pending: dict[int, _Lanes], parked: dict[int, _Lanes]
    ) -> None:
        """Execute for these lanes, from `at` on, until they part, wait, end, or meet others."""
        code_at, threads, warps = self.program.code, self.threads, self.warps
        group, end = Group(frame, lanes), len(self.program)
        meeting = min(pending, default=end)
        while True:
            if at >= end:
                frame.alive[group.lanes] = False
                return
            if at == meeting:
                _join(pending, at, group.lanes)
                return
            code = code_at(at)
            threads[at] += group.count
            warps[at] += group.warps
            self.steps -= 1
            try:
                if self.steps < 0:
                    raise Fault(EndlessError, f"still running after {self.allowed} steps", int(group.lanes[0]))
                if code.kind == "lane":
                    active = group if code.guard is None else group.where(code.guard(frame, group))
                    if active.count and code.run:
                        code.run(frame, active)
                    at += 1
                    continue
                part, rest = (group, None) if code.guard is None else group.split(code.guard(frame, group))
                if part.count and code.kind == "warp":
                    # those that have waited here for others to come belong to it
                    arrived = Group(frame, _both(parked.pop(at), part.lanes)) if at in parked else part
                    ready, waiting = self.complete(frame, code, arrived)
                    if len(waiting):
                        parked[at] = waiting
                    if ready.count and code.run:
                        code.run(frame, ready)
                    group = ready if rest is None else Group(frame, _both(ready.lanes, rest.lanes))
                    if not group.count:
                        return
                    at += 1
                    continue
            except (Fault, UnsupportedError) as error:
                raise self.located(frame, code.instruction, error) from None
            if part.count:
                if code.kind == "branch":
                    if rest is None and code.target > at:
                        at = code.target
                        if at > meeting:
                            _join(pending, at, group.lanes)
                            return
                        continue
                    _join(pending, code.target, part.lanes)
                elif code.kind == "barrier":
                    _join(parked, at, part.lanes)
                else:
                    frame.alive[part.lanes] = False
            if rest is not None and rest.count:
                _join(pending, at + 1, rest.lanes)
            return

    def complete(self, frame: Frame, code: Code, group: Group) -> tuple[Group, _Lanes]:
        """The lanes whose mask's members are all here, and those that have to wait for others."""
        assert code.members is not None
        given = code.members(frame, group).view(np.uint32)
        if given.shape == (1,) and given[0] == 0xFFFFFFFF:
            absent = packed(frame.alive) & ~group.bits
            if not absent[group.bits != 0].any():
                return group, group.lanes[:0]
        masks = np.broadcast_to(given, group.count)
        warp, lane = group.lanes // WARP, group.lane.astype(np.uint32)
        left_out = (masks >> lane & np.uint32(1)) == 0
        if left_out.any():
            worst = int(np.argmax(left_out))
            message = f"the member mask {int(masks[worst]):#010x} leaves out lane {int(lane[worst])}, which executes it"
            raise Fault(DivergenceError, message, int(group.lanes[worst]))
        missing = masks & packed(frame.alive)[warp] & ~group.bits[warp]
        waits = missing != 0
        ready = group
        if waits.any():
            ready = Group(frame, group.lanes[~waits])
        if (masks != masks[0]).any():
            self.agree(frame, ready.lanes, masks[~waits])
        return ready, group.lanes[waits]

    def release(self, frame: Frame, pending: dict[int, _Lanes], parked: dict[int, _Lanes]) -> bool:
        """Let those go on who have waited at a shuffle for lanes that have ended since; whether there are any."""
        for at in [at for at in parked if self.program.code(at).kind == "warp"]:
            ready, waiting = self.complete(frame, self.program.code(at), Group(frame, parked.pop(at)))
            if len(waiting):
                parked[at] = waiting
            if ready.count:
                pending[at] = ready.lanes
        return bool(pending)

    def agree(self, frame: Frame, lanes: _Lanes, masks: Array) -> None:
        """All members of a mask name the same one."""
        of_lane = np.zeros(frame.lanes, np.uint32)
        of_lane[lanes] = masks
        here = np.zeros(frame.lanes, bool)
        here[lanes] = True
        start = lanes - lanes % WARP
        for member in range(WARP):
            named = (masks >> np.uint32(member) & np.uint32(1) != 0) & here[start + member]
            differs = named & (of_lane[start + member] != masks)
            if differs.any():
                worst = int(np.argmax(differs))
                other = int(of_lane[start[worst] + member])
                message = f"the member mask is {int(masks[worst]):#010x}, but {other:#010x} in lane {member}"
                raise Fault(DivergenceError, message, int(lanes[worst]))

    def open_barriers(self, frame: Frame, pending: dict[int, _Lanes], parked: dict[int, _Lanes]) -> None:
        """Nobody can go on: let the blocks go on that are complete at one barrier; anybody else waits forever."""
        code_at = self.program.code
        where = np.full(frame.lanes, -1, np.int64)
        for at, lanes in parked.items():
            where[lanes] = at
        first = where.reshape(-1, frame.block)[:, :1]
        # threads that do not exist are where the first of their block is
        same = (where.reshape(-1, frame.block) == first) | ~frame.exists.reshape(-1, frame.block)
        waiting = (where.reshape(-1, frame.block) >= 0).any(axis=1)
        barriers = np.isin(first[:, 0], [at for at in parked if code_at(at).kind == "barrier"])
        stuck = waiting & ~(same.all(axis=1) & barriers)
        if stuck.any():
            self.explain(frame, where, int(np.argmax(stuck)))
        for at, lanes in parked.items():
            group = Group(frame, lanes)
            run = code_at(at).run
            assert run is not None
            try:
                run(frame, group)
            except (Fault, UnsupportedError) as error:
                raise self.located(frame, code_at(at).instruction, error) from None
            frame.times[lanes] = (frame.times[lanes] >> 32) + 1 << 32
            _join(pending, at + 1, lanes)
        parked.clear()

    def explain(self, frame: Frame, where: _Lanes, block: int) -> None:
        """Raise the error of a block whose threads wait for each other forever."""
        code_at = self.program.code
        lanes = np.arange(block * frame.block, (block + 1) * frame.block)[: self.shape.threads]
        places = where[lanes]
        in_warp = [at for at in np.unique(places[places >= 0]).tolist() if code_at(at).kind == "warp"]
        at = in_warp[0] if in_warp else int(places[places >= 0][0])
        code, lane = code_at(at), int(lanes[places == at][0])
        absent = lanes[places != at]
        if code.members is not None:
            mask = int(code.members(frame, Group(frame, np.array([lane])))[0]) & 0xFFFFFFFF
            inside = absent // WARP == lane // WARP
            absent = absent[inside & (mask >> absent % WARP & 1 != 0) & frame.alive[absent]]
            what = f"lanes of the member mask {mask:#010x} do not take part"
        else:
            what = "the barrier is not reached by all threads of the block"
        other = int(absent[0])
        elsewhere = code_at(int(where[other])).instruction if where[other] >= 0 else None
        has = f"waits at line {elsewhere.line}, {elsewhere.text}" if elsewhere else "has ended"
        fault = Fault(DivergenceError, f"{what}: {_name(frame.thread(other))} {has}", lane)
        raise self.located(frame, code.instruction, fault)

    def located(self, frame: Frame, instruction: Instruction, error: Fault | UnsupportedError) -> Exception:
        """The error, with the place where it happened."""
        source = f" ({instruction.source})" if instruction.source else ""
        place = f"{self.program.name}, line {instruction.line}{source}: {instruction.text}"
        if isinstance(error, UnsupportedError):
            return UnsupportedError(f"{place}: not supported: {error}")
        message = str(error)
        if isinstance(error, RaceFault):
            message = message.format(other=_name(self.shape.thread(error.other)))
        thread = None if error.lane is None else frame.thread(error.lane)
        who = f"{_name(thread)}: " if thread else ""
        made: ExecutionError = error.kind(f"{place}: {who}{message}")
        made.kernel, made.thread = self.program.name, thread
        made.line, made.source = instruction.line, instruction.source
        return made


def _name(thread: tuple[Dim, Dim]) -> str:
    """block 3, thread 17; with all coordinates where they are more than one"""
    block, within = (str(one[0]) if one[1:] == (0, 0) else str(one) for one in thread)
    return f"block {block}, thread {within}"


def _join(places: dict[int, _Lanes], at: int, lanes: _Lanes) -> None:
    """Put lanes where others may be."""
    places[at] = _both(places[at], lanes) if at in places else lanes


def _both(lanes: _Lanes, others: _Lanes) -> _Lanes:
    """Lanes of two groups, in order; none is in both."""
    return np.sort(np.concatenate([lanes, others]), kind="stable")


__all__ = ["Code", "Device", "Frame", "Group", "Launch", "Program"]
